package adapt

import (
	"os"
	"os/exec"
	"testing"

	"github.com/leeward-dr/leeward/internal/btrfs"
)

// A system whose root is a read-only subvolume is adapted, and read-only again.
func TestReadOnlySubvolume(t *testing.T) {
	dir := realFilesystem(t, "btrfs")
	script := "cd " + dir + " && btrfs -q subvolume create @ && btrfs -q subvolume create @home && btrfs property set @ ro true"
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	g := &Image{}
	if err := g.unlockSubvolumes(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/@/f", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	all, err := btrfs.Subvolumes(dir)
	if err != nil || len(all) != 2 || !all[0].ReadOnly || all[1].ReadOnly {
		t.Errorf("after: %+v, %v", all, err)
	}
}
