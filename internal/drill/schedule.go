package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/leeward-dr/leeward/internal/dr"
)

// schedule gives subjects their turns: the first whose predecessors have ended, in
// the subjects' order, and as many at once as there are workers.
type schedule struct {
	subjects []Subject

	mu      sync.Mutex // guards what follows
	changed *sync.Cond
	begun   []bool
	ended   []bool
	kept    map[int]func() // machines that others still need, by subject
}

func newSchedule(subjects []Subject) *schedule {
	s := &schedule{subjects: subjects, begun: make([]bool, len(subjects)), ended: make([]bool, len(subjects)), kept: map[int]func(){}}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// next waits for a subject whose turn it is; ok is false once all have begun.
func (s *schedule) next() (i int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		waiting, running := -1, false
		for i := range s.subjects {
			switch {
			case s.ended[i]:
			case s.begun[i]:
				running = true
			case s.ready(i):
				s.begun[i] = true
				return i, true
			case waiting < 0:
				waiting = i
			}
		}
		if waiting < 0 {
			return 0, false
		}
		if !running { // they wait for each other: one of them goes first
			s.begun[waiting] = true
			return waiting, true
		}
		s.changed.Wait()
	}
}

func (s *schedule) ready(i int) bool {
	for j, other := range s.subjects {
		if j != i && !s.ended[j] && slices.Contains(s.subjects[i].After, other.Server) {
			return false
		}
	}
	return true
}

// needed reports whether subjects that have not ended come after i.
func (s *schedule) needed(i int) bool {
	for j, other := range s.subjects {
		if j != i && !s.ended[j] && slices.Contains(other.After, s.subjects[i].Server) {
			return true
		}
	}
	return false
}

// end notes that subject i is decided. release ends its machine: now, or as soon as
// nobody needs it, or with forgo where all are to stay.
func (s *schedule) end(i int, release func(), stay bool) {
	s.mu.Lock()
	s.ended[i] = true
	s.kept[i] = release
	var idle []func()
	for j, f := range s.kept {
		if !stay && !s.needed(j) {
			idle = append(idle, f)
			delete(s.kept, j)
		}
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	for _, f := range idle {
		f()
	}
}

// forgo releases all that is left.
func (s *schedule) forgo() {
	s.mu.Lock()
	kept := s.kept
	s.kept = map[int]func(){}
	s.mu.Unlock()
	for _, f := range kept {
		f()
	}
}

// work drills subjects until none is left.
func (d *drills) work(ctx context.Context, s *schedule) {
	for {
		i, ok := s.next()
		if !ok {
			return
		}
		t := d.one(ctx, i)
		s.end(i, t.release, d.o.Keep != nil)
		t.decide()
	}
}

// lacking names the predecessors of subject i that are not proven. Their turns are over.
func (d *drills) lacking(i int) string {
	var names []string
	for j, other := range d.subjects {
		if j != i && slices.Contains(d.subjects[i].After, other.Server) && d.results[j].Outcome != dr.Done {
			names = append(names, string(other.Server))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s, which it comes after, is not proven", strings.Join(names, ", "))
}
