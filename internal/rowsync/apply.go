package rowsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	groupChanges = 1000                  // changes that are applied in one transaction of the target,
	groupBytes   = 4 << 20               // or so many bytes of them,
	groupTime    = 50 * time.Millisecond // or what comes in so long
	wholeBytes   = 512 << 20             // of the spool; a larger transaction is applied in parts,
	partBytes    = 64 << 20              // each of so many bytes in memory
	stateEvery   = time.Second           // how often an idle stream moves its position at the target
)

// errAgain means that definitions changed: begin anew with those that are.
var errAgain = errors.New("definitions changed")

// applier brings what has landed into the target, in transactions that say how far
// the target is.
type applier struct {
	r      *Replicator
	sp     *spool
	dst    engine.Target
	rd     *spoolReader
	tables []*engine.Table // of the target
	pairs  map[engine.Name]pair
	state  engine.State
	until  engine.Pos // empty: without end
	alone  bool       // the source is not asked for anything, and what has landed is all
	wrote  time.Time  // when the target's position was last moved
	skip   int        // pieces of the first transaction that were applied before its DDL
	kept   uint64     // the oldest segment that may be left
}

// apply runs until the target has reached a position, or ctx ends.
func (r *Replicator) apply(ctx context.Context, sp *spool, ps []pair, until engine.Pos, alone bool) error {
	return r.policy("the target", false).Do(ctx, func(ctx context.Context) error {
		return r.applySession(ctx, sp, ps, until, alone)
	})
}

// applySession applies over connections of its own: that of others may be as broken.
func (r *Replicator) applySession(ctx context.Context, sp *spool, ps []pair, until engine.Pos, alone bool) (err error) {
	dst, err := r.cfg.Driver.Target(ctx, r.cfg.Target)
	if err != nil {
		return fmt.Errorf("reach the target of %s: %w", r.cfg.Name, err)
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	a := &applier{r: r, sp: sp, dst: dst, until: until, alone: alone, tables: targets(ps), pairs: map[engine.Name]pair{}}
	for _, p := range ps {
		a.pairs[p.dst.Name] = p
	}
	if a.state, err = dst.State(ctx, r.cfg.Stream); err != nil {
		return fmt.Errorf("read the target's position: %w", err)
	}
	if a.state.Phase == engine.Primary {
		return &PrimaryError{Name: r.cfg.Name}
	}
	// A driver that reads the catalogue only when it first meets a table would do so
	// beside a transaction of ours that may have locked it.
	if _, err := dst.Schema(ctx); err != nil {
		return fmt.Errorf("read the definitions of the target: %w", err)
	}
	if a.rd, err = sp.reader(a.state.Pos); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.rd.close()) }()
	r.meter.applied(a.state, 0, 0)
	if err := a.resumeIntent(ctx); err != nil {
		return err
	}
	for {
		if done, err := a.reached(); err != nil || done {
			return err
		}
		if a.alone && !a.rd.ready() {
			return nil
		}
		if err := a.round(ctx); err != nil {
			return err
		}
	}
}

// reached reports whether the target is where it was to come, and a state that the
// source had.
func (a *applier) reached() (bool, error) {
	if a.until == "" || a.state.Phase != engine.Following {
		return false, nil
	}
	behind, err := a.before(a.state.Pos, a.until)
	return !behind, err
}

// before compares positions. Without a source only equal ones can be told.
func (a *applier) before(x, y engine.Pos) (bool, error) {
	if x == y {
		return false, nil
	}
	if a.alone {
		return true, nil
	}
	src, err := a.r.source(context.Background())
	if err != nil {
		return false, err
	}
	b, err := src.Before(x, y)
	if err != nil {
		return false, fmt.Errorf("compare positions: %w", err)
	}
	return b, nil
}

// group is source transactions that are applied in one of the target.
type group struct {
	changes  []engine.Change
	bytes    int
	commits  int64
	end      *engine.Commit
	counters []engine.Counter
}

func (g *group) take(p *engine.Piece) {
	g.changes = append(g.changes, p.Changes...)
	g.bytes += pieceSize(p)
	g.end = commitOf(p)
	if p.End != nil {
		g.commits += 1 + p.End.More
	}
	if g.end.Counters != nil {
		g.counters = g.end.Counters
	}
}

func (g *group) full(begun time.Time) bool {
	return len(g.changes) >= groupChanges || g.bytes >= groupBytes || time.Since(begun) > groupTime
}

// round waits for what has landed and applies what there is of it.
func (a *applier) round(ctx context.Context) error {
	var g group
	var begun time.Time
	for g.end == nil || !g.full(begun) && a.rd.ready() {
		p, err := a.rd.next(ctx)
		if err != nil {
			return err
		}
		if begun.IsZero() {
			begun = time.Now()
		}
		if len(p.DDL) > 0 || commitOf(&p) == nil {
			if err := a.commitGroup(ctx, &g); err != nil {
				return err
			}
			return a.lone(ctx, p)
		}
		g.take(&p)
		if len(p.Changes) == 0 && p.End == nil && !a.due(&g) && !a.rd.ready() {
			return nil // an idle moment: the position moves with the next
		}
	}
	return a.commitGroup(ctx, &g)
}

