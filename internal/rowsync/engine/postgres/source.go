package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// source is a database that is replicated.
type source struct {
	*database

	mu    sync.Mutex
	slots map[string]*slot // by stream
}

var _ engine.Source = (*source)(nil)

// slot is what a source holds for one stream while it is open.
type slot struct {
	exporter *conn // idle, for as long as its snapshot is wanted
	snapshot string
	pos      engine.Pos
	released lsn
	wake     chan struct{} // tells a running stream of released
	running  bool
}

func (s *source) Close() error {
	s.mu.Lock()
	for _, x := range s.slots {
		if x.exporter != nil {
			x.exporter.drop()
			x.exporter = nil
		}
	}
	s.mu.Unlock()
	s.shut()
	return nil
}

// Capture names the way changes will be captured.
func (s *source) Capture(context.Context) (string, error) {
	if s.version < 140000 {
		return "logical slot, pgoutput protocol 1: the server is older than 14", nil
	}
	return "logical slot, pgoutput protocol 2, large transactions spilled at the server", nil
}

// replication opens a connection that speaks the replication protocol.
func (s *source) replication(ctx context.Context) (*conn, error) {
	return dial(ctx, s.settings.session(map[string]string{"replication": "database"}))
}

// at returns what is held of a stream.
func (s *source) at(stream string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.slots[stream]
	if x == nil {
		x = &slot{wake: make(chan struct{}, 1)}
		s.slots[stream] = x
	}
	return x
}

func (s *source) Prepare(ctx context.Context, stream string, tables []*engine.Table) (engine.Pos, bool, error) {
	name := objectName(stream)
	if err := s.publish(ctx, name, tables); err != nil {
		return "", false, err
	}
	state, err := s.slotState(ctx, name)
	if err != nil {
		return "", false, err
	}
	if state.exists && state.lost == "" {
		return "", false, nil
	}
	if state.exists {
		if err := s.catalog.exec(ctx, "SELECT pg_drop_replication_slot("+literal(name)+")"); err != nil {
			return "", false, fmt.Errorf("drop lost slot %s: %w", name, err)
		}
	}
	return s.createSlot(ctx, stream, name)
}

// publish makes the publication, or makes it hold exactly the tables.
func (s *source) publish(ctx context.Context, name string, tables []*engine.Table) error {
	list := make([]string, len(tables))
	for i, t := range tables {
		rel, err := s.known.of(ctx, t.Name)
		if err != nil {
			return err
		}
		if rel.Refused != "" {
			return fmt.Errorf("publish table %s: %s", t.Name, rel.Refused)
		}
		list[i] = "ONLY " + qualified(t.Name)
	}
	rows, err := s.catalog.query(ctx, "SELECT 1 FROM pg_publication WHERE pubname = $1", name)
	if err != nil {
		return fmt.Errorf("read publications: %w", err)
	}
	sql := "CREATE PUBLICATION " + ident(name)
	if len(list) > 0 {
		sql += " FOR TABLE " + strings.Join(list, ", ")
	}
	if len(rows) > 0 {
		same, err := s.published(ctx, name, tables)
		if err != nil || same {
			return err
		}
		sql = "ALTER PUBLICATION " + ident(name) + " SET TABLE " + strings.Join(list, ", ")
	}
	if err := s.catalog.exec(ctx, sql); err != nil {
		return fmt.Errorf("publish tables: %w", err)
	}
	return nil
}

// published reports whether a publication holds exactly these tables.
func (s *source) published(ctx context.Context, name string, tables []*engine.Table) (bool, error) {
	rows, err := s.catalog.query(ctx, "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = $1", name)
	if err != nil {
		return false, fmt.Errorf("read publication %s: %w", name, err)
	}
	have := map[engine.Name]bool{}
	for _, v := range rows {
		have[engine.Name{Schema: string(v[0]), Name: string(v[1])}] = true
	}
	for _, t := range tables {
		if !have[t.Name] {
			return false, nil
		}
	}
	return len(have) == len(tables), nil
}

// slotState is what pg_replication_slots says.
type slotState struct {
	exists    bool
	lost      string // why, where it is
	confirmed lsn
	active    string // the process that uses it
}

func (s *source) slotState(ctx context.Context, name string) (slotState, error) {
	wal := "''" // PostgreSQL 12 keeps all WAL a slot needs
	if s.version >= 130000 {
		wal = "COALESCE(wal_status, '')"
	}
	rows, err := s.catalog.query(ctx, "SELECT COALESCE(confirmed_flush_lsn::text, ''), COALESCE(active_pid::text, ''), "+wal+
		", plugin, database FROM pg_replication_slots WHERE slot_name = $1", name)
	if err != nil || len(rows) == 0 {
		return slotState{}, err
	}
	v := rows[0]
	if string(v[3]) != "pgoutput" || string(v[4]) != s.name {
		return slotState{}, fmt.Errorf("use slot %s: it is of plugin %s in database %s: drop it, or name the stream otherwise", name, v[3], v[4])
	}
	st := slotState{exists: true, active: string(v[1])}
	if string(v[2]) == "lost" {
		st.lost = "slot " + name + " was invalidated: it needed more WAL than max_slot_wal_keep_size allows"
	}
	if len(v[0]) > 0 {
		st.confirmed, err = parseLSN(string(v[0]))
	}
	return st, err
}

