package mssql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	mssql "github.com/microsoft/go-mssqldb"
	"github.com/microsoft/go-mssqldb/msdsn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Driver opens databases of SQL Server. Its zero value is ready.
type Driver struct{}

// Source opens a database to replicate from.
func (Driver) Source(ctx context.Context, o engine.Options) (engine.Source, error) {
	d, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &source{reader: reader{d: d, source: true}, streams: map[string]*drained{}}, nil
}

// Target opens a database to replicate to.
func (Driver) Target(ctx context.Context, o engine.Options) (engine.Target, error) {
	d, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &target{reader: reader{d: d}, counters: map[engine.Counter]string{}}, nil
}

// database is an open database and what was probed of it.
type database struct {
	db *sql.DB
	o  engine.Options
	caps
}

// packetSize is the largest that TLS allows; the default of 4096 costs a round trip
// of the network's latency four times as often.
const packetSize = 16383

func open(ctx context.Context, o engine.Options) (*database, error) {
	return openDatabase(ctx, o, "")
}

// openDatabase opens the database called name instead of the one that the DSN names.
func openDatabase(ctx context.Context, o engine.Options, name string) (*database, error) {
	cfg, err := msdsn.Parse(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("read the DSN: %w", err)
	}
	if o.Password != "" {
		cfg.Password = o.Password
	}
	if name != "" {
		cfg.Database = name
	}
	cfg.Encoding.Timezone, cfg.Encoding.GuidConversion = time.UTC, false
	if cfg.PacketSize <= 4096 {
		cfg.PacketSize = packetSize
	}
	d := &database{db: sql.OpenDB(mssql.NewConnectorConfig(cfg)), o: o}
	d.db.SetMaxIdleConns(idle)
	if err := d.probe(ctx); err != nil {
		d.db.Close()
		return nil, fmt.Errorf("open database %s at %s: %w", cfg.Database, cfg.Host, loginHint(temporary(err)))
	}
	return d, nil
}

func loginHint(err error) error {
	switch number(err) {
	case 18456:
		return fmt.Errorf("%w: check the user and the password, and that the server allows SQL Server logins", err)
	case 4060:
		return fmt.Errorf("%w: check the name of the database, and that the login has a user in it (CREATE USER … FOR LOGIN …)", err)
	}
	return err
}

// idle is how many connections are kept open unused.
const idle = 8

// dropIdle closes them.
func (d *database) dropIdle() {
	d.db.SetMaxIdleConns(-1)
	d.db.SetMaxIdleConns(idle)
}

func (d *database) Close() error { return d.db.Close() }

// session is one connection, which keeps its staging tables and settings.
type session struct {
	*sql.Conn
	d *database
	// inTx says that reads are of one transaction already.
	inTx bool
}

func (d *database) session(ctx context.Context) (*session, error) {
	c, err := d.db.Conn(ctx)
	if err != nil {
		return nil, temporary(err)
	}
	return &session{Conn: c, d: d}, nil
}

func (s *session) exec(ctx context.Context, query string, args ...any) (int64, error) {
	r, err := s.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// each runs a query and calls f for each row with a scan function.
func (s *session) each(ctx context.Context, query string, f func(scan func(...any) error) error, args ...any) error {
	rows, err := s.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// load fills a staging table by bulk copy. The TDS driver panics on values it does not
// expect; what comes here was checked, and should one slip through it must not end the
// process. A copy that broke off leaves the connection between two messages, so it is
// given up, and whatever transaction it was in with it.
func (s *session) load(ctx context.Context, table string, columns []string, rows func(add func(...any) error) error) error {
	var cause error
	err := s.Raw(func(c any) (err error) {
		defer func() {
			if r := recover(); r != nil {
				cause, err = fmt.Errorf("the TDS driver refused a value: %v", r), driver.ErrBadConn
			}
		}()
		conn, ok := c.(*mssql.Conn)
		if !ok {
			return fmt.Errorf("unexpected connection %T", c)
		}
		b := conn.CreateBulkContext(ctx, table, columns)
		if cause = rows(func(values ...any) error { return b.AddRow(values) }); cause != nil {
			return driver.ErrBadConn
		}
		_, err = b.Done()
		return err
	})
	if cause != nil {
		err = cause
	}
	if err != nil {
		return fmt.Errorf("fill %s: %w", table, err)
	}
	return nil
}

// begin starts a transaction. It is begun by a statement and not by database/sql, whose
// transactions keep a connection from being given up.
func (s *session) begin(ctx context.Context, level string) error {
	if _, err := s.exec(ctx, sqlBegin(level)); err != nil {
		return err
	}
	s.inTx = true
	return nil
}

func (s *session) commit(ctx context.Context) error {
	_, err := s.exec(ctx, sqlCommit())
	if err == nil {
		s.inTx = false
	}
	return err
}

// rollbackWait bounds what is waited for when a transaction is given up.
const rollbackWait = 10 * time.Second

// end gives the connection back; a transaction still open is rolled back, and where
// that cannot be had the connection is closed, which comes to the same.
func (s *session) end() error {
	if s.inTx {
		s.inTx = false
		ctx, cancel := context.WithTimeout(context.Background(), rollbackWait)
		defer cancel()
		if _, err := s.exec(ctx, sqlRollback()); err != nil {
			s.discard()
		}
	}
	if err := s.Close(); err != nil && !errors.Is(err, sql.ErrConnDone) {
		return err
	}
	return nil
}

// discard closes the connection itself.
func (s *session) discard() {
	_ = s.Raw(func(any) error { return driver.ErrBadConn })
}

// transient are the errors that pass: deadlock, lock time-out, snapshot conflicts,
// databases that start, recover or move, full disks and logs, sessions ended.
var transient = []int32{
	1205, 1222, 3960, 3961, 3966, 233, 596, 904, 921, 922, 927, 983, 1105, 1204, 6005, 701, 8645, 9001, 9002,
	10053, 10054, 10060, 17142, 17197, 18401, 40197, 40501, 40540, 40613, 40143, 49918, 49919, 49920,
}

// passing are words of servers that give no numbers.
var passing = []string{
	"deadlock detected", "could not serialize access", "lock timeout", "starting up", "shutting down",
	"terminating connection", "too many clients", "No space left on device", "in recovery mode",
}

func number(err error) int32 {
	var e mssql.Error
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

// temporary marks errors that are worth another try.
func temporary(err error) error {
	if err == nil || engine.Temporary(err) || errors.Is(err, context.Canceled) {
		return err
	}
	var n net.Error
	var server mssql.ServerError
	var stream mssql.StreamError
	var retry mssql.RetryableError
	passes := errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, errStream) || errors.Is(err, sql.ErrConnDone) ||
		errors.As(err, &n) || errors.As(err, &server) || errors.As(err, &stream) || errors.As(err, &retry) ||
		slices.Contains(transient, number(err)) ||
		slices.ContainsFunc(passing, func(w string) bool { return strings.Contains(err.Error(), w) })
	if passes {
		return &engine.TemporaryError{Err: err}
	}
	return err
}

// wrap says what was being done and marks errors that pass. It leaves nil alone.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return temporary(fmt.Errorf(format+": %w", append(args, err)...))
}

// uniqueViolation reports whether an error is of a unique index or a key.
func uniqueViolation(err error) bool { n := number(err); return n == 2627 || n == 2601 }
