package adapt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const loopTries = 64

// attachLoop shows a stretch of the file as a block device, which goes away by
// itself when its last user closes it.
func attachLoop(file string, offset, size int64) (*os.File, error) {
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Offset, config.Info.Sizelimit = uint64(offset), uint64(size)
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find free loop device: %w", err)
		}
		dev, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) { // another process was quicker: take the next
			return nil, fmt.Errorf("configure loop device: %w", err)
		}
	}
	return nil, errors.New("no free loop device")
}

// btrfsDevInfo is struct btrfs_ioctl_dev_info_args of linux/btrfs.h.
type btrfsDevInfo struct {
	DevID      uint64
	UUID       [16]byte
	BytesUsed  uint64
	TotalBytes uint64
	FSID       [16]byte
	Unused     [377]uint64
	Path       [1024]byte
}

const btrfsIocDevInfo = 0xd000941e // _IOWR(0x94, 30, 4096 bytes)

// checkBtrfsDevice makes sure that the btrfs mounted at dir lives on dev. A
// kernel before 6.7 may answer the mount of a clone with the filesystem it was
// cloned from, and what is written would land in the replica.
func checkBtrfsDevice(dir, dev string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	info := btrfsDevInfo{DevID: 1}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), btrfsIocDevInfo, uintptr(unsafe.Pointer(&info))); e != 0 {
		return fmt.Errorf("ask btrfs for its device: %w", e)
	}
	got, _, _ := bytes.Cut(info.Path[:], []byte{0})
	if string(got) != dev {
		return fmt.Errorf("the kernel mounted %s in place of %s, a clone of it: needs Linux 6.7 or no other use of the replica",
			got, dev)
	}
	return nil
}
