package rowsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// snapshot takes what the source holds now, for as many readers as the seed has.
func (n *run) snapshot(ctx context.Context) (engine.Snapshot, error) {
	src, err := n.r.source(ctx)
	if err != nil {
		return nil, err
	}
	snap, err := src.Snapshot(ctx, n.r.cfg.Stream, 2*n.r.cfg.Streams)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot of the source: %w", err)
	}
	return snap, nil
}

// seedAndFollow compares tables while their changes land, and then applies those.
func (n *run) seedAndFollow(ctx context.Context, todo []pair, snap engine.Snapshot) error {
	n.r.meter.step(StepSeed)
	asOf := time.Now().UTC()
	until, err := n.seed(ctx, todo, snap)
	if err := errors.Join(err, snap.Close()); err != nil {
		return err
	}
	if err := n.makeLate(ctx, todo); err != nil {
		return err
	}
	if err := n.seeded(ctx, until, asOf); err != nil {
		return err
	}
	return n.follow(ctx)
}

// seed makes tables equal to a snapshot, and returns the position at which the rows
// are a state of the source again.
func (n *run) seed(ctx context.Context, todo []pair, snap engine.Snapshot) (engine.Pos, error) {
	n.res.Seeded = true
	// Tables that are followed already stay as they are; the whole is no state of the
	// source until the new ones have come up to them.
	if err := n.move(ctx, func(s *engine.State) { s.Phase, s.Until = engine.Seeding, "" }); err != nil {
		return "", err
	}
	if err := n.r.seed(ctx, todo, snap); err != nil {
		return "", err
	}
	if snap.Exact() {
		return snap.Pos(), nil
	}
	src, err := n.r.source(ctx)
	if err != nil {
		return "", err
	}
	mark, err := src.Mark(ctx, n.r.cfg.Stream)
	if err != nil {
		return "", fmt.Errorf("mark the source's position: %w", err)
	}
	return mark, nil
}

// move changes the stream's row where that changes anything.
func (n *run) move(ctx context.Context, f func(*engine.State)) error {
	dst, err := n.r.target(ctx)
	if err != nil {
		return err
	}
	now, err := dst.State(ctx, n.r.cfg.Stream)
	if err != nil {
		return fmt.Errorf("read the target's position: %w", err)
	}
	to := now
	if f(&to); to != now {
		if to, err = record(ctx, dst, now, to); err != nil {
			return err
		}
	}
	n.state = to
	return nil
}

// makeLate makes what had to wait for the rows of tables, and then takes care again
// that none of it acts while rows are applied.
func (n *run) makeLate(ctx context.Context, todo []pair) error {
	seeded := map[engine.Name]bool{{}: true}
	for _, p := range todo {
		seeded[p.dst.Name] = true
	}
	c, err := n.r.schemas(ctx)
	if err != nil {
		return err
	}
	var late []engine.Object
	for _, o := range c.missing {
		// Others may be missing because Standby holds them off.
		if o.Late && seeded[o.Table] {
			late = append(late, o)
		}
	}
	if len(late) == 0 {
		return nil
	}
	made, err := n.r.makeMissing(ctx, late, true)
	n.res.Findings = append(n.res.Findings, made...)
	if err != nil {
		return err
	}
	if err := n.r.dst.Standby(ctx, n.r.cfg.Stream, targets(n.ps)); err != nil {
		return fmt.Errorf("make the target a standby: %w", err)
	}
	return nil
}

// seeded records from where on the rows are a state of the source: one that is no
// older than asOf.
func (n *run) seeded(ctx context.Context, until engine.Pos, asOf time.Time) error {
	src, err := n.r.source(ctx)
	if err != nil {
		return err
	}
	return n.move(ctx, func(s *engine.State) {
		s.Phase, s.Until = engine.Seeding, until
		if behind, err := src.Before(s.Pos, until); err == nil && !behind {
			s.Phase, s.Until = engine.Following, ""
		}
		if s.SourceTime.IsZero() {
			s.SourceTime = asOf
		}
		s.Fingerprint = fingerprint(targets(n.ps))
	})
}

// settle compares definitions where the target has come to the source's position, so
// that what is different now, the stream has not brought and will not. It reports
// whether tables were added, which must be seeded.
func (n *run) settle(ctx context.Context) (more bool, err error) {
	if n.met {
		return false, nil
	}
	n.met = true
	c, err := n.r.schemas(ctx)
	if err != nil {
		return false, err
	}
	made, err := n.r.makeMissing(ctx, c.missing, false)
	if err != nil {
		return false, err
	}
	if len(c.missing) > 0 {
		if c, err = n.r.schemas(ctx); err != nil {
			return false, err
		}
	}
	n.res.Findings = dedupe(append(append(n.res.Findings, made...), c.findings...))
	if err := n.stopMisfits(c); err != nil {
		return false, err
	}
	if err := n.takeBack(ctx, c); err != nil {
		return false, err
	}
	return n.addTables(ctx, c)
}

