package mssql

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// tracking pulls from change tracking. One cursor, for the whole database, moves on
// even where nothing happens, so that no quiet table falls behind what is kept.
type tracking struct {
	s      *source
	stream string
	tables []*engine.Table
	after  position
	since  map[engine.Name]int64 // from which version on a table is of the stream
}

func (s *source) tracking(ctx context.Context, stream string, tables []*engine.Table, after position, r *record) (*tracking, error) {
	if r.version < after.n && r.version > 0 {
		return nil, &engine.Expired{Cause: fmt.Sprintf("the source says that it has given out version %d at most, the target has %d: it was restored to an earlier time", r.version, after.n)}
	}
	if after.n < r.tick-1 {
		return nil, madeAnew(r.tick-1, after.n)
	}
	p := &tracking{s: s, stream: stream, tables: tables, after: after, since: map[engine.Name]int64{}}
	err := s.plain(ctx, func(ss *session) error {
		have, err := ss.captures(ctx, stream)
		for _, m := range have {
			if m.rows != nil {
				p.since[m.table] = *m.rows
			}
		}
		return err
	})
	return p, err
}

// from is the version from which on changes of a table are wanted: a table that came
// to the stream later was compared since.
func (p *tracking) from(n engine.Name) int64 { return max(p.after.n, p.since[n]) }

func (p *tracking) poll(ctx context.Context) (more bool, at position, now time.Time, err error) {
	var v int64
	err = p.s.plain(ctx, func(ss *session) error {
		v, now, err = ss.version(ctx)
		return err
	})
	if err == nil && v < p.after.n {
		err = &engine.Expired{Cause: fmt.Sprintf("the source is at version %d, before %d, which the target has: it was restored to an earlier time", v, p.after.n)}
	}
	return v > p.after.n, p.after, now, err
}

func (p *tracking) pull(ctx context.Context, out *sender) (engine.Commit, position, error) {
	var end engine.Commit
	var at position
	err := p.s.plain(ctx, func(ss *session) error {
		if err := ss.begin(ctx, snapshotLevel); err != nil {
			return err
		}
		// Before any row is read, as the snapshot is made by the first one: it then holds
		// all that the version stands for, and what it holds beyond comes again.
		v, now, err := ss.version(ctx)
		if err != nil {
			return err
		}
		at = position{method: "ct", n: v}
		end = engine.Commit{Pos: at.pos(), Time: now}
		if err := p.valid(ctx, ss, v); err != nil {
			return err
		}
		if err := p.send(ctx, ss, out); err != nil {
			return err
		}
		if end.Counters, err = ss.counters(ctx); err != nil {
			return err
		}
		return ss.commit(ctx)
	})
	if err != nil {
		return end, at, err
	}
	// Recorded before it is given out, so that a record behind a position can only be
	// one that went back in time.
	err = p.s.plain(ctx, func(ss *session) error {
		if ss.isReadOnly(ctx) {
			return nil
		}
		_, err := ss.exec(ctx, sqlBeat(), p.stream, at.n)
		return err
	})
	if err == nil {
		p.after = at
	}
	return end, at, err
}

// minValid reads from which version on the changes of each table are known.
func (s *session) minValid(ctx context.Context) (map[engine.Name]int64, error) {
	out := map[engine.Name]int64{}
	err := s.each(ctx, sqlTrackedTables(), func(scan func(...any) error) error {
		var n engine.Name
		var v *int64
		if err := scan(&n.Schema, &n.Name, &v); err != nil {
			return err
		}
		if v != nil {
			out[n] = *v
		}
		return nil
	})
	return out, err
}

// valid holds that changes after the cursor are all known.
func (p *tracking) valid(ctx context.Context, ss *session, v int64) error {
	if v < p.after.n {
		return &engine.Expired{Cause: fmt.Sprintf("the source is at version %d, before %d, which the target has: it was restored to an earlier time", v, p.after.n)}
	}
	from, err := ss.minValid(ctx)
	if err != nil {
		return err
	}
	gone := &engine.Expired{}
	for _, t := range p.tables {
		n, ok := from[t.Name]
		switch {
		case !ok:
			gone.Tables = append(gone.Tables, t.Name)
			gone.Cause = "change tracking of " + t.Name.String() + " is off: it was switched off, or the table made anew"
		case n > p.from(t.Name):
			gone.Tables = append(gone.Tables, t.Name)
			gone.Cause = fmt.Sprintf("changes of %s are known from version %d on only, the target has %d: they were cleaned up, or the table was truncated or made anew", t.Name, n, p.from(t.Name))
		}
	}
	if len(gone.Tables) > 0 {
		return gone
	}
	return ss.sameShape(ctx, p.tables)
}

// atOnce is of how many tables one statement asks whether they changed.
const atOnce = 100

func (p *tracking) send(ctx context.Context, ss *session, out *sender) error {
	var old, young []*engine.Table
	for _, t := range p.tables {
		if p.from(t.Name) > p.after.n {
			young = append(young, t)
		} else {
			old = append(old, t)
		}
	}
	for _, t := range young {
		if err := p.sendTable(ctx, ss, t, out); err != nil {
			return err
		}
	}
	for group := range slices.Chunk(old, atOnce) {
		names := make([]engine.Name, len(group))
		for i, t := range group {
			names[i] = t.Name
		}
		var changed []int
		err := ss.each(ctx, sqlWhichChanged(names), func(scan func(...any) error) error {
			var n int
			err := scan(&n)
			changed = append(changed, n)
			return err
		}, p.after.n)
		if err != nil {
			return err
		}
		for _, n := range changed {
			if n < 0 || n >= len(group) {
				return fmt.Errorf("the server named table %d of %d", n, len(group))
			}
			if err := p.sendTable(ctx, ss, group[n], out); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *tracking) sendTable(ctx context.Context, ss *session, t *engine.Table, out *sender) error {
	key, cols, err := columnsOf(t)
	if err != nil {
		return err
	}
	return ss.each(ctx, sqlTrackedChanges(t, key, cols, ss.d.dialect), func(scan func(...any) error) error {
		c, err := change(t, key, cols, scan)
		if err != nil {
			return err
		}
		return out.add(c)
	}, p.from(t.Name))
}

// madeAnew is of a position before the history that there is.
func madeAnew(start, after int64) error {
	return &engine.Expired{Cause: fmt.Sprintf("capture was made anew at %d, after %d, which the target has: what was changed between is not known", start, after)}
}
