package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// snapshot is some transactions that see one state of the database.
type snapshot struct {
	reader
	held *held
	pos  engine.Pos
}

// held lends the transactions of a snapshot.
type held struct {
	free chan *sql.Conn
	mu   sync.Mutex
	all  []*sql.Conn
	lost int
}

func (h *held) take(ctx context.Context) (*sql.Conn, error) {
	select {
	case c, ok := <-h.free:
		if !ok {
			return nil, &engine.TemporaryError{Err: errors.New("the snapshot was lost with its connections")}
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// give drops a connection whose use was cut: its transaction is gone.
func (h *held) give(c *sql.Conn, err error) {
	if err == nil || errors.Is(err, errStop) {
		h.free <- c
		return
	}
	if c.PingContext(context.Background()) == nil && number(err) != 0 {
		h.free <- c // the server refused a statement; the transaction lives
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.lost++; h.lost == len(h.all) {
		close(h.free)
	}
}

// Pos implements engine.Snapshot.
func (s *snapshot) Pos() engine.Pos { return s.pos }

// Exact implements engine.Snapshot.
func (s *snapshot) Exact() bool { return true }

// Close implements engine.Snapshot.
func (s *snapshot) Close() error {
	for _, c := range s.held.all {
		end(c)
	}
	return nil
}

// end rolls back and returns a connection.
func end(c *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, _ = c.ExecContext(ctx, "ROLLBACK") // a lost connection has rolled back
	_ = c.Close()
}

// Snapshot implements engine.Source. It needs no lock: transactions are opened until
// all see the position of the first. Where commits are too dense for that, commits
// are held for some milliseconds if that is granted; else one transaction serves all.
func (s *Source) Snapshot(ctx context.Context, _ string, n int) (engine.Snapshot, error) {
	if !s.maria {
		return nil, errors.New("take snapshot: MySQL tells no position without a lock; only MariaDB is supported as a source")
	}
	all, pos, err := s.openEqual(ctx, max(n, 1))
	if err != nil {
		return nil, fmt.Errorf("take snapshot: %w", err)
	}
	h := &held{free: make(chan *sql.Conn, len(all)), all: all}
	for _, c := range all {
		h.free <- c
	}
	return &snapshot{reader: reader{conns: h}, held: h, pos: pos}, nil
}

// tries is how often transactions are opened in the hope of equal positions.
const tries = 40

func (s *Source) openEqual(ctx context.Context, n int) ([]*sql.Conn, engine.Pos, error) {
	all, places, err := s.openViews(ctx, n)
	if err != nil {
		return nil, "", err
	}
	for range tries {
		last := 0
		for i := range places {
			if places[i].after(places[last]) {
				last = i
			}
		}
		equal := true
		for i := range all {
			if places[i] != places[last] {
				equal = false
				if places[i], err = view(ctx, all[i]); err != nil {
					endAll(all)
					return nil, "", err
				}
			}
		}
		if equal {
			break
		}
	}
	for _, p := range places {
		if p != places[0] {
			if err := s.hold(ctx, all, places); err != nil {
				endAll(all[1:])
				all = all[:1]
			}
			break
		}
	}
	pos, err := gtidOf(ctx, all[0], places[0])
	if err != nil {
		endAll(all)
		return nil, "", err
	}
	return all, pos, nil
}

func (s *Source) openViews(ctx context.Context, n int) (all []*sql.Conn, places []place, err error) {
	for range n {
		c, err := s.data.Conn(ctx)
		if err != nil {
			endAll(all)
			return nil, nil, explain(err)
		}
		all = append(all, c)
		p, err := view(ctx, c)
		if err != nil {
			endAll(all)
			return nil, nil, err
		}
		places = append(places, p)
	}
	return all, places, nil
}

func endAll(all []*sql.Conn) {
	for _, c := range all {
		end(c)
	}
}

// hold opens all transactions while commits are held up. It fails, leaving the first
// as it was, where that is not granted or takes longer than two seconds.
func (s *Source) hold(ctx context.Context, all []*sql.Conn, places []place) error {
	c, err := s.text.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer discard(c) // its session is not as others expect it
	for _, q := range []string{"SET SESSION lock_wait_timeout = 2", "FLUSH TABLES WITH READ LOCK"} {
		if _, err := c.ExecContext(ctx, q); err != nil {
			return explain(err)
		}
	}
	defer func() {
		_, _ = c.ExecContext(context.WithoutCancel(ctx), "UNLOCK TABLES") // ended with the connection at the latest
	}()
	for i := range all {
		if places[i], err = view(ctx, all[i]); err != nil {
			return err
		}
	}
	return nil
}

// place is where in the binlog a transaction's view is.
type place struct {
	file string
	pos  uint64
}

func (p place) after(q place) bool {
	if len(p.file) != len(q.file) {
		return len(p.file) > len(q.file)
	}
	return p.file > q.file || p.file == q.file && p.pos > q.pos
}

// view opens a transaction's view of the database, anew where there is one, and
// tells where in the binlog it is.
func view(ctx context.Context, c *sql.Conn) (place, error) {
	for _, q := range []string{
		"SET SESSION idle_transaction_timeout = 0, idle_readonly_transaction_timeout = 0, max_statement_time = 0",
		"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
		"START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
	} {
		if _, err := c.ExecContext(ctx, q); err != nil {
			return place{}, explain(err)
		}
	}
	var p place
	err := scan(ctx, c, "SHOW STATUS LIKE 'binlog_snapshot_%'", func(v engine.Row) error {
		switch string(v[0]) {
		case "Binlog_snapshot_file":
			p.file = string(v[1])
		case "Binlog_snapshot_position":
			_, err := fmt.Sscan(string(v[1]), &p.pos)
			return err
		}
		return nil
	})
	if err == nil && p.file == "" {
		err = errors.New("the server tells no position of it: is log_bin on?")
	}
	return p, err
}

// gtidOf names a place by the transactions before it.
func gtidOf(ctx context.Context, c *sql.Conn, p place) (engine.Pos, error) {
	var out engine.Pos
	q := fmt.Sprintf("SELECT BINLOG_GTID_POS(%s, %d)", quote([]byte(p.file)), p.pos)
	err := scan(ctx, c, q, func(v engine.Row) error {
		if v[0] == nil {
			return fmt.Errorf("the server has no binlog %s any more", p.file)
		}
		g, err := parseGTIDs(string(v[0]))
		out = g.pos()
		return err
	})
	return out, err
}
