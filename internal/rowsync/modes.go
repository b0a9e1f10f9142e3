package rowsync

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Pace measures what the link to the source carries now, in bytes per second; 0 where
// the driver cannot tell.
func (r *Replicator) Pace(ctx context.Context) (int64, error) {
	src, err := r.source(ctx)
	if err != nil {
		return 0, err
	}
	return paceOf(ctx, src)
}

func paceOf(ctx context.Context, src engine.Source) (int64, error) {
	p, ok := src.(engine.Pacer)
	if !ok {
		return 0, nil
	}
	return p.Pace(ctx)
}

// StandbyAssessment is what a physical copy would meet. Making it changes nothing.
type StandbyAssessment struct {
	State    engine.PhysicalState
	Findings []engine.Finding
	Bytes    int64 // that a seed would carry
	Pace     int64 // of the link, bytes per second; 0: not known
}

// Blocked are the reasons for which the mode is not possible.
func (a *StandbyAssessment) Blocked() (why []string) {
	for _, f := range a.Findings {
		if f.Severity == engine.Blocker {
			why = append(why, f.Object+": "+f.Text)
		}
	}
	return why
}

// AssessStandby looks at both ends of a physical copy. It may be called while one is
// open.
func AssessStandby(ctx context.Context, cfg StandbyConfig) (a StandbyAssessment, err error) {
	if cfg.Options.Name == "" {
		cfg.Options.Name = streamName(cfg.Name)
	}
	p, err := cfg.Physical.Physical(cfg.Options)
	if err != nil {
		return a, fmt.Errorf("open %s: %w", cfg.Name, err)
	}
	if a.Findings, err = p.Check(ctx); err != nil {
		return a, err
	}
	if a.Bytes, err = p.Size(ctx); err != nil {
		return a, err
	}
	// What prevents it is among the findings.
	if a.State, err = p.State(ctx); err != nil && len(a.Blocked()) == 0 {
		return a, err
	}
	src, err := cfg.Rows.Source(ctx, cfg.Options.Source.Options)
	if err != nil {
		return a, err
	}
	defer src.Close()
	a.Pace, err = paceOf(ctx, src)
	return a, err
}

// Effort is what a mode would take until the target is up to date.
type Effort struct {
	Bytes int64 // over the wire, before compression
	Time  time.Duration
}

const (
	// written is how many bytes of rows a target takes in a second on a small machine:
	// bench/db, cases pg-empty and my-empty, saw 22 and 14 million on two busy cores.
	written = 18 << 20
	// copied is how many bytes of whole files it takes: assumed, not measured. A faster
	// machine is done sooner.
	copied = 120 << 20
	// restart is what a physical seed takes beside carrying bytes: a checkpoint, a start
	// and the first catching up.
	restart = 10 * time.Second
)

// RowsEffort reckons what seeding by rows takes over a link of pace bytes per second: all
// that is there is read at both ends, and what differs is carried and written.
func (a *Assessment) RowsEffort(pace int64) Effort {
	e := Effort{Bytes: a.Differing}
	if a.DigestRate > 0 && a.Bytes > a.Absent {
		e.Time += time.Duration(float64(a.Bytes-a.Absent) / a.DigestRate * float64(time.Second))
	}
	e.Time += carried(a.Differing, pace, written)
	return e
}

// PhysicalEffort reckons what a physical seed takes; of a target that follows, nothing.
func (a *StandbyAssessment) PhysicalEffort(pace int64) Effort {
	if a.State.Phase == engine.Replica {
		return Effort{}
	}
	return Effort{Bytes: a.Bytes, Time: restart + carried(a.Bytes, pace, copied)}
}

func carried(bytes, pace, taken int64) time.Duration {
	if pace <= 0 || pace > taken {
		pace = taken
	}
	return time.Duration(float64(bytes) / float64(pace) * float64(time.Second))
}
