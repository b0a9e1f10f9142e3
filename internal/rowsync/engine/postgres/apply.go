package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// A statement takes at most this much: what it is given is held whole at both ends.
const (
	chunkRows  = 5000
	chunkBytes = 16 << 20
)

// apply is one transaction of a target, in which neither foreign keys nor the user's
// triggers fire.
type apply struct {
	ctx       context.Context // of Begin; its values serve Rollback
	target    *target
	c         *conn
	from      engine.State
	tables    map[engine.Name]*engine.Table
	shapes    map[engine.Name]*shape
	displaced map[engine.Name]map[string]engine.Row
	staged    map[string]bool
	counters  map[string]string // stored by this transaction
	deferred  bool              // Commit does not wait for the disk
}

var (
	_ engine.Apply    = (*apply)(nil)
	_ engine.Deferrer = (*apply)(nil)
)

// Defer implements engine.Deferrer.
func (a *apply) Defer() { a.deferred = true }

func (a *apply) shape(ctx context.Context, n engine.Name) (*shape, error) {
	if s := a.shapes[n]; s != nil {
		return s, nil
	}
	t := a.tables[n]
	if t == nil {
		return nil, fmt.Errorf("apply to %s: the table is not one of the stream's", n)
	}
	rel, err := a.target.known.of(ctx, n)
	if err != nil {
		return nil, err
	}
	s, err := shapeOf(t, rel)
	if err != nil {
		return nil, err
	}
	a.shapes[n] = s
	return s, nil
}

// Changes brings tables to the state after the changes, one table after the other:
// nothing checks what is between them before the transaction ends, nor then.
func (a *apply) Changes(ctx context.Context, cs []engine.Change) error {
	nets := map[engine.Name]*outcome{}
	var order []*outcome
	for _, c := range cs {
		n := nets[c.Table]
		if n == nil {
			t := a.tables[c.Table]
			if t == nil {
				return fmt.Errorf("apply to %s: the table is not one of the stream's", c.Table)
			}
			n = newOutcome(t)
			nets[c.Table] = n
			order = append(order, n)
		}
		if err := n.add(c); err != nil {
			return err
		}
	}
	if err := a.truncate(ctx, order); err != nil {
		return err
	}
	for _, n := range order {
		s, err := a.shape(ctx, n.table.Name)
		if err != nil {
			return err
		}
		if s.key == nil {
			err = a.applyWhole(ctx, s, n)
		} else {
			err = a.applyNet(ctx, s, n)
		}
		if err != nil {
			a.forget(err)
			return fmt.Errorf("apply to %s: %w", n.table.Name, err)
		}
	}
	return nil
}

// forget has the catalogue read again after an error that may come of its change.
func (a *apply) forget(err error) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "42") || strings.HasPrefix(pg.Code, "23") || pg.Code == "0A000") {
		a.target.known.reset()
	}
}

// truncate empties the tables that were truncated: together, since foreign keys
// between them forbid it one by one, and row by row where others forbid it.
func (a *apply) truncate(ctx context.Context, nets []*outcome) error {
	var list []string
	for _, n := range nets {
		if n.truncated {
			list = append(list, "ONLY "+qualified(n.table.Name))
		}
	}
	if list == nil {
		return nil
	}
	if err := a.c.exec(ctx, "SAVEPOINT leeward"); err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	err := a.c.exec(ctx, "TRUNCATE "+strings.Join(list, ", "))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == "0A000" || pg.Code == "42501") {
		sql := "ROLLBACK TO SAVEPOINT leeward"
		for _, t := range list {
			sql += "; DELETE FROM " + t
		}
		err = a.c.exec(ctx, sql)
	}
	if err == nil {
		err = a.c.exec(ctx, "RELEASE SAVEPOINT leeward")
	}
	if err != nil {
		return fmt.Errorf("truncate: %w", err)
	}
	return nil
}

// groups are the states of one table by what is to be done.
type groups struct {
	gone    []engine.Row       // keys
	whole   []engine.Row       // rows
	partial map[string]*masked // by which columns are unset
	written map[string]bool    // ids of all that is to be there
}

// masked are rows that lack the same columns.
type masked struct {
	unset []bool
	rows  []engine.Row
}

