package switchover

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql" // MariaDB's client
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/config"
)

// realKind is a way to replicate a real database of this machine's packages.
type realKind struct {
	engine   string
	physical bool
	bin      string // of PostgreSQL
}

func needKnot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("real servers take longer than -short allows")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: database servers run as users of their own")
	}
	if _, err := exec.LookPath("knotd"); err != nil {
		t.Skip("no knotd here")
	}
}

// eachKind runs a test by every engine and mode that is here.
func eachKind(t *testing.T, f func(t *testing.T, k *realKind)) {
	needKnot(t)
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	for _, k := range []*realKind{{engine: "postgres"}, {engine: "mariadb"}, {engine: "postgres", physical: true}, {engine: "mariadb", physical: true}} {
		t.Run(k.engine+" "+k.mode(), func(t *testing.T) {
			if k.engine == "postgres" {
				if len(bins) == 0 {
					t.Skip("no PostgreSQL here")
				}
				k.bin = bins[len(bins)-1]
			} else if _, err := exec.LookPath("mariadb-backup"); err != nil {
				t.Skip("no MariaDB with mariadb-backup here")
			}
			f(t, k)
		})
	}
}

func (k *realKind) mode() string {
	if k.physical {
		return "physical"
	}
	return "logical"
}

// pair is two servers on addresses of their own, with one port. Of a whole server that
// is copied the second is not there yet.
func (k *realKind) pair(t *testing.T) (map[Site]*realSite, config.Database) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lwreal")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	sites := map[Site]*realSite{}
	for i, at := range []Site{Source, Target} {
		s := &realSite{kind: k, address: "127.0.0." + strconv.Itoa(i+2), port: port, dir: filepath.Join(dir, string(at)), number: i + 1}
		s.scripts(t)
		sites[at] = s
		if at == Target && k.physical {
			continue
		}
		s.install(t)
		s.start(t)
		s.fill(t, at == Source)
	}
	db := config.Database{Name: "shop", Engine: k.engine, Mode: k.mode(), Capture: "auto",
		Source: config.Endpoint{DSN: sites[Source].dsn("leeward")}, Target: config.Endpoint{DSN: sites[Target].dsn("leeward")}}
	if k.physical {
		db.Source.Server, db.Target.Server = sites[Source].server(), sites[Target].server()
	}
	return sites, db
}

// realSite is one server.
type realSite struct {
	kind          *realKind
	address, port string
	dir           string
	number        int
}

func (s *realSite) user() string {
	if s.kind.engine == "mariadb" {
		return "mysql"
	}
	return "postgres"
}

func (s *realSite) server() *config.DatabaseServer {
	return &config.DatabaseServer{Data: s.dir + "/data", Owner: s.user(), Start: []string{s.dir + "/start"}, Stop: []string{s.dir + "/stop"}}
}

func (s *realSite) dsn(user string) string {
	if s.kind.engine == "mariadb" {
		return fmt.Sprintf("%s@tcp(%s)/shop", user, net.JoinHostPort(s.address, s.port))
	}
	return fmt.Sprintf("postgres://%s@%s/shop?sslmode=disable", user, net.JoinHostPort(s.address, s.port))
}

