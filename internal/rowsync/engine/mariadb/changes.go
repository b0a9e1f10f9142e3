package mariadb

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Foreign keys that cascade make the order of changes matter: their effect on
// children is not in the binlog, so the server must bring it about here as it did
// there. All else may be collapsed to the last state of each key and applied by
// table. A segment holds changes that may be; where one must not overtake another,
// what is there is applied first.

// segment is changes collapsed by key.
type segment struct {
	order  []string // tables as they came
	tables map[string]*effect
	all    []engine.Change
	acting bool // a delete sets off cascades
}

// effect is the net change of a table.
type effect struct {
	t       *engine.Table
	at      map[string]int // of a key, in states
	states  []engine.Change
	deleted []engine.Row // keys whose delete sets off cascades; they are first
	upserts int
	// refers holds, for each foreign key of the table that cascades, the values that
	// rows written here have in it.
	refers []map[string]bool
	counts map[string]*count // of tables without a key
}

// count is how many more of a row there must be.
type count struct {
	row engine.Row
	n   int
}

func newSegment() *segment { return &segment{tables: map[string]*effect{}} }

func (s *segment) effect(x *apply, t *engine.Table) *effect {
	n := s.tables[t.Name.Name]
	if n == nil {
		n = &effect{t: t, at: map[string]int{}, counts: map[string]*count{}, refers: make([]map[string]bool, len(x.shape(t.Name.Name).parents))}
		s.tables[t.Name.Name] = n
		s.order = append(s.order, t.Name.Name)
	}
	return n
}

// Changes implements engine.Apply.
func (x *apply) Changes(ctx context.Context, cs []engine.Change) error {
	seg := newSegment()
	for _, c := range cs {
		t := x.tables[c.Table.Name]
		if t == nil {
			return fmt.Errorf("apply to %s: the table is not known: %w", c.Table, engine.ErrSchema)
		}
		if n := len(t.Carried()); c.New != nil && len(c.New) != n || c.New == nil && c.Old == nil && !c.Truncate {
			return fmt.Errorf("apply to %s: a change has %d values, not %d: %w", c.Table, len(c.New), n, engine.ErrSchema)
		}
		next, err := x.add(ctx, seg, t, c)
		if err != nil {
			return fmt.Errorf("apply to %s: %w", c.Table, err)
		}
		seg = next
	}
	return x.flush(ctx, seg)
}

// add puts a change into the segment, or applies that and the change and returns an
// empty one.
func (x *apply) add(ctx context.Context, seg *segment, t *engine.Table, c engine.Change) (*segment, error) {
	alone := func(f func() error) (*segment, error) {
		if err := x.flush(ctx, seg); err != nil {
			return nil, err
		}
		return newSegment(), f()
	}
	children := x.shape(t.Name.Name).children
	switch {
	case c.Truncate:
		return alone(func() error {
			if err := x.keys(ctx, false); err != nil {
				return err
			}
			return x.exec(ctx, "DELETE FROM "+ident(t.Name.Name))
		})
	case len(t.Key) == 0:
		seg.effect(x, t).tally(c)
	case c.New != nil && x.renames(t, c, children):
		return alone(func() error { return x.rename(ctx, t, c) })
	case c.New == nil && slices.ContainsFunc(children, func(r reference) bool { return r.onDelete }):
		if x.overtakes(seg, t, c.Old, children) {
			if err := x.flush(ctx, seg); err != nil {
				return nil, err
			}
			seg = newSegment()
		}
		n := seg.effect(x, t)
		n.deleted = append(n.deleted, c.Old)
		n.record(x, c)
		seg.acting = true
	default:
		seg.effect(x, t).record(x, c)
	}
	seg.all = append(seg.all, c)
	return seg, nil
}

// tally counts the rows of a table without a key.
func (n *effect) tally(c engine.Change) {
	add := func(r engine.Row, by int) {
		if r == nil {
			return
		}
		k := rowKey(r)
		if n.counts[k] == nil {
			n.counts[k] = &count{row: r}
		}
		n.counts[k].n += by
	}
	add(c.Old, -1)
	add(c.New, 1)
}

