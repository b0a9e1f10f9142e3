package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// wholeFacts describe a server with a filesystem of each type, an ESP and swap.
func wholeFacts(t *testing.T) *agentpb.Facts {
	t.Helper()
	f := extFacts()
	f.Filesystems = append(f.Filesystems,
		factsOf(t, "/var", sourceImage(t, 300, "mkfs.xfs", "-q")),
		factsOf(t, "/srv", sourceImage(t, 256, "mkfs.btrfs", "-q")),
		&agentpb.Filesystem{MountPoint: "/boot/efi", Type: "vfat", Uuid: "1A2B-3C4D", Label: "EFI",
			PartUuid: "0D9EF4FC-4F11-4F0E-8A33-3E8A8EF2A0EF", SizeBytes: 40 * mebibyte, UsedBytes: mebibyte})
	f.Swaps = []*agentpb.Swap{{Path: "/dev/vda5", SizeBytes: 32 * mebibyte, Uuid: "77777777-1111-4222-8333-444444444444"},
		{Path: "/swapfile", File: true, SizeBytes: 1 << 30}}
	return f
}

// TestDiskFollowsTheSource lets the source gain, lose and enlarge filesystems, and
// finds what was written before each change after it.
func TestDiskFollowsTheSource(t *testing.T) {
	needRoot(t, "mkfs.btrfs", "xfs_growfs", "resize2fs", "btrfs")
	r := newReplica(t, newStore(t), "web1")
	facts := wholeFacts(t)
	mustPrepare(t, r, mustPlan(t, facts))
	all := []string{"/", "/var", "/srv", "/boot/efi"}
	markAll(t, r, all)

	if c := mustPrepare(t, r, mustPlan(t, facts)); !c.Empty() {
		t.Errorf("an unchanged source changed the disk: %+v", c)
	}
	for _, fs := range facts.Filesystems {
		fs.SizeBytes += 48 * mebibyte
	}
	facts.Swaps[0].SizeBytes += 48 * mebibyte
	c := mustPrepare(t, r, mustPlan(t, facts))
	if want := append(slices.Clone(all), "swap partition 6"); !slices.Equal(c.Grown, want) {
		t.Errorf("grown %v, want %v", c.Grown, want)
	}
	checkAll(t, r, all)
	checkSizes(t, r, mustPlan(t, facts))
	checkHole(t, r)

	facts.Filesystems = append(facts.Filesystems, factsOf(t, "/home", sourceImage(t, 64, "mke2fs", "-q", "-F", "-t", "ext4")))
	if c := mustPrepare(t, r, mustPlan(t, facts)); !slices.Equal(c.Added, []string{"/home"}) {
		t.Errorf("change %+v, want /home added", c)
	}
	markAll(t, r, []string{"/home"})
	gone := facts.Filesystems[1]
	facts.Filesystems = slices.Delete(facts.Filesystems, 1, 2)
	if c := mustPrepare(t, r, mustPlan(t, facts)); !slices.Equal(c.Gone, []string{"/var"}) {
		t.Errorf("change %+v, want /var gone", c)
	}
	checkAll(t, r, []string{"/", "/srv", "/boot/efi", "/home"})
	facts.Filesystems = append(facts.Filesystems, gone)
	if c := mustPrepare(t, r, mustPlan(t, facts)); !slices.Equal(c.Back, []string{"/var"}) {
		t.Errorf("change %+v, want /var back", c)
	}
	checkAll(t, r, append(all, "/home"))
	if out := witness(t, "sfdisk", "--verify", r.Disk()); !strings.Contains(out, "No errors") {
		t.Errorf("sfdisk --verify: %s", out)
	}
}

