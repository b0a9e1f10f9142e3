package adapt

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/btrfs"
)

// unlockSubvolumes lets the guest's read-only subvolumes be changed, its root may be
// one, until the image is closed. top shows the whole filesystem.
func (g *Image) unlockSubvolumes(top string) error {
	all, err := btrfs.Subvolumes(top)
	if err != nil {
		return fmt.Errorf("list subvolumes: %w", err)
	}
	for _, s := range all {
		if !s.ReadOnly {
			continue
		}
		path := filepath.Join(top, s.Path)
		if err := markSubvolume(path, false); err != nil {
			return err
		}
		g.undo = append(g.undo, func() error { return markSubvolume(path, true) })
	}
	return nil
}

// markSubvolume follows no link: the kernel resolves none on this mount.
func markSubvolume(path string, readOnly bool) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open subvolume %s: %w", path, err)
	}
	defer unix.Close(fd)
	return btrfs.SetReadOnly(fd, readOnly)
}
