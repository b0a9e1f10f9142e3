package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/switchover"
	"github.com/leeward-dr/leeward/lab"
)

// TestWorkloadFollows protects six servers and both databases under a workload whose
// clients follow names of DNS, drills, moves to Dallas and comes home. Each client has its
// own log of what was acknowledged; nothing in it may be missing at the end.
func TestWorkloadFollows(t *testing.T) {
	if !soak() {
		t.Skip("it takes ten minutes; " + soakVar + "=1 runs it")
	}
	if alone(t) {
		return
	}
	w := &shared
	dir := t.TempDir()
	config := w.workloadEstate(t, dir)
	nameServer(t, dir)
	w.applications(t)
	c := startClients(t, w, dir)
	w.must(t, config, "replicate")

	w.drillBesides(t, config)

	w.move(t, config, "cutover")
	c.served(t, "in Dallas")
	w.move(t, config, "failback")
	c.served(t, "at home")
	c.stop()
	c.nothingLost(t, w)
	var status struct{ Roles []switchover.Role }
	result(t, w.must(t, config, "status"), &status)
	if len(status.Roles) != 6 {
		t.Errorf("moved were %+v", status.Roles)
	}
	for _, r := range status.Roles {
		if r.Primary != switchover.Source || r.Moving != "" || r.Lost {
			t.Errorf("at the end: %+v", r)
		}
	}
}

// workloadEstate is an estate of all that the lab has.
func (w *world) workloadEstate(t *testing.T, dir string) string {
	store := w.newStore(t)
	t.Cleanup(func() { endMachines(t, store); endMachines(t, filepath.Join(w.lab.Dir(), "miami")) })
	fence := func(port string) string {
		const ip = "ip -n lw-miami"
		return fmt.Sprintf(`fence: {command: %s link set %s down, check: "! %s -br link show %s | grep -qw UP"}`, ip, port, ip, port)
	}
	text := w.moveHead(store) + fmt.Sprintf(`  - {name: web1, host: 10.10.0.11, probes: [{http: "http://:80/"}, {tcp: 22}], %s}
  - name: files1
    host: 10.10.0.16
    probes: [{tcp: 22}]
    quiesce:
      run: {command: flock /run/uploads.lock touch /run/still, check: test -e /run/still, host: files1}
      undo: {command: rm -f /run/still, check: "! test -e /run/still", host: files1}
    %s
  - {name: mail1, host: 10.10.0.15, %s}
  - {name: mon1, host: 10.10.0.22, %s}
  - {name: db1, host: 10.10.0.13}
  - {name: db2, host: 10.10.0.14}
databases:
  - name: shop
    engine: postgres
    tables: {exclude: [public.ticks]} # db1 writes it as a superuser, whom no fence stops
    source: {dsn: "postgres://leeward@10.10.0.13:5432/shop?sslmode=disable", password_file: %[6]s/database.pass}
    target: {dsn: "postgres://leeward@127.0.0.1:5432/shop?sslmode=disable", password_file: %[6]s/database.pass}
  - name: plant
    engine: mariadb
    tables: {exclude: [readings]} # likewise db2
    source: {dsn: "leeward@tcp(10.10.0.14:3306)/plant", password_file: %[6]s/database.pass}
    target: {dsn: "leeward@tcp(127.0.0.1:3306)/plant", password_file: %[6]s/database.pass}
switchover:
  compare: rows
  failback: {host: kvm1, store: %[6]s/miami/store, bridge: lwbr, accelerator: tcg, reach: {config: %[5]s}, drill: no,
    seeds: [%[6]s/servers/web1/disk.raw]}
  redirect:
`, fence("lwweb1"), fence("lwfiles1"), fence("lwmail1"), fence("lwmon1"), w.lab.SSHConfig(), w.lab.Dir())
	for _, r := range [][3]string{{"shop", "10.10.0.13", "10.99.0.2"}, {"plant", "10.10.0.14", "10.99.0.2"}, {"files", "10.10.0.16", "10.20.0.16"}} {
		text += fmt.Sprintf("    - name: %[1]s\n      dns: {server: 10.99.0.2, zone: lab.test, record: %[1]s.lab.test, ttl: 1s, source: %s, target: %s, key: {name: leeward, secret_file: %s/tsig.key}}\n",
			r[0], r[1], r[2], dir)
	}
	path := filepath.Join(dir, "leeward.yaml")
	w.write(t, path, text)
	return path
}

const tsigKey = "bGVld2FyZCBpcyBub3QgYSBzZWNyZXQgaGVyZSAuLi4="

