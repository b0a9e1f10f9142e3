package tree

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// Inode flags as chattr shows them (linux/fs.h). Those a copy carries: secrm,
// unrm, compr, sync, immutable, append, nodump, noatime, dirsync, topdir, nocow,
// nocompress, journal-data, notail, project-inherit. Not encrypt, verity, extents,
// inline data or casefold, which say how the filesystem stores the file.
const (
	flagImmutable = 0x10
	flagAppend    = 0x20
	flagNoCow     = 0x00800000
	carriedFlags  = 0x1 | 0x2 | 0x4 | 0x8 | flagImmutable | flagAppend | 0x40 | 0x80 | 0x400 | 0x4000 | 0x8000 | 0x10000 | 0x20000 | flagNoCow | 0x20000000
	lockingFlags  = flagImmutable | flagAppend

	// FS_XFLAG bits that only the extended call shows: real-time inherit and the
	// like stay out; extent size hints are the filesystem's own business.
	ioctlGetXattr = 0x801c581f // FS_IOC_FSGETXATTR
	ioctlSetXattr = 0x401c5820 // FS_IOC_FSSETXATTR

	btrfsRootInode = 256 // BTRFS_FIRST_FREE_OBJECTID: the root of each subvolume
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	pad                                           [8]byte
}

func setStat(m *agentpb.Meta, st *unix.Stat_t) {
	m.Mode, m.Uid, m.Gid = st.Mode, st.Uid, st.Gid
	m.Size = uint64(st.Size)
	m.MtimeSec, m.MtimeNsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
	m.CtimeSec, m.CtimeNsec = st.Ctim.Sec, uint32(st.Ctim.Nsec)
	m.Inode, m.Links, m.Device = st.Ino, uint32(st.Nlink), st.Rdev
	if kindOf(st.Mode) != unix.S_IFREG && kindOf(st.Mode) != unix.S_IFLNK {
		m.Size = 0 // the size of a directory is its filesystem's business
	}
}

func kindOf(mode uint32) uint32 { return mode & unix.S_IFMT }

// sameStat reports whether nothing about the inode changed between a and b.
func sameStat(a, b *unix.Stat_t) bool {
	return a.Ino == b.Ino && a.Dev == b.Dev && a.Size == b.Size && a.Mtim == b.Mtim && a.Ctim == b.Ctim && a.Mode == b.Mode
}

// readMeta returns all of dir's entry name but its content. fd is an open
// descriptor of it, or -1: then flags and project stay unknown, which is right
// for what cannot have any.
func readMeta(dir int, name string, fd int, st *unix.Stat_t) (*agentpb.Meta, error) {
	m := &agentpb.Meta{}
	setStat(m, st)
	var err error
	if kindOf(st.Mode) == unix.S_IFLNK {
		if m.Target, err = readlink(dir, name, st.Size); err != nil {
			return nil, fmt.Errorf("readlink: %w", err)
		}
	}
	path := xattrPath(dir, name, fd)
	if m.Xattrs, err = readXattrs(path); err != nil {
		return nil, fmt.Errorf("read xattrs: %w", err)
	}
	if fd >= 0 {
		readFlags(fd, m)
	}
	return m, nil
}

// xattrPath names an entry for the path-based xattr calls without giving anyone
// the chance to put a link in between: the directory is an open descriptor.
func xattrPath(dir int, name string, fd int) string {
	if name == "" {
		if fd < 0 {
			fd = dir
		}
		return "/proc/self/fd/" + strconv.Itoa(fd) + "/."
	}
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

func readlink(dir int, name string, size int64) ([]byte, error) {
	buf := make([]byte, max(size+1, 256))
	for {
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return nil, err
		}
		if n < len(buf) {
			return buf[:n], nil
		}
		buf = make([]byte, 2*len(buf))
	}
}

func readXattrs(path string) ([]*agentpb.Xattr, error) {
	var small [1024]byte
	list := small[:]
	n, err := unix.Llistxattr(path, list)
	if err == unix.ERANGE {
		list = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Llistxattr(path, list)
	}
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) {
			return nil, nil
		}
		return nil, err
	}
	var out []*agentpb.Xattr
	for name := range bytes.SplitSeq(list[:n], []byte{0}) {
		if len(name) == 0 || string(name) == "system.nfs4_acl" {
			continue
		}
		value, err := readXattr(path, string(name))
		if err == unix.ENODATA {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		out = append(out, &agentpb.Xattr{Name: bytes.Clone(name), Value: value})
	}
	slices.SortFunc(out, func(a, b *agentpb.Xattr) int { return bytes.Compare(a.Name, b.Name) })
	return out, nil
}

