package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// loopDevice is a loop device over a stretch of a file. The kernel lets go of it
// by itself when the last user closes it (LO_FLAGS_AUTOCLEAR), so it cannot
// outlive this process and its mounts, not even after kill -9.
type loopDevice struct {
	file *os.File
	path string
}

// Close drops this handle. The device lives on while it is mounted.
func (d *loopDevice) Close() error { return d.file.Close() }

type loopOptions struct {
	offset, size int64 // size 0 is to the end of the file
	readOnly     bool
	direct       bool   // go past the page cache of the filesystem beneath, which would hold all twice
	sector       uint32 // bytes that the device works in; 0 is what suits direct. Where direct cannot do it, the kernel does without
}

// attachLoop binds a free loop device to backing.
func attachLoop(backing *os.File, o loopOptions) (*loopDevice, error) {
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("attach loop device: %w", err)
	}
	defer ctl.Close()
	// Another process may take the free device between the two calls: ask again.
	for try := range 100 {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("attach loop device: find a free one: %w", err)
		}
		d, err := configureLoop(fmt.Sprintf("/dev/loop%d", n), backing, o)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("attach loop device to %s: %w", backing.Name(), err)
		}
		time.Sleep(time.Duration(try) * time.Millisecond)
	}
	return nil, fmt.Errorf("attach loop device to %s: every free device was taken by someone else: %w",
		backing.Name(), unix.EBUSY)
}

func configureLoop(path string, backing *os.File, o loopOptions) (*loopDevice, error) {
	mode := os.O_RDWR
	flags := uint32(unix.LO_FLAGS_AUTOCLEAR)
	if o.readOnly {
		mode = os.O_RDONLY
		flags |= unix.LO_FLAGS_READ_ONLY
	}
	if o.direct {
		flags |= unix.LO_FLAGS_DIRECT_IO
	}
	f, err := os.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	c := unix.LoopConfig{Fd: uint32(backing.Fd()), Size: o.sector}
	c.Info.Offset = uint64(o.offset)
	c.Info.Sizelimit = uint64(o.size)
	c.Info.Flags = flags
	copy(c.Info.File_name[:unix.LO_NAME_SIZE-1], filepath.Base(backing.Name()))
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &c); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", path, err), f.Close())
	}
	return &loopDevice{file: f, path: path}, nil
}

// findLoop returns the path of a loop device bound to the file at path, at
// whatever offset, or "" if there is none. It compares device and inode, because
// the name sysfs shows depends on the mount namespace of who looks.
func findLoop(path string) (string, error) {
	var want unix.Stat_t
	err := unix.Stat(path, &want)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find loop device of %s: %w", path, err)
	}
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", fmt.Errorf("find loop device of %s: %w", path, err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || filepath.Base(strings.TrimSpace(string(b))) != filepath.Base(path) {
			continue // gone meanwhile, or another file
		}
		dev := "/dev/" + strings.Split(name, "/")[3]
		if same, err := loopShows(dev, &want); err == nil && same {
			return dev, nil
		}
	}
	return "", nil
}

// waitLoopGone waits until no loop device shows the file at path. When a process
// is killed its lock goes a moment before its mounts do: who mounts in that moment
// has one filesystem mounted twice.
func waitLoopGone(path string, patience time.Duration) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		dev, err := findLoop(path)
		if err != nil || dev == "" {
			return err
		}
		if time.Now().After(deadline) {
			err := fmt.Errorf("%s is still attached to %s: %w", path, dev, ErrLocked)
			return dr.WithHint(err, "a process that an earlier Leeward started still has it mounted, or someone "+
				"attached it by hand: end that, or detach it with losetup -d "+dev)
		}
	}
}

func loopShows(dev string, want *unix.Stat_t) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return false, err
	}
	return info.Inode == want.Ino && info.Device == want.Dev, nil
}
