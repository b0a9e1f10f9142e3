package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// settings are how to reach a database. The password is in config alone, which is
// never printed.
type settings struct{ config *pgconn.Config }

func parse(o engine.Options) (settings, error) {
	c, err := pgconn.ParseConfig(o.DSN)
	if err != nil {
		// pgconn's error repeats the string with the password struck out as far as it
		// can tell; what it could not parse it cannot strike out.
		return settings{}, errors.New("read the connection string: it is neither a postgres:// URL nor key=value pairs")
	}
	if o.Password != "" {
		c.Password = o.Password
	}
	var mark [4]byte
	_, _ = rand.Read(mark[:])
	c.RuntimeParams["application_name"] = "leeward " + hex.EncodeToString(mark[:])
	if c.ConnectTimeout == 0 || c.ConnectTimeout > time.Minute {
		c.ConnectTimeout = 15 * time.Second
	}
	return settings{c}, nil
}

// pinned are the settings that text depends on, and those that would end or change
// what we do. pg_catalog alone in the path makes the catalogue print full names.
func pinned() map[string]string {
	return map[string]string{
		"TimeZone": "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "extra_float_digits": "3",
		"bytea_output": "hex", "client_encoding": "UTF8", "lc_monetary": "C", "xmloption": "content",
		"search_path": "pg_catalog", "standard_conforming_strings": "on", "row_security": "off",
		"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
		"default_transaction_read_only": "off", "default_transaction_isolation": "read committed",
		"synchronize_seqscans": "off", "check_function_bodies": "off", "jit": "off",
		"quote_all_identifiers": "off", "array_nulls": "on", "transform_null_equals": "off",
	}
}

// scanning keeps the planner on the index of the key: it cannot know how few rows a
// bucket has, and one scan of the table for each would never end.
func scanning() map[string]string {
	return map[string]string{
		"enable_seqscan": "off", "enable_bitmapscan": "off", "random_page_cost": "1.1",
		"max_parallel_workers_per_gather": "0", "enable_hashjoin": "off", "enable_mergejoin": "off",
		"enable_material": "off",
	}
}

// applying keeps user triggers and foreign keys from firing, and the planner on
// indexes: lists of keys are short beside tables.
func applying() map[string]string {
	m := scanning()
	m["session_replication_role"] = "replica"
	return m
}

// session returns a config with the pinned settings and more.
func (s settings) session(more map[string]string) *pgconn.Config {
	c := s.config.Copy()
	maps.Copy(c.RuntimeParams, pinned())
	maps.Copy(c.RuntimeParams, more)
	return c
}

// conn is a connection in the hands of one goroutine.
type conn struct {
	*pgconn.PgConn
	prepared map[string]*pgconn.StatementDescription
	staged   map[string]bool // temporary tables made on it
	given    time.Time       // back to the pool
}

func dial(ctx context.Context, c *pgconn.Config) (*conn, error) {
	p, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, connectError(c, err)
	}
	return &conn{PgConn: p, prepared: map[string]*pgconn.StatementDescription{}, staged: map[string]bool{}}, nil
}

// drop ends a connection without waiting for the server.
func (c *conn) drop() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// query runs one statement and returns its rows as text.
func (c *conn) query(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	vals := make([][]byte, len(args))
	for i, a := range args {
		vals[i] = []byte(a)
	}
	r := c.ExecParams(ctx, sql, vals, nil, nil, nil).Read()
	return r.Rows, mend(r.Err)
}

// again runs a statement that is worth preparing: it takes longer to plan than to run.
func (c *conn) again(ctx context.Context, sql string) ([][][]byte, error) {
	st, err := c.prepare(ctx, sql)
	if err != nil {
		return nil, err
	}
	r := c.ExecStatement(ctx, st, nil, nil, nil).Read()
	return r.Rows, mend(r.Err)
}

// exec runs statements without arguments by the simple protocol: several may stand
// in one string, and then are one transaction.
func (c *conn) exec(ctx context.Context, sql string) error {
	return mend(c.Exec(ctx, sql).Close())
}

// each runs one statement and hands its rows on while they come; they are valid
// during the call alone. It stops early when yield returns false.
func (c *conn) each(ctx context.Context, sql string, args [][]byte, formats []int16, yield func([][]byte) bool) error {
	r := c.ExecParams(ctx, sql, args, nil, formats, nil)
	for r.NextRow() {
		if yield(r.Values()) {
			continue
		}
		if c.TxStatus() == 'I' {
			// Reading on to the end of a long result would take as long as the result:
			// the connection goes instead, unless a snapshot is held on it.
			c.drop()
			return nil
		}
		break
	}
	_, err := r.Close()
	return mend(err)
}

