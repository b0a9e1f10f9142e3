package postgres

import (
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

// machine is how the test runs things where a cluster is.
func machine(c *cluster, password string) engine.PhysicalEnd {
	return engine.PhysicalEnd{
		Options: engine.Options{DSN: c.dsn("postgres"), Password: password}, Data: c.dir, Tools: binDir(),
		Run: func(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
			cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
			like := asPostgres("true")
			cmd.SysProcAttr, cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout = like.SysProcAttr, "/", like.Env, stdin, stdout
			var errs strings.Builder
			cmd.Stderr = &errs
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("%w: %s", err, errs.String())
			}
			return nil
		},
		Keep: func(_ context.Context, path string, content []byte) error {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return err
			}
			return own2(path)
		},
		MakeData: func(context.Context) error {
			if err := os.MkdirAll(c.dir, 0o700); err != nil {
				return err
			}
			return own2(c.dir)
		},
	}
}

func own2(path string) error {
	cred, err := postgresUser()
	if err != nil || cred == nil {
		return err
	}
	return os.Chown(path, int(cred.Uid), int(cred.Gid))
}

func physicalPair(t *testing.T, from, to *cluster) *standby {
	t.Helper()
	p, err := Driver{}.Physical(engine.PhysicalOptions{Name: "leeward_pair", Source: machine(from, "hush:hush"), Target: machine(to, "hush:hush")})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*standby)
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
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the standby is at %s of %s", at, mark)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (p *standby) follows(ctx context.Context, t *testing.T) []string {
	t.Helper()
	did, err := p.Follow(ctx, func(string) {})
	if err != nil {
		t.Fatalf("follow: %v, after %q", err, did)
	}
	return did
}

// TestPhysical makes a standby, switches to it, writes at both, and takes the old
// primary back as a standby of the new.
func TestPhysical(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	needServers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	old, err := newCluster(filepath.Join(servers.dir, "old"), "full_page_writes = on", "wal_log_hints = on", "wal_keep_size = 64MB", "max_slot_wal_keep_size = 1GB")
	if err != nil {
		t.Fatal(err)
	}
	defer old.stop()
	fresh := &cluster{dir: filepath.Join(servers.dir, "fresh"), port: freePort()}
	p := physicalPair(t, old, fresh)
	defer func() { _ = p.stop(context.WithoutCancel(ctx)) }()
	fs, err := p.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != engine.Note {
			t.Errorf("check: %+v", f)
		}
	}
	if st, err := p.State(ctx); err != nil || st.Phase != engine.Nothing {
		t.Errorf("before the seed: %+v, %v", st, err)
	}
	psql(t, old.dsn("postgres"), "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE SEQUENCE s; INSERT INTO t SELECT g, 'seed' FROM generate_series(1, 1000) g; CREATE DATABASE other")
	t.Logf("did %q", p.follows(ctx, t))
	psql(t, old.dsn("postgres"), "INSERT INTO t SELECT g, 'streamed' FROM generate_series(1001, 2000) g; SELECT nextval('s'), lo_create(4711)")
	p.drained(ctx, t)
	if st, err := p.State(ctx); err != nil || st.Phase != engine.Replica || !st.Following || st.Newest.IsZero() || st.Heard.IsZero() {
		t.Errorf("state %+v, %v", st, err)
	}
	if n := psql(t, fresh.dsn("postgres"), "SELECT count(*) FROM t"); n != "2000" {
		t.Fatalf("the standby has %s rows", n)
	}
	heals(ctx, t, p, fresh)
	if facts, err := p.Fence(ctx, true, time.Second); err != nil || !strings.Contains(strings.Join(facts, "\n"), "other: ALTER DATABASE") {
		t.Fatalf("fence: %q, %v", facts, err)
	}
	if err := psqlErr(old.dsn("postgres"), "CREATE ROLE app LOGIN"); err == nil {
		t.Error("the fenced primary takes writes")
	}
	p.drained(ctx, t)
	for range 2 {
		evidence, err := p.Promote(ctx)
		if err != nil || !strings.Contains(strings.Join(evidence, "\n"), "timeline 2") {
			t.Fatalf("%q %v", evidence, err)
		}
		t.Logf("promoted: %q", evidence)
	}
	psql(t, fresh.dsn("postgres"), "INSERT INTO t VALUES (5000, 'it takes writes')")
	var lead *engine.LeaderError
	if _, err := p.Follow(ctx, func(string) {}); !errors.As(err, &lead) {
		t.Errorf("following onto a primary gave %v", err)
	}
	failBack(ctx, t, old, fresh)
}

