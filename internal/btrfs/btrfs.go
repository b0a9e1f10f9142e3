// Package btrfs speaks of subvolumes with the kernel: which there are, and how to
// make, remove, snapshot and mark them. It runs no program.
package btrfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"sort"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/btrfs.h and linux/btrfs_tree.h call these.
const (
	iocDefault      = 0x40089413 // BTRFS_IOC_DEFAULT_SUBVOL
	iocSetFlags     = 0x4008941a // BTRFS_IOC_SUBVOL_SETFLAGS
	iocGetFlags     = 0x80089419 // BTRFS_IOC_SUBVOL_GETFLAGS
	iocCreate       = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	iocDestroy      = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	iocSnapshot     = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	iocTreeSearch   = 0xd0009411 // BTRFS_IOC_TREE_SEARCH
	iocInoLookup    = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	flagReadOnly    = 1 << 1
	rootTree        = 1
	topSubvolume    = 5
	rootTreeDir     = 6
	typeDirItem     = 84
	typeRootItem    = 132
	typeRootBackref = 144
	firstFree       = 256
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type volArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

type searchKey struct {
	treeID                             uint64
	minObjectid, maxObjectid           uint64
	minOffset, maxOffset               uint64
	minTransid, maxTransid             uint64
	minType, maxType, nrItems, unused  uint32
	unused1, unused2, unused3, unused4 uint64
}

type searchArgs struct {
	key searchKey
	buf [4096 - 104]byte
}

type inoLookupArgs struct {
	treeID, objectid uint64
	name             [4080]byte
}

func withDir(path string, f func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return f(fd)
}

// Create makes a subvolume called name in the directory dir.
func Create(dir int, name string) error {
	var a volArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctlPtr(dir, iocCreate, unsafe.Pointer(&a))
}

// Delete removes the subvolume called name from the directory dir.
func Delete(dir, name string) error {
	return withDir(dir, func(fd int) error { return DeleteAt(fd, name) })
}

func DeleteAt(dir int, name string) error {
	var a volArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctlPtr(dir, iocDestroy, unsafe.Pointer(&a))
}

// Snapshot takes a read-only snapshot of the subvolume at source, called name
// in the directory dir.
func Snapshot(source, dir, name string) error {
	return withDir(source, func(src int) error {
		return withDir(dir, func(dst int) error {
			a := volArgsV2{fd: int64(src), flags: flagReadOnly}
			copy(a.name[:len(a.name)-1], name)
			return ioctlPtr(dst, iocSnapshot, unsafe.Pointer(&a))
		})
	})
}

// Subvolume is one subvolume of a filesystem.
type Subvolume struct {
	ID       uint64
	Path     string // from the top of the filesystem
	ReadOnly bool
	Snapshot bool // it was made as one of another
	Default  bool // it is what a mount shows that names none
}

// Subvolumes returns all subvolumes of the filesystem that holds the directory dir,
// but for its top itself: parents first.
func Subvolumes(dir string) (all []Subvolume, err error) {
	err = withDir(dir, func(fd int) error {
		refs, err := backrefsOf(fd)
		if err != nil {
			return err
		}
		byDefault, err := defaultOf(fd)
		if err != nil {
			return err
		}
		for id := range refs {
			s := Subvolume{ID: id, Default: id == byDefault}
			if s.Path, err = refs.path(fd, id, 0); err != nil {
				return err
			}
			if err := s.readRoot(fd); err != nil {
				return err
			}
			all = append(all, s)
		}
		return nil
	})
	sort.Slice(all, func(i, j int) bool {
		a, b := strings.Count(all[i].Path, "/"), strings.Count(all[j].Path, "/")
		return a < b || a == b && all[i].Path < all[j].Path
	})
	return all, err
}

// Paths returns the paths of all subvolumes as Subvolumes does.
func Paths(dir string) ([]string, error) {
	all, err := Subvolumes(dir)
	var paths []string
	for _, s := range all {
		paths = append(paths, s.Path)
	}
	return paths, err
}

// SetReadOnly marks the subvolume whose root fd is as read-only, or as writable.
func SetReadOnly(fd int, readOnly bool) error {
	var flags uint64
	if err := ioctlPtr(fd, iocGetFlags, unsafe.Pointer(&flags)); err != nil {
		return os.NewSyscallError("get flags of subvolume", err)
	}
	want := flags &^ flagReadOnly
	if readOnly {
		want |= flagReadOnly
	}
	if want == flags {
		return nil
	}
	return os.NewSyscallError("set flags of subvolume", ioctlPtr(fd, iocSetFlags, unsafe.Pointer(&want)))
}

// SetDefault makes a subvolume the one that a mount shows which names none; id 0 is
// the top. fd is any directory of the filesystem.
func SetDefault(fd int, id uint64) error {
	if id == 0 {
		id = topSubvolume
	}
	return os.NewSyscallError("set default subvolume", ioctlPtr(fd, iocDefault, unsafe.Pointer(&id)))
}

// backref says where a subvolume hangs: in directory dir of subvolume parent.
type backref struct {
	parent, dir uint64
	name        string
}

type backrefs map[uint64]backref

func (refs backrefs) path(fd int, id uint64, depth int) (string, error) {
	if id == topSubvolume {
		return "", nil
	}
	r, ok := refs[id]
	if !ok || depth > 64 {
		return "", fmt.Errorf("subvolume %d has no path", id)
	}
	parent, err := refs.path(fd, r.parent, depth+1)
	if err != nil {
		return "", err
	}
	a := inoLookupArgs{treeID: r.parent, objectid: r.dir}
	if err := ioctlPtr(fd, iocInoLookup, unsafe.Pointer(&a)); err != nil {
		return "", fmt.Errorf("look up directory %d: %w", r.dir, err)
	}
	dir := strings.Trim(string(a.name[:clen(a.name[:])]), "/")
	return path.Join(parent, dir, r.name), nil
}

func clen(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return len(b)
}

// backrefsOf reads the ROOT_BACKREF items of the root tree: key.objectid is the
// subvolume, key.offset its parent; the item is dirid u64, sequence u64, length of
// name u16, name.
func backrefsOf(fd int) (backrefs, error) {
	refs := backrefs{}
	key := searchKey{minObjectid: firstFree, maxObjectid: 1<<64 - 256, minType: typeRootBackref, maxType: typeRootBackref}
	err := search(fd, key, func(id, parent uint64, item []byte) {
		if len(item) >= 18 {
			l := int(le.Uint16(item[16:]))
			refs[id] = backref{parent, le.Uint64(item), string(item[18:min(18+l, len(item))])}
		}
	})
	return refs, err
}

// defaultOf reads which subvolume is the default: the directory item "default" of
// the root tree's directory. It begins with the key of what it names; its name is
// behind 30 bytes.
func defaultOf(fd int) (id uint64, err error) {
	key := searchKey{minObjectid: rootTreeDir, maxObjectid: rootTreeDir, minType: typeDirItem, maxType: typeDirItem}
	err = search(fd, key, func(_, _ uint64, item []byte) {
		if len(item) >= 30 && string(item[30:]) == "default" {
			id = le.Uint64(item)
		}
	})
	return id, err
}

// readRoot reads the ROOT_ITEM of a subvolume, struct btrfs_root_item: flags at 208,
// the UUID of what it is a snapshot of at 263, in all that are not very old.
func (s *Subvolume) readRoot(fd int) error {
	key := searchKey{minObjectid: s.ID, maxObjectid: s.ID, minType: typeRootItem, maxType: typeRootItem}
	return search(fd, key, func(_, _ uint64, item []byte) {
		if len(item) >= 216 {
			s.ReadOnly = le.Uint64(item[208:])&1 != 0
		}
		if len(item) >= 279 {
			s.Snapshot = string(item[263:279]) != string(make([]byte, 16))
		}
	})
}

var le = binary.LittleEndian

// search calls each for all items of the root tree between the ids and types of key,
// with their id and offset. The kernel takes id, type and offset for one long number:
// it tells items of other types, too, and stops anywhere.
func search(fd int, key searchKey, each func(id, offset uint64, item []byte)) error {
	key.treeID, key.maxOffset, key.maxTransid = rootTree, 1<<64-1, 1<<64-1
	first, last := key.minType, key.maxType
	for {
		a := searchArgs{key: key}
		a.key.nrItems = 4096
		if err := ioctlPtr(fd, iocTreeSearch, unsafe.Pointer(&a)); err != nil {
			return os.NewSyscallError("search the tree of roots", err)
		}
		if a.key.nrItems == 0 {
			return nil
		}
		b := a.buf[:]
		for range a.key.nrItems {
			// struct btrfs_ioctl_search_header: transid, objectid, offset u64; type, len u32
			id, offset, typ, n := le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint32(b[24:]), le.Uint32(b[28:])
			if typ >= first && typ <= last {
				each(id, offset, b[32:32+n])
			}
			b = b[32+n:]
			key.minObjectid, key.minType, key.minOffset = id, typ, offset+1
			if key.minOffset == 0 {
				key.minType++
			}
		}
	}
}

func ioctlPtr(fd int, request uintptr, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
