package rowsync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Result is what a pass came to.
type Result struct {
	Tables     map[engine.Name]TableStats
	Seeded     bool // rows were compared, not only followed
	Commits    int64
	Changes    int64
	Bytes      int64 // of rows sent by comparison
	Position   engine.Pos
	SourceTime time.Time     // of the newest change applied
	Lag        time.Duration // its age at the end
	Phase      engine.Phase
	Findings   []engine.Finding
	Stopped    map[string]Stop // tables that are not followed
	Took       time.Duration
}

// mostTurns bounds how often a pass begins anew, so that what comes back each time is
// told in the end.
const mostTurns = 100

// run is one pass, or the endless one.
type run struct {
	r      *Replicator
	once   bool
	until  engine.Pos // the source's position when it began; empty once Follow is there
	marked time.Time  // when that was
	met    bool       // definitions were compared after the target had come there
	turns  int        // how often it began anew
	state  engine.State
	ps     []pair
	res    Result
}

// Pass brings the target to where the source was when it was called: compares what
// must be, and follows the rest.
func (r *Replicator) Pass(ctx context.Context) (Result, error) {
	return r.pass(ctx, true)
}

// Follow does what Pass does and goes on until ctx ends, which is no error.
func (r *Replicator) Follow(ctx context.Context) (Result, error) {
	res, err := r.pass(ctx, false)
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || engine.Temporary(err)) {
		err = nil
	}
	return res, err
}

func (r *Replicator) pass(ctx context.Context, once bool) (Result, error) {
	begun := time.Now()
	n := &run{r: r, once: once}
	err := n.lift(ctx)
	for err == nil {
		if err = r.patient(ctx, "both ends", n.attempt); err == nil {
			break
		}
		err = n.adapt(ctx, err)
	}
	n.finish(begun)
	return n.res, err
}

// adapt turns an end of the stream that can be dealt with into another attempt.
func (n *run) adapt(ctx context.Context, err error) error {
	var gone *engine.Expired
	var changed *engine.SchemaChanged
	var epoch *EpochError
	if n.turns++; n.turns > mostTurns {
		return err
	}
	switch {
	case errors.Is(err, errAgain), errors.Is(err, errNotThere):
		n.r.log.Info("beginning anew", "why", err)
		n.met = false
		return nil
	case errors.As(err, &gone) && len(gone.Tables) > 0 && len(gone.Tables) < len(n.ps):
		// The others go on; once they have passed this place, these are compared anew.
		n.r.log.Warn("tables are compared anew", "tables", fmt.Sprint(gone.Tables), "why", gone.Cause)
		n.met = false
		return n.r.notes.stop(gone.Tables, gone.Error(), "none is needed: it is compared anew")
	case errors.As(err, &gone):
		n.r.log.Warn("everything is compared anew", "why", gone.Cause)
		return n.r.notes.change(func(d *notesData) { d.Compare = gone.Error() })
	case errors.As(err, &changed) && len(changed.Tables) > 0:
		n.r.log.Warn("tables are not followed any more", "tables", fmt.Sprint(changed.Tables), "cause", changed.Cause)
		return n.r.notes.stop(changed.Tables, changed.Cause, changed.Remedy)
	case errors.Is(err, engine.ErrSchema):
		return n.misfits(ctx, err)
	case errors.As(err, &epoch) && n.r.cfg.Reseed:
		return n.r.notes.change(func(d *notesData) { d.Compare = "the source has another history" })
	}
	return err
}

// misfits stops the tables whose definitions differ, where rows did not fit one.
func (n *run) misfits(ctx context.Context, cause error) error {
	return n.r.patient(ctx, "both ends", func(ctx context.Context) error {
		c, err := n.r.schemas(ctx)
		if err != nil {
			return err
		}
		was := len(n.r.notes.stopped())
		if err := n.stopMisfits(c); err != nil {
			return err
		}
		if len(n.r.notes.stopped()) == was {
			return cause
		}
		return nil
	})
}

