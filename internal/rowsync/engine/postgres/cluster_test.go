package postgres

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// cluster is a server of this test's own.
type cluster struct {
	dir  string
	port int
	cmd  *exec.Cmd
}

// pair is started once for the package and ended by TestMain.
type pair struct {
	once     sync.Once
	src, dst *cluster
	dir      string
	err      error
	dbs      int
}

var servers pair

func TestMain(m *testing.M) {
	code := m.Run()
	servers.stop()
	os.Exit(code)
}

func (p *pair) stop() {
	for _, c := range []*cluster{p.src, p.dst} {
		if c != nil {
			c.stop()
		}
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// binDir finds the newest PostgreSQL there is.
func binDir() string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.Sort(dirs)
	if len(dirs) == 0 {
		return ""
	}
	return dirs[len(dirs)-1]
}

// postgresUser is who servers run as: they refuse to run as root.
func postgresUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, err
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func asPostgres(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(binDir(), name), args...)
	cred, _ := postgresUser()
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setpgid: true}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	return cmd
}

func freePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func newCluster(dir string, settings ...string) (*cluster, error) {
	c := &cluster{dir: dir, port: freePort()}
	if out, err := asPostgres("initdb", "-D", dir, "-U", "postgres", "-A", "trust", "-N", "--locale=C.UTF-8", "-E", "UTF8").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	conf := append([]string{
		"listen_addresses = '127.0.0.1'", "unix_socket_directories = ''", "wal_level = logical", "fsync = off", "full_page_writes = off",
		"max_wal_size = '2GB'", "shared_buffers = '64MB'", "max_replication_slots = 20", "max_wal_senders = 20", "log_statement = none",
		"log_min_messages = warning", "max_connections = 60", "autovacuum_naptime = 1d",
	}, settings...)
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString("\n" + strings.Join(conf, "\n") + "\n")
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	return c, c.start()
}

func (c *cluster) start() error {
	log, err := os.OpenFile(c.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	c.cmd = asPostgres("postgres", "-D", c.dir, "-p", strconv.Itoa(c.port))
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return err
	}
	for range 300 {
		if exec.Command(filepath.Join(binDir(), "pg_isready"), "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(c.port)).Run() == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	b, _ := os.ReadFile(c.dir + ".log")
	return fmt.Errorf("server in %s does not start: %s", c.dir, b)
}

// stop ends the server by its process, fast.
func (c *cluster) stop() {
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	done := make(chan struct{})
	go func() { _ = c.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Signal(syscall.SIGQUIT)
		<-done
	}
	c.cmd = nil
}

func (c *cluster) dsn(db string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", c.port, db)
}

func (p *pair) start() {
	if binDir() == "" {
		return
	}
	if p.dir, p.err = os.MkdirTemp("", "leeward-pg-"); p.err != nil {
		return
	}
	if cred, err := postgresUser(); err != nil {
		p.err = err
		return
	} else if cred != nil {
		_ = os.Chown(p.dir, int(cred.Uid), int(cred.Gid))
	}
	if p.src, p.err = newCluster(filepath.Join(p.dir, "src")); p.err == nil {
		p.dst, p.err = newCluster(filepath.Join(p.dir, "dst"))
	}
}

// ends are one database at each of the two servers.
type ends struct {
	t        testing.TB
	name     string
	src, dst string
	s        engine.Source
	d        engine.Target
}

// needServers starts the pair, once.
func needServers(t testing.TB) {
	t.Helper()
	servers.once.Do(servers.start)
	if binDir() == "" {
		t.Skip("no PostgreSQL server in /usr/lib/postgresql")
	}
	if servers.err != nil {
		t.Fatal(servers.err)
	}
}

// open2 makes a database at both servers, with some DDL in each.
func open2(t testing.TB, ddl string) *ends {
	t.Helper()
	needServers(t)
	servers.dbs++
	e := &ends{t: t, name: fmt.Sprintf("db%d", servers.dbs)}
	e.src, e.dst = servers.src.dsn(e.name), servers.dst.dsn(e.name)
	psql(t, servers.src.dsn("postgres"), "CREATE DATABASE "+e.name)
	psql(t, servers.dst.dsn("postgres"), "CREATE DATABASE "+e.name)
	if ddl != "" {
		psql(t, e.src, ddl)
		psql(t, e.dst, ddl)
	}
	var err error
	if e.s, err = (Driver{}).Source(t.Context(), engine.Options{DSN: e.src}); err != nil {
		t.Fatal(err)
	}
	if e.d, err = (Driver{}).Target(t.Context(), engine.Options{DSN: e.dst}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = e.s.Remove(context.Background(), "s")
		_ = e.s.Close()
		_ = e.d.Close()
		_ = psqlErr(servers.src.dsn("postgres"), "DROP DATABASE IF EXISTS "+e.name+" WITH (FORCE)")
		_ = psqlErr(servers.dst.dsn("postgres"), "DROP DATABASE IF EXISTS "+e.name+" WITH (FORCE)")
	})
	return e
}

// psql runs statements by the client, which is no code of ours.
func psql(t testing.TB, dsn, sql string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir(), "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", dsn)
	cmd.Stdin = strings.NewReader(sql)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("psql: %v: %s\nin %.2000s", err, errs.String(), sql)
	}
	return strings.TrimSpace(out.String())
}

func psqlErr(dsn, sql string) error {
	cmd := exec.Command(filepath.Join(binDir(), "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", dsn, "-c", sql)
	return cmd.Run()
}

// dump is what pg_dump makes of a database.
func dump(t testing.TB, dsn string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(binDir(), "pg_dump"), append(args, "-d", dsn, "--exclude-schema=leeward")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("pg_dump: %v: %s", err, errs.String())
	}
	return out.String()
}

// sortedData is the rows of a dump, sorted: their order is no part of the data.
func sortedData(t testing.TB, dsn string) string {
	lines := strings.Split(dump(t, dsn, "--data-only", "--inserts"), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.HasPrefix(l, "INSERT") })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (e *ends) equal() {
	e.t.Helper()
	if a, b := sortedData(e.t, e.src), sortedData(e.t, e.dst); a != b {
		e.t.Fatalf("rows differ\nsource:\n%.3000s\ntarget:\n%.3000s", a, b)
	}
}

// tables are those of the source.
func (e *ends) tables() []*engine.Table {
	e.t.Helper()
	s, err := e.s.Schema(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	return s.Tables
}
