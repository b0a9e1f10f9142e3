package enginetest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// follower applies a source's changes to a target as plainly as can be: each source
// transaction is one of the target.
type follower struct {
	e      *env
	state  engine.State
	tables []*engine.Table // the target's
	apply  engine.Apply    // of the transaction that is open
	// What was seen, for checks.
	pieces, commits, beats, largest int
	keep                            bool // keep changes in seen
	seen                            []engine.Change
	counters                        []engine.Counter
}

// follow applies all that is committed at the source by now, and returns the state
// that the target then stands for.
func (e *env) follow(ctx context.Context, st engine.State, names ...string) (engine.State, error) {
	f, err := e.follower(ctx, st, names...)
	if err != nil {
		return st, err
	}
	return f.catchUp(ctx, names...)
}

func (e *env) follower(ctx context.Context, st engine.State, names ...string) (*follower, error) {
	ts, err := e.tablesAt(ctx, names...)
	return &follower{e: e, state: st, tables: ts}, err
}

// catchUp follows up to a mark taken now.
func (f *follower) catchUp(ctx context.Context, names ...string) (engine.State, error) {
	until, err := f.e.src.Mark(ctx, stream)
	if err != nil {
		return f.state, fmt.Errorf("mark: %w", err)
	}
	return f.until(ctx, until, names...)
}

func (f *follower) until(ctx context.Context, until engine.Pos, names ...string) (_ engine.State, err error) {
	ts, err := f.e.tables(ctx, names...)
	if err != nil {
		return f.state, err
	}
	ctx, cancel := context.WithTimeout(ctx, caseLimit/2)
	defer cancel()
	defer func() {
		if f.apply != nil {
			err = errors.Join(err, f.apply.Rollback())
			f.apply = nil
		}
	}()
	if behind, err := f.e.src.Before(f.state.Pos, until); err != nil || !behind {
		return f.state, err
	}
	for p, err := range f.e.src.Changes(ctx, stream, ts, f.state.Pos) {
		if err != nil {
			return f.state, fmt.Errorf("changes: %w", err)
		}
		if err := f.piece(ctx, p); err != nil {
			return f.state, err
		}
		if p.End == nil && p.Heartbeat == nil {
			continue
		}
		behind, err := f.e.src.Before(f.state.Pos, until)
		if err != nil {
			return f.state, fmt.Errorf("compare positions: %w", err)
		}
		if !behind {
			return f.state, nil
		}
	}
	return f.state, fmt.Errorf("the stream ended at %s, before the mark %s", f.state.Pos, until)
}

// piece applies one piece, and ends the transaction with the last of it.
func (f *follower) piece(ctx context.Context, p engine.Piece) error {
	if err := shape(p); err != nil {
		return err
	}
	if p.Heartbeat != nil {
		f.beats++
		if f.apply != nil {
			return errors.New("a heartbeat came within a transaction")
		}
		return f.advance(*p.Heartbeat)
	}
	f.pieces++
	f.largest = max(f.largest, size(p.Changes))
	if f.keep {
		f.seen = append(f.seen, p.Changes...)
	}
	if f.apply == nil {
		var err error
		if f.apply, err = f.e.dst.Begin(ctx, f.state, f.tables); err != nil {
			return fmt.Errorf("begin: %w", err)
		}
	}
	if err := f.apply.Changes(ctx, p.Changes); err != nil {
		return fmt.Errorf("apply %d changes: %w", len(p.Changes), err)
	}
	if p.End == nil {
		return nil
	}
	return f.end(ctx, *p.End)
}

func (f *follower) end(ctx context.Context, c engine.Commit) error {
	if back, err := f.e.src.Before(c.Pos, f.state.Pos); err != nil || back {
		return errors.Join(err, fmt.Errorf("a transaction at %s came after %s", c.Pos, f.state.Pos))
	}
	cs, err := f.e.src.Counters(ctx)
	if err != nil {
		return fmt.Errorf("read counters: %w", err)
	}
	if err := f.apply.Counters(ctx, cs); err != nil {
		return fmt.Errorf("store counters: %w", err)
	}
	to := f.state
	to.Pos, to.SourceTime = c.Pos, c.Time
	st, err := f.apply.Commit(ctx, to)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	f.apply = nil
	f.commits++
	f.state, f.counters = st, cs
	return nil
}

// advance moves the position without a transaction at the target: only the next
// Begin must know what the row holds, so the row moves too.
func (f *follower) advance(c engine.Commit) error {
	ahead, err := f.e.src.Before(f.state.Pos, c.Pos)
	if err != nil || !ahead {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	to := f.state
	to.Pos = c.Pos
	f.state, err = f.e.commit(ctx, f.state, to, f.tables, nil)
	return err
}

// shape checks what holds for every piece.
func shape(p engine.Piece) error {
	switch {
	case p.Heartbeat != nil && (len(p.Changes) > 0 || len(p.DDL) > 0 || p.End != nil):
		return errors.New("a piece with a heartbeat holds more")
	case len(p.DDL) > 0 && len(p.Changes) > 0:
		return errors.New("a piece holds DDL and changes")
	case p.End != nil && p.End.Pos == "":
		return errors.New("a transaction ends without a position")
	}
	for _, c := range p.Changes {
		switch {
		case c.Table.Name == "":
			return errors.New("a change has no table")
		case c.Truncate:
		case c.New == nil && c.Old == nil:
			return fmt.Errorf("a change of %s has neither an old nor a new row", c.Table)
		case c.Unset != nil && len(c.Unset) != len(c.New):
			return fmt.Errorf("a change of %s has %d values and %d marks", c.Table, len(c.New), len(c.Unset))
		}
	}
	return nil
}

func size(cs []engine.Change) int {
	n := 0
	for _, c := range cs {
		for _, v := range c.New {
			n += len(v)
		}
		for _, v := range c.Old {
			n += len(v)
		}
	}
	return n
}
