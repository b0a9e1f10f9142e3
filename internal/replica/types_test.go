package replica

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/fsinfo"
)

// sourceImage makes a filesystem in a sparse file as an administrator would have
// made it at the source.
func sourceImage(t *testing.T, mib int64, mkfs string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "source.img")
	writeFile(t, "", path)
	if err := os.Truncate(path, mib*mebibyte); err != nil {
		t.Fatal(err)
	}
	witness(t, mkfs, append(args, path)...)
	return path
}

// factsOf describes a server whose filesystem named mountPoint is in image.
func factsOf(t *testing.T, mountPoint, image string) *agentpb.Filesystem {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := fsinfo.Detect(f)
	if err != nil {
		t.Fatal(err)
	}
	return &agentpb.Filesystem{MountPoint: mountPoint, Device: "/dev/vda1", Type: info.Type, Uuid: info.UUID, Label: info.Label,
		SizeBytes: info.SizeBytes, UsedBytes: mebibyte, Inodes: info.Inodes, InodesUsed: info.InodesUsed,
		BlockSize: info.BlockSize, InodeSize: info.InodeSize, Features: info.Features, Params: info.Params}
}

func infoOf(t *testing.T, disk string, p *Partition) *fsinfo.Info {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := fsinfo.Detect(io.NewSectionReader(f, p.Offset, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// TestFilesystemsAreAsTheSources makes filesystems as distributions of different
// ages do, and compares what the replica's superblock says.
func TestFilesystemsAreAsTheSources(t *testing.T) {
	needRoot(t, "mkfs.btrfs")
	s := newStore(t)
	for name, c := range map[string]struct {
		mib    int64
		mkfs   string
		differ []string // parameters that may differ
	}{
		"ext2":     {16, "mke2fs -q -F -t ext2 -L old -b 1024 -I 128", nil},
		"ext3":     {64, "mke2fs -q -F -t ext3 -m 3", nil},
		"ext4":     {64, "mke2fs -q -F -t ext4 -L root -J size=4", nil},
		"ext4 el7": {64, "mke2fs -q -F -t ext4 -O ^metadata_csum,uninit_bg -e panic", nil},
		"ext4 new": {64, "mke2fs -q -F -t ext4 -O metadata_csum_seed,orphan_file,inline_data,project,quota,casefold -I 512 -E quotatype=prjquota", nil},
		"xfs":      {300, "mkfs.xfs -q -L data", nil},
		"xfs el8":  {300, "mkfs.xfs -q -m crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=0,inobtcount=0 -i sparse=1,nrext64=0 -n size=8192", nil},
		"xfs el7":  {300, "mkfs.xfs -q -m crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0 -i sparse=0,nrext64=0 -s size=4096", nil},
		"xfs new":  {300, "mkfs.xfs -q -m rmapbt=1,bigtime=1,inobtcount=1 -i nrext64=1,size=1024", nil},
		"btrfs":    {128, "mkfs.btrfs -q -L pool", []string{"device_uuid"}},
		"btrfs el": {128, "mkfs.btrfs -q -O ^no-holes -R ^free-space-tree --csum xxhash -n 32768", []string{"device_uuid"}},
		"btrfs m":  {128, "mkfs.btrfs -q -M", []string{"device_uuid"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := s.Replica("x" + dr.ServerName(strings.ReplaceAll(name, " ", "-")))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			args := strings.Fields(c.mkfs)
			src := factsOf(t, "/", sourceImage(t, c.mib, args[0], args[1:]...))
			l := mustPlan(t, &agentpb.Facts{Kernel: "6.1.0", Filesystems: []*agentpb.Filesystem{src}})
			if ch := mustPrepare(t, r, l); len(ch.Notes) > 0 {
				t.Errorf("notes %q, want none: this host's tools know it all", ch.Notes)
			}
			got := infoOf(t, r.Disk(), l.Find("/"))
			if got.Type != src.Type || got.UUID != src.Uuid || got.Label != src.Label ||
				got.BlockSize != src.BlockSize || got.InodeSize != src.InodeSize || got.Inodes < src.Inodes {
				t.Errorf("got %+v\nwant %+v", got, src)
			}
			if !slices.Equal(got.Features, src.Features) {
				t.Errorf("features\n%v, the source has\n%v", got.Features, src.Features)
			}
			for k, v := range src.Params {
				if got.Params[k] != v && !slices.Contains(c.differ, k) {
					t.Errorf("%s is %q, at the source %q", k, got.Params[k], v)
				}
			}
			if !slices.Contains(src.Features, "casefold") { // few kernels have it
				mustMount(t, r)
			}
		})
	}
}

// TestSourceMountedToo mounts a source filesystem, its replica and a clone of a
// point at once, all of one UUID: a lab's source may lie on the same kernel.
func TestSourceMountedToo(t *testing.T) {
	needRoot(t, "mkfs.btrfs", "e2fsck", "xfs_repair", "btrfs")
	for _, mkfs := range []string{"mke2fs -q -F -t ext4", "mkfs.xfs -q", "mkfs.btrfs -q"} {
		t.Run(strings.Fields(mkfs)[0], func(t *testing.T) {
			ctx := context.Background()
			r := newReplica(t, newStore(t), "web1")
			args := strings.Fields(mkfs)
			src := sourceImage(t, 300, args[0], args[1:]...)
			facts := &agentpb.Facts{Filesystems: []*agentpb.Filesystem{factsOf(t, "/", src)}}
			at := mountSource(t, src, facts.Filesystems[0].Type)
			writeFile(t, "source", at, "who")
			mustPrepare(t, r, mustPlan(t, facts))
			m := mustMount(t, r)
			writeFile(t, "replica", m.Root("/"), "who")
			options := mountOptions(t, m.Root("/"))
			p, err := r.MakePoint(ctx, m, &Manifest{ID: dr.NewPointID(time.Now()), Facts: facts})
			if err != nil {
				t.Fatal(err)
			}
			if got := mountOptions(t, m.Root("/")); got != options {
				t.Errorf("mounted with %s after the point, with %s before", got, options)
			}
			if out, err := p.Check(ctx, scratch(t, r)); err != nil {
				t.Errorf("check point: %v\n%s", err, out)
			}
			img, err := p.Clone(ctx, filepath.Join(scratch(t, r), "clone"))
			if err != nil {
				t.Fatal(err)
			}
			c, err := img.Mount(ctx, false)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			writeFile(t, "clone", c.Root("/"), "who")
			for want, dir := range map[string]string{"source": at, "replica": m.Root("/"), "clone": c.Root("/")} {
				if got := readFile(t, dir, "who"); got != want {
					t.Errorf("the %s holds %q", want, got)
				}
			}
		})
	}
}

// mountOptions returns the options of the mount at dir and of its filesystem.
func mountOptions(t *testing.T, dir string) string {
	t.Helper()
	for line := range strings.Lines(readFile(t, "/proc/self/mountinfo")) {
		f := strings.Fields(line)
		if f[4] == dir {
			return f[5] + " " + f[len(f)-1]
		}
	}
	t.Fatalf("nothing is mounted at %s", dir)
	return ""
}

func scratch(t *testing.T, r *Replica) string {
	t.Helper()
	dir, err := r.store.Scratch(fmt.Sprintf("t%d", time.Now().UnixNano()))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func mountSource(t *testing.T, image, fstype string) string {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := attachLoop(f, loopOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	at := t.TempDir()
	if err := unix.Mount(d.path, at, fstype, 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	return at
}
