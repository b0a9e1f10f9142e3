package rowsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// The planned switch is Fence, Drain, Promote, in that order; the unplanned one is
// Failover. After either, replicating back is a Replicator with the ends swapped.

// Evidence is what a step of a switch saw.
type Evidence struct {
	Step     string
	At       time.Time
	Position engine.Pos
	Facts    []string
}

// Fence makes the source read-only for everyone else. Transactions that are open are
// ended after grace.
func (r *Replicator) Fence(ctx context.Context, grace time.Duration) (Evidence, error) {
	return r.fence(ctx, true, grace)
}

// Unfence lets applications write to the source again.
func (r *Replicator) Unfence(ctx context.Context) (Evidence, error) {
	return r.fence(ctx, false, 0)
}

func (r *Replicator) fence(ctx context.Context, on bool, grace time.Duration) (Evidence, error) {
	e := Evidence{Step: "fence", At: time.Now().UTC()}
	if !on {
		e.Step = "lift the fence"
	}
	r.meter.step(StepSwitch)
	err := r.patient(ctx, "the source", func(ctx context.Context) error {
		src, err := r.source(ctx)
		if err != nil {
			return err
		}
		e.Facts, err = src.Fence(ctx, on, grace)
		return err
	})
	if err != nil {
		return e, fmt.Errorf("%s of %s: %w", e.Step, r.cfg.Name, err)
	}
	return e, nil
}

// Drain applies everything that the source had committed when it was called. Behind a
// fence that is everything there is.
func (r *Replicator) Drain(ctx context.Context) (Evidence, error) {
	e := Evidence{Step: "drain", At: time.Now().UTC()}
	res, err := r.Pass(ctx)
	if err != nil {
		return e, fmt.Errorf("drain %s: %w", r.cfg.Name, err)
	}
	e.Position = res.Position
	e.Facts = []string{
		fmt.Sprintf("%d transactions with %d changes were applied", res.Commits, res.Changes),
		fmt.Sprintf("the target stands at %s, where the source was", res.Position),
	}
	e.Facts = append(e.Facts, r.Lacking()...)
	for t, s := range res.Stopped {
		e.Facts = append(e.Facts, fmt.Sprintf("table %s is not followed: %s", t, s.Cause))
	}
	return e, nil
}

// NotReadyError says why a target should not become primary.
type NotReadyError struct {
	Name    string
	Reasons []string
}

func (e *NotReadyError) Error() string {
	s := "the target of " + e.Name + " is not ready to become primary"
	for i, r := range e.Reasons {
		if i == 0 {
			s += ": " + r
			continue
		}
		s += "; " + r
	}
	return s
}

// Promote makes the target what applications write to. Without force it refuses a
// target that is no state the source had, or lacks tables. It may be called again
// after it was cut.
func (r *Replicator) Promote(ctx context.Context, force bool) (Evidence, error) {
	e := Evidence{Step: "promote", At: time.Now().UTC()}
	r.meter.step(StepSwitch)
	err := r.patient(ctx, "the target", func(ctx context.Context) error {
		dst, err := r.target(ctx)
		if err != nil {
			return err
		}
		st, err := dst.State(ctx, r.cfg.Stream)
		if err != nil {
			return fmt.Errorf("read the target's position: %w", err)
		}
		e.Position = st.Pos
		why, err := r.unready(st)
		if err != nil {
			return err
		}
		if len(why) > 0 {
			if !force {
				return &NotReadyError{Name: r.cfg.Name, Reasons: why}
			}
			e.Facts = append(e.Facts, why...)
		}
		s, err := dst.Schema(ctx)
		if err != nil {
			return fmt.Errorf("read the definitions of the target: %w", err)
		}
		facts, err := dst.Promote(ctx, r.cfg.Stream, s.Tables)
		e.Facts = append(e.Facts, facts...)
		return err
	})
	if err != nil {
		return e, fmt.Errorf("promote the target of %s: %w", r.cfg.Name, err)
	}
	return e, nil
}

// unready lists what speaks against promotion.
func (r *Replicator) unready(st engine.State) (why []string, err error) {
	switch st.Phase {
	case engine.Following, engine.Primary:
	case engine.Absent:
		why = append(why, "nothing was ever replicated to it")
	case engine.Seeding:
		why = append(why, "its rows are of no single state of the source: it is being seeded")
	case engine.Partial:
		why = append(why, "a part of a large transaction is applied, the rest is not")
	}
	for t, s := range r.notes.stopped() {
		why = append(why, fmt.Sprintf("table %s is not followed since %s: %s", t, s.At.Format(time.RFC3339), s.Cause))
	}
	if st.Phase != engine.Following {
		return why, nil
	}
	sp, err := r.landedSpool(st)
	if err != nil || sp == nil {
		return why, err
	}
	if l, _ := sp.newest(); l.Pos != st.Pos && !r.onlyBeats(sp, st.Pos) {
		why = append(why, fmt.Sprintf("changes up to %s have landed and are not applied", l.Pos))
	}
	return why, nil
}

