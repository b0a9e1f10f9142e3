package rowsync

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Aside is what of one table was kept before it is overwritten.
type Aside struct {
	Table   engine.Name
	File    string // absent where there is nothing to keep
	Only    int64  // rows that the target alone has
	Differs int64  // rows that the source has otherwise
}

// KeptRow is one line of a file of SetAside, as JSON. Values are text as the engine
// writes it; bytes that are no UTF-8 are an object with the key base64.
type KeptRow struct {
	Table string         `json:"table"`
	Kept  map[string]any `json:"kept"`            // the target's row
	Other map[string]any `json:"other,omitempty"` // the source's row of the same key
}

// SetAside writes into dir, a file a table, every row of the target that a pass would
// remove or change: those that the source lacks or has otherwise, and all of tables that it
// lacks or whose rows have another form there. Neither end is changed. Rows that the source
// changes meanwhile may be among them.
func (r *Replicator) SetAside(ctx context.Context, dir string) ([]Aside, error) {
	src, dst, err := r.ends(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.schemas(ctx)
	if err != nil {
		return nil, err
	}
	there, err := dst.Schema(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the definitions of the target: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("set rows aside: %w", err)
	}
	var out []Aside
	for _, t := range there.Tables {
		i := slices.IndexFunc(c.pairs, func(p pair) bool { return p.dst.Name == t.Name })
		k := &keeping{src: src, dst: dst, table: t, aside: Aside{Table: t.Name}}
		if i >= 0 {
			k.pair = &c.pairs[i]
		}
		if err := k.keep(ctx, dir); err != nil {
			return out, fmt.Errorf("set rows of %s aside: %w", t.Name, err)
		}
		out = append(out, k.aside)
	}
	return out, nil
}

// keeping writes what is kept of one table.
type keeping struct {
	src, dst engine.Reader
	table    *engine.Table // of the target
	pair     *pair         // nil where the source has nothing to compare it with
	out      *json.Encoder
	aside    Aside
}

func (k *keeping) keep(ctx context.Context, dir string) (err error) {
	path := filepath.Join(dir, url.PathEscape(k.table.Name.String())+".jsonl")
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 256<<10)
	k.out = json.NewEncoder(w)
	k.out.SetEscapeHTML(false)
	err = errors.Join(k.rows(ctx), w.Flush(), f.Sync(), f.Close())
	if err != nil || k.aside.Only+k.aside.Differs == 0 {
		return errors.Join(err, os.Remove(path+".part"))
	}
	k.aside.File = path
	return os.Rename(path+".part", path)
}

func (k *keeping) rows(ctx context.Context) error {
	switch {
	case k.pair == nil:
		return k.whole(ctx)
	case k.table.Key == nil || k.pair.src.Key == nil:
		a, err := k.src.Digests(ctx, k.pair.src, nil, nil, true)
		if err != nil {
			return err
		}
		b, err := k.dst.Digests(ctx, k.table, nil, nil, true)
		if err != nil || a[0] == b[0] {
			return err
		}
		return k.whole(ctx)
	}
	var b batch
	flush := func() error {
		if len(b.ranges) == 0 {
			return nil
		}
		send, gone, err := differing(ctx, k.src, k.dst, *k.pair, b.ranges)
		b = batch{}
		if err != nil {
			return err
		}
		return k.keys(ctx, append(send, gone...))
	}
	err := walk(ctx, k.src, k.dst, *k.pair, nil, func(u unit) error {
		for i := range u.src {
			if u.src[i] == u.dst[i] {
				continue
			}
			if b.add(u.bucket(i), u.src[i].Rows, u.dst[i].Rows); max(b.src, b.dst) >= batchRows {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// whole keeps every row.
func (k *keeping) whole(ctx context.Context) error {
	var keys []engine.Row
	for row, err := range k.dst.Keys(ctx, k.table, []engine.Range{{}}) {
		if err != nil {
			return fmt.Errorf("list its rows: %w", err)
		}
		if k.table.Key == nil { // the key is the row
			if err := k.write(row.Key, nil); err != nil {
				return err
			}
			continue
		}
		if keys = append(keys, row.Key); len(keys) == maxKeys {
			if err := k.keys(ctx, keys); err != nil {
				return err
			}
			keys = nil
		}
	}
	return k.keys(ctx, keys)
}

// keys keeps the rows of the target that have the keys.
func (k *keeping) keys(ctx context.Context, keys []engine.Row) error {
	for part := range slices.Chunk(keys, maxKeys) {
		mine, err := rowsByKey(ctx, k.dst, k.table, part)
		if err != nil {
			return err
		}
		others := map[string]engine.Row{}
		if k.pair != nil {
			if others, err = rowsByKey(ctx, k.src, k.pair.src, part); err != nil {
				return err
			}
		}
		for _, key := range part {
			row, other := mine[rowText(key)], others[rowText(key)]
			if row == nil || sameRow(row, other) {
				continue
			}
			if err := k.write(row, other); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *keeping) write(row, other engine.Row) error {
	line := KeptRow{Table: k.table.Name.String(), Kept: named(k.table, row)}
	if other == nil {
		k.aside.Only++
	} else {
		k.aside.Differs++
		line.Other = named(k.pair.src, other)
	}
	return k.out.Encode(line)
}

// named gives the values of a row the names of their columns.
func named(t *engine.Table, row engine.Row) map[string]any {
	m := map[string]any{}
	for i, c := range t.Carried() {
		switch v := row[i]; {
		case v == nil:
			m[t.Columns[c].Name] = nil
		case utf8.Valid(v):
			m[t.Columns[c].Name] = string(v)
		default:
			m[t.Columns[c].Name] = map[string]string{"base64": base64.StdEncoding.EncodeToString(v)}
		}
	}
	return m
}
