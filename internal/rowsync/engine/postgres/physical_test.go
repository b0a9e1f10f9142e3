package postgres

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func standby(t *testing.T, primary *cluster, at *cluster) *Physical {
	t.Helper()
	return &Physical{
		Primary: primary.dsn("postgres"), Slot: "leeward_standby", Bin: binDir(), Data: at.dir, Options: fmt.Sprintf("-p %d", at.port),
		Run: func(ctx context.Context, name string, args ...string) ([]byte, error) {
			return asPostgres(filepath.Base(name), args...).CombinedOutput()
		},
	}
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
	old, err := newCluster(filepath.Join(servers.dir, "old"), "full_page_writes = on", "wal_log_hints = on", "wal_keep_size = 64MB")
	if err != nil {
		t.Fatal(err)
	}
	fresh := &cluster{dir: filepath.Join(servers.dir, "fresh"), port: freePort()}
	p := standby(t, old, fresh)
	defer func() {
		_ = p.Stop(context.WithoutCancel(ctx))
		old.stop()
	}()
	fs, err := p.Check(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != engine.Note {
			t.Errorf("check: %+v", f)
		}
	}
	psql(t, old.dsn("postgres"), "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE SEQUENCE s; INSERT INTO t SELECT g, 'seed' FROM generate_series(1, 1000) g")
	if err := p.Seed(ctx); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(ctx); err != nil {
		t.Fatal(err)
	}
	psql(t, old.dsn("postgres"), "INSERT INTO t SELECT g, 'streamed' FROM generate_series(1001, 2000) g; SELECT nextval('s'), lo_create(4711)")
	if _, err := p.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	st, err := p.State(ctx)
	if err != nil || !st.Streaming || st.SlotStatus != "reserved" {
		t.Errorf("state %+v, %v", st, err)
	}
	if n := psql(t, fresh.dsn("postgres"), "SELECT count(*) FROM t"); n != "2000" {
		t.Fatalf("the standby has %s rows", n)
	}
	evidence, err := p.Promote(ctx, fresh.dsn("postgres"))
	if err != nil || len(evidence) != 2 || !strings.Contains(evidence[1], "timeline 2") {
		t.Fatalf("%q %v", evidence, err)
	}
	if _, err := p.Promote(ctx, fresh.dsn("postgres")); err != nil {
		t.Errorf("a second time: %v", err)
	}
	failBack(ctx, t, old, fresh)
}

// failBack has the histories part and brings the old primary after the new one.
func failBack(ctx context.Context, t *testing.T, old, fresh *cluster) {
	psql(t, old.dsn("postgres"), "INSERT INTO t VALUES (9001, 'never left'); UPDATE t SET b = 'lost' WHERE a < 50")
	psql(t, fresh.dsn("postgres"), "INSERT INTO t VALUES (5001, 'new primary'); UPDATE t SET b = 'kept' WHERE a < 10")
	old.stop()
	back := standby(t, fresh, old)
	if err := back.Rewind(ctx, old.dsn("postgres")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = back.Stop(context.WithoutCancel(ctx)) }()
	psql(t, fresh.dsn("postgres"), "INSERT INTO t VALUES (5002, 'after the return')")
	for {
		if _, err := back.Drain(ctx); err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal("the old primary does not follow the new one")
		}
		time.Sleep(200 * time.Millisecond)
	}
	if a, b := sortedData(t, fresh.dsn("postgres")), sortedData(t, old.dsn("postgres")); a != b || !strings.Contains(a, "after the return") || strings.Contains(b, "never left") {
		t.Errorf("new primary\n%.500s\nold one\n%.500s", a, b)
	}
	if r := psql(t, old.dsn("postgres"), "SELECT pg_is_in_recovery()"); r != "t" {
		t.Error("the old primary is not a standby")
	}
	if s := psql(t, fresh.dsn("postgres"), "SELECT active FROM pg_replication_slots WHERE slot_name = 'leeward_standby'"); s != "t" {
		t.Error("the old primary does not use its slot")
	}
}
