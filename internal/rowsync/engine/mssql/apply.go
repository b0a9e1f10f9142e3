package mssql

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// apply is one transaction of a target.
type apply struct {
	t         *target
	s         *session
	from      engine.State
	tables    []*engine.Table
	keys      []*foreignKey // enforced ones
	displaced map[engine.Name][]engine.Row
	counters  map[engine.Counter]string
	over      bool
}

// pile is the last states of the rows of one table, of some changes.
type pile struct {
	t         *engine.Table
	key, cols []col
	last      map[string]int // by key, index into entries
	entries   []entry
	up, del   string // staging tables
}

// entry is the state of one key: a row, or none.
type entry struct {
	key, row engine.Row
	dead     bool // replaced by a later one
}

// Changes implements engine.Apply.
func (a *apply) Changes(ctx context.Context, cs []engine.Change) error {
	for len(cs) > 0 {
		n := slices.IndexFunc(cs, func(c engine.Change) bool { return c.Truncate })
		if n < 0 {
			n = len(cs)
		}
		if err := a.run(ctx, cs[:n]); err != nil {
			return wrap(err, "apply changes")
		}
		if cs = cs[n:]; len(cs) > 0 {
			if _, err := a.s.exec(ctx, sqlDeleteAll(cs[0].Table)); err != nil {
				return wrap(err, "empty %s", cs[0].Table)
			}
			cs = cs[1:]
		}
	}
	return nil
}

// run applies changes none of which empties a table.
func (a *apply) run(ctx context.Context, cs []engine.Change) error {
	piles, err := a.piles(cs)
	if err != nil || len(piles) == 0 {
		return err
	}
	var names []engine.Name
	for _, p := range piles {
		names = append(names, p.t.Name)
	}
	plan, err := planOrder(names, a.keys)
	if err != nil {
		return err
	}
	sorted := make([]*pile, 0, len(piles))
	for _, n := range plan.parents {
		sorted = append(sorted, piles[slices.IndexFunc(piles, func(p *pile) bool { return p.t.Name == n })])
	}
	for i, p := range sorted {
		if err := a.stagePile(ctx, p, i); err != nil {
			return fmt.Errorf("stage rows of %s: %w", p.t.Name, err)
		}
	}
	if err := a.write(ctx, sorted, plan); err != nil {
		return err
	}
	for _, p := range sorted {
		for _, t := range []string{p.up, p.del} {
			if t == "" {
				continue
			}
			if _, err := a.s.exec(ctx, sqlDropStage(t)); err != nil {
				return err
			}
		}
	}
	return nil
}