// nameServer starts a name server in Dallas.
func nameServer(t *testing.T, dir string) {
	if _, err := exec.LookPath("knotd"); err != nil {
		t.Skip("no knotd here")
	}
	for name, text := range map[string]string{
		"tsig.key": tsigKey + "\n",
		"zone":     "lab.test. 1 SOA ns.lab.test. root.lab.test. 1 60 60 600 1\nlab.test. 1 NS ns.lab.test.\nns.lab.test. 1 A 10.99.0.2\nshop.lab.test. 1 A 10.10.0.13\nplant.lab.test. 1 A 10.10.0.14\nfiles.lab.test. 1 A 10.10.0.16\n",
		"knot.conf": fmt.Sprintf(`server:
    rundir: %[1]s
    listen: 10.99.0.2@53
    user: root
key:
  - id: leeward
    algorithm: hmac-sha256
    secret: %[2]s
acl:
  - id: update
    key: leeward
    action: update
database:
    storage: %[1]s
zone:
  - domain: lab.test
    storage: %[1]s
    file: zone
    acl: update
`, dir, tsigKey)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/lw-dallas", "knotd", "-c", filepath.Join(dir, "knot.conf"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

// applications makes what the clients of the workload use.
func (w *world) applications(t *testing.T) {
	const users = "GRANT INSERT, SELECT ON plant.* TO gauge@'10.%' IDENTIFIED BY 'harbour'"
	w.in(t, "db2", `mariadb -e "CREATE TABLE plant.acks (id bigint AUTO_INCREMENT PRIMARY KEY, n bigint NOT NULL) ENGINE=InnoDB; `+users+`"`)
	argv := lab.InDallas("mariadb", "--no-defaults", "-h", "127.0.0.1", "-u", "leeward", "-pharbour", "-e", users)
	command(t, "", nil, argv[0], argv[1:]...)
	w.in(t, "files1", "mkdir -p /srv/uploads")
	for _, line := range []string{"netns add lw-clients"} {
		command(t, "", nil, "ip", strings.Fields(line)...)
	}
	t.Cleanup(func() { command(t, "", nil, "ip", "netns", "del", "lw-clients") })
	for _, line := range []string{
		"-n lw-miami link add lwclients type veth peer name eth0 netns lw-clients", "-n lw-miami link set lwclients master lwbr up",
		"-n lw-clients addr add 10.10.0.99/24 dev eth0", "-n lw-clients link set eth0 up", "-n lw-clients link set lo up",
		"-n lw-clients route add 10.99.0.0/30 via 10.10.0.1",
	} {
		command(t, "", nil, "ip", strings.Fields(line)...)
	}
	// Clients reach what moved: Dallas knows where they are.
	command(t, "", nil, "ip", "-n", "lw-dallas", "route", "replace", "10.10.0.0/24", "via", "10.99.0.1")
}

// clients are three programs that write, each where a name leads.
type clients struct {
	dir string
	all []*exec.Cmd
}

// clientScript looks a name up for each write. A line goes to the log when the server has
// said that it is durable.
const clientScript = `cd "$1"; kind=$2; n=0
while [ ! -e stop ]; do
  n=$((n + 1)); a=$(kdig +short +time=1 +retry=0 @10.99.0.2 "$kind.lab.test" A 2>/dev/null | tail -n 1)
  case $kind in
  shop) PGPASSWORD=harbour PGCONNECT_TIMEOUT=2 timeout 5 psql -h "$a" -U orders -Atqc "INSERT INTO orders (item, quantity) VALUES ('acked', $n)" shop ;;
  plant) timeout 5 mariadb --no-defaults --connect-timeout=2 -h "$a" -u gauge -pharbour -e "INSERT INTO acks (n) VALUES ($n)" plant ;;
  files) printf 'upload %s of this client\n' "$n" | timeout 5 ssh -F "$3" -o HostName="$a" -o HostKeyAlias=10.10.0.16 -o ConnectTimeout=2 files1 \
    "flock -s /run/uploads.lock sh -c 'test ! -e /run/still && cat > /srv/uploads/$n && sync /srv/uploads/$n /srv/uploads'" ;;
  esac >> "$kind.said" 2>&1 && echo "$n $a" >> "$kind.acked"
  sleep 0.5
done
`

func startClients(t *testing.T, w *world, dir string) *clients {
	c := &clients{dir: dir}
	w.write(t, filepath.Join(dir, "client.sh"), clientScript)
	for _, kind := range []string{"shop", "plant", "files"} {
		from := "lw-clients"
		if kind == "files" { // whom servers that moved have no route to
			from = "lw-miami"
		}
		cmd := exec.Command("nsenter", "--net=/run/netns/"+from, "/bin/bash", filepath.Join(dir, "client.sh"), dir, kind, w.lab.SSHConfig())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.all = append(c.all, cmd)
	}
	t.Cleanup(c.stop)
	c.served(t, "before anything")
	return c
}

// acked are the writes that a client had acknowledged, with the address that did.
func (c *clients) acked(t *testing.T, kind string) map[int]string {
	b, err := os.ReadFile(filepath.Join(c.dir, kind+".acked"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	out := map[int]string{}
	for line := range strings.Lines(string(b)) {
		n, address, _ := strings.Cut(strings.TrimSpace(line), " ")
		if i, err := strconv.Atoi(n); err == nil {
			out[i] = address
		}
	}
	return out
}

// served waits until each client was served again some times.
func (c *clients) served(t *testing.T, when string) {
	t.Helper()
	for _, kind := range []string{"shop", "plant", "files"} {
		have := len(c.acked(t, kind))
		for begun := time.Now(); len(c.acked(t, kind)) < have+5; time.Sleep(100 * time.Millisecond) {
			if time.Since(begun) > time.Minute {
				said, _ := os.ReadFile(filepath.Join(c.dir, kind+".said")) // only to explain
				t.Fatalf("%s: nobody serves %s: %s", when, kind, said[max(0, len(said)-2000):])
			}
		}
	}
}

func (c *clients) stop() {
	_ = os.WriteFile(filepath.Join(c.dir, "stop"), nil, 0o600) // else they end with this process
	for _, cmd := range c.all {
		_ = cmd.Wait()
	}
	c.all = nil
}

// nothingLost compares the clients' logs with what is in Miami.
func (c *clients) nothingLost(t *testing.T, w *world) {
	numbers := func(said string) map[int]bool {
		out := map[int]bool{}
		for f := range strings.FieldsSeq(said) {
			if n, err := strconv.ParseFloat(f, 64); err == nil {
				out[int(n)] = true
			}
		}
		return out
	}
	there := map[string]map[int]bool{
		"shop":  numbers(w.in(t, "db1", `runuser -u postgres -- psql -Atc "SELECT quantity FROM orders WHERE item = 'acked'" shop`)),
		"plant": numbers(w.in(t, "db2", `mariadb -Ne "SELECT n FROM acks" plant`)),
	}
	for kind, have := range there {
		at, lost := map[string]int{}, 0
		for n, address := range c.acked(t, kind) {
			if at[address]++; !have[n] {
				lost++
			}
		}
		t.Logf("%s: acknowledged %v, lost %d", kind, at, lost)
		if lost > 0 || len(at) != 2 {
			t.Errorf("%s: of writes acknowledged by %v, %d are not there", kind, at, lost)
		}
	}
	argv := lab.InDallas("ssh", "-F", w.lab.SSHConfig(), "files1", "cd /srv/uploads && sha256sum *")
	sums := map[string]string{}
	for line := range strings.Lines(command(t, "", nil, argv[0], argv[1:]...)) {
		if f := strings.Fields(line); len(f) == 2 {
			sums[f[1]] = f[0]
		}
	}
	at, lost := map[string]int{}, 0
	for n, address := range c.acked(t, "files") {
		at[address]++
		if want := fmt.Sprintf("%x", sha256.Sum256(fmt.Appendf(nil, "upload %d of this client\n", n))); sums[strconv.Itoa(n)] != want {
			lost++
		}
	}
	t.Logf("files: acknowledged %v, lost %d", at, lost)
	if lost > 0 || len(at) != 2 {
		t.Errorf("files: of uploads acknowledged by %v, %d are not there or otherwise", at, lost)
	}
}

// drillBesides drills all servers while a pass goes on.
func (w *world) drillBesides(t *testing.T, config string) {
	running := w.start(t, config, "drill")
	var passes int
	for running.running() {
		w.must(t, config, "replicate", "web1", "shop", "plant")
		passes++
		for rest := time.Now(); running.running() && time.Since(rest) < 20*time.Second; time.Sleep(time.Second) {
		}
	}
	r := running.wait()
	var res struct{ Servers []drill.Result }
	if err := json.Unmarshal(r.Result, &res); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if r.code != 0 || len(res.Servers) != 6 || passes == 0 {
		t.Errorf("%d servers drilled besides %d passes: %s", len(res.Servers), passes, r)
	}
	for _, s := range res.Servers {
		if s.Bubble == nil || s.Bubble.Left != 0 {
			t.Errorf("%s: its network: %+v", s.Server, s.Bubble)
		}
	}
}