// markAll writes the name of each filesystem into it.
func markAll(t *testing.T, r *Replica, points []string) {
	t.Helper()
	m := mustMount(t, r)
	for _, at := range points {
		writeFile(t, strings.Repeat(at, 100_000), m.Root(at), "mark")
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkAll looks for what markAll wrote, and lets the checkers judge.
func checkAll(t *testing.T, r *Replica, points []string) {
	t.Helper()
	m := mustMount(t, r)
	if got := m.Filesystems(); !sameSet(got, points) {
		t.Errorf("mounted %v, want %v", got, points)
	}
	for _, at := range points {
		if got := readFile(t, m.Root(at), "mark"); got != strings.Repeat(at, 100_000) {
			t.Errorf("%s holds %d bytes, not what was written there", at, len(got))
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	img := &Image{Dir: r.Dir(), Disk: r.Disk(), Layout: m.Layout()}
	if out, err := img.Check(context.Background()); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func sameSet(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// checkSizes compares what each superblock says with the plan.
func checkSizes(t *testing.T, r *Replica, want *Layout) {
	t.Helper()
	have, err := r.Layout()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want.Partitions {
		i := have.match(&w)
		if i < 0 || w.Tree {
			continue
		}
		p := &have.Partitions[i]
		if info := infoOf(t, r.Disk(), p); p.Size < w.Size || int64(info.SizeBytes) < w.Size-mebibyte {
			t.Errorf("%s has %d bytes in %d, want %d", p.name(), info.SizeBytes, p.Size, w.Size)
		}
	}
}

// checkHole makes sure that what was moved left no data behind: a filesystem to
// come is made on zeroes.
func checkHole(t *testing.T, r *Replica) {
	t.Helper()
	l, err := r.Layout()
	if err != nil {
		t.Fatal(err)
	}
	first := l.Size
	for _, p := range l.Partitions {
		if p.Kind != BIOSBoot {
			first = min(first, p.Offset)
		}
	}
	f, err := os.Open(r.Disk())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const bios = 2 * mebibyte // the table and the BIOS boot partition
	if at, err := unix.Seek(int(f.Fd()), bios, unix.SEEK_DATA); err != nil || at < first || first == bios {
		t.Errorf("data at %d, %v, want none before the first filesystem at %d", at, err, first)
	}
}

// TestRefusals are changes of the source that would lose data or cannot be held.
func TestRefusals(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	before := readFile(t, r.path(layoutFile))
	for name, c := range map[string]struct {
		change func(*agentpb.Filesystem)
		want   string
	}{
		"remade":       {func(fs *agentpb.Filesystem) { fs.Uuid = "99999999-7d0e-4c4e-9a39-6c1a3a0d1f11" }, "filesystem /: the source now has ext4 with UUID 9999"},
		"another type": {func(fs *agentpb.Filesystem) { fs.Type, fs.Features = "xfs", []string{"crc"} }, "the source now has xfs"},
	} {
		t.Run(name, func(t *testing.T) {
			f := extFacts()
			c.change(f.Filesystems[0])
			_, err := r.Prepare(context.Background(), mustPlan(t, f))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var hint *dr.Hinted
			if !errors.As(err, &hint) || !strings.Contains(hint.Hint, "layout.json") {
				t.Errorf("no advice with %v", err)
			}
			if readFile(t, r.path(layoutFile)) != before {
				t.Error("the layout changed")
			}
		})
	}
	if err := r.Reset(); err != nil {
		t.Fatal(err)
	}
	f := extFacts()
	f.Filesystems[0].Uuid = "99999999-7d0e-4c4e-9a39-6c1a3a0d1f11"
	if c := mustPrepare(t, r, mustPlan(t, f)); !c.Created {
		t.Errorf("change %+v after a reset, want a new disk", c)
	}
}

func TestPlanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*agentpb.Facts)
		want   string
	}{
		"no filesystem": {func(f *agentpb.Facts) { f.Filesystems = nil }, "names no filesystem"},
		"unknown type":  {func(f *agentpb.Facts) { f.Filesystems[0].Type = "f2fs" }, `filesystem /: type "f2fs": not supported`},
		"no root":       {func(f *agentpb.Facts) { f.Filesystems[0].MountPoint = "/srv" }, "names no root filesystem"},
		"root on zfs": {func(f *agentpb.Facts) {
			f.Filesystems[0].MountPoint = "/srv"
			f.Skipped = []*agentpb.SkippedMount{{MountPoint: "/", Type: "zfs", Reason: "ZFS: no replica can hold it"}}
		}, "its root filesystem (zfs) cannot be carried: ZFS: no replica can hold it"},
		"no uuid": {func(f *agentpb.Facts) { f.Filesystems[0].Uuid = "" }, "no UUID"},
		"twice":   {func(f *agentpb.Facts) { f.Filesystems = append(f.Filesystems, f.Filesystems[0]) }, "named twice"},
	} {
		t.Run(name, func(t *testing.T) {
			f := extFacts()
			c.change(f)
			if _, err := PlanLayout(f, LayoutOptions{Server: "web1"}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestPlanKeepsIDs(t *testing.T) {
	f := extFacts()
	f.Filesystems = append(f.Filesystems, &agentpb.Filesystem{MountPoint: "/efi", Type: "vfat", Uuid: "1A2B-3C4D",
		PartUuid: "0D9EF4FC-4F11-4F0E-8A33-3E8A8EF2A001", SizeBytes: 40*mebibyte + 1}, // the root's PARTUUID once more
		&agentpb.Filesystem{MountPoint: "/mbr", Type: "ext3", Uuid: "u2", PartUuid: "1234abcd-01", SizeBytes: 8 * mebibyte})
	l := mustPlan(t, f)
	if got := len(l.Partitions); got != 4 {
		t.Fatalf("%d partitions, want BIOS boot, root, ESP and /mbr", got)
	}
	root, esp, mbr := l.Find("/"), l.Find("/efi"), l.Find("/mbr")
	if root.PartUUID != "0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a001" || l.DiskID != "11111111-2222-4333-8444-555555555555" {
		t.Errorf("root has PARTUUID %s on disk %s, want the source's", root.PartUUID, l.DiskID)
	}
	if esp.Kind != ESP || !esp.Tree || esp.Size != 41*mebibyte || esp.PartUUID == root.PartUUID {
		t.Errorf("ESP %+v", esp)
	}
	if !guidRE.MatchString(mbr.PartUUID) || mbr.Inodes != 1 {
		t.Errorf("partition of an MBR disk: %+v", mbr)
	}
	if root.Inodes != 4681 { // 3900 in use and a fifth
		t.Errorf("root has %d inodes", root.Inodes)
	}
	for i := 1; i < len(l.Partitions); i++ {
		a, b := l.Partitions[i-1], l.Partitions[i]
		if a.Offset+a.Size > b.Offset || b.Offset%mebibyte != 0 || b.Offset+b.Size >= l.Size {
			t.Errorf("partition %d at %d+%d, %d at %d+%d of %d", a.Number, a.Offset, a.Size, b.Number, b.Offset, b.Size, l.Size)
		}
	}
}

func TestXFSVersion4(t *testing.T) {
	for kernel, crc := range map[string]bool{"2.6.32-754.el6": false, "3.10.0-1160.el7": false, "4.18.0": true} {
		f := &agentpb.Facts{Kernel: kernel, Filesystems: []*agentpb.Filesystem{
			{MountPoint: "/", Type: "xfs", Uuid: "u", Features: []string{"attr2", "projid32bit", "ftype"}, SizeBytes: 1 << 30}}}
		p := mustPlan(t, f).Find("/")
		args, err := xfsArgs(p, "crc=0|1,finobt=0|1,reflink=0|1,bigtime=0|1 sparse=0|1")
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Join(args, " ")
		if strings.Contains(line, "crc=1") != crc || strings.Contains(line, "finobt=1") || strings.Contains(line, "reflink=1") {
			t.Errorf("kernel %s: %s", kernel, line)
		}
	}
}

// TestUnknownFeature is a source newer than this host's mkfs.
func TestUnknownFeature(t *testing.T) {
	old := "crc=0|1,finobt=0|1 sparse=0|1"
	p := &Partition{Type: "xfs", UUID: "u", Features: []string{"crc", "finobt", "exchange", "bigtime"}}
	if _, err := xfsArgs(p, old); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "bigtime") {
		t.Errorf("got %v, want bigtime refused", err)
	}
	p.Features = p.Features[:3]
	if _, err := xfsArgs(p, old); err != nil || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "exchange") {
		t.Errorf("got %v and notes %q, want exchange left out", err, p.Notes)
	}
	b := &Partition{Type: "btrfs", UUID: "u", Features: []string{"extref", "raid-stripe-tree", "compress-zstd"}}
	if _, err := btrfsArgs(b, []string{"extref"}, nil); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v, want raid-stripe-tree refused", err)
	}
	e := &Partition{Type: "ext4", UUID: "u", Features: []string{"extent", "FEATURE_I20"}}
	if _, err := extFeatures(e); !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v, want FEATURE_I20 refused", err)
	}
}

// TestCutChange cuts a change of the disk after each of its steps: the disk is
// then as before or as wanted.
func TestCutChange(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	old := readFile(t, r.path(layoutFile))
	bigger := extFacts()
	bigger.Filesystems[0].SizeBytes += 8 * mebibyte
	reopen := func() {
		t.Helper()
		if err := errors.Join(r.Close(), r.Lock()); err != nil {
			t.Fatal(err)
		}
	}

	writeFile(t, "half a disk", r.path(diskFile+newSuffix))
	reopen()
	if there, _ := exists(r.path(diskFile + newSuffix)); there || readFile(t, r.path(layoutFile)) != old {
		t.Error("a disk cut while it was built is not forgotten")
	}

	have, err := r.Layout()
	if err != nil {
		t.Fatal(err)
	}
	d, err := compare(have, mustPlan(t, bigger))
	if err != nil {
		t.Fatal(err)
	}
	if err := cloneFile(r.Disk(), r.path(diskFile+newSuffix)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.path(diskFile+newSuffix), d.layout.Size); err != nil {
		t.Fatal(err)
	}
	if err := d.layout.write(r.path(layoutFile + newSuffix)); err != nil {
		t.Fatal(err)
	}
	reopen()
	got, err := r.Layout()
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(r.Disk())
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != d.layout.Size || st.Size() != d.layout.Size {
		t.Errorf("layout of %d bytes, disk of %d, want both %d", got.Size, st.Size(), d.layout.Size)
	}
	if err := got.write(r.path(layoutFile + newSuffix)); err != nil { // cut between the two renames
		t.Fatal(err)
	}
	reopen()
	if there, _ := exists(r.path(layoutFile + newSuffix)); there {
		t.Error("the new layout is still pending")
	}
}

// TestKilledProcess kills a process that has the replica locked and mounted. The
// next one finds neither lock nor mount nor loop device.
func TestKilledProcess(t *testing.T) {
	needRoot(t)
	if dir := os.Getenv("LEEWARD_TEST_HOLD"); dir != "" {
		holdReplica(t, dir)
	}
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	cmd, out := startSelf(t, "TestKilledProcess", "LEEWARD_TEST_HOLD="+s.dir)
	line := make([]byte, 4096)
	n, err := out.Read(line)
	if err != nil || !strings.Contains(string(line[:n]), "held") {
		t.Fatalf("the other process says %q, %v", line[:n], err)
	}
	_, err = r.Mount(context.Background())
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "process "+itoa(cmd.Process.Pid)) {
		t.Errorf("got %v, want a refusal that names process %d", err, cmd.Process.Pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	deadline := time.Now().Add(10 * time.Second)
	for {
		dev, err := findLoop(r.Disk())
		if err != nil {
			t.Fatal(err)
		}
		if dev == "" && !anyLoop(t, filepath.Base(r.Disk())) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the killed process left a loop device")
		}
		time.Sleep(20 * time.Millisecond)
	}
	m := mustMount(t, r)
	if got := readFile(t, m.Root("/"), "held"); got != "held" {
		t.Errorf("the replica holds %q", got)
	}
}