// prepare returns a prepared statement of this connection, made at the first call.
func (c *conn) prepare(ctx context.Context, sql string) (*pgconn.StatementDescription, error) {
	if s := c.prepared[sql]; s != nil {
		return s, nil
	}
	s, err := c.Prepare(ctx, "l"+strconv.Itoa(len(c.prepared)), sql, nil)
	if err != nil {
		return nil, mend(err)
	}
	c.prepared[sql] = s
	return s, nil
}

// taker hands out connections. give takes them back; one that is closed, or in a
// transaction it should not be in, is not handed out again.
type taker interface {
	get(ctx context.Context) (*conn, error)
	give(c *conn)
}

// pool keeps idle connections of one kind.
type pool struct {
	config *pgconn.Config

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

func newPool(c *pgconn.Config) *pool { return &pool{config: c} }

func (p *pool) get(ctx context.Context) (*conn, error) {
	for {
		p.mu.Lock()
		n := len(p.idle)
		if n == 0 {
			p.mu.Unlock()
			return dial(ctx, p.config)
		}
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		// The server may have ended it meanwhile.
		if time.Since(c.given) < time.Second || c.Ping(ctx) == nil {
			return c, nil
		}
		c.drop()
	}
}

func (p *pool) give(c *conn) {
	p.mu.Lock()
	keep := !p.closed && !c.IsClosed() && !c.IsBusy() && c.TxStatus() == 'I' && len(p.idle) < 8
	if keep {
		c.given = time.Now()
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.drop()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.drop()
	}
}

func (p *pool) query(ctx context.Context, sql string, args ...string) ([][][]byte, error) {
	c, err := p.get(ctx)
	if err != nil {
		return nil, err
	}
	defer p.give(c)
	return c.query(ctx, sql, args...)
}

func (p *pool) exec(ctx context.Context, sql string) error {
	c, err := p.get(ctx)
	if err != nil {
		return err
	}
	defer p.give(c)
	return c.exec(ctx, sql)
}

// mend marks errors that may go away as such.
func mend(err error) error {
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if passing(pg.Code) {
			return &engine.TemporaryError{Err: err}
		}
		return err
	}
	var n net.Error
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.As(err, &n) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "conn closed") {
		return &engine.TemporaryError{Err: err}
	}
	return err
}

// passing reports whether a SQLSTATE tells of something that passes: a lost
// connection, lack of disk, memory or connections, a deadlock, a server that starts
// or stops, a slot in use.
func passing(code string) bool {
	switch code {
	case "40001", "40P01", "55P03", "55006", "57P01", "57P02", "57P03", "57P05", "25P03":
		return true
	}
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53")
}

// connectError says in words what keeps us out.
func connectError(c *pgconn.Config, err error) error {
	at := fmt.Sprintf("connect to database %s at %s:%d as %s", c.Database, c.Host, c.Port, c.User)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if text := err.Error(); errors.Is(err, context.Canceled) || strings.Contains(text, "tls") || strings.Contains(text, "certificate") {
			return fmt.Errorf("%s: %w", at, err)
		}
		return &engine.TemporaryError{Err: fmt.Errorf("%s: %w", at, err)}
	}
	switch pg.Code {
	case "28P01":
		return fmt.Errorf("%s: the server refuses the password", at)
	case "28000":
		return fmt.Errorf("%s: the server does not let this user in from here (pg_hba.conf): %s", at, pg.Message)
	case "3D000":
		return fmt.Errorf("%s: there is no such database: CREATE DATABASE %s", at, ident(c.Database))
	case "42501":
		if strings.Contains(pg.Message, "parameter") {
			return fmt.Errorf("%s: %s: GRANT SET ON PARAMETER session_replication_role TO %s (PostgreSQL 15 and newer; before, a superuser must be used)",
				at, pg.Message, ident(c.User))
		}
		return fmt.Errorf("%s: %s: GRANT CONNECT ON DATABASE %s TO %s", at, pg.Message, ident(c.Database), ident(c.User))
	}
	return mend(fmt.Errorf("%s: %w", at, err))
}

// ident spells a name so that the server reads it as it is.
func ident(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// qualified spells the name of a table.
func qualified(n engine.Name) string { return ident(n.Schema) + "." + ident(n.Name) }

// literal spells a string constant. standard_conforming_strings is on in every
// session.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func number(b []byte) int {
	n, _ := strconv.Atoi(string(b))
	return n
}

func count(b []byte) int64 {
	n, _ := strconv.ParseInt(string(b), 10, 64)
	return n
}

func truth(b []byte) bool { return len(b) == 1 && b[0] == 't' }
