package mariadb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
)

// instance is a MariaDB server of the tests' own.
type instance struct {
	dir, socket string
	port        int
	cmd         *exec.Cmd
}

// servers are the pair that all tests of the package share, started when first asked
// for.
type servers struct {
	once     sync.Once
	dir      string
	src, dst *instance
	err      error
	n        atomic.Int64
}

var pair servers

func TestMain(m *testing.M) {
	code := m.Run()
	for _, s := range []*instance{pair.src, pair.dst} {
		if s != nil {
			s.stop()
			if b, err := os.ReadFile(filepath.Join(s.dir, "log")); code != 0 && err == nil {
				fmt.Printf("%s\n", b[max(0, len(b)-6000):])
			}
		}
	}
	if pair.dir != "" {
		os.RemoveAll(pair.dir)
	}
	os.Exit(code)
}

// both returns the pair of servers, or skips where there are no binaries.
func both(t testing.TB) (src, dst *instance) {
	t.Helper()
	for _, tool := range []string{"mariadbd", "mariadb-install-db"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("MariaDB's server is not installed: %v", err)
		}
	}
	pair.once.Do(func() {
		if pair.dir, pair.err = os.MkdirTemp("", "lwmaria"); pair.err != nil {
			return
		}
		os.Chmod(pair.dir, 0o755)
		if pair.src, pair.err = startServer(filepath.Join(pair.dir, "a"), 1); pair.err == nil {
			pair.dst, pair.err = startServer(filepath.Join(pair.dir, "b"), 2)
		}
	})
	if pair.err != nil {
		t.Fatal(pair.err)
	}
	return pair.src, pair.dst
}

