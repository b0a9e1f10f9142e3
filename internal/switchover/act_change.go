package switchover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// A token is written before the fence it belongs to: here first, so that a run that
// is cut is known to have begun.
func (w *World) doToken(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	n, err := token(c)
	if err != nil {
		return result(dr.NotDone), err
	}
	from := way(c).from()
	err = w.State.Change(func(s *State) {
		m := s.Member(c.Step.Object)
		m.Moving, m.Run, m.By, m.Pending = from.Other(), c.Run, c.Plan.Kind, n
		s.Set(c.Step.Object, m)
	})
	if err != nil {
		return result(dr.NotDone), err
	}
	if isServer(c) || c.Step.Args[argHere] == "yes" {
		return result(dr.Done, fmt.Sprintf("token %d is on record here", n)), nil
	}
	if err := w.Tokens.SetToken(ctx, c.Step.Object, from, n); err != nil {
		return result(dr.NotDone), err
	}
	return result(dr.Done, fmt.Sprintf("token %d is on record here and at the %s", n, from)), nil
}

func (w *World) seeToken(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	n, err := token(c)
	if err != nil {
		return result(dr.NotDone), err
	}
	s, err := w.State.Load()
	if err != nil {
		return result(dr.Unknown), err
	}
	if m := s.Member(c.Step.Object); m.Pending != n || m.Run != c.Run {
		return result(dr.NotDone), nil
	}
	if isServer(c) || c.Step.Args[argHere] == "yes" {
		return result(dr.Done, "the token is on record"), nil
	}
	there, err := w.Tokens.Token(ctx, c.Step.Object, way(c).from())
	if err != nil || there < n {
		return result(dr.NotDone), nil // it may be written again
	}
	return result(dr.Done, fmt.Sprintf("token %d is on record here and at the %s", there, way(c).from())), nil
}

func (w *World) quiesce(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.applications(at(c)).Quiesce(ctx, c.Step.Object, true)
}

func (w *World) pass(ctx context.Context, c *runbook.Call) ([]string, error) {
	id, facts, err := w.machines(at(c)).Pass(ctx, c.Step.Object)
	if err != nil {
		return facts, err
	}
	return append([]string{"recovery point " + string(id)}, facts...), nil
}

func (w *World) doFence(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	if isServer(c) {
		n, err := token(c)
		if err != nil {
			return result(dr.NotDone), err
		}
		facts, err := w.fence(ctx, c.Step.Object, true, n)
		if err != nil {
			return result(dr.Unknown, facts...), err
		}
		return w.seeFence(ctx, c)
	}
	var facts []string
	err := w.with(ctx, c.Step.Object, way(c), func(db Database) error {
		e, err := db.Fence(ctx, duration(c, argGrace))
		facts = e.Facts
		return err
	})
	if err != nil {
		return result(dr.NotDone, facts...), hinted("the fence may be up in part: resume raises it again, a rollback takes it down", "%w", err)
	}
	return result(dr.Done, facts...), nil
}

// seeFence asks servers; databases are fenced again, which does no harm.
func (w *World) seeFence(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	if !isServer(c) {
		return result(dr.NotDone), nil
	}
	o, facts, err := w.fenced(ctx, c.Step.Object)
	return result(o, facts...), err
}

// doCut runs the user's fence. What counts is what its check says.
func (w *World) doCut(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	ran, err := w.Shell.Run(ctx, c.Step.Args[runbook.ArgHost], c.Step.Args[runbook.ArgCommand])
	if !ran.Started {
		return result(dr.NotDone), fmt.Errorf("run the fence: %w", err)
	}
	seen, checkErr := w.seeCut(ctx, c)
	if seen.Outcome == dr.Done || checkErr != nil {
		return seen, checkErr
	}
	return seen, fmt.Errorf("the fence was run (it ended with %d: %s), and its check says that it does not hold", ran.Code, ran.Output)
}

func (w *World) seeCut(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	return runbook.Checked(ctx, w.Shell, c.Step.Args)
}

func (w *World) drain(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	err = w.with(ctx, c.Step.Object, way(c), func(db Database) error {
		e, err := db.Drain(ctx)
		facts = e.Facts
		return err
	})
	return facts, err
}