// record notes the state of a key after a change.
func (n *effect) record(x *apply, c engine.Change) {
	put := func(k engine.Row, row engine.Row) {
		s := rowKey(k)
		i, ok := n.at[s]
		if !ok {
			i = len(n.states)
			n.at[s] = i
			n.states = append(n.states, engine.Change{})
		}
		n.states[i] = engine.Change{Table: n.t.Name, Old: k, New: row}
	}
	if c.Old != nil {
		put(c.Old, nil)
	}
	if c.New == nil {
		return
	}
	put(keyOf(keyPlaces(n.t), c.New), c.New)
	n.upserts++
	for i, r := range x.shape(n.t.Name.Name).parents {
		if n.refers[i] == nil {
			n.refers[i] = map[string]bool{}
		}
		n.refers[i][rowKey(pick(n.t, c.New, r.columns))] = true
	}
}

// pick returns the values of named columns of a row.
func pick(t *engine.Table, row engine.Row, names []string) engine.Row {
	var out engine.Row
	for at, i := range t.Carried() {
		if slices.Contains(names, t.Columns[i].Name) {
			out = append(out, row[at])
		}
	}
	return out
}

// renames tells whether an update changes what children follow by themselves. What
// columns outside the key were before is not told, so any update counts of those.
func (x *apply) renames(t *engine.Table, c engine.Change, children []reference) bool {
	key := map[string]bool{}
	for _, k := range keyed(t) {
		key[k.Name] = true
	}
	for _, r := range children {
		if !r.onUpdate {
			continue
		}
		if c.Old != nil {
			return true
		}
		for _, col := range r.refers {
			if !key[col] {
				return true
			}
		}
	}
	return false
}

// overtakes tells whether a delete that cascades, put before all else of the segment,
// would miss rows that were written before it, or take too many.
func (x *apply) overtakes(seg *segment, t *engine.Table, key engine.Row, children []reference) bool {
	for _, r := range children {
		if x.writtenBelow(seg, r.child, map[string]bool{}) {
			return true // the delete reaches them by way of rows that may not be in the segment
		}
		n := seg.tables[r.child]
		if n == nil || n.upserts == 0 {
			continue
		}
		if len(x.shape(r.child).children) > 0 || !exactKey(t, r) {
			return true
		}
		for i, p := range x.shape(r.child).parents {
			if p.parent == r.parent && slices.Equal(p.columns, r.columns) && n.refers[i][rowKey(key)] {
				return true
			}
		}
	}
	return false
}

// writtenBelow tells whether the segment writes to a table that refers to this one, at
// whatever distance.
func (x *apply) writtenBelow(seg *segment, table string, seen map[string]bool) bool {
	if seen[table] {
		return false
	}
	seen[table] = true
	for _, r := range x.shape(table).children {
		if n := seg.tables[r.child]; n != nil && n.upserts > 0 || x.writtenBelow(seg, r.child, seen) {
			return true
		}
	}
	return false
}

// exactKey tells whether the bytes of a foreign key decide whether it refers to a key:
// so they do where it is one column of whole numbers, and that the key.
func exactKey(t *engine.Table, r reference) bool {
	key := keyed(t)
	return len(key) == 1 && len(r.refers) == 1 && r.refers[0] == key[0].Name && key[0].kind == number_
}

// rename applies an update that children follow, by the server's own means.
func (x *apply) rename(ctx context.Context, t *engine.Table, c engine.Change) error {
	key, name := keyed(t), ident(t.Name.Name)
	if c.Old != nil {
		now := keyOf(keyPlaces(t), c.New)
		set := make([]string, len(key))
		for i, k := range key {
			set[i] = ident(k.Name) + " = " + k.literal(now[i])
		}
		if err := x.keys(ctx, false); err != nil {
			return err
		}
		// Applied again, the old row may be gone; what holds the new key is then right.
		var n int
		err := scan(ctx, x.a.conn, "SELECT 1 FROM "+name+" WHERE "+equal("", key, c.Old)+" LIMIT 1", func(engine.Row) error { n++; return nil })
		if err != nil {
			return err
		}
		if n > 0 {
			if err := x.exec(ctx, "DELETE FROM "+name+" WHERE "+equal("", key, now)+" AND NOT "+equal("", key, c.Old)); err != nil {
				return err
			}
			if err := x.keys(ctx, true); err != nil {
				return err
			}
			if err := x.exec(ctx, "UPDATE "+name+" SET "+strings.Join(set, ", ")+" WHERE "+equal("", key, c.Old)); err != nil {
				return err
			}
		}
	}
	if err := x.keys(ctx, true); err != nil {
		return err
	}
	if err := x.upsert(ctx, t, []engine.Row{c.New}); err != nil {
		return err
	}
	return x.keys(ctx, false)
}