// asMysql makes a command run as the user mysql where this is root, as the server
// will not run as root.
func asMysql(cmd *exec.Cmd, dirs ...string) error {
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup("mysql")
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	for _, d := range dirs {
		if err := os.Chown(d, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func startServer(dir string, id int) (*instance, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	install := exec.Command("mariadb-install-db", "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	if err := asMysql(install, dir); err != nil {
		return nil, err
	}
	if out, err := install.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("install a server: %w\n%s", err, out)
	}
	s := &instance{dir: dir, socket: filepath.Join(dir, "s")}
	var err error
	if s.port, err = anyPort(); err != nil {
		return nil, err
	}
	return s, s.start(id)
}

// anyPort finds a port that nobody listens on.
func anyPort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}

func freePort(t *testing.T) int {
	t.Helper()
	p, err := anyPort()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *instance) start(id int, more ...string) error {
	args := append([]string{
		"--no-defaults", "--datadir=" + filepath.Join(s.dir, "data"), "--socket=" + s.socket, "--tmpdir=" + s.dir, "--port=" + strconv.Itoa(s.port),
		"--bind-address=127.0.0.1", "--pid-file=" + filepath.Join(s.dir, "pid"), "--server-id=" + strconv.Itoa(id), "--log-bin=binlog",
		"--binlog-format=ROW", "--binlog-row-image=FULL", "--binlog-row-metadata=FULL", "--gtid-strict-mode=1", "--log-slave-updates=1",
		"--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=128M", "--max-allowed-packet=256M", "--performance-schema=0",
		"--character-set-server=latin1", "--log-bin-trust-function-creators=1",
	}, more...)
	s.cmd = exec.Command("mariadbd", args...)
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := asMysql(s.cmd); err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	db, err := s.open("")
	if err != nil {
		return err
	}
	defer db.Close()
	for range 300 {
		if err = db.Ping(); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return fmt.Errorf("start a server: %w\n%s", err, b)
}

func (s *instance) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
}

// open opens a database as root.
func (s *instance) open(db string) (*sql.DB, error) {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.DBName = "root", "unix", s.socket, db
	c.Params = map[string]string{"time_zone": "'+00:00'"}
	if err := c.Apply(mysql.Charset("utf8mb4", "")); err != nil {
		return nil, err
	}
	n, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(n), nil
}

// options reach a database as root, by TCP.
func (s *instance) options(db string) engine.Options {
	return engine.Options{DSN: fmt.Sprintf("root@tcp(127.0.0.1:%d)/%s", s.port, db)}
}

// appSession is an application's connection.
type appSession struct {
	db *sql.DB
	c  *sql.Conn
}

func (s *appSession) Exec(ctx context.Context, q string) error {
	_, err := s.c.ExecContext(ctx, q)
	return err
}

func (s *appSession) Query(ctx context.Context, q string) ([]engine.Row, error) {
	var out []engine.Row
	err := scan(ctx, s.c, q, func(r engine.Row) error {
		out = append(out, clone(r))
		return nil
	})
	return out, err
}

func (s *appSession) Close() error {
	s.c.Close()
	return s.db.Close()
}

// connect opens a session; the user app is bound by read_only.
func (s *instance) connect(ctx context.Context, db, as string) (*appSession, error) {
	c := mysql.NewConfig()
	c.User, c.Net, c.Addr, c.DBName = as, "unix", s.socket, db
	c.Params = map[string]string{"time_zone": "'+00:00'", "sql_mode": "'NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES'"}
	if err := c.Apply(mysql.Charset("utf8mb4", "")); err != nil {
		return nil, err
	}
	n, err := mysql.NewConnector(c)
	if err != nil {
		return nil, err
	}
	out := &appSession{db: sql.OpenDB(n)}
	out.c, err = out.db.Conn(ctx)
	return out, err
}

// scratch makes an empty database of one name at both ends.
func scratch(ctx context.Context, src, dst *instance) (enginetest.Scratch, error) {
	name := fmt.Sprintf("lw_%d", pair.n.Add(1))
	var out enginetest.Scratch
	for i, s := range []*instance{src, dst} {
		db, err := s.open("")
		if err != nil {
			return out, err
		}
		defer db.Close()
		for _, q := range []string{
			"DROP DATABASE IF EXISTS " + name, "CREATE DATABASE " + name + " CHARACTER SET utf8mb4",
			"CREATE USER IF NOT EXISTS app@localhost", "GRANT ALL PRIVILEGES ON `lw\\_%`.* TO app@localhost",
		} {
			if _, err := db.ExecContext(ctx, q); err != nil {
				return out, fmt.Errorf("%s: %w", q, err)
			}
		}
		end := enginetest.End{Options: s.options(name), Connect: func(ctx context.Context) (enginetest.Session, error) {
			return s.connect(ctx, name, "app")
		}}
		if i == 0 {
			out.Source = end
		} else {
			out.Target = end
		}
	}
	out.Close = func() error {
		for _, s := range []*instance{src, dst} {
			db, err := s.open("")
			if err != nil {
				return err
			}
			defer db.Close()
			for _, q := range []string{"DROP DATABASE IF EXISTS " + name, "DROP DATABASE IF EXISTS leeward"} {
				if _, err := db.Exec(q); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return out, nil
}

// expire drops the binlogs there are.
func expire(src *instance) func(context.Context, enginetest.Scratch) error {
	return func(ctx context.Context, _ enginetest.Scratch) error {
		db, err := src.open("")
		if err != nil {
			return err
		}
		defer db.Close()
		// A file stays until InnoDB has no need of it after a crash.
		for range 100 {
			if _, err := db.ExecContext(ctx, "FLUSH BINARY LOGS"); err != nil {
				return err
			}
			files, err := (&server{text: db}).strings(ctx, "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'BINLOG_SNAPSHOT_FILE'")
			if err != nil {
				return err
			}
			if _, err = db.ExecContext(ctx, "PURGE BINARY LOGS TO '"+files[0]+"'"); err != nil {
				return err
			}
			rows, err := db.QueryContext(ctx, "SHOW BINARY LOGS")
			if err != nil {
				return err
			}
			n := 0
			for rows.Next() {
				n++
			}
			rows.Close()
			if n == 1 {
				return nil
			}
			time.Sleep(50 * time.Millisecond)
		}
		return errors.New("the binlogs would not go")
	}
}

func TestSuite(t *testing.T) {
	src, dst := both(t)
	enginetest.Run(t, enginetest.Factory{
		Driver:  Driver{},
		Scratch: func(ctx context.Context) (enginetest.Scratch, error) { return scratch(ctx, src, dst) },
		Dialect: enginetest.Dialect{
			Begin: "START TRANSACTION", Savepoint: "SAVEPOINT a", RollbackTo: "ROLLBACK TO SAVEPOINT a",
			Identity: "INT AUTO_INCREMENT",
			Objects:  objectsDDL(),
		},
		Shapes: shapes(),
		Expire: expire(src),
	})
}

// objectsDDL makes one of every kind of object.
func objectsDDL() []string {
	return []string{
		"CREATE TABLE customers (id INT NOT NULL AUTO_INCREMENT PRIMARY KEY, name VARCHAR(40) NOT NULL DEFAULT 'x''y', n INT CHECK (n > 0), g INT AS (n * 2) STORED, KEY by_name (name)) COMMENT='it has AUTO_INCREMENT=7'",
		"CREATE TABLE invoices (id INT NOT NULL PRIMARY KEY, customer INT NOT NULL, CONSTRAINT invoices_customer FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE)",
		"CREATE VIEW z_last AS SELECT id, name FROM customers",
		"CREATE VIEW a_first AS SELECT id FROM z_last",
		"CREATE SEQUENCE numbers START WITH 10 INCREMENT BY 2",
		"CREATE FUNCTION twice (a INT) RETURNS INT DETERMINISTIC RETURN a * 2",
		"CREATE PROCEDURE work () BEGIN SELECT 'a;b'; END",
		"CREATE TRIGGER before_invoice BEFORE INSERT ON invoices FOR EACH ROW SET NEW.id = NEW.id + 1",
		"CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' DO DELETE FROM invoices WHERE id < 0",
	}
}
