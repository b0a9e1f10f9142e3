package mariadb

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Source is a database whose rows are replicated. It writes nothing at its server,
// but for Fence.
type Source struct {
	*server
	reader

	mu           sync.Mutex
	prepared     map[string]bool // streams of which Prepare told a position
	counterNames []string        // tables and sequences that have a counter
	countersAt   time.Time       // when they were listed
}

var _ engine.Source = (*Source)(nil)

// Prepare implements engine.Feed. The binlog is there already, so nothing is made, and
// nothing remembers at the source that a stream was prepared: the first call of an
// opened Source is fresh.
func (s *Source) Prepare(ctx context.Context, stream string, tables []*engine.Table) (engine.Pos, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prepared[stream] {
		return "", false, nil
	}
	fs, err := s.Check(ctx, tables)
	if err != nil {
		return "", false, err
	}
	for _, f := range fs {
		if f.Severity == engine.Blocker {
			return "", false, fmt.Errorf("prepare %s: %s: %s", f.Object, f.Text, f.Remedy)
		}
	}
	pos, err := s.Mark(ctx, stream)
	if err != nil {
		return "", false, err
	}
	if s.prepared == nil {
		s.prepared = map[string]bool{}
	}
	s.prepared[stream] = true
	return pos, true, nil
}

// Mark implements engine.Feed.
func (s *Source) Mark(ctx context.Context, _ string) (engine.Pos, error) {
	g, _, err := s.binlogState(ctx)
	return g.pos(), err
}

// Release implements engine.Feed: the server drops its binlogs by age.
func (s *Source) Release(context.Context, string, engine.Pos) error { return nil }

// Remove implements engine.Feed: Prepare makes nothing.
func (s *Source) Remove(_ context.Context, stream string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.prepared, stream)
	return nil
}

// Capture implements engine.Source.
func (s *Source) Capture(context.Context) (string, error) {
	return "row binlog by GTID: every transaction in the order of commits, without triggers or locks at the source", nil
}

// Epoch implements engine.History. A server's uid is made of its network address and
// port, so another machine has another; the same one restored to an earlier time is
// told by Changes, which compares its position with the binlog's end.
func (s *Source) Epoch(ctx context.Context) (string, error) {
	name := "server_uid"
	if !s.maria {
		name = "server_uuid"
	}
	v, err := s.variable(ctx, name)
	if err != nil {
		return "", err
	}
	if v == "" {
		// MariaDB before 10.5.26 has none.
		if v, err = s.variable(ctx, "server_id"); err != nil {
			return "", err
		}
	}
	return v, nil
}

// sequences lists the sequences of the database.
func (s *server) sequences(ctx context.Context) ([]string, error) {
	return s.strings(ctx, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'SEQUENCE' ORDER BY table_name", s.db)
}

// strings reads the first column of a query.
func (s *server) strings(ctx context.Context, q string, args ...any) ([]string, error) {
	rows, err := s.text.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, explain(err)
		}
		out = append(out, v)
	}
	return out, explain(rows.Err())
}

// countedFor is how long it may take until the counter of a new table is seen.
const countedFor = 2 * time.Second

// Counters implements engine.History. The value of an identity is the next one; a table
// has one at most, so its column is not named.
func (s *Source) Counters(ctx context.Context) ([]engine.Counter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.countersAt) > countedFor {
		// Over all tables the view is slow to read: it opens every one.
		names, err := s.strings(ctx, `SELECT table_name FROM information_schema.tables
			WHERE table_schema = ? AND (auto_increment IS NOT NULL OR table_type = 'SEQUENCE')`, s.db)
		if err != nil {
			return nil, fmt.Errorf("list counters: %w", err)
		}
		s.counterNames, s.countersAt = names, time.Now()
	}
	if len(s.counterNames) == 0 {
		return nil, nil
	}
	return s.counters(ctx, s.counterNames)
}

func (s *server) counters(ctx context.Context, names []string) ([]engine.Counter, error) {
	list := make([]string, len(names))
	for i, n := range names {
		list[i] = quoteText(n)
	}
	rows, err := s.text.QueryContext(ctx, `SELECT table_name, table_type = 'SEQUENCE', IFNULL(auto_increment, 0) FROM information_schema.tables
		WHERE table_schema = ? AND table_name IN (`+strings.Join(list, ", ")+`)`, s.db)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", explain(err))
	}
	defer rows.Close()
	var out []engine.Counter
	for rows.Next() {
		c := engine.Counter{Kind: "identity"}
		var sequence bool
		if err := rows.Scan(&c.Name.Name, &sequence, &c.Value); err != nil {
			return nil, fmt.Errorf("read counters: %w", explain(err))
		}
		if sequence {
			c.Kind = "sequence"
		}
		if sequence || s.wanted(c.Name.Name) {
			out = append(out, c)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read counters: %w", explain(err))
	}
	for i, c := range out {
		if c.Kind != "sequence" {
			continue
		}
		if err := s.text.QueryRowContext(ctx, "SELECT next_not_cached_value FROM "+s.qualified(c.Name)).Scan(&out[i].Value); err != nil {
			return nil, fmt.Errorf("read sequence %s: %w", c.Name, explain(err))
		}
	}
	return out, nil
}

