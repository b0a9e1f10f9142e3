package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// TestLargeValues streams values of 100 MB through COPY in little memory.
func TestLargeValues(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	e := open2(t, "CREATE TABLE lob (id int PRIMARY KEY, t text, b bytea)")
	psql(t, e.src, "INSERT INTO lob SELECT 1, repeat(md5('x'), 3300000), NULL UNION ALL SELECT 2, NULL, decode(repeat('00ff10ee', 25000000), 'hex')")
	table := e.tables()[0]
	for _, empty := range []bool{true, false} {
		st, _ := e.d.State(t.Context(), "s")
		a, err := e.d.Begin(t.Context(), st, []*engine.Table{table})
		if err != nil {
			t.Fatal(err)
		}
		most := peak(t, func() {
			r, w := io.Pipe()
			go func() {
				_, err := e.s.Export(t.Context(), table, engine.Selection{}, w)
				_ = w.CloseWithError(err)
			}()
			if _, err := a.Import(t.Context(), table, engine.Selection{}, r, empty); err != nil {
				t.Error(err)
			}
		})
		if _, err := a.Commit(t.Context(), engine.State{Phase: engine.Seeding}); err != nil {
			t.Fatal(err)
		}
		if most > 24<<20 {
			t.Errorf("rows of 100 MB took %d MB", most>>20)
		}
		sums := "SELECT id, md5(t), md5(b) FROM lob ORDER BY 1"
		if a, b := psql(t, e.src, sums), psql(t, e.dst, sums); a != b {
			t.Errorf("%s is now %s", a, b)
		}
	}
}

