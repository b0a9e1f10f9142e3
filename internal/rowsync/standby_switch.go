package rowsync

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Fence implements Switchable: all databases of the source become read-only for
// everyone else.
func (s *Standby) Fence(ctx context.Context, grace time.Duration) (Evidence, error) {
	return s.fence(ctx, "fence", true, grace)
}

// Unfence implements Switchable.
func (s *Standby) Unfence(ctx context.Context) (Evidence, error) {
	return s.fence(ctx, "lift the fence", false, 0)
}

func (s *Standby) fence(ctx context.Context, step string, on bool, grace time.Duration) (Evidence, error) {
	e := Evidence{Step: step, At: time.Now().UTC()}
	s.meter.step(StepSwitch)
	err := s.patient(ctx, "the source", func(ctx context.Context) (err error) {
		e.Facts, err = s.p.Fence(ctx, on, grace)
		return err
	})
	if err != nil {
		return e, fmt.Errorf("%s of %s: %w", step, s.cfg.Name, err)
	}
	return e, nil
}

// Drain implements Switchable.
func (s *Standby) Drain(ctx context.Context) (Evidence, error) {
	e := Evidence{Step: "drain", At: time.Now().UTC()}
	res, err := s.Pass(ctx)
	e.Facts, e.Position = res.Did, res.Position
	if err != nil {
		return e, fmt.Errorf("drain %s: %w", s.cfg.Name, err)
	}
	e.Facts = append(e.Facts, fmt.Sprintf("the target has applied everything up to %s, where the source was", res.Position))
	return e, nil
}

// Promote implements Switchable. A standby is a state the source had at any time; what
// it has received is applied before it takes writes.
func (s *Standby) Promote(ctx context.Context, force bool) (Evidence, error) {
	e := Evidence{Step: "promote", At: time.Now().UTC()}
	s.meter.step(StepSwitch)
	err := s.patient(ctx, "the target", func(ctx context.Context) error {
		st, err := s.p.State(ctx)
		if err != nil {
			return err
		}
		e.Position = st.Applied
		if st.Phase == engine.Nothing {
			return &NotReadyError{Name: s.cfg.Name, Reasons: []string{"nothing was ever replicated to it"}}
		}
		if why := s.unready(st); len(why) > 0 {
			if !force {
				return &NotReadyError{Name: s.cfg.Name, Reasons: why}
			}
			e.Facts = append(e.Facts, why...)
		}
		facts, err := s.p.Promote(ctx)
		e.Facts = append(e.Facts, facts...)
		return err
	})
	if err != nil {
		return e, fmt.Errorf("promote the target of %s: %w", s.cfg.Name, err)
	}
	return e, nil
}

// unready lists what speaks against promotion: a target whose source is silent is what a
// failover is for, and no reason.
func (s *Standby) unready(st engine.PhysicalState) (why []string) {
	if st.Phase == engine.Replica && st.Unread > 0 && !st.Following {
		why = append(why, fmt.Sprintf("%d bytes of log have been received and are not applied: %s", st.Unread, st.Trouble))
	}
	return why
}

// Failover implements Switchable. The engine applies what it has received before it
// takes writes.
func (s *Standby) Failover(ctx context.Context, failed time.Time, force bool) (Loss, Evidence, error) {
	if failed.IsZero() {
		failed = time.Now()
	}
	var st engine.PhysicalState
	err := s.patient(ctx, "the target", func(ctx context.Context) (err error) {
		st, err = s.p.State(ctx)
		return err
	})
	if err != nil {
		return Loss{}, Evidence{}, fmt.Errorf("look at the target of %s: %w", s.cfg.Name, err)
	}
	k := s.notes.get().Known
	l := Loss{Position: st.Applied, Newest: st.Newest, Heard: k.Heard}
	if st.Heard.After(l.Heard) {
		l.Heard = st.Heard
	}
	if l.Newest.IsZero() {
		l.Newest = l.Heard
	}
	// What the source wrote before it was last heard of has arrived: a standby receives
	// as the source writes.
	if from := latest(l.Newest, l.Heard); !from.IsZero() {
		l.Since = max(0, failed.Sub(from))
	}
	l.Transactions, l.Bytes = k.Transactions*l.Since.Seconds(), k.Bytes*l.Since.Seconds()
	// Received and unread is what the engine applies as it is promoted.
	e, err := s.Promote(ctx, force || st.Unread > 0)
	e.Step = "failover"
	e.Facts = append([]string{l.String()}, e.Facts...)
	return l, e, err
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
