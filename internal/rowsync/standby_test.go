package rowsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// machine is how the test runs things where a server is, or is to be.
func (s *server) machine(db string) engine.PhysicalEnd {
	data := s.dir
	if s.k.name == "mariadb" {
		data = filepath.Join(s.dir, "data")
	}
	e := engine.PhysicalEnd{Options: engine.Options{DSN: s.k.dsn(s, db)}, Data: data}
	e.Run = func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
		cmd, err := s.as(exec.CommandContext(ctx, argv[0], argv[1:]...))
		if err != nil {
			return err
		}
		var errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &errs
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w: %s", argv[0], err, errs.String()[max(0, errs.Len()-500):])
		}
		return nil
	}
	e.Keep = func(_ context.Context, path string, content []byte) error {
		if content == nil {
			return os.Remove(path)
		}
		return os.WriteFile(path, content, 0o644)
	}
	e.MakeData = func(context.Context) error {
		if err := os.MkdirAll(data, 0o700); err != nil {
			return err
		}
		if err := os.Chmod(data, 0o700); err != nil {
			return err
		}
		chown := exec.Command("chown", s.k.user, data)
		if os.Getuid() != 0 {
			return nil
		}
		return chown.Run()
	}
	e.Start = func(context.Context) error { return s.start() }
	e.Stop = func(context.Context) error { s.stop(syscall.SIGTERM); return nil }
	return e
}

// physical is a pair of servers of their own, of which the second is not there yet.
func physical(t *testing.T, k *kind) (a, b *server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "lwstandby")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	if k.name == "postgres" { // pg_rewind needs these
		run, with := k.run, *k
		with.run = func(s *server) *exec.Cmd {
			cmd := run(s)
			cmd.Args = append(cmd.Args, "-c", "full_page_writes=on", "-c", "wal_log_hints=on", "-c", "wal_keep_size=64MB")
			return cmd
		}
		k = &with
	}
	if a, err = newServer(k, filepath.Join(dir, "a"), 21); err != nil {
		t.Fatal(err)
	}
	b = &server{k: k, dir: filepath.Join(dir, "b"), id: 22, port: freePort(t)}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range []*server{a, b} {
			if s.cmd != nil {
				s.stop(syscall.SIGTERM)
			}
		}
	})
	return a, b
}

