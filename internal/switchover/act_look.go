package switchover

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// answerTimeout bounds how long a source that should be dead is waited for.
const answerTimeout = 10 * time.Second

func (w *World) preflight(ctx context.Context, c *runbook.Call) ([]string, error) {
	switch {
	case c.Step.Args[argMember] == "redirect":
		return w.preflightRedirect(ctx, c)
	case isServer(c):
		return w.preflightServer(ctx, c)
	case c.Step.Args[argRun] == Failover:
		return w.preflightFailover(ctx, c)
	}
	return w.preflightDatabase(ctx, c)
}

func (w *World) preflightDatabase(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	first := way(c)
	c.Say("both ends")
	err = w.with(ctx, c.Step.Object, first, func(db Database) error {
		facts, err = ready(ctx, db)
		return err
	})
	if err != nil || first == Back {
		return facts, err
	}
	s, err := w.Databases.Standing(ctx, c.Step.Object, Forward)
	if err != nil {
		return facts, err
	}
	if len(s.Trouble) > 0 {
		return facts, hinted("mend it, and run leeward replicate "+c.Step.Object, "what is at the target cannot be promoted: %s", strings.Join(s.Trouble, "; "))
	}
	facts = append(facts, fmt.Sprintf("the target is %s behind", short(s.Lag)))
	c.Say("the way back")
	err = w.with(ctx, c.Step.Object, Back, func(db Database) error {
		more, err := ready(ctx, db)
		if err != nil && c.Step.Args[argNoBack] == "yes" {
			more, err = append(more, "there may be no way back: "+err.Error()), nil
		} else if err != nil {
			err = hinted("mend it, or plan with --no-way-back", "the way back: %w", err)
		}
		facts = append(facts, more...)
		return err
	})
	return facts, err
}

// ready insists that a way can be replicated.
func ready(ctx context.Context, db Database) ([]string, error) {
	blockers, notes, err := db.Ready(ctx)
	if err == nil && len(blockers) > 0 {
		err = fmt.Errorf("it is not ready: %s", strings.Join(blockers, "; "))
	}
	return notes, err
}

// preflightFailover insists that the source does not answer: then a cutover would lose
// nothing.
func (w *World) preflightFailover(ctx context.Context, c *runbook.Call) ([]string, error) {
	name := c.Step.Object
	s, err := w.Databases.Standing(ctx, name, Forward)
	if err != nil {
		return nil, err
	}
	if s.Phase == engine.Primary {
		// An earlier run was cut after it had promoted it.
		return []string{"it was promoted already"}, nil
	}
	if len(s.Trouble) > 0 && c.Step.Args[argForce] != "yes" {
		return nil, hinted("promote it all the same: leeward failover plan --force", "what is at the target is no state the source had: %s", strings.Join(s.Trouble, "; "))
	}
	facts := s.Trouble
	brief, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if _, err := w.Tokens.Token(brief, name, Source); err != nil {
		return append(facts, "the source does not answer: "+err.Error()), nil
	}
	if c.Step.Args[argForce] == "yes" {
		return append(facts, "the source answers, and is given up all the same"), nil
	}
	return facts, hinted("move with nothing lost: leeward cutover plan; or give it up all the same: leeward failover plan --force",
		"the source of %s answers", name)
}

func (w *World) preflightServer(ctx context.Context, c *runbook.Call) ([]string, error) {
	running, err := w.Machines.Running(ctx, c.Step.Object)
	if err != nil {
		return nil, err
	}
	if way(c) == Back {
		if !running {
			return nil, hinted("start it there, or leave the server out", "no machine %s runs at the target", c.Step.Object)
		}
		return []string{"its machine runs at the target"}, nil
	}
	if running && c.Step.Args[argRun] == Failover {
		return []string{"its machine runs at the target already"}, nil
	}
	if running {
		return nil, hinted("stop it, or leave the server out", "a machine %s runs at the target already", c.Step.Object)
	}
	return []string{"no machine of that name runs at the target"}, nil
}

func (w *World) preflightRedirect(ctx context.Context, c *runbook.Call) ([]string, error) {
	site, facts, err := w.Names.Leads(ctx, c.Step.Object)
	if err != nil {
		return facts, err
	}
	if site == "" {
		facts = append(facts, "it leads to neither site now")
	}
	more, err := w.Names.Ready(ctx, c.Step.Object)
	return append(facts, more...), err
}

func (w *World) compare(ctx context.Context, c *runbook.Call) (facts []string, err error) {
	err = w.with(ctx, c.Step.Object, way(c), func(db Database) error {
		diff, rows, err := db.Compare(ctx)
		if err != nil {
			return err
		}
		if len(diff) > 0 {
			return hinted("look at these rows; a rollback lets the source go on", "%d rows differ: %s", len(diff), strings.Join(diff, "; "))
		}
		facts = []string{fmt.Sprintf("%d rows compared, all equal", rows)}
		return nil
	})
	return facts, err
}

func (w *World) probe(ctx context.Context, c *runbook.Call) ([]string, error) {
	return w.machines(at(c)).Probe(ctx, c.Step.Object)
}