// promote lets the site that the way leads to write. Whatever happened since the fence
// was raised, it is raised again and drained behind it first, unless the site is
// primary already.
func (w *World) promote(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	way, to := way(c), way(c).from().Other()
	n, err := token(c)
	if err != nil {
		return nil, err
	}
	err = w.with(ctx, c.Step.Object, way, func(db Database) error {
		e, err := db.Fence(ctx, duration(c, argGrace))
		if err != nil {
			return fmt.Errorf("make sure of the fence: %w", err)
		}
		facts = append(facts, e.Facts...)
		s, err := w.Databases.Standing(ctx, c.Step.Object, way)
		if err != nil {
			return err
		}
		if s.Phase != engine.Primary {
			if e, err = db.Drain(ctx); err != nil {
				return fmt.Errorf("make sure that nothing is left: %w", err)
			}
			facts = append(facts, e.Facts...)
		}
		e, err = db.Promote(ctx, false)
		facts = append(facts, e.Facts...)
		return err
	})
	if err != nil {
		return facts, err
	}
	more, err := w.open(ctx, c.Step.Object, way.other(), to, n)
	return append(facts, more...), err
}

// open takes away whatever fence there is at a site that was promoted, and leaves the
// token there under which it is primary.
func (w *World) open(ctx context.Context, name string, way Way, at Site, token int64) (facts []string, err error) {
	err = w.with(ctx, name, way, func(db Database) error {
		e, err := db.Unfence(ctx)
		facts = e.Facts
		return err
	})
	if err == nil {
		err = w.Tokens.SetToken(ctx, name, at, token)
	}
	return facts, err
}

func (w *World) failover(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	n, err := token(c)
	if err != nil {
		return nil, err
	}
	force := c.Step.Args[argForce] == "yes"
	var failed time.Time
	if s := c.Step.Args[argFailed]; s != "" {
		if failed, err = time.Parse(time.RFC3339, s); err != nil {
			return nil, err
		}
	}
	err = w.with(ctx, c.Step.Object, Forward, func(db Database) error {
		_, e, err := db.Failover(ctx, failed, force)
		facts = e.Facts
		return err
	})
	if err != nil {
		return facts, err
	}
	more, err := w.open(ctx, c.Step.Object, Back, Target, n)
	return append(facts, more...), err
}

// unfence lets the site that a way leads from go on, once it is sure that the other
// does not.
func (w *World) unfence(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	name := c.Step.Object
	n, err := token(c)
	if err != nil {
		return nil, err
	}
	if isServer(c) {
		running, err := w.Machines.Running(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("make sure that it is stopped at the target: %w", err)
		}
		if running {
			return nil, hinted("make a new plan: leeward rollback plan", "a machine %s runs at the target", name)
		}
		return w.fence(ctx, name, false, n)
	}
	way := way(c)
	err = w.with(ctx, name, way, func(db Database) error {
		s, err := w.Databases.Standing(ctx, name, way)
		if err != nil {
			return fmt.Errorf("make sure that it was not promoted: %w", err)
		}
		if s.Phase == engine.Primary {
			return hinted("make a new plan: leeward rollback plan", "%s was promoted at the %s since this plan was made", name, way.from().Other())
		}
		e, err := db.Unfence(ctx)
		facts = e.Facts
		return err
	})
	if err == nil {
		err = w.Tokens.SetToken(ctx, name, way.from(), n)
	}
	return facts, err
}

// doBoot starts a server at one site, once it is sure that the other's cannot serve, or
// a failover took a person's word for it.
func (w *World) doBoot(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	if at(c) == Source {
		if err := w.mayComeHome(ctx, c.Step.Object); err != nil {
			return result(dr.NotDone), err
		}
	} else if c.Plan.Kind != Failover {
		o, facts, err := w.fenced(ctx, c.Step.Object)
		if err != nil || o != dr.Done {
			return result(dr.NotDone, facts...), hinted("fence it, then resume", "make sure of the fence of %s: it is %s: %w", c.Step.Object, o, orNil(err))
		}
	}
	facts, err := w.machines(at(c)).Boot(ctx, c.Step.Object, dr.PointID(c.Step.Args[argPoint]))
	if err != nil {
		return result(dr.Unknown, facts...), err
	}
	return result(dr.Done, facts...), nil
}

// errNoFence says what a fence that was looked at lacks.
var errNoFence = errors.New("the source may still serve")

// orNil stands in for an error that is not there in a message.
func orNil(err error) error {
	if err != nil {
		return err
	}
	return errNoFence
}

