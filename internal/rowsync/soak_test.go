package rowsync

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// childEnv makes this test binary a replicator that another one may kill.
const childEnv = "LEEWARD_TEST_FOLLOW"

type childConfig struct {
	Kind, Name, Source, Target, Spool string
	Once                              bool
}

func child() int {
	var c childConfig
	if err := json.Unmarshal([]byte(os.Getenv(childEnv)), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	for _, k := range kinds() {
		if k.name != c.Kind {
			continue
		}
		r, err := New(Config{Name: c.Name, Driver: k.driver, Spool: c.Spool, Source: engine.Options{DSN: c.Source}, Target: engine.Options{DSN: c.Target}})
		if err == nil && c.Once {
			if _, err = r.Pass(context.Background()); err == nil {
				return 0
			}
		}
		if err == nil {
			_, err = r.Follow(context.Background())
		}
		fmt.Fprintln(os.Stderr, err)
	}
	return 1
}

// spawn starts a replicator as a process of its own.
func (d *database) spawn(out *os.File, once bool) *exec.Cmd {
	d.t.Helper()
	b, err := json.Marshal(childConfig{d.k.name, d.name, d.k.dsn(d.src, d.name), d.k.dsn(d.dst, d.name), d.spool, once})
	d.must(err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(b))
	cmd.Stdout, cmd.Stderr = out, out
	d.must(cmd.Start())
	return cmd
}

var soakTables = []string{
	"CREATE TABLE accounts (id INT NOT NULL PRIMARY KEY, balance INT NOT NULL)",
	"CREATE TABLE users (id INT NOT NULL PRIMARY KEY, email VARCHAR(40) NOT NULL UNIQUE, bio VARCHAR(8000))",
	"CREATE TABLE parents (id INT NOT NULL PRIMARY KEY, name VARCHAR(20))",
	"CREATE TABLE children (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, v INT, CONSTRAINT children_parent FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE)",
	"CREATE TABLE logs (a VARCHAR(10) NOT NULL, b INT NOT NULL, v VARCHAR(200), PRIMARY KEY (a, b))",
}

const soakTotal = 100 * 1000

// soakFill makes what the workload starts from.
func (d *database) soakFill() {
	var a, u, p []string
	for i := range 100 {
		a = append(a, fmt.Sprintf("(%d, 1000)", i))
		u = append(u, fmt.Sprintf("(%d, 'u%d', 'bio')", i, i))
		p = append(p, fmt.Sprintf("(%d, 'p%d')", i, i))
	}
	d.at(d.app, "INSERT INTO accounts VALUES "+strings.Join(a, ","), "INSERT INTO users VALUES "+strings.Join(u, ","), "INSERT INTO parents VALUES "+strings.Join(p, ","))
	var l []string
	for i := range 20000 {
		l = append(l, fmt.Sprintf("('%c', %d, '%s')", 'a'+i%5, i, strings.Repeat("log ", 20)))
		if len(l) == 1000 {
			d.at(d.app, "INSERT INTO logs VALUES "+strings.Join(l, ","))
			l = nil
		}
	}
}

// soakWork is one transaction of the workload.
func soakWork(r *rand.Rand, n int64) []string {
	id := func() int { return r.IntN(100) }
	switch k := r.IntN(100); {
	case k < 35:
		a, b, m := id(), id(), r.IntN(40)
		if a > b {
			a, b, m = b, a, -m
		}
		return []string{fmt.Sprintf("UPDATE accounts SET balance = balance - %d WHERE id = %d", m, a), fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", m, b)}
	case k < 45: // swap two unique values
		a, b := id(), id()
		if a == b {
			b = (a + 1) % 100
		}
		a, b = min(a, b), max(a, b)
		t := fmt.Sprintf("t%d", n)
		return []string{
			fmt.Sprintf("UPDATE users SET email = '%s' WHERE id = %d", t, a),
			fmt.Sprintf("UPDATE users SET email = 'u%d-%d' WHERE id = %d", a, n, b),
			fmt.Sprintf("UPDATE users SET email = 'u%d-%d' WHERE id = %d", b, n, a),
		}
	case k < 50:
		return []string{fmt.Sprintf("UPDATE users SET bio = '%s' WHERE id = %d", strings.Repeat(strconv.Itoa(r.IntN(1e6)), 800), id())}
	case k < 55: // a unique value passes from one row to another
		a := id()
		return []string{fmt.Sprintf("DELETE FROM users WHERE id = %d", a+1000), fmt.Sprintf("INSERT INTO users VALUES (%d, 'n%d', NULL)", a+1000, n), fmt.Sprintf("UPDATE users SET id = %d WHERE id = %d AND NOT EXISTS (SELECT 1 FROM accounts WHERE id = -1)", a+2000+int(n)*10, a+1000)}
	case k < 70:
		p := id()
		return []string{fmt.Sprintf("INSERT INTO children VALUES (%d, %d, %d)", n, p, r.IntN(9)), fmt.Sprintf("UPDATE children SET v = %d WHERE parent = %d", r.IntN(9), p)}
	case k < 76: // cascades
		p := id()
		return []string{fmt.Sprintf("DELETE FROM parents WHERE id = %d", p), fmt.Sprintf("INSERT INTO parents VALUES (%d, 'again %d')", p, n)}
	case k < 80:
		return []string{"SAVEPOINT a", fmt.Sprintf("DELETE FROM logs WHERE b < %d", r.IntN(20000)), "ROLLBACK TO SAVEPOINT a", fmt.Sprintf("INSERT INTO logs VALUES ('s', %d, 'kept')", n+100000)}
	case k < 82: // a large transaction
		return []string{fmt.Sprintf("UPDATE logs SET v = 'large %d' WHERE b %% 7 = %d", n, r.IntN(7))}
	case k < 90:
		return []string{fmt.Sprintf("DELETE FROM logs WHERE b = %d", r.IntN(20000))}
	}
	return []string{fmt.Sprintf("INSERT INTO logs VALUES ('x', %d, '%s')", n+200000, strings.Repeat("y", r.IntN(200)))}
}

// load is writers at the source that outlive its restarts.
type load struct {
	d    *database
	stop context.CancelFunc
	wg   sync.WaitGroup
	n    atomic.Int64
	done atomic.Int64
}

func (d *database) load(seed uint64, writers int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{d: d, stop: cancel}
	for i := range writers {
		l.wg.Go(func() { l.write(ctx, rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	return l
}

func (l *load) write(ctx context.Context, r *rand.Rand) {
	for ctx.Err() == nil {
		s, err := l.d.k.connect(ctx, l.d.src, l.d.name)
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		for ctx.Err() == nil {
			broken := false
			qs := append([]string{l.d.k.begin}, soakWork(r, l.n.Add(1))...)
			end := "COMMIT"
			if r.IntN(20) == 0 {
				end = "ROLLBACK"
			}
			for _, q := range qs {
				if err := s.Exec(context.Background(), q); err != nil {
					end = "ROLLBACK"
					broken = strings.Contains(err.Error(), "connection") || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "closed") || strings.Contains(err.Error(), "FATAL")
					break
				}
			}
			if broken || s.Exec(context.Background(), end) != nil {
				break
			}
			if end == "COMMIT" {
				l.done.Add(1)
			}
			time.Sleep(time.Duration(r.IntN(4)) * time.Millisecond)
		}
		s.Close()
	}
}

func (l *load) end() int64 {
	l.stop()
	l.wg.Wait()
	return l.done.Load()
}

// watch looks at the target again and again: once it is a state of the source, the
// total of all accounts must be right in whatever it shows.
func (d *database) watch(ctx context.Context, stream string) (looks int, err error) {
	var s session
	defer func() {
		if s != nil {
			s.Close()
		}
	}()
	for ctx.Err() == nil {
		if s == nil {
			if s, err = d.k.connect(ctx, d.dst, d.name); err != nil {
				s = nil
				time.Sleep(100 * time.Millisecond)
				continue
			}
		}
		rows, err := s.Query(ctx, "SELECT SUM(balance), COUNT(*) FROM accounts")
		if err != nil {
			s.Close()
			s = nil
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if want := fmt.Sprintf("%q|%q", strconv.Itoa(soakTotal), "100"); rows[0] != want {
			return looks, fmt.Errorf("the target shows %s, want %s", rows[0], want)
		}
		looks++
		time.Sleep(10 * time.Millisecond)
	}
	return looks, nil
}

// TestKills kills the replicator, the source or the target again and again, while
// writers write, and compares both ends in the end. LEEWARD_SOAK=1 kills 100 times.
func TestKills(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	kills := 10
	if os.Getenv("LEEWARD_SOAK") != "" {
		kills = 100
	}
	for _, k := range kinds() {
		t.Run(k.name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			if s := os.Getenv("LEEWARD_SEED"); s != "" {
				seed, _ = strconv.ParseUint(s, 10, 64)
			}
			t.Logf("LEEWARD_SEED=%d", seed)
			killing(t, newDatabase(t, k), seed, kills)
		})
	}
}

func killing(t *testing.T, d *database, seed uint64, kills int) {
	r := rand.New(rand.NewPCG(seed, 99))
	d.at(d.app, soakTables...)
	d.soakFill()
	l := d.load(seed, 3)
	out, err := os.Create(t.TempDir() + "/replicator.log")
	d.must(err)
	defer out.Close()
	defer func() {
		b, _ := os.ReadFile(out.Name())
		if t.Failed() {
			t.Logf("replicator: %s", b[max(0, len(b)-6000):])
		}
		if f := os.Getenv("LEEWARD_LOG"); f != "" {
			os.WriteFile(f, b, 0o644)
		}
	}()
	cmd := d.spawn(out, false)
	defer func() { cmd.Process.Kill() }() // the last one, however this ends
	died := make(chan struct{})
	wait := func(cmd *exec.Cmd, died chan struct{}) { cmd.Wait(); close(died) }
	go wait(cmd, died)
	var whatDied []string
	for i := range kills {
		// Some come while it starts or seeds, most while it follows.
		pause := time.Duration(100+r.IntN(600)) * time.Millisecond
		if r.IntN(3) > 0 {
			pause = time.Duration(2000+r.IntN(4000)) * time.Millisecond
		}
		select {
		case <-died:
			t.Fatalf("the replicator ended by itself before kill %d, after %v", i, whatDied)
		case <-time.After(pause):
		}
		who := []string{"replicator", "replicator", "source", "target"}[r.IntN(4)]
		whatDied = append(whatDied, who)
		switch who {
		case "replicator":
			cmd.Process.Kill()
			<-died
			cmd, died = d.spawn(out, false), make(chan struct{})
			go wait(cmd, died)
		case "source", "target":
			s := map[string]*server{"source": d.src, "target": d.dst}[who]
			s.stop(syscall.SIGKILL)
			time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
			d.must(s.restart())
		}
	}
	t.Logf("killed: %v", whatDied)
	time.Sleep(time.Second)
	done := l.end()
	cmd.Process.Kill()
	<-died
	d.app.Close()
	d.far.Close()
	d.app, d.far = d.connect(d.src, d.name), d.connect(d.dst, d.name)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	res, err := d.replicator().Pass(ctx)
	if err != nil {
		t.Fatalf("the last pass: %v", err)
	}
	t.Logf("%d transactions were committed; the last pass: seeded %v, %d commits", done, res.Seeded, res.Commits)
	d.same()
	if len(res.Stopped) > 0 {
		t.Errorf("tables were stopped: %v", res.Stopped)
	}
}

// TestFollowUnderLoad seeds and follows while writers write: every state that the
// target shows, once it follows, has the right total, and both ends are equal in the
// end.
func TestFollowUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	forEach(t, func(t *testing.T, d *database) {
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d", seed)
		d.at(d.app, soakTables...)
		d.soakFill()
		l := d.load(seed, 3)
		r := d.replicator()
		d.pass(r)
		ctx, cancel := context.WithCancel(t.Context())
		type seen struct {
			looks int
			err   error
		}
		watched, followed := make(chan seen, 1), make(chan error, 1)
		go func() { n, err := d.watch(ctx, ""); watched <- seen{n, err} }()
		go func() { _, err := r.Follow(ctx); followed <- err }()
		time.Sleep(6 * time.Second)
		done := l.end()
		cancel()
		if err := <-followed; err != nil {
			t.Fatalf("follow: %v", err)
		}
		w := <-watched
		if w.err != nil || w.looks < 20 {
			t.Fatalf("the target was looked at %d times: %v", w.looks, w.err)
		}
		res := d.pass(r)
		d.same()
		t.Logf("%d transactions, %d looks, lag %v", done, w.looks, res.Lag)
		v, err := r.Verify(t.Context())
		if err != nil || !v.Equal {
			t.Errorf("verification: %+v, %v", v, err)
		}
	})
}
