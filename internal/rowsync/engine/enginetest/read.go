package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checkSchema copies every kind of object by its definition into an empty target.
func checkSchema(ctx context.Context, f Factory) error {
	if len(f.Dialect.Objects) == 0 {
		return unsupported("the factory names no objects")
	}
	return f.with(ctx, nil, func(e *env) error {
		if err := e.at(ctx, f.Dialect.Objects...); err != nil {
			return err
		}
		want, err := e.src.Schema(ctx)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		for _, late := range []bool{false, true} {
			if err := makeObjects(ctx, e.dst, want, late); err != nil {
				return err
			}
		}
		got, err := e.dst.Schema(ctx)
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		return sameObjects(want, got)
	})
}

type objectKey struct {
	kind        string
	name, table engine.Name
}

func objects(s *engine.Schema) map[objectKey]string {
	m := map[objectKey]string{}
	for _, o := range s.Objects {
		m[objectKey{o.Kind, o.Name, o.Table}] = o.Definition
	}
	return m
}

func makeObjects(ctx context.Context, dst engine.Target, want *engine.Schema, late bool) error {
	have, err := dst.Schema(ctx)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	there := objects(have)
	for _, o := range want.Objects {
		if _, ok := there[objectKey{o.Kind, o.Name, o.Table}]; ok || o.Late != late {
			continue
		}
		if err := dst.Execute(ctx, o.Definition); err != nil {
			return fmt.Errorf("make %s %s: %s: %w", o.Kind, o.Name, o.Definition, err)
		}
	}
	return nil
}

func sameObjects(want, got *engine.Schema) error {
	a, b := objects(want), objects(got)
	var errs []error
	for k, d := range a {
		if other, ok := b[k]; !ok {
			errs = append(errs, fmt.Errorf("%s %s is missing at the target", k.kind, k.name))
		} else if other != d {
			errs = append(errs, fmt.Errorf("%s %s is\n%s\nat the source and\n%s\nat the target", k.kind, k.name, d, other))
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			errs = append(errs, fmt.Errorf("%s %s is at the target only", k.kind, k.name))
		}
	}
	return errors.Join(errs...)
}

const createPairs = "CREATE TABLE pairs (id INT NOT NULL PRIMARY KEY, a VARCHAR(40), b VARCHAR(40))"

// checkDigests holds that no two different rows look alike.
func checkDigests(ctx context.Context, f Factory) error {
	cases := []struct{ what, src, dst string }{
		{"equal rows", "'x', 'y'", "'x', 'y'"},
		{"NULL and empty", "NULL, 'x'", "'', 'x'"},
		{"NULL before and after", "NULL, 'x'", "'x', NULL"},
		{"empty before and after", "'', 'x'", "'x', ''"},
		{"a cut moved", "'ab', 'c'", "'a', 'bc'"},
		{"columns swapped", "'x', 'y'", "'y', 'x'"},
		{"case", "'x', 'Y'", "'x', 'y'"},
		{"trailing blank", "'x', 'y '", "'x', 'y'"},
		{"both NULL and both empty", "NULL, NULL", "'', ''"},
		{"NULL and its name", "NULL, 'x'", "'NULL', 'x'"},
		{"accent", "'e', 'x'", "'f', 'x'"},
	}
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		for i, c := range cases {
			if err := e.at(ctx, fmt.Sprintf("INSERT INTO pairs VALUES (%d, %s)", i, c.src)); err != nil {
				return err
			}
			if err := execAll(ctx, e.witness, fmt.Sprintf("INSERT INTO pairs VALUES (%d, %s)", i, c.dst)); err != nil {
				return err
			}
		}
		src, dst, err := e.table(ctx, "pairs")
		if err != nil {
			return err
		}
		a, err := keyHashes(ctx, e.src, src, engine.Range{})
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		b, err := keyHashes(ctx, e.dst, dst, engine.Range{})
		if err != nil {
			return fmt.Errorf("target: %w", err)
		}
		for i, c := range cases {
			id := text(f.Dialect.row(i))
			if len(a[id]) != 1 || len(b[id]) != 1 {
				return fmt.Errorf("key %d is listed %d and %d times: %v", i, len(a[id]), len(b[id]), a)
			}
			if (a[id][0] == b[id][0]) != (i == 0) {
				return fmt.Errorf("%s: the hashes are %s and %s", c.what, a[id][0], b[id][0])
			}
		}
		return checkSwappedRows(ctx, e)
	})
}