func (a *apply) applyNet(ctx context.Context, s *shape, n *outcome) error {
	if err := a.complete(ctx, s, n); err != nil {
		return err
	}
	g := groups{partial: map[string]*masked{}, written: map[string]bool{}}
	for _, st := range n.order {
		switch {
		case st.row == nil:
			g.gone = append(g.gone, st.key)
			continue
		case st.unset == nil:
			g.whole = append(g.whole, st.row)
		default:
			id := maskID(st.unset)
			if g.partial[id] == nil {
				g.partial[id] = &masked{unset: st.unset}
			}
			g.partial[id].rows = append(g.partial[id].rows, st.row)
		}
		g.written[st.id] = true
	}
	if err := a.deleteKeys(ctx, s, g.gone, nil); err != nil {
		return err
	}
	if err := a.displace(ctx, s, g.whole, g.written); err != nil {
		return err
	}
	if s.replaces() {
		keys := make([]engine.Row, len(g.whole))
		for i, r := range g.whole {
			keys[i] = n.keyOf(r)
		}
		if err := a.deleteKeys(ctx, s, keys, nil); err != nil {
			return err
		}
	}
	if err := a.upsert(ctx, s, g.whole, nil); err != nil {
		return err
	}
	for _, m := range g.partial {
		if err := a.upsert(ctx, s, m.rows, m.unset); err != nil {
			return err
		}
	}
	return nil
}

func maskID(unset []bool) string {
	b := make([]byte, len(unset))
	for i, u := range unset {
		if u {
			b[i] = 1
		}
	}
	return string(b)
}

// replaces reports whether rows must be deleted and inserted anew: where a column is
// GENERATED ALWAYS outside the key, which UPDATE may not set, or where a unique index
// is over computed columns, so that collisions cannot be told beforehand.
func (s *shape) replaces() bool {
	for i, c := range s.columns {
		if c.always && !slices.Contains(s.key, i) {
			return true
		}
	}
	return slices.ContainsFunc(s.rel.conflicts, func(c conflict) bool { return s.computed(c) })
}

// computed reports whether a conflict is over columns that do not travel.
func (s *shape) computed(c conflict) bool {
	for _, col := range s.rel.Columns {
		if !col.Derived {
			continue
		}
		for _, e := range append([]string{c.where}, c.exprs...) {
			if strings.Contains(e, col.Name) {
				return true
			}
		}
	}
	return false
}

// complete fills in values that were not sent where a statement by key alone could
// not keep them: the key changed, or rows may be displaced or replaced.
func (a *apply) complete(ctx context.Context, s *shape, n *outcome) error {
	moves := len(s.rel.conflicts) > 0 || s.replaces()
	var keys []engine.Row
	var want []*state
	for _, st := range n.order {
		if st.unset == nil || st.row == nil || st.base == nil {
			continue
		}
		if moves || rowID(st.base) != st.id {
			want = append(want, st)
			keys = append(keys, st.base, st.key)
		}
	}
	if want == nil {
		return nil
	}
	have := map[string]engine.Row{}
	cols := len(s.identity())
	sql := "SELECT " + s.all("t") + " FROM (SELECT DISTINCT * FROM " + unpack(cols, 0, "u") + ") u JOIN " + s.from + " ON " + s.match()
	err := a.c.each(ctx, sql, transpose(keys, cols), binaryFormats(cols), func(v [][]byte) bool {
		row := clone(v)
		have[rowID(n.keyOf(row))] = row
		return true
	})
	if err != nil {
		return fmt.Errorf("read unchanged values: %w", err)
	}
	for _, st := range want {
		// Where the row is no more under its key of then, a later state is there already.
		from := have[rowID(st.base)]
		if from == nil {
			from = have[st.id]
		}
		if from == nil {
			continue
		}
		for i, u := range st.unset {
			if u {
				st.row[i] = from[i]
			}
		}
		st.unset = nil
	}
	return nil
}

