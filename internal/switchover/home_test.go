package switchover

import (
	"slices"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

// After a cutover all of it comes home, and nothing is lost.
func TestFailback(t *testing.T) {
	cuts(t, "failback", func(s *sim, dir string) { s.must(dir, Cutover) }, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Failback, what)
		s.settledHome(what)
		return cut
	})
}

// settledHome is settled at the source, servers with all they have ever acknowledged.
func (s *sim) settledHome(what string) {
	s.t.Helper()
	s.settled(what, Source, true, everything...)
	if lost := s.lost("web1", Source); len(lost) > 0 {
		s.t.Errorf("%s: web1 lost %d of %d acknowledged transactions", what, len(lost), len(s.pairs["web1"].acked))
	}
}

// Home, and there again, and home again: no disk of an earlier stay is taken for the
// newest.
func TestFailbackAgain(t *testing.T) {
	prepare := func(s *sim, dir string) {
		s.must(dir, Cutover)
		s.must(dir, Failback)
	}
	cuts(t, "second cutover", prepare, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Cutover, what)
		s.settled(what, Target, true, everything...)
		s.revive()
		s.must(dir, Failback)
		s.settledHome(what + ", and home")
		return cut
	})
}

// A second cutover of what came home is taken back.
func TestRollbackOfWhatCameHome(t *testing.T) {
	prepare := func(s *sim, dir string) {
		s.must(dir, Cutover)
		s.must(dir, Failback)
		s.must(dir, Cutover)
	}
	cuts(t, "rollback", prepare, func(s *sim, dir, what string) bool {
		cut := s.through(dir, Rollback, what)
		s.settled(what, Source, true, everything...)
		return cut
	})
}

// After a failover what only the source has is set aside, then all of it comes home.
func TestFailbackAfterFailover(t *testing.T) {
	alone := map[string][]int{}
	prepare := func(s *sim, dir string) {
		for _, name := range everything {
			if p := s.pairs[name]; p.server {
				p.point[Target] = map[int]bool{1: true}
			}
		}
		s.down[Source] = true
		s.must(dir, Failover)
		s.down[Source] = false
		s.clients() // the source is back, and does not know
		s.two = nil
		for _, name := range everything {
			p := s.pairs[name]
			alone[name], p.acked = slices.Clone(s.lost(name, Target)), nil
			if p.server {
				p.ends[Source].fenced = true // as its plan asks of a person, or does itself
			}
		}
	}
	cuts(t, "failback after a failover", prepare, func(s *sim, dir, what string) bool {
		for _, name := range []string{"shop", "plant"} {
			s.pairs[name].acked = nil
		}
		cut := s.through(dir, Failback, what)
		s.two = slices.DeleteFunc(s.two, func(name string) bool { return s.state.Member(name).Primary == Source && name != "web1" })
		for _, name := range everything {
			p := s.pairs[name]
			if !p.writes(Source) || p.writes(Target) {
				t.Errorf("%s: %s: the source writes: %v, the target: %v", what, name, p.writes(Source), p.writes(Target))
			}
			if p.server {
				continue
			}
			for _, n := range alone[name] {
				if !p.ends[Source].has[n] && !slices.Contains(p.aside, n) {
					t.Errorf("%s: %s: transaction %d, that the source alone had, is gone and was not set aside", what, name, n)
				}
			}
			for _, n := range p.acked {
				if !p.ends[Source].has[n] && !slices.Contains(p.aside, n) {
					t.Errorf("%s: %s: transaction %d is nowhere", what, name, n)
				}
			}
		}
		return cut
	})
}

// A failback that was cut is given up: the target goes on, and the run that was cut does
// not.
func TestFailbackGivenUp(t *testing.T) {
	cuts(t, "failback", func(s *sim, dir string) { s.must(dir, Cutover) }, func(s *sim, dir, what string) bool {
		id, _, err := s.apply(dir, Failback, everything...)
		if err == nil {
			return false
		}
		s.revive()
		var begun []string
		for _, name := range everything {
			if s.state.Member(name).Moving != "" {
				begun = append(begun, name)
			}
		}
		if len(begun) == 0 {
			return true
		}
		_, rep, err := s.apply(dir, Rollback, begun...)
		if err != nil {
			t.Errorf("%s: give it up: %v", what, err)
		}
		for _, name := range begun {
			p := s.pairs[name]
			if rep.Outcome != dr.Done {
				continue
			}
			if !p.writes(Target) || p.writes(Source) {
				t.Errorf("%s: %s: the source writes: %v, the target: %v; want the target alone", what, name, p.writes(Source), p.writes(Target))
			}
			if lost := s.lost(name, Target); len(lost) > 0 {
				t.Errorf("%s: %s lost %d acknowledged transactions", what, name, len(lost))
			}
		}
		if rep.Outcome != dr.Done { // something was promoted at the source already: it is gone on with
			if rep, err = s.resume(dir, id); err != nil {
				t.Logf("%s: %v", what, err)
			}
		} else if rep, err := s.resume(dir, id); err == nil && rep.Outcome == dr.Done && !over(rep) {
			t.Errorf("%s: it went on after it was given up", what)
		}
		if len(s.two) > 0 {
			t.Errorf("%s: two sites could write %v", what, s.two)
		}
		return true
	})
}
