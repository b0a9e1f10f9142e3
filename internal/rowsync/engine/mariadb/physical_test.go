package mariadb

import (
	"bytes"
	"context"
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
	defer a.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	do := func(s *instance, qs ...string) {
		t.Helper()
		c, err := s.connect(ctx, "", "root")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, q := range qs {
			if err := c.Exec(ctx, q); err != nil {
				t.Fatalf("%s: %v", q, err)
			}
		}
	}
	do(a, "CREATE DATABASE erp", "CREATE TABLE erp.t (id INT PRIMARY KEY AUTO_INCREMENT, v VARCHAR(100))",
		"CREATE USER repl@'127.0.0.1' IDENTIFIED BY 'it''s'", "GRANT REPLICATION SLAVE ON *.* TO repl@'127.0.0.1'",
		"USE erp", "INSERT INTO erp.t (v) SELECT MD5(seq) FROM seq_1_to_20000")
	data := filepath.Join(dir, "b", "data")
	b := &instance{dir: filepath.Join(dir, "b"), socket: filepath.Join(dir, "b", "s"), port: freePort(t)}
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := asMysql(&exec.Cmd{}, b.dir, data); err != nil {
		t.Fatal(err)
	}
	run := func(ctx context.Context, stdin io.Reader, stdout io.Writer, name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &errs
		if err := asMysql(cmd); err != nil {
			return err
		}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, errs.String()[max(0, errs.Len()-500):])
		}
		return nil
	}
	defaults := filepath.Join(dir, "backup.cnf")
	text := fmt.Sprintf("[mariabackup]\nuser=root\nsocket=%s\ndatadir=%s\n", a.socket, filepath.Join(a.dir, "data"))
	if err := os.WriteFile(defaults, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := &Physical{
		Source: a.options("erp"), Target: b.options("erp"), AtSource: run, AtTarget: run, Defaults: defaults, Data: data,
		Host: "127.0.0.1", Port: a.port, User: "repl", Password: "it's",
	}
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := a.connect(ctx, "erp", "root")
		for err == nil {
			select {
			case <-stop:
				stopped <- c.Close()
				return
			default:
				err = c.Exec(ctx, "INSERT INTO t (v) VALUES (NOW(6))")
			}
		}
		stopped <- err
	}()
	pos, err := p.Seed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.start(12); err != nil {
		t.Fatal(err)
	}
	defer b.stop()
	if err := p.Follow(ctx, pos); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	src, err := Driver{}.Source(ctx, p.Source)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if _, err := src.Fence(ctx, true, time.Second); err != nil {
		t.Fatal(err)
	}
	at, err := p.Drain(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("seeded at %s, drained at %s", pos, at)
	sameText(t, "the replica", dump(t, a, "erp"), dump(t, b, "erp"))
	for range 2 {
		if _, err := p.Promote(ctx); err != nil {
			t.Fatal(err)
		}
	}
	do(b, "INSERT INTO erp.t (v) VALUES ('by the new primary')")
	back := &Physical{Source: b.options("erp"), Target: a.options("erp"), Host: "127.0.0.1", Port: b.port, User: "repl", Password: "it's"}
	if err := back.Rejoin(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := back.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	sameText(t, "the old primary", dump(t, a, "erp"), dump(t, b, "erp"))
	st, err := back.State(ctx)
	if err != nil || !st.Running || st.Error != "" {
		t.Errorf("the old primary is %+v, %v", st, err)
	}
	// One that went its own way is refused.
	do(a, "STOP SLAVE", "SET GLOBAL read_only = 0", "SET GLOBAL gtid_strict_mode = 0", "INSERT INTO erp.t (v) VALUES ('by the old primary')")
	if err := back.Rejoin(ctx); err == nil || !strings.Contains(err.Error(), "compare them by rows") {
		t.Errorf("an old primary with a transaction of its own rejoined: %v", err)
	}
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
