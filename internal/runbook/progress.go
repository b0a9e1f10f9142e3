package runbook

import (
	"sync"
	"sync/atomic"
	"time"
)

// Cell holds the newest value of something. Writing never waits for readers, who see
// the newest and may miss those between.
type Cell[T any] struct{ p atomic.Pointer[T] }

// Set makes v the newest.
func (c *Cell[T]) Set(v T) { c.p.Store(&v) }

// Get returns the newest value; the zero value before there is one.
func (c *Cell[T]) Get() (v T) {
	if p := c.p.Load(); p != nil {
		v = *p
	}
	return v
}

// Snapshot is a run at one instant. Nobody changes it.
type Snapshot struct {
	Run   string
	Kind  string
	Steps []View
}

// View is one step of a Snapshot.
type View struct {
	Step
	State State
	How   string
	Began time.Time     // of the attempt that runs
	Took  time.Duration // of the last that ended
	Say   string        // what it is at
	Err   string
}

// board keeps the newest Snapshot in its cell. It may be used concurrently.
type board struct {
	cell *Cell[Snapshot]

	mu    sync.Mutex
	now   Snapshot       // guarded by mu
	index map[string]int // into now.Steps
}

func newBoard(id string, p *Plan, cell *Cell[Snapshot]) *board {
	b := &board{cell: cell, index: map[string]int{}, now: Snapshot{Run: id, Kind: p.Kind}}
	for i, s := range p.Steps {
		b.index[s.ID] = i
		b.now.Steps = append(b.now.Steps, View{Step: s, State: Waiting})
	}
	b.show()
	return b
}

// show publishes a copy of what is known; mu is held, or nobody else knows b.
func (b *board) show() {
	if b.cell == nil {
		return
	}
	s := b.now
	s.Steps = append([]View(nil), b.now.Steps...)
	b.cell.Set(s)
}

func (b *board) say(step, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, ok := b.index[step]; ok && b.now.Steps[i].Say != text {
		b.now.Steps[i].Say = text
		b.show()
	}
}

func (b *board) take(rec Record) {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := b.index[rec.Step]
	if !ok {
		return
	}
	v := &b.now.Steps[i]
	var r StepReport
	r.take(rec)
	v.State, v.How, v.Err, v.Say = r.State, r.How, r.Err, ""
	if rec.Event == EventStep {
		v.Began = time.Now()
	} else {
		v.Took = r.Took
	}
	b.show()
}
