package agent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
	"github.com/leeward-dr/leeward/internal/fsinfo"
)

// carried are the types of filesystem a replica can have.
var carried = map[string]bool{"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "vfat": true, "msdos": true}

// Why a filesystem is not carried, by type.
const (
	whyKernel  = "made by the kernel: nothing is stored in it"
	whyMemory  = "in memory: empty after every start"
	whyAuto    = "an automount point: nothing is mounted there"
	whyImage   = "a read-only image: the file it comes from is carried, or the disc is not the server's"
	whyOverlay = "shows files of other filesystems, which are carried themselves"
	whyNetwork = "kept by another machine"
	whyProgram = "shown by a program, not stored"
	whyZFS     = "ZFS: no replica can hold it"
)

var reasons = map[string]string{
	"autofs": whyAuto, "overlay": whyOverlay, "aufs": whyOverlay, "ecryptfs": whyOverlay,
	"tmpfs": whyMemory, "ramfs": whyMemory,
}

// kinds of types that share a reason.
const (
	kernelTypes = " proc sysfs devtmpfs devpts cgroup cgroup2 securityfs selinuxfs smackfs debugfs tracefs bpf pstore " +
		"efivarfs configfs fusectl mqueue hugetlbfs binfmt_misc rpc_pipefs nsfs nfsd resctrl usbfs rootfs "
	imageTypes   = " squashfs iso9660 udf erofs cramfs romfs "
	networkTypes = " nfs nfs4 cifs smb3 smbfs ceph glusterfs fuse.glusterfs fuse.ceph 9p virtiofs lustre beegfs afs gfs2 ocfs2 " +
		"fuse.sshfs fuse.s3fs fuse.rclone fuse.davfs "
)

// reasonFor says why a filesystem of the given type is not carried, and whether it
// is one that stores what should be.
func reasonFor(typ string) (why string, stored bool) {
	in := func(list string) bool { return strings.Contains(list, " "+typ+" ") }
	switch {
	case reasons[typ] != "":
		return reasons[typ], false
	case in(kernelTypes):
		return whyKernel, false
	case in(imageTypes):
		return whyImage, false
	case in(networkTypes):
		return whyNetwork, false
	case strings.HasPrefix(typ, "fuse."), typ == "fuse":
		return whyProgram, false
	case typ == "zfs":
		return whyZFS, true
	}
	return fmt.Sprintf("unknown filesystem type %s: Leeward carries ext2, ext3, ext4, XFS, btrfs and vfat", typ), true
}

// mounts reads the mounts of process 1, whose view the services of the host have:
// an ssh session may see others. Where process 1 has another root directory than we
// have (we are in a container or a chroot) it is not ours to describe.
func (c *collector) mounts() []procfs.Mount {
	file := "proc/self/mountinfo"
	if c.sameRoot() {
		if _, err := c.read("proc/1/mountinfo"); err == nil {
			file, c.view = "proc/1/mountinfo", "proc/1/root"
		}
	}
	data, err := c.read(file)
	if err != nil {
		c.warn("mounts: %v", err)
	}
	mounts, bad := procfs.ParseMountinfo(data)
	c.left(bad, "/"+file)
	return mounts
}

func (c *collector) sameRoot() bool {
	ours, err1 := os.Stat(c.path())
	theirs, err2 := os.Stat(c.path("proc/1/root/."))
	return err1 == nil && err2 == nil && os.SameFile(ours, theirs)
}

// groupOf names the filesystem a mount shows. The numbers of btrfs are made up per
// mount of a subvolume by some kernels, so its device names it.
func groupOf(m procfs.Mount) string {
	if m.Type == "btrfs" {
		return "btrfs " + m.Source
	}
	return fmt.Sprintf("%d:%d", m.Major, m.Minor)
}

// filesystems sorts the mounts into filesystems that are carried and mounts that are
// not.
func (c *collector) filesystems(context.Context) {
	groups := map[string][]procfs.Mount{}
	var order []string
	for _, m := range c.mounts() {
		if !carried[m.Type] {
			why, stored := reasonFor(m.Type)
			c.skipped(m, why, stored)
			continue
		}
		g := groupOf(m)
		if groups[g] == nil {
			order = append(order, g)
		}
		groups[g] = append(groups[g], m)
	}
	for _, g := range order {
		c.filesystem(groups[g])
	}
	slices.SortStableFunc(c.facts.Filesystems, func(a, b *agentpb.Filesystem) int {
		return cmp.Compare(a.MountPoint, b.MountPoint)
	})
	c.dropLoops()
	if len(c.facts.Filesystems) == 0 || c.facts.Filesystems[0].MountPoint != "/" {
		c.warn("the root filesystem is not among those that can be carried")
	}
}

// maxSkipped bounds the list on hosts with thousands of container mounts.
const maxSkipped = 2000

func (c *collector) skip(m procfs.Mount, why string) { c.skipped(m, why, false) }

func (c *collector) skipped(m procfs.Mount, why string, stored bool) {
	if len(c.facts.Skipped) == maxSkipped {
		c.warn("more than %d mounts are not carried; the rest is not listed", maxSkipped)
	}
	if len(c.facts.Skipped) <= maxSkipped {
		c.facts.Skipped = append(c.facts.Skipped, &agentpb.SkippedMount{
			MountPoint: m.Point, Type: m.Type, Device: m.Source, Reason: why, Stored: stored,
		})
	}
}

// filesystem describes the one that all of mounts show.
func (c *collector) filesystem(mounts []procfs.Mount) {
	var seen []procfs.Mount
	for _, m := range mounts {
		switch {
		case !utf8.ValidString(m.Point):
			c.skip(m, "the name of its mount point is not UTF-8")
		case !c.reachable(m):
			c.skip(m, "hidden under another mount at the same place")
		default:
			seen = append(seen, m)
		}
	}
	if len(seen) == 0 {
		return
	}
	p := primary(seen)
	if p.Root != "/" && p.Type != "btrfs" {
		c.warn("%s: only its part %s is mounted; the rest is not seen", p.Point, p.Root)
	}
	typ := p.Type
	if typ == "msdos" {
		typ = "vfat"
	}
	f := &agentpb.Filesystem{
		MountPoint: p.Point, Type: typ, Device: p.Source,
		Options: joinOptions(p), DevMajor: p.Major, DevMinor: p.Minor,
	}
	for _, m := range seen {
		f.Mounts = append(f.Mounts, &agentpb.Mount{MountPoint: m.Point, Root: m.Root, Options: m.Options})
	}
	c.usage(f)
	c.superblock(f, p)
	c.facts.Filesystems = append(c.facts.Filesystems, f)
}

// joinOptions are the options of the mount and those of the filesystem, each once.
func joinOptions(m procfs.Mount) string {
	all := strings.Split(m.Options, ",")
	for o := range strings.SplitSeq(m.SuperOptions, ",") {
		// ro of the filesystem is what counts below a mount that says rw.
		if o == "ro" && all[0] == "rw" {
			all[0] = "ro"
		}
		if o != "" && o != "rw" && !slices.Contains(all, o) {
			all = append(all, o)
		}
	}
	return strings.Join(all, ",")
}

// primary is the mount that names the filesystem: / before all, then a mount of
// the whole, then the shortest path. A btrfs is seldom mounted whole.
func primary(mounts []procfs.Mount) procfs.Mount {
	return slices.MinFunc(mounts, func(a, b procfs.Mount) int {
		return cmp.Or(
			-compareBool(a.Point == "/", b.Point == "/"),
			-compareBool(a.Type != "btrfs" && a.Root == "/", b.Type != "btrfs" && b.Root == "/"),
			cmp.Compare(len(a.Point), len(b.Point)),
			cmp.Compare(a.Point, b.Point))
	})
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// reachable reports whether m's mount point shows m and not what was mounted over it
// later.
func (c *collector) reachable(m procfs.Mount) bool {
	id, err := c.sys.mountID(c.path(c.view, m.Point))
	return err != nil || id == m.ID
}

// usage fills in sizes as df has them.
func (c *collector) usage(f *agentpb.Filesystem) {
	s, err := c.sys.statfs(c.path(c.view, f.MountPoint))
	if err != nil {
		c.warn("%s: usage: %v", f.MountPoint, err)
		return
	}
	unit := uint64(s.Frsize)
	if unit == 0 {
		unit = uint64(s.Bsize)
	}
	f.SizeBytes, f.UsedBytes = s.Blocks*unit, (s.Blocks-s.Bfree)*unit
	f.InodesUsed = s.Files - s.Ffree
	if strings.HasPrefix(f.Type, "ext") {
		f.Inodes = s.Files
	}
}

// superblock fills in what mkfs has to be told to make such a filesystem again.
func (c *collector) superblock(f *agentpb.Filesystem, m procfs.Mount) {
	d, ok := c.deviceOf(m)
	if !ok {
		c.warn("%s: its device %s is not found, so UUID and features are unknown", f.MountPoint, m.Source)
		return
	}
	f.Device = c.deviceName(d, m.Source)
	f.PartUuid = c.partUUID(d)
	info, err := c.detect(d, f.Device)
	if err != nil {
		u := c.udev(d)
		f.Uuid, f.Label = u["ID_FS_UUID"], udevText(u, "ID_FS_LABEL")
		c.warn("%s: superblock of %s: %v", f.MountPoint, f.Device, err)
		return
	}
	if info.Type != f.Type {
		c.warn("%s: mounted as %s, but its superblock says %s", f.MountPoint, f.Type, info.Type)
	}
	f.Uuid, f.Label, f.Features, f.Params = info.UUID, info.Label, info.Features, info.Params
	f.BlockSize, f.InodeSize = info.BlockSize, info.InodeSize
	if info.SizeBytes > 0 {
		f.SizeBytes = info.SizeBytes
	}
}

func (c *collector) detect(d device, path string) (*fsinfo.Info, error) {
	r, err := c.sys.openBlock(d, c.path(c.view, path))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return fsinfo.Detect(r)
}

// dropLoops takes out filesystems in files of other filesystems: they are carried
// with the file.
func (c *collector) dropLoops() {
	c.facts.Filesystems = slices.DeleteFunc(c.facts.Filesystems, func(f *agentpb.Filesystem) bool {
		if f.MountPoint == "/" || !strings.HasPrefix(f.Device, "/dev/loop") {
			return false
		}
		file := c.text("sys/block", strings.TrimPrefix(f.Device, "/dev/"), "loop/backing_file")
		if file == "" || !c.exists(c.view, file) {
			return false
		}
		c.facts.Skipped = append(c.facts.Skipped, &agentpb.SkippedMount{
			MountPoint: f.MountPoint, Type: f.Type, Device: f.Device,
			Reason: "is the content of the file " + file + ", which is carried",
		})
		return true
	})
}

// fstab keeps the file and warns of what should be mounted and is not.
func (c *collector) fstab(context.Context) {
	data, err := c.read("etc/fstab")
	if err != nil {
		c.warn("fstab: %v", err)
		return
	}
	c.facts.Fstab = data
	entries, bad := procfs.ParseFstab(data)
	c.left(bad, "/etc/fstab")
	mounted := map[string]bool{}
	for _, f := range c.facts.Filesystems {
		for _, m := range f.Mounts {
			mounted[m.MountPoint] = true
		}
	}
	for _, s := range c.facts.Skipped {
		mounted[s.MountPoint] = mounted[s.MountPoint] || s.Type != "autofs"
	}
	for _, e := range entries {
		_, stored := reasonFor(e.Type)
		local := carried[e.Type] || stored && e.Type != "swap"
		if local && strings.HasPrefix(e.Point, "/") && !mounted[e.Point] && !strings.Contains(","+e.Options+",", ",bind,") {
			c.warn("%s (%s, %s) is in fstab but not mounted, so it is not carried", e.Point, e.Type, e.Spec)
		}
	}
}

// swaps lists swap space with what mkswap needs to make it again.
func (c *collector) swaps(context.Context) {
	data, err := c.read("proc/swaps")
	if err != nil {
		c.warn("swap: %v", err)
		return
	}
	swaps, bad := procfs.ParseSwaps(data)
	c.left(bad, "/proc/swaps")
	for _, s := range swaps {
		out := &agentpb.Swap{Path: s.Path, File: s.File, SizeBytes: s.Bytes}
		if info, err := c.swapInfo(s); err != nil {
			c.warn("swap %s: %v", s.Path, err)
		} else {
			out.Uuid, out.Label = info.UUID, info.Label
		}
		c.facts.Swaps = append(c.facts.Swaps, out)
	}
}

func (c *collector) swapInfo(s procfs.Swap) (*fsinfo.Info, error) {
	if !s.File {
		d, ok := c.deviceOf(procfs.Mount{Type: "swap", Source: s.Path})
		if !ok {
			return nil, fmt.Errorf("device not found")
		}
		return c.detect(d, s.Path)
	}
	f, err := os.Open(c.path(c.view, s.Path))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return fsinfo.Detect(f)
}
