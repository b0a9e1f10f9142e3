package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/fsinfo"
)

// foreignOptions mount a filesystem as it lies there, without replaying its
// journal: the image belongs to somebody else.
var foreignOptions = map[string]string{
	"ext2": "", "ext3": "noload", "ext4": "noload", "xfs": "norecovery,nouuid", "btrfs": "subvolid=5",
}

// MountForeign mounts the filesystems in a raw disk image that is no replica, read
// only, in the private mount namespace of this process, and returns their
// directories. Filesystems of other types are passed over; none at all is an
// error. closer unmounts them.
func MountForeign(ctx context.Context, image string) (dirs []string, closer func() error, err error) {
	f, err := os.Open(image)
	if err != nil {
		return nil, nil, fmt.Errorf("open image: %w", err)
	}
	defer f.Close()
	spans, err := foreignSpans(ctx, f)
	if err != nil {
		return nil, nil, err
	}
	at, err := os.MkdirTemp("", "leeward-image-")
	if err != nil {
		return nil, nil, fmt.Errorf("mount image: %w", err)
	}
	if err := refuseShared(at); err != nil {
		return nil, nil, errors.Join(err, os.Remove(at))
	}
	closer = func() error {
		var errs []error
		for _, d := range dirs {
			errs = append(errs, unix.Unmount(d, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH), os.Remove(d))
		}
		return errors.Join(append(errs, os.Remove(at))...)
	}
	for i, s := range spans {
		dir := filepath.Join(at, strconv.Itoa(i))
		if err := mountSpan(f, s, dir); err != nil {
			return nil, nil, errors.Join(err, closer())
		}
		dirs = append(dirs, dir)
	}
	return dirs, closer, nil
}

// span is a filesystem within an image.
type span struct {
	offset, size int64 // size 0 is to the end
	fstype       string
}

func foreignSpans(ctx context.Context, f *os.File) ([]span, error) {
	if info, err := fsinfo.Detect(f); err == nil {
		if _, ok := foreignOptions[info.Type]; ok {
			return []span{{fstype: info.Type}}, nil
		}
	}
	out, err := (tool{name: "sfdisk", args: []string{"--json", f.Name()}}).run(ctx)
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	var table struct {
		PartitionTable struct {
			SectorSize int64
			Partitions []struct{ Start, Size int64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}
	sector := max(table.PartitionTable.SectorSize, 512)
	var spans []span
	for _, p := range table.PartitionTable.Partitions {
		info, err := fsinfo.Detect(io.NewSectionReader(f, p.Start*sector, p.Size*sector))
		if err != nil {
			continue
		}
		if _, ok := foreignOptions[info.Type]; ok {
			spans = append(spans, span{p.Start * sector, p.Size * sector, info.Type})
		}
	}
	if len(spans) == 0 {
		return nil, fmt.Errorf("no ext4, XFS or btrfs filesystem in it")
	}
	return spans, nil
}

func mountSpan(f *os.File, s span, dir string) error {
	dev, err := attachLoop(f, loopOptions{offset: s.offset, size: s.size, readOnly: true})
	if err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	defer dev.Close() // the mount keeps the device
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("mount image: %w", err)
	}
	if err := unix.Mount(dev.path, dir, s.fstype, mountFlags|unix.MS_RDONLY, foreignOptions[s.fstype]); err != nil {
		return errors.Join(fmt.Errorf("mount %s at byte %d of the image: %w", s.fstype, s.offset, err), os.Remove(dir))
	}
	return nil
}
