package switchover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Actions are everything the plans of this package need.
func Actions(w *World) runbook.Actions {
	a := runbook.Actions{
		actionPreflight: look(w.preflight),
		actionToken:     &act{w.seeToken, w.doToken},
		actionQuiesce:   again(w.quiesce),
		actionResume:    again(w.goOn),
		actionPass:      again(w.pass),
		actionCatchUp:   again(w.drain),
		actionFence:     &act{w.seeFence, w.doFence},
		actionCut:       &act{w.seeCut, w.doCut},
		actionDrain:     again(w.drain),
		actionCompare:   look(w.compare),
		actionPromote:   again(w.promote),
		actionFailover:  again(w.failover),
		actionUnfence:   again(w.unfence),
		actionBoot:      &act{w.seeBoot, w.doBoot},
		actionProbe:     look(w.probe),
		actionStop:      again(w.stop),
		actionHalt:      again(w.halt),
		actionAway:      again(w.putAway),
		actionStart:     again(w.start),
		actionAbsent:    look(w.absent),
		actionRoom:      look(w.room),
		actionDrill:     again(w.drill),
		actionAside:     again(w.setAside),
		actionLeave:     again(w.leave),
		actionRedirect:  &act{w.seeRedirect, w.doRedirect},
		actionRecord:    &act{w.seeRecord, w.doRecord},
		actionReverse:   again(w.reverse),
	}
	for name, x := range a {
		a[name] = &current{w, x}
	}
	maps.Copy(a, runbook.People(w.Asker))
	maps.Copy(a, runbook.Commands(w.Shell, &http.Client{}))
	return a
}

// current refuses to go on for a run that a later one took over from: its members are
// where that one left them.
type current struct {
	w *World
	runbook.Action
}

func (a *current) Do(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	if c.Step.Looks {
		return a.Action.Do(ctx, c)
	}
	n, err := strconv.ParseInt(c.Plan.Params[argToken], 10, 64)
	if err != nil {
		return result(dr.NotDone), fmt.Errorf("read the token of the plan: %w", err)
	}
	s, err := a.w.State.Load()
	if err != nil {
		return result(dr.NotDone), err
	}
	for _, name := range c.Plan.Subject {
		if m := s.Member(name); max(m.Token, m.Pending) > n {
			return result(dr.NotDone), fmt.Errorf("go on with token %d: run %s moves %s since, under token %d", n, m.Run, name, max(m.Token, m.Pending))
		}
	}
	return a.Action.Do(ctx, c)
}

type doer func(ctx context.Context, c *runbook.Call) (runbook.Result, error)

// act is an action of two functions.
type act struct{ see, do doer }

func (a *act) Observe(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	return a.see(ctx, c)
}

func (a *act) Do(ctx context.Context, c *runbook.Call) (runbook.Result, error) { return a.do(ctx, c) }

// plainly is what most steps come to: done with facts, or not done. It is for what can
// be done again whatever came of it before.
type plainly func(ctx context.Context, c *runbook.Call) ([]string, error)

// again is an action that looks at everything itself and does what is left, so that it
// may be begun again at any time.
func again(f plainly) *act {
	return &act{see: unseen, do: f.do}
}

// look is an action that changes nothing.
func look(f plainly) *act { return again(f) }

func unseen(context.Context, *runbook.Call) (runbook.Result, error) {
	return runbook.Result{Outcome: dr.NotDone}, nil
}

func (f plainly) do(ctx context.Context, c *runbook.Call) (runbook.Result, error) {
	facts, err := f(ctx, c)
	if err != nil {
		return runbook.Result{Outcome: dr.NotDone, Facts: facts}, err
	}
	return runbook.Result{Outcome: dr.Done, Facts: facts}, nil
}

func result(o dr.Outcome, facts ...string) runbook.Result {
	return runbook.Result{Outcome: o, Facts: facts}
}

// arguments of a call, read.
func way(c *runbook.Call) Way { return Way(c.Step.Args[argWay]) }

// at is the site whose machine a step means.
func at(c *runbook.Call) Site {
	if c.Step.Args[argAt] == string(Source) {
		return Source
	}
	return Target
}

func isServer(c *runbook.Call) bool { return c.Step.Args[argMember] == "server" }

func token(c *runbook.Call) (int64, error) {
	n, err := strconv.ParseInt(c.Step.Args[argToken], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the token of step %s: %w", c.Step.ID, err)
	}
	return n, nil
}

func duration(c *runbook.Call, arg string) time.Duration {
	d, err := time.ParseDuration(c.Step.Args[arg])
	if err != nil {
		return 0 // an argument that is not there
	}
	return d
}

// with opens a database for one use.
func (w *World) with(ctx context.Context, name string, way Way, use func(Database) error) error {
	db, err := w.Databases.Open(ctx, name, way)
	if err != nil {
		return err
	}
	return errors.Join(use(db), db.Close())
}
