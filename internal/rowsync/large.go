package rowsync

import (
	"context"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// large applies one source transaction piece by piece, never holding more than one in
// memory.
type large struct {
	a       *applier
	end     engine.Pos
	parts   bool         // it is committed in several transactions of the target
	tx      engine.Apply // nil between them
	pieces  int          // so far
	bytes   int          // since the last part
	changes int64
	ddl     bool
}

func (t *large) fail(err error) error {
	if t.tx == nil {
		return err
	}
	return errors.Join(err, t.tx.Rollback())
}

func (t *large) piece(ctx context.Context, p engine.Piece) error {
	t.pieces++
	if t.pieces <= t.a.skip {
		return nil
	}
	for _, d := range p.DDL {
		if err := t.define(ctx, d); err != nil {
			return err
		}
	}
	if len(p.Changes) == 0 {
		return nil
	}
	if t.tx == nil {
		var err error
		if t.tx, err = t.a.begin(ctx); err != nil {
			return err
		}
	}
	if err := t.a.changes(ctx, t.tx, p.Changes); err != nil {
		return err
	}
	t.changes += int64(len(p.Changes))
	if t.bytes += pieceSize(&p); t.parts && int64(t.bytes) >= t.a.r.part && commitOf(&p) == nil {
		return t.part(ctx)
	}
	return nil
}

// part commits what there is of the transaction. The position stays before it: after
// a crash all of it is applied again, over itself.
func (t *large) part(ctx context.Context) error {
	if t.tx == nil {
		return nil
	}
	to := t.a.state
	if err := t.a.replace(ctx, t.tx, &to); err != nil {
		return err
	}
	if to.Phase == engine.Following {
		to.Phase, to.Until = engine.Partial, t.end
	}
	tx := t.tx
	t.tx, t.bytes = nil, 0
	return t.a.commit(ctx, tx, to, 0, 0)
}

func (t *large) finish(ctx context.Context, c *engine.Commit) error {
	if t.ddl {
		t.a.tables = nil // they are not what they were
	}
	if t.tx == nil {
		var err error
		if t.tx, err = t.a.begin(ctx); err != nil {
			return err
		}
	}
	to, err := t.a.ending(ctx, t.tx, t.a.state, c, c.Counters)
	if err != nil {
		return t.fail(err)
	}
	if err := t.a.commit(ctx, t.tx, to, 1, t.changes); err != nil {
		return err
	}
	t.a.skip = 0
	if !t.ddl {
		return nil
	}
	if err := t.a.r.notes.change(func(d *notesData) { d.Intent = nil }); err != nil {
		return err
	}
	return errAgain
}

// define follows a change of definitions, or stops the tables it concerns. DDL is in
// no transaction, so what is to be done is noted first: after a crash the definitions
// themselves tell whether it was done.
func (t *large) define(ctx context.Context, d engine.DDL) error {
	a := t.a
	t.ddl = true
	if !d.Follow {
		return t.refuse(d, "a change of definitions that cannot be followed: "+d.Statement)
	}
	if err := t.part(ctx); err != nil {
		return err
	}
	before, err := a.definitions(ctx)
	if err != nil {
		return err
	}
	note := &intent{After: a.state.Pos, End: t.end, Pieces: t.pieces, Before: before}
	if old := a.r.notes.get().Intent; old != nil && old.After == note.After && old.End == note.End && old.Pieces == note.Pieces {
		if old.Done || old.Before != before {
			return nil // it was executed before a crash
		}
	}
	if err := a.r.notes.change(func(n *notesData) { n.Intent = note }); err != nil {
		return err
	}
	a.r.log.Info("following a change of definitions", "statement", d.Statement)
	if err := a.dst.Execute(ctx, d.Statement); err != nil {
		if engine.Temporary(err) || ctx.Err() != nil {
			return fmt.Errorf("follow %q: %w", d.Statement, err)
		}
		return t.refuse(d, fmt.Sprintf("following %q failed at the target: %v", d.Statement, err))
	}
	return a.r.notes.change(func(n *notesData) { n.Intent.Done = true })
}

// refuse stops the tables of a statement; where it names none, a person must see it.
func (t *large) refuse(d engine.DDL, cause string) error {
	if len(d.Tables) == 0 {
		t.a.r.log.Warn("a change of definitions was not followed", "statement", d.Statement, "cause", cause)
		return nil
	}
	for _, n := range d.Tables {
		delete(t.a.pairs, n)
	}
	remedy := "make the target's definition that of the source, then replicate again: the table is compared anew"
	t.a.r.log.Warn("tables are not followed any more", "tables", fmt.Sprint(d.Tables), "cause", cause)
	return t.a.r.notes.stop(d.Tables, cause, remedy)
}

// definitions stands for all definitions of the target.
func (a *applier) definitions(ctx context.Context) (string, error) {
	s, err := a.dst.Schema(ctx)
	if err != nil {
		return "", fmt.Errorf("read the definitions of the target: %w", err)
	}
	return definitionsOf(s), nil
}

// resumeIntent finds out what a crash left of a change of definitions: pieces before
// it were applied under definitions that are no more, and must not be again.
func (a *applier) resumeIntent(ctx context.Context) error {
	i := a.r.notes.get().Intent
	if i == nil || i.After != a.state.Pos {
		return nil
	}
	now, err := a.definitions(ctx)
	if err != nil {
		return err
	}
	if i.Done || now != i.Before {
		a.skip = i.Pieces
	} else {
		a.skip = i.Pieces - 1
	}
	return nil
}