// scripts writes the commands that start and stop the server, as a service manager would.
func (s *realSite) scripts(t *testing.T) {
	t.Helper()
	tool(t, "install", "-d", "-o", s.user(), "-m", "755", s.dir)
	as := fmt.Sprintf("setpriv --reuid=%[1]s --regid=%[1]s --init-groups --", s.user())
	start := fmt.Sprintf(`#!/bin/sh
cd /; exec %s %s/pg_ctl start -w -s -D %[3]s/data -l %[3]s/log -o "-c listen_addresses=%[4]s -c port=%[5]s -c unix_socket_directories=%[3]s -c wal_level=logical -c wal_log_hints=on -c wal_keep_size=64MB -c fsync=off -c shared_buffers=16MB"
`, as, s.kind.bin, s.dir, s.address, s.port)
	stop := fmt.Sprintf("#!/bin/sh\ncd /; test -e %[3]s/data/postmaster.pid || exit 0; exec %[1]s %[2]s/pg_ctl stop -w -s -m fast -D %[3]s/data\n", as, s.kind.bin, s.dir)
	if s.kind.engine == "mariadb" {
		start = fmt.Sprintf(`#!/bin/sh
cd /; setsid %[1]s mariadbd --no-defaults --datadir=%[2]s/data --tmpdir=%[2]s --socket=%[2]s/s --port=%[3]s --bind-address=%[4]s --pid-file=%[2]s/pid --server-id=%[5]d \
--log-bin=binlog --binlog-format=ROW --binlog-row-image=FULL --binlog-row-metadata=FULL --gtid-strict-mode=1 --log-slave-updates=1 --local-infile=1 --innodb-flush-log-at-trx-commit=2 \
--innodb-buffer-pool-size=64M --performance-schema=0 --skip-name-resolve >>%[2]s/log 2>&1 </dev/null &
`, as, s.dir, s.port, s.address, s.number)
		stop = fmt.Sprintf("#!/bin/sh\np=$(cat %s/pid 2>/dev/null) || exit 0; kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done\n", s.dir)
	}
	for name, text := range map[string]string{"start": start, "stop": stop} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command(s.dir + "/stop").CombinedOutput(); err != nil {
			t.Logf("stop the server at %s: %v: %s", s.address, err, out)
		}
		if said, _ := os.ReadFile(s.dir + "/log"); t.Failed() {
			t.Logf("the server at %s:\n%s", s.address, said[max(0, len(said)-3000):])
		}
	})
}

func (s *realSite) install(t *testing.T) {
	t.Helper()
	as := []string{"--reuid", s.user(), "--regid", s.user(), "--init-groups"}
	if s.kind.engine == "mariadb" {
		tool(t, "setpriv", append(as, "mariadb-install-db", "--no-defaults", "--datadir="+s.dir+"/data", "--tmpdir="+s.dir, "--auth-root-authentication-method=normal", "--skip-test-db")...)
		return
	}
	tool(t, "setpriv", append(as, s.kind.bin+"/initdb", "-A", "trust", "-D", s.dir+"/data", "--no-sync")...)
}

