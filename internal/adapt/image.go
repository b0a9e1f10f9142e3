package adapt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// Kind says what a partition is for.
type Kind string

// The kinds of partitions, by the words of the replica's layout.
const (
	KindBIOSBoot   Kind = "bios-boot"
	KindESP        Kind = "esp"
	KindFilesystem Kind = "filesystem"
	KindSwap       Kind = "swap"
)

// Partition is one partition of the disk.
type Partition struct {
	Kind       Kind
	MountPoint string // of the filesystem it holds, its primary one; "" if the source mounts none
	Type       string // ext4, xfs, btrfs, vfat …
	UUID       string
	Label      string
	PartUUID   string
	Offset     int64 // bytes
	Size       int64
	// Tree is the directory that holds the content of a vfat filesystem. It is
	// copied, and the partition is formatted and filled when the image is closed.
	Tree string
}

// Image is the disk of a machine, opened for adaptation. It is not safe for
// concurrent use.
type Image struct {
	Disk       string
	Partitions []Partition
	places     []place // longest mount points first
	filesys    []*Filesystem
	work       string
	undo       []func() error // in reverse order
}

// Open mounts the filesystems of disk, a raw image that is the caller's to
// change, under the new directory work. The mounts are private only if the process
// is in a mount namespace of its own (see mountns). Close unmounts them.
func Open(ctx context.Context, disk string, partitions []Partition, facts *agentpb.Facts, work string) (*Image, error) {
	g := &Image{Disk: disk, Partitions: partitions, work: work}
	if err := g.openAll(ctx, facts); err != nil {
		return nil, fmt.Errorf("open image %s: %w", disk, errors.Join(err, g.release()))
	}
	return g, nil
}

func (g *Image) openAll(ctx context.Context, facts *agentpb.Facts) error {
	if err := os.Mkdir(g.work, 0o700); err != nil {
		return err
	}
	g.undo = append(g.undo, func() error { return os.Remove(g.work) })
	for i, p := range g.Partitions {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir := filepath.Join(g.work, fmt.Sprint(i+1))
		var err error
		switch {
		case p.Tree != "":
			err = g.stage(p.Tree, dir)
		case p.MountPoint != "" && p.Kind != KindSwap && p.Type != "vfat":
			err = g.mount(p, dir)
		default:
			continue
		}
		if err != nil {
			return fmt.Errorf("filesystem %s: %w", p.MountPoint, err)
		}
		if err := g.add(p, dir); err != nil {
			return err
		}
	}
	return g.arrange(facts)
}

func (g *Image) add(p Partition, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	g.undo = append(g.undo, root.Close)
	g.filesys = append(g.filesys, &Filesystem{Partition: p, Root: root})
	return nil
}

// mount shows the partition at dir. The kernel follows no link of the guest there,
// runs no program of it and opens no device of it.
func (g *Image) mount(p Partition, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	g.undo = append(g.undo, func() error { return os.Remove(dir) })
	loop, err := attachLoop(g.Disk, p.Offset, p.Size)
	if err != nil {
		return err
	}
	defer loop.Close() // the mount holds it from here on
	data := ""
	switch p.Type {
	case "xfs":
		data = "nouuid" // the replica it was cloned from may be mounted too
	case "btrfs":
		data = "subvolid=5"
	}
	flags := uintptr(unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NOSYMFOLLOW)
	if err := unix.Mount(loop.Name(), dir, p.Type, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", p.Type, err)
	}
	g.undo = append(g.undo, func() error { return unix.Unmount(dir, 0) })
	if p.Type != "btrfs" {
		return nil
	}
	if err := checkBtrfsDevice(dir, loop.Name()); err != nil {
		return err
	}
	return g.unlockSubvolumes(dir)
}

// stage copies the tree of a vfat filesystem: directories and regular files, for
// vfat knows no other.
func (g *Image) stage(tree, dir string) error {
	from, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	g.undo = append(g.undo, func() error { return os.RemoveAll(dir) })
	to, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	return fs.WalkDir(from.FS(), ".", func(p string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case p == ".":
			return nil
		case e.IsDir():
			return to.Mkdir(p, 0o755)
		case e.Type().IsRegular():
			return copyFile(from, to, p)
		}
		return nil
	})
}

func copyFile(from, to *os.Root, p string) error {
	in, err := from.OpenFile(p, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenFile(p, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// arrange works out what the guest sees where, from the source's mounts.
func (g *Image) arrange(facts *agentpb.Facts) error {
	for _, f := range g.filesys {
		if f.MountPoint == "" {
			continue // an ESP that the source has not: the guest sees it nowhere
		}
		sub := "."
		for _, m := range mountsOf(facts, f.MountPoint) {
			part := path.Clean("/" + m.GetRoot())[1:]
			if part == "" {
				part = "."
			}
			point := path.Clean("/" + m.GetMountPoint())
			if point == f.MountPoint {
				sub = part
				continue
			}
			g.places = append(g.places, place{point, f, part})
		}
		g.places = append(g.places, place{f.MountPoint, f, sub})
	}
	slices.SortStableFunc(g.places, func(a, b place) int { return len(b.point) - len(a.point) })
	if n := len(g.places); n == 0 || g.places[n-1].point != "/" {
		return errors.New("no root filesystem")
	}
	return nil
}

func mountsOf(facts *agentpb.Facts, mountPoint string) []*agentpb.Mount {
	for _, f := range facts.GetFilesystems() {
		if f.GetMountPoint() == mountPoint {
			return f.GetMounts()
		}
	}
	return nil
}

// at returns the filesystem that the guest mounts at exactly point, and the part
// of it; nil if none.
func (g *Image) at(point string) (*Filesystem, string) {
	for _, pl := range g.places {
		if pl.point == point {
			return pl.fs, pl.sub
		}
	}
	return nil, ""
}

// partition returns the first partition of a kind, or nil.
func (g *Image) partition(k Kind) *Partition {
	for i := range g.Partitions {
		if g.Partitions[i].Kind == k {
			return &g.Partitions[i]
		}
	}
	return nil
}

// Close writes the vfat filesystems and unmounts the others. The image holds all
// changes when it returns nil. Closing again does nothing.
func (g *Image) Close() error {
	var errs []error
	for _, f := range g.filesys {
		if f.Tree != "" {
			errs = append(errs, writeFAT(g.Disk, f.Partition, f.Root.Name()))
		}
	}
	g.filesys = nil
	if err := errors.Join(append(errs, g.release())...); err != nil {
		return fmt.Errorf("close image %s: %w", g.Disk, err)
	}
	return nil
}

// release undoes what Open did, last things first.
func (g *Image) release() error {
	var errs []error
	for _, undo := range slices.Backward(g.undo) {
		errs = append(errs, undo())
	}
	g.undo = nil
	return errors.Join(errs...)
}

// hasUUID reports whether a filesystem or swap area of the image has the UUID;
// vfat serial numbers compare without regard to case.
func (g *Image) hasUUID(uuid string) bool {
	return uuid != "" && slices.ContainsFunc(g.Partitions, func(p Partition) bool { return strings.EqualFold(p.UUID, uuid) })
}

func (g *Image) hasLabel(label string) bool {
	return label != "" && slices.ContainsFunc(g.Partitions, func(p Partition) bool { return p.Label == label })
}

func (g *Image) hasPartUUID(id string) bool {
	return id != "" && slices.ContainsFunc(g.Partitions, func(p Partition) bool { return strings.EqualFold(p.PartUUID, id) })
}

// Export copies a regular file of the guest to dst on this host.
func (g *Image) Export(p, dst string) error {
	in, _, err := g.open(p)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
