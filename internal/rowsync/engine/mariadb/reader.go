package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// conns lends connections whose sessions see the data that a reader reads.
type conns interface {
	take(ctx context.Context) (*sql.Conn, error)
	// give returns a connection; err is what the last use of it ended with.
	give(c *sql.Conn, err error)
}

// pool lends connections that see what is committed.
type pool struct{ db *sql.DB }

func (p pool) take(ctx context.Context) (*sql.Conn, error) {
	c, err := p.db.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", explain(err))
	}
	return c, nil
}

// A connection that was not read to its end is closed by its context already.
func (pool) give(c *sql.Conn, _ error) { _ = c.Close() }

// reader implements engine.Reader.
type reader struct{ conns conns }

// unionMost is how many selects one statement joins.
const unionMost = 128

// force names the index of the key, so that rows come in its order without a sort.
func force(t *engine.Table) string {
	if t.KeyName == "" {
		return ""
	}
	return " FORCE INDEX (" + ident(t.KeyName) + ")"
}

// Bounds implements engine.Reader.
func (r reader) Bounds(ctx context.Context, t *engine.Table, from engine.Row, rows, limit int) ([]engine.Row, bool, error) {
	if len(t.Key) == 0 {
		return nil, true, nil
	}
	key := keyed(t)
	// A variable counts at the speed of the scan; row_number() is ten times slower.
	q := fmt.Sprintf("SELECT %s FROM %s%s, (SELECT @leeward_n := 0) AS leeward_zero WHERE %s AND (@leeward_n := @leeward_n + 1) %% %d = 0 ORDER BY %s LIMIT %d",
		exprs("", key), ident(t.Name.Name), force(t), within("", key, engine.Range{From: from}), rows, idents("", key), limit)
	var out []engine.Row
	err := r.each(ctx, q, func(v engine.Row) error {
		out = append(out, clone(v))
		return nil
	})
	if err != nil {
		return nil, false, fmt.Errorf("read bounds of %s: %w", t.Name, err)
	}
	if len(out) == 0 {
		return nil, true, nil
	}
	more := false
	q = fmt.Sprintf("SELECT 1 FROM %s%s WHERE %s LIMIT 1", ident(t.Name.Name), force(t), within("", key, engine.Range{From: out[len(out)-1]}))
	if err := r.each(ctx, q, func(engine.Row) error { more = true; return nil }); err != nil {
		return nil, false, fmt.Errorf("read bounds of %s: %w", t.Name, err)
	}
	if !more {
		return out[:len(out)-1], true, nil // the last bucket has no bound
	}
	return out, len(out) < limit, nil
}

// Digests implements engine.Reader.
func (r reader) Digests(ctx context.Context, t *engine.Table, from engine.Row, bounds []engine.Row, end bool) ([]engine.Digest, error) {
	key, cols := keyed(t), carried(t)
	var ranges []engine.Range
	for _, b := range bounds {
		ranges = append(ranges, engine.Range{From: from, To: b})
		from = b
	}
	if end {
		ranges = append(ranges, engine.Range{From: from})
	}
	sum := "COUNT(*), SUM(" + hash64("", cols) + ") FROM " + ident(t.Name.Name) + force(t) + " WHERE "
	out := make([]engine.Digest, 0, len(ranges))
	for len(ranges) > 0 {
		n := min(len(ranges), unionMost)
		var q strings.Builder
		for i, g := range ranges[:n] {
			if i > 0 {
				q.WriteString(" UNION ALL ")
			}
			fmt.Fprintf(&q, "SELECT %d, %s%s", i, sum, within("", key, g))
		}
		part, err := r.digests(ctx, q.String(), n)
		if err != nil {
			return nil, fmt.Errorf("hash %s: %w", t.Name, err)
		}
		out, ranges = append(out, part...), ranges[n:]
	}
	return out, nil
}

// digests runs a statement that yields number, count and sum of n ranges.
func (r reader) digests(ctx context.Context, q string, n int) ([]engine.Digest, error) {
	out := make([]engine.Digest, n)
	err := r.each(ctx, q, func(v engine.Row) error {
		var i int
		var rows int64
		if _, err := fmt.Sscan(string(v[0])+" "+string(v[1]), &i, &rows); err != nil || i >= n {
			return fmt.Errorf("read digest %q: %w", v, err)
		}
		out[i] = engine.Digest{Rows: rows, Hash: string(v[2])}
		return nil
	})
	return out, err
}

// Keys implements engine.Reader.
func (r reader) Keys(ctx context.Context, t *engine.Table, ranges []engine.Range) iter.Seq2[engine.KeyHash, error] {
	return func(yield func(engine.KeyHash, error) bool) {
		key, cols := keyed(t), carried(t)
		names := key
		if len(key) == 0 {
			names = cols
		}
		head := fmt.Sprintf("SELECT %s, %s FROM %s%s WHERE ", hash64("", cols), exprs("", names), ident(t.Name.Name), force(t))
		for _, g := range ranges {
			q := head + within("", key, g)
			if len(key) > 0 {
				q += " ORDER BY " + idents("", key)
			}
			err := r.each(ctx, q, func(v engine.Row) error {
				row := clone(v)
				if !yield(engine.KeyHash{Key: row[1:], Hash: string(row[0])}, nil) {
					return errStop
				}
				return nil
			})
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(engine.KeyHash{}, fmt.Errorf("list keys of %s: %w", t.Name, err))
				return
			}
		}
	}
}

