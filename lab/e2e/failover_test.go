package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/runbook"
	"github.com/leeward-dr/leeward/internal/switchover"
	"github.com/leeward-dr/leeward/lab"
)

// TestFailoverAndHome loses Miami in the middle of a pass and of a transaction, goes on in
// Dallas, and comes home when Miami is back, which has gone on meanwhile and does not know.
func TestFailoverAndHome(t *testing.T) {
	if alone(t) {
		return
	}
	w, dir := &shared, t.TempDir()
	config := w.failoverEstate(t, dir)
	w.must(t, config, "replicate")
	writer := w.writer(t, dir)
	w.must(t, config, "replicate")

	open := w.openTransaction(t)
	lost := w.loseMiami(t, config)

	rep := w.move(t, config, "failover", "--failed-at", lost.UTC().Format(time.RFC3339))
	heard := lossTold(t, rep)
	t.Logf("lost at %s, last heard of at %s", lost.Format(time.TimeOnly), heard.Format(time.TimeOnly))
	at := w.ticksIn(t, "dallas")
	var missing []int
	for n, when := range writer.acked(t) {
		if at[n] || !when.Before(lost) {
			continue
		}
		missing = append(missing, n)
		if when.Before(heard) {
			t.Errorf("write %d was acknowledged at %s, is not in Dallas, and the loss told begins at %s", n, when, heard)
		}
	}
	t.Logf("%d acknowledged writes are not in Dallas", len(missing))
	if at[-1] {
		t.Error("a transaction that was never committed is in Dallas")
	}
	w.pg(t, "dallas", "INSERT INTO orders (item, quantity) SELECT 'dallas', n FROM generate_series(1, 50) n")

	if err := w.lab.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.lab.SetRate(t.Context(), rate); err != nil {
		t.Fatal(err)
	}
	open()
	var status struct{ Roles []switchover.Role }
	result(t, w.must(t, config, "status"), &status)
	if i := slices.IndexFunc(status.Roles, func(r switchover.Role) bool { return r.Member == "shop" && r.Returned }); i < 0 {
		t.Errorf("that Miami returned is not told: %+v", status.Roles)
	}
	time.Sleep(2 * time.Second) // Miami's clients write on
	writer.stop(t)

	rep = w.move(t, config, "failback")
	aside := asideOf(t, rep)
	home := w.ticksIn(t, "miami")
	for n := range writer.acked(t) {
		if !home[n] && !aside[n] {
			t.Errorf("write %d, acknowledged in Miami, is neither there nor set aside", n)
		}
	}
	if got := w.pg(t, "miami", "SELECT count(*) FROM orders WHERE item = 'dallas'"); got != "50" {
		t.Errorf("of 50 rows written in Dallas %s came home", got)
	}
	if n := len(aside); n < len(missing) || n == 0 {
		t.Errorf("%d rows were set aside, and %d were missing in Dallas", n, len(missing))
	}
	argv := lab.InDallas("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://10.10.0.11/")
	if page := command(t, "", nil, argv[0], argv[1:]...); page != "200" {
		t.Errorf("at home web1 answers %s", page)
	}
}

// failoverEstate is an estate of web1 and the database shop.
func (w *world) failoverEstate(t *testing.T, dir string) string {
	store := w.newStore(t)
	t.Cleanup(func() { endMachines(t, store); endMachines(t, filepath.Join(w.lab.Dir(), "miami")) })
	path := filepath.Join(dir, "leeward.yaml")
	w.write(t, path, w.moveHead(store)+fmt.Sprintf(`  - name: web1
    host: 10.10.0.11
    probes: [{http: "http://:80/"}]
    fence: {command: ip -n lw-miami link set lwweb1 down, check: "! ip -n lw-miami -br link show lwweb1 | grep -qw UP"}
databases:
  - name: shop
    engine: postgres
    source: {dsn: "postgres://leeward@10.10.0.13:5432/shop?sslmode=disable", password_file: %[2]s/database.pass}
    target: {dsn: "postgres://leeward@127.0.0.1:5432/shop?sslmode=disable", password_file: %[2]s/database.pass}
switchover:
  failback: {host: kvm1, store: %[2]s/miami/store, bridge: lwbr, accelerator: tcg, reach: {config: %[1]s}}
`, w.lab.SSHConfig(), w.lab.Dir()))
	return path
}

// pg runs a statement as the application, at a site.
func (w *world) pg(t *testing.T, site, statement string) string {
	t.Helper()
	if site == "miami" {
		return w.in(t, "db1", `runuser -u postgres -- psql -qAtc "SET ROLE orders" -c "`+statement+`" shop | grep -vx SET || true`)
	}
	argv := lab.InDallas("env", "PGPASSWORD=harbour", "psql", "-h", "127.0.0.1", "-U", "orders", "-qAtc", statement, "shop")
	return strings.TrimSpace(command(t, "", nil, argv[0], argv[1:]...))
}

