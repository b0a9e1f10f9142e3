package tree

import (
	"encoding/binary"
	"fmt"
	"os"
	"sort"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/btrfs.h and linux/btrfs_tree.h call these.
const (
	btrfsIocSubvolCreate = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	btrfsIocSnapDestroy  = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	btrfsIocSnapCreateV2 = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
	btrfsIocTreeSearch   = 0xd0009411 // BTRFS_IOC_TREE_SEARCH
	btrfsIocInoLookup    = 0xd0009412 // BTRFS_IOC_INO_LOOKUP
	btrfsSubvolReadOnly  = 1 << 1
	btrfsRootTree        = 1
	btrfsTopSubvolume    = 5
	btrfsRootBackref     = 144
	btrfsFirstFree       = 256
)

type btrfsVolArgs struct {
	fd   int64
	name [4088]byte
}

type btrfsVolArgsV2 struct {
	fd      int64
	transid uint64
	flags   uint64
	unused  [4]uint64
	name    [4040]byte
}

type btrfsSearchKey struct {
	treeID                             uint64
	minObjectid, maxObjectid           uint64
	minOffset, maxOffset               uint64
	minTransid, maxTransid             uint64
	minType, maxType, nrItems, unused  uint32
	unused1, unused2, unused3, unused4 uint64
}

type btrfsSearchArgs struct {
	key btrfsSearchKey
	buf [4096 - 104]byte
}

type btrfsInoLookupArgs struct {
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

// btrfsCreate makes a subvolume called name in the directory dir.
func btrfsCreate(dir int, name string) error {
	var a btrfsVolArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctlPtr(dir, btrfsIocSubvolCreate, unsafe.Pointer(&a))
}

// btrfsDelete removes the subvolume called name from the directory dir.
func btrfsDelete(dir, name string) error {
	return withDir(dir, func(fd int) error { return btrfsDeleteAt(fd, name) })
}

func btrfsDeleteAt(dir int, name string) error {
	var a btrfsVolArgs
	copy(a.name[:len(a.name)-1], name)
	return ioctlPtr(dir, btrfsIocSnapDestroy, unsafe.Pointer(&a))
}

// btrfsSnapshot takes a read-only snapshot of the subvolume at source, called name
// in the directory dir.
func btrfsSnapshot(source, dir, name string) error {
	return withDir(source, func(src int) error {
		return withDir(dir, func(dst int) error {
			a := btrfsVolArgsV2{fd: int64(src), flags: btrfsSubvolReadOnly}
			copy(a.name[:len(a.name)-1], name)
			return ioctlPtr(dst, btrfsIocSnapCreateV2, unsafe.Pointer(&a))
		})
	})
}

// btrfsSubvolumes returns the paths of all subvolumes below top, parents first.
func btrfsSubvolumes(top string) (paths []string, err error) {
	err = withDir(top, func(fd int) error {
		refs, err := btrfsBackrefs(fd)
		if err != nil {
			return err
		}
		for id := range refs {
			p, err := refs.path(fd, id, 0)
			if err != nil {
				return err
			}
			paths = append(paths, p)
		}
		return nil
	})
	sort.Slice(paths, func(i, j int) bool {
		a, b := strings.Count(paths[i], "/"), strings.Count(paths[j], "/")
		return a < b || a == b && paths[i] < paths[j]
	})
	return paths, err
}

// backref says where a subvolume hangs: in directory dir of subvolume parent.
type backref struct {
	parent, dir uint64
	name        string
}

type backrefs map[uint64]backref

func (refs backrefs) path(fd int, id uint64, depth int) (string, error) {
	if id == btrfsTopSubvolume {
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
	a := btrfsInoLookupArgs{treeID: r.parent, objectid: r.dir}
	if err := ioctlPtr(fd, btrfsIocInoLookup, unsafe.Pointer(&a)); err != nil {
		return "", fmt.Errorf("look up directory %d: %w", r.dir, err)
	}
	dir := strings.Trim(string(a.name[:clen(a.name[:])]), "/")
	return join(join(parent, dir), r.name), nil
}

func clen(b []byte) int {
	for i, c := range b {
		if c == 0 {
			return i
		}
	}
	return len(b)
}

// btrfsBackrefs reads the ROOT_BACKREF items of the root tree: key.objectid is the
// subvolume, key.offset its parent; the item is dirid u64, sequence u64, length of
// name u16, name.
func btrfsBackrefs(fd int) (backrefs, error) {
	refs := backrefs{}
	key := btrfsSearchKey{treeID: btrfsRootTree, minObjectid: btrfsFirstFree, maxObjectid: 1<<64 - 256,
		maxOffset: 1<<64 - 1, maxTransid: 1<<64 - 1, minType: btrfsRootBackref, maxType: btrfsRootBackref}
	for {
		a := btrfsSearchArgs{key: key}
		a.key.nrItems = 4096
		if err := ioctlPtr(fd, btrfsIocTreeSearch, unsafe.Pointer(&a)); err != nil {
			return nil, os.NewSyscallError("search the tree of roots", err)
		}
		if a.key.nrItems == 0 {
			return refs, nil
		}
		b := a.buf[:]
		var last uint64
		for range a.key.nrItems {
			// struct btrfs_ioctl_search_header: transid, objectid, offset u64; type, len u32
			le := binary.LittleEndian
			id, parent, typ, n := le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint32(b[24:]), le.Uint32(b[28:])
			item := b[32 : 32+n]
			b = b[32+n:]
			last = id
			if typ == btrfsRootBackref && n >= 18 {
				l := int(le.Uint16(item[16:]))
				refs[id] = backref{parent, le.Uint64(item), string(item[18:min(18+l, len(item))])}
			}
		}
		key.minObjectid = last + 1
	}
}
