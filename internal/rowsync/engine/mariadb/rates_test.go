package mariadb

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// TestRates prints how fast the driver is, where LEEWARD_RATES is set: figures mean
// little beside other work.
func TestRates(t *testing.T) {
	if os.Getenv("LEEWARD_RATES") == "" {
		t.Skip("LEEWARD_RATES is not set")
	}
	src, dst := both(t)
	ctx := t.Context()
	sc, err := scratch(ctx, src, dst)
	if err != nil {
		t.Fatal(err)
	}
	defer sc.Close()
	e := openEnds(t, sc)
	const rows = 300_000
	ddl := `CREATE TABLE big (id BIGINT PRIMARY KEY AUTO_INCREMENT, cust INT NOT NULL, ref VARCHAR(40) NOT NULL, status VARCHAR(12) NOT NULL,
		amount DECIMAL(12,2) NOT NULL, note VARCHAR(200), created DATETIME(6) NOT NULL, updated DATETIME(6)) CHARACTER SET utf8mb4`
	e.both(t, ddl)
	e.at(t, fmt.Sprintf(`INSERT INTO big (cust, ref, status, amount, note, created, updated) SELECT seq*7%%100000, MD5(seq), ELT(seq%%4+1,'new','paid','sent','done'),
		seq%%10000/7, CONCAT('note for order ', MD5(seq*3), ' ', MD5(seq*5)), '2026-01-01' + INTERVAL seq SECOND, '2026-02-01' + INTERVAL seq SECOND FROM seq_1_to_%d`, rows))
	tab := e.table(t, "big")
	snap, err := e.src.Snapshot(ctx, "s", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	rate := func(what string, n int, f func()) {
		begun, was := time.Now(), cpu(src, dst)
		f()
		d, is := time.Since(begun), cpu(src, dst)
		t.Logf("%s: %d in %.2f s = %.0f/s; CPU seconds: source %.2f, target %.2f, here %.2f", what, n, d.Seconds(), float64(n)/d.Seconds(),
			is[0]-was[0], is[1]-was[1], is[2]-was[2])
	}
	rate("seed over 2 connections, rows", rows, func() { e.seedParallel(t, snap, tab, 2) })
	if _, err := exec.LookPath("mydumper"); err == nil {
		dir := t.TempDir()
		rate("mydumper and myloader, 2 threads, rows", rows, func() {
			for _, c := range []*exec.Cmd{
				exec.Command("mydumper", "-u", "root", "-S", src.socket, "-B", e.src.db, "-T", "big", "-o", dir, "-t", "2", "-r", "100000"),
				exec.Command("myloader", "-u", "root", "-S", dst.socket, "-B", "lw_peer", "-d", dir, "-o", "-t", "2"),
			} {
				if out, err := c.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
	rate("digest at the source, buckets of 256, rows", rows, func() { e.digestAll(t, e.src, tab) })
	if a, b := e.digestAll(t, e.src, tab), e.digestAll(t, e.dst, tab); a != b {
		t.Errorf("digests differ: %s and %s", a, b)
	}
	e.applyRate(t, tab, rate)
}

// cpu returns the seconds of processor time that the servers and this process, with
// the programs it ran, have used.
func cpu(servers ...*instance) [3]float64 {
	var out [3]float64
	for i, s := range servers {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
		for _, v := range f[12:14] { // utime and stime, in hundredths
			n, _ := strconv.ParseFloat(v, 64)
			out[i] += n / 100
		}
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			out[2] += time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
		}
	}
	return out
}

// seedParallel copies a table in ranges by several workers, as the core does.
func (e *ends) seedParallel(t *testing.T, from engine.Reader, tab *engine.Table, workers int) {
	t.Helper()
	ctx := t.Context()
	jobs := make(chan engine.Range, 1000)
	go func() {
		defer close(jobs)
		var at engine.Row
		for {
			bounds, end, err := from.Bounds(ctx, tab, at, 100_000, 1)
			if err != nil {
				t.Error(err)
				return
			}
			for _, b := range bounds {
				jobs <- engine.Range{From: at, To: b}
				at = b
			}
			if end {
				jobs <- engine.Range{From: at}
				return
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			st := engine.State{Stream: fmt.Sprintf("w%d", i)}
			for r := range jobs {
				var err error
				if st, err = e.importRange(ctx, from, tab, st, engine.Selection{Range: r}, true); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// digestAll adds a table's digests up.
func (e *ends) digestAll(t *testing.T, r engine.Reader, tab *engine.Table) string {
	t.Helper()
	out, at := "", engine.Row(nil)
	n := int64(0)
	for {
		bounds, end, err := r.Bounds(t.Context(), tab, at, 256, 256)
		if err != nil {
			t.Fatal(err)
		}
		ds, err := r.Digests(t.Context(), tab, at, bounds, end)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			out = fmt.Sprintf("%x", hashOf(out+d.Hash))
			n += d.Rows
		}
		if end {
			return fmt.Sprint(n, out)
		}
		at = bounds[len(bounds)-1]
	}
}

// applyRate follows many small transactions made before.
func (e *ends) applyRate(t *testing.T, tab *engine.Table, rate func(string, int, func())) {
	t.Helper()
	ctx := t.Context()
	const txs = 20_000
	from, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	e.at(t, `CREATE PROCEDURE work (n INT) BEGIN DECLARE i, k INT DEFAULT 0; WHILE i < n DO SET k = 1 + FLOOR(RAND() * 250000); START TRANSACTION;
		UPDATE big SET amount = amount + 1, updated = NOW(6) WHERE id = k;
		INSERT INTO big (cust, ref, status, amount, note, created) VALUES (i, MD5(i), 'new', 1, 'n', NOW(6)); COMMIT; SET i = i + 1; END WHILE; END`)
	rate("transactions at the source, one session", txs, func() { e.at(t, fmt.Sprintf("CALL work(%d)", txs)) })
	until, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	st := engine.State{Stream: "s"}
	rate("decode and apply, transactions of 2 rows in batches of 1000", txs, func() {
		st = e.followBatched(ctx, t, st, []*engine.Table{tab}, from, until, 1000)
	})
	if a, b := e.digestAll(t, e.src, tab), e.digestAll(t, e.dst, tab); a != b {
		t.Errorf("digests differ: %s and %s", a, b)
	}
}

// followBatched applies changes up to a position, many transactions in one.
func (e *ends) followBatched(ctx context.Context, t *testing.T, st engine.State, tabs []*engine.Table, from, until engine.Pos, batch int) engine.State {
	t.Helper()
	var cs []engine.Change
	n := 0
	flush := func(pos engine.Pos) {
		a, err := e.dst.Begin(ctx, st, tabs)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Changes(ctx, cs); err != nil {
			t.Fatal(err)
		}
		if st, err = a.Commit(ctx, engine.State{Stream: "s", Pos: pos, Phase: engine.Following}); err != nil {
			t.Fatal(err)
		}
		cs, n = nil, 0
	}
	for p, err := range e.src.Changes(ctx, "s", tabs, from) {
		if err != nil {
			t.Fatal(err)
		}
		cs = append(cs, p.Changes...)
		end := p.End
		if end == nil {
			end = p.Heartbeat
		}
		if end == nil {
			continue
		}
		n++
		behind, err := e.src.Before(end.Pos, until)
		if err != nil {
			t.Fatal(err)
		}
		if n >= batch || !behind {
			flush(end.Pos)
		}
		if !behind {
			return st
		}
	}
	return st
}
