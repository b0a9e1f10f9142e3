package mssql

import (
	"context"
	"fmt"
	"sync"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// snapshot is a Reader of a source. For one caller it is one state of the database.
// For several it is not: SQL Server cannot lend a snapshot to another connection, and
// needs none, as what changes after the position comes in the stream whatever was read.
// Then each call reads a short snapshot of its own, and no old versions of rows pile up
// in tempdb for as long as the seed takes.
type snapshot struct {
	reader
	pos   engine.Pos
	exact bool

	mu sync.Mutex
	s  *session
}

// Snapshot implements engine.Source.
func (s *source) Snapshot(ctx context.Context, stream string, n int) (engine.Snapshot, error) {
	out := &snapshot{reader: reader{d: s.d, source: true}}
	if n > 1 || !s.d.snapshotOn.Load() {
		pos, err := s.Mark(ctx, stream)
		out.pos = pos
		return out, err
	}
	held, err := s.d.session(ctx)
	if err != nil {
		return nil, err
	}
	out.exact, out.s, out.use = true, held, out.lend
	if err := out.open(ctx, stream); err != nil {
		_ = held.end()
		return nil, wrap(err, "open a snapshot of %s", s.d.name)
	}
	if p, err := parsePos(out.pos); err == nil && p.method == "ct" {
		// A mark at or after it is recorded, see tracking.pull.
		if _, err := s.Mark(ctx, stream); err != nil {
			_ = held.end()
			return nil, err
		}
	}
	return out, nil
}

// open begins the transaction and reads the position. The version of change tracking is
// read before any row is: the snapshot is made by the first row read, and must hold all
// that the version stands for. It may hold more, which then comes again in the stream.
func (n *snapshot) open(ctx context.Context, stream string) error {
	if err := n.s.begin(ctx, snapshotLevel); err != nil {
		return err
	}
	var v int64
	var failed error
	if n.d.changeTracking {
		v, _, failed = n.s.version(ctx)
	}
	r, err := n.s.record(ctx, stream)
	if err != nil {
		return err
	}
	if r == nil {
		return fmt.Errorf("stream %s is not prepared at this source", stream)
	}
	if r.method == methodTriggers {
		n.pos = position{method: "tr", n: r.tick}.pos()
		return nil
	}
	n.pos = position{method: "ct", n: v}.pos()
	return failed
}

// lend gives the one session to one caller at a time.
func (n *snapshot) lend(context.Context) (*session, func(), error) {
	n.mu.Lock()
	return n.s, n.mu.Unlock, nil
}

// Pos implements engine.Snapshot.
func (n *snapshot) Pos() engine.Pos { return n.pos }

// Exact implements engine.Snapshot.
func (n *snapshot) Exact() bool { return n.exact }

// Close implements engine.Snapshot.
func (n *snapshot) Close() error {
	if n.s == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.s.end()
}
