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
	"testing"
	"testing/synctest"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// world is a simulated one: effects by step, and how often each was brought about.
type world struct {
	steps []Step

	mu      sync.Mutex
	effects map[string]int
	order   []string
	busy    int
	most    int
	cut     string // step at which the process dies …
	after   bool   // … after its effect, else before
	dead    bool
	blind   map[string]bool // steps whose effect cannot be seen
	do      func(ctx context.Context, c *Call) (Result, error)
	appends int
	cutAt   int // record after which the process dies
}

var errDead = errors.New("the process is dead")

// newWorld has a step for each name; "b<a" waits for a.
func newWorld(names ...string) *world {
	w := &world{effects: map[string]int{}, blind: map[string]bool{}}
	for _, n := range names {
		id, after, _ := strings.Cut(n, "<")
		s := Step{ID: id, Title: "do " + id, Action: "sim", Timeout: time.Minute}
		if after != "" {
			s.After = strings.Split(after, "+")
		}
		w.steps = append(w.steps, s)
	}
	return w
}

func (w *world) plan() *Plan {
	return &Plan{Format: Format, Kind: "test", Estate: "sim", Subject: []string{"x"}, Steps: w.steps}
}

func (w *world) options() Options {
	actions := People(w)
	actions["sim"] = w
	return Options{Actions: actions, Actor: Actor{User: "ann", Host: "here"}, Cut: func(_ Record, durable bool) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		if durable {
			w.appends++
		}
		if w.dead || durable && w.appends == w.cutAt {
			w.dead = true
			return errDead
		}
		return nil
	}}
}

func (w *world) Ask(_ context.Context, q Question) (Answer, error) {
	return Answer{Outcome: dr.Done, Actor: Actor{User: "bob", Host: "there"}, At: time.Now(), Word: q.Text}, nil
}

func (w *world) Observe(_ context.Context, c *Call) (Result, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.dead:
		return Result{}, errDead
	case w.blind[c.Step.ID]:
		return Result{}, nil
	case w.effects[c.Step.ID] > 0:
		return done("it is there"), nil
	}
	return notDone(), nil
}

func (w *world) Do(ctx context.Context, c *Call) (Result, error) {
	w.mu.Lock()
	w.busy++
	w.most = max(w.most, w.busy)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.busy--
		w.mu.Unlock()
	}()
	if w.do != nil {
		if res, err := w.do(ctx, c); err != nil || res.Outcome != dr.Done {
			return res, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead || w.cut == c.Step.ID && !w.after {
		w.dead = true
		return Result{}, errDead
	}
	w.effects[c.Step.ID]++
	w.order = append(w.order, c.Step.ID)
	if w.cut == c.Step.ID {
		w.dead = true
		return Result{}, errDead
	}
	return Result{Outcome: dr.Done, Values: map[string]string{"of": c.Step.ID}}, nil
}

// revive is the next process.
func (w *world) revive() { w.dead, w.cut, w.cutAt = false, "", 0 }

func begin(t *testing.T, w *world) (dir string, r *Run) {
	t.Helper()
	dir = t.TempDir()
	r, err := Begin(dir, w.plan(), w.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return dir, r
}

func resumed(t *testing.T, dir, id string, w *world) *Run {
	t.Helper()
	r, err := Resume(dir, id, w.options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestOrderAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b", "c", "d", "e", "f<a+b", "g<f")
		w.do = func(context.Context, *Call) (Result, error) { time.Sleep(time.Second); return done(), nil }
		_, r := begin(t, w)
		began := time.Now()
		r.o.Parallel = 3
		rep, err := r.Execute(t.Context())
		if err != nil || rep.Outcome != dr.Done || !rep.Over {
			t.Fatalf("%+v, %v", rep, err)
		}
		if w.most != 3 {
			t.Errorf("%d steps ran at once, want 3", w.most)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("it took %v, want 3s: a b c, d e f, g", took)
		}
		at := func(id string) int { return slices.Index(w.order, id) }
		if at("f") < at("a") || at("f") < at("b") || at("g") < at("f") {
			t.Errorf("the order was %v", w.order)
		}
		if rep.Step("a").Took != time.Second {
			t.Errorf("a took %v", rep.Step("a").Took)
		}
	})
}

// A failure lets what runs end, and begins nothing more.
func TestFailureStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("bad", "slow", "next<slow")
		w.do = func(_ context.Context, c *Call) (Result, error) {
			if c.Step.ID == "bad" {
				return notDone(), dr.WithHint(errors.New("no room"), "make room")
			}
			time.Sleep(time.Second)
			return done(), nil
		}
		dir, r := begin(t, w)
		rep, err := r.Execute(t.Context())
		if err != nil || rep.Outcome != dr.NotDone || rep.Over {
			t.Fatalf("%+v, %v", rep, err)
		}
		if s := rep.Step("bad"); s.State != StepNotDone || s.Err != "no room" || s.Hint != "make room" {
			t.Errorf("%+v", s)
		}
		if rep.Step("slow").State != StepDone || rep.Step("next").State != Waiting {
			t.Errorf("%+v", rep.Steps)
		}
		w.do = nil
		rep, err = resumed(t, dir, r.ID(), w).Execute(t.Context())
		if err != nil || rep.Outcome != dr.Done || w.effects["slow"] != 1 || rep.Step("bad").Attempts != 2 {
			t.Fatalf("%+v, %v, %v", rep, err, w.effects)
		}
		if _, err := Resume(dir, r.ID(), w.options()); !errors.Is(err, ErrOver) {
			t.Errorf("a run that is over was resumed: %v", err)
		}
	})
}

