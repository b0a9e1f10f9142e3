package drill

import (
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill/bubble"
	"github.com/leeward-dr/leeward/internal/vm"
)

// Step is how far a machine came, and when, since the drill of its point began.
type Step struct {
	Name  string        `json:"name"`
	After time.Duration `json:"after_ns"`
}

// Check is one thing compared between source and booted machine.
type Check struct {
	Name    string     `json:"name"`
	Outcome dr.Outcome `json:"outcome"`
	Detail  string     `json:"detail,omitempty"`
}

// HeldBack is something that a drill keeps a machine from doing, by an argument of
// its kernel: because it takes time and proves nothing, or because it would act on the
// world.
type HeldBack struct {
	Arg  string `json:"arg"`
	What string `json:"what"`
	// programs are those whose ports stay closed for it.
	programs []string
}

// Result is what a drill found out about one recovery point. It is proven when
// Outcome is done; unknown means that this host failed, not the point.
type Result struct {
	Server      dr.ServerName   `json:"server"`
	Point       dr.PointID      `json:"point"`
	Outcome     dr.Outcome      `json:"outcome"`
	Firmware    vm.Firmware     `json:"firmware,omitempty"`
	Accelerator vm.Accel        `json:"accelerator,omitempty"`
	Memory      int64           `json:"memory_bytes,omitempty"`
	Attempts    int             `json:"attempts"`
	Steps       []Step          `json:"steps,omitempty"`
	TimeToProof time.Duration   `json:"time_to_proof_ns,omitempty"` // from power-on until every check held
	Took        time.Duration   `json:"took_ns,omitempty"`          // all of it, clone and adaptation included
	Checks      []Check         `json:"checks,omitempty"`
	Probes      []Check         `json:"probes,omitempty"` // the user's own questions
	Cause       string          `json:"cause,omitempty"`  // of failure, in a sentence
	Hint        string          `json:"hint,omitempty"`   // what to try
	HostFault   bool            `json:"host_fault,omitempty"`
	Notes       []string        `json:"notes,omitempty"`
	HeldBack    []HeldBack      `json:"held_back,omitempty"` // what the source does and this machine did not
	Adaptation  *adapt.Report   `json:"adaptation,omitempty"`
	Bubble      *bubble.Figures `json:"bubble,omitempty"` // the network it was in; nil without root
	SerialLog   string          `json:"serial_log,omitempty"`
	Screenshot  string          `json:"screenshot,omitempty"`
	Began       time.Time       `json:"began,omitzero"`
	Phases      Phases          `json:"phases"`            // of the last attempt
	Refused     bool            `json:"refused,omitempty"` // not booted: the point is not as it was made
	Digests     *Digests        `json:"digests,omitempty"` // of the point, before the boot and after
	Guest       *agentpb.Facts  `json:"-"`                 // what the machine reported of itself
}

// Reached reports whether the machine came as far as the named step.
func (r *Result) Reached(step string) bool {
	for _, s := range r.Steps {
		if s.Name == step {
			return true
		}
	}
	return false
}

// Digests tell whether a point is what was noted when it was made, and that a drill left
// it as it was.
type Digests struct {
	Outcome     dr.Outcome    `json:"outcome"`                 // before the boot; unknown where something could not be compared
	Entries     int64         `json:"entries"`                 // compared with the catalog
	Bytes       int64         `json:"bytes"`                   // of content digested
	Skipped     int64         `json:"skipped_bytes,omitempty"` // of content left out by lot
	Unclear     int           `json:"unclear,omitempty"`       // sparse files whose digest cannot be had here
	Took        time.Duration `json:"took_ns"`
	Differences []string      `json:"differences,omitempty"`
	Err         string        `json:"error,omitempty"`
	Point       string        `json:"point"`     // digest of the point, see docs/formats.md
	Untouched   Check         `json:"untouched"` // the point, after the drill
	Replica     Check         `json:"replica"`   // the replica, after the drill
}

// Phases are what the time of a drill went to: the achieved RTO, step by step. A phase that
// was not reached is 0.
type Phases struct {
	Check time.Duration `json:"check_ns"` // of the point against its catalogs, before the server's turn
	Clone time.Duration `json:"clone_ns"`
	Adapt time.Duration `json:"adapt_ns"`
	Boot  time.Duration `json:"boot_ns"`  // from power-on to the login prompt
	Probe time.Duration `json:"probe_ns"` // from there until every check and probe held
}

// Widen takes the longer of each phase.
func (p *Phases) Widen(o Phases) {
	p.Check, p.Clone, p.Adapt = max(p.Check, o.Check), max(p.Clone, o.Clone), max(p.Adapt, o.Adapt)
	p.Boot, p.Probe = max(p.Boot, o.Boot), max(p.Probe, o.Probe)
}

// phasesOf tells the phases from the steps of a drill that ended after took.
func phasesOf(steps []Step, took time.Duration) (p Phases) {
	at := map[string]time.Duration{}
	for _, s := range steps {
		at[s.Name] = s.After // the last attempt's stand
	}
	until := func(from string, to ...string) time.Duration {
		begin, ok := at[from]
		if !ok {
			return 0
		}
		for _, t := range to {
			if end, ok := at[t]; ok && end >= begin {
				return end - begin
			}
		}
		return max(0, took-begin)
	}
	login := string(vm.SignLogin)
	p.Clone, p.Adapt = until(StepClone, StepAdapt), until(StepAdapt, StepBoot)
	p.Boot, p.Probe = until(StepBoot, login), until(login)
	return p
}
