package protect

import (
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/tree"
)

// showEvery is how often progress is told.
const showEvery = 200 * time.Millisecond

// meter gathers what the parts of a server's pass do and tells of it.
type meter struct {
	show   func(Progress)
	stop   chan struct{}
	stopWG sync.WaitGroup

	mu      sync.Mutex
	now     Progress
	parts   []*tree.Progress
	more    func(*Progress) // adds what is known elsewhere; may be nil
	src     *source
	pastIn  int64 // of connections that are over
	pastOut int64
}

func (m *meter) begin(show func(Progress), server dr.ServerName) {
	m.show = show
	m.now = Progress{Server: server, Started: time.Now()}
	m.stop = make(chan struct{})
	m.stopWG.Go(func() {
		t := time.NewTicker(showEvery)
		defer t.Stop()
		for {
			select {
			case <-m.stop:
				return
			case <-t.C:
				m.tell()
			}
		}
	})
}

func (m *meter) tell() {
	if m.show != nil {
		m.show(m.snapshot())
	}
}

func (m *meter) end(err error) {
	close(m.stop)
	m.stopWG.Wait()
	m.mu.Lock()
	m.now.Finished, m.now.Err = true, err
	m.now.Phase, m.now.Note = "done", ""
	if err != nil {
		m.now.Phase = "failed"
	}
	m.mu.Unlock()
	m.tell()
}

func (m *meter) phase(s string) {
	m.mu.Lock()
	m.now.Phase, m.now.Note = s, ""
	m.mu.Unlock()
}

func (m *meter) note(s string) {
	m.mu.Lock()
	m.now.Note = s
	m.mu.Unlock()
}

// watch counts the bytes of a connection from now on.
func (m *meter) watch(src *source) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	m.src = src
}

// follow has f add what is known elsewhere from now on.
func (m *meter) follow(f func(*Progress)) {
	m.mu.Lock()
	m.more = f
	m.mu.Unlock()
}

// settle adds what the last connection carried to the past. m.mu is held.
func (m *meter) settle() {
	if m.src != nil {
		in, out := m.src.wire()
		m.pastIn, m.pastOut = m.pastIn+in, m.pastOut+out
		m.src = nil
	}
}

// filesystem returns the counters for the pass of one more filesystem.
func (m *meter) filesystem(phase, mountPoint string) *tree.Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &tree.Progress{}
	m.parts = append(m.parts, p)
	m.now.Phase = phase + " " + mountPoint
	return p
}

func (m *meter) snapshot() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.now
	for _, p := range m.parts {
		s.Examined += p.Examined.Load()
		s.Files += p.Files.Load()
		s.FilesDone += p.Done.Load()
		s.Bytes += p.Bytes.Load()
		s.BytesDone += p.Settled.Load()
	}
	s.Entries = s.Examined
	s.WireIn, s.WireOut = m.pastIn, m.pastOut
	if m.src != nil {
		in, out := m.src.wire()
		s.WireIn, s.WireOut = s.WireIn+in, s.WireOut+out
	}
	if m.more != nil {
		m.more(&s)
	}
	return s
}

// moved grows as long as anything goes forward.
func (m *meter) moved() int64 {
	s := m.snapshot()
	return s.Examined + s.FilesDone + s.BytesDone
}

func (m *meter) traffic() dr.Traffic {
	s := m.snapshot()
	m.mu.Lock()
	defer m.mu.Unlock()
	t := dr.Traffic{WireIn: s.WireIn, WireOut: s.WireOut, Read: s.Bytes, Files: s.FilesDone, Examined: s.Examined}
	for _, p := range m.parts {
		t.Sent += p.Sent.Load()
		t.Reused += p.Reused.Load()
		t.Deleted += p.Deleted.Load()
	}
	return t
}