// flush applies a segment.
func (x *apply) flush(ctx context.Context, seg *segment) error {
	if len(seg.order) == 0 {
		return nil
	}
	if !seg.acting {
		return x.collapsed(ctx, seg)
	}
	if err := x.exec(ctx, "SAVEPOINT leeward"); err != nil {
		return err
	}
	err := x.collapsed(ctx, seg)
	if n := number(err); len(seg.all) < 2 || n != errRowReferenced && n != errNoReferenced && n != errDuplicate {
		return err
	}
	// A child that forbids the delete goes, or turns elsewhere, in the same segment.
	if err := x.exec(ctx, "ROLLBACK TO SAVEPOINT leeward"); err != nil {
		return err
	}
	for _, c := range seg.all {
		one := newSegment()
		one, err := x.add(ctx, one, x.tables[c.Table.Name], c)
		if err == nil {
			err = x.collapsed(ctx, one)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collapsed applies a segment by table: first the deletes that cascade, children
// before parents, then other deletes, then what is written.
func (x *apply) collapsed(ctx context.Context, seg *segment) error {
	if err := x.keys(ctx, false); err != nil {
		return err
	}
	// Deletes that set nothing off come first: they may be of rows that forbid one.
	for _, name := range seg.order {
		n := seg.tables[name]
		if n.deleted != nil {
			continue
		}
		if err := x.deleteGone(ctx, n); err != nil {
			return fmt.Errorf("delete from %s: %w", name, err)
		}
	}
	if seg.acting {
		if err := x.cascade(ctx, seg); err != nil {
			return err
		}
	}
	for _, name := range seg.order {
		if err := x.write(ctx, seg.tables[name]); err != nil {
			return fmt.Errorf("write to %s: %w", name, err)
		}
	}
	return nil
}

// cascade deletes rows with the foreign keys in force.
func (x *apply) cascade(ctx context.Context, seg *segment) error {
	names := slices.Clone(seg.order)
	slices.SortStableFunc(names, func(a, b string) int { return x.depth(b, nil) - x.depth(a, nil) })
	if err := x.keys(ctx, true); err != nil {
		return err
	}
	for _, name := range names {
		n := seg.tables[name]
		if n.deleted == nil {
			continue
		}
		if _, err := x.deleteKeys(ctx, n.t, distinct(n.deleted)); err != nil {
			return fmt.Errorf("delete from %s: %w", name, err)
		}
	}
	if err := x.keys(ctx, false); err != nil {
		return err
	}
	for _, name := range names {
		if n := seg.tables[name]; n.deleted != nil {
			// A key that moved away leaves no children behind.
			if err := x.deleteGone(ctx, n); err != nil {
				return fmt.Errorf("delete from %s: %w", name, err)
			}
		}
	}
	return nil
}

// depth is how many tables stand above one by foreign keys.
func (x *apply) depth(name string, path []string) int {
	if slices.Contains(path, name) {
		return 0
	}
	deep := 0
	for _, p := range x.shape(name).refers {
		if p != name {
			deep = max(deep, 1+x.depth(p, append(path, name)))
		}
	}
	return deep
}

// deleteGone deletes the keys that are gone in the end.
func (x *apply) deleteGone(ctx context.Context, n *effect) error {
	var keys []engine.Row
	for _, s := range n.states {
		if s.New == nil {
			keys = append(keys, s.Old)
		}
	}
	if _, err := x.deleteKeys(ctx, n.t, keys); err != nil {
		return err
	}
	cols := carried(n.t)
	for _, c := range n.counts {
		if c.n < 0 {
			q := fmt.Sprintf("DELETE FROM %s WHERE %s LIMIT %d", ident(n.t.Name.Name), wholly("", cols, c.row), -c.n)
			if err := x.exec(ctx, q); err != nil {
				return err
			}
		}
	}
	return nil
}

// write brings in the rows that are there in the end.
func (x *apply) write(ctx context.Context, n *effect) error {
	var rows []engine.Row
	for _, s := range n.states {
		if s.New != nil {
			rows = append(rows, s.New)
		}
	}
	for _, c := range n.counts {
		for range c.n {
			rows = append(rows, c.row)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return x.upsert(ctx, n.t, rows)
}
