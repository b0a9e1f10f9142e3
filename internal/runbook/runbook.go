// Package runbook executes a finite plan of steps: it keeps their order, asks people
// where a person's word is needed, writes down what it is about to do before it does
// it and what came of it after, and goes on after any interruption by looking first.
// It knows nothing of servers or databases; those who build plans bring the actions.
//
// A Plan is a value: printing it is the dry run. Its serial stands for all that
// applying it would do, and for the state of the estate it was made from.
package runbook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Format is the version of plans and journals.
const Format = 1

// Plan is everything a run will do. Nothing changes it after it was made.
type Plan struct {
	Format  int               `json:"format"`
	Kind    string            `json:"kind"`    // cutover, failover, rollback …
	Estate  string            `json:"estate"`  // the estate's name
	Subject []string          `json:"subject"` // what it moves
	State   string            `json:"state"`   // digest of the state it was made from
	Params  map[string]string `json:"params,omitempty"`
	Steps   []Step            `json:"steps"`

	// Made and Notes are of the moment: they are no part of the serial.
	Made  time.Time `json:"made"`
	Notes []string  `json:"notes,omitempty"` // what a person should know before the approval
}

// Step is one unit of change. It holds no secret: it is printed, and kept.
type Step struct {
	ID     string            `json:"id"`
	Phase  string            `json:"phase"` // heading under which it is shown
	Title  string            `json:"title"` // a sentence without its end
	Action string            `json:"action"`
	Object string            `json:"object,omitempty"` // what it is done to
	Args   map[string]string `json:"args,omitempty"`
	After  []string          `json:"after,omitempty"` // steps that must be done before
	// Timeout bounds one attempt.
	Timeout time.Duration `json:"timeout_ns"`
	// Looks is set where the step changes nothing, so that it may be taken again.
	Looks bool `json:"looks,omitempty"`
	// Down is set where applications stand still for it: what is down lasts from the
	// beginning of the first such step to the end of the last.
	Down bool `json:"down,omitempty"`
	// Commands are what a person would type if Leeward were not there.
	Commands []string `json:"commands,omitempty"`
	// Look says what a person has to look at when the outcome is not known.
	Look string `json:"look,omitempty"`
}

// Serial names the plan and what it rests on. Two plans of one serial do the same.
func (p *Plan) Serial() string {
	c := *p
	c.Made, c.Notes = time.Time{}, nil
	b, err := json.Marshal(c)
	if err != nil {
		// Strings, numbers and maps of strings always encode; a serial nobody has
		// keeps such a plan from being applied.
		return ""
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:6])
}

// Check reports what makes a plan impossible: steps without a name, an action or a
// bound, names twice, steps that wait for none or for themselves.
func (p *Plan) Check() error {
	if p.Format != Format {
		return fmt.Errorf("check plan: its format is %d, this version knows %d", p.Format, Format)
	}
	if len(p.Steps) == 0 {
		return errors.New("check plan: it has no steps")
	}
	known := map[string]bool{}
	for _, s := range p.Steps {
		switch {
		case s.ID == "" || s.Action == "" || s.Title == "":
			return fmt.Errorf("check plan: step %q lacks an id, a title or an action", s.ID)
		case known[s.ID]:
			return fmt.Errorf("check plan: there are two steps %s", s.ID)
		case s.Timeout <= 0:
			return fmt.Errorf("check plan: step %s has no timeout", s.ID)
		}
		// Every step waits for earlier ones alone, so there can be no circle.
		for _, a := range s.After {
			if !known[a] {
				return fmt.Errorf("check plan: step %s waits for %s, which does not come before it", s.ID, a)
			}
		}
		known[s.ID] = true
	}
	return nil
}

// Step returns the step of that name, or nil.
func (p *Plan) Step(id string) *Step {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return nil
	}
	return &p.Steps[i]
}

// StaleError says that the estate is not as it was when a plan was made.
type StaleError struct{ Asked, Now string }

func (e *StaleError) Error() string {
	return fmt.Sprintf("apply plan %s: it is not the plan of today, which is %s: the estate or its state changed since", e.Asked, e.Now)
}

// Fresh refuses a serial that is not that of p, which was made a moment ago from the
// same parameters. again is the command that shows p.
func Fresh(p *Plan, serial, again string) error {
	if now := p.Serial(); serial != now {
		return dr.WithHint(&StaleError{Asked: serial, Now: now}, "look at what would be done now: "+again)
	}
	return nil
}
