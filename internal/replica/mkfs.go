package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/fsinfo"
)

// ErrUnsupported says that no replica can hold something of the source here.
var ErrUnsupported = errors.New("not supported")

// maker is what this package knows of one filesystem type.
type maker struct {
	tree    bool   // never made nor mounted: a plain tree beside the disk
	inodes  bool   // has a fixed number of inodes
	least   int64  // the smallest that can be made, bytes
	slack   int64  // percent added, where another mkfs may put more metadata on as many bytes
	mount   string // the kernel's name of the type
	options string // mount options of the replica
	// adapt changes the plan for what the source's kernel must be able to mount; may be nil.
	adapt func(p *Partition, kernel string)
	// make makes the filesystem on the empty device dev, and adds to p.Notes what is
	// not as at the source.
	make func(ctx context.Context, dev string, p *Partition) error
	// grow lets the filesystem fill its device, which is mounted at dir, or at "" is not.
	grow        func(ctx context.Context, dev, dir string) error
	growMounted bool
}

// makerOf returns what is known of a filesystem type.
func makerOf(fstype string) (maker, error) {
	switch fstype {
	case "ext2", "ext3", "ext4":
		// One driver mounts all three. Inode tables of a fresh sparse image are zero
		// already; without noinit_itable the kernel would write them.
		return maker{inodes: true, least: 8 * mebibyte, mount: "ext4", make: makeExt, grow: growExt,
			options: "errors=remount-ro,noinit_itable,discard"}, nil
	case "xfs":
		// nouuid: the source, another replica or a clone may be mounted here, too.
		return maker{least: smallestPool, slack: 2, mount: "xfs", make: makeXFS, grow: growXFS, growMounted: true,
			adapt: adaptXFS, options: "nouuid,noquota,discard"}, nil
	case "btrfs":
		// Linux resizes none below 256 MiB.
		return maker{least: 256 * mebibyte, slack: 2, mount: "btrfs", make: makeBtrfs, grow: growBtrfs, growMounted: true,
			options: "subvolid=5,skip_balance"}, nil
	case "vfat":
		return maker{tree: true, least: mebibyte}, nil
	case "swap":
		return maker{make: makeSwap, least: mebibyte}, nil
	}
	err := fmt.Errorf("type %q: %w", fstype, ErrUnsupported)
	return maker{}, dr.WithHint(err, "Leeward carries ext2, ext3, ext4, XFS, btrfs and vfat; "+
		"exclude the filesystem from this server in leeward.yaml and protect it by other means")
}

// makePartition makes the filesystem of p in the image.
func makePartition(ctx context.Context, image *os.File, p *Partition) error {
	if p.Kind == BIOSBoot || p.Tree || p.Kind == ESP && p.MountPoint == "" {
		return nil
	}
	m, err := makerOf(p.Type)
	if err != nil {
		return err
	}
	dev, err := attachLoop(image, loopOptions{offset: p.Offset, size: p.Size})
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := m.make(ctx, dev.path, p); err != nil {
		return fmt.Errorf("make %s filesystem of %s: %w", p.Type, p.name(), err)
	}
	if err := dev.file.Sync(); err != nil {
		return fmt.Errorf("make %s filesystem of %s: %w", p.Type, p.name(), err)
	}
	return checkSuperblock(dev.file, p)
}

// ErrForeign marks the error of a partition that does not hold the filesystem it should.
var ErrForeign = errors.New("not the filesystem that belongs here")

// checkSuperblock refuses a device that does not hold the filesystem of p.
func checkSuperblock(dev *os.File, p *Partition) error {
	info, err := fsinfo.Detect(dev)
	if err != nil {
		return fmt.Errorf("check %s: %w", p.name(), err)
	}
	if !sameType(info.Type, p.Type) || !strings.EqualFold(info.UUID, p.UUID) {
		return fmt.Errorf("check %s: %w: found %s with UUID %s, want %s with UUID %s",
			p.name(), ErrForeign, info.Type, info.UUID, p.Type, p.UUID)
	}
	return nil
}

// sameType takes ext2, ext3 and ext4 for one: which of them a superblock is
// called depends on its features only.
func sameType(a, b string) bool {
	return a == b || strings.HasPrefix(a, "ext") && strings.HasPrefix(b, "ext")
}

// name names a partition in messages.
func (p *Partition) name() string {
	if p.MountPoint != "" {
		return p.MountPoint
	}
	return fmt.Sprintf("%s partition %d", p.Kind, p.Number)
}

func makeSwap(ctx context.Context, dev string, p *Partition) error {
	args := []string{"-U", p.UUID}
	if p.Label != "" {
		args = append(args, "-L", p.Label)
	}
	_, err := tool{name: "mkswap", args: append(args, dev)}.run(ctx)
	return err
}
