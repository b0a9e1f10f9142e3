package runbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Options are what a run needs beside its plan.
type Options struct {
	Actions  Actions
	Actor    Actor
	Parallel int             // steps at once; 0: 4
	Clock    Clock           // nil: SystemClock
	Progress *Cell[Snapshot] // nil: nobody looks
	// Cut is called before and after each record becomes durable; an error ends the run
	// there, as a power cut would. It is for tests.
	Cut func(r Record, durable bool) error
}

const (
	defaultParallel = 4
	// lookTimeout bounds the look at what a step left when its own time is over.
	lookTimeout = 30 * time.Second
)

// Run is a run that this process executes. Its methods are for one goroutine.
type Run struct {
	id    string
	plan  *Plan
	o     Options
	j     *journal
	story []Record
	steps map[string]*stepState
	board *board
}

// stepState is what the journal knows of a step.
type stepState struct {
	attempts int
	begun    bool // and not ended: it was cut, or runs
	outcome  dr.Outcome
	tried    bool // it ended, or was told of, at least once
	told     bool // outcome is a person's word, and nothing was tried since
	values   map[string]string
}

// ErrOver says that a run has ended for good.
var ErrOver = errors.New("the run is over")

// Begin makes a run of the plan below the directory runs. Whoever calls it holds the
// lease.
func Begin(runs string, p *Plan, o Options) (*Run, error) {
	if err := errors.Join(p.Check(), o.Actions.known(p)); err != nil {
		return nil, err
	}
	o.fill()
	wall, _, _ := o.Clock()
	id, err := freeID(runs, p.Kind+"-"+wall.UTC().Format("20060102T150405Z"))
	if err != nil {
		return nil, err
	}
	j, err := createJournal(filepath.Join(runs, id))
	if err != nil {
		return nil, err
	}
	r := newRun(id, p, o, j)
	if err := r.record(Record{Event: EventBegin, Plan: p, Serial: p.Serial(), Actor: &o.Actor}); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return r, nil
}

// freeID returns id, or the first id-N that is not taken: clocks are set back.
func freeID(runs, id string) (string, error) {
	for n := 1; ; n++ {
		try := id
		if n > 1 {
			try = fmt.Sprintf("%s-%d", id, n)
		}
		_, err := os.Lstat(filepath.Join(runs, try))
		if errors.Is(err, os.ErrNotExist) {
			return try, nil
		}
		if err != nil {
			return "", fmt.Errorf("name run: %w", err)
		}
	}
}

// Resume opens a run to go on with it. Whoever calls it holds the lease.
func Resume(runs, id string, o Options) (*Run, error) {
	j, records, err := openJournal(filepath.Join(runs, id))
	if err != nil {
		return nil, err
	}
	r, err := resume(id, o, j, records)
	if err != nil {
		return nil, errors.Join(err, j.close())
	}
	return r, nil
}

func resume(id string, o Options, j *journal, records []Record) (*Run, error) {
	if len(records) == 0 || records[0].Event != EventBegin || records[0].Plan == nil {
		return nil, fmt.Errorf("resume %s: it was cut before its plan was written: nothing was done; make a new plan", id)
	}
	p := records[0].Plan
	if err := errors.Join(p.Check(), o.Actions.known(p)); err != nil {
		return nil, err
	}
	if records[0].Serial != p.Serial() {
		return nil, fmt.Errorf("resume %s: its plan is not the one that was approved", id)
	}
	o.fill()
	r := newRun(id, p, o, j)
	for _, rec := range records {
		r.take(rec)
	}
	if r.over() {
		return nil, fmt.Errorf("resume %s: %w", id, ErrOver)
	}
	return r, r.record(Record{Event: EventResume, Actor: &o.Actor})
}

func (o *Options) fill() {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Clock == nil {
		o.Clock = SystemClock
	}
}

func newRun(id string, p *Plan, o Options, j *journal) *Run {
	j.clock, j.cut = o.Clock, o.Cut
	r := &Run{id: id, plan: p, o: o, j: j, steps: map[string]*stepState{}}
	for _, s := range p.Steps {
		r.steps[s.ID] = &stepState{}
	}
	r.board = newBoard(id, p, o.Progress)
	return r
}

// ID names the run.
func (r *Run) ID() string { return r.id }

// Plan is what the run executes.
func (r *Run) Plan() *Plan { return r.plan }

// Close leaves the run as it is.
func (r *Run) Close() error { return r.j.close() }

// Report is how the run stands.
func (r *Run) Report() Report { return Summarize(r.id, r.story) }

func (r *Run) over() bool {
	return len(r.story) > 0 && r.story[len(r.story)-1].Event == EventOver
}

// record makes rec durable and then true.
func (r *Run) record(rec Record) error {
	rec, err := r.j.append(rec)
	if err == nil {
		r.take(rec)
	}
	return err
}

// take brings what is known of the steps up to a record.
func (r *Run) take(rec Record) {
	r.story = append(r.story, rec)
	st := r.steps[rec.Step]
	if st == nil {
		return
	}
	switch rec.Event {
	case EventStep:
		st.attempts, st.begun, st.told = rec.Attempt, true, false
	case EventEnd, EventTold:
		st.begun, st.tried, st.told = false, true, rec.Event == EventTold
		if st.outcome = dr.Unknown; rec.Outcome != nil {
			st.outcome = *rec.Outcome
		}
		if rec.Values != nil {
			st.values = rec.Values
		}
	}
	r.board.take(rec)
}