func (w *World) seeBoot(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	running, err := w.machines(at(c)).Running(ctx, c.Step.Object)
	switch {
	case err != nil:
		return result(dr.Unknown), err
	case running:
		return result(dr.Done, "the machine runs"), nil
	}
	return result(dr.NotDone), nil
}

func (w *World) stop(ctx context.Context, c *runbook.Call) ([]string, error) {
	facts, err := w.Machines.Halt(ctx, c.Step.Object)
	if err != nil {
		return facts, err
	}
	more, err := w.Machines.PutAway(ctx, c.Step.Object)
	return append(facts, more...), err
}

func (w *World) doRedirect(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	facts, err := w.Names.Lead(ctx, c.Step.Object, Site(c.Step.Args[argTo]))
	if err != nil {
		return result(dr.Unknown, facts...), err
	}
	return result(dr.Done, facts...), nil
}

func (w *World) seeRedirect(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	site, facts, err := w.Names.Leads(ctx, c.Step.Object)
	switch {
	case err != nil:
		return result(dr.Unknown, facts...), err
	case site == Site(c.Step.Args[argTo]):
		return result(dr.Done, facts...), nil
	}
	return result(dr.NotDone, facts...), nil
}

func (w *World) doRecord(_ context.Context, c *runbook.Call) (runbook.Result, error) {
	n, err := token(c)
	if err != nil {
		return result(dr.NotDone), err
	}
	now := w.Now().UTC().Truncate(time.Second)
	m := Member{Primary: Site(c.Step.Args[argTo]), Token: n, Run: c.Run, By: c.Plan.Kind, Since: now, Lost: c.Step.Args[argLost] == "yes",
		Point: dr.PointID(c.Step.Args[argPoint])}
	if d := duration(c, argWindow); d > 0 && !m.Lost {
		m.Until = now.Add(d)
	}
	err = w.State.Change(func(s *State) {
		was := s.Member(c.Step.Object)
		m.Home = was.Home || c.Step.Args[argHome] == "yes"
		if c.Step.Args[argAgain] == "yes" {
			m.Until, m.Lost, m.Since, m.Point = was.Until, was.Lost, was.Since, was.Point
		}
		s.Set(c.Step.Object, m)
	})
	if err != nil {
		return result(dr.NotDone), err
	}
	return result(dr.Done, fmt.Sprintf("primary is the %s, under token %d", m.Primary, n)), nil
}

func (w *World) seeRecord(_ context.Context, c *runbook.Call) (runbook.Result, error) {
	n, err := token(c)
	if err != nil {
		return result(dr.NotDone), err
	}
	s, err := w.State.Load()
	if err != nil {
		return result(dr.Unknown), err
	}
	m := s.Member(c.Step.Object)
	if m.Primary == Site(c.Step.Args[argTo]) && m.Token == n && m.Moving == "" {
		return result(dr.Done, "it is on record"), nil
	}
	return result(dr.NotDone), nil
}

// reverse replicates to a site that was primary until now, by difference.
func (w *World) reverse(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	err = w.with(ctx, c.Step.Object, way(c), func(db Database) error {
		s, err := w.Databases.Standing(ctx, c.Step.Object, way(c))
		if err != nil {
			return err
		}
		if s.Phase == engine.Primary {
			if err := w.mayReset(ctx, c); err != nil {
				return err
			}
			c.Say("forget that it was primary")
			if err := db.Reset(ctx); err != nil {
				return err
			}
		}
		e, err := db.Drain(ctx)
		facts = e.Facts
		return err
	})
	return facts, err
}

// mayReset refuses to overwrite a site that is primary, whatever the plan says.
func (w *World) mayReset(ctx context.Context, c *runbook.Call) error {
	s, err := w.State.Load()
	if err != nil {
		return err
	}
	m, to := s.Member(c.Step.Object), way(c).from().Other()
	if m.Moving == to || m.Primary == to && m.Moving != to.Other() {
		return fmt.Errorf("replicate %s to the %s: it is primary there, or about to be", c.Step.Object, to)
	}
	if m.Primary != to {
		return nil
	}
	// A move away from there was cut before it was put on record: what did the
	// other site come to?
	other, err := w.Databases.Standing(ctx, c.Step.Object, way(c).other())
	if err == nil && other.Phase != engine.Primary {
		err = fmt.Errorf("replicate %s to the %s: the other site was not promoted", c.Step.Object, to)
	}
	return err
}
