package switchover

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// errNoHome is told where the configuration lost its failback host since a plan was made.
var errNoHome = errors.New("leeward.yaml names no host that servers come back to (switchover: failback:)")

// machines are those of a site.
func (w *World) machines(at Site) Machines {
	if at == Source && w.Home != nil {
		return w.Home
	}
	if at == Source {
		return noHome{}
	}
	return w.Machines
}

// applications are those of the servers of a site.
func (w *World) applications(at Site) Quiescer {
	if at == Source {
		return w.Hosts
	}
	return w.Guests
}

// cameHome reports whether a server is a machine of ours at the source.
func (w *World) cameHome(name string) (bool, error) {
	s, err := w.State.Load()
	if err != nil {
		return false, err
	}
	return s.Member(name).Home, nil
}

// fence makes a server at the source unable to serve, or lets it serve again. One that
// came home is our own machine: it is shut down and started.
func (w *World) fence(ctx context.Context, name string, on bool, token int64) ([]string, error) {
	home, err := w.cameHome(name)
	switch {
	case err != nil:
		return nil, err
	case !home:
		return w.Hosts.Fence(ctx, name, on, token)
	case on:
		return w.machines(Source).Halt(ctx, name)
	}
	return w.machines(Source).Start(ctx, name)
}

// fenced looks whether a server at the source is unable to serve.
func (w *World) fenced(ctx context.Context, name string) (dr.Outcome, []string, error) {
	home, err := w.cameHome(name)
	if err != nil {
		return dr.Unknown, nil, err
	}
	if !home {
		return w.Hosts.Fenced(ctx, name)
	}
	running, err := w.machines(Source).Running(ctx, name)
	switch {
	case err != nil:
		return dr.Unknown, nil, err
	case running:
		return dr.NotDone, []string{"its machine runs"}, nil
	}
	return dr.Done, []string{"its machine does not run"}, nil
}

// mayComeHome refuses to start a server at the source beside the one at the target, or
// beside the one it was there before. Where nobody can tell of that one, a person has
// given their word in an earlier step.
func (w *World) mayComeHome(ctx context.Context, name string) error {
	running, err := w.Machines.Running(ctx, name)
	if err != nil {
		return fmt.Errorf("make sure that it is shut down at the target: %w", err)
	}
	if running {
		return hinted("shut it down, then resume", "a machine %s runs at the target", name)
	}
	if home, err := w.cameHome(name); err != nil || home {
		return err // the machine it was is put away
	}
	if o, _, err := w.Hosts.Fenced(ctx, name); err == nil && o == dr.NotDone {
		return hinted("fence it, then resume", "%s as it was at the source may still serve there", name)
	}
	return nil
}

// goOn lets applications go on. A machine at the target may be starting just now.
func (w *World) goOn(ctx context.Context, c *runbook.Call) ([]string, error) {
	for {
		facts, err := w.applications(at(c)).Quiesce(ctx, c.Step.Object, false)
		if err == nil || at(c) == Source || retry.Sleep(ctx, time.Second) != nil {
			return facts, err
		}
	}
}

func (w *World) halt(ctx context.Context, c *runbook.Call) ([]string, error) {
	facts, err := w.machines(at(c)).Halt(ctx, c.Step.Object)
	if err != nil {
		return facts, err
	}
	running, err := w.machines(at(c)).Running(ctx, c.Step.Object)
	if err == nil && running {
		err = errors.New("it was shut down, and runs")
	}
	return facts, err
}

// putAway refuses a machine that runs: nobody expects one there.
func (w *World) putAway(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.machines(at(c)).PutAway(ctx, c.Step.Object)
}

// start goes on with a machine as it was left.
func (w *World) start(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.machines(at(c)).Start(ctx, c.Step.Object)
}

// absent insists that a machine does not run at a site.
func (w *World) absent(ctx context.Context, c *runbook.Call) ([]string, error) {
	running, err := w.machines(at(c)).Running(ctx, c.Step.Object)
	if err != nil {
		return nil, err
	}
	if running {
		return nil, hinted("go on with what was begun: leeward failback resume", "a machine %s runs at the %s", c.Step.Object, at(c))
	}
	return []string{"it does not run there"}, nil
}

// room looks whether a site can run what is to move there.
func (w *World) room(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.machines(at(c)).Ready(ctx, strings.Split(c.Step.Args[argNames], ","))
}

func (w *World) drill(ctx context.Context, c *runbook.Call) ([]string, error) {
	if w.Home == nil {
		return nil, errNoHome
	}
	return w.Home.Drill(ctx, strings.Split(c.Step.Args[argNames], ","))
}

// leave makes sure that a source that was lost writes no more, before what it has is
// looked at.
func (w *World) leave(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.Quarantine(ctx, c.Step.Object, duration(c, argGrace))
}

// setAside keeps what going back would overwrite.
func (w *World) setAside(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	dir := filepath.Join(w.Aside, c.Run, c.Step.Object)
	err = w.with(ctx, c.Step.Object, Back, func(db Database) error {
		facts, err = db.SetAside(ctx, dir)
		return err
	})
	return facts, err
}

// noHome is the Machines of a source without a host for them.
type noHome struct{}

func (noHome) Ready(context.Context, []string) ([]string, error)          { return nil, errNoHome }
func (noHome) Pass(context.Context, string) (dr.PointID, []string, error) { return "", nil, errNoHome }
func (noHome) Boot(context.Context, string, dr.PointID) ([]string, error) { return nil, errNoHome }
func (noHome) Start(context.Context, string) ([]string, error)            { return nil, errNoHome }
func (noHome) Probe(context.Context, string) ([]string, error)            { return nil, errNoHome }
func (noHome) Running(context.Context, string) (bool, error)              { return false, errNoHome }
func (noHome) Halt(context.Context, string) ([]string, error)             { return nil, errNoHome }
func (noHome) PutAway(context.Context, string) ([]string, error)          { return nil, errNoHome }
