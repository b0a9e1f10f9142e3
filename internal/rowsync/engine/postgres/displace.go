package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// displace deletes the rows that hold a unique value which one of the given rows
// claims, under another key. Those that are not written themselves are remembered.
func (a *apply) displace(ctx context.Context, s *shape, rows []engine.Row, written map[string]bool) error {
	n := len(s.names)
	for _, c := range s.rel.conflicts {
		if s.computed(c) {
			continue
		}
		cols := make([]string, n)
		for i := range n {
			cols[i] = s.cast("u."+fieldName(i), i) + " AS " + s.names[i]
		}
		sql := s.collide(c, "(SELECT "+strings.Join(cols, ", ")+" FROM "+unpack(n, 0, "u")+")")
		err := chunks(rows, func(part []engine.Row) error {
			return a.collect(ctx, s, sql, part, func(key engine.Row) bool { return written[rowID(key)] })
		})
		if err != nil {
			return fmt.Errorf("make room in %s: %w", c.name, err)
		}
	}
	return nil
}

// collide spells the deletion of rows that rule c forbids beside rows of a list with
// the columns of the table. The expressions of an index come unqualified from the
// catalogue: inside the list they mean its rows, outside those of the table, since no
// field of the list has the name of a column there.
func (s *shape) collide(c conflict, list string) string {
	fields := make([]string, 0, len(s.key)+len(c.exprs))
	other := make([]string, len(s.key))
	for i, k := range s.key {
		f := "leeward_k" + strconv.Itoa(i)
		fields = append(fields, "v."+s.names[k]+" AS "+f)
		other[i] = "w." + f
	}
	var on []string
	for i, e := range c.exprs {
		f := "leeward_e" + strconv.Itoa(i)
		fields = append(fields, "("+e+") AS "+f)
		on = append(on, "("+e+") "+c.operators[i]+" w."+f)
	}
	inner := "SELECT " + strings.Join(fields, ", ") + " FROM " + list + " v"
	if c.where != "" {
		inner += " WHERE " + c.where
		on = append(on, "("+c.where+")")
	}
	return "DELETE FROM " + s.from + " USING (" + inner + ") w WHERE " + strings.Join(on, " AND ") +
		" AND (" + s.keyList() + ") IS DISTINCT FROM (" + strings.Join(other, ", ") + ") RETURNING " + s.keyList()
}

// collect runs a deletion and remembers the keys it returns, but for those that are
// written again.
func (a *apply) collect(ctx context.Context, s *shape, sql string, rows []engine.Row, again func(engine.Row) bool) error {
	var args [][]byte
	if rows != nil {
		args = transpose(rows, len(s.names))
	}
	st, err := a.c.prepare(ctx, sql)
	if err != nil {
		return err
	}
	r := a.c.ExecStatement(ctx, st, args, binaryFormats(len(args)), nil)
	for r.NextRow() {
		key := clone(r.Values())
		if again(key) {
			continue
		}
		if a.displaced[s.rel.Name] == nil {
			a.displaced[s.rel.Name] = map[string]engine.Row{}
		}
		a.displaced[s.rel.Name][rowID(key)] = key
	}
	_, err = r.Close()
	return mend(err)
}

func (a *apply) Displaced() map[engine.Name][]engine.Row {
	out := map[engine.Name][]engine.Row{}
	for n, keys := range a.displaced {
		for _, k := range keys {
			out[n] = append(out[n], k)
		}
	}
	return out
}

// applyWhole adds and takes away rows of a table without a key.
func (a *apply) applyWhole(ctx context.Context, s *shape, n *outcome) error {
	var less, more []engine.Row
	for _, st := range n.order {
		for range max(-st.times, st.times) {
			if st.times > 0 {
				more = append(more, st.row)
			} else {
				less = append(less, st.row)
			}
		}
	}
	if err := a.deleteWhole(ctx, s, less, nil); err != nil {
		return err
	}
	return a.insertWhole(ctx, s, more)
}

func (a *apply) insertWhole(ctx context.Context, s *shape, rows []engine.Row) error {
	values := make([]string, len(s.names))
	for i := range s.names {
		values[i] = s.cast("u."+fieldName(i), i)
	}
	sql := "INSERT INTO " + qualified(s.rel.Name) + " (" + strings.Join(s.names, ", ") + ") OVERRIDING SYSTEM VALUE SELECT " +
		strings.Join(values, ", ") + " FROM " + unpack(len(s.names), 0, "u")
	return chunks(rows, func(part []engine.Row) error {
		if _, err := a.run(ctx, sql, part, len(s.names)); err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
		return nil
	})
}

// deleteWhole deletes as many of equal rows as are given.
func (a *apply) deleteWhole(ctx context.Context, s *shape, rows []engine.Row, deleted *int64) error {
	img, list := s.image("t"), unpack(len(s.names), 0, "u")
	sql := "WITH d AS MATERIALIZED (SELECT " + s.imageOf("u") + " AS img, count(*) AS n FROM " + list + " GROUP BY 1) DELETE FROM " + s.from +
		" WHERE t.ctid = ANY (ARRAY(SELECT x.id FROM (SELECT t.ctid AS id, " + img + " AS img, row_number() OVER (PARTITION BY " + img +
		") AS n FROM " + s.from + ") x JOIN d ON d.img = x.img WHERE x.n <= d.n))"
	return a.hashing(ctx, func() error {
		return chunks(rows, func(part []engine.Row) error {
			n, err := a.run(ctx, sql, part, len(s.names))
			if err != nil {
				return fmt.Errorf("delete rows: %w", err)
			}
			if deleted != nil {
				*deleted += n
			}
			return nil
		})
	})
}

// hashing lets statements join by hashes: those that match rows of a table without a
// key, where no index serves.
func (a *apply) hashing(ctx context.Context, do func() error) error {
	if err := a.c.exec(ctx, "SET LOCAL enable_hashjoin = on; SET LOCAL enable_nestloop = off"); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return a.c.exec(ctx, "SET LOCAL enable_hashjoin = off; SET LOCAL enable_nestloop = on")
}

func (a *apply) Delete(ctx context.Context, t *engine.Table, keys []engine.Row) (int64, error) {
	var n int64
	s, err := a.shape(ctx, t.Name)
	if err != nil {
		return 0, err
	}
	if s.key == nil {
		err = a.deleteWhole(ctx, s, keys, &n)
	} else {
		err = a.deleteKeys(ctx, s, keys, &n)
	}
	if err != nil {
		return n, fmt.Errorf("delete from %s: %w", t.Name, err)
	}
	return n, nil
}

// Counters stores where the source's identities and sequences stand.
func (a *apply) Counters(ctx context.Context, cs []engine.Counter) error {
	var rows []engine.Row
	for _, c := range cs {
		row := engine.Row{[]byte(a.from.Stream), []byte(c.Kind), []byte(c.Name.Schema), []byte(c.Name.Name), []byte(c.Column), []byte(c.Value)}
		id := rowID(row[:5])
		if a.target.stored(a.from.Stream, id) == c.Value {
			continue
		}
		a.counters[id] = c.Value
		rows = append(rows, row)
	}
	sql := `INSERT INTO leeward.counter SELECT * FROM ` + unpack(6, 0, "u") + `
		ON CONFLICT (stream, kind, schema, name, col) DO UPDATE SET value = EXCLUDED.value`
	return chunks(rows, func(part []engine.Row) error {
		if _, err := a.run(ctx, sql, part, 6); err != nil {
			return fmt.Errorf("store counters: %w", err)
		}
		return nil
	})
}
