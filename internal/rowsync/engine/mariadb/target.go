package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Target is a database that is brought up to date. What it remembers of streams is in
// the database leeward beside it.
type Target struct {
	*server
	reader

	mu     sync.Mutex
	idle   []*applier // sessions with their staging tables, for the next Begin
	shapes map[string]*shape
	// counted is what the counters were stored as last, to store what is new alone.
	counted map[string]string
}

var _ engine.Target = (*Target)(nil)

// Close implements engine.Target.
func (t *Target) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.idle {
		discard(a.conn)
	}
	t.idle = nil
	return t.server.Close()
}

// records are the tables of the database leeward. One row of stream belongs to one
// stream into one database.
var records = []string{
	"CREATE DATABASE IF NOT EXISTS leeward CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
	`CREATE TABLE IF NOT EXISTS leeward.stream (db varchar(64) NOT NULL, name varchar(190) NOT NULL, pos longtext NOT NULL,
		phase varchar(20) NOT NULL, until longtext NOT NULL, epoch varchar(255) NOT NULL, fingerprint varchar(255) NOT NULL,
		source_time datetime(6) NOT NULL, serial bigint NOT NULL, PRIMARY KEY (db, name)) ENGINE=InnoDB`,
	`CREATE TABLE IF NOT EXISTS leeward.progress (db varchar(64) NOT NULL, name varchar(190) NOT NULL, tbl varchar(64) NOT NULL,
		up_to longblob, done bool NOT NULL, PRIMARY KEY (db, name, tbl)) ENGINE=InnoDB`,
	`CREATE TABLE IF NOT EXISTS leeward.counter (db varchar(64) NOT NULL, name varchar(190) NOT NULL, kind varchar(20) NOT NULL,
		object varchar(64) NOT NULL, col varchar(64) NOT NULL, value varchar(40) NOT NULL, PRIMARY KEY (db, name, kind, object, col)) ENGINE=InnoDB`,
	`CREATE TABLE IF NOT EXISTS leeward.held (db varchar(64) NOT NULL, kind varchar(20) NOT NULL, object varchar(64) NOT NULL,
		tbl varchar(64) NOT NULL, seq int NOT NULL, definition longtext NOT NULL, charset varchar(64) NOT NULL,
		collation varchar(64) NOT NULL, status varchar(40) NOT NULL, PRIMARY KEY (db, kind, object)) ENGINE=InnoDB`,
	`CREATE TABLE IF NOT EXISTS leeward.watch (db varchar(64) NOT NULL, name varchar(190) NOT NULL, pos longtext NOT NULL,
		seen longtext NOT NULL, PRIMARY KEY (db, name)) ENGINE=InnoDB`,
}

// prepare makes the database leeward. Nothing there is changed.
func (t *Target) prepare(ctx context.Context) error {
	for _, q := range records {
		if _, err := t.text.ExecContext(ctx, q); err != nil {
			return fmt.Errorf("make database %s: %w", own, explain(err))
		}
	}
	return nil
}

// absent tells whether an error means that nothing was recorded yet.
func absent(err error) bool {
	n := number(err)
	return errors.Is(err, sql.ErrNoRows) || n == errNoTable || n == errNoDB
}

const stateColumns = "pos, phase, until, epoch, fingerprint, CAST(source_time AS CHAR), serial"

func scanState(r interface{ Scan(...any) error }, stream string) (engine.State, error) {
	s := engine.State{Stream: stream}
	var pos, phase, until, at string
	if err := r.Scan(&pos, &phase, &until, &s.Epoch, &s.Fingerprint, &at, &s.Serial); err != nil {
		return s, err
	}
	s.Pos, s.Phase, s.Until = engine.Pos(pos), engine.Phase(phase), engine.Pos(until)
	if !strings.HasPrefix(at, "0000") {
		v, err := time.ParseInLocation("2006-01-02 15:04:05.999999", at, time.UTC)
		if err != nil {
			return s, fmt.Errorf("read time: %w", err)
		}
		s.SourceTime = v
	}
	return s, nil
}

// State implements engine.Record.
func (t *Target) State(ctx context.Context, stream string) (engine.State, error) {
	row := t.text.QueryRowContext(ctx, "SELECT "+stateColumns+" FROM leeward.stream WHERE db = ? AND name = ?", t.db, stream)
	s, err := scanState(row, stream)
	if absent(err) {
		return engine.State{Stream: stream}, nil
	}
	if err != nil {
		return s, fmt.Errorf("read state of %s: %w", stream, explain(err))
	}
	return s, nil
}