func readXattr(path, name string) ([]byte, error) {
	buf := make([]byte, 512)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		if err == unix.ERANGE {
			buf = make([]byte, 64<<10) // XATTR_SIZE_MAX
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n:n], nil
	}
}

func readFlags(fd int, m *agentpb.Meta) {
	if flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS); err == nil {
		m.Flags = flags & carriedFlags
	}
	var x fsxattr
	if ioctlPtr(fd, ioctlGetXattr, unsafe.Pointer(&x)) == nil {
		m.Project = x.projid
	}
}

func ioctlPtr(fd int, req uint, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

func setFlags(fd int, flags uint32) error {
	// Flags that are not carried keep their state.
	now, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil {
		if flags == 0 {
			return nil // a filesystem without flags has none to clear
		}
		return fmt.Errorf("read flags: %w", err)
	}
	want := now&^carriedFlags | flags&carriedFlags
	if want == now {
		return nil
	}
	if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(want)); err != nil {
		// No-copy-on-write only takes on an empty file, and some kernels refuse
		// single flags: try without it before giving up.
		if want&flagNoCow != now&flagNoCow {
			return setFlags(fd, flags&^flagNoCow|now&flagNoCow)
		}
		return fmt.Errorf("set flags %#x: %w", flags, err)
	}
	return nil
}

func setProject(fd int, project uint32) error {
	var x fsxattr
	if err := ioctlPtr(fd, ioctlGetXattr, unsafe.Pointer(&x)); err != nil || x.projid == project {
		return nil // no project ids here, or right already
	}
	x.projid = project
	if err := ioctlPtr(fd, ioctlSetXattr, unsafe.Pointer(&x)); err != nil {
		return fmt.Errorf("set project id %d: %w", project, err)
	}
	return nil
}

// unlock clears the flags that forbid changing the inode behind fd, and reports
// whether there were any.
func unlock(fd int) bool {
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&lockingFlags == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^lockingFlags)) == nil
}

// applyMeta makes dir's entry name as m says, in the order that the kernel needs:
// owner first, which clears setuid bits and capabilities; then mode; xattrs; times;
// flags last. fd is an open descriptor of it, or -1 for what cannot be opened.
func applyMeta(dir int, name string, fd int, m *agentpb.Meta) error {
	var st unix.Stat_t
	if err := lstat(dir, name, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if fd >= 0 {
		unlock(fd)
	}
	if st.Uid != m.Uid || st.Gid != m.Gid {
		if err := unix.Fchownat(dir, name, int(m.Uid), int(m.Gid), unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("chown: %w", err)
		}
		st.Mode &^= 0o6000 // cleared by chown, or must be set anew
	}
	if kindOf(m.Mode) != unix.S_IFLNK && (st.Mode&0o7777 != m.Mode&0o7777) {
		if err := chmod(dir, name, fd, m.Mode&0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	path := xattrPath(dir, name, fd)
	if err := applyXattrs(path, m.Xattrs); err != nil {
		return err
	}
	if fd >= 0 {
		if err := setProject(fd, m.Project); err != nil {
			return err
		}
	}
	if err := setTimes(dir, name, m); err != nil {
		return err
	}
	if fd >= 0 {
		return setFlags(fd, m.Flags)
	}
	return nil
}

func chmod(dir int, name string, fd int, mode uint32) error {
	if fd >= 0 {
		return unix.Fchmod(fd, mode)
	}
	// The directory is open and the entry is no link, for we have just made it
	// or seen it; fchmodat has no way to say so before Linux 6.6.
	return unix.Fchmodat(dir, name, mode, 0)
}

func setTimes(dir int, name string, m *agentpb.Meta) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.MtimeSec, Nsec: int64(m.MtimeNsec)}}
	if name == "" {
		// Not all kernels take AT_EMPTY_PATH here.
		name = "."
	}
	if err := unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func applyXattrs(path string, want []*agentpb.Xattr) error {
	have, err := readXattrs(path)
	if err != nil {
		return fmt.Errorf("read xattrs: %w", err)
	}
	for _, h := range have {
		if !slices.ContainsFunc(want, func(w *agentpb.Xattr) bool { return bytes.Equal(w.Name, h.Name) }) {
			if err := unix.Lremovexattr(path, string(h.Name)); err != nil && err != unix.ENODATA {
				return fmt.Errorf("remove xattr %s: %w", h.Name, err)
			}
		}
	}
	for _, w := range want {
		if slices.ContainsFunc(have, func(h *agentpb.Xattr) bool {
			return bytes.Equal(w.Name, h.Name) && bytes.Equal(w.Value, h.Value)
		}) {
			continue
		}
		if err := unix.Lsetxattr(path, string(w.Name), w.Value, 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", w.Name, err)
		}
	}
	return nil
}
