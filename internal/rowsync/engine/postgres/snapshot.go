package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// snapshot is a Reader of one state of the database, through connections that share
// an exported snapshot.
type snapshot struct {
	reader
	held *held
	pos  engine.Pos
}

var _ engine.Snapshot = (*snapshot)(nil)

func (s *snapshot) Pos() engine.Pos { return s.pos }
func (s *snapshot) Exact() bool     { return true }

func (s *snapshot) Close() error {
	for range cap(s.held.free) {
		(<-s.held.free).drop()
	}
	return nil
}

// held lends out a fixed set of connections.
type held struct{ free chan *conn }

func (h *held) get(ctx context.Context) (*conn, error) {
	select {
	case c := <-h.free:
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// give takes a connection back even when it is broken: whoever gets it next is told
// so by its first statement, since the state it held cannot be had again.
func (h *held) give(c *conn) { h.free <- c }

// Snapshot opens n connections to the state at which the slot began, if it was just
// made, else to that of a temporary slot, which is as exact.
func (s *source) Snapshot(ctx context.Context, stream string, n int) (engine.Snapshot, error) {
	x := s.at(stream)
	s.mu.Lock()
	exporter, name, pos := x.exporter, x.snapshot, x.pos
	x.exporter = nil
	s.mu.Unlock()
	if exporter == nil || !alive(ctx, exporter) {
		var mark [6]byte
		_, _ = rand.Read(mark[:])
		var err error
		if exporter, name, pos, err = s.export(ctx, "leeward_t_"+hex.EncodeToString(mark[:]), true); err != nil {
			return nil, fmt.Errorf("export snapshot: %w", err)
		}
	}
	defer exporter.drop() // its snapshot lives on in the transactions that took it
	n = max(n, 1)
	h := &held{free: make(chan *conn, n)}
	for range n {
		c, err := s.adopt(ctx, name)
		if err != nil {
			for len(h.free) > 0 {
				(<-h.free).drop()
			}
			return nil, fmt.Errorf("take snapshot: %w", err)
		}
		h.free <- c
	}
	return &snapshot{reader: reader{take: h, known: s.known}, held: h, pos: pos}, nil
}

// alive reports whether a connection that only waits is still there. Nothing may be
// asked on it: a command would end the snapshot that it exports.
func alive(ctx context.Context, c *conn) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err := c.ReceiveMessage(ctx)
	return err == nil || pgconn.Timeout(err)
}

// adopt opens a connection that sees an exported snapshot.
func (s *source) adopt(ctx context.Context, name string) (*conn, error) {
	c, err := dial(ctx, s.settings.session(scanning()))
	if err != nil {
		return nil, err
	}
	err = c.exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+literal(name))
	if err != nil {
		c.drop()
		return nil, err
	}
	return c, nil
}
