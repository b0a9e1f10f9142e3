package postgres

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// reader reads through connections that see one state of the database, or the
// newest.
type reader struct {
	take  taker
	known *relations
}

var _ engine.Reader = (*reader)(nil)

func (r *reader) Bounds(ctx context.Context, t *engine.Table, from engine.Row, rows, limit int) ([]engine.Row, bool, error) {
	if t.Key == nil {
		return nil, true, nil
	}
	s, err := r.shape(ctx, t)
	if err != nil {
		return nil, false, err
	}
	var lo []string
	if from != nil {
		lo = params(len(s.key), 0)
	}
	keys := s.keyList()
	// The last row ends no bucket: the bucket that it is in has no end.
	sql := fmt.Sprintf("SELECT %s FROM (SELECT %s, row_number() OVER w AS leeward_n, lead(1) OVER w AS leeward_next FROM (SELECT %s FROM %s%s ORDER BY %s LIMIT %d) t WINDOW w AS (ORDER BY %s)) t WHERE leeward_n %% %d = 0 AND leeward_next IS NOT NULL ORDER BY leeward_n",
		keys, keys, keys, s.from, s.within(lo, nil), keys, int64(rows)*int64(limit)+1, keys, rows)
	var out []engine.Row
	err = r.each(ctx, sql, from, nil, func(v [][]byte) bool {
		out = append(out, clone(v))
		return true
	})
	if err != nil {
		return nil, false, fmt.Errorf("read bounds of %s: %w", t.Name, err)
	}
	return out, len(out) < limit, nil
}

func (r *reader) Digests(ctx context.Context, t *engine.Table, from engine.Row, bounds []engine.Row, end bool) ([]engine.Digest, error) {
	s, err := r.shape(ctx, t)
	if err != nil {
		return nil, err
	}
	out := make([]engine.Digest, 0, len(bounds)+1)
	sums := "SELECT count(*) AS c, COALESCE(sum(" + s.hash("t") + "), 0) AS h FROM " + s.from
	collect := func(v [][]byte) bool {
		out = append(out, engine.Digest{Rows: count(v[0]), Hash: string(v[1])})
		return true
	}
	n, last := len(s.key), from
	if len(bounds) > 0 {
		last = bounds[len(bounds)-1]
		if from == nil {
			err = r.each(ctx, sums+s.within(nil, params(n, 0)), bounds[0], nil, collect)
			from, bounds = bounds[0], bounds[1:]
		}
	}
	if err == nil && len(bounds) > 0 {
		pairs := make([]engine.Row, len(bounds))
		for i, b := range bounds {
			pairs[i] = append(append(make(engine.Row, 0, 2*n), from...), b...)
			from = b
		}
		// The subquery is one scan of the key's index for each bucket, next to where the
		// scan before it ended.
		sql := "SELECT x.c, x.h FROM " + strings.Replace(unpack(2*n, 0, "u"), ") AS u(", ") WITH ORDINALITY AS u(", 1)
		sql = strings.TrimSuffix(sql, ")") + ", leeward_n) CROSS JOIN LATERAL (" +
			sums + s.within(fields("u", 0, n), fields("u", n, n)) + ") x ORDER BY u.leeward_n"
		err = r.each(ctx, sql, transpose(pairs, 2*n), binaryFormats(2*n), collect)
	}
	if err == nil && end {
		var lo []string
		if last != nil {
			lo = params(n, 0)
		}
		err = r.each(ctx, sums+s.within(lo, nil), last, nil, collect)
	}
	if err != nil {
		return nil, fmt.Errorf("read digests of %s: %w", t.Name, err)
	}
	return out, nil
}

func (r *reader) Keys(ctx context.Context, t *engine.Table, ranges []engine.Range) iter.Seq2[engine.KeyHash, error] {
	return func(yield func(engine.KeyHash, error) bool) {
		s, err := r.shape(ctx, t)
		if err != nil {
			yield(engine.KeyHash{}, err)
			return
		}
		more := true
		hand := func(v [][]byte) bool {
			row := clone(v)
			last := len(row) - 1
			more = yield(engine.KeyHash{Key: row[:last:last], Hash: string(row[last])}, nil)
			return more
		}
		sql := "SELECT " + s.list("t", s.identity()) + ", " + s.hash("t") + " FROM "
		n := len(s.key)
		var closed []engine.Row
		for _, g := range ranges {
			if g.From != nil && g.To != nil && s.key != nil {
				closed = append(closed, append(append(make(engine.Row, 0, 2*n), g.From...), g.To...))
				continue
			}
			where, args := s.whereRange(g)
			if err := r.each(ctx, sql+s.from+where, args, nil, hand); err != nil || !more {
				finish(yield, fmt.Errorf("read keys of %s: %w", t.Name, err), err != nil && more)
				return
			}
		}
		if closed == nil {
			return
		}
		sql += unpack(2*n, 0, "u") + " CROSS JOIN LATERAL (SELECT * FROM " + s.from + s.within(fields("u", 0, n), fields("u", n, n)) + ") t"
		err = r.each(ctx, sql, transpose(closed, 2*n), binaryFormats(2*n), hand)
		finish(yield, fmt.Errorf("read keys of %s: %w", t.Name, err), err != nil && more)
	}
}

