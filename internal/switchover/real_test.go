package switchover

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// daemon runs a server until the test ends, or stop is called.
func daemon(t *testing.T, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		if said, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s:\n%s", name, said[max(0, len(said)-3000):])
		}
		log.Close()
	})
	return stop
}

const tsigSecret = "bGVld2FyZCBsZWV3YXJkIGxlZXdhcmQgbGVld2FyZCE="

// startKnot serves zone lab. with db.lab. at an address, and takes signed updates.
func startKnot(t *testing.T, address string) (server string) {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	zone := fmt.Sprintf("lab. 60 SOA ns.lab. root.lab. 1 60 60 600 60\nlab. 60 NS ns.lab.\nns.lab. 60 A 127.0.0.1\ndb.lab. 1 A %s\n", address)
	conf := fmt.Sprintf(`server:
    rundir: %[1]s
    listen: 127.0.0.1@%[2]s
database:
    storage: %[1]s
key:
  - id: leeward
    algorithm: hmac-sha256
    secret: %[3]s
acl:
  - id: update
    key: leeward
    action: update
zone:
  - domain: lab.
    storage: %[1]s
    file: lab.zone
    acl: update
`, dir, port, tsigSecret)
	for name, text := range map[string]string{"lab.zone": zone, "knot.conf": conf} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	daemon(t, "knotd", "-c", filepath.Join(dir, "knot.conf"))
	return "127.0.0.1:" + port
}