// onlyBeats reports whether nothing but heartbeats has landed behind a position.
func (r *Replicator) onlyBeats(sp *spool, after engine.Pos) bool {
	rd, err := sp.reader(after)
	if err != nil {
		return false
	}
	defer rd.close()
	for rd.ready() {
		p, err := rd.next(context.Background())
		if err != nil || p.Heartbeat == nil {
			return false
		}
	}
	return true
}

// Loss is what an unplanned switch may have lost. What the source committed after
// Newest never reached this site.
type Loss struct {
	Position engine.Pos
	Newest   time.Time // commit time of the newest change applied, or of a heartbeat
	Heard    time.Time // when the source was last heard of
	Since    time.Duration
	// Transactions and Bytes are what the source would have written in that time at
	// the pace it had of late: a reckoning, not a count.
	Transactions float64
	Bytes        float64
}

func (l Loss) String() string {
	return fmt.Sprintf("the target is at %s, of %s; what the source committed in the %s since is missing: about %.0f transactions and %.0f bytes at its late pace",
		l.Position, l.Newest.UTC().Format(time.RFC3339), l.Since.Round(time.Second), l.Transactions, l.Bytes)
}

// Failover applies what has landed, without the source, and makes the target primary.
// The loss is reckoned to failed, the moment at which the source was lost; where that
// is not known, to now.
func (r *Replicator) Failover(ctx context.Context, failed time.Time, force bool) (Loss, Evidence, error) {
	r.meter.step(StepSwitch)
	if failed.IsZero() {
		failed = time.Now()
	}
	var st engine.State
	err := r.patient(ctx, "the target", func(ctx context.Context) (err error) {
		st, err = r.applyLanded(ctx)
		return err
	})
	if err != nil {
		return Loss{}, Evidence{}, fmt.Errorf("apply what has landed of %s: %w", r.cfg.Name, err)
	}
	k := r.notes.get().Known
	l := Loss{Position: st.Pos, Newest: st.SourceTime, Heard: k.Heard}
	if !st.SourceTime.IsZero() {
		l.Since = max(0, failed.Sub(st.SourceTime))
	}
	l.Transactions, l.Bytes = k.Transactions*l.Since.Seconds(), k.Bytes*l.Since.Seconds()
	e, err := r.Promote(ctx, force)
	e.Step = "failover"
	e.Facts = append([]string{l.String()}, e.Facts...)
	return l, e, err
}

// applyLanded applies all of the spool and returns where the target then is.
func (r *Replicator) applyLanded(ctx context.Context) (engine.State, error) {
	dst, err := r.target(ctx)
	if err != nil {
		return engine.State{}, err
	}
	st, err := dst.State(ctx, r.cfg.Stream)
	if err != nil || st.Phase == engine.Absent || st.Phase == engine.Primary {
		return st, err
	}
	if st.Phase == engine.Seeding && st.Until == "" {
		return st, nil // rows were still being compared: there is nothing to apply to
	}
	sp, err := r.landedSpool(st)
	if err != nil || sp == nil {
		return st, err
	}
	s, err := dst.Schema(ctx)
	if err != nil {
		return st, fmt.Errorf("read the definitions of the target: %w", err)
	}
	stopped := r.notes.stopped()
	var ps []pair
	for _, t := range s.Tables {
		if _, out := stopped[t.Name.String()]; !out && t.Refused == "" {
			ps = append(ps, pair{t, t})
		}
	}
	err = r.apply(ctx, sp, ps, "", true)
	if errors.Is(err, errAgain) {
		return r.applyLanded(ctx)
	}
	if err != nil {
		return st, err
	}
	return dst.State(ctx, r.cfg.Stream)
}

// landedSpool is the spool as an earlier run left it; nil where there is none.
func (r *Replicator) landedSpool(st engine.State) (*spool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sp != nil {
		r.sp.finish(nil)
		return r.sp, nil
	}
	sp, ok, err := openSpool(r.cfg.Spool, r.cfg.SpoolLimit, r.cfg.Stream, st.Epoch)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, sp.close()
	}
	r.sp = sp
	return sp, nil
}

// Remove takes away what was made at both ends and forgets the stream. An end that
// cannot be reached is an error; the other is cleaned all the same.
func (r *Replicator) Remove(ctx context.Context) error {
	var errs []error
	src, err := r.source(ctx)
	if err == nil {
		err = src.Remove(ctx, r.cfg.Stream)
	}
	errs = append(errs, err)
	dst, err := r.target(ctx)
	if err == nil {
		err = dst.Forget(ctx, r.cfg.Stream)
	}
	return errors.Join(append(errs, err)...)
}