// lift takes tables back in that were stopped and fit again.
func (n *run) lift(ctx context.Context) error {
	if len(n.r.notes.stopped()) == 0 {
		return nil
	}
	return n.r.patient(ctx, "both ends", func(ctx context.Context) error {
		c, err := n.r.schemas(ctx)
		if err != nil {
			return err
		}
		return n.takeBack(ctx, c)
	})
}

// takeBack has stopped tables compared anew that fit again.
func (n *run) takeBack(ctx context.Context, c comparison) error {
	for name := range n.r.notes.stopped() {
		if !c.takesBack(name) {
			continue
		}
		for _, p := range c.pairs {
			if p.dst.Name.String() != name {
				continue
			}
			if err := n.r.dst.SetProgress(ctx, n.r.cfg.Stream, p.dst.Name, engine.Progress{}); err != nil {
				return fmt.Errorf("take %s in again: %w", name, err)
			}
		}
		if err := n.r.notes.change(func(d *notesData) { delete(d.Stopped, name) }); err != nil {
			return err
		}
		n.r.log.Info("table is taken in again", "table", name)
	}
	return nil
}

// takesBack reports whether a stopped table fits again, or is no more.
func (c *comparison) takesBack(name string) bool {
	for _, p := range c.pairs {
		if p.dst.Name.String() == name {
			return true
		}
	}
	for n := range c.sources {
		if n.String() == name {
			return false
		}
	}
	return true
}

// attempt does everything once; what was done before is found done.
func (n *run) attempt(ctx context.Context) error {
	n.r.meter.step(StepConnect)
	for _, step := range []func(context.Context) error{n.look, n.define, n.open} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	for {
		todo, err := n.unsettled(ctx)
		if err != nil {
			return err
		}
		if err := n.stream(ctx, todo); err != nil {
			return err
		}
		// Without a table to follow, definitions alone may bring one back.
		if more, err := n.settle(ctx); err != nil {
			return err
		} else if more {
			continue
		}
		if err := n.rights(ctx); err != nil {
			return err
		}
		if n.once {
			return n.counters(ctx)
		}
		n.until = ""
	}
}

// look reads the target's record and whether the source is the one it speaks of.
func (n *run) look(ctx context.Context) error {
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return err
	}
	if n.state, err = dst.State(ctx, n.r.cfg.Stream); err != nil {
		return fmt.Errorf("read the target's position: %w", err)
	}
	epoch, err := src.Epoch(ctx)
	if err != nil {
		return fmt.Errorf("read the epoch of the source: %w", err)
	}
	switch {
	case n.state.Phase == engine.Primary:
		return &PrimaryError{Name: n.r.cfg.Name}
	case n.state.Phase != engine.Absent && n.state.Epoch != epoch && n.r.notes.get().Compare == "":
		return &EpochError{Name: n.r.cfg.Name, Was: n.state.Epoch, Is: epoch}
	}
	if n.r.notes.get().Compare != "" {
		n.state = engine.State{Stream: n.r.cfg.Stream}
	}
	n.state.Epoch = epoch
	return nil
}

// fresh reports whether nothing is followed yet, so that definitions must fit and
// tables must be compared before anything else.
func (n *run) fresh() bool {
	return n.state.Phase == engine.Absent || n.state.Phase == engine.Seeding && n.state.Until == ""
}

// define compares definitions, makes what the target lacks, and refuses what does not
// fit. While following, the stream itself may bring what is missing, so that comes
// after it: see settle.
func (n *run) define(ctx context.Context) error {
	n.r.meter.step(StepSchema)
	c, err := n.r.schemas(ctx)
	if err != nil {
		return err
	}
	if !n.fresh() {
		n.ps = n.followed(c)
		return nil
	}
	if err := n.r.making(c.missing, c.bare); err != nil {
		return err
	}
	made, err := n.r.makeMissing(ctx, c.missing, false)
	if err != nil {
		return err
	}
	if len(c.missing) > 0 {
		if c, err = n.r.schemas(ctx); err != nil {
			return err
		}
	}
	found, err := n.r.check(ctx, c.pairs)
	if err != nil {
		return err
	}
	n.res.Findings = append(append(made, c.findings...), found...)
	n.ps = c.pairs
	if n.state.Phase != engine.Absent {
		n.ps = n.followed(comparison{pairs: c.pairs})
	}
	return blocked(n.r.cfg.Name, n.res.Findings)
}

