package postgres

import (
	"encoding/binary"
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// outcome is what a run of changes comes to for one table: one state for each key, or,
// without a key, how many times each row came or went.
type outcome struct {
	table     *engine.Table
	carried   []int
	key       []int // places of the key in a row
	truncated bool
	states    map[string]*state
	order     []*state // as they first came
}

// state is what a key is to be.
type state struct {
	id    string
	key   engine.Row
	row   engine.Row // nil: gone
	unset []bool
	base  engine.Row // the key under which the target has the values that are unset
	times int        // for tables without a key: rows to add, or, below zero, to take away
}

func newOutcome(t *engine.Table) *outcome {
	n := &outcome{table: t, carried: t.Carried(), states: map[string]*state{}}
	for _, k := range t.Key {
		for i, c := range n.carried {
			if c == k {
				n.key = append(n.key, i)
			}
		}
	}
	return n
}

// rowID tells rows and keys apart; NULL is not empty.
func rowID(r engine.Row) string {
	size := 0
	for _, v := range r {
		size += len(v) + 4
	}
	b := make([]byte, 0, size)
	for _, v := range r {
		n := uint32(len(v))
		if v == nil {
			n = 0xffffffff
		}
		b = binary.BigEndian.AppendUint32(b, n)
		b = append(b, v...)
	}
	return string(b)
}

func (n *outcome) keyOf(row engine.Row) engine.Row {
	k := make(engine.Row, len(n.key))
	for i, c := range n.key {
		k[i] = row[c]
	}
	return k
}

// set makes s what its key is to be.
func (n *outcome) set(s *state) {
	if old := n.states[s.id]; old != nil {
		*old = *s
		return
	}
	n.states[s.id] = s
	n.order = append(n.order, s)
}

func (n *outcome) add(c engine.Change) error {
	if c.Truncate {
		n.truncated = true
		n.states, n.order = map[string]*state{}, nil
		return nil
	}
	if c.New != nil && len(c.New) != len(n.carried) {
		return fmt.Errorf("apply to %s: %w: a row of %d columns, not %d", n.table.Name, engine.ErrSchema, len(c.New), len(n.carried))
	}
	if n.key == nil {
		return n.addWhole(c)
	}
	if c.New == nil {
		n.set(&state{id: rowID(c.Old), key: c.Old})
		return nil
	}
	s := &state{key: n.keyOf(c.New), row: c.New}
	s.id = rowID(s.key)
	old := s.key
	if c.Old != nil {
		old = c.Old
	}
	oldID := rowID(old)
	if c.Unset != nil {
		n.inherit(s, c.Unset, n.states[oldID], old)
	}
	if oldID != s.id {
		n.set(&state{id: oldID, key: old})
	}
	n.set(s)
	return nil
}

// inherit gives a state the values that were not sent, from the state before within
// these changes; what is not known there either is at the target, under base.
func (n *outcome) inherit(s *state, unset []bool, before *state, old engine.Row) {
	row := append(engine.Row(nil), s.row...)
	left := make([]bool, len(row))
	any := false
	for i, u := range unset {
		switch {
		case !u:
		case before != nil && before.row != nil && (before.unset == nil || !before.unset[i]):
			row[i] = before.row[i]
		default:
			left[i], any = true, true
		}
	}
	s.row = row
	if !any {
		return
	}
	s.unset = left
	switch {
	case before != nil:
		s.base = before.base // nil for one that was deleted: nothing to inherit
	case !n.truncated:
		s.base = old
	}
}

// addWhole counts rows of a table without a key.
func (n *outcome) addWhole(c engine.Change) error {
	for _, u := range c.Unset {
		if u {
			return fmt.Errorf("apply to %s: %w: a row came without all columns, and the table has no key", n.table.Name, engine.ErrSchema)
		}
	}
	tally := func(row engine.Row, by int) {
		if row == nil {
			return
		}
		id := rowID(row)
		if s := n.states[id]; s != nil {
			s.times += by
			return
		}
		n.set(&state{id: id, key: row, row: row, times: by})
	}
	tally(c.Old, -1)
	tally(c.New, 1)
	return nil
}