func dedupe(fs []engine.Finding) []engine.Finding {
	seen := map[engine.Finding]bool{}
	out := fs[:0:0]
	for _, f := range fs {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}

// stopMisfits stops tables whose rows do not fit at the target any more.
func (n *run) stopMisfits(c comparison) error {
	stopped := n.r.notes.stopped()
	for _, p := range c.misfits {
		if _, ok := stopped[p.dst.Name.String()]; ok {
			continue
		}
		f := c.reasons[p.src.Name]
		if err := n.r.notes.stop([]engine.Name{p.dst.Name}, f.Text, f.Remedy+"; then replicate again: the table is compared anew"); err != nil {
			return err
		}
	}
	return nil
}

// addTables takes in tables that are new at the source.
func (n *run) addTables(ctx context.Context, c comparison) (bool, error) {
	known := map[engine.Name]bool{}
	for _, p := range n.ps {
		known[p.dst.Name] = true
	}
	ps := n.followed(comparison{pairs: c.pairs})
	added := 0
	for _, p := range ps {
		if !known[p.dst.Name] {
			added++
		}
	}
	if added == 0 {
		return false, nil
	}
	n.ps = ps
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return false, err
	}
	if _, _, err := src.Prepare(ctx, n.r.cfg.Stream, sources(ps)); err != nil {
		return false, fmt.Errorf("prepare capture of new tables: %w", err)
	}
	if err := dst.Standby(ctx, n.r.cfg.Stream, targets(ps)); err != nil {
		return false, fmt.Errorf("make the target a standby: %w", err)
	}
	if n.until, err = src.Mark(ctx, n.r.cfg.Stream); err != nil {
		return false, fmt.Errorf("mark the source's position: %w", err)
	}
	return true, nil
}

// counters stores where identities and sequences stand now: those that came with the
// changes may be some seconds older.
func (n *run) counters(ctx context.Context) error {
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return err
	}
	cs, err := src.Counters(ctx)
	if err != nil {
		return fmt.Errorf("read identities and sequences of the source: %w", err)
	}
	st, err := dst.State(ctx, n.r.cfg.Stream)
	if err != nil {
		return fmt.Errorf("read the target's position: %w", err)
	}
	tx, err := dst.Begin(ctx, st, nil)
	if err != nil {
		return fmt.Errorf("store identities and sequences: %w", err)
	}
	if err = tx.Counters(ctx, cs); err == nil {
		n.state, err = tx.Commit(ctx, st)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store identities and sequences: %w", err), tx.Rollback())
	}
	n.res.Phase = n.state.Phase
	return nil
}

// watch looks from time to time whether the source has tables that are not followed,
// and has the stream begin anew with them. Engines that send DDL do not need it.
func (n *run) watch(ctx context.Context, again context.CancelCauseFunc) {
	t := time.NewTicker(n.r.lookEvery)
	defer t.Stop()
	known := map[engine.Name]bool{}
	for _, p := range n.ps {
		known[p.dst.Name] = true
	}
	stopped := n.r.notes.stopped()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		src, err := n.r.source(ctx)
		if err != nil {
			continue // the lander meets the same, and says so
		}
		s, err := src.Schema(ctx)
		if err != nil {
			continue
		}
		for _, table := range s.Tables {
			if _, out := stopped[table.Name.String()]; !out && !known[table.Name] && table.Refused == "" {
				again(errAgain)
				return
			}
		}
	}
}

// finish fills in what a pass came to.
func (n *run) finish(begun time.Time) {
	p := n.r.Progress()
	n.res.Tables, n.res.Commits, n.res.Changes = p.Tables, p.Commits, p.Changes
	for _, t := range p.Tables {
		n.res.Bytes += t.Bytes
	}
	n.res.Position, n.res.SourceTime = p.Applied, p.SourceTime
	if !p.SourceTime.IsZero() {
		n.res.Lag = max(0, time.Since(p.SourceTime))
	}
	if n.res.Phase == engine.Following && !n.marked.IsZero() {
		// Everything of that moment is applied, whenever the last change was.
		n.res.Lag = min(n.res.Lag, time.Since(n.marked))
	}
	n.res.Stopped = n.r.notes.stopped()
	n.res.Took = time.Since(begun)
}