// followed are the tables whose changes are applied: those that fit, and those whose
// definitions the stream will yet make equal.
func (n *run) followed(c comparison) []pair {
	stopped := n.r.notes.stopped()
	var out []pair
	for _, p := range c.pairs {
		if _, ok := stopped[p.dst.Name.String()]; !ok {
			out = append(out, p)
		}
	}
	for _, p := range c.misfits {
		if _, ok := stopped[p.dst.Name.String()]; !ok {
			// The source's definition is a later one than that of the rows to come.
			out = append(out, pair{p.dst, p.dst})
		}
	}
	return out
}

func (r *Replicator) check(ctx context.Context, ps []pair) ([]engine.Finding, error) {
	src, dst, err := r.ends(ctx)
	if err != nil {
		return nil, err
	}
	a, err := src.Check(ctx, sources(ps))
	if err != nil {
		return nil, fmt.Errorf("check the source: %w", err)
	}
	b, err := dst.Check(ctx, targets(ps))
	if err != nil {
		return nil, fmt.Errorf("check the target: %w", err)
	}
	return append(a, b...), nil
}

// open prepares capture, and the spool behind the target's position.
func (n *run) open(ctx context.Context) error {
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return err
	}
	if n.state.Phase == engine.Absent {
		if err := n.start(ctx, src, dst); err != nil {
			return err
		}
	} else if len(n.ps) > 0 {
		// Where what captured changes was gone and is made again, or where nothing of it
		// lasts at the source, Changes tells whether history reaches back.
		if _, _, err := src.Prepare(ctx, n.r.cfg.Stream, sources(n.ps)); err != nil {
			return fmt.Errorf("prepare capture: %w", err)
		}
		if err := dst.Standby(ctx, n.r.cfg.Stream, targets(n.ps)); err != nil {
			return fmt.Errorf("make the target a standby: %w", err)
		}
	}
	if err := n.spool(); err != nil {
		return err
	}
	if n.until != "" {
		return nil
	}
	n.marked = time.Now()
	if n.until, err = src.Mark(ctx, n.r.cfg.Stream); err != nil {
		return fmt.Errorf("mark the source's position: %w", err)
	}
	return nil
}

// start begins a stream: from here on, no change is missed.
func (n *run) start(ctx context.Context, src engine.Source, dst engine.Target) error {
	stream := n.r.cfg.Stream
	if err := dst.Forget(ctx, stream); err != nil {
		return fmt.Errorf("forget what the target knew: %w", err)
	}
	// What is left of an earlier start has a position that nobody knows any more.
	if err := src.Remove(ctx, stream); err != nil {
		return fmt.Errorf("remove an earlier capture: %w", err)
	}
	pos, fresh, err := src.Prepare(ctx, stream, sources(n.ps))
	if err != nil {
		return fmt.Errorf("prepare capture: %w", err)
	}
	if !fresh || pos == "" {
		return errors.New("prepare capture: it gave no position to start from")
	}
	if err := dst.Standby(ctx, stream, targets(n.ps)); err != nil {
		return fmt.Errorf("make the target a standby: %w", err)
	}
	to := engine.State{Stream: stream, Pos: pos, Phase: engine.Seeding, Epoch: n.state.Epoch, Fingerprint: fingerprint(targets(n.ps))}
	if n.state, err = record(ctx, dst, engine.State{Stream: stream}, to); err != nil {
		return err
	}
	n.res.Seeded = true
	n.until = "" // a mark of another history means nothing
	return n.r.notes.change(func(d *notesData) {
		*d = notesData{Version: notesVersion, Stream: stream, LastVerified: d.LastVerified, Verified: d.Verified, Made: d.Made}
	})
}