// SetProgress implements engine.Record.
func (t *Target) SetProgress(ctx context.Context, stream string, n engine.Name, p engine.Progress) error {
	const q = `INSERT INTO leeward.progress (db, name, tbl, up_to, done) VALUES (?, ?, ?, ?, ?)
		ON DUPLICATE KEY UPDATE up_to = VALUES(up_to), done = VALUES(done)`
	args := []any{t.db, stream, n.Name, encodeRow(p.UpTo), p.Done}
	_, err := t.text.ExecContext(ctx, q, args...)
	if absent(err) {
		if err = t.prepare(ctx); err == nil {
			_, err = t.text.ExecContext(ctx, q, args...)
		}
	}
	if err != nil {
		return fmt.Errorf("store progress of %s: %w", n, explain(err))
	}
	return nil
}

// Progress implements engine.Record.
func (t *Target) Progress(ctx context.Context, stream string) (map[engine.Name]engine.Progress, error) {
	out := map[engine.Name]engine.Progress{}
	rows, err := t.text.QueryContext(ctx, "SELECT tbl, up_to, done FROM leeward.progress WHERE db = ? AND name = ?", t.db, stream)
	if absent(err) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read progress: %w", explain(err))
	}
	defer rows.Close()
	for rows.Next() {
		var n engine.Name
		var p engine.Progress
		var up []byte
		if err := rows.Scan(&n.Name, &up, &p.Done); err != nil {
			return nil, fmt.Errorf("read progress: %w", explain(err))
		}
		if p.UpTo, err = decodeRow(up); err != nil {
			return nil, fmt.Errorf("read progress of %s: %w", n, err)
		}
		out[n] = p
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read progress: %w", explain(err))
	}
	return out, nil
}

// Forget implements engine.Record. What Standby held off stays remembered: it is of
// the database, not of the stream.
func (t *Target) Forget(ctx context.Context, stream string) error {
	t.mu.Lock()
	clear(t.counted)
	t.mu.Unlock()
	for _, table := range []string{"stream", "progress", "counter", "watch"} {
		_, err := t.text.ExecContext(ctx, "DELETE FROM leeward."+table+" WHERE db = ? AND name = ?", t.db, stream)
		if err != nil && !absent(err) {
			return fmt.Errorf("forget %s: %w", stream, explain(err))
		}
	}
	return nil
}

// Execute implements engine.Target. A statement that Changes or Schema gave runs in
// the session it was made in: sql_mode decides what it means.
func (t *Target) Execute(ctx context.Context, statement string) error {
	c, err := t.text.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", explain(err))
	}
	// What the session becomes here must not reach the next one.
	defer discard(c)
	set := []string{"SET SESSION foreign_key_checks = 0", "SET SESSION lock_wait_timeout = 60"}
	q := statement
	if s, rest, ok := without(statement); ok {
		q = rest
		set = append(set, fmt.Sprintf("SET SESSION sql_mode = %d", s.mode))
		if s.charset[0] != 0 {
			set = append(set, fmt.Sprintf("SET SESSION character_set_client = %d, collation_connection = %d", s.charset[0], s.charset[1]))
		}
	} else if mode, rest, ok := modeOf(statement); ok {
		q = rest
		set = append(set, "SET SESSION sql_mode = "+quote([]byte(mode)))
	}
	for _, s := range append(set, q) {
		if _, err := c.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("execute %.200q: %w", s, explain(err))
		}
	}
	t.mu.Lock()
	t.shapes = nil
	for _, a := range t.idle {
		discard(a.conn) // its staging tables may be of a former shape
	}
	t.idle = nil
	t.mu.Unlock()
	st := parseStatement(q, t.db, false)
	if !st.ignored && (strings.Contains(strings.ToUpper(q), "TRIGGER") || strings.Contains(strings.ToUpper(q), "EVENT")) {
		return t.holdAgain(ctx)
	}
	return nil
}

// encodeRow writes a key so that NULL is told from empty.
func encodeRow(r engine.Row) []byte {
	if r == nil {
		return nil
	}
	return []byte(rowKey(r))
}

// decodeRow reads what encodeRow wrote.
func decodeRow(b []byte) (engine.Row, error) {
	if b == nil {
		return nil, nil
	}
	out := engine.Row{}
	for len(b) > 0 {
		if b[0] == 'N' && len(b) > 1 {
			out, b = append(out, nil), b[2:]
			continue
		}
		n, i := 0, 0
		for ; i < len(b) && b[i] >= '0' && b[i] <= '9' && n < 1<<30; i++ {
			n = 10*n + int(b[i]-'0')
		}
		if i == 0 || i >= len(b) || b[i] != ':' || n > len(b)-i-1 {
			return nil, errors.New("a key is not as it was written")
		}
		out, b = append(out, append([]byte{}, b[i+1:i+1+n]...)), b[i+1+n:]
	}
	return out, nil
}
