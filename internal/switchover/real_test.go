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

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// realSite is a PostgreSQL of this machine's packages with data of its own.
type realSite struct {
	address, port string
	start         func() (stop func())
	stop          func()
}

func (s realSite) dsn(user string) string {
	return fmt.Sprintf("postgres://%s@%s/shop?sslmode=disable", user, net.JoinHostPort(s.address, s.port))
}

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

func needReal(t *testing.T) (bin string) {
	t.Helper()
	if testing.Short() {
		t.Skip("real servers take longer than -short allows")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: PostgreSQL runs as a user of its own")
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		t.Skip("no PostgreSQL here")
	}
	if _, err := exec.LookPath("knotd"); err != nil {
		t.Skip("no knotd here")
	}
	return found[len(found)-1]
}

func startPostgres(t *testing.T, bin, address, port string) realSite {
	t.Helper()
	dir, err := os.MkdirTemp("", "lw-pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tool(t, "chown", "postgres:", dir)
	data := filepath.Join(dir, "data")
	as := []string{"--reuid", "postgres", "--regid", "postgres", "--init-groups"}
	tool(t, "setpriv", append(as, bin+"/initdb", "-A", "trust", "-D", data, "--no-sync")...)
	start := func() func() {
		return daemon(t, "setpriv", append(as, bin+"/postgres", "-D", data, "-c", "listen_addresses="+address, "-c", "port="+port,
			"-c", "unix_socket_directories="+dir, "-c", "wal_level=logical", "-c", "fsync=off", "-c", "shared_buffers=16MB")...)
	}
	s := realSite{address: address, port: port, start: start}
	s.stop = start()
	psql := []string{"-qv", "ON_ERROR_STOP=1", "-h", address, "-p", port, "-U", "postgres"}
	for range 100 {
		if exec.Command("psql", append(psql, "-c", "SELECT 1", "postgres")...).Run() == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	tool(t, "psql", append(psql, "-c", "CREATE ROLE app LOGIN", "-c", "CREATE ROLE leeward LOGIN SUPERUSER", "-c", "CREATE DATABASE shop OWNER app", "postgres")...)
	return s
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

// realEstate is two PostgreSQL servers and a DNS server.
func realEstate(t *testing.T) (*config.Estate, map[Site]realSite) {
	t.Helper()
	bin, port := needReal(t), freePort(t)
	sites := map[Site]realSite{Source: startPostgres(t, bin, "127.0.0.2", port), Target: startPostgres(t, bin, "127.0.0.3", port)}
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
	return &config.Estate{Name: "real", Source: config.Source{Name: "miami"}, Target: config.Target{Name: "dallas"},
		Databases: []config.Database{{Name: "shop", Engine: "postgres", Mode: "logical", Capture: "auto",
			Source: config.Endpoint{DSN: sites[Source].dsn("leeward")}, Target: config.Endpoint{DSN: sites[Target].dsn("leeward")}}},
		Switchover: config.Switchover{Window: time.Hour, Grace: time.Second, Approval: time.Minute, Compare: true,
			Redirect: []config.Redirect{{Name: "db", DNS: d}}}}, sites
}

// workload writes one row after another to where the name leads, and keeps its own log
// of what was acknowledged.
type workload struct {
	e     *config.Estate
	port  string
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
		c, err := pgconn.Connect(ctx, realSite{address: as[0].String(), port: w.port}.dsn("app"))
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		for ctx.Err() == nil {
			n++
			if _, err := c.Exec(ctx, fmt.Sprintf("INSERT INTO orders VALUES (%d, now())", n)).ReadAll(); err != nil {
				break
			}
			w.mu.Lock()
			w.acked = append(w.acked, n)
			w.where[as[0].String()]++
			w.gap, last = max(w.gap, time.Since(last)), time.Now()
			w.mu.Unlock()
			time.Sleep(2 * time.Millisecond)
		}
		_ = c.Close(context.WithoutCancel(ctx))
	}
}

func (w *workload) count(at string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.where[at]
}

// missing are acknowledged rows that a site does not have.
func (w *workload) missing(t *testing.T, s realSite) (out []int) {
	t.Helper()
	w.mu.Lock()
	acked := slices.Clone(w.acked) // before the rows are read: the workload goes on
	w.mu.Unlock()
	c, err := pgconn.Connect(t.Context(), s.dsn("leeward"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	res, err := c.Exec(t.Context(), "SELECT id FROM orders").ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, r := range res[0].Rows {
		has[string(r[0])] = true
	}
	for _, n := range acked {
		if !has[fmt.Sprint(n)] {
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
	make := map[string]func(*config.Estate, *State, Seen, Params) (*runbook.Plan, error){Cutover: PlanCutover, Rollback: PlanRollback, Failover: PlanFailover}[kind]
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

// TestRealCutover moves a PostgreSQL database there and back under a workload whose
// client follows the name: nothing that was acknowledged is lost.
func TestRealCutover(t *testing.T) {
	e, sites := realEstate(t)
	dir := t.TempDir()
	w := NewWorld(e, dir, filepath.Join(dir, "switchover"))
	w.Asker = yes{}
	for _, s := range sites { // the target is a clone that has nothing yet
		tool(t, "psql", "-qv", "ON_ERROR_STOP=1", "-c", "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz)", s.dsn("app"))
	}
	load := &workload{e: e, port: sites[Source].port, where: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() { load.run(ctx) })
	defer func() { cancel(); wait.Wait() }()
	if err := w.with(t.Context(), "shop", Forward, func(db Database) error { _, err := db.Drain(t.Context()); return err }); err != nil {
		t.Fatal(err)
	}
	runs := filepath.Join(dir, "runs")
	arrive := func(at Site) {
		t.Helper()
		before := load.count(sites[at].address)
		for range 200 {
			if load.count(sites[at].address) > before+50 {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatalf("clients do not write at the %s", at)
	}
	arrive(Source)
	there := move(t, w, e, runs, Cutover)
	arrive(Target)
	if lost := load.missing(t, sites[Target]); len(lost) > 0 {
		t.Errorf("the cutover lost %v", lost)
	}
	tokens(t, w, 1)
	back := move(t, w, e, runs, Rollback)
	arrive(Source)
	if lost := load.missing(t, sites[Source]); len(lost) > 0 {
		t.Errorf("the rollback lost %v", lost)
	}
	tokens(t, w, 2)
	move(t, w, e, runs, Cutover)
	arrive(Target)
	cancel()
	wait.Wait()
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
}

// tokens insists that both databases keep the token.
func tokens(t *testing.T, w *World, want int64) {
	t.Helper()
	for _, at := range []Site{Source, Target} {
		if n, err := w.Tokens.Token(t.Context(), "shop", at); err != nil || n != want {
			t.Errorf("the token at the %s is %d, want %d: %v", at, n, want, err)
		}
	}
}

// TestRealFailover goes on without a source that died, knows it when it is back, and
// puts it in quarantine.
func TestRealFailover(t *testing.T) {
	e, sites := realEstate(t)
	dir := t.TempDir()
	w := NewWorld(e, dir, filepath.Join(dir, "switchover"))
	w.Asker = yes{}
	for _, s := range sites {
		tool(t, "psql", "-qv", "ON_ERROR_STOP=1", "-c", "CREATE TABLE orders (id bigint PRIMARY KEY, at timestamptz)", s.dsn("app"))
	}
	write := func(at Site, id int) error {
		return exec.Command("psql", "-qv", "ON_ERROR_STOP=1", "-c", fmt.Sprintf("INSERT INTO orders VALUES (%d, now())", id), sites[at].dsn("app")).Run()
	}
	if err := write(Source, 1); err != nil {
		t.Fatal(err)
	}
	if err := w.with(t.Context(), "shop", Forward, func(db Database) error { _, err := db.Drain(t.Context()); return err }); err != nil {
		t.Fatal(err)
	}
	if err := write(Source, 2); err != nil { // never leaves the source
		t.Fatal(err)
	}
	sites[Source].stop()
	rep := move(t, w, e, filepath.Join(dir, "runs"), Failover)
	if s := rep.Step("failover.shop"); !slices.ContainsFunc(s.Facts, func(f string) bool { return strings.Contains(f, "missing") }) {
		t.Errorf("the loss is not told: %v", s.Facts)
	}
	if err := write(Target, 3); err != nil {
		t.Errorf("the target cannot be written: %v", err)
	}
	roles := func(returned, fenced bool) {
		t.Helper()
		r, err := w.Roles(t.Context(), []string{"shop"})
		if err != nil || len(r) != 1 || !r[0].Lost || r[0].Primary != Target || r[0].Returned != returned || r[0].Fenced != fenced {
			t.Errorf("%+v, %v; want returned %v, fenced %v", r, err, returned, fenced)
		}
	}
	roles(false, false)
	sites[Source].start()
	for range 100 {
		if write(Source, 4) == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	roles(true, false)
	if _, err := w.Quarantine(t.Context(), "shop", time.Second); err != nil {
		t.Fatal(err)
	}
	if err := write(Source, 5); err == nil {
		t.Error("the source was written in quarantine")
	}
	roles(false, true)
	if err := write(Target, 6); err != nil {
		t.Errorf("the target cannot be written: %v", err)
	}
}

// A DNS server that refuses is named, with what to do.
func TestRealDNSRefusals(t *testing.T) {
	needReal(t)
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
	secret = base64.StdEncoding.EncodeToString([]byte("another"))
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
	if _, err := r.Lead(t.Context(), "db", Source); err == nil {
		t.Error("an unsigned update was taken")
	}
	if site, _, err := r.Leads(t.Context(), "db"); err != nil || site != Target {
		t.Errorf("after refusals it leads to %q, %v", site, err)
	}
}