// chunks cuts rows into what one statement takes.
func chunks(rows []engine.Row, yield func([]engine.Row) error) error {
	for len(rows) > 0 {
		size, n := 0, 0
		for n < len(rows) && n < chunkRows && (n == 0 || size < chunkBytes) {
			for _, v := range rows[n] {
				size += len(v)
			}
			n++
		}
		if err := yield(rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

// run runs a prepared statement over rows; it returns how many rows it touched.
func (a *apply) run(ctx context.Context, sql string, rows []engine.Row, cols int) (int64, error) {
	st, err := a.c.prepare(ctx, sql)
	if err != nil {
		return 0, err
	}
	r := a.c.ExecStatement(ctx, st, transpose(rows, cols), binaryFormats(cols), nil)
	tag, err := r.Close()
	return tag.RowsAffected(), mend(err)
}

func (a *apply) deleteKeys(ctx context.Context, s *shape, keys []engine.Row, deleted *int64) error {
	n := len(s.identity())
	sql := "DELETE FROM " + s.from + " USING " + unpack(n, 0, "u") + " WHERE " + s.match()
	return chunks(keys, func(part []engine.Row) error {
		rows, err := a.run(ctx, sql, part, n)
		if err != nil {
			return fmt.Errorf("delete rows: %w", err)
		}
		if deleted != nil {
			*deleted += rows
		}
		return nil
	})
}

// upsert writes rows; columns that are unset keep what they have, and take their
// default in rows that are new.
func (a *apply) upsert(ctx context.Context, s *shape, rows []engine.Row, unset []bool) error {
	var names, values, sets []string
	var places []int
	insertable := true
	for i, n := range s.names {
		if unset != nil && unset[i] {
			insertable = insertable && s.columns[i].filled
			continue
		}
		values = append(values, s.cast("u."+fieldName(len(places)), i))
		names = append(names, n)
		places = append(places, i)
		if !s.columns[i].always {
			sets = append(sets, n+" = EXCLUDED."+n)
		}
	}
	if !insertable {
		return a.update(ctx, s, rows, unset)
	}
	sql := "INSERT INTO " + qualified(s.rel.Name) + " AS t (" + strings.Join(names, ", ") + ") OVERRIDING SYSTEM VALUE SELECT " +
		strings.Join(values, ", ") + " FROM " + unpack(len(places), 0, "u")
	switch {
	case len(sets) == 0:
		sql += " ON CONFLICT (" + s.keyNames() + ") DO NOTHING"
	case !s.replaces():
		sql += " ON CONFLICT (" + s.keyNames() + ") DO UPDATE SET " + strings.Join(sets, ", ")
	}
	return chunks(rows, func(part []engine.Row) error {
		if _, err := a.run(ctx, sql, pick(part, places), len(places)); err != nil {
			return fmt.Errorf("write rows: %w", err)
		}
		return nil
	})
}

func (s *shape) keyNames() string {
	parts := make([]string, len(s.key))
	for i, k := range s.key {
		parts[i] = s.names[k]
	}
	return strings.Join(parts, ", ")
}

// pick takes columns of rows; all of them costs nothing.
func pick(rows []engine.Row, places []int) []engine.Row {
	if len(rows) == 0 || len(places) == len(rows[0]) {
		return rows
	}
	out := make([]engine.Row, len(rows))
	for i, r := range rows {
		out[i] = make(engine.Row, len(places))
		for j, p := range places {
			out[i][j] = r[p]
		}
	}
	return out
}

// update writes rows that cannot be inserted, since values they must have were not
// sent: where the row is not there, a later change has deleted it.
func (a *apply) update(ctx context.Context, s *shape, rows []engine.Row, unset []bool) error {
	places := slices.Clone(s.key)
	var sets []string
	for i, n := range s.names {
		if !unset[i] && !s.columns[i].always && !slices.Contains(s.key, i) {
			sets = append(sets, n+" = "+s.cast("u."+fieldName(len(places)), i))
			places = append(places, i)
		}
	}
	if sets == nil {
		return nil
	}
	sql := "UPDATE " + s.from + " SET " + strings.Join(sets, ", ") + " FROM " + unpack(len(places), 0, "u") + " WHERE " + s.match()
	return chunks(rows, func(part []engine.Row) error {
		if _, err := a.run(ctx, sql, pick(part, places), len(places)); err != nil {
			return fmt.Errorf("update rows: %w", err)
		}
		return nil
	})
}