// ticksIn are the numbers that the writer's rows have at a site.
func (w *world) ticksIn(t *testing.T, site string) map[int]bool {
	out := map[int]bool{}
	for f := range strings.FieldsSeq(w.pg(t, site, "SELECT quantity FROM orders WHERE item = 'acked'")) {
		if n, err := strconv.Atoi(f); err == nil {
			out[n] = true
		}
	}
	return out
}

// ticker writes rows in Miami and notes when each was acknowledged.
type ticker struct {
	dir string
	cmd *exec.Cmd
}

const tickerScript = `n=0
while [ ! -e "$1/stop" ]; do
  n=$((n + 1))
  psql -h 10.10.0.13 -U orders -qc "INSERT INTO orders (item, quantity) VALUES ('acked', $n)" shop 2>/dev/null && echo "$n $(date +%s.%N)" >> "$1/acked"
  sleep 0.1
done
`

func (w *world) writer(t *testing.T, dir string) *ticker {
	k := &ticker{dir: dir, cmd: exec.Command("nsenter", "--net=/run/netns/lw-miami", "env", "PGPASSWORD=harbour", "/bin/bash", "-c", tickerScript, "ticker", dir)}
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.stop(t) })
	w.await(t, "the first writes", func() bool { return len(k.acked(t)) > 10 })
	return k
}

func (k *ticker) stop(t *testing.T) {
	if err := os.WriteFile(filepath.Join(k.dir, "stop"), nil, 0o600); err != nil {
		t.Error(err)
	}
	_ = k.cmd.Wait() // the second time it has ended
}

func (k *ticker) acked(t *testing.T) map[int]time.Time {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(k.dir, "acked"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	out := map[int]time.Time{}
	for line := range strings.Lines(string(b)) {
		number, at, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, bad := strconv.Atoi(number)
		s, worse := strconv.ParseFloat(at, 64)
		if bad == nil && worse == nil {
			out[n] = time.UnixMicro(int64(s * 1e6))
		}
	}
	return out
}

// openTransaction begins one in Miami that writes and does not commit until the function
// that it returns is called, which rolls it back.
func (w *world) openTransaction(t *testing.T) func() {
	cmd := exec.Command("nsenter", "--net=/run/netns/lw-miami", "env", "PGPASSWORD=harbour", "psql", "-h", "10.10.0.13", "-U", "orders", "shop")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	fmt.Fprintln(in, "BEGIN; INSERT INTO orders (item, quantity) VALUES ('acked', -1); SELECT 'written';")
	for said.Scan() && !strings.Contains(said.Text(), "written") {
	}
	end := func() { _ = in.Close(); _ = cmd.Wait() }
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return end
}

// loseMiami cuts the link in the middle of a pass, which is killed, and returns when.
func (w *world) loseMiami(t *testing.T, config string) time.Time {
	w.in(t, "web1", "head -c 60000000 /dev/urandom > /var/lib/loss")
	w.slow(t, "50mbit")
	s := w.start(t, config, "replicate")
	time.Sleep(4 * time.Second)
	if !s.running() {
		t.Fatalf("the pass was over before it was cut: %s", s.wait())
	}
	if err := w.lab.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost := time.Now()
	time.Sleep(2 * time.Second)
	s.kill()
	s.wait()
	return lost
}

// lossTold is from when on a failover says that writes are lost.
func lossTold(t *testing.T, rep runbook.Report) time.Time {
	t.Helper()
	for _, s := range rep.Steps {
		for _, f := range s.Facts {
			if _, rest, ok := strings.Cut(f, ", of "); ok && s.ID == "failover.shop" {
				stamp, _, _ := strings.Cut(rest, ";")
				at, err := time.Parse(time.RFC3339, stamp)
				if err != nil {
					t.Fatal(err)
				}
				return at
			}
		}
	}
	t.Fatalf("nothing is said of the loss: %+v", rep)
	return time.Time{}
}

// asideOf are the writer's rows that a failback has set aside.
func asideOf(t *testing.T, rep runbook.Report) map[int]bool {
	t.Helper()
	out := map[int]bool{}
	for _, s := range rep.Steps {
		if s.ID != "set-aside.shop" {
			continue
		}
		for _, f := range s.Facts {
			t.Log(f)
			_, path, ok := strings.Cut(f, "kept in ")
			if !ok || !strings.Contains(path, "orders") {
				continue
			}
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(b)) {
				var row rowsync.KeptRow
				if err := json.Unmarshal([]byte(line), &row); err != nil {
					t.Fatal(err)
				}
				if text, _ := row.Kept["quantity"].(string); row.Kept["item"] == "acked" {
					if n, err := strconv.Atoi(text); err == nil {
						out[n] = true
					}
				}
			}
		}
	}
	return out
}
