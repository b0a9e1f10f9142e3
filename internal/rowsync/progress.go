package rowsync

import (
	"maps"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Step is what a Replicator is about.
type Step string

// The steps of a pass, in order.
const (
	StepConnect Step = "connecting"
	StepSchema  Step = "comparing definitions"
	StepSeed    Step = "comparing rows"
	StepCatchUp Step = "catching up"
	StepFollow  Step = "following"
	StepVerify  Step = "verifying"
	StepSwitch  Step = "switching"
)

// TableStats is what was done to one table.
type TableStats struct {
	Compared int64 // rows of the source that were compared, or copied whole
	Sent     int64 // rows that were sent
	Deleted  int64 // rows that went from the target
	Bytes    int64 // of the rows sent, as the engine writes them
	Rows     int64 // estimate of the whole; -1 where unknown
	Done     bool
}

// Progress is how far the work is at this moment.
type Progress struct {
	Step       Step
	Tables     map[engine.Name]TableStats
	Landed     engine.Pos
	Applied    engine.Pos
	SourceTime time.Time // of the newest change applied
	Changes    int64     // applied so far
	Commits    int64     // source transactions applied so far
	SpoolBytes int64
	Doing      string // the part of the step, of a physical copy
	Waiting    string // for what, where an end cannot be reached; empty otherwise
}

// meter holds the newest Progress.
type meter struct {
	mu sync.Mutex
	p  Progress
}

func (m *meter) init() { m.p.Tables = map[engine.Name]TableStats{} }

func (m *meter) get() Progress {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.p
	p.Tables = maps.Clone(m.p.Tables)
	return p
}

// Progress returns how far the work is. It may be called at any time.
func (r *Replicator) Progress() Progress {
	p := r.meter.get()
	r.mu.Lock()
	sp := r.sp
	r.mu.Unlock()
	if sp != nil {
		l, used := sp.newest()
		p.Landed, p.SpoolBytes = l.Pos, used
	}
	return p
}

func (m *meter) step(s Step) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Step, m.p.Waiting, m.p.Doing = s, "", ""
}

func (m *meter) doing(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Doing, m.p.Waiting = what, ""
}

func (m *meter) waiting(what string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Waiting = what + ": " + err.Error()
}

func (m *meter) table(n engine.Name, f func(*TableStats)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.p.Tables[n]
	f(&s)
	m.p.Tables[n], m.p.Waiting = s, ""
}

func (m *meter) applied(st engine.State, commits, changes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p.Applied, m.p.SourceTime, m.p.Waiting = st.Pos, st.SourceTime, ""
	m.p.Commits += commits
	m.p.Changes += changes
}

func (m *meter) sent(n engine.Name, x moved) {
	m.table(n, func(t *TableStats) {
		t.Sent += x.rows
		t.Bytes += x.bytes
		t.Deleted += x.deleted
	})
}