func (s *realSite) start(t *testing.T) {
	t.Helper()
	// What it leaves running must not hold on to our pipes.
	cmd := exec.Command(s.dir + "/start")
	if err := cmd.Run(); err != nil {
		t.Fatalf("start the server at %s: %v", s.address, err)
	}
	var err error
	for range 200 {
		if err = s.root(t, "SELECT 1"); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the server at %s does not answer: %v", s.address, err)
}

// kill ends the server at once.
func (s *realSite) kill(t *testing.T) {
	t.Helper()
	name := map[string]string{"mariadb": "pid", "postgres": "data/postmaster.pid"}[s.kind.engine]
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(b), "\n")
	tool(t, "kill", "-9", strings.TrimSpace(pid))
	for range 100 {
		if s.root(t, "SELECT 1") != nil && exec.Command("kill", "-0", strings.TrimSpace(pid)).Run() != nil {
			time.Sleep(500 * time.Millisecond) // its children go as well
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the server at %s goes on", s.address)
}

// root runs statements as the superuser that the server was made with.
func (s *realSite) root(t *testing.T, statements ...string) error {
	for _, q := range statements {
		cmd := exec.Command("psql", "-qXv", "ON_ERROR_STOP=1", "-h", s.address, "-p", s.port, "-U", "postgres", "-c", q, "postgres")
		if s.kind.engine == "mariadb" {
			cmd = exec.Command("mariadb", "--no-defaults", "-uroot", "-S", s.dir+"/s", "-e", q)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", q, err, out)
		}
	}
	return nil
}

// fill makes accounts and, at the source, the application's table as its own. At the
// target there is nothing but the accounts, which may do nothing there.
func (s *realSite) fill(t *testing.T, source bool) {
	t.Helper()
	qs := []string{"CREATE ROLE app LOGIN", "CREATE ROLE leeward LOGIN SUPERUSER", "CREATE DATABASE shop"}
	grant, table := "GRANT CREATE ON SCHEMA public TO app", "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz)"
	if s.kind.engine == "mariadb" {
		qs = []string{"CREATE USER app@'%'", "CREATE USER leeward@'%'", "GRANT ALL ON *.* TO leeward@'%' WITH GRANT OPTION", "CREATE DATABASE shop"}
		grant, table = "GRANT ALL ON shop.* TO app@'%'", "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamp(6))"
	}
	if err := s.root(t, qs...); err != nil {
		t.Fatal(err)
	}
	if !source {
		return
	}
	for _, step := range [][2]string{{"leeward", grant}, {"app", table}} {
		c, err := s.connect(t.Context(), step[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.exec(t.Context(), step[1]); err != nil {
			t.Fatal(err)
		}
		c.close()
	}
}

// realConn is a session of a client.
type realConn interface {
	exec(ctx context.Context, statement string) error
	ints(ctx context.Context, query string) ([]int, error)
	close()
}

func (s *realSite) connect(ctx context.Context, user string) (realConn, error) {
	if s.kind.engine == "mariadb" {
		db, err := sql.Open("mysql", s.dsn(user))
		if err != nil {
			return nil, err
		}
		db.SetMaxOpenConns(1)
		if err := db.PingContext(ctx); err != nil {
			return nil, errors.Join(err, db.Close())
		}
		return &mariaConn{db}, nil
	}
	c, err := pgconn.Connect(ctx, s.dsn(user))
	if err != nil {
		return nil, err
	}
	return &pgClient{c}, nil
}

type pgClient struct{ c *pgconn.PgConn }

func (p *pgClient) exec(ctx context.Context, q string) error {
	_, err := p.c.Exec(ctx, q).ReadAll()
	return err
}

func (p *pgClient) ints(ctx context.Context, q string) (out []int, err error) {
	res, err := p.c.Exec(ctx, q).ReadAll()
	if err != nil {
		return nil, err
	}
	for _, r := range res[0].Rows {
		n, err := strconv.Atoi(string(r[0]))
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

func (p *pgClient) close() { _ = p.c.Close(context.Background()) }

type mariaConn struct{ db *sql.DB }

func (m *mariaConn) exec(ctx context.Context, q string) error {
	_, err := m.db.ExecContext(ctx, q)
	return err
}

func (m *mariaConn) ints(ctx context.Context, q string) (out []int, err error) {
	rows, err := m.db.QueryContext(ctx, q)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, rows.Err()
}

func (m *mariaConn) close() { _ = m.db.Close() }

// insert writes a row as the application does.
func (s *realSite) insert(t *testing.T, id int) error {
	c, err := s.connect(t.Context(), "app")
	if err != nil {
		return err
	}
	defer c.close()
	return c.exec(t.Context(), fmt.Sprintf("INSERT INTO orders VALUES (%d, now())", id))
}

func (s *realSite) mustInsert(t *testing.T, id int) {
	t.Helper()
	if err := s.insert(t, id); err != nil {
		t.Fatalf("write row %d at %s: %v", id, s.address, err)
	}
}

// ids are the rows that a site has.
func (s *realSite) ids(t *testing.T) map[int]bool {
	t.Helper()
	c, err := s.connect(t.Context(), "leeward")
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	all, err := c.ints(t.Context(), "SELECT id FROM orders")
	if err != nil {
		t.Fatal(err)
	}
	has := map[int]bool{}
	for _, n := range all {
		has[n] = true
	}
	return has
}
