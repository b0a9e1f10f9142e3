package rowsync

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// reversed is the same database with the ends swapped, as it is after a switch.
func (d *database) reversed() *database {
	r := *d
	r.src, r.dst, r.app, r.far = d.dst, d.src, d.far, d.app
	r.spool = d.t.TempDir()
	return &r
}

func (d *database) numbered() string {
	return "CREATE TABLE numbered (id " + d.k.identity + " NOT NULL PRIMARY KEY, v VARCHAR(20))"
}

// A planned switch loses nothing, the new primary numbers on, and the reverse stream
// brings the old one up to date.
func TestSwitchAndBack(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems(), d.numbered())
		d.items(d.app, 0, 3000, "x")
		d.at(d.app, "INSERT INTO numbered (v) VALUES ('a'), ('b'), ('c')", "DELETE FROM numbered WHERE v = 'c'")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "UPDATE items SET n = 1 WHERE id < 500", "INSERT INTO numbered (v) VALUES ('d')")
		f, err := r.Fence(t.Context(), time.Second)
		if err != nil || len(f.Facts) == 0 {
			t.Fatalf("fence: %+v, %v", f, err)
		}
		t.Cleanup(func() { r.Unfence(t.Context()) })
		e, err := r.Drain(t.Context())
		d.must(err)
		t.Logf("drained: %+v", e)
		d.same()
		p, err := r.Promote(t.Context(), false)
		d.must(err)
		t.Logf("promoted: %+v", p)
		var primary *PrimaryError
		if _, err := r.Pass(t.Context()); !errors.As(err, &primary) {
			t.Errorf("a pass onto a primary gave %v", err)
		}
		d.at(d.far, "INSERT INTO numbered (v) VALUES ('new primary')", "UPDATE items SET n = 2 WHERE id < 100", "DELETE FROM items WHERE id = 2999")
		rows, err := d.far.Query(t.Context(), "SELECT MAX(id) FROM numbered")
		d.must(err)
		if rows[0] < `"5"` {
			t.Errorf("the new primary gave out %s, though the old one had reached 4", rows[0])
		}
		back := d.reversed()
		res := back.pass(back.replicator())
		back.same()
		var sent int64
		for _, s := range res.Tables {
			sent += s.Sent
		}
		if sent > 400 {
			t.Errorf("replicating back sent %d rows, though about 101 differ", sent)
		}
		d.at(d.far, "UPDATE items SET n = 3 WHERE id = 7")
		back.pass(back.replicator2(t))
		back.same()
	})
}

// replicator2 opens a second one over a spool that another of this test still holds.
func (d *database) replicator2(t *testing.T) *Replicator {
	d.spool = t.TempDir()
	return d.replicator()
}

// The source dies: what has landed is applied, and the loss is told.
func TestFailover(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 1000, "x")
		r := d.replicator()
		d.pass(r)
		d.at(d.app, "UPDATE items SET n = 77 WHERE id < 10")
		// The changes land, and are not applied.
		d.landOnly(r)
		d.must(r.Close())
		d.at(d.app, "UPDATE items SET n = 88 WHERE id < 10") // never leaves the source
		want, err := d.app.Query(t.Context(), "SELECT COUNT(*) FROM items")
		d.must(err)
		d.src.stop(syscall.SIGKILL)
		failed := time.Now()
		defer func() { d.must(d.src.restart()) }()
		r = d.replicator()
		if _, err := r.Promote(t.Context(), false); err == nil {
			t.Fatal("it was promoted without what has landed")
		}
		loss, e, err := r.Failover(t.Context(), failed, false)
		d.must(err)
		t.Logf("%v\n%+v", loss, e)
		if loss.Newest.IsZero() || loss.Since <= 0 || loss.Since > time.Hour || !strings.Contains(loss.String(), "missing") {
			t.Errorf("the loss is %+v", loss)
		}
		got, err := d.far.Query(t.Context(), "SELECT COUNT(*) FROM items WHERE n = 77")
		d.must(err)
		all, err := d.far.Query(t.Context(), "SELECT COUNT(*) FROM items")
		d.must(err)
		if got[0] != `"10"` || all[0] != want[0] {
			t.Errorf("of %s rows, %s have the landed change", all[0], got[0])
		}
	})
}

