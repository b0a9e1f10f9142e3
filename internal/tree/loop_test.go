package tree

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/mountns"
)

// TestMain gives the tests a mount namespace of their own, so that nothing they
// mount outlives them.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 {
		if err := mountns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// onLoop mounts a new filesystem at dir.
func onLoop(t *testing.T, dir, kind string) {
	t.Helper()
	image := t.TempDir() + "/image"
	script := fmt.Sprintf("truncate -s 400M %[1]s && mkfs.%[2]s -q %[1]s && mount -o loop %[1]s %[3]s", image, kind, dir)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("no %s on a loop device here: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
			unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
}

// newLoopWorld is a world with source and replica each on a filesystem of a kind.
func newLoopWorld(t *testing.T, kind string) *world {
	w := newWorld(t)
	onLoop(t, w.src, kind)
	onLoop(t, w.dst, kind)
	w.btrfs = kind == "btrfs"
	// Before the unmounting: the set keeps the replica busy.
	t.Cleanup(func() { w.sources.Remove(w.tree) })
	return w
}

func TestRandomChangesOnOtherFilesystems(t *testing.T) {
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			w := newLoopWorld(t, kind)
			seed := rand.Uint64()
			m := &mutator{r: rand.New(rand.NewPCG(seed, 3)), root: w.src}
			for round := range 4 {
				for range 60 {
					m.step()
				}
				w.sync()
				w.equal()
				if t.Failed() {
					t.Fatalf("differs after round %d, seed %d", round, seed)
				}
			}
			w.rsyncAgrees()
		})
	}
}

// Large attributes of many files do not fit into one message.
func TestManyLargeAttributes(t *testing.T) {
	w := newLoopWorld(t, "xfs")
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 500 {
		name := w.src + "/" + strconv.Itoa(i)
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		value := make([]byte, 60000)
		for i := range value {
			value[i] = byte(r.Uint32())
		}
		if err := unix.Setxattr(name, "user.large", value, 0); err != nil {
			t.Fatal(err)
		}
	}
	w.sync()
	w.equal()
}

// subvolumes lists what of a btrfs tree is a subvolume.
func subvolumes(t *testing.T, dir string) string {
	subs, err := btrfs.Paths(dir)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(subs, " ")
}

func TestSubvolumes(t *testing.T) {
	w := newLoopWorld(t, "btrfs")
	w.sh(`btrfs -q subvolume create @ ; btrfs -q subvolume create @home; btrfs -q subvolume create @/nested; mkdir plain
		echo one > @/f; echo two > @home/f; echo three > @/nested/f; ln @/f @/g; mkdir @/nested/d; echo x > @/nested/d/x`)
	v, err := openView(&agentpb.OpenFilesystem{MountPoint: w.src}, true, w.state+"/scratch", taken{})
	if err != nil {
		t.Fatal(err)
	}
	if v.consistency != dr.Crash {
		t.Errorf("consistency %s: %s", v.consistency, v.how)
	}
	// A second one, of another session, must leave the first its snapshots.
	other, err := openView(&agentpb.OpenFilesystem{MountPoint: w.src}, true, w.state+"/scratch2", taken{})
	if err != nil {
		t.Fatal(err)
	}
	other.close()
	w.view = v
	w.sh(`echo later > @/f; rm @home/f; echo new > @/nested/new`)
	w.sync()
	w.view = nil
	v.close()
	for path, want := range map[string]string{"@/f": "one\n", "@/g": "one\n", "@home/f": "two\n", "@/nested/f": "three\n", "@/nested/d/x": "x\n"} {
		if b, err := os.ReadFile(w.dst + "/" + path); err != nil || string(b) != want {
			t.Errorf("%s in the replica: %q, %v", path, b, err)
		}
	}
	if got := subvolumes(t, w.dst); got != "@ @home @/nested" {
		t.Errorf("subvolumes of the replica: %s", got)
	}
	if got := subvolumes(t, w.src); got != "@ @home @/nested" {
		t.Errorf("subvolumes left at the source: %s", got)
	}
	w.sync()
	w.equal()
	// What was a directory becomes a subvolume, and the other way round; one goes.
	w.sh(`rmdir plain; btrfs -q subvolume create plain; echo p > plain/p; btrfs -q subvolume delete @home; mkdir @home; echo h > @home/h
		btrfs -q subvolume delete @/nested; btrfs -q subvolume create @/third; echo y > @/third/y`)
	w.sync()
	w.equal()
	if got := subvolumes(t, w.dst); got != "@ plain @/third" {
		t.Errorf("subvolumes of the replica after changes: %s", got)
	}
}
