package mariadb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// machine is how the test runs things where a server is.
func (s *instance) machine(t *testing.T, db string, id int) engine.PhysicalEnd {
	data := filepath.Join(s.dir, "data")
	return engine.PhysicalEnd{
		Options: engine.Options{DSN: fmt.Sprintf("boss@tcp(127.0.0.1:%d)/%s", s.port, db), Password: "it's"}, Data: data,
		Run: func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			var errs bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &errs
			if err := asMysql(cmd); err != nil {
				return err
			}
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%s: %w: %s", argv[0], err, errs.String()[max(0, errs.Len()-500):])
			}
			return nil
		},
		Keep: func(_ context.Context, path string, content []byte) error {
			if content == nil {
				return os.Remove(path)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return err
			}
			return asMysql(&exec.Cmd{}, path)
		},
		MakeData: func(context.Context) error {
			if err := os.MkdirAll(data, 0o755); err != nil {
				return err
			}
			return asMysql(&exec.Cmd{}, s.dir, data)
		},
		Start: func(context.Context) error { return s.start(id) },
		Stop:  func(context.Context) error { s.stop(); return nil },
	}
}

// statements runs SQL as root.
func statements(t *testing.T, s *instance, qs ...string) {
	t.Helper()
	c, err := s.connect(t.Context(), "", "root")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, q := range qs {
		if err := c.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func (p *standby) drained(ctx context.Context, t *testing.T) {
	t.Helper()
	mark, err := p.Mark(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for {
		ok, at, err := p.Reached(ctx, mark)
		if err != nil && !engine.Temporary(err) {
			t.Fatal(err)
		}
		if ok {
			t.Logf("drained at %s", at)
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("the replica is at %s of %s: %v", at, mark, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (p *standby) follows(ctx context.Context, t *testing.T) {
	t.Helper()
	did, err := p.Follow(ctx, func(string) {})
	if err != nil {
		t.Fatalf("follow: %v, after %q", err, did)
	}
	t.Logf("did %q", did)
}

// busy writes to a server until it is told to stop.
func busy(ctx context.Context, s *instance) (stop func() error) {
	quit, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := s.connect(ctx, "erp", "root")
		for err == nil {
			select {
			case <-quit:
				stopped <- c.Close()
				return
			default:
				err = c.Exec(ctx, "INSERT INTO t (v) VALUES (NOW(6))")
			}
		}
		stopped <- err
	}()
	return func() error { close(quit); return <-stopped }
}

// TestPhysical seeds a replica by mariadb-backup while the source is written, follows,
// promotes, and brings the old primary back.
func TestPhysical(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, tool := range []string{"mariadbd", "mariadb-backup", "mbstream"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("MariaDB's tools are not installed: %v", err)
		}
	}
	dir, err := os.MkdirTemp("", "lwphysical")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	a, err := startServer(filepath.Join(dir, "a"), 11)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { a.stop() }()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	asMysql(&exec.Cmd{}, a.dir)
	statements(t, a, "CREATE DATABASE erp", "CREATE TABLE erp.t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(100))",
		"CREATE USER boss@'127.0.0.1' IDENTIFIED BY 'it''s'", `GRANT SELECT, RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICATION SLAVE, REPLICATION SLAVE ADMIN,
		REPLICA MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* TO boss@'127.0.0.1'`, "USE erp", "INSERT INTO erp.t (v) SELECT MD5(seq) FROM seq_1_to_20000")
	b := &instance{dir: filepath.Join(dir, "b"), socket: filepath.Join(dir, "b", "s"), port: freePort(t)}
	p := &standby{engine.PhysicalOptions{Source: a.machine(t, "erp", 11), Target: b.machine(t, "erp", 12)}}
	fs, err := p.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != engine.Note {
			t.Errorf("check: %+v", f)
		}
	}
	stop := busy(ctx, a)
	p.follows(ctx, t)
	defer func() { b.stop() }()
	if _, err := os.Stat(p.o.Source.Data + ".leeward.cnf"); err == nil {
		t.Error("the account was left at the source")
	}
	b.stop() // it comes back, and follows by itself
	p.follows(ctx, t)
	purged(ctx, t, p, a, b)
	statements(t, b, "SET GLOBAL read_only = 0")
	if st, err := p.State(ctx); err != nil || !strings.Contains(st.Trouble, "read_only is OFF") {
		t.Errorf("a replica that takes writes is %+v, %v", st, err)
	}
	p.follows(ctx, t)
	if st, err := p.State(ctx); err != nil || st.Trouble != "" {
		t.Errorf("mended it is %+v, %v", st, err)
	}
	statements(t, b, "STOP SLAVE")
	p.follows(ctx, t)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Fence(ctx, true, time.Second); err != nil {
		t.Fatal(err)
	}
	p.drained(ctx, t)
	sameText(t, "the replica", dump(t, a, "erp"), dump(t, b, "erp"))
	for range 2 {
		if _, err := p.Promote(ctx); err != nil {
			t.Fatal(err)
		}
	}
	var lead *engine.LeaderError
	if _, err := p.Follow(ctx, func(string) {}); !errors.As(err, &lead) {
		t.Errorf("following onto a primary gave %v", err)
	}
	statements(t, b, "INSERT INTO erp.t (v) VALUES ('by the new primary')")
	comesBack(ctx, t, a, b)
}

// purged has the source throw away what a replica that is down lacks: it is seeded anew.
func purged(ctx context.Context, t *testing.T, p *standby, a, b *instance) {
	b.stop()
	c, err := a.connect(ctx, "", "root")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	statements(t, a, "CREATE TABLE erp.meanwhile (id INT PRIMARY KEY)", "FLUSH BINARY LOGS", "INSERT INTO erp.meanwhile VALUES (1)", "FLUSH BINARY LOGS")
	rows, err := c.Query(ctx, "SHOW MASTER STATUS")
	if err != nil {
		t.Fatal(err)
	}
	for left := 2; left > 1; { // one that is still being sent stays
		statements(t, a, "PURGE BINARY LOGS TO '"+string(rows[0][0])+"'")
		logs, err := c.Query(ctx, "SHOW BINARY LOGS")
		if err != nil {
			t.Fatal(err)
		}
		left = len(logs)
		time.Sleep(50 * time.Millisecond)
	}
	did, err := p.Follow(ctx, func(string) {})
	t.Logf("did %q", did)
	if err != nil || !strings.Contains(strings.Join(did, "; "), "has no longer") {
		t.Fatalf("a replica that lacks what is gone: %q, %v", did, err)
	}
}

// comesBack brings the old primary after the new one, twice: as it was left, and after
// it went its own way.
func comesBack(ctx context.Context, t *testing.T, a, b *instance) {
	back := &standby{engine.PhysicalOptions{Source: b.machine(t, "erp", 12), Target: a.machine(t, "erp", 11)}}
	back.follows(ctx, t)
	back.drained(ctx, t)
	sameText(t, "the old primary", dump(t, a, "erp"), dump(t, b, "erp"))
	st, err := back.State(ctx)
	if err != nil || !st.Following || st.Trouble != "" {
		t.Errorf("the old primary is %+v, %v", st, err)
	}
	// A source whose history is another is no reason to give up what the replica has.
	statements(t, a, "STOP SLAVE", "SET GLOBAL gtid_slave_pos = '0-12-99999999'", "START SLAVE")
	if _, err := back.Follow(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), "is not what the replica followed") {
		t.Errorf("a replica ahead of its source gave %v", err)
	}
	statements(t, a, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL gtid_strict_mode = 0", "INSERT INTO erp.t (v) VALUES ('by the old primary')")
	var d *engine.DivergedError
	if _, err := back.Follow(ctx, func(string) {}); !errors.As(err, &d) || !strings.Contains(err.Error(), "compare them by rows") {
		t.Errorf("an old primary with a transaction of its own rejoined: %v", err)
	}
	back.o.Discard = true
	back.follows(ctx, t)
	back.drained(ctx, t)
	sameText(t, "the old primary, seeded anew,", dump(t, a, "erp"), dump(t, b, "erp"))
}

func TestBackupPos(t *testing.T) {
	got, err := backupPos("binlog.000002\t1234\t0-1-77,2-1-3\n")
	if err != nil || got != engine.Pos("0-1-77,2-1-3") {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := backupPos("binlog.000002\t1234\n"); err == nil {
		t.Error("a line without GTID was taken")
	}
}
