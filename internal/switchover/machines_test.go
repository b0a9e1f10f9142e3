package switchover

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/config"
)

// TestMachinesOfTheUser starts, looks at and ends a machine by commands of the user's.
func TestMachinesOfTheUser(t *testing.T) {
	store := t.TempDir()
	at := func(name string) string { return filepath.Join(store, name) }
	m := &config.Machine{
		Start: `echo "$LEEWARD_NAME $LEEWARD_DISK $LEEWARD_MEMORY $LEEWARD_FIRMWARE $LEEWARD_BRIDGE $LEEWARD_MACS" > ` + at("told") + ` && touch ` + at("runs"),
		Stop:  "rm -f " + at("runs"), Check: "test -e " + at("runs"),
	}
	g := NewGuests(&config.Estate{Target: config.Target{Bridge: "br0"}, Servers: []config.Server{{Name: "erp1", Host: "10.10.0.14", Machine: m}}}, store)
	if _, err := g.Start(t.Context(), "erp1"); err == nil {
		t.Error("a machine that was never made was started")
	}
	dir := at("machines/erp1")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const note = `{"format": 1, "server": "erp1", "point": "20260101T000000.000Z", "firmware": "uefi", "memory": 1073741824, "cards": [{"MAC": "52:54:00:00:00:01"}, {"MAC": "52:54:00:00:00:02"}]}`
	if err := os.WriteFile(filepath.Join(dir, machineFile), []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	running := func(want bool) {
		t.Helper()
		if is, err := g.Running(t.Context(), "erp1"); err != nil || is != want {
			t.Errorf("it runs: %t, %v; want %t", is, err, want)
		}
	}
	running(false)
	if _, err := g.Start(t.Context(), "erp1"); err != nil {
		t.Fatal(err)
	}
	running(true)
	told, err := os.ReadFile(at("told"))
	if want := "erp1 " + dir + "/image/disk.raw 1024 uefi br0 52:54:00:00:00:01 52:54:00:00:00:02\n"; err != nil || string(told) != want {
		t.Errorf("it was told %q, want %q", told, want)
	}
	if facts, err := g.Probe(t.Context(), "erp1"); err != nil || !strings.Contains(strings.Join(facts, ""), "nothing more is known") {
		t.Errorf("probe: %v, %v", facts, err)
	}
	if _, err := g.PutAway(t.Context(), "erp1"); err == nil {
		t.Error("a machine that runs was put aside")
	}
	if _, err := g.Halt(t.Context(), "erp1"); err != nil {
		t.Fatal(err)
	}
	running(false)
	if _, err := g.PutAway(t.Context(), "erp1"); err != nil {
		t.Error(err)
	}
	m.Check = "exit 7"
	if _, err := g.Running(t.Context(), "erp1"); err == nil {
		t.Error("a check that cannot tell is believed")
	}
	m.Check, m.Start = "test -e "+at("runs"), "exit 3"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, machineFile), []byte(note), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start(t.Context(), "erp1"); err == nil {
		t.Error("a start that failed is done")
	}
}