// piles sorts changes by table and keeps the last state of each key.
func (a *apply) piles(cs []engine.Change) ([]*pile, error) {
	var out []*pile
	byName := map[engine.Name]*pile{}
	for _, c := range cs {
		p := byName[c.Table]
		if p == nil {
			i := slices.IndexFunc(a.tables, func(t *engine.Table) bool { return t.Name == c.Table })
			if i < 0 {
				return nil, fmt.Errorf("table %s is not among those of this transaction: %w", c.Table, engine.ErrSchema)
			}
			key, cols, err := columnsOf(a.tables[i])
			if err != nil {
				return nil, err
			}
			p = &pile{t: a.tables[i], key: key, cols: cols, last: map[string]int{}}
			byName[c.Table] = p
			out = append(out, p)
		}
		if err := p.add(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *pile) add(c engine.Change) error {
	if c.New == nil {
		if len(c.Old) != len(p.key) {
			return fmt.Errorf("a deletion from %s has %d values for a key of %d columns: %w", p.t.Name, len(c.Old), len(p.key), engine.ErrSchema)
		}
		p.put(entry{key: c.Old})
		return nil
	}
	if len(c.New) != len(p.cols) {
		return fmt.Errorf("a row of %s has %d values, the table %d columns: %w", p.t.Name, len(c.New), len(p.cols), engine.ErrSchema)
	}
	if slices.Contains(c.Unset, true) {
		return fmt.Errorf("a row of %s lacks values, which this engine always sends", p.t.Name)
	}
	key := make(engine.Row, len(p.key))
	for i, k := range p.key {
		j := slices.IndexFunc(p.cols, func(x col) bool { return x.i == k.i })
		if j < 0 {
			return fmt.Errorf("key column %s of %s is not carried: %w", k.Name, p.t.Name, engine.ErrSchema)
		}
		key[i] = c.New[j]
	}
	if c.Old != nil && packKey(c.Old) != packKey(key) {
		p.put(entry{key: c.Old})
	}
	p.put(entry{key: key, row: c.New})
	return nil
}

func (p *pile) put(e entry) {
	k := packKey(e.key)
	if i, ok := p.last[k]; ok {
		p.entries[i].dead = true
	}
	p.last[k] = len(p.entries)
	p.entries = append(p.entries, e)
}

// packKey makes one string of a key, different for different keys.
func packKey(r engine.Row) string {
	var b strings.Builder
	for _, v := range r {
		b.WriteString(strconv.Itoa(len(v)))
		b.WriteByte(':')
		b.Write(v)
	}
	return b.String()
}

// stagePile takes rows and keys of a pile to the server, numbered in the order of the
// source, and drops what a later entry of the same key replaces there: keys that differ
// for us may be one for the table's collation.
func (a *apply) stagePile(ctx context.Context, p *pile, i int) error {
	rows, gone := false, false
	for _, e := range p.entries {
		rows = rows || !e.dead && e.row != nil
		gone = gone || !e.dead && e.row == nil
	}
	if rows {
		p.up = upsertTable + strconv.Itoa(i)
		if err := a.stageEntries(ctx, p, p.up, p.cols, func(e entry) engine.Row { return e.row }); err != nil {
			return err
		}
	}
	if gone {
		p.del = deleteTable + strconv.Itoa(i)
		if err := a.stageEntries(ctx, p, p.del, p.key, func(e entry) engine.Row {
			if e.row != nil {
				return nil
			}
			return e.key
		}); err != nil {
			return err
		}
	}
	if !slices.ContainsFunc(p.key, func(c col) bool { return c.text() }) {
		return nil
	}
	for _, x := range []string{p.up, p.del} {
		for _, by := range []string{p.up, p.del} {
			if x == "" || by == "" {
				continue
			}
			if _, err := a.s.exec(ctx, sqlDropOlder(x, by, p.key)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *apply) stageEntries(ctx context.Context, p *pile, table string, cols []col, of func(entry) engine.Row) error {
	return a.s.stage(ctx, table, sqlStageRows(table, cols, a.s.d.dialect), stagedNames(cols), func(add func(...any) error) error {
		for n, e := range p.entries {
			r := of(e)
			if e.dead || r == nil {
				continue
			}
			v, err := natives(cols, r)
			if err != nil {
				return err
			}
			if err := add(append([]any{int64(n)}, v...)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// write brings the tables to the staged states. Rows go first, so that their unique
// values are free, children before parents; then rows come, parents before children;
// rows that others still referred to go last.
func (a *apply) write(ctx context.Context, piles []*pile, plan *orderPlan) error {
	for _, p := range slices.Backward(piles) {
		if p.del == "" {
			continue
		}
		q := sqlDeleteRows(p.t, p.key, p.del)
		if c := children(a.keys, p.t.Name); len(c) > 0 {
			q = sqlDeleteFree(p.t, p.key, p.del, c)
		}
		if _, err := a.s.exec(ctx, q); err != nil {
			return fmt.Errorf("delete rows of %s: %w", p.t.Name, err)
		}
	}
	for _, p := range piles {
		if p.up == "" {
			continue
		}
		if _, _, err := a.upsert(ctx, p, plan.later[p.t.Name], plan.null[p.t.Name]); err != nil {
			return err
		}
	}
	for _, p := range piles {
		if p.up == "" || len(plan.later[p.t.Name]) == 0 {
			continue
		}
		if _, err := a.s.exec(ctx, sqlUpdateRows(p.t, p.key, p.cols, p.up)); err != nil {
			return fmt.Errorf("update rows of %s: %w", p.t.Name, err)
		}
	}
	for _, p := range slices.Backward(piles) {
		if p.del == "" || len(children(a.keys, p.t.Name)) == 0 {
			continue
		}
		if _, err := a.s.exec(ctx, sqlDeleteRows(p.t, p.key, p.del)); err != nil {
			return fmt.Errorf("delete rows of %s: %w", p.t.Name, err)
		}
	}
	return nil
}

// upsert updates the staged rows that are there and inserts those that are not. later
// names columns that are not updated now, null those that are inserted as NULL.
func (a *apply) upsert(ctx context.Context, p *pile, later, null map[string]bool) (updated, inserted int64, err error) {
	var anew int64
	identity := slices.IndexFunc(p.cols, func(c col) bool { return c.Identity })
	if identity >= 0 && !slices.ContainsFunc(p.key, func(c col) bool { return c.Identity }) {
		if _, err := a.s.exec(ctx, sqlDeleteOtherIdentity(p.t, p.key, p.cols[identity], p.up)); err != nil {
			return 0, 0, fmt.Errorf("delete rows of %s with other identities: %w", p.t.Name, err)
		}
	}
	now := slices.DeleteFunc(slices.Clone(p.cols), func(c col) bool { return later[c.Name] })
	if len(settable(now)) > 0 {
		updated, err = a.try(ctx, p, sqlUpdateRows(p.t, p.key, now, p.up))
		if uniqueViolation(err) {
			// Some servers look at each row by itself, so that values cannot change hands
			// within a statement: the rows are then made anew.
			updated, err = a.s.exec(ctx, sqlDeleteRows(p.t, p.key, p.up))
			anew = updated
		}
		if err != nil {
			return 0, 0, fmt.Errorf("update rows of %s: %w", p.t.Name, err)
		}
	}
	inserted, err = a.insert(ctx, p, identity >= 0, sqlInsertRows(p.t, p.key, p.cols, p.up, null))
	return updated, inserted - anew, err
}

func (a *apply) insert(ctx context.Context, p *pile, identity bool, query string) (int64, error) {
	if identity {
		if _, err := a.s.exec(ctx, sqlIdentityInsert(p.t.Name, true)); err != nil {
			return 0, fmt.Errorf("allow identities of %s: %w", p.t.Name, err)
		}
	}
	n, err := a.try(ctx, p, query)
	if identity && err == nil {
		_, err = a.s.exec(ctx, sqlIdentityInsert(p.t.Name, false))
	}
	if err != nil {
		return 0, fmt.Errorf("insert rows into %s: %w", p.t.Name, foreignHint(err))
	}
	return n, nil
}

func foreignHint(err error) error {
	if number(err) == 547 {
		return fmt.Errorf("%w: a constraint is enforced at the target that should be held off while it stands by", err)
	}
	return err
}

// try runs a statement; where it meets a unique value that another row holds, that row
// is moved out of the way and the statement run again.
func (a *apply) try(ctx context.Context, p *pile, query string) (int64, error) {
	n, err := a.s.exec(ctx, query)
	if !uniqueViolation(err) {
		return n, err
	}
	moved, err2 := a.displace(ctx, p)
	if err2 != nil {
		return 0, fmt.Errorf("move rows out of the way of unique values: %w", err2)
	}
	if moved == 0 {
		return 0, err
	}
	return a.s.exec(ctx, query)
}

// displace deletes rows that hold unique values which staged rows claim.
func (a *apply) displace(ctx context.Context, p *pile) (int, error) {
	if _, err := a.s.exec(ctx, sqlDropStage(displacedTable)); err != nil {
		return 0, err
	}
	if _, err := a.s.exec(ctx, sqlStageRows(displacedTable, p.key, a.s.d.dialect)); err != nil {
		return 0, err
	}
	for _, u := range p.t.Unique {
		var unique []col
		for _, i := range u {
			if j := slices.IndexFunc(p.cols, func(c col) bool { return c.i == i }); j >= 0 {
				unique = append(unique, p.cols[j])
			}
		}
		if len(unique) != len(u) {
			continue // of a computed column, which is not staged
		}
		if _, err := a.s.exec(ctx, sqlFindDisplaced(p.t, p.key, unique, p.up)); err != nil {
			return 0, err
		}
	}
	moved := 0
	err := a.s.each(ctx, sqlReadStagedKeys(p.key, displacedTable, a.s.d.dialect), func(scan func(...any) error) error {
		k, err := scanRow(scan, p.key, nil)
		if err == nil {
			moved++
			a.displaced[p.t.Name] = append(a.displaced[p.t.Name], k)
		}
		return err
	})
	if err != nil || moved == 0 {
		return 0, err
	}
	_, err = a.s.exec(ctx, sqlDeleteRows(p.t, p.key, displacedTable))
	return moved, err
}

// Delete implements engine.Apply.
func (a *apply) Delete(ctx context.Context, t *engine.Table, keys []engine.Row) (int64, error) {
	key, err := keyOf(t)
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	if err := a.s.stageRows(ctx, keyTable, key, keys); err != nil {
		return 0, wrap(err, "stage keys of %s", t.Name)
	}
	n, err := a.s.exec(ctx, sqlDeleteRows(t, key, keyTable))
	return n, wrap(err, "delete rows of %s", t.Name)
}

// Displaced implements engine.Apply.
func (a *apply) Displaced() map[engine.Name][]engine.Row { return a.displaced }

// Counters implements engine.Apply. Only those that moved are written.
func (a *apply) Counters(ctx context.Context, cs []engine.Counter) error {
	for _, c := range cs {
		k := c
		k.Value, k.Kind = "", a.from.Stream+"/"+c.Kind
		a.t.mu.Lock()
		known, ok := a.t.counters[k]
		a.t.mu.Unlock()
		if ok && known == c.Value {
			continue
		}
		args := []any{a.from.Stream, c.Kind, c.Name.Schema, c.Name.Name, c.Column, c.Value}
		n, err := a.s.exec(ctx, sqlSetCounter(), args...)
		if err == nil && n == 0 {
			_, err = a.s.exec(ctx, sqlAddCounter(), args...)
		}
		if err != nil {
			return wrap(err, "store where %s %s stands", c.Kind, c.Name)
		}
		a.counters[k] = c.Value
	}
	return nil
}

// Commit implements engine.Apply.
func (a *apply) Commit(ctx context.Context, to engine.State) (engine.State, error) {
	to.Stream, to.Serial = a.from.Stream, a.from.Serial+1
	n, err := a.s.exec(ctx, sqlSetState(), to.Stream, to.Serial, string(to.Pos), string(to.Phase), string(to.Until), to.Epoch, to.Fingerprint, timeText(to.SourceTime))
	if err == nil && n != 1 {
		err = engine.ErrConflict
	}
	if err == nil {
		err = a.s.commit(ctx)
	}
	if err != nil {
		return a.from, wrap(err, "commit a transaction of stream %s", to.Stream)
	}
	a.over = true
	a.t.mu.Lock()
	for k, v := range a.counters {
		a.t.counters[k] = v
	}
	a.t.mu.Unlock()
	_ = a.s.end() // committed is committed
	return to, nil
}

// Rollback implements engine.Apply. It may be called after Commit failed.
func (a *apply) Rollback() error {
	if a.over {
		return nil
	}
	a.over = true
	return a.s.end()
}
