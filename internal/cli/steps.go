package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// live shows a run while it goes on: a tree of steps in place on a terminal, as lines
// otherwise.
type live struct {
	cell    *runbook.Cell[runbook.Snapshot]
	out     io.Writer
	term    terminal
	started time.Time
	stop    chan struct{}
	ended   chan struct{}

	mu     sync.Mutex // guards what follows
	paused bool
	drawn  int                     // lines on the screen that are ours
	told   map[string]runbook.View // what was told as lines
}

func (c *call) newLive(cell *runbook.Cell[runbook.Snapshot]) *live {
	l := &live{cell: cell, out: c.Out, term: detect(c.Out, c.Getenv), told: map[string]runbook.View{},
		stop: make(chan struct{}), ended: make(chan struct{})}
	if c.json {
		l.out, l.term = c.Err, terminal{}
	}
	return l
}

// begin shows the run until end.
func (l *live) begin() {
	l.started = time.Now()
	go func() {
		defer close(l.ended)
		t := time.NewTicker(redrawEvery)
		defer t.Stop()
		for {
			select {
			case now := <-t.C:
				l.show(now)
			case <-l.stop:
				l.show(time.Now())
				return
			}
		}
	}()
}

func (l *live) end() {
	close(l.stop)
	<-l.ended
}

// pause leaves the screen to a question.
func (l *live) pause() {
	l.show(time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused, l.drawn = true, 0
}

func (l *live) goOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = false
}

func (l *live) show(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused {
		return
	}
	s := l.cell.Get()
	if !l.term.animate {
		var b strings.Builder
		for _, v := range s.Steps {
			if line := stepEvent(l.told[v.ID], v); line != "" {
				fmt.Fprintf(&b, "%s  %s\n", now.Format(time.TimeOnly), line)
			}
			l.told[v.ID] = v
		}
		io.WriteString(l.out, b.String()) // who reads no progress still gets the result
		return
	}
	width, height := l.term.size()
	lines := stepTree(s, now, now.Sub(l.started), width-1, height, l.term.style)
	l.drawn = redraw(l.out, l.drawn, lines)
}

// stepEvent is what is new of a step, as a line of a log.
func stepEvent(before, now runbook.View) string {
	if before.State == now.State && before.Began.Equal(now.Began) || now.State == runbook.Waiting {
		return ""
	}
	switch now.State {
	case runbook.Running:
		return fmt.Sprintf("%s: %s", now.ID, clean(now.Title))
	case runbook.StepDone:
		return fmt.Sprintf("%s: %s in %s", now.ID, choose(now.How == "observed", "seen to be done", "done"), span(now.Took))
	}
	return fmt.Sprintf("%s: %s: %s", now.ID, strings.ToUpper(string(now.State)), clean(now.Err))
}

// phaseOf is a run of steps under one heading.
type phaseOf struct {
	name  string
	steps []runbook.View
}

func phasesOf(steps []runbook.View) (out []phaseOf) {
	for _, v := range steps {
		if len(out) == 0 || out[len(out)-1].name != v.Phase {
			out = append(out, phaseOf{name: v.Phase})
		}
		p := &out[len(out)-1]
		p.steps = append(p.steps, v)
	}
	return out
}

// state of a phase is its worst step's, Running while one is, Waiting before all are.
func (p phaseOf) state() runbook.State {
	count := map[runbook.State]int{}
	for _, v := range p.steps {
		count[v.State]++
	}
	for _, s := range []runbook.State{runbook.StepUnknown, runbook.StepNotDone, runbook.Running} {
		if count[s] > 0 {
			return s
		}
	}
	switch count[runbook.StepDone] {
	case len(p.steps):
		return runbook.StepDone
	case 0:
		return runbook.Waiting
	}
	return runbook.Running
}

// stepTree draws the phases, and the steps of those that are at work or went wrong.
// Where there is no room, the steps of what is done are left out first.
func stepTree(s runbook.Snapshot, now time.Time, took time.Duration, width, height int, st style) []string {
	done := 0
	for _, v := range s.Steps {
		if v.State == runbook.StepDone {
			done++
		}
	}
	head := fmt.Sprintf("%s  %s   %d of %s", s.Kind, span(took.Truncate(time.Second)), done, count(len(s.Steps), "step"))
	lines := []string{st.bold(cut(head, width))}
	phases := phasesOf(s.Steps)
	room := height - 2 - len(phases)
	for _, p := range phases {
		state := p.state()
		lines = append(lines, phaseLine(p, state, width, st))
		if state == runbook.Waiting || state == runbook.StepDone {
			continue
		}
		for _, v := range p.steps {
			if room <= 0 {
				break
			}
			lines, room = append(lines, viewLine(v, now, width, st)), room-1
		}
	}
	if st.ASCII {
		for i, l := range lines {
			lines[i] = ascii(l)
		}
	}
	return lines
}