// due reports whether a position without changes should be stored at the target.
func (a *applier) due(g *group) bool {
	if len(g.changes) > 0 || g.commits > 0 || time.Since(a.wrote) >= stateEvery {
		return true
	}
	for _, until := range []engine.Pos{a.until, a.state.Until} {
		if until == "" {
			continue
		}
		if behind, err := a.before(g.end.Pos, until); err != nil || !behind {
			return true
		}
	}
	return false
}

// commitGroup applies a group whole.
func (a *applier) commitGroup(ctx context.Context, g *group) error {
	if g.end == nil {
		return nil
	}
	tx, err := a.begin(ctx)
	if err != nil {
		return err
	}
	to, err := a.fill(ctx, tx, g)
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	// While there is more to come, and what was landed of this is kept, nothing is lost
	// if the target takes it back: it is applied again.
	if d, ok := tx.(engine.Deferrer); ok && a.rd.at.segment == a.kept && a.rd.ready() {
		d.Defer()
	}
	return a.commit(ctx, tx, to, g.commits, int64(len(g.changes)))
}

func (a *applier) begin(ctx context.Context) (engine.Apply, error) {
	tx, err := a.dst.Begin(ctx, a.state, a.tables)
	if err != nil {
		return nil, fmt.Errorf("begin a transaction at the target: %w", err)
	}
	return tx, nil
}

// fill writes a group and returns the state that the target then has.
func (a *applier) fill(ctx context.Context, tx engine.Apply, g *group) (engine.State, error) {
	to := a.state
	if err := a.changes(ctx, tx, g.changes); err != nil {
		return to, err
	}
	return a.ending(ctx, tx, to, g.end, g.counters)
}

// changes writes those of the tables that are followed.
func (a *applier) changes(ctx context.Context, tx engine.Apply, cs []engine.Change) error {
	kept := cs[:0:0]
	for i := range cs {
		if _, ok := a.pairs[cs[i].Table]; ok {
			kept = append(kept, cs[i])
		}
	}
	if len(kept) == 0 {
		return nil
	}
	if err := tx.Changes(ctx, kept); err != nil {
		return fmt.Errorf("apply %d changes: %w", len(kept), err)
	}
	return nil
}

// ending brings rows back that made room for others, stores counters, and reckons
// the state at the end of a transaction.
func (a *applier) ending(ctx context.Context, tx engine.Apply, to engine.State, end *engine.Commit, counters []engine.Counter) (engine.State, error) {
	to.Pos = end.Pos
	if end.Time.After(to.SourceTime) {
		to.SourceTime = end.Time
	}
	if counters != nil {
		if err := tx.Counters(ctx, counters); err != nil {
			return to, fmt.Errorf("store identities and sequences: %w", err)
		}
	}
	if err := a.replace(ctx, tx, &to); err != nil {
		return to, err
	}
	switch {
	case to.Phase == engine.Partial:
		to.Phase, to.Until = engine.Following, ""
	case to.Phase == engine.Seeding && to.Until != "":
		behind, err := a.before(to.Pos, to.Until)
		if err != nil {
			return to, err
		}
		if !behind {
			to.Phase, to.Until = engine.Following, ""
			a.r.log.Info("the target is a state of the source", "position", string(to.Pos))
		}
	}
	return to, nil
}

// replace reads displaced rows anew. They are of a later state than the rest, so the
// target is one of the source's only when it has come there too.
func (a *applier) replace(ctx context.Context, tx engine.Apply, to *engine.State) error {
	if a.alone {
		return nil
	}
	for name, keys := range tx.Displaced() {
		p, ok := a.pairs[name]
		if !ok || len(keys) == 0 {
			continue
		}
		src, err := a.r.source(ctx)
		if err != nil {
			return err
		}
		a.r.log.Warn("rows at the target held values that others claim; they are read anew", "table", name.String(), "rows", len(keys))
		if err := refetch(ctx, src, tx, p); err != nil {
			return err
		}
		mark, err := src.Mark(ctx, a.r.cfg.Stream)
		if err != nil {
			return fmt.Errorf("mark the source's position: %w", err)
		}
		to.Phase, to.Until = engine.Seeding, mark
	}
	return nil
}

func (a *applier) commit(ctx context.Context, tx engine.Apply, to engine.State, commits, changes int64) error {
	st, err := tx.Commit(ctx, to)
	if err != nil {
		return errors.Join(fmt.Errorf("commit at the target: %w", err), tx.Rollback())
	}
	a.state, a.wrote = st, time.Now()
	a.r.meter.applied(st, commits, changes)
	if a.r.committed != nil {
		if err := a.r.committed(st); err != nil {
			return err
		}
	}
	if a.rd.at.segment == a.kept {
		return nil
	}
	a.kept = a.rd.at.segment
	return a.sp.drop(a.rd.at)
}

// lone applies a transaction that does not go into a group: a large one, or one
// with DDL.
func (a *applier) lone(ctx context.Context, p engine.Piece) error {
	end, bytes := engine.Pos(""), int64(0)
	if c := commitOf(&p); c != nil {
		end = c.Pos
	} else {
		var err error
		if end, bytes, err = a.rd.ahead(); err != nil {
			return err
		}
	}
	t := &large{a: a, end: end, parts: bytes > a.r.whole}
	for {
		if err := t.piece(ctx, p); err != nil {
			return t.fail(err)
		}
		if commitOf(&p) != nil {
			return t.finish(ctx, commitOf(&p))
		}
		var err error
		if p, err = a.rd.next(ctx); err != nil {
			return t.fail(err)
		}
	}
}
