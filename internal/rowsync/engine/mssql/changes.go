package mssql

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	pollMin    = 100 * time.Millisecond // while there are changes
	pollMax    = time.Second            // when there have been none for a while
	beatEvery  = 2 * time.Second
	pieceLimit = 1 << 20 // bytes of values in one Piece
)

// puller reads changes in one way. A pull is one state of the database: all that was
// committed after a position, up to the one that it returns.
type puller interface {
	// poll reports whether there is something to pull, and the position up to which
	// there is nothing where there is not.
	poll(ctx context.Context) (more bool, at position, now time.Time, err error)
	// pull sends changes to out and returns what ends them.
	pull(ctx context.Context, out *sender) (engine.Commit, position, error)
}

// Changes implements engine.Feed.
func (s *source) Changes(ctx context.Context, stream string, tables []*engine.Table, after engine.Pos) iter.Seq2[engine.Piece, error] {
	return func(yield func(engine.Piece, error) bool) {
		err := s.follow(ctx, stream, tables, after, yield)
		if err != nil && !errors.Is(err, errStop) && ctx.Err() == nil {
			var gone *engine.Expired
			var changed *engine.SchemaChanged
			if !errors.As(err, &gone) && !errors.As(err, &changed) {
				err = wrap(err, "read changes of stream %s", stream)
			}
			yield(engine.Piece{}, err)
		}
	}
}

func (s *source) follow(ctx context.Context, stream string, tables []*engine.Table, after engine.Pos, yield func(engine.Piece, error) bool) error {
	p, err := s.puller(ctx, stream, tables, after)
	if err != nil {
		return err
	}
	var beaten position
	var beatAt time.Time
	for wait := pollMin; ; {
		more, at, now, err := p.poll(ctx)
		if err != nil {
			return err
		}
		sent := false
		if more {
			out := &sender{yield: yield}
			end, reached, err := p.pull(ctx, out)
			if err != nil {
				return err
			}
			if out.changes > 0 {
				if err := out.end(end); err != nil {
					return err
				}
				sent, wait = true, pollMin
			}
			at, now = reached, end.Time
		}
		if sent {
			beaten, beatAt = at, time.Now()
		} else if at.n > beaten.n || time.Since(beatAt) > beatEvery {
			if !yield(engine.Piece{Heartbeat: &engine.Commit{Pos: at.pos(), Time: now}}, nil) {
				return errStop
			}
			beaten, beatAt = at, time.Now()
		}
		if !sent {
			if err := sleep(ctx, wait); err != nil {
				return err
			}
			wait = min(pollMax, wait*5/4)
		}
	}
}

// puller finds out how the stream is captured and whether the position can be followed.
func (s *source) puller(ctx context.Context, stream string, tables []*engine.Table, after engine.Pos) (puller, error) {
	p, err := parsePos(after)
	if err != nil {
		return nil, err
	}
	var r *record
	err = s.plain(ctx, func(ss *session) error {
		if r, err = ss.record(ctx, stream); err != nil || r == nil {
			return err
		}
		if !s.d.snapshotOn.Load() {
			s.d.snapshotOn.Store(ss.snapshotState(ctx) == snapshotIsOn)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case r == nil:
		return nil, &engine.Expired{Cause: "capture for stream " + stream + " is not there: it was removed, or the database was restored to a time before it"}
	case r.method == methodTracking && p.method != "ct", r.method == methodTriggers && p.method != "tr":
		return nil, &engine.Expired{Cause: fmt.Sprintf("the stream is captured by %s now, and position %s is of another way", r.method, after)}
	}
	if r.method == methodTracking {
		return s.tracking(ctx, stream, tables, p, r)
	}
	return s.logs(ctx, stream, tables, p, r)
}

// sender makes pieces of changes.
type sender struct {
	yield   func(engine.Piece, error) bool
	pending []engine.Change
	size    int
	changes int
}

func (o *sender) add(c engine.Change) error {
	for _, v := range c.New {
		o.size += len(v)
	}
	for _, v := range c.Old {
		o.size += len(v)
	}
	o.size += 64
	o.pending = append(o.pending, c)
	o.changes++
	if o.size < pieceLimit {
		return nil
	}
	p := engine.Piece{Changes: o.pending}
	o.pending, o.size = nil, 0
	if !o.yield(p, nil) {
		return errStop
	}
	return nil
}

func (o *sender) end(c engine.Commit) error {
	if !o.yield(engine.Piece{Changes: o.pending, End: &c}, nil) {
		return errStop
	}
	return nil
}

// change makes a change of a row that was read with its key before it and a mark
// whether it is gone.
func change(t *engine.Table, key, cols []col, scan func(...any) error) (engine.Change, error) {
	c := engine.Change{Table: t.Name}
	values := make([]any, len(key)+1+len(cols))
	into := make([]any, len(values))
	for i := range values {
		into[i] = &values[i]
	}
	if err := scan(into...); err != nil {
		return c, err
	}
	gone := fmt.Sprint(values[len(key)]) == "1"
	row := func(cols []col, values []any) (engine.Row, error) {
		r := make(engine.Row, len(cols))
		for i := range cols {
			b, err := cols[i].encode(values[i])
			if err != nil {
				return nil, fmt.Errorf("column %s of %s: %w", cols[i].Name, t.Name, err)
			}
			r[i] = b
		}
		return r, nil
	}
	var err error
	if gone {
		c.Old, err = row(key, values)
	} else {
		c.New, err = row(cols, values[len(key)+1:])
	}
	return c, err
}

// sameShape holds that the tables are still as the stream knows them. It is asked in
// the transaction that reads the rows.
func (s *session) sameShape(ctx context.Context, tables []*engine.Table) error {
	c := &catalog{byID: map[int64]*tableInfo{}}
	for _, read := range []func(context.Context, *session) error{c.readTables, c.readColumns} {
		if err := read(ctx, s); err != nil {
			return err
		}
	}
	for _, t := range tables {
		now := c.table(t.Name)
		if now == nil {
			return &engine.SchemaChanged{Tables: []engine.Name{t.Name}, Cause: "table " + t.Name.String() + " was dropped or renamed at the source",
				Remedy: "drop or rename it at the target, too, or take it out of the replicated tables, and replicate again"}
		}
		if why := differs(t, now); why != "" {
			return &engine.SchemaChanged{Tables: []engine.Name{t.Name}, Cause: "table " + t.Name.String() + " was altered at the source: " + why,
				Remedy: "run the same ALTER TABLE " + obj(t.Name) + " at the target and replicate again: the table is then compared, and followed on"}
		}
	}
	return nil
}

// differs says what changed in a table's columns.
func differs(was *engine.Table, now *tableInfo) string {
	for i, c := range was.Columns {
		if i >= len(now.columns) || now.columns[i].name != c.Name {
			return "column " + c.Name + " is gone or moved"
		}
		x := &now.columns[i]
		switch {
		case !strings.EqualFold(x.typeText(), c.Type):
			return "column " + c.Name + " was " + c.Type + " and is " + x.typeText()
		case x.collation != c.Collation:
			return "the collation of column " + c.Name + " was " + c.Collation + " and is " + x.collation
		case x.derived() != c.Derived, x.nullable != c.Nullable, x.identity != c.Identity:
			return "column " + c.Name + " was redefined"
		}
	}
	if len(now.columns) > len(was.Columns) {
		return "column " + now.columns[len(was.Columns)].name + " was added"
	}
	return ""
}