// Tell records a person's word on a step whose outcome is not known.
func (r *Run) Tell(step string, outcome dr.Outcome) error {
	st := r.steps[step]
	if st == nil {
		return fmt.Errorf("tell of step %s: the run has none of that name", step)
	}
	if outcome == dr.Unknown {
		return fmt.Errorf("tell of step %s: say done or not done", step)
	}
	if st.attempts == 0 || st.outcome == dr.Done {
		return fmt.Errorf("tell of step %s: its outcome is known: %s", step, r.Report().Step(step).State)
	}
	return r.record(Record{Event: EventTold, Step: step, Attempt: st.attempts, Outcome: &outcome, How: "told", Actor: &r.o.Actor})
}

// Abandon ends the run for good, though it is not done.
func (r *Run) Abandon(why string) error {
	o := dr.NotDone
	return r.record(Record{Event: EventOver, Outcome: &o, Err: why, Actor: &r.o.Actor})
}

// finished is how an attempt ended.
type finished struct {
	step string
	rec  Record
}

// Execute does what is not done yet, steps that wait for nothing at once. It returns
// when all is done, or when a step that was not done, or of which it is not known, has
// ended and with it those that ran beside it. The report tells which. An error is of
// the run itself: its journal cannot be written, or ctx ended.
func (r *Run) Execute(ctx context.Context) (Report, error) {
	err := r.execute(ctx)
	if err == nil {
		err = ctx.Err()
	}
	if rep := r.Report(); err == nil && rep.done() {
		o := dr.Done
		err = r.record(Record{Event: EventOver, Outcome: &o})
	}
	return r.Report(), err
}

func (r *Run) execute(ctx context.Context) error {
	var wait sync.WaitGroup
	defer wait.Wait()
	results := make(chan finished)
	running := map[string]int{}
	var failed error
	halted := false
	for {
		for !halted && failed == nil && ctx.Err() == nil && len(running) < r.o.Parallel {
			s := r.next(running)
			if s == nil {
				break
			}
			before := *r.steps[s.ID]
			if failed = r.record(Record{Event: EventStep, Step: s.ID, Attempt: before.attempts + 1}); failed != nil {
				break
			}
			running[s.ID]++
			call := r.call(s)
			wait.Go(func() { results <- finished{s.ID, r.attempt(ctx, call, before)} })
		}
		if len(running) == 0 {
			return failed
		}
		f := <-results
		delete(running, f.step)
		if failed == nil {
			failed = r.record(f.rec)
		}
		halted = halted || f.rec.Outcome == nil || *f.rec.Outcome != dr.Done
	}
}

// next returns a step that is not done, does not run and waits for nothing more.
func (r *Run) next(running map[string]int) *Step {
	for i := range r.plan.Steps {
		s := &r.plan.Steps[i]
		ready := !slices.ContainsFunc(s.After, func(a string) bool { return !r.isDone(a) })
		if ready && running[s.ID] == 0 && !r.isDone(s.ID) {
			return s
		}
	}
	return nil
}

func (r *Run) isDone(id string) bool {
	st := r.steps[id]
	return st.tried && !st.begun && st.outcome == dr.Done
}

func (r *Run) call(s *Step) *Call {
	c := &Call{Step: *s, Plan: r.plan, Run: r.id, Attempt: r.steps[s.ID].attempts, Values: map[string]map[string]string{},
		Say: func(text string) { r.board.say(s.ID, text) }}
	for id, st := range r.steps {
		if st.values != nil && r.isDone(id) {
			c.Values[id] = st.values
		}
	}
	return c
}

// attempt does one step and returns the record of its end. before is what was known
// of it: what may have happened already is looked at first.
func (r *Run) attempt(ctx context.Context, c *Call, before stepState) Record {
	began := time.Now() // a reading of the monotonic clock too
	bounded, cancel := context.WithTimeout(ctx, c.Step.Timeout)
	defer cancel()
	res, how, err := r.try(bounded, c, before)
	if res.Outcome == dr.Unknown || res.Outcome == dr.Done && err != nil {
		// What it left can often be seen, even when its time is over.
		look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
		defer cancel()
		seen, lookErr := r.o.Actions[c.Step.Action].Observe(look, c)
		if lookErr == nil && seen.Outcome != dr.Unknown {
			seen.Facts = append(res.Facts, seen.Facts...)
			res, how = seen, "observed"
		} else {
			res.Outcome = dr.Unknown
			err = errors.Join(err, lookErr)
		}
	}
	if res.Outcome == dr.Done {
		err = nil
	}
	rec := Record{Event: EventEnd, Step: c.Step.ID, Attempt: c.Attempt, Outcome: &res.Outcome, How: how,
		Took: time.Since(began), Facts: res.Facts, Values: res.Values}
	rec.Err, rec.Hint = words(bounded, err, c.Step)
	return rec
}

// try looks where an earlier attempt may have done it, and does it.
func (r *Run) try(ctx context.Context, c *Call, before stepState) (res Result, how string, err error) {
	act := r.o.Actions[c.Step.Action]
	if before.begun || before.tried {
		res, err = act.Observe(ctx, c)
		switch {
		case err == nil && res.Outcome == dr.Done:
			return res, "observed", nil
		case before.told:
			// A person looked where the action could not.
		case err != nil || res.Outcome == dr.Unknown:
			return Result{Facts: res.Facts}, "observed", err
		}
	}
	res, err = act.Do(ctx, c)
	return res, "did", err
}

// words is what the journal says of an error.
func words(ctx context.Context, err error, s Step) (text, hint string) {
	if err == nil {
		return "", ""
	}
	text = strings.TrimSpace(err.Error())
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		text = fmt.Sprintf("it took longer than %s: %s", s.Timeout, text)
	}
	var h *dr.Hinted
	if errors.As(err, &h) {
		hint = h.Hint
	}
	return text, hint
}