// A step that takes too long is cut, and looked at.
func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b")
		w.blind["b"] = true
		w.do = func(ctx context.Context, c *Call) (Result, error) {
			<-ctx.Done()
			w.mu.Lock()
			defer w.mu.Unlock()
			w.effects[c.Step.ID]++ // it happened, and nobody heard
			return Result{}, ctx.Err()
		}
		_, r := begin(t, w)
		rep, err := r.Execute(t.Context())
		if err != nil || rep.Outcome != dr.Unknown {
			t.Fatalf("%+v, %v", rep, err)
		}
		a, b := rep.Step("a"), rep.Step("b")
		if a.State != StepDone || a.How != "observed" || a.Took != time.Minute {
			t.Errorf("%+v", a)
		}
		if b.State != StepUnknown || !strings.Contains(b.Err, "longer than 1m0s") {
			t.Errorf("%+v", b)
		}
		if len(rep.Stuck()) != 1 || !strings.Contains(b.OnWith("resume"), "--step b --is done") {
			t.Errorf("%+v", rep.Stuck())
		}
	})
}

// Nobody knows whether a step happened: a person's word decides, and only once.
func TestTold(t *testing.T) {
	for _, word := range []dr.Outcome{dr.Done, dr.NotDone} {
		w := newWorld("a", "b<a")
		w.cut, w.after = "a", true
		w.blind["a"] = true
		dir, r := begin(t, w)
		if _, err := r.Execute(t.Context()); err == nil {
			t.Fatal("a dead process went on")
		}
		w.revive()
		r = resumed(t, dir, r.ID(), w)
		rep, err := r.Execute(t.Context())
		if err != nil || rep.Outcome != dr.Unknown || w.effects["a"] != 1 || w.effects["b"] != 0 {
			t.Fatalf("%+v, %v", rep, err)
		}
		r.Close()
		r = resumed(t, dir, r.ID(), w)
		if err := r.Tell("b", word); err == nil {
			t.Error("a step that was never begun was told of")
		}
		if err := r.Tell("a", word); err != nil {
			t.Fatal(err)
		}
		rep, err = r.Execute(t.Context())
		want := 1
		if word == dr.NotDone {
			want = 2
		}
		if err != nil || rep.Outcome != dr.Done || w.effects["a"] != want {
			t.Fatalf("%s: %+v, %v, %v", word, rep, err, w.effects)
		}
		if s := rep.Step("a"); word == dr.Done && (s.How != "told" || s.By == nil || s.By.User != "ann") {
			t.Errorf("%+v", s)
		}
	}
}

