package rowsync

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Status is how a stream stands, read without changing anything and without the
// source.
type Status struct {
	Phase        engine.Phase
	Position     engine.Pos
	Landed       engine.Pos
	SourceTime   time.Time     // of the newest change applied
	Lag          time.Duration // its age
	Heard        time.Time     // when the source was last heard of
	SpoolBytes   int64
	Pending      string // why everything is to be compared anew; empty otherwise
	Silent       bool   // of a physical copy: its server does not answer; what it is, is not known
	Stopped      map[string]Stop
	LastVerified time.Time
	Verified     map[string]time.Time
}

// StatusOf reads how the stream of a configuration stands. It may be called while a
// Replicator, here or in another process, works on it.
func StatusOf(ctx context.Context, cfg Config, now time.Time) (Status, error) {
	if cfg.Stream == "" {
		cfg.Stream = streamName(cfg.Name)
	}
	n, err := loadNotes(cfg.Spool)
	if err != nil {
		return Status{}, err
	}
	d := n.get()
	s := Status{Stopped: d.Stopped, LastVerified: d.LastVerified, Verified: d.Verified, Heard: d.Known.Heard, Pending: d.Compare}
	if s.Landed, s.SpoolBytes, err = peekSpool(cfg.Spool); err != nil {
		return s, err
	}
	dst, err := cfg.Driver.Target(ctx, cfg.Target)
	if err != nil {
		return s, fmt.Errorf("reach the target of %s: %w", cfg.Name, err)
	}
	st, err := dst.State(ctx, cfg.Stream)
	if err == nil {
		err = dst.Close()
	} else {
		_ = dst.Close()
	}
	if err != nil {
		return s, fmt.Errorf("read the position of %s: %w", cfg.Name, err)
	}
	s.Phase, s.Position, s.SourceTime = st.Phase, st.Pos, st.SourceTime
	if !st.SourceTime.IsZero() {
		s.Lag = max(0, now.Sub(st.SourceTime))
	}
	return s, nil
}
