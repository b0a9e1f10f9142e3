package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// TestPassAndPoint goes the whole way once: a store on a filesystem that cannot
// share blocks, a disk, a pass, a point, and a clone that holds what was written.
func TestPassAndPoint(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	r := newReplica(t, newStore(t), "web1")
	if c := mustPrepare(t, r, mustPlan(t, extFacts())); !c.Created {
		t.Fatalf("change %+v, want a new disk", c)
	}
	m := mustMount(t, r)
	writeFile(t, "one", m.Root("/"), "file")
	writeFile(t, "catalog", r.StateDir(), "catalog")
	if err := unix.Mknod(filepath.Join(m.Root("/"), "null"), unix.S_IFCHR|0o666, mkdev(1, 3)); err != nil {
		t.Fatalf("make a device node on the replica: %v", err)
	}
	start := time.Now()
	p, err := r.MakePoint(ctx, m, &Manifest{ID: dr.NewPointID(time.Now()), Facts: extFacts(), Consistency: dr.Fuzzy})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("point made in %v", time.Since(start))
	writeFile(t, "two", m.Root("/"), "file")
	img, err := p.Clone(ctx, filepath.Join(t.TempDir(), "x"))
	if !errors.Is(err, unix.EXDEV) {
		t.Fatalf("clone out of the store: %v, %v, want EXDEV", img, err)
	}
	scratch, err := r.store.Scratch("drill")
	if err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	if img, err = p.Clone(ctx, filepath.Join(scratch, "web1")); err != nil {
		t.Fatal(err)
	}
	t.Logf("cloned in %v", time.Since(start))
	c, err := img.Mount(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := readFile(t, c.Root("/"), "file"); got != "one" {
		t.Errorf("clone holds %q, want what was there when the point was made", got)
	}
	if got := readFile(t, p.Dir, "state", "catalog"); got != "catalog" {
		t.Errorf("point's catalog %q", got)
	}
	if got := readFile(t, m.Root("/"), "file"); got != "two" {
		t.Errorf("replica holds %q after the point", got)
	}
	facts, err := p.Facts()
	if err != nil {
		t.Fatal(err)
	}
	if facts.GetKernel() != extFacts().GetKernel() {
		t.Errorf("facts of the point: %v", facts)
	}
}

// TestDiskIsAsTheSource compares the disk with its plan through the eyes of
// sfdisk, blkid and dumpe2fs.
func TestDiskIsAsTheSource(t *testing.T) {
	needRoot(t, "dumpe2fs", "blkid")
	r := newReplica(t, newStore(t), "web1")
	l := mustPlan(t, extFacts())
	mustPrepare(t, r, l)
	table := strings.ToLower(witness(t, "sfdisk", "-d", r.Disk()))
	for _, want := range []string{"label-id: 11111111-2222-4333-8444-555555555555",
		"uuid=0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a001", "type=21686148-6449-6e6f-744e-656564454649",
		"type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b, "} {
		if !strings.Contains(table, want) {
			t.Errorf("partition table lacks %q:\n%s", want, table)
		}
	}
	if out := witness(t, "sfdisk", "--verify", r.Disk()); !strings.Contains(out, "No errors") {
		t.Errorf("sfdisk --verify: %s", out)
	}
	root := l.Find("/")
	part := filepath.Join(t.TempDir(), "root")
	copyRange(t, r.Disk(), part, root.Offset, root.Size)
	out := witness(t, "dumpe2fs", "-h", part)
	for _, want := range []string{
		"Filesystem UUID:          5b1ef2a4-7d0e-4c4e-9a39-6c1a3a0d1f11", "volume name:   rootfs",
		"features:      has_journal ext_attr resize_inode dir_index filetype extent 64bit flex_bg sparse_super large_file huge_file dir_nlink extra_isize metadata_csum\n",
		"Default mount options:    user_xattr acl\n", "Reserved block count:     777", "Inode size:	          256",
		"Errors behavior:          Remount read-only", "Directory Hash Seed:      0a0b0c0d-1111-4222-8333-444455556666",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("dumpe2fs lacks %q:\n%s", want, out)
		}
	}
	witness(t, "e2fsck", "-fn", part)
}

func copyRange(t *testing.T, from, to string, offset, size int64) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	writeFile(t, string(b), to)
}