// checkSwappedRows is the case that the usual exclusive or of CRC-32 is blind to.
func checkSwappedRows(ctx context.Context, e *env) error {
	if err := e.both(ctx, "DELETE FROM pairs"); err != nil {
		return err
	}
	if err := e.at(ctx, "INSERT INTO pairs VALUES (1, '100', 'x'), (2, '200', 'x')"); err != nil {
		return err
	}
	if err := execAll(ctx, e.witness, "INSERT INTO pairs VALUES (1, '200', 'x'), (2, '100', 'x')"); err != nil {
		return err
	}
	src, dst, err := e.table(ctx, "pairs")
	if err != nil {
		return err
	}
	a, err := whole(ctx, e.src, src)
	if err != nil {
		return err
	}
	b, err := whole(ctx, e.dst, dst)
	if err != nil {
		return err
	}
	if a.Rows != 2 || b.Rows != 2 || a.Hash == b.Hash {
		return fmt.Errorf("rows with swapped values have the digests %v and %v", a, b)
	}
	return nil
}

// keyHashes lists the hashes of a range by the text of the key.
func keyHashes(ctx context.Context, r engine.Reader, t *engine.Table, ranges ...engine.Range) (map[string][]string, error) {
	m := map[string][]string{}
	for k, err := range r.Keys(ctx, t, ranges) {
		if err != nil {
			return nil, fmt.Errorf("list keys: %w", err)
		}
		id := text(k.Key)
		m[id] = append(m[id], k.Hash)
	}
	return m, nil
}

const createCompound = "CREATE TABLE compound (a VARCHAR(20) NOT NULL, b INT NOT NULL, v VARCHAR(20), PRIMARY KEY (a, b))"

// fillCompound inserts n rows whose keys are out of order, of every length.
func fillCompound(ctx context.Context, s Session, from, to int) error {
	var vs []string
	for i := from; i < to; i++ {
		vs = append(vs, fmt.Sprintf("('%s', %d, 'v%d')", strings.Repeat(string(rune('a'+i*7%23)), 1+i%5), (i*37)%1009-500, i))
		if len(vs) == 200 || i == to-1 {
			if err := execAll(ctx, s, "INSERT INTO compound VALUES "+strings.Join(vs, ", ")); err != nil {
				return err
			}
			vs = nil
		}
	}
	return nil
}

// buckets walks a table's bounds.
func buckets(ctx context.Context, r engine.Reader, t *engine.Table, rows, limit int) ([]engine.Range, error) {
	var out []engine.Range
	var from engine.Row
	for range 10000 {
		bounds, end, err := r.Bounds(ctx, t, from, rows, limit)
		if err != nil {
			return nil, fmt.Errorf("find bounds: %w", err)
		}
		for _, b := range bounds {
			out = append(out, engine.Range{From: from, To: b})
			from = b
		}
		if end {
			return append(out, engine.Range{From: from}), nil
		}
		if len(bounds) == 0 {
			return nil, errors.New("neither a bound nor the end came back")
		}
	}
	return nil, errors.New("the bounds have no end")
}

// checkBuckets holds that buckets cover the key space once, in three ways of asking.
func checkBuckets(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createCompound}, func(e *env) error {
		src, _, err := e.table(ctx, "compound")
		if err != nil {
			return err
		}
		for _, total := range []int{0, 1, 64, 1000} {
			if err := e.at(ctx, "DELETE FROM compound"); err != nil {
				return err
			}
			if err := fillCompound(ctx, e.app, 0, total); err != nil {
				return err
			}
			ranges, err := buckets(ctx, e.src, src, 64, 5)
			if err != nil {
				return fmt.Errorf("%d rows: %w", total, err)
			}
			if n := len(ranges); n < total/128+1 || n > total/32+2 {
				return fmt.Errorf("%d rows came in %d buckets of 64", total, n)
			}
			if err := coverOnce(ctx, e.src, src, ranges, total); err != nil {
				return fmt.Errorf("%d rows: %w", total, err)
			}
		}
		return nil
	})
}

