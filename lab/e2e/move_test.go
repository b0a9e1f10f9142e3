package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/runbook"
	"github.com/leeward-dr/leeward/lab"
)

// TestServerMoves moves web1 to Dallas, where it gets another address, by the commands a
// user has, and takes it back.
func TestServerMoves(t *testing.T) {
	w := need(t)
	store := w.newStore(t)
	t.Cleanup(func() { endMachines(t, store) })
	const link = "ip -n lw-web1"
	config := filepath.Join(w.lab.Dir(), "move.yaml")
	w.write(t, config, w.moveHead(store)+fmt.Sprintf(`  - name: web1
    host: 10.10.0.11
    probes: [{http: "http://:80/"}, {tcp: 22}]
    fence:
      command: %[1]s link set ens3 down
      check: "! %[1]s -br link show ens3 | grep -q UP"
      undo: %[1]s link set ens3 up && %[1]s route add 10.99.0.0/30 via 10.10.0.1
`, link))
	w.must(t, config, "replicate")
	w.move(t, config, "cutover")
	if fences := strings.TrimSpace(command(t, "", nil, "sh", "-c", link+" -br link show ens3")); strings.Contains(fences, "UP") {
		t.Errorf("web1 is primary in Dallas, and in Miami its link is up: %s", fences)
	}
	serves := func(address string) {
		t.Helper()
		argv := lab.InDallas("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://"+address+"/")
		if page := command(t, "", nil, argv[0], argv[1:]...); page != strconv.Itoa(http.StatusOK) {
			t.Errorf("web1 at %s answers %s", address, page)
		}
	}
	serves("10.20.0.11")
	argv := lab.InDallas("ssh", "-F", w.lab.SSHConfig(), "-o", "HostName=10.20.0.11", "-o", "HostKeyAlias=web1", "web1", "hostname; systemctl is-system-running --wait")
	if said := strings.Fields(command(t, "", []int{1}, argv[0], argv[1:]...)); len(said) == 0 || said[0] != "web1" {
		t.Errorf("in Dallas it says %q", said)
	}
	w.move(t, config, "rollback")
	serves("10.10.0.11")
	if said := w.in(t, "web1", "cat /var/cache/leeward/leeward-fence-token"); said != "2" {
		t.Errorf("back in Miami its token is %q, want 2", said)
	}
	w.must(t, config, "replicate")
}

// moveHead begins an estate whose servers move within the lab.
func (w *world) moveHead(store string) string {
	return fmt.Sprintf(`estate: e2e
source: {name: miami, ssh: {config: %s}}
target:
  name: dallas
  store: %s
  hypervisor: qemu
  accelerator: tcg
  network: {map: {10.10.0.0/24: 10.20.0.0/24}, bridge: lwdallas0}
servers:
`, w.lab.SSHConfig(), store)
}

// move makes a plan and does what it says, and returns what came of it.
func (w *world) move(t *testing.T, config, verb string, more ...string) runbook.Report {
	t.Helper()
	var plan struct{ Serial string }
	result(t, w.must(t, config, append([]string{verb, "plan"}, more...)...), &plan)
	var rep runbook.Report
	r := w.must(t, config, append([]string{verb, "apply", "--yes", "--serial", plan.Serial}, more...)...)
	if err := json.Unmarshal(r.Result, &rep); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: applications stood still for %v", verb, rep.Down.Round(time.Second/10))
	return rep
}

// endMachines ends what a test that failed left running.
func endMachines(t *testing.T, store string) {
	files, err := filepath.Glob(filepath.Join(store, "*", "machines", "*", "qemu.pid"))
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		pid, bad := strconv.Atoi(strings.TrimSpace(string(b)))
		if errors.Join(err, bad) != nil {
			t.Errorf("read %s: %v", f, errors.Join(err, bad))
			continue
		}
		out, _ := exec.Command("ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output() // it may be gone
		if strings.Contains(string(out), "qemu") && strings.Contains(string(out), store) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
		}
	}
}
