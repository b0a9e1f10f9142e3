package switchover

import (
	"errors"
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

var everything = []string{"shop", "plant", "web1"}

// cuts calls try with a sim that dies at each record and around each effect in turn,
// until try says that the run came to its end uncut.
func cuts(t *testing.T, what string, prepare func(*sim, string), try func(s *sim, dir, what string) (cut bool)) {
	t.Helper()
	total := 0
	for _, kind := range []string{"after record", "before effect", "after effect"} {
		for n := 1; ; n++ {
			s, dir := newSim(t), t.TempDir()
			prepare(s, dir)
			switch kind {
			case "after record":
				s.cutRec = s.records + n
			case "before effect":
				s.cutAt = s.effects + n
			default:
				s.cutAt, s.after = s.effects+n, true
			}
			if testing.Short() && n%7 != 1 {
				continue
			}
			if !try(s, dir, fmt.Sprintf("%s, cut %s %d", what, kind, n)) {
				break
			}
			total++
			if n > 1000 || t.Failed() && n > 200 {
				t.Fatal("it never ends")
			}
		}
	}
	t.Logf("%s: %d cuts", what, total)
	if total < 40 && !testing.Short() {
		t.Errorf("%s was cut %d times only", what, total)
	}
}

func nothing(*sim, string) {}

// must applies a kind of run whole.
func (s *sim) must(dir, kind string) {
	s.t.Helper()
	_, rep, err := s.apply(dir, kind, everything...)
	if err != nil || rep.Outcome != dr.Done {
		s.t.Fatalf("%s: %v: %s", kind, err, described(rep))
	}
}

// through applies a kind of run that may be cut, and resumes it to its end.
func (s *sim) through(dir, kind, what string) (cut bool) {
	s.t.Helper()
	id, rep, err := s.apply(dir, kind, everything...)
	if err == nil {
		if rep.Outcome != dr.Done {
			s.t.Errorf("%s: %s", what, described(rep))
		}
		return false
	}
	if !errors.Is(err, errDead) {
		s.t.Errorf("%s: %v", what, err)
	}
	s.revive()
	if id == "" {
		s.t.Fatalf("%s: it was cut before it began: %v", what, err)
	}
	rep, err = s.resume(dir, id)
	if err != nil || rep.Outcome != dr.Done {
		s.t.Errorf("%s: resumed: %v: %s", what, err, described(rep))
	}
	return true
}

func TestCutover(t *testing.T) {
	cuts(t, "cutover", nothing, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Cutover, what)
		s.settled(what, Target, true, everything...)
		return cut
	})
}

// A cutover that was cut is taken back, wherever that was.
func TestCutoverTakenBack(t *testing.T) {
	cuts(t, "cutover", nothing, func(s *sim, dir, what string) bool {
		id, _, err := s.apply(dir, Cutover, everything...)
		if err == nil {
			return false
		}
		s.revive()
		if s.state.Member("shop").Moving == "" && s.state.Member("shop").Primary == Source && s.state.Member("web1").Moving == "" {
			// Nothing was put on record yet, so nothing was changed.
			if s.leads != Source || len(s.two) > 0 || !s.pairs["shop"].writes(Source) || !s.pairs["web1"].writes(Source) {
				t.Errorf("%s: it was changed before it was on record: %+v", what, s.state)
			}
			return true
		}
		var begun []string
		for _, name := range everything {
			if m := s.state.Member(name); m.Moving != "" || m.Primary == Target {
				begun = append(begun, name)
			} else if !s.pairs[name].writes(Source) {
				t.Errorf("%s: %s stands still, and is not on record", what, name)
			}
		}
		_, rep, err := s.apply(dir, Rollback, begun...)
		if err != nil || rep.Outcome != dr.Done {
			t.Errorf("%s: rollback: %v: %s", what, err, described(rep))
			return true
		}
		s.settled(what+", taken back", Source, true, begun...)
		// The run that was cut must not go on.
		if rep, err := s.resume(dir, id); err == nil && rep.Outcome == dr.Done && id != "" && !over(rep) {
			t.Errorf("%s: it went on after it was taken back", what)
		}
		s.settled(what+", and resumed after that", Source, true, begun...)
		return true
	})
}

func over(r runbook.Report) bool { return r.Over }

// A rollback is cut and resumed.
func TestRollback(t *testing.T) {
	cuts(t, "rollback", func(s *sim, dir string) { s.must(dir, Cutover) }, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Rollback, what)
		s.settled(what, Source, true, everything...)
		return cut
	})
}

// There and back and there again.
func TestCutoverAgain(t *testing.T) {
	prepare := func(s *sim, dir string) {
		s.must(dir, Cutover)
		s.must(dir, Rollback)
		s.pairs["web1"].acked = nil // a rollback says that it does not carry disks back
	}
	cuts(t, "second cutover", prepare, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Cutover, what)
		s.settled(what, Target, true, everything...)
		return cut
	})
}