// A person's word is of one attempt: a second cut needs a second word.
func TestToldOnce(t *testing.T) {
	w := newWorld("a")
	w.cut, w.after, w.blind["a"] = "a", true, true
	dir, r := begin(t, w)
	if _, err := r.Execute(t.Context()); err == nil {
		t.Fatal("a dead process went on")
	}
	w.revive()
	r = resumed(t, dir, r.ID(), w)
	if err := r.Tell("a", dr.NotDone); err != nil {
		t.Fatal(err)
	}
	w.cut, w.after = "a", true
	if _, err := r.Execute(t.Context()); err == nil {
		t.Fatal("a dead process went on")
	}
	w.revive()
	rep, err := resumed(t, dir, r.ID(), w).Execute(t.Context())
	if err != nil || rep.Outcome != dr.Unknown || w.effects["a"] != 2 {
		t.Fatalf("%+v, %v, %v", rep, err, w.effects)
	}
}

// TestCrashMatrix cuts a run after every record and around every effect, and resumes
// it: each step happens exactly once.
func TestCrashMatrix(t *testing.T) {
	names := []string{"a", "b", "c<a+b", "d<c", "e<c", "f<d+e"}
	cuts := 0
	check := func(name string, set func(*world), parallel int) {
		w := newWorld(names...)
		set(w)
		dir := t.TempDir()
		o := w.options()
		o.Parallel = parallel
		r, err := Begin(dir, w.plan(), o)
		id := "test-"
		if err == nil {
			id = r.ID()
			_, err = r.Execute(t.Context())
			r.Close()
		} else if all, _ := os.ReadDir(dir); len(all) == 1 {
			id = all[0].Name()
		}
		if err == nil {
			return
		}
		cuts++
		w.revive()
		o = w.options()
		o.Parallel = parallel
		if r, err = Resume(dir, id, o); errors.Is(err, ErrOver) {
			err = nil
		} else if err == nil {
			var rep Report
			if rep, err = r.Execute(t.Context()); err == nil && rep.Outcome != dr.Done {
				err = fmt.Errorf("%+v", rep)
			}
			r.Close()
		}
		if err != nil {
			t.Errorf("%s: resume: %v", name, err)
		}
		for _, s := range w.steps {
			if w.effects[s.ID] != 1 {
				t.Errorf("%s, %d at once: %s happened %d times", name, parallel, s.ID, w.effects[s.ID])
			}
		}
	}
	for _, parallel := range []int{1, 4} {
		for n := 1; n <= 2*len(names)+2; n++ {
			check(fmt.Sprintf("after record %d", n), func(w *world) { w.cutAt = n }, parallel)
		}
		for _, n := range names {
			id, _, _ := strings.Cut(n, "<")
			check("before "+id, func(w *world) { w.cut = id }, parallel)
			check("after "+id, func(w *world) { w.cut, w.after = id, true }, parallel)
		}
	}
	if want := 2 * (2*len(names) + 2 + 2*len(names)); cuts != want {
		t.Errorf("%d cuts, want %d", cuts, want)
	}
}

func TestInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b<a")
		w.do = func(ctx context.Context, c *Call) (Result, error) {
			select {
			case <-ctx.Done():
				return notDone(), ctx.Err()
			case <-time.After(10 * time.Second):
				return done(), nil
			}
		}
		dir, r := begin(t, w)
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		rep, err := r.Execute(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || rep.Step("a").State != StepDone || rep.Step("b").State != StepNotDone {
			t.Fatalf("%+v, %v", rep, err)
		}
		if rep, err = resumed(t, dir, r.ID(), w).Execute(t.Context()); err != nil || rep.Outcome != dr.Done || w.effects["a"] != 1 {
			t.Fatalf("%+v, %v", rep, err)
		}
	})
}

// A clock that jumps changes neither order nor durations.
func TestClockJumps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("a", "b<a")
		w.steps[0].Down, w.steps[1].Down = true, true
		w.do = func(context.Context, *Call) (Result, error) { time.Sleep(3 * time.Second); return done(), nil }
		start, n := time.Now(), 0
		o := w.options()
		o.Clock = func() (time.Time, string, time.Duration) {
			n++
			wall := time.Now().Add(time.Duration(n%3-1) * 20 * time.Hour)
			return wall, "boot", time.Since(start)
		}
		dir := t.TempDir()
		r, err := Begin(dir, w.plan(), o)
		if err != nil {
			t.Fatal(err)
		}
		rep, err := r.Execute(t.Context())
		if err != nil || rep.Outcome != dr.Done || rep.Down != 6*time.Second || rep.Took != 6*time.Second {
			t.Fatalf("down %v, took %v, %+v, %v", rep.Down, rep.Took, rep, err)
		}
		if again, err := Read(dir, r.ID()); err != nil || again.Down != 6*time.Second || again.Outcome != dr.Done {
			t.Errorf("%+v, %v", again, err)
		}
		if all, err := List(dir); err != nil || len(all) != 1 || all[0].ID != r.ID() {
			t.Errorf("%+v, %v", all, err)
		}
	})
}