// record changes a stream's row alone.
func record(ctx context.Context, dst engine.Target, from, to engine.State) (engine.State, error) {
	tx, err := dst.Begin(ctx, from, nil)
	if err != nil {
		return from, fmt.Errorf("record the stream's state: %w", err)
	}
	st, err := tx.Commit(ctx, to)
	if err != nil {
		return from, errors.Join(fmt.Errorf("record the stream's state: %w", err), tx.Rollback())
	}
	return st, nil
}

// spool opens the spool; where it does not go on from the target's position, it
// begins there.
func (n *run) spool() error {
	r := n.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sp != nil && r.sp.head.Epoch != n.state.Epoch {
		err := r.sp.close()
		r.sp = nil
		if err != nil {
			return fmt.Errorf("close the spool: %w", err)
		}
	}
	ok := true
	if r.sp == nil {
		var err error
		if r.sp, ok, err = openSpool(r.cfg.Spool, r.cfg.SpoolLimit, r.cfg.Stream, n.state.Epoch); err != nil {
			return err
		}
	}
	r.sp.finish(nil)
	if ok {
		rd, err := r.sp.reader(n.state.Pos)
		if err == nil {
			return rd.close()
		}
		if !errors.Is(err, errNotThere) && !errors.Is(err, errRecord) {
			return err
		}
		r.log.Warn("the spool does not go on from the target's position; landing again from there", "position", string(n.state.Pos))
	}
	return r.sp.reset(n.state.Pos)
}

// unsettled are the tables whose rows must be compared before they are followed.
func (n *run) unsettled(ctx context.Context) ([]pair, error) {
	done, err := n.r.dst.Progress(ctx, n.r.cfg.Stream)
	if err != nil {
		return nil, fmt.Errorf("read how far the seed is: %w", err)
	}
	var out []pair
	for _, p := range n.ps {
		if !done[p.dst.Name].Done {
			out = append(out, p)
		}
	}
	return out, nil
}

// stream lands changes while tables are seeded and then while what landed is applied.
func (n *run) stream(ctx context.Context, todo []pair) error {
	if len(n.ps) == 0 && !n.once && n.met {
		return fmt.Errorf("follow %s: none of its tables can be followed", n.r.cfg.Name)
	}
	if len(n.ps) == 0 {
		return nil
	}
	work := n.follow
	if len(todo) > 0 || n.fresh() {
		snap, err := n.snapshot(ctx)
		if err != nil {
			return err
		}
		work = func(ctx context.Context) error { return n.seedAndFollow(ctx, todo, snap) }
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	landed := make(chan error, 1)
	sp := n.r.sp
	go func() {
		err := n.r.land(ctx, sp, sources(n.ps))
		if errors.Is(err, engine.ErrSchema) {
			// What has landed may hold the very DDL that makes the next rows fit.
			sp.finish(err)
		} else {
			cancel(err)
		}
		landed <- err
	}()
	var watching sync.WaitGroup
	if !n.once && n.until == "" {
		watching.Go(func() { n.watch(ctx, cancel) })
	}
	err := work(ctx)
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	cancel(context.Canceled)
	landErr := <-landed
	watching.Wait()
	if err == nil && landErr != nil && !errors.Is(landErr, context.Canceled) {
		// What was to be done is done; the next pass meets the error again.
		n.r.log.Debug("landing ended", "error", landErr)
	}
	return err
}

func (n *run) follow(ctx context.Context) error {
	n.r.meter.step(StepFollow)
	if n.once {
		n.r.meter.step(StepCatchUp)
	}
	return n.r.apply(ctx, n.r.sp, n.ps, n.until, false)
}
