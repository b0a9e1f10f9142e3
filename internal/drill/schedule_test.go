package drill

import (
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

func TestScheduleWaitsAndKeepsWhatOthersNeed(t *testing.T) {
	s := newSchedule([]Subject{{Server: "web1", After: []dr.ServerName{"db1"}}, {Server: "db1"}, {Server: "log1"}})
	var released []int
	release := func(i int) func() { return func() { released = append(released, i) } }
	first, _ := s.next()
	second, _ := s.next()
	if first != 1 || second != 2 {
		t.Fatalf("turns of %d and %d, want db1 and log1", first, second)
	}
	turn := make(chan int)
	go func() {
		i, _ := s.next()
		turn <- i
	}()
	s.end(2, release(2), false)
	s.end(1, release(1), false)
	if i := <-turn; i != 0 || !slices.Equal(released, []int{2}) {
		t.Fatalf("turn of %d with %v released; db1 is still needed", i, released)
	}
	s.end(0, release(0), false)
	slices.Sort(released)
	if _, more := s.next(); more || !slices.Equal(released, []int{0, 1, 2}) {
		t.Errorf("%v released at the end, more: %v", released, more)
	}
}

func TestScheduleEndsWithACircle(t *testing.T) {
	s := newSchedule([]Subject{{Server: "a", After: []dr.ServerName{"b"}}, {Server: "b", After: []dr.ServerName{"a"}}})
	for range 2 {
		i, ok := s.next()
		if !ok {
			t.Fatal("a subject had no turn")
		}
		s.end(i, func() {}, false)
	}
}

func TestHoldTakesWhatIsThere(t *testing.T) {
	there := []string{"/lib/systemd/system/cron.service", "/lib/systemd/system/postfix@.service", "/etc/init.d/exim4"}
	held, dropped := hold([]string{"billing", "sync.timer"}, nil, func(f string) bool { return slices.Contains(there, f) })
	var args []string
	for _, h := range held {
		args = append(args, strings.TrimPrefix(h.Arg, "systemd.mask="))
	}
	if want := []string{"billing.service", "sync.timer", "cron.service", "postfix@-.service", "exim4.service"}; !slices.Equal(args, want) || len(dropped) > 0 {
		t.Errorf("held %v, dropped %v, want %v", args, dropped, want)
	}
	long := make([]string, 200)
	for i := range long {
		long[i] = "a-unit-with-a-name.service"
	}
	if _, dropped := hold(long, nil, func(string) bool { return false }); len(dropped) == 0 {
		t.Error("a command line without end")
	}
}

func TestPortsOfWhatIsHeldBackMayBeClosed(t *testing.T) {
	source := sourceFacts()
	source.Listening = append(source.Listening, &agentpb.Socket{Protocol: "tcp", Address: "0.0.0.0", Port: 25, Process: "exim4"})
	if c := comparePorts(source, sourceFacts(), nil); c.Outcome != dr.NotDone {
		t.Errorf("a closed port passes: %+v", c)
	}
	held, _ := hold(nil, nil, func(f string) bool { return strings.HasSuffix(f, "/exim4.service") })
	if c := comparePorts(source, sourceFacts(), held); c.Outcome != dr.Done || !strings.Contains(c.Detail, "1 held back") {
		t.Errorf("what was held back is missed: %+v", c)
	}
}
