// Package mariadb replicates the rows of one database of MariaDB 10.5 or newer from
// the row binlog, without a global lock and without writing at the source. It speaks
// to MySQL 8 as well by the differences its manual tells of; nothing of that is
// proven by a test.
//
// Values travel as the bytes the server stores: text in the character set of its
// column, numbers and times as text, bits, geometry, uuid and addresses as bytes.
// Sessions that carry them use the character set binary, so that nobody converts.
package mariadb

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// sqlMode lets every value pass that a server may hold already, and refuses those
// that do not fit a column.
const sqlMode = "'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'"

// own is the database in which a target remembers streams.
const own = "leeward"

// Driver opens databases. Its zero value is ready.
//
// A DSN is that of go-sql-driver/mysql, user@tcp(host:3306)/erp?tls=true, or a URL,
// mariadb://user@host:3306/erp?tls=true, with ?socket=/run/mysqld/mysqld.sock for a
// Unix socket.
type Driver struct{}

// Source implements engine.Driver.
func (Driver) Source(ctx context.Context, o engine.Options) (engine.Source, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Source{server: s, reader: reader{conns: pool{s.data}}}, nil
}

// Target implements engine.Driver.
func (Driver) Target(ctx context.Context, o engine.Options) (engine.Target, error) {
	s, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	return &Target{server: s, reader: reader{conns: pool{s.data}}, counted: map[string]string{}}, nil
}

// server is one database of one server.
type server struct {
	cfg    *mysql.Config
	data   *sql.DB // sessions in the character set binary: for values
	text   *sql.DB // sessions in utf8mb4: for definitions
	db     string
	filter engine.Filter
	maria  bool
	major  int
	minor  int
}

func open(ctx context.Context, o engine.Options) (*server, error) {
	cfg, err := parseDSN(o.DSN)
	if err != nil {
		return nil, err
	}
	if o.Password != "" {
		cfg.Passwd = o.Password
	}
	if cfg.DBName == "" {
		return nil, errors.New("read DSN: no database is named; write user@tcp(host:3306)/database")
	}
	s := &server{cfg: cfg, db: cfg.DBName, filter: o.Tables}
	if s.data, err = s.pool("binary"); err != nil {
		return nil, err
	}
	if s.text, err = s.pool("utf8mb4"); err != nil {
		return nil, errors.Join(err, s.data.Close())
	}
	if err := s.probe(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// pool opens sessions whose character set is cs.
func (s *server) pool(cs string) (*sql.DB, error) {
	cfg := s.cfg.Clone()
	if err := cfg.Apply(mysql.Charset(cs, "")); err != nil {
		return nil, fmt.Errorf("read DSN: %w", err)
	}
	c, err := mysql.NewConnector(cfg)
	if err != nil {
		return nil, fmt.Errorf("read DSN: %w", err)
	}
	db := sql.OpenDB(c)
	db.SetMaxIdleConns(4)
	return db, nil
}

func (s *server) probe(ctx context.Context) error {
	var version string
	if err := s.text.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return fmt.Errorf("connect to %s as %s: %w", s.cfg.Addr, s.cfg.User, explain(err))
	}
	s.maria = strings.Contains(version, "MariaDB")
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return fmt.Errorf("read version %q: want major.minor", version)
	}
	var err error
	if s.major, err = strconv.Atoi(parts[0]); err == nil {
		s.minor, err = strconv.Atoi(strings.TrimFunc(parts[1], func(r rune) bool { return r < '0' || r > '9' }))
	}
	if err != nil {
		return fmt.Errorf("read version %q: %w", version, err)
	}
	return nil
}

// atLeast tells whether this is MariaDB of the version or newer.
func (s *server) atLeast(major, minor int) bool {
	return s.maria && (s.major > major || s.major == major && s.minor >= minor)
}

// Close ends all connections.
func (s *server) Close() error { return errors.Join(s.data.Close(), s.text.Close()) }

// parseDSN reads both forms of a DSN and fixes what every session must have.
func parseDSN(dsn string) (*mysql.Config, error) {
	if dsn == "" {
		return nil, errors.New("read DSN: it is empty; write user@tcp(host:3306)/database")
	}
	var cfg *mysql.Config
	var err error
	if strings.HasPrefix(dsn, "mariadb://") || strings.HasPrefix(dsn, "mysql://") {
		cfg, err = parseURL(dsn)
	} else {
		cfg, err = mysql.ParseDSN(dsn)
	}
	if err != nil {
		// Neither parser's error may show the text: it may hold a password.
		return nil, errors.New("read DSN: want user@tcp(host:3306)/database or mariadb://user@host:3306/database")
	}
	if cfg.Params == nil {
		cfg.Params = map[string]string{}
	}
	for k, v := range map[string]string{
		"time_zone": "'+00:00'", "sql_mode": sqlMode, "net_read_timeout": "3600", "net_write_timeout": "3600",
		"wait_timeout": "86400", "innodb_lock_wait_timeout": "30", "lock_wait_timeout": "60",
	} {
		cfg.Params[k] = v
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	cfg.Logger = &mysql.NopLogger{} // what goes wrong is returned
	cfg.ParseTime, cfg.InterpolateParams, cfg.MultiStatements = false, true, false
	// How large a packet may be is asked of the server.
	cfg.MaxAllowedPacket = 0
	return cfg, nil
}

func parseURL(dsn string) (*mysql.Config, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return nil, err
	}
	cfg := mysql.NewConfig()
	cfg.User = u.User.Username()
	cfg.Passwd, _ = u.User.Password()
	cfg.DBName = strings.TrimPrefix(u.Path, "/")
	cfg.Net, cfg.Addr = "tcp", u.Host
	if u.Port() == "" {
		cfg.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	q := u.Query()
	if s := q.Get("socket"); s != "" {
		cfg.Net, cfg.Addr = "unix", s
	}
	cfg.TLSConfig = q.Get("tls")
	// The driver's own reader of DSNs checks the names and resolves TLS.
	return mysql.ParseDSN(cfg.FormatDSN())
}

// tls returns what the DSN says of encryption, for the binlog's own connection.
func (s *server) tls() *tls.Config {
	if s.cfg.TLS == nil {
		return nil
	}
	c := s.cfg.TLS.Clone()
	if c.ServerName == "" && !c.InsecureSkipVerify {
		if host, _, err := net.SplitHostPort(s.cfg.Addr); err == nil {
			c.ServerName = host
		}
	}
	return c
}

// variable reads a global variable; "" where there is none of that name.
func (s *server) variable(ctx context.Context, name string) (string, error) {
	var n, v string
	err := s.text.QueryRowContext(ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name = ?", name).Scan(&n, &v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read variable %s: %w", name, explain(err))
	}
	return v, nil
}
