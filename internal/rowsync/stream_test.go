package rowsync

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// A column is added midway: the engine follows, or the table stops loudly, the others
// go on, and it is taken back in when the target was made to fit.
func TestDefinitionsChange(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems(), "CREATE TABLE others (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))")
		d.items(d.app, 0, 500, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "INSERT INTO others VALUES (1, 'before')", "UPDATE items SET n = 1 WHERE id = 1",
			"ALTER TABLE items ADD extra VARCHAR(20)", "UPDATE items SET extra = 'new' WHERE id < 5", "INSERT INTO others VALUES (2, 'after')")
		res := d.pass(r)
		if len(res.Stopped) == 0 {
			d.same() // it was followed
			return
		}
		for name, s := range res.Stopped {
			if !strings.HasSuffix(name, "items") || s.Remedy == "" {
				t.Errorf("stopped: %s: %+v", name, s)
			}
		}
		rows, err := d.far.Query(t.Context(), "SELECT COUNT(*) FROM others")
		d.must(err)
		if rows[0] != `"2"` {
			t.Errorf("the other table has %s rows, want 2: it should have gone on", rows[0])
		}
		d.at(d.far, "ALTER TABLE items ADD extra VARCHAR(20)")
		if res = d.pass(r); len(res.Stopped) > 0 {
			t.Errorf("after the remedy, still stopped: %v", res.Stopped)
		}
		d.same()
		d.at(d.app, "UPDATE items SET extra = 'again' WHERE id > 490", "INSERT INTO others VALUES (3, 'x')")
		d.pass(r)
		d.same()
	})
}

// The same with a single table: while it is stopped, nothing is followed.
func TestOnlyTableChanges(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 500, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "UPDATE items SET n = 1 WHERE id = 1", "ALTER TABLE items ADD extra VARCHAR(20)", "UPDATE items SET extra = 'new' WHERE id < 5")
		if res := d.pass(r); len(res.Stopped) > 0 {
			t.Errorf("still stopped: %v", res.Stopped)
		}
		d.same()
		d.at(d.app, "UPDATE items SET extra = 'more' WHERE id < 50")
		d.pass(r)
		d.same()
	})
}

// A table that is new at the source is made and seeded.
func TestNewTable(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 300, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "CREATE TABLE fresh (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))", "INSERT INTO fresh VALUES (1, 'a'), (2, 'b')", "UPDATE items SET n = 5 WHERE id = 3")
		d.pass(r)
		d.same()
		d.at(d.app, "INSERT INTO fresh VALUES (3, 'c')", "UPDATE fresh SET v = 'x' WHERE id = 1")
		if res := d.pass(r); res.Seeded {
			t.Error("the next pass compared again")
		}
		d.same()
	})
}

// While following without end, a new table is found as well.
func TestFollowFindsNewTable(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 300, "x")
		r := d.replicator()
		r.lookEvery = 500 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { _, err := r.Follow(ctx); ended <- err }()
		d.until(func() bool { return r.Progress().Step == StepFollow })
		d.at(d.app, "CREATE TABLE fresh (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))", "INSERT INTO fresh VALUES (1, 'a'), (2, 'b')")
		d.until(func() bool {
			rows, err := d.far.Query(t.Context(), "SELECT COUNT(*) FROM fresh")
			return err == nil && rows[0] == `"2"`
		})
		d.at(d.app, "INSERT INTO fresh VALUES (3, 'c')")
		d.until(func() bool {
			rows, err := d.far.Query(t.Context(), "SELECT COUNT(*) FROM fresh")
			return err == nil && rows[0] == `"3"`
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("following ended with %v", err)
		}
		d.same()
	})
}

// until waits for something, for half a minute at most.
func (d *database) until(f func() bool) {
	d.t.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.t.Fatal("it never came to that")
}

func TestTruncateAndKeyless(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems(), "CREATE TABLE nokey (a INT, b VARCHAR(20))")
		d.items(d.app, 0, 300, "x")
		d.at(d.app, "INSERT INTO nokey VALUES (1, 'a'), (1, 'a'), (NULL, 'b')")
		r := d.replicator()
		_, err := r.Pass(t.Context())
		var b *BlockedError
		if errors.As(err, &b) {
			// Refused by name, with what to do; that is a right answer as well.
			t.Logf("%v", err)
			if !strings.Contains(err.Error(), "nokey") {
				t.Errorf("the refusal does not name the table: %v", err)
			}
			d.at(d.app, "ALTER TABLE nokey REPLICA IDENTITY FULL")
			d.pass(r)
		} else {
			d.must(err)
		}
		d.same()
		d.at(d.app, "DELETE FROM nokey WHERE a = 1", "INSERT INTO nokey VALUES (1, 'a'), (7, 'c'), (7, 'c')")
		d.at(d.app, "UPDATE items SET n = 9", "TRUNCATE TABLE items")
		d.items(d.app, 100, 150, "again")
		d.pass(r)
		d.same()
	})
}