// heals stops the standby, and points it nowhere: following again mends both.
func heals(ctx context.Context, t *testing.T, p *standby, fresh *cluster) {
	if err := p.stop(ctx); err != nil {
		t.Fatal(err)
	}
	if st, err := p.State(ctx); err != nil || st.Phase != engine.Down {
		t.Errorf("a stopped standby is %+v, %v", st, err)
	}
	t.Logf("did %q", p.follows(ctx, t))
	psql(t, fresh.dsn("postgres"), "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'")
	psql(t, fresh.dsn("postgres"), "SELECT pg_reload_conf(), pg_wal_replay_pause()")
	for range 50 {
		if st, _ := p.State(ctx); !st.Following {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	did := p.follows(ctx, t)
	t.Logf("did %q", did)
	if len(did) != 2 {
		t.Errorf("a standby that was paused and pointed elsewhere was mended by %q", did)
	}
}

// failBack has the histories part and brings the old primary after the new one.
func failBack(ctx context.Context, t *testing.T, old, fresh *cluster) {
	const readWrite = "SET default_transaction_read_only = off; "
	psql(t, old.dsn("postgres"), readWrite+"INSERT INTO t VALUES (9001, 'never left'); UPDATE t SET b = 'lost' WHERE a < 50")
	psql(t, fresh.dsn("postgres"), "INSERT INTO t VALUES (5001, 'new primary'); UPDATE t SET b = 'kept' WHERE a < 10")
	_ = old.cmd.Process.Kill() // it crashes
	_ = old.cmd.Wait()
	old.cmd = nil
	back := physicalPair(t, fresh, old)
	var d *engine.DivergedError
	if _, err := back.Follow(ctx, func(string) {}); !errors.As(err, &d) || !strings.HasPrefix(d.Lost, "50 changes") {
		t.Fatalf("an old primary with 50 changes of its own gave %v", err)
	}
	if psqlErr(old.dsn("postgres"), "SELECT 1") == nil {
		t.Fatal("the old primary was started as a primary")
	}
	back.o.Discard = true
	t.Logf("did %q", back.follows(ctx, t))
	defer func() { _ = back.stop(context.WithoutCancel(ctx)) }()
	psql(t, fresh.dsn("postgres"), "INSERT INTO t VALUES (5002, 'after the return')")
	back.drained(ctx, t)
	if a, b := sortedData(t, fresh.dsn("postgres")), sortedData(t, old.dsn("postgres")); a != b || !strings.Contains(a, "after the return") || strings.Contains(b, "never left") {
		t.Errorf("new primary\n%.500s\nold one\n%.500s", a, b)
	}
	if r := psql(t, old.dsn("postgres"), "SELECT pg_is_in_recovery()"); r != "t" {
		t.Error("the old primary is not a standby")
	}
	if s := psql(t, fresh.dsn("postgres"), "SELECT active FROM pg_replication_slots WHERE slot_name = '"+back.slot+"'"); s != "t" {
		t.Error("the old primary does not use its slot")
	}
}

func TestRecordEnd(t *testing.T) {
	const seg = 16 << 20
	for _, c := range [][2]lsn{{seg + 40, seg}, {seg + 8192 + 24, seg + 8192}, {seg + 8192 + 40, seg + 8192 + 40}, {seg + 24 + 8, seg + 32}} {
		if got := recordEnd(c[0], seg); got != c[1] {
			t.Errorf("%s: got %s, want %s", c[0], got, c[1])
		}
	}
}

func TestPairsOf(t *testing.T) {
	got := pairsOf(`host = 'a b' port=5432 password='it\'s' sslmode=require`)
	if got["host"] != "a b" || got["port"] != "5432" || got["password"] != "it's" || got["sslmode"] != "require" {
		t.Errorf("got %q", got)
	}
	if o := within(engine.Options{DSN: "postgres://u@h/x?sslmode=disable"}, "a b"); o.DSN != "postgres://u@h/a%20b?sslmode=disable" {
		t.Error(o.DSN)
	}
}

func FuzzPairsOf(f *testing.F) {
	f.Add("host=a port='5")
	f.Fuzz(func(t *testing.T, s string) { pairsOf(s) })
}

func FuzzChanges(f *testing.F) {
	f.Add([]byte("rmgr: Heap        len (rec/tot):     59/    59, tx:        735, lsn: 0/0151D6A0, prev 0/0151D670, desc: INSERT off 2 flags 0x08, blkref #0: rel 1663/5/16385 blk 0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := &counter{}
		if n, err := c.Write(b); n != len(b) || err != nil {
			t.Fatal(n, err)
		}
	})
}

// TestPhysicalGone has the primary throw away what a standby that is down lacks: it is
// seeded anew. Files of another origin are left alone.
func TestPhysicalGone(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	needServers(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	a, err := newCluster(filepath.Join(servers.dir, "keeps-little"), "max_slot_wal_keep_size = 16MB")
	if err != nil {
		t.Fatal(err)
	}
	defer a.stop()
	b := &cluster{dir: filepath.Join(servers.dir, "left-behind"), port: freePort()}
	p := physicalPair(t, a, b)
	defer func() { _ = p.stop(context.WithoutCancel(ctx)) }()
	psql(t, a.dsn("postgres"), "CREATE TABLE t (a int)")
	p.follows(ctx, t)
	if err := p.stop(ctx); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		psql(t, a.dsn("postgres"), "INSERT INTO t SELECT generate_series(1, 100000); SELECT pg_switch_wal(); CHECKPOINT")
	}
	if s := psql(t, a.dsn("postgres"), "SELECT wal_status FROM pg_replication_slots"); s != "lost" {
		t.Fatalf("the slot is %s", s)
	}
	did := p.follows(ctx, t)
	t.Logf("did %q", did)
	if len(did) < 3 || !strings.Contains(did[1], "no longer had") {
		t.Errorf("it did %q", did)
	}
	p.drained(ctx, t)
	if n := psql(t, b.dsn("postgres"), "SELECT count(*) FROM t"); n != "400000" {
		t.Errorf("the standby has %s rows", n)
	}
	if err := p.stop(ctx); err != nil {
		t.Fatal(err)
	}
	restored(ctx, t, p, a)
	// Neither files that are no cluster nor another cluster are touched.
	other := physicalPair(t, a, servers.dst)
	if _, err := other.Follow(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), "no copy of it") {
		t.Errorf("another cluster at the target gave %v", err)
	}
	psql(t, servers.dst.dsn("postgres"), "SELECT 1")
	dir := filepath.Join(servers.dir, "photos")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cat.png")
	if err := os.WriteFile(file, []byte("cat"), 0o644); err != nil {
		t.Fatal(err)
	}
	photos := physicalPair(t, a, &cluster{dir: dir, port: freePort()})
	if _, err := photos.Follow(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), "no cluster of PostgreSQL") {
		t.Errorf("other files at the target gave %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

// restored has the source go back to an earlier time, by its files: the standby is ahead
// of it then, and must be left alone.
func restored(ctx context.Context, t *testing.T, p *standby, a *cluster) {
	a.stop()
	earlier := a.dir + "-earlier"
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	run("cp", "-a", a.dir, earlier)
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	p.follows(ctx, t)
	psql(t, a.dsn("postgres"), "INSERT INTO t SELECT generate_series(1, 100000)")
	p.drained(ctx, t)
	a.stop()
	run("rm", "-rf", a.dir)
	run("mv", earlier, a.dir)
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Follow(ctx, func(string) {}); err == nil || !strings.Contains(err.Error(), "restored to an earlier time") {
		t.Errorf("a source that went back gave %v", err)
	}
}