// landOnly lands what the source has and applies nothing.
func (d *database) landOnly(r *Replicator) {
	d.t.Helper()
	src, err := r.source(d.t.Context())
	d.must(err)
	mark, err := src.Mark(d.t.Context(), r.cfg.Stream)
	d.must(err)
	s, err := src.Schema(d.t.Context())
	d.must(err)
	n := &run{r: r, once: true}
	d.must(n.look(d.t.Context()))
	d.must(n.spool())
	ended := make(chan error, 1)
	ctx, cancel := contextWithCancel(d.t)
	go func() { ended <- r.land(ctx, r.sp, s.Tables) }()
	for range 500 {
		if l, _ := r.sp.newest(); l.Pos != "" {
			if behind, err := src.Before(l.Pos, mark); err == nil && !behind {
				break
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	<-ended
}

// What only the old primary has is told before it is removed.
func TestLostRows(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.at(d.far, createItems())
		d.items(d.app, 0, 1000, "x")
		d.items(d.far, 0, 1000, "x")
		d.at(d.far, "INSERT INTO items VALUES (5000, 'lost', 'lost@example', 1), (5001, 'lost', 'lost2@example', 1)")
		var lost []string
		d.pass(d.replicator(func(c *Config) {
			c.LostRows = func(t engine.Name, k engine.Row) { lost = append(lost, fmt.Sprint(t.Name, " ", string(k[0]))) }
		}))
		d.same()
		if len(lost) != 2 {
			t.Errorf("lost rows were told as %q", lost)
		}
	})
}

// What only the old primary has, or has otherwise, is kept before it is overwritten.
func TestSetAside(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.at(d.far, createItems(), "CREATE TABLE only_there (id INT NOT NULL PRIMARY KEY, v VARCHAR(20))")
		d.items(d.app, 0, 3000, "x")
		d.items(d.far, 0, 3000, "x")
		d.at(d.far, "INSERT INTO items VALUES (5000, 'kept\n\"', 'kept@example', NULL)", "UPDATE items SET n = 99 WHERE id = 2500",
			"DELETE FROM items WHERE id = 7", "INSERT INTO only_there VALUES (1, 'a'), (2, NULL)")
		before, beforeThere := d.dumps()
		dir := t.TempDir()
		r := d.replicator()
		kept, err := r.SetAside(t.Context(), dir)
		d.must(err)
		if after, there := d.dumps(); after != before || there != beforeThere {
			t.Error("an end was changed")
		}
		lines := map[string]KeptRow{}
		for _, k := range kept {
			if k.File == "" {
				continue
			}
			b, err := os.ReadFile(k.File)
			d.must(err)
			for line := range strings.Lines(string(b)) {
				var row KeptRow
				d.must(json.Unmarshal([]byte(line), &row))
				lines[fmt.Sprint(k.Table.Name, " ", row.Kept["id"])] = row
			}
		}
		new, changed := lines["items 5000"], lines["items 2500"]
		if len(lines) != 4 || new.Other != nil || new.Kept["n"] != nil || new.Kept["v"] != "kept\n\"" && new.Kept["name"] != "kept\n\"" ||
			changed.Kept["n"] != "99" || changed.Other["n"] == "99" || changed.Other == nil || lines["only_there 2"].Kept == nil {
			t.Errorf("kept %+v: %+v", kept, lines)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "*.part")); len(left) > 0 || err != nil {
			t.Errorf("left behind: %v, %v", left, err)
		}
		d.must(r.Close())
		d.pass(d.replicator2(t))
		again, err := d.replicator2(t).SetAside(t.Context(), t.TempDir())
		d.must(err)
		for _, k := range again {
			if k.Table.Name == "items" && k.File != "" {
				t.Errorf("of an equal table was kept: %+v", k)
			}
		}
	})
}
