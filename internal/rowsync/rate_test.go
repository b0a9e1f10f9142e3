package rowsync

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRate measures how fast small transactions are landed and applied. It says so,
// and fails only where that is absurdly slow.
func TestRate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	n := 5000
	if os.Getenv("LEEWARD_SOAK") != "" {
		n = 50000
	}
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 2000, "x")
		r := d.replicator()
		d.pass(r)
		for i := 0; i < n; i += 100 {
			var qs []string
			for k := range 100 {
				qs = append(qs, fmt.Sprintf("UPDATE items SET n = %d WHERE id = %d", i, (i*7+k)%2000))
			}
			if d.k.name == "postgres" {
				d.at(d.app, strings.Join(append([]string{"BEGIN"}, strings.Join(qs, "; COMMIT; BEGIN; "), "COMMIT"), ";"))
				continue
			}
			d.at(d.app, qs...)
		}
		begun := time.Now()
		res := d.pass(r)
		took := time.Since(begun)
		t.Logf("%d transactions in %v: %.0f a second", res.Commits, took, float64(n)/took.Seconds())
		d.same()
		if float64(n)/took.Seconds() < 200 {
			t.Errorf("%d small transactions took %v", n, took)
		}
	})
}

// TestSeedMemory fills an empty target and repairs a stale one, large enough to show
// whether memory grows with it, in a process of its own. LEEWARD_SOAK=1: 3 M rows.
func TestSeedMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	hundred := 2 // thousand rows
	if os.Getenv("LEEWARD_SOAK") != "" {
		hundred = 30
	}
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, "CREATE TABLE digits (n INT NOT NULL PRIMARY KEY)", "CREATE TABLE big (id INT NOT NULL PRIMARY KEY, a VARCHAR(60), b VARCHAR(120), n INT)")
		d.at(d.app, "INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)")
		for k := range hundred {
			d.at(d.app, fmt.Sprintf("INSERT INTO big SELECT %d + a.n + 10*b.n + 100*c.n + 1000*d.n + 10000*e.n, CONCAT('some text that is of row ', a.n, b.n, c.n), "+
				"CONCAT('and more text, so that a row is about as wide as one of an order: ', d.n, c.n, e.n, b.n, a.n, e.n*d.n), a.n*b.n "+
				"FROM digits a CROSS JOIN digits b CROSS JOIN digits c CROSS JOIN digits d CROSS JOIN digits e", k*100000))
		}
		if d.k.name == "postgres" {
			d.at(d.app, "ANALYZE")
		}
		run := func(what string) {
			begun := time.Now()
			cmd := d.spawn(os.Stderr, true)
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			took, rss := time.Since(begun), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss>>10
			t.Logf("%s of %d rows: %v, %.0f rows a second, %d MB at most, %v of our CPU", what, hundred*100000, took.Round(time.Millisecond),
				float64(hundred)*1e5/took.Seconds(), rss, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
			if rss >= 300 {
				t.Errorf("%s took %d MB of memory, want less than 300", what, rss)
			}
		}
		run("filling")
		d.equalBig()
		d.at(d.far, "UPDATE big SET n = -1 WHERE id % 1000 = 5", "DELETE FROM big WHERE id < 10000", "INSERT INTO big VALUES (-7, 'own', 'own', 1)")
		d.must(os.RemoveAll(d.spool))
		d.must(d.forget())
		run("repairing")
		d.equalBig()
	})
}

// forget makes the next pass compare everything.
func (d *database) forget() error {
	dst, err := d.k.driver.Target(d.t.Context(), d.config().Target)
	if err != nil {
		return err
	}
	defer dst.Close()
	return dst.Forget(d.t.Context(), streamName(d.name))
}

// equalBig compares what the engines themselves add up.
func (d *database) equalBig() {
	d.t.Helper()
	q := "SELECT COUNT(*), SUM(id), SUM(n), SUM(LENGTH(a)), SUM(LENGTH(b)), MIN(a), MAX(b) FROM big"
	a, err := d.app.Query(d.t.Context(), q)
	d.must(err)
	b, err := d.far.Query(d.t.Context(), q)
	d.must(err)
	if a[0] != b[0] {
		d.t.Errorf("the source has %s, the target %s", a[0], b[0])
	}
}
