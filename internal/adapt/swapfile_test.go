package adapt

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/fsinfo"
)

// realFilesystem mounts a new filesystem, for directories cannot tell what may be
// allocated in them.
func realFilesystem(t *testing.T, kind string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	script := "truncate -s 400M " + image + " && mkfs." + kind + " -q " + image + " && mount -o loop " + image + " " + dir
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("no %s on a loop device here: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSwapFile(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		dir := realFilesystem(t, kind)
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		p := rootPartition
		p.Type = kind
		g := &Image{work: t.TempDir(), Partitions: []Partition{p}, filesys: []*Filesystem{{Partition: p, Root: root}}}
		if err := g.arrange(nil); err != nil {
			t.Fatal(err)
		}
		swap := &agentpb.Swap{Path: "/swapfile", File: true, SizeBytes: 32<<20 - 4096, Uuid: "6c1f0f2e-0d5b-4c51-9f1e-7b6f5f0a3c11", Label: "extra"}
		large := &agentpb.Swap{Path: "/large", File: true, SizeBytes: 300 << 20, Uuid: swap.Uuid}
		j := &job{img: g, facts: &agentpb.Facts{Swaps: []*agentpb.Swap{swap, large}}, report: &Report{}}
		for _, again := range []bool{false, true} {
			line, what, _ := j.fstabLine("/swapfile none swap sw 0 0\n")
			if line != "/swapfile none swap sw 0 0\n" || (what == "") != again {
				t.Errorf("%s: the line became %q, told %q", kind, line, what)
			}
		}
		if line, _, _ := j.fstabLine("/large none swap sw 0 0\n"); !strings.HasPrefix(line, "#") || g.Exists("/large") {
			t.Errorf("%s: a swap file that fills the disk: %q", kind, line)
		}
		checkSwapFile(t, filepath.Join(dir, "swapfile"), swap)
	}
}

// checkSwapFile asks our parser, blkid and swapon's rules what was made.
func checkSwapFile(t *testing.T, path string, want *agentpb.Swap) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() != 32<<20 || st.Mode() != 0o600 {
		t.Errorf("swap file of %d bytes, mode %v, %v", st.Size(), st.Mode(), err)
	}
	var sys unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &sys); err != nil || sys.Blocks*512 < st.Size() {
		t.Errorf("%d of %d bytes are allocated: swapon refuses holes", sys.Blocks*512, st.Size())
	}
	info, err := fsinfo.ParseSwap(f)
	if err != nil || info.UUID != want.Uuid || info.Label != want.Label || info.SizeBytes != 32<<20 {
		t.Errorf("read back as %+v, %v", info, err)
	}
	out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "UUID", path).CombinedOutput()
	if err != nil || strings.Join(strings.Fields(string(out)), " ") != want.Uuid+" swap" {
		t.Errorf("blkid says %q, %v", out, err)
	}
}