func phaseLine(p phaseOf, state runbook.State, width int, st style) string {
	var took time.Duration
	for _, v := range p.steps {
		took = max(took, v.Took)
	}
	text := fmt.Sprintf("%s %s", mark(state, st), p.name)
	if state == runbook.StepDone {
		text += fmt.Sprintf("  %s, %s", count(len(p.steps), "step"), span(took))
	}
	return "  " + paintState(cut(text, width-2), state, st)
}

func viewLine(v runbook.View, now time.Time, width int, st style) string {
	text := fmt.Sprintf("%s %s  %s", mark(v.State, st), v.ID, clean(v.Title))
	switch v.State {
	case runbook.Running:
		text = fmt.Sprintf("%s %s  %s  %s", mark(v.State, st), v.ID, span(now.Sub(v.Began).Truncate(time.Second)), clean(choose(v.Say != "", v.Say, v.Title)))
	case runbook.StepDone:
		text = fmt.Sprintf("%s %s  %s", mark(v.State, st), v.ID, span(v.Took))
	case runbook.StepNotDone, runbook.StepUnknown:
		text = fmt.Sprintf("%s %s  %s: %s", mark(v.State, st), v.ID, v.State, clean(v.Err))
	}
	return "      " + paintState(cut(text, width-6), v.State, st)
}

func mark(s runbook.State, st style) string {
	marks := map[runbook.State][2]string{runbook.Waiting: {"·", "."}, runbook.Running: {"▸", ">"}, runbook.StepDone: {"✓", "+"},
		runbook.StepNotDone: {"✗", "x"}, runbook.StepUnknown: {"?", "?"}}
	if st.ASCII {
		return marks[s][1]
	}
	return marks[s][0]
}

func paintState(text string, s runbook.State, st style) string {
	switch s {
	case runbook.Waiting:
		return st.dim(text)
	case runbook.StepDone:
		return st.green(text)
	case runbook.StepNotDone:
		return st.red(text)
	case runbook.StepUnknown:
		return st.yellow(text)
	}
	return text
}

func renderSwitch(w io.Writer, res ran) {
	fmt.Fprintf(w, "\n%s of %s: %s, run %s, %s\n", res.Kind, strings.Join(res.Subject, ", "), strings.ToUpper(res.Outcome.String()), res.ID, span(res.Took))
	if res.Down > 0 {
		fmt.Fprintf(w, "applications stood still for %s\n", span(res.Down))
	}
	t := table{right: map[int]bool{2: true}}
	t.row("step", "outcome", "took", "what", "")
	for _, s := range res.Steps {
		if s.State == runbook.Waiting {
			continue
		}
		t.row(s.ID, choose(s.State == runbook.StepDone, "done", strings.ToUpper(string(s.State))), span(s.Took), choose(s.Down, "down", ""), clean(s.Title))
	}
	t.print(w, "  ")
	for _, s := range res.Steps {
		if s.Err != "" {
			fmt.Fprintf(w, "\n%s\n", s.ID)
			renderTrouble(w, s.Err, s.Hint)
		}
	}
	for _, g := range res.GoOn {
		fmt.Fprintf(w, "\nwhat to do: %s\n", clean(g))
	}
}

func renderSwitches(w io.Writer, all []runbook.Report) {
	if len(all) == 0 {
		fmt.Fprintln(w, "there was none yet")
		return
	}
	t := table{right: map[int]bool{3: true, 4: true}}
	t.row("run", "of", "outcome", "took", "down", "by", "")
	for _, r := range all {
		note := choose(r.Over || r.Outcome == dr.Done, "", "can be resumed")
		if r.Why != "" {
			note = r.Why
		}
		t.row(r.ID, strings.Join(r.Subject, ","), r.Outcome.String(), span(r.Took), choose(r.Down > 0, span(r.Down), "-"), r.Actor.User, clean(note))
	}
	t.print(w, "")
}
