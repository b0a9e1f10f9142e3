package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/lab"
)

// found is what discover tells.
type found struct {
	Inventory string
	Against   string
	Written   bool
	Diff      string
	Graph     *discover.Graph
	Warnings  []string
	Changes   []discover.Change
}

func (r ran) found(t *testing.T) found {
	t.Helper()
	var f found
	if err := json.Unmarshal(r.Result, &f); err != nil || f.Graph == nil {
		t.Fatalf("read the result: %v\n%s", err, r)
	}
	return f
}

// raised returns the shared world, whatever was replicated in it, or skips.
func raised(t *testing.T) *world {
	t.Helper()
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	return &shared
}

// TestDiscover holds what is found against the lab's own description, and against what is
// planted: a certificate, a timer, a job, traffic, and an address in a file.
func TestDiscover(t *testing.T) {
	w := raised(t)
	until := time.Now().Add(20 * 24 * time.Hour).UTC().Truncate(time.Second)
	w.plant(t, until)
	file := filepath.Join(t.TempDir(), "leeward.yaml")
	store := w.newStore(t)
	w.mark(t)

	begin := time.Now()
	f := w.must(t, file, append([]string{"init", "--estate", "e2e", "--store", store, "--ssh-config", w.lab.SSHConfig(), "--watch", "12s"}, servers...)...).found(t)
	took := time.Since(begin)
	t.Logf("%d servers looked at in %v, of which they were watched for 12 s", len(servers), took.Round(100*time.Millisecond))
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
	e, err := discover.Load(f.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range e.Entries {
		if x.Server == nil {
			t.Errorf("%s: %s", x.Name, x.Err)
			continue
		}
		asDescribed(t, x.Name, x.Server)
	}
	w.unmarked(t)
	w.asPlanted(t, e, f, until)
	c, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Server("web1"); s == nil || len(s.After) != 1 || s.After[0] != "db1" {
		t.Errorf("web1, which calls db1, is proposed as %+v", s)
	}
	w.write(t, file, strings.Replace(w.read(t, file), "  hypervisor:", "  network: {map: {10.10.0.0/24: 10.20.0.0/24}}\n  hypervisor:", 1))
	w.must(t, file, "plan").says(t, 0, "/etc/shop.conf:1", "/etc/cron.d/offsite:1", "ends on "+until.Format("2006-01-02"))
	w.drifts(t, file)
}

// asDescribed compares one server with the lab's description of it.
func asDescribed(t *testing.T, name string, s *inventory.Server) {
	t.Helper()
	want := lab.Describe()[name]
	for _, u := range want.Units {
		if !slices.ContainsFunc(s.Units, func(x inventory.Unit) bool { return x.Name == u+".service" && x.Enabled }) {
			t.Errorf("%s: the unit %s is not found among %+v", name, u, s.Units)
		}
	}
	for process, port := range want.Ports {
		if !slices.ContainsFunc(s.Listening, func(x inventory.Listener) bool {
			return x.Process == process && x.Port == port && x.Package != "" && !x.Loopback()
		}) {
			t.Errorf("%s: %s at port %d is not found among %+v", name, process, port, s.Listening)
		}
	}
	for _, l := range s.Listening {
		if known := want.Ports[l.Process] == l.Port || l.Port == 443; !known && !l.Loopback() && l.Protocol == "tcp" {
			t.Errorf("%s: %s listens at port %d: nobody described that", name, l.Process, l.Port)
		}
	}
	var users []string
	for _, u := range s.Users {
		users = append(users, u.Name)
	}
	if !slices.Equal(users, want.Users) {
		t.Errorf("%s: users %q, want %q", name, users, want.Users)
	}
	if want.Engine != "" && (len(s.Databases) != 1 || s.Databases[0].Engine != want.Engine || !slices.Equal(s.Databases[0].Databases, want.Databases) || s.Databases[0].Size < 1<<20) {
		t.Errorf("%s: databases %+v, want %s with %q", name, s.Databases, want.Engine, want.Databases)
	}
	for _, spec := range lab.Servers() {
		if spec.Name != name {
			continue
		}
		for _, p := range spec.Packages {
			if !slices.ContainsFunc(s.Packages, func(x inventory.Package) bool { return x.Name == p }) {
				t.Errorf("%s: the package %s is not found", name, p)
			}
		}
		for _, fs := range spec.Filesystems {
			if !slices.ContainsFunc(s.Storage.Filesystems, func(x inventory.Filesystem) bool { return x.Mount == fs.Mount && x.Type == fs.Type }) {
				t.Errorf("%s: the filesystem %s is not found", name, fs.Mount)
			}
		}
	}
	if s.Storage.WrittenPerHour < 0 || len(s.System.Kernels) != 1 || !s.System.Kernels[0].Read {
		t.Errorf("%s: writes %d an hour, kernels %+v", name, s.Storage.WrittenPerHour, s.System.Kernels)
	}
}

// plant makes web1 call db1, and gives it a certificate, a job and a timer.
func (w *world) plant(t *testing.T, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, DNSNames: []string{"shop.example"}, NotBefore: until.AddDate(-1, 0, 0), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	both := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	w.in(t, "web1", fmt.Sprintf(`cat > /etc/ssl/shop.pem <<'PEM'
%sPEM
cat > /etc/nginx/sites-enabled/shop <<'CONF'
server { listen 443 ssl; server_name shop.example; ssl_certificate /etc/ssl/shop.pem; ssl_certificate_key /etc/ssl/shop.pem; location / { proxy_pass http://10.10.0.40:8080; } }
CONF
nginx -s reload
echo 'db = 10.10.0.13:5432 password=hunter2' > /etc/shop.conf
echo '30 2 * * * root rsync -a /srv vault: --password-file=x PASSWORD=hunter2' > /etc/cron.d/offsite
printf '[Timer]\nOnCalendar=daily\n' > /etc/systemd/system/stock.timer
printf '[Service]\nExecStart=/bin/true\n' > /etc/systemd/system/stock.service
mkdir -p /etc/systemd/system/timers.target.wants
ln -sf ../stock.timer /etc/systemd/system/timers.target.wants/stock.timer
setsid bash -c 'while sleep 1; do exec 3<> /dev/tcp/10.10.0.13/5432; done' > /dev/null 2>&1 & echo $! > /run/caller.pid
sleep 0.5`, both))
	t.Cleanup(func() {
		w.in(t, "web1", `kill $(cat /run/caller.pid)
rm -f /etc/ssl/shop.pem /etc/nginx/sites-enabled/shop /etc/shop.conf /etc/cron.d/offsite /etc/systemd/system/stock.* /etc/systemd/system/timers.target.wants/stock.timer /run/caller.pid
nginx -s reload`)
	})
}

// asPlanted looks for what was planted.
func (w *world) asPlanted(t *testing.T, e *inventory.Estate, f found, until time.Time) {
	t.Helper()
	b, err := os.ReadFile(f.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "hunter2") || strings.Contains(string(b), "PRIVATE KEY") {
		t.Error("a secret is in the inventory")
	}
	web := e.Entries[slices.IndexFunc(e.Entries, func(x inventory.Entry) bool { return x.Name == "web1" })].Server
	if len(web.Certs) != 1 || !web.Certs[0].Until.Equal(until) || web.Certs[0].Names[0] != "shop.example" {
		t.Errorf("certificates %+v, want one until %v", web.Certs, until)
	}
	if !slices.ContainsFunc(web.Cron, func(x inventory.CronJob) bool {
		return x.File == "/etc/cron.d/offsite" && x.Own && x.When == "30 2 * * *"
	}) {
		t.Errorf("the job is not found: %+v", web.Cron)
	}
	if !slices.ContainsFunc(web.Timers, func(x inventory.Timer) bool { return x.Name == "stock.timer" && x.Own && x.Enabled }) {
		t.Errorf("the timer is not found: %+v", web.Timers)
	}
	var edge *discover.Edge
	for i, x := range f.Graph.Edges {
		if x.From == "web1" && x.To == "db1" {
			edge = &f.Graph.Edges[i]
		}
	}
	if edge == nil || edge.Port != 5432 || edge.Seen == 0 || edge.Process != "bash" || edge.Service != "postgres" {
		t.Errorf("web1 calls db1: %+v", f.Graph.Edges)
	}
	if !slices.ContainsFunc(f.Warnings, func(s string) bool { return strings.HasPrefix(s, "web1 names 10.10.0.40:8080, which is not protected") }) {
		t.Errorf("warnings %q", f.Warnings)
	}
	for _, c := range f.Graph.Clients {
		if c.Port == 22 {
			t.Errorf("Leeward's own session counts as a client: %+v", c)
		}
	}
}

// mark notes an instant on every server.
func (w *world) mark(t *testing.T) {
	t.Helper()
	for _, s := range servers {
		w.in(t, s, "touch /run/leeward-mark; sleep 0.1")
	}
}

// unmarked insists that nothing was written since but the agent's own file, and by those
// who write all the time.
func (w *world) unmarked(t *testing.T) {
	t.Helper()
	for _, s := range servers {
		out := w.in(t, s, `find / -xdev -newer /run/leeward-mark -type f 2>/dev/null | grep -v -e '^/proc' -e '^/sys' -e '^/run' -e churn -e after-2038 -e '^/var/lib/mysql' -e '^/var/lib/postgresql' -e '^/var/log' -e '^/var/cache/leeward/' || true`)
		if out != "" {
			t.Errorf("%s: written while it was looked at:\n%s", s, out)
		}
		if left := w.in(t, s, `for p in /proc/[0-9]*; do tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -e '[l]eeward.* agent' || true; done`); left != "" {
			t.Errorf("%s: an agent is still there: %s", s, left)
		}
	}
}

// drifts changes something, and has it told; and what the agents cost meanwhile measured.
func (w *world) drifts(t *testing.T, file string) {
	t.Helper()
	w.in(t, "files1", "useradd -m newcomer; echo '1.2.3.4 elsewhere' >> /etc/hosts")
	t.Cleanup(func() { w.in(t, "files1", "userdel -r newcomer 2>/dev/null; sed -i /elsewhere/d /etc/hosts") })
	run := w.start(t, file, "discover", "--diff", "--watch", "14s")
	const ticks = `for p in /proc/[0-9]*; do if tr '\0' ' ' < $p/cmdline 2>/dev/null | grep -q '[l]eeward.* agent'; then cut -d')' -f2 $p/stat | cut -d' ' -f13,14; fi; done | awk '{s += $1 + $2} END {print s + 0}'`
	time.Sleep(9 * time.Second) // installed, looked, watching
	before, begin := number(t, w.in(t, "web1", ticks)), time.Now()
	time.Sleep(4 * time.Second)
	used := float64(number(t, w.in(t, "web1", ticks))-before) / 100 / time.Since(begin).Seconds()
	t.Logf("while it watches, the agent at web1 takes %.1f %% of a core", used*100)
	if before == 0 || used > 0.10 {
		t.Errorf("the agent takes %.3f of a core, of %d ticks before", used, before)
	}
	r := run.wait()
	if r.code != 0 {
		t.Fatal(r)
	}
	changes := r.found(t).Changes
	for _, want := range []string{"user newcomer", "hosts entry 1.2.3.4 elsewhere"} {
		if !slices.ContainsFunc(changes, func(c discover.Change) bool {
			return c.Server == "files1" && c.What == "added" && c.Area+" "+c.Item == want
		}) {
			t.Errorf("%q is not told: %+v", want, changes)
		}
	}
	for _, c := range changes {
		if c.Server != "files1" {
			t.Errorf("nothing changed there: %+v", c)
		}
	}
}

// TestRunbook writes the documentation of a store that has points.
func TestRunbook(t *testing.T) {
	w := need(t)
	e := w.estate(t)
	dir := filepath.Join(t.TempDir(), "docs")
	w.must(t, e, "discover", "--watch", "0s")
	w.must(t, e, "runbook", "-o", dir)
	page := w.read(t, filepath.Join(dir, "runbook.html"))
	for _, s := range servers {
		if !strings.Contains(page, `id="server-`+s+`"`) || !strings.Contains(w.read(t, filepath.Join(dir, "servers", s+".md")), "Newest recovery point") {
			t.Errorf("there is no page of %s", s)
		}
	}
	if strings.Contains(page, "It cannot be planned now: plan failover") {
		t.Error("there is no failover in it")
	}
	w.must(t, e, "runbook", "-o", dir)
	if again := w.read(t, filepath.Join(dir, "runbook.md")); !strings.Contains(again, "since the edition of") {
		t.Error("the second edition does not speak of the first")
	}
}

// TestDiscoverGuests looks at machines that have a systemd, LVM and UEFI of their own.
func TestDiscoverGuests(t *testing.T) {
	w := needGuests(t)
	file := filepath.Join(t.TempDir(), "leeward.yaml")
	f := w.must(t, file, append([]string{"init", "--store", w.newStore(t), "--ssh-config", w.lab.SSHConfig(), "--watch", "6s"}, guests...)...).found(t)
	e, err := discover.Load(f.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range e.Entries {
		if x.Server == nil {
			t.Fatalf("%s: %s", x.Name, x.Err)
		}
		asDescribed(t, x.Name, x.Server)
		for _, l := range x.Server.Listening {
			if l.UnitBy != "cgroup" || l.Unit == "" {
				t.Errorf("%s: port %d is of no unit: %+v", x.Name, l.Port, l)
			}
		}
		if slices.ContainsFunc(x.Server.Unknown, func(u inventory.Unknown) bool { return u.What == "which units run" }) {
			t.Logf("%s: its systemd did not answer in time, and that is said: %+v", x.Name, x.Server.Unknown)
		} else if !slices.ContainsFunc(x.Server.Units, func(u inventory.Unit) bool { return u.Name == "churn.service" && u.State == "active" && u.Own }) {
			t.Errorf("%s: churn does not run: %+v", x.Name, x.Server.Units)
		}
		if firmware := map[string]string{"mail1": "BIOS", "mon1": "UEFI"}[x.Name]; x.Server.System.Firmware != firmware || x.Server.System.Init != "systemd" {
			t.Errorf("%s: firmware %s, init %s", x.Name, x.Server.System.Firmware, x.Server.System.Init)
		}
		if groups := x.Server.Storage.Groups; x.Name == "mail1" && (len(groups) != 1 || groups[0].Name != "vg0" || groups[0].Free == 0) {
			t.Errorf("mail1: groups of volumes %+v", groups)
		}
	}
	if !slices.ContainsFunc(f.Graph.Edges, func(x discover.Edge) bool { return x.From == "mon1" && x.To == "mail1" && x.Port == 25 && x.Seen > 0 }) {
		t.Errorf("mon1 calls mail1: %+v", f.Graph.Edges)
	}
}
