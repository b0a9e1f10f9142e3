package mssql

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// reader reads committed data, each call in a connection of its own; or, where use is
// set, all calls one after the other in the connection that use lends.
type reader struct {
	d   *database
	use func(ctx context.Context) (*session, func(), error)
	// source: each call reads one state of its own, where the database has snapshot
	// isolation, so that it neither waits for writers nor makes them wait.
	source bool
}

// with runs f in a session.
func (r *reader) with(ctx context.Context, f func(*session) error) (err error) {
	if r.use != nil {
		s, done, err := r.use(ctx)
		if err != nil {
			return err
		}
		defer done()
		return f(s)
	}
	s, err := r.d.session(ctx)
	if err != nil {
		return err
	}
	if r.source && r.d.snapshotOn.Load() {
		err = s.begin(ctx, snapshotLevel)
	}
	if err == nil {
		err = f(s)
	}
	if e := s.end(); err == nil {
		err = e
	}
	return err
}

// stage makes a staging table, fills it and returns what drops it again.
func (s *session) stage(ctx context.Context, table, create string, columns []string, rows func(add func(...any) error) error) error {
	if _, err := s.exec(ctx, sqlDropStage(table)); err != nil {
		return err
	}
	if _, err := s.exec(ctx, create); err != nil {
		return err
	}
	return s.load(ctx, table, columns, rows)
}

// sides says which bounds a range has.
func sides(r engine.Range) int {
	n := 0
	if r.From != nil {
		n |= lowerBound
	}
	if r.To != nil {
		n |= upperBound
	}
	return n
}

// stageRanges takes ranges to the server, numbered from 0.
func (s *session) stageRanges(ctx context.Context, key []col, ranges []engine.Range) error {
	columns := []string{"n", "sides"}
	for _, p := range []string{"l", "h"} {
		for _, c := range key {
			columns = append(columns, p+c.staged())
		}
	}
	return s.stage(ctx, rangeTable, sqlStageRanges(key, s.d.dialect), columns, func(add func(...any) error) error {
		for i, r := range ranges {
			values := []any{int64(i), int64(sides(r))}
			for _, k := range []engine.Row{r.From, r.To} {
				v, err := natives(key, k)
				if err != nil {
					return err
				}
				values = append(values, v...)
			}
			if err := add(values...); err != nil {
				return err
			}
		}
		return nil
	})
}

// natives turns a key or a row into what bulk copy takes; a nil row into NULLs.
func natives(cols []col, r engine.Row) ([]any, error) {
	out := make([]any, len(cols))
	if r == nil {
		return out, nil
	}
	if len(r) != len(cols) {
		return nil, fmt.Errorf("%d values for %d columns", len(r), len(cols))
	}
	for i, c := range cols {
		v, err := c.native(r[i])
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		out[i] = v
	}
	return out, nil
}

// stageRows takes keys or rows to the server, numbered from 0.
func (s *session) stageRows(ctx context.Context, table string, cols []col, rows []engine.Row) error {
	return s.stage(ctx, table, sqlStageRows(table, cols, s.d.dialect), stagedNames(cols), func(add func(...any) error) error {
		for i, r := range rows {
			v, err := natives(cols, r)
			if err != nil {
				return err
			}
			if err := add(append([]any{int64(i)}, v...)...); err != nil {
				return err
			}
		}
		return nil
	})
}

func stagedNames(cols []col) []string {
	names := []string{"n"}
	for _, c := range cols {
		names = append(names, c.staged())
	}
	return names
}

// Bounds implements engine.Reader.
func (r *reader) Bounds(ctx context.Context, t *engine.Table, from engine.Row, rows, limit int) (bounds []engine.Row, end bool, err error) {
	key, err := keyOf(t)
	if err != nil {
		return nil, false, err
	}
	err = r.with(ctx, func(s *session) error {
		if from != nil {
			if err := s.stageRanges(ctx, key, []engine.Range{{From: from}}); err != nil {
				return err
			}
		}
		return s.each(ctx, sqlBounds(t, key, from != nil, s.d.dialect), func(scan func(...any) error) error {
			k, err := scanRow(scan, key, nil)
			bounds = append(bounds, k)
			return err
		}, int64(rows)*int64(limit), int64(rows))
	})
	return bounds, len(bounds) < limit, wrap(err, "find bounds in %s", t.Name)
}