func TestSerial(t *testing.T) {
	p := newWorld("a", "b").plan()
	serial := p.Serial()
	p.Made, p.Notes = time.Now(), []string{"lag 3s"}
	if err := Fresh(p, serial, "plan"); err != nil {
		t.Errorf("what is of the moment changed the serial: %v", err)
	}
	for name, change := range map[string]func(*Plan){
		"state": func(p *Plan) { p.State = "x" }, "params": func(p *Plan) { p.Params = map[string]string{"a": "b"} },
		"a step less": func(p *Plan) { p.Steps = p.Steps[:1] }, "an argument": func(p *Plan) { p.Steps[0].Args = map[string]string{"a": "b"} },
		"a command": func(p *Plan) { p.Steps[0].Commands = []string{"x"} },
	} {
		p := newWorld("a", "b").plan()
		change(p)
		var stale *StaleError
		if err := Fresh(p, serial, "plan"); !errors.As(err, &stale) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheck(t *testing.T) {
	good := Step{ID: "a", Title: "t", Action: "sim", Timeout: time.Second}
	for name, steps := range map[string][]Step{
		"nothing": {}, "no timeout": {{ID: "a", Title: "t", Action: "sim"}}, "no title": {{ID: "a", Action: "sim", Timeout: 1}},
		"twice": {good, good}, "unknown": {{ID: "a", Title: "t", Action: "sim", Timeout: 1, After: []string{"b"}}},
		"itself": {{ID: "a", Title: "t", Action: "sim", Timeout: 1, After: []string{"a"}}},
		"nobody": {{ID: "a", Title: "t", Action: "other", Timeout: 1}},
	} {
		p := &Plan{Format: Format, Steps: steps}
		if _, err := Begin(t.TempDir(), p, newWorld().options()); err == nil {
			t.Errorf("%s: it was begun", name)
		}
	}
}

func TestLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "switch", "lease")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first, err := Take(path, Actor{User: "ann", Host: "dallas", From: "10.0.0.7", PID: 42}, "cutover", now)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Take(path, Actor{User: "bob", Host: "dallas"}, "failover", now)
	var held *HeldError
	if !errors.As(err, &held) {
		t.Fatalf("the second got %v", err)
	}
	for _, want := range []string{"ann", "dallas", "10.0.0.7", "42", "cutover", "2026-01-02T03:04:05Z"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not tell %s", err, want)
		}
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := Take(path, Actor{User: "bob"}, "failover", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Release(); err != nil {
		t.Fatal(err)
	}
}

// Progress is the newest state, and reading it holds nobody up.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cell := &Cell[Snapshot]{}
		w := newWorld("a", "b<a")
		w.do = func(_ context.Context, c *Call) (Result, error) {
			c.Say("half way")
			time.Sleep(time.Second)
			return done(), nil
		}
		o := w.options()
		o.Progress = cell
		r, err := Begin(t.TempDir(), w.plan(), o)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { _, err := r.Execute(t.Context()); ended <- err }()
		synctest.Wait()
		if s := cell.Get(); s.Steps[0].State != Running || s.Steps[0].Say != "half way" || s.Steps[1].State != Waiting {
			t.Errorf("%+v", s)
		}
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if s := cell.Get(); s.Steps[0].State != StepDone || s.Steps[0].Took != time.Second || s.Steps[1].State != StepDone {
			t.Errorf("%+v", s)
		}
	})
}

func TestPlanText(t *testing.T) {
	p := newWorld("a", "b<a").plan()
	p.Steps[1].Commands, p.Steps[1].Down, p.Notes = []string{"systemctl stop x"}, true, []string{"beware"}
	var b strings.Builder
	if err := p.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{p.Serial(), "! beware", "do a", "$ systemctl stop x", "applications stand still", "after a"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}