// peak returns the greatest growth of the heap while do runs.
func peak(t *testing.T, do func()) uint64 {
	t.Helper()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	base, most := m.HeapAlloc, m.HeapAlloc
	done := make(chan struct{})
	go func() { do(); close(done) }()
	for {
		select {
		case <-done:
			return most - base
		case <-time.After(5 * time.Millisecond):
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
}

// TestRefusals says in words what keeps us out.
func TestRefusals(t *testing.T) {
	e := open2(t, people)
	hba := filepath.Join(servers.src.dir, "pg_hba.conf")
	old, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	psql(t, e.src, "DROP ROLE IF EXISTS locked; CREATE ROLE locked LOGIN PASSWORD 'right'; DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
	write := func(b []byte) {
		if err := os.WriteFile(hba, b, 0o600); err != nil {
			t.Fatal(err)
		}
		psql(t, e.src, "SELECT pg_reload_conf()")
		time.Sleep(200 * time.Millisecond)
	}
	defer write(old)
	write(append([]byte("host all locked 127.0.0.1/32 scram-sha-256\nhost all plain 127.0.0.1/32 reject\n"), old...))
	as := func(user, db string) string {
		return strings.Replace(strings.Replace(e.src, "postgres@", user+"@", 1), "/"+e.name, "/"+db, 1)
	}
	for _, c := range []struct {
		o    engine.Options
		want string
		temp bool
	}{
		{engine.Options{DSN: as("locked", e.name), Password: "wrong"}, "refuses the password", false},
		{engine.Options{DSN: as("plain", e.name)}, "pg_hba.conf", false},
		{engine.Options{DSN: as("postgres", "nowhere")}, "CREATE DATABASE", false},
		{engine.Options{DSN: "postgres://postgres@127.0.0.1:1/x"}, "connect to database x at 127.0.0.1:1", true},
		{engine.Options{DSN: "postgres://u:hunter2@[bad"}, "connection string", false},
	} {
		_, err := Driver{}.Source(t.Context(), c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || engine.Temporary(err) != c.temp {
			t.Errorf("%s: %v (temporary %v), want %q", c.o.DSN, err, engine.Temporary(err), c.want)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "wrong")) {
			t.Errorf("the error tells the password: %v", err)
		}
	}
	s, err := Driver{}.Source(t.Context(), engine.Options{DSN: as("locked", e.name), Password: "right"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	checkRemedies(t, s, []string{"ALTER ROLE \"locked\" REPLICATION", "GRANT SELECT ON \"public\".\"people\" TO \"locked\"", "GRANT CREATE ON DATABASE"}, e.tables())
}

func checkRemedies(t *testing.T, c engine.Catalog, want []string, tables []*engine.Table) {
	t.Helper()
	fs, err := c.Check(t.Context(), tables)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		found := false
		for _, f := range fs {
			found = found || f.Severity == engine.Blocker && strings.Contains(f.Remedy, w)
		}
		if !found {
			t.Errorf("no blocker says %s: %+v", w, fs)
		}
	}
}

func TestCheck(t *testing.T) {
	e := open2(t, people+`CREATE TABLE nokey (a int); CREATE UNLOGGED TABLE fleeting (a int PRIMARY KEY);
		CREATE MATERIALIZED VIEW m AS SELECT 1 AS one; SELECT lo_create(0);
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
		CREATE TRIGGER always BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE people ENABLE ALWAYS TRIGGER always`)
	tables := e.tables()
	checkRemedies(t, e.s, []string{"ALTER TABLE \"public\".\"nokey\" REPLICA IDENTITY FULL", "ALTER TABLE \"public\".\"fleeting\" SET LOGGED"}, tables)
	fs, err := e.s.Check(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, f := range fs {
		text += string(f.Severity) + " " + f.Object + ": " + f.Text + "\n"
	}
	for _, w := range []string{"max_slot_wal_keep_size", "large objects", "note public.m:", "public.fleeting: an unlogged"} {
		if !strings.Contains(text, w) {
			t.Errorf("no finding says %q:\n%s", w, text)
		}
	}
	fs, err = e.d.Check(t.Context(), tables)
	if err != nil || len(fs) == 0 || !strings.Contains(fs[0].Text, "always") {
		t.Errorf("target: %+v %v", fs, err)
	}
	if _, _, err := e.s.Prepare(t.Context(), "s", tables); err == nil || !strings.Contains(err.Error(), "SET LOGGED") && !strings.Contains(err.Error(), "REPLICA IDENTITY") {
		t.Errorf("a refused table was published: %v", err)
	}
}

// TestExpired loses history in each way there is.
func TestExpired(t *testing.T) {
	e := open2(t, people)
	tables := e.tables()
	pos, _, err := e.s.Prepare(t.Context(), "s", tables)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(after engine.Pos, why string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for p, err := range e.s.Changes(ctx, "s", tables, after) {
			var gone *engine.Expired
			if !errors.As(err, &gone) || !strings.Contains(gone.Cause, why) {
				t.Errorf("%+v, %v, want an expiry of %q", p, err, why)
			}
			return
		}
		t.Errorf("the stream ended, want an expiry of %q", why)
	}
	expect("FFFF/0", "restored")
	psql(t, e.src, "INSERT INTO people VALUES (1, 'a', 'b')")
	mark, err := e.s.Mark(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.s.Release(t.Context(), "s", mark); err != nil {
		t.Fatal(err)
	}
	expect(pos, "released")
	psql(t, e.src, "SELECT pg_drop_replication_slot('leeward_s')")
	expect(mark, "does not exist")
	if _, fresh, err := e.s.Prepare(t.Context(), "s", tables); err != nil || !fresh {
		t.Errorf("a lost slot is not made anew: %v %v", fresh, err)
	}
}

// TestServerGone kills what we talk to and wants a temporary error each time.
func TestServerGone(t *testing.T) {
	e := open2(t, people)
	tables := e.tables()
	pos, _, err := e.s.Prepare(t.Context(), "s", tables)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	kill := time.AfterFunc(time.Second, func() {
		_ = psqlErr(servers.src.dsn("postgres"), "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'leeward_s'")
	})
	defer kill.Stop()
	for _, err := range e.s.Changes(ctx, "s", tables, pos) {
		if err == nil {
			continue
		}
		if !engine.Temporary(err) {
			t.Errorf("a cut stream gave %v", err)
		}
	}
	if ctx.Err() != nil {
		t.Fatal("the stream was not cut")
	}
	a, err := e.d.Begin(t.Context(), engine.State{Stream: "s"}, tables)
	if err != nil {
		t.Fatal(err)
	}
	psql(t, servers.dst.dsn("postgres"), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+e.name+"'")
	err = a.Changes(t.Context(), []engine.Change{{Table: engine.Name{Schema: "public", Name: "people"}, New: engine.Row{[]byte("1"), nil, nil}}})
	if !engine.Temporary(err) {
		t.Errorf("a cut target gave %v", err)
	}
	_ = a.Rollback()
	st, err := e.d.State(t.Context(), "s")
	for n := 0; engine.Temporary(err) && n < 10; n++ { // idle connections were cut as well
		st, err = e.d.State(t.Context(), "s")
	}
	if err != nil || st.Phase != engine.Absent {
		t.Errorf("after the cut: %+v, %v", st, err)
	}
}

// TestSchemaChanges stops at definitions the target does not have, and passes over
// those of the past.
func TestSchemaChanges(t *testing.T) {
	e := open2(t, "CREATE TABLE a (id int PRIMARY KEY, v int); CREATE TABLE b (id int PRIMARY KEY, v int)")
	tables := e.tables()
	e.seed(tables, true)
	psql(t, e.src, "INSERT INTO a VALUES (1, 1); ALTER TABLE a ADD w text DEFAULT 'w', ALTER v TYPE bigint; INSERT INTO a VALUES (2, 2, 'x'), (3, 9999999999, NULL)")
	err := e.follow(tables)
	var changed *engine.SchemaChanged
	if !errors.As(err, &changed) || !strings.Contains(changed.Remedy, `ADD COLUMN "w" text`) || !strings.Contains(changed.Remedy, `"v" TYPE bigint`) {
		t.Fatalf("a new column and type gave %v", err)
	}
	if err := e.d.Execute(t.Context(), "ALTER TABLE a ADD w text DEFAULT 'w', ALTER v TYPE bigint"); err == nil {
		t.Fatal("an unqualified name was found: the search path is not pinned")
	}
	if err := e.d.Execute(t.Context(), "ALTER TABLE public.a ADD w text DEFAULT 'w', ALTER v TYPE bigint"); err != nil {
		t.Fatal(err)
	}
	// The stream begins again before the change, with tables as they are after it.
	if err := e.follow(e.tables()); err != nil {
		t.Fatal(err)
	}
	e.equal()
	psql(t, e.src, "INSERT INTO b VALUES (1, 1); ALTER TABLE b RENAME TO c; INSERT INTO c VALUES (2, 2)")
	if err = e.follow(tables); !errors.As(err, &changed) || changed.Tables[0].Name != "b" && changed.Tables[0].Name != "a" {
		t.Fatalf("a renamed table gave %v", err)
	}
}

// TestTruncateFirst empties a table and fills another with the first changes a target
// ever takes: reading the catalogue must not wait for the transaction itself.
func TestTruncateFirst(t *testing.T) {
	e := open2(t, "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 1)")
	tables := e.tables()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := e.d.Begin(ctx, engine.State{Stream: "s"}, tables)
	if err != nil {
		t.Fatal(err)
	}
	name := func(s string) engine.Name { return engine.Name{Schema: "public", Name: s} }
	if err := a.Changes(ctx, []engine.Change{{Table: name("a"), Truncate: true}, {Table: name("b"), New: engine.Row{[]byte("2"), nil}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.d.Schema(ctx); err != nil {
		t.Errorf("the catalogue cannot be read meanwhile: %v", err)
	}
	if err := a.Changes(ctx, []engine.Change{{Table: name("b"), Truncate: true}, {Table: name("a"), New: engine.Row{[]byte("3")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Commit(ctx, engine.State{Phase: engine.Following}); err != nil {
		t.Fatal(err)
	}
	if got := psql(t, e.dst, "SELECT id FROM a; SELECT id FROM b"); got != "3" {
		t.Errorf("the tables hold %q", got)
	}
}

func TestExportHeadIsChecked(t *testing.T) {
	for _, s := range []string{"", "x", "leeward-postgres/2 text\n", "leeward-postgres/1 other\n", strings.Repeat("y", 100)} {
		if form, err := readHead(bytes.NewReader([]byte(s))); err == nil {
			t.Errorf("%q is %q", s, form)
		}
	}
	r := bytes.NewReader([]byte(exportHead + "binary\nrest"))
	if form, err := readHead(r); err != nil || form != "binary" || r.Len() != 4 {
		t.Errorf("%q %v, %d bytes left", form, err, r.Len())
	}
}