// scanRow reads the values of columns, and behind them what extra points to.
func scanRow(scan func(...any) error, cols []col, extra []any) (engine.Row, error) {
	values := make([]any, len(cols))
	into := make([]any, 0, len(cols)+len(extra))
	for i := range values {
		into = append(into, &values[i])
	}
	if err := scan(append(into, extra...)...); err != nil {
		return nil, err
	}
	row := make(engine.Row, len(cols))
	for i, c := range cols {
		b, err := c.encode(values[i])
		if err != nil {
			return nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		row[i] = b
	}
	return row, nil
}

// Digests implements engine.Reader. Each bucket is a range of the key's index, so the
// rows are passed over once.
func (r *reader) Digests(ctx context.Context, t *engine.Table, from engine.Row, bounds []engine.Row, end bool) ([]engine.Digest, error) {
	key, cols, err := columnsOf(t)
	if err != nil {
		return nil, err
	}
	ranges := between(from, bounds, end)
	out := make([]engine.Digest, len(ranges))
	err = r.with(ctx, func(s *session) error {
		if err := s.stageRanges(ctx, key, ranges); err != nil {
			return err
		}
		for _, side := range distinctSides(ranges) {
			err := s.each(ctx, sqlDigests(t, key, cols, side, s.d.dialect), func(scan func(...any) error) error {
				var n, rows int64
				var sum text
				if err := scan(&n, &rows, &sum); err != nil {
					return err
				}
				if n < 0 || n >= int64(len(out)) {
					return fmt.Errorf("the server numbered a bucket %d of %d", n, len(out))
				}
				out[n] = engine.Digest{Rows: rows, Hash: s.d.digestName() + ":" + plain(string(sum))}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return out, wrap(err, "digest %s", t.Name)
}

// digestName tells digests of different forms apart, which must never look equal.
func (d *database) digestName() string {
	if d.hashesUTF16 && !d.UTF8 {
		return "utf16" + d.floatForm()
	}
	return "utf8" + d.floatForm()
}

// plain drops the point and zeros that some servers put behind a whole number.
func plain(s string) string {
	if whole, _, ok := strings.Cut(s, "."); ok {
		return whole
	}
	if s == "" {
		return "0"
	}
	return s
}

func columnsOf(t *engine.Table) (key, cols []col, err error) {
	if key, err = keyOf(t); err != nil {
		return nil, nil, err
	}
	cols, err = carried(t)
	return key, cols, err
}

// between makes ranges of bounds.
func between(from engine.Row, bounds []engine.Row, end bool) []engine.Range {
	var out []engine.Range
	for _, b := range bounds {
		out = append(out, engine.Range{From: from, To: b})
		from = b
	}
	if end {
		out = append(out, engine.Range{From: from})
	}
	return out
}

func distinctSides(ranges []engine.Range) []int {
	var seen [4]bool
	for _, r := range ranges {
		seen[sides(r)] = true
	}
	var out []int
	for i, s := range seen {
		if s {
			out = append(out, i)
		}
	}
	return out
}

// Keys implements engine.Reader.
func (r *reader) Keys(ctx context.Context, t *engine.Table, ranges []engine.Range) iter.Seq2[engine.KeyHash, error] {
	return func(yield func(engine.KeyHash, error) bool) {
		key, cols, err := columnsOf(t)
		if err == nil {
			err = r.with(ctx, func(s *session) error { return s.keys(ctx, t, key, cols, ranges, yield) })
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(engine.KeyHash{}, wrap(err, "list keys of %s", t.Name))
		}
	}
}

func (s *session) keys(ctx context.Context, t *engine.Table, key, cols []col, ranges []engine.Range, yield func(engine.KeyHash, error) bool) error {
	if err := s.stageRanges(ctx, key, ranges); err != nil {
		return err
	}
	name := s.d.digestName()
	for _, side := range distinctSides(ranges) {
		err := s.each(ctx, sqlKeys(t, key, cols, side, s.d.dialect), func(scan func(...any) error) error {
			var h []byte
			k, err := scanRow(scan, key, []any{&h})
			if err != nil {
				return err
			}
			if !yield(engine.KeyHash{Key: k, Hash: name + ":" + hex.EncodeToString(h)}, nil) {
				return errStop
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Rows implements engine.Reader.
func (r *reader) Rows(ctx context.Context, t *engine.Table, keys []engine.Row) iter.Seq2[engine.Row, error] {
	return func(yield func(engine.Row, error) bool) {
		key, cols, err := columnsOf(t)
		if err == nil {
			err = r.with(ctx, func(s *session) error {
				if err := s.stageRows(ctx, keyTable, key, keys); err != nil {
					return err
				}
				return s.each(ctx, sqlRows(t, key, cols, s.d.dialect), func(scan func(...any) error) error {
					row, err := scanRow(scan, cols, nil)
					if err == nil && !yield(row, nil) {
						err = errStop
					}
					return err
				})
			})
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(nil, wrap(err, "read rows of %s", t.Name))
		}
	}
}