// A transaction too large for one is applied in parts, whose state says so, and a
// crash between them is made good.
func TestTransactionInParts(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 20000, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "UPDATE items SET name = CONCAT('changed, all in one transaction, ', id), n = -1")
		r.whole, r.part = 1<<10, 1<<20
		partial := 0
		stop := errors.New("crash")
		r.committed = func(s engine.State) error {
			if s.Phase == engine.Partial {
				if partial++; partial == 2 {
					return stop
				}
			}
			return nil
		}
		if _, err := r.Pass(t.Context()); !errors.Is(err, stop) {
			t.Fatalf("the pass ended with %v after %d parts", err, partial)
		}
		dst, err := r.target(t.Context())
		d.must(err)
		st, err := dst.State(t.Context(), r.cfg.Stream)
		d.must(err)
		if st.Phase != engine.Partial || st.Until == "" {
			t.Errorf("between the parts the state is %+v", st)
		}
		if _, err := r.Promote(t.Context(), false); err == nil {
			t.Error("a target between the parts was promoted")
		}
		r.committed = nil
		d.pass(r)
		d.same()
	})
}

// The source loses history: everything is compared anew, and nothing is skipped.
func TestExpired(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 1000, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "UPDATE items SET n = 1000 WHERE id < 50", "DELETE FROM items WHERE id = 500")
		if d.k.name == "postgres" {
			d.at(d.app, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
		} else {
			d.must(r.Close())
			r = d.replicator()
			// A log that somebody still reads is not purged.
			readers, err := d.app.Query(t.Context(), "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
			d.must(err)
			for _, id := range readers {
				d.at(d.app, "KILL "+strings.Trim(id, `"`))
			}
			d.at(d.app, "FLUSH BINARY LOGS", "FLUSH BINARY LOGS", "DO SLEEP(1)")
			rows, err := d.app.Query(t.Context(), "SHOW BINARY LOGS")
			d.must(err)
			last := strings.Split(rows[len(rows)-1], "|")[0]
			d.at(d.app, "PURGE BINARY LOGS TO '"+strings.Trim(last, `"`)+"'")
		}
		res := d.pass(r)
		d.same()
		if !res.Seeded {
			t.Error("history was lost, and nothing was compared")
		}
		if s := res.Tables[tableOf(res, "items")]; s.Sent > 2000 {
			t.Errorf("%d rows were sent in all: that was no comparison", s.Sent)
		}
	})
}

// A seed that was cut goes on where it was.
func TestSeedResumes(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.at(d.far, createItems())
		d.items(d.app, 0, 40000, "x")
		d.items(d.far, 0, 40000, "y") // every row differs
		r := d.replicator(func(c *Config) { c.Streams = 1 })
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for ctx.Err() == nil {
				if s := r.Progress().Tables; len(s) > 0 {
					for _, t := range s {
						if t.Sent > 12000 {
							cancel()
						}
					}
				}
				time.Sleep(time.Millisecond)
			}
		}()
		_, err := r.Pass(ctx)
		cancel()
		if err == nil {
			t.Skip("the seed was done before it could be cut")
		}
		was := r.Progress().Tables
		d.must(r.Close())
		d.at(d.app, "UPDATE items SET n = 5 WHERE id IN (1, 39999)")
		r = d.replicator()
		res := d.pass(r)
		d.same()
		sent := res.Tables[tableOf(res, "items")].Sent
		for _, s := range was {
			t.Logf("%d rows were sent before the cut, %d after", s.Sent, sent)
		}
		if sent > 34000 {
			t.Errorf("after the cut %d rows were sent: the table was begun again", sent)
		}
	})
}

func TestVerifyNamesWhatDiffers(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 3000, "x")
		r := d.replicator()
		if _, err := r.Verify(t.Context()); err == nil {
			t.Error("what was never seeded was verified")
		}
		d.pass(r)
		v, err := r.Verify(t.Context())
		d.must(err)
		if !v.Equal || v.Tables[tableOf(Result{Tables: r.Progress().Tables}, "items")] != 3000 {
			t.Errorf("equal ends: %+v", v)
		}
		d.at(d.far, "UPDATE items SET name = 'tampered', n = NULL WHERE id = 1234", "DELETE FROM items WHERE id = 2", "INSERT INTO items VALUES (9999, 'own', 'own', 0)")
		v, err = r.Verify(t.Context())
		d.must(err)
		got := map[string]bool{}
		for _, x := range v.Differences {
			got[strings.TrimPrefix(x.String(), "public.")] = true
		}
		for _, want := range []string{"items (1234): name, n", "items (2): at the source only", "items (9999): at the target only"} {
			if !got[want] {
				t.Errorf("%s is not among %v", want, v.Differences)
			}
		}
		if v.Equal || len(v.Differences) != 3 {
			t.Errorf("differences: %v", v.Differences)
		}
		t.Logf("findings: %+v", v.Findings)
		s, err := StatusOf(t.Context(), r.cfg, time.Now())
		d.must(err)
		if s.LastVerified.IsZero() || s.Phase != engine.Following || s.Position == "" || s.Landed == "" {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestAssess(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems(), "CREATE TABLE absent (id INT NOT NULL PRIMARY KEY)")
		d.at(d.far, createItems())
		d.items(d.app, 0, 4000, "x")
		d.items(d.far, 0, 4000, "x")
		d.at(d.far, "UPDATE items SET n = -5 WHERE id < 400")
		a, err := d.replicator().Assess(t.Context())
		d.must(err)
		t.Logf("%+v", a)
		if a.Capture == "" || len(a.Missing) == 0 || len(a.Tables) != 2 {
			t.Errorf("the assessment lacks something: %+v", a)
		}
		for _, e := range a.Tables {
			if e.Name.Name == "items" && (e.Share < 0.05 || e.Share > 0.2) {
				t.Errorf("a tenth differs, the estimate is %v", e.Share)
			}
			if e.Name.Name == "absent" && !e.Absent {
				t.Error("the missing table is not told")
			}
		}
	})
}