func standbyOf(t *testing.T, from, to *server) *Standby {
	t.Helper()
	s, err := NewStandby(StandbyConfig{
		Name: "erp", Physical: from.k.driver.(engine.PhysicalDriver), Rows: from.k.driver, Spool: filepath.Join(t.TempDir(), "erp"),
		Options: engine.PhysicalOptions{Name: "leeward_erp", Source: from.machine("erp"), Target: to.machine("erp")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func do(t *testing.T, s *server, db string, qs ...string) {
	t.Helper()
	c, err := s.k.connect(t.Context(), s, db)
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

func ask(t *testing.T, s *server, q string) string {
	t.Helper()
	c, err := s.k.connect(t.Context(), s, "erp")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rows, err := c.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, "\n")
}

// A physical copy is switched, and brought back, by the same five steps as rows are;
// then the new primary dies.
func TestStandby(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			a, b := physical(t, k)
			do(t, a, map[string]string{"postgres": "postgres", "mariadb": "mysql"}[k.name], "CREATE DATABASE erp")
			do(t, a, "erp", createItems(), "CREATE TABLE loose (v VARCHAR(20))", "INSERT INTO loose VALUES ('x'), ('x'), (NULL)")
			for i := range 40 {
				do(t, a, "erp", fmt.Sprintf("INSERT INTO items VALUES (%d, 'x', 'e%d', 1)", i, i))
			}
			s := standbyOf(t, a, b)
			var notReady *NotReadyError
			if _, err := s.Promote(t.Context(), true); !errors.As(err, &notReady) {
				t.Errorf("a target with nothing was promoted: %v", err)
			}
			res, err := s.Pass(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("pass: %+v", res)
			verifies(t, s, a, b)
			stalled(t, s, a, b)
			switched(t, s, b)
			back, err := NewStandby(s.cfg.Reversed())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { back.Close() })
			e, err := back.Drain(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("reprotected: %q", e.Facts)
			verifyEqual(t, back)
			failedOver(t, back, a, b)
		})
	}
}

// verifies finds both ends equal, and a difference that neither should have.
func verifies(t *testing.T, s *Standby, a, b *server) {
	verifyEqual(t, s)
	st, err := StandbyStatusOf(t.Context(), s.cfg, time.Now())
	if err != nil || st.Phase != engine.Following || st.Pending != "" || st.LastVerified.IsZero() || time.Since(st.Heard) > time.Minute {
		t.Errorf("status %+v, %v", st, err)
	}
	if a.k.name != "mariadb" {
		return // a standby of PostgreSQL cannot be made to differ by SQL
	}
	do(t, b, "erp", "SET SESSION sql_log_bin = 0", "UPDATE items SET name = 'bad' WHERE id = 7")
	v, err := s.Verify(t.Context())
	if err != nil || v.Equal || len(v.Differences) != 1 || v.Differences[0].Key[0] != "7" || v.Differences[0].Table.Schema != "erp" {
		t.Errorf("with a row that differs: %+v, %v", v, err)
	}
	do(t, b, "erp", "SET SESSION sql_log_bin = 0", "UPDATE items SET name = 'x' WHERE id = 7")
}

func verifyEqual(t *testing.T, s *Standby) {
	t.Helper()
	v, err := s.Verify(t.Context())
	if k := s.cfg.Options.Source.DSN; strings.HasPrefix(k, "postgres") && !strings.Contains(fmt.Sprint(v.Findings), engine.PageChecksums) {
		t.Errorf("nothing is said of page checksums: %v", v.Findings)
	}
	if err != nil || !v.Equal || len(v.Tables) < 2 {
		t.Fatalf("verify: %+v, %v", v, err)
	}
}

// stalled has a standby stand still: that is told, with the cause, and has an end.
func stalled(t *testing.T, s *Standby, a, b *server) {
	halt, db := "SELECT pg_wal_replay_pause()", "erp"
	if a.k.name == "mariadb" {
		halt = "STOP SLAVE SQL_THREAD"
	}
	do(t, b, db, halt)
	do(t, a, db, "INSERT INTO items VALUES (99, 'stalled', 's', 1)")
	s.patience = time.Second
	_, err := s.catchUp(t.Context())
	if err == nil || !strings.Contains(err.Error(), "stand") && !strings.Contains(err.Error(), "stopped at") {
		t.Errorf("a standby that stands still: %v", err)
	}
	t.Log(err)
	s.patience = standbyPatience
	if _, err := s.Pass(t.Context()); err != nil {
		t.Errorf("it does not go on: %v", err)
	}
}

// switched moves to b as planned.
func switched(t *testing.T, s Switchable, b *server) {
	f, err := s.Fence(t.Context(), time.Second)
	if err != nil || len(f.Facts) == 0 {
		t.Fatalf("fence: %+v, %v", f, err)
	}
	if _, err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		p, err := s.Promote(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("promoted: %q", p.Facts)
	}
	do(t, b, "erp", "INSERT INTO items VALUES (100, 'new primary', 'n', 1)")
	var primary *PrimaryError
	if _, err := s.Drain(t.Context()); !errors.As(err, &primary) {
		t.Errorf("draining onto a primary gave %v", err)
	}
}

// failedOver kills b, the primary, and has a take over what it received.
func failedOver(t *testing.T, back *Standby, a, b *server) {
	do(t, b, "erp", "INSERT INTO items VALUES (101, 'just before', 'j', 1)")
	if _, err := back.Pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.stop(syscall.SIGKILL)
	loss, e, err := back.Failover(t.Context(), time.Now(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v\n%+v", loss, e)
	if loss.Since > time.Minute || loss.Position == "" {
		t.Errorf("the loss is %+v", loss)
	}
	if got := ask(t, a, "SELECT COUNT(*) FROM items WHERE id >= 100"); got != `"2"` {
		t.Errorf("the new primary has %s of 2 rows", got)
	}
	do(t, a, "erp", "INSERT INTO items VALUES (102, 'takes writes', 't', 1)")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
