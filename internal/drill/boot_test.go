package drill

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

// drillOne drills one server and logs what was found.
func drillOne(t *testing.T, s Subject, change func(*Options)) Result {
	t.Helper()
	program, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := Options{WorkDir: dir, ResultDir: filepath.Join(dir, "results"), Probe: program, Accelerator: vm.TCG,
		Memory: 512 * mib, Timeout: 5 * time.Minute}
	if change != nil {
		change(&o)
	}
	results, err := Run(t.Context(), []Subject{s}, o)
	r := results[0]
	b, _ := json.MarshalIndent(r, "", " ")
	t.Logf("%v\n%s", err, b)
	if (err == nil) != (r.Outcome == dr.Done) {
		t.Errorf("error %v with outcome %s", err, r.Outcome)
	}
	return r
}

func TestBootBookwormExt4BIOS(t *testing.T) {
	r := drillOne(t, server(t, "web1", machine{suite: "bookworm", fs: "ext4"}), nil)
	if r.Outcome != dr.Done {
		t.Fatalf("not proven: %s", r.Cause)
	}
}