// realEstate is two database servers and a DNS server.
func realEstate(t *testing.T, k *realKind) (*config.Estate, map[Site]*realSite) {
	t.Helper()
	sites, db := k.pair(t)
	at := func(s Site) []netip.Addr { return []netip.Addr{netip.MustParseAddr(sites[s].address)} }
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte(tsigSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := &config.DNS{Server: startKnot(t, sites[Source].address), Zone: "lab.", Record: "db.lab.", TTL: time.Second, Source: at(Source), Target: at(Target),
		Key: config.TSIG{Name: "leeward.", Algorithm: "hmac-sha256", Secret: config.Secret{File: key}}}
	for range 100 {
		if got, err := resolve(t.Context(), d); err == nil && len(got) == 1 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return &config.Estate{Name: "real", Source: config.Source{Name: "miami"}, Target: config.Target{Name: "dallas"}, Databases: []config.Database{db},
		Switchover: config.Switchover{Window: time.Hour, Grace: time.Second, Approval: time.Minute, Compare: true,
			Redirect: []config.Redirect{{Name: "db", DNS: d}}}}, sites
}

// workload writes one row after another to where the name leads, and keeps its own log
// of what was acknowledged.
type workload struct {
	e     *config.Estate
	sites map[Site]*realSite
	mu    sync.Mutex
	acked []int
	where map[string]int
	gap   time.Duration // the longest time between two acknowledgements
}

func (w *workload) run(ctx context.Context) {
	last, n := time.Now(), 0
	for ctx.Err() == nil {
		as, err := resolve(ctx, w.e.Switchover.Redirect[0].DNS)
		if err != nil || len(as) == 0 {
			continue
		}
		c, err := w.at(as[0].String()).connect(ctx, "app")
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for ctx.Err() == nil {
			n++
			if err := c.exec(ctx, fmt.Sprintf("INSERT INTO orders VALUES (%d, now())", n)); err != nil {
				break
			}
			w.mu.Lock()
			w.acked = append(w.acked, n)
			w.where[as[0].String()]++
			w.gap, last = max(w.gap, time.Since(last)), time.Now()
			w.mu.Unlock()
			time.Sleep(2 * time.Millisecond)
		}
		c.close()
	}
}

func (w *workload) at(address string) *realSite {
	for _, s := range w.sites {
		if s.address == address {
			return s
		}
	}
	return nil
}

func (w *workload) count(at string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.where[at]
}

// missing are acknowledged rows that a site does not have.
func (w *workload) missing(t *testing.T, s *realSite) (out []int) {
	t.Helper()
	w.mu.Lock()
	acked := slices.Clone(w.acked) // before the rows are read: the workload goes on
	w.mu.Unlock()
	has := s.ids(t)
	for _, n := range acked {
		if !has[n] {
			out = append(out, n)
		}
	}
	return out
}

type yes struct{}

func (yes) Ask(context.Context, runbook.Question) (runbook.Answer, error) {
	return runbook.Answer{Outcome: dr.Done, Actor: runbook.Actor{User: "ann", Host: "dallas"}, At: time.Now()}, nil
}

// move plans and runs one kind of runbook on the real estate.
func move(t *testing.T, w *World, e *config.Estate, runs, kind string) runbook.Report {
	t.Helper()
	st, err := w.State.Load()
	if err != nil {
		t.Fatal(err)
	}
	standing, err := w.Databases.Standing(t.Context(), "shop", Forward)
	if err != nil {
		t.Fatal(err)
	}
	seen, p := Seen{Databases: map[string]Standing{"shop": standing}}, Params{Members: []string{"shop"}, Now: time.Now()}
	make := map[string]func(*config.Estate, *State, Seen, Params) (*runbook.Plan, error){Cutover: PlanCutover, Rollback: PlanRollback, Failover: PlanFailover, Failback: PlanFailback}[kind]
	plan, err := make(e, st, seen, p)
	if err != nil {
		t.Fatal(err)
	}
	r, err := runbook.Begin(runs, plan, runbook.Options{Actions: Actions(w)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rep, err := r.Execute(t.Context())
	if err != nil || rep.Outcome != dr.Done {
		t.Fatalf("%s: %v: %s", kind, err, described(rep))
	}
	for _, s := range rep.Steps {
		t.Logf("%-22s %6.2fs  %s", s.ID, s.Took.Seconds(), strings.Join(s.Facts, "; "))
	}
	return rep
}

// underLoad starts a workload that writes until halt is called, which may be done again.
func underLoad(e *config.Estate, sites map[Site]*realSite) (load *workload, halt func()) {
	load = &workload{e: e, sites: sites, where: map[string]int{}}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { load.run(ctx) })
	return load, func() { cancel(); wait.Wait() }
}

// TestRealCutover moves a database there and back under a workload whose client follows
// the name: nothing that was acknowledged is lost.
func TestRealCutover(t *testing.T) {
	eachKind(t, func(t *testing.T, k *realKind) {
		e, sites := realEstate(t, k)
		dir := t.TempDir()
		w := NewWorld(e, dir, filepath.Join(dir, "switchover"))
		w.Asker = yes{}
		load, halt := underLoad(e, sites)
		defer halt()
		follow(t, w)
		runs := filepath.Join(dir, "runs")
		load.arrive(t, sites[Source])
		if k.physical && w.Tokens.SetToken(t.Context(), "shop", Target, 9) == nil {
			t.Error("a token was written at a standby")
		}
		there := move(t, w, e, runs, Cutover)
		load.arrive(t, sites[Target])
		if lost := load.missing(t, sites[Target]); len(lost) > 0 {
			t.Errorf("the cutover lost %v", lost)
		}
		tokens(t, w, 1)
		back := move(t, w, e, runs, Rollback)
		load.arrive(t, sites[Source])
		if lost := load.missing(t, sites[Source]); len(lost) > 0 {
			t.Errorf("the rollback lost %v", lost)
		}
		tokens(t, w, 2)
		move(t, w, e, runs, Cutover)
		load.arrive(t, sites[Target])
		halt()
		if lost := load.missing(t, sites[Target]); len(lost) > 0 {
			t.Errorf("the second cutover lost %v", lost)
		}
		t.Logf("%d rows acknowledged, %v; down %v there, %v back; the longest gap a client saw was %v", len(load.acked), load.where, there.Down, back.Down, load.gap)
		if there.Down <= 0 || there.Down > time.Minute {
			t.Errorf("applications stood still for %v", there.Down)
		}
		if where := slices.Sorted(maps.Keys(load.where)); len(where) != 2 {
			t.Errorf("the workload wrote at %v", where)
		}
	})
}

// follow makes the first pass.
func follow(t *testing.T, w *World) {
	t.Helper()
	err := w.with(t.Context(), "shop", Forward, func(db Database) error {
		e, err := db.Drain(t.Context())
		t.Logf("first pass: %s", strings.Join(e.Facts, "; "))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// arrive waits until clients write at a site.
func (w *workload) arrive(t *testing.T, at *realSite) {
	t.Helper()
	before := w.count(at.address)
	for range 200 {
		if w.count(at.address) > before+50 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("clients do not write at %s", at.address)
}

// tokens insists that both databases keep the token. It may be on its way to a standby.
func tokens(t *testing.T, w *World, want int64) {
	t.Helper()
	for _, at := range []Site{Source, Target} {
		var n int64
		var err error
		for range 50 {
			if n, err = w.Tokens.Token(t.Context(), "shop", at); err == nil && n == want {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil || n != want {
			t.Errorf("the token at the %s is %d, want %d: %v", at, n, want, err)
		}
	}
}

// TestRealFailover goes on without a source that died, knows it when it is back, puts
// it in quarantine, and comes home with what was written meanwhile.
func TestRealFailover(t *testing.T) {
	eachKind(t, func(t *testing.T, k *realKind) {
		e, sites := realEstate(t, k)
		dir := t.TempDir()
		w := NewWorld(e, dir, filepath.Join(dir, "switchover"))
		w.Asker = yes{}
		src, dst := sites[Source], sites[Target]
		src.mustInsert(t, 1)
		follow(t, w)
		src.mustInsert(t, 2) // of rows it never leaves the source
		if k.physical {
			follow(t, w)
		}
		src.kill(t)
		runs := filepath.Join(dir, "runs")
		rep := move(t, w, e, runs, Failover)
		if s := rep.Step("failover.shop"); !slices.ContainsFunc(s.Facts, func(f string) bool { return strings.Contains(f, "missing") }) {
			t.Errorf("the loss is not told: %v", s.Facts)
		}
		if got := dst.ids(t); got[2] != k.physical || !got[1] {
			t.Errorf("the target has %v", got)
		}
		dst.mustInsert(t, 3)
		roles := func(returned, fenced bool) {
			t.Helper()
			r, err := w.Roles(t.Context(), []string{"shop"})
			if err != nil || len(r) != 1 || !r[0].Lost || r[0].Primary != Target || r[0].Returned != returned || r[0].Fenced != fenced {
				t.Errorf("%+v, %v; want returned %v, fenced %v", r, err, returned, fenced)
			}
		}
		roles(false, false)
		src.start(t)
		src.mustInsert(t, 4) // an application that does not know
		roles(true, false)
		if _, err := w.Quarantine(t.Context(), "shop", time.Second); err != nil {
			t.Fatal(err)
		}
		if err := src.insert(t, 5); err == nil {
			t.Error("the source was written in quarantine")
		}
		roles(false, true)
		dst.mustInsert(t, 6)
		move(t, w, e, runs, Failback)
		kept := ""
		for _, f := range asideFiles(t, dir) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			kept += string(b)
		}
		if !strings.Contains(kept, `"id":"4"`) {
			t.Errorf("row 4 was not set aside: %s", kept)
		}
		if got := src.ids(t); !got[1] || got[2] != k.physical || !got[3] || got[4] || !got[6] {
			t.Errorf("at home there is %v", got)
		}
		src.mustInsert(t, 7)
		if err := dst.insert(t, 8); err == nil {
			t.Error("the target still takes writes")
		}
	})
}

// TestRealFailoverUnderLoad kills a server while clients write: of what they were told
// is there, only the last moment may be missing where the engine itself follows.
func TestRealFailoverUnderLoad(t *testing.T) {
	eachKind(t, func(t *testing.T, k *realKind) {
		if !k.physical {
			t.Skip("rows are followed by passes: what came since the last one is lost, and told")
		}
		e, sites := realEstate(t, k)
		dir := t.TempDir()
		w := NewWorld(e, dir, filepath.Join(dir, "switchover"))
		w.Asker = yes{}
		load, halt := underLoad(e, sites)
		defer halt()
		follow(t, w)
		load.arrive(t, sites[Source])
		sites[Source].kill(t)
		load.mu.Lock()
		before := slices.Clone(load.acked)
		load.mu.Unlock()
		move(t, w, e, filepath.Join(dir, "runs"), Failover)
		load.arrive(t, sites[Target])
		halt()
		lost := load.missing(t, sites[Target])
		t.Logf("%d of %d acknowledged rows are lost, %d were written since", len(lost), len(before), len(load.acked)-len(before))
		if !slices.Equal(lost, before[len(before)-len(lost):]) {
			t.Errorf("others than the last are lost: %v", lost)
		}
		if len(lost) > 200 {
			t.Errorf("%d rows are lost, of a standby that follows", len(lost))
		}
	})
}

// asideFiles are the files of rows that were set aside.
func asideFiles(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(dir, asideDir), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".jsonl") {
			out = append(out, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A DNS server that refuses is named, with what to do.
func TestRealDNSRefusals(t *testing.T) {
	needKnot(t)
	server := startKnot(t, "127.0.0.2")
	secret := tsigSecret
	d := &config.DNS{Server: server, Zone: "lab.", Record: "db.lab.", TTL: time.Second, Source: []netip.Addr{netip.MustParseAddr("127.0.0.2")},
		Target: []netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("::1")}, Key: config.TSIG{Name: "leeward.", Algorithm: "hmac-sha256", Secret: config.Secret{Env: "X"}}}
	r := &Redirects{Redirects: []config.Redirect{{Name: "db", DNS: d}}, Secret: func(context.Context, config.Secret) (string, error) { return secret, nil }}
	var err error
	for range 100 {
		if _, err = r.Lead(t.Context(), "db", Target); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if site, _, err := r.Leads(t.Context(), "db"); err != nil || site != Target {
		t.Errorf("it leads to %q, %v", site, err)
	}
	if facts, err := r.Ready(t.Context(), "db"); err != nil || len(facts) != 1 {
		t.Errorf("it is not ready: %v, %v", facts, err)
	}
	secret = base64.StdEncoding.EncodeToString([]byte("another"))
	if _, err := r.Ready(t.Context(), "db"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("it is ready with a wrong key: %v", err)
	}
	if _, err := r.Lead(t.Context(), "db", Source); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a wrong key: %v", err)
	} else {
		t.Log(err)
	}
	secret = "!harbour!"
	if _, err := r.Lead(t.Context(), "db", Source); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("a key that is none: %v", err)
	}
	d.Key = config.TSIG{}
	if _, err := r.Ready(t.Context(), "db"); err == nil {
		t.Error("it is ready without a key")
	}
	if _, err := r.Lead(t.Context(), "db", Source); err == nil {
		t.Error("an unsigned update was taken")
	}
	if site, _, err := r.Leads(t.Context(), "db"); err != nil || site != Target {
		t.Errorf("after refusals it leads to %q, %v", site, err)
	}
}