// Fence implements engine.Source by read_only, which is of the whole server. Users
// who may write all the same are named in the evidence.
func (s *Source) Fence(ctx context.Context, on bool, grace time.Duration) ([]string, error) {
	var out []string
	note := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !on {
		if _, err := s.text.ExecContext(ctx, "SET GLOBAL read_only = 0"); err != nil {
			return nil, fmt.Errorf("lift read_only: %w", s.fenceError(err))
		}
		v, err := s.variable(ctx, "read_only")
		note("read_only is %s", v)
		return out, err
	}
	before, err := s.variable(ctx, "read_only")
	if err != nil {
		return nil, err
	}
	note("read_only was %s", before)
	deadline := time.Now().Add(grace)
	for {
		ids, err := s.writers(ctx)
		if err != nil || len(ids) == 0 {
			if err != nil {
				note("open transactions could not be listed: %v; run GRANT PROCESS ON *.*", err)
			}
			break
		}
		if left := time.Until(deadline); left <= 0 {
			for _, id := range ids {
				if _, err := s.text.ExecContext(ctx, "KILL CONNECTION "+strconv.FormatInt(id, 10)); err != nil {
					note("connection %d with an open transaction could not be ended: %v", id, err)
				} else {
					note("ended connection %d with an open transaction", id)
				}
			}
			break
		}
		if err := retry.Sleep(ctx, min(200*time.Millisecond, grace)); err != nil {
			return out, err
		}
	}
	if err := s.readOnly(ctx); err != nil {
		return out, err
	}
	v, err := s.variable(ctx, "read_only")
	if err != nil {
		return out, err
	}
	note("read_only is %s", v)
	exempt, err := s.exempt(ctx)
	if err != nil {
		note("who may write in spite of read_only could not be read: %v", err)
	} else if len(exempt) > 0 {
		note("may write in spite of read_only: %s", strings.Join(exempt, ", "))
	}
	g, at, err := s.binlogState(ctx)
	note("binlog ends at %s, %s by the source's clock", g.pos(), at.Format(time.RFC3339))
	return out, err
}

// readOnly sets read_only; the server waits for statements and commits under way.
func (s *Source) readOnly(ctx context.Context) error {
	c, err := s.text.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer discard(c) // its session is not as others expect it
	if _, err = c.ExecContext(ctx, "SET SESSION lock_wait_timeout = 30"); err == nil {
		_, err = c.ExecContext(ctx, "SET GLOBAL read_only = 1")
	}
	if err != nil {
		return fmt.Errorf("set read_only: %w", s.fenceError(err))
	}
	return nil
}

func (s *Source) fenceError(err error) error {
	if number(err) == errPrivilege || number(err) == errAccess {
		return fmt.Errorf("%w: run GRANT READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS ON *.* TO %s", err, s.cfg.User)
	}
	return explain(err)
}

// writers lists the connections of others whose open transactions changed rows.
func (s *Source) writers(ctx context.Context) ([]int64, error) {
	rows, err := s.text.QueryContext(ctx, `SELECT trx_mysql_thread_id FROM information_schema.innodb_trx
		WHERE trx_rows_modified > 0 AND trx_mysql_thread_id NOT IN (0, CONNECTION_ID())`)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	var out []int64
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, explain(err)
		}
		out = append(out, id)
	}
	return out, explain(rows.Err())
}

// exempt lists the accounts that read_only does not bind. Before MariaDB 10.11 SUPER
// was enough.
func (s *Source) exempt(ctx context.Context) ([]string, error) {
	kinds := "'READ_ONLY ADMIN', 'READ ONLY ADMIN'"
	if !s.atLeast(10, 11) {
		kinds += ", 'SUPER', 'CONNECTION_ADMIN'"
	}
	return s.strings(ctx, "SELECT DISTINCT grantee FROM information_schema.user_privileges WHERE privilege_type IN ("+kinds+") ORDER BY grantee")
}