// Rows implements engine.Reader.
func (r reader) Rows(ctx context.Context, t *engine.Table, keys []engine.Row) iter.Seq2[engine.Row, error] {
	return func(yield func(engine.Row, error) bool) {
		list := exprs("", carried(t))
		for _, q := range r.selects(t, list, engine.Selection{Keys: notNil(keys)}) {
			err := r.each(ctx, q, func(v engine.Row) error {
				if !yield(clone(v), nil) {
					return errStop
				}
				return nil
			})
			if errors.Is(err, errStop) {
				return
			}
			if err != nil {
				yield(nil, fmt.Errorf("read rows of %s: %w", t.Name, err))
				return
			}
		}
	}
}

func notNil(keys []engine.Row) []engine.Row {
	if keys == nil {
		return []engine.Row{}
	}
	return keys
}

// perSelect is how many keys one statement asks for. From 1,000 on MariaDB turns an
// IN into a join with a table it makes.
const perSelect = 400

// selects are the statements that read what list says of a selection.
func (r reader) selects(t *engine.Table, list string, s engine.Selection) []string {
	head := "SELECT " + list + " FROM " + ident(t.Name.Name)
	key, cols := keyed(t), carried(t)
	if s.Keys == nil {
		q := head + force(t) + " WHERE " + within("", key, s.Range)
		// Rows in the order of the primary key load best; any other order would cost
		// a look-up for each.
		if t.KeyName == "PRIMARY" {
			q += " ORDER BY " + idents("", key)
		}
		return []string{q}
	}
	var out []string
	for keys := distinct(s.Keys); len(keys) > 0; {
		n := min(len(keys), perSelect)
		if len(key) > 0 {
			out = append(out, head+" WHERE "+among("", key, keys[:n]))
		} else {
			n = 1
			out = append(out, head+" WHERE "+wholly("", cols, keys[0]))
		}
		keys = keys[n:]
	}
	return out
}

// distinct drops keys that occur again.
func distinct(keys []engine.Row) []engine.Row {
	seen := make(map[string]bool, len(keys))
	out := make([]engine.Row, 0, len(keys))
	for _, k := range keys {
		s := rowKey(k)
		if !seen[s] {
			seen[s] = true
			out = append(out, k)
		}
	}
	return out
}

// wholly is the condition that a row has the values r, byte for byte. What an index
// may help with comes first.
func wholly(prefix string, cols []column, r engine.Row) string {
	var parts, exact []string
	for i, c := range cols {
		name := prefix + ident(c.Name)
		switch c.kind {
		case number_, decimal, clock, year, floating, bits:
			parts = append(parts, name+" <=> "+c.literal(r[i]))
		case uuid, inet6, inet4:
			parts = append(parts, name+" <=> "+c.literal(r[i]))
		default:
			if !c.large && c.kind != geometry {
				parts = append(parts, name+" <=> "+c.literal(r[i]))
			}
			v := "NULL"
			if r[i] != nil {
				v = "_binary" + quote(r[i])
			}
			exact = append(exact, "CAST("+c.expr(prefix)+" AS BINARY) <=> "+v)
		}
	}
	return "(" + strings.Join(append(parts, exact...), " AND ") + ")"
}

// errStop ends a scan early.
var errStop = errors.New("stopped")

// each runs a query and calls f with each row, whose bytes are good until f returns.
func (r reader) each(ctx context.Context, q string, f func(engine.Row) error) error {
	c, err := r.conns.take(ctx)
	if err != nil {
		return err
	}
	err = scan(ctx, c, q, f)
	r.conns.give(c, err)
	return err
}

// scan is each on a connection.
func scan(ctx context.Context, c *sql.Conn, q string, f func(engine.Row) error) error {
	rows, err := c.QueryContext(ctx, q)
	if err != nil {
		return explain(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return explain(err)
	}
	raw := make([]sql.RawBytes, len(names))
	into := make([]any, len(names))
	row := make(engine.Row, len(names))
	for i := range raw {
		into[i] = &raw[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return explain(err)
		}
		for i, v := range raw {
			row[i] = v
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return explain(rows.Err())
}

// clone copies a row, so that it may be kept.
func clone(r engine.Row) engine.Row {
	n := 0
	for _, v := range r {
		n += len(v)
	}
	buf := make([]byte, 0, n)
	out := make(engine.Row, len(r))
	for i, v := range r {
		if v == nil {
			continue
		}
		at := len(buf)
		buf = append(buf, v...)
		out[i] = buf[at:len(buf):len(buf)]
	}
	return out
}