// finish yields an error where there is one to tell.
func finish[T any](yield func(T, error) bool, err error, tell bool) {
	if tell {
		var none T
		yield(none, err)
	}
}

// whereRange spells a range with parameters.
func (s *shape) whereRange(g engine.Range) (string, [][]byte) {
	if s.key == nil {
		return "", nil
	}
	var lo, hi []string
	var args [][]byte
	if g.From != nil {
		lo = params(len(s.key), 0)
		args = append(args, g.From...)
	}
	if g.To != nil {
		hi = params(len(s.key), len(args))
		args = append(args, g.To...)
	}
	return s.within(lo, hi), args
}

func (r *reader) Rows(ctx context.Context, t *engine.Table, keys []engine.Row) iter.Seq2[engine.Row, error] {
	return func(yield func(engine.Row, error) bool) {
		s, err := r.shape(ctx, t)
		if err != nil || len(keys) == 0 {
			finish(yield, err, err != nil)
			return
		}
		more := true
		n := len(s.identity())
		sql := "SELECT " + s.all("t") + " FROM " + s.among(unpack(n, 0, "u"))
		err = r.each(ctx, sql, transpose(keys, n), binaryFormats(n), func(v [][]byte) bool {
			more = yield(clone(v), nil)
			return more
		})
		finish(yield, fmt.Errorf("read rows of %s: %w", t.Name, err), err != nil && more)
	}
}

// among spells the rows of t that a list u names, each once.
func (s *shape) among(list string) string {
	if s.key == nil {
		return s.from + " WHERE " + s.image("t") + " IN (SELECT " + s.imageOf("u") + " FROM " + list + ")"
	}
	return list + " JOIN " + s.from + " ON " + s.match()
}

// exportHead begins what Export writes: the version of the form, and how COPY wrote
// the rows.
const exportHead = "leeward-postgres/1 "

func (r *reader) Export(ctx context.Context, t *engine.Table, sel engine.Selection, w io.Writer) (int64, error) {
	s, err := r.shape(ctx, t)
	if err != nil {
		return 0, err
	}
	form := "text"
	if s.binary {
		form = "binary"
	}
	if _, err := io.WriteString(w, exportHead+form+"\n"); err != nil {
		return 0, err
	}
	c, err := r.take.get(ctx)
	if err != nil {
		return 0, err
	}
	defer r.take.give(c)
	n, err := c.copyOut(ctx, "COPY (SELECT "+s.all("t")+" FROM "+s.selected(sel)+") TO STDOUT (FORMAT "+form+")", w)
	if err != nil {
		return n, fmt.Errorf("export %s: %w", t.Name, err)
	}
	return n, nil
}

// selected spells a selection with its keys as constants: COPY takes no parameters.
func (s *shape) selected(sel engine.Selection) string {
	if sel.Keys != nil {
		return s.among(constants(sel.Keys, len(s.identity())))
	}
	if s.key == nil {
		return s.from
	}
	return s.from + s.within(quoted(sel.Range.From), quoted(sel.Range.To))
}

func quoted(row engine.Row) []string {
	if row == nil {
		return nil
	}
	out := make([]string, len(row))
	for i, v := range row {
		out[i] = literal(string(v)) + "::text"
	}
	return out
}

// constants spells rows as a list u(f0, f1 …).
func constants(rows []engine.Row, n int) string {
	var b strings.Builder
	b.WriteString("unnest(")
	for c := range n {
		if c > 0 {
			b.WriteString(", ")
		}
		b.WriteString("'{")
		for i, row := range rows {
			if i > 0 {
				b.WriteByte(',')
			}
			arrayElement(&b, row[c])
		}
		b.WriteString("}'::text[]")
	}
	b.WriteString(") AS u(")
	b.WriteString(strings.ReplaceAll(strings.Join(fields("u", 0, n), ", "), "u.", ""))
	b.WriteString(")")
	return b.String()
}

// arrayElement writes a value of an array inside a string constant.
func arrayElement(b *strings.Builder, v []byte) {
	if v == nil {
		b.WriteString("NULL")
		return
	}
	b.WriteByte('"')
	for _, c := range v {
		switch c {
		case '"', '\\':
			b.WriteByte('\\')
		case '\'':
			b.WriteByte('\'')
		}
		b.WriteByte(c)
	}
	b.WriteByte('"')
}

// each runs a statement on a connection of this reader.
func (r *reader) each(ctx context.Context, sql string, args [][]byte, formats []int16, yield func([][]byte) bool) error {
	c, err := r.take.get(ctx)
	if err != nil {
		return err
	}
	defer r.take.give(c)
	return c.each(ctx, sql, args, formats, yield)
}

// clone copies a row out of the connection's buffer.
func clone(v [][]byte) engine.Row {
	size := 0
	for _, x := range v {
		size += len(x)
	}
	buf := make([]byte, 0, size)
	out := make(engine.Row, len(v))
	for i, x := range v {
		switch {
		case x == nil:
		case len(x) == 0:
			out[i] = []byte{}
		default:
			at := len(buf)
			buf = append(buf, x...)
			out[i] = buf[at:len(buf):len(buf)]
		}
	}
	return out
}
