package runbook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// State is how a step stands.
type State string

// A step that was begun and has no end was cut, or runs now.
const (
	Waiting     State = "waiting"
	Running     State = "running"
	StepDone    State = "done"
	StepNotDone State = "not done"
	StepUnknown State = "unknown"
)

// StepReport is a step and what came of it.
type StepReport struct {
	Step
	State    State             `json:"state"`
	How      string            `json:"how,omitempty"` // did, observed or told
	Attempts int               `json:"attempts"`
	Began    time.Time         `json:"began,omitzero"`
	Took     time.Duration     `json:"took_ns"` // of the last attempt
	Facts    []string          `json:"facts,omitempty"`
	Values   map[string]string `json:"values,omitempty"`
	Err      string            `json:"error,omitempty"`
	Hint     string            `json:"hint,omitempty"`
	By       *Actor            `json:"by,omitempty"` // whose word it is, where How is told
}

// Report is a run as its journal tells it.
type Report struct {
	ID      string            `json:"id"`
	Kind    string            `json:"kind"`
	Serial  string            `json:"serial"`
	Subject []string          `json:"subject"`
	Params  map[string]string `json:"params,omitempty"`
	Outcome dr.Outcome        `json:"outcome"`
	Over    bool              `json:"over"`          // nothing can be resumed
	Why     string            `json:"why,omitempty"` // it is over and not done
	Began   time.Time         `json:"began"`
	Actor   Actor             `json:"actor"` // who began it
	Took    time.Duration     `json:"took_ns"`
	// Down is how long applications stood still, so far; 0 where they did not.
	Down  time.Duration `json:"down_ns"`
	Steps []StepReport  `json:"steps"`
}

// Step returns the report of a step; a zero one where there is none.
func (r Report) Step(id string) StepReport {
	i := slices.IndexFunc(r.Steps, func(s StepReport) bool { return s.ID == id })
	if i < 0 {
		return StepReport{}
	}
	return r.Steps[i]
}

// done reports whether every step is.
func (r Report) done() bool {
	return !slices.ContainsFunc(r.Steps, func(s StepReport) bool { return s.State != StepDone })
}

// Changed reports whether a step that changes something was begun.
func (r Report) Changed() bool {
	return slices.ContainsFunc(r.Steps, func(s StepReport) bool { return !s.Looks && s.Attempts > 0 && s.State != StepNotDone })
}

// Stuck returns the steps that a person must look at.
func (r Report) Stuck() (out []StepReport) {
	for _, s := range r.Steps {
		if s.State == StepUnknown {
			out = append(out, s)
		}
	}
	return out
}

// Summarize tells a run from its records.
func Summarize(id string, records []Record) Report {
	rep := Report{ID: id}
	if len(records) == 0 || records[0].Plan == nil {
		return rep
	}
	first, last := records[0], records[len(records)-1]
	p := first.Plan
	rep.Kind, rep.Serial, rep.Subject, rep.Params = p.Kind, first.Serial, p.Subject, p.Params
	rep.Began, rep.Took = first.At, between(first, last)
	if first.Actor != nil {
		rep.Actor = *first.Actor
	}
	at := map[string]int{}
	for i, s := range p.Steps {
		rep.Steps = append(rep.Steps, StepReport{Step: s, State: Waiting})
		at[s.ID] = i
	}
	for _, rec := range records {
		if i, ok := at[rec.Step]; ok {
			rep.Steps[i].take(rec)
		}
		if rec.Event == EventOver {
			rep.Over, rep.Why = true, rec.Err
		}
	}
	rep.Down = downtime(p, records)
	rep.Outcome = dr.NotDone
	switch {
	case rep.done():
		rep.Outcome = dr.Done
	case len(rep.Stuck()) > 0:
		rep.Outcome = dr.Unknown
	}
	return rep
}

func (s *StepReport) take(rec Record) {
	switch rec.Event {
	case EventStep:
		s.State, s.Attempts, s.Began = Running, rec.Attempt, rec.At
		s.Err, s.Hint, s.Facts, s.How, s.By = "", "", nil, "", nil
	case EventEnd, EventTold:
		s.State = StepUnknown
		if rec.Outcome != nil {
			s.State = State(rec.Outcome.String())
		}
		s.How, s.Facts, s.Values, s.Err, s.Hint = rec.How, rec.Facts, rec.Values, rec.Err, rec.Hint
		if rec.Event == EventEnd {
			s.Took = rec.Took
		} else {
			s.By = rec.Actor
		}
	}
}

// downtime is from the first moment at which a step that halts applications began to
// the last at which one ended; to the last record while one is missing.
func downtime(p *Plan, records []Record) time.Duration {
	var from, to *Record
	missing := map[string]bool{}
	for _, s := range p.Steps {
		if s.Down {
			missing[s.ID] = true
		}
	}
	for i := range records {
		rec := &records[i]
		s := p.Step(rec.Step)
		if s == nil || !s.Down {
			continue
		}
		if rec.Event == EventStep && from == nil {
			from = rec
		}
		if rec.Event != EventStep && rec.Outcome != nil && *rec.Outcome == dr.Done {
			delete(missing, s.ID)
			to = rec
		}
	}
	switch {
	case from == nil:
		return 0
	case len(missing) > 0 || to == nil:
		to = &records[len(records)-1]
	}
	return between(*from, *to)
}

// Read tells a run from its journal, whoever runs it.
func Read(runs, id string) (Report, error) {
	records, _, _, err := readJournal(filepath.Join(runs, id))
	if err != nil {
		return Report{ID: id}, err
	}
	return Summarize(id, records), nil
}

// List returns the reports of all runs below the directory runs, oldest first. A run
// that cannot be read is in the error; the others are returned all the same.
func List(runs string) (out []Report, err error) {
	entries, err := os.ReadDir(runs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		rep, err := Read(runs, e.Name())
		switch {
		case err != nil:
			errs = append(errs, err)
		case rep.Kind != "": // else it was cut before its plan was written
			out = append(out, rep)
		}
	}
	slices.SortStableFunc(out, func(a, b Report) int {
		return strings.Compare(a.ID[strings.Index(a.ID, "-")+1:], b.ID[strings.Index(b.ID, "-")+1:])
	})
	return out, errors.Join(errs...)
}
