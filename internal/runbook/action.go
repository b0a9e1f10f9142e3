package runbook

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Call is what an action is told: the step, and what those before it came to.
type Call struct {
	Step    Step
	Plan    *Plan
	Run     string // the run's id
	Attempt int    // from 1
	// Values are what done steps returned, by step.
	Values map[string]map[string]string
	// Say shows what is going on within the step. It never waits.
	Say func(text string)
}

// Result is what came of a step. The zero value says that it is not known.
type Result struct {
	Outcome dr.Outcome
	Facts   []string          // what was seen, as evidence for people
	Values  map[string]string // for later steps; never a secret
}

// Action does one kind of step. Both methods may be called concurrently, for
// different steps, and return soon after ctx ends.
//
// Observe looks whether the effect is there and changes nothing. An action that may
// be repeated without harm may say NotDone where it cannot tell. Do brings the effect
// about. Its result says NotDone only where nothing happened, or what happened can be
// done again; whatever else went wrong is Unknown. An error gives the reason of any
// outcome but Done.
type Action interface {
	Observe(ctx context.Context, c *Call) (Result, error)
	Do(ctx context.Context, c *Call) (Result, error)
}

// Actions are the kinds of steps by name.
type Actions map[string]Action

// known refuses a plan with a step nobody can do.
func (a Actions) known(p *Plan) error {
	for _, s := range p.Steps {
		if a[s.Action] == nil {
			return fmt.Errorf("check plan: step %s: there is no action %q", s.ID, s.Action)
		}
	}
	return nil
}

// done is the result of what was seen to be so.
func done(facts ...string) Result { return Result{Outcome: dr.Done, Facts: facts} }

// notDone is the result of what certainly did not happen.
func notDone(facts ...string) Result { return Result{Outcome: dr.NotDone, Facts: facts} }