// coverOnce compares what digests count with what keys list.
func coverOnce(ctx context.Context, r engine.Reader, t *engine.Table, ranges []engine.Range, total int) error {
	var bounds []engine.Row
	for _, x := range ranges[:len(ranges)-1] {
		bounds = append(bounds, x.To)
	}
	ds, err := r.Digests(ctx, t, nil, bounds, true)
	if err != nil {
		return fmt.Errorf("digest: %w", err)
	}
	if len(ds) != len(ranges) {
		return fmt.Errorf("got %d digests of %d buckets", len(ds), len(ranges))
	}
	all := map[string]bool{}
	for i, x := range ranges {
		ks, err := keyHashes(ctx, r, t, x)
		if err != nil {
			return err
		}
		if int64(len(ks)) != ds[i].Rows {
			return fmt.Errorf("bucket %d of %d counts %d rows and lists %d keys", i, len(ranges), ds[i].Rows, len(ks))
		}
		for k := range ks {
			all[k] = true
		}
	}
	together, err := keyHashes(ctx, r, t, ranges...)
	if err != nil {
		return err
	}
	if len(all) != total || len(together) != total {
		return fmt.Errorf("of %d keys, %d are in the buckets one by one and %d in all at once", total, len(all), len(together))
	}
	return nil
}

// checkForeignBounds cuts one end by the bounds of the other: rows before, between
// and behind them must each be in one bucket.
func checkForeignBounds(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createCompound}, func(e *env) error {
		if err := fillCompound(ctx, e.app, 0, 900); err != nil {
			return err
		}
		if err := fillCompound(ctx, e.witness, 300, 600); err != nil {
			return err
		}
		src, dst, err := e.table(ctx, "compound")
		if err != nil {
			return err
		}
		ranges, err := buckets(ctx, e.dst, dst, 50, 100)
		if err != nil {
			return err
		}
		if err := coverOnce(ctx, e.src, src, ranges, 900); err != nil {
			return fmt.Errorf("the source by the target's bounds: %w", err)
		}
		if err := coverOnce(ctx, e.dst, dst, ranges, 300); err != nil {
			return fmt.Errorf("the target by its own: %w", err)
		}
		return sameDigestsOfCommon(ctx, e, src, dst, ranges)
	})
}

// sameDigestsOfCommon makes both ends equal by hand and compares bucket by bucket.
func sameDigestsOfCommon(ctx context.Context, e *env, src, dst *engine.Table, ranges []engine.Range) error {
	if err := execAll(ctx, e.witness, "DELETE FROM compound"); err != nil {
		return err
	}
	if err := fillCompound(ctx, e.witness, 0, 900); err != nil {
		return err
	}
	var bounds []engine.Row
	for _, x := range ranges[:len(ranges)-1] {
		bounds = append(bounds, x.To)
	}
	a, err := e.src.Digests(ctx, src, nil, bounds, true)
	if err != nil {
		return err
	}
	b, err := e.dst.Digests(ctx, dst, nil, bounds, true)
	if err != nil {
		return err
	}
	for i := range a {
		if a[i] != b[i] {
			return fmt.Errorf("equal rows of bucket %d have the digests %v and %v", i, a[i], b[i])
		}
	}
	// Without the open end, the last bucket is left out.
	part, err := e.src.Digests(ctx, src, bounds[0], bounds[1:], false)
	if err != nil {
		return err
	}
	if len(part) != len(bounds)-1 || part[0] != a[1] {
		return fmt.Errorf("a middle run of %d buckets has %d digests; the first is %v, not %v", len(bounds)-1, len(part), part[0], a[1])
	}
	return nil
}