// The source is dead: what had come over is gone on with.
func TestFailover(t *testing.T) {
	prepare := func(s *sim, dir string) {
		for _, name := range everything {
			p := s.pairs[name]
			if p.server {
				p.point[Target] = map[int]bool{1: true}
			}
		}
		s.down[Source] = true
	}
	cuts(t, "failover", prepare, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Failover, what)
		for _, name := range everything {
			p := s.pairs[name]
			if !p.writes(Target) {
				t.Errorf("%s: %s cannot be written", what, name)
			}
			if m := s.state.Member(name); m.Primary != Target || !m.Lost {
				t.Errorf("%s: on record is %+v", what, m)
			}
			if e := p.ends; !p.server && e[Target].token <= e[Source].token {
				t.Errorf("%s: a source that returns has token %d, the target %d", what, e[Source].token, e[Target].token)
			}
		}
		return cut
	})
}

// The source dies in the middle of a cutover.
func TestFailoverInCutover(t *testing.T) {
	cuts(t, "cutover", nothing, func(s *sim, dir, what string) bool {
		id, _, err := s.apply(dir, Cutover, everything...)
		if err == nil {
			return false
		}
		s.revive()
		s.down[Source] = true
		moved := true
		var rest []string
		for _, name := range everything {
			if m := s.state.Member(name); m.Primary != Target || m.Moving != "" {
				moved = false
				rest = append(rest, name)
			}
			if p := s.pairs[name]; p.server && p.point[Target] == nil {
				p.point[Target] = map[int]bool{}
			}
		}
		if moved {
			return true
		}
		_, rep, err := s.apply(dir, Failover, rest...)
		if err != nil || rep.Outcome != dr.Done {
			t.Errorf("%s: failover: %v: %s", what, err, described(rep))
			return true
		}
		for _, name := range everything {
			if !s.pairs[name].writes(Target) {
				t.Errorf("%s: %s cannot be written", what, name)
			}
		}
		s.down[Source] = false
		if rep, err := s.resume(dir, id); err == nil && rep.Outcome == dr.Done && !over(rep) {
			t.Errorf("%s: the cutover went on", what)
		}
		return true
	})
}

// A person lifts the fence by hand in the middle: what is written then is not lost.
func TestFenceLiftedByHand(t *testing.T) {
	cuts(t, "cutover", nothing, func(s *sim, dir, what string) bool {
		id, _, err := s.apply(dir, Cutover, everything...)
		if err == nil {
			return false
		}
		s.revive()
		for _, name := range []string{"shop", "plant"} {
			p := s.pairs[name]
			if !p.writes(Target) {
				p.ends[Source].fenced = false
			}
		}
		s.clients()
		rep, err := s.resume(dir, id)
		if err != nil || rep.Outcome != dr.Done {
			t.Errorf("%s: %v: %s", what, err, described(rep))
		}
		s.settled(what, Target, true, "shop", "plant")
		return true
	})
}

// A plan that was made before the estate changed is refused.
func TestStalePlan(t *testing.T) {
	s, dir := newSim(t), t.TempDir()
	old, err := s.plan(Cutover, everything...)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.plan(Cutover, everything...)
	if err != nil || again.Serial() != old.Serial() {
		t.Fatalf("two plans of one state have serials %s and %s, %v", old.Serial(), again.Serial(), err)
	}
	s.must(dir, Cutover)
	if _, err := s.plan(Cutover, everything...); err == nil {
		t.Error("what was moved can be moved again")
	}
	s.must(dir, Rollback)
	now, err := s.plan(Cutover, everything...)
	if err != nil {
		t.Fatal(err)
	}
	if err := runbook.Fresh(now, old.Serial(), "plan"); err == nil {
		t.Error("a plan from before was taken")
	}
}

// A rollback that was planned before the target was promoted does not let the source
// go on beside it.
func TestUnfenceLooksFirst(t *testing.T) {
	s := newSim(t)
	p := s.pairs["shop"]
	p.ends[Source].fenced = true
	s.state.Set("shop", Member{Primary: Source, Moving: Target, Pending: 1})
	plan, err := s.plan(Rollback, "shop")
	if err != nil {
		t.Fatal(err)
	}
	p.ends[Target].phase = "primary"
	r, err := runbook.Begin(t.TempDir(), plan, s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep, err := r.Execute(t.Context())
	if err != nil || rep.Step("unfence.shop").State != runbook.StepNotDone || p.writes(Source) || len(s.two) > 0 {
		t.Errorf("%v: %s; two sites wrote %v", err, described(rep), s.two)
	}
}