// createSlot makes the slot and holds its snapshot for Snapshot to read.
func (s *source) createSlot(ctx context.Context, stream, name string) (engine.Pos, bool, error) {
	x := s.at(stream)
	c, snapshot, pos, err := s.export(ctx, name, false)
	if err != nil {
		return "", false, fmt.Errorf("create slot %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.exporter != nil {
		x.exporter.drop()
	}
	x.exporter, x.snapshot, x.pos, x.released = c, snapshot, pos, 0
	return pos, true, nil
}

// export creates a slot and leaves its connection idle, so that others can take the
// snapshot of the very state at which the slot begins.
func (s *source) export(ctx context.Context, name string, temporary bool) (*conn, string, engine.Pos, error) {
	c, err := s.replication(ctx)
	if err != nil {
		return nil, "", "", err
	}
	sql := "CREATE_REPLICATION_SLOT " + ident(name)
	if temporary {
		sql += " TEMPORARY"
	}
	res, err := c.Exec(ctx, sql+" LOGICAL pgoutput EXPORT_SNAPSHOT").ReadAll()
	if err == nil && (len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) < 3) {
		err = errors.New("the server's answer has no snapshot")
	}
	if err != nil {
		c.drop()
		return nil, "", "", mend(err)
	}
	row := clone(res[0].Rows[0])
	return c, string(row[2]), engine.Pos(row[1]), nil
}

// Mark returns a position after every commit acknowledged so far. It commits a
// transaction of its own, so that the stream passes the position at once.
func (s *source) Mark(ctx context.Context, _ string) (engine.Pos, error) {
	c, err := s.catalog.get(ctx)
	if err != nil {
		return "", err
	}
	defer s.catalog.give(c)
	rows, err := c.query(ctx, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return "", fmt.Errorf("mark position: %w", err)
	}
	if _, err := c.query(ctx, "SELECT pg_logical_emit_message(true, 'leeward', 'mark')"); err != nil {
		return "", fmt.Errorf("mark position: %w", err)
	}
	return engine.Pos(rows[0][0]), nil
}

func (s *source) Release(ctx context.Context, stream string, upTo engine.Pos) error {
	to, err := parseLSN(string(upTo))
	if err != nil {
		return err
	}
	x := s.at(stream)
	s.mu.Lock()
	x.released = max(x.released, to)
	running := x.running
	s.mu.Unlock()
	if running {
		select {
		case x.wake <- struct{}{}:
		default:
		}
		return nil
	}
	name := objectName(stream)
	st, err := s.slotState(ctx, name)
	if err != nil || !st.exists || st.lost != "" || st.active != "" || st.confirmed >= to {
		return err // of a lost slot Changes tells; an active one is told by who uses it
	}
	if _, err := s.catalog.query(ctx, "SELECT pg_replication_slot_advance($1, $2::pg_lsn)", name, string(upTo)); err != nil {
		return fmt.Errorf("release history up to %s: %w", upTo, err)
	}
	return nil
}

func (s *source) Remove(ctx context.Context, stream string) error {
	x, name := s.at(stream), objectName(stream)
	s.mu.Lock()
	if x.exporter != nil {
		x.exporter.drop()
		x.exporter = nil
	}
	delete(s.slots, stream)
	s.mu.Unlock()
	st, err := s.slotState(ctx, name)
	if err != nil {
		return err
	}
	if st.exists {
		err := patient(ctx, func() error {
			_, err := s.catalog.query(ctx, "SELECT pg_drop_replication_slot($1)", name)
			return err
		})
		if err != nil {
			return fmt.Errorf("drop slot %s: %w", name, err)
		}
	}
	if err := s.catalog.exec(ctx, "DROP PUBLICATION IF EXISTS "+ident(name)); err != nil {
		return fmt.Errorf("drop publication %s: %w", name, err)
	}
	return nil
}

// patient tries again, for five seconds, while a slot is in use: a server takes a
// moment to see that a stream was cut.
func patient(ctx context.Context, do func() error) error {
	for n := 0; ; n++ {
		err := do()
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "55006" || n == 50 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Epoch names the history that WAL positions belong to: the cluster, its timeline
// and the database.
func (s *source) Epoch(ctx context.Context) (string, error) {
	rows, err := s.catalog.query(ctx, `SELECT (pg_control_system()).system_identifier,
		substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8), oid FROM pg_database WHERE datname = current_database()`)
	if err != nil {
		return "", fmt.Errorf("read epoch: %w", err)
	}
	return fmt.Sprintf("%s/%s/%s", rows[0][0], rows[0][1], rows[0][2]), nil
}

// Before reports whether a comes before b.
func (s *source) Before(a, b engine.Pos) (bool, error) {
	x, err := parseLSN(string(a))
	if err != nil {
		return false, err
	}
	y, err := parseLSN(string(b))
	return x < y, err
}

// lsn is a position in WAL.
type lsn uint64

func (l lsn) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

func parseLSN(s string) (lsn, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("read position %q: it is not a WAL position", s)
	}
	return lsn(h<<32 | l), nil
}

// expired reports whether an error of the server means that history is gone.
func expired(err error) (string, bool) {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return "", false
	}
	lost := pg.Code == "42704" || pg.Code == "55000" && (strings.Contains(pg.Message, "slot") || strings.Contains(pg.Message, "WAL")) ||
		pg.Code == "58P01"
	return pg.Message, lost
}
