package tree

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// A directory's listing is kept and compared in pages, so that one changed entry
// of a million costs a page and not a directory. Where pages end depends on names
// alone: behind a name whose hash says so, or after pageMax entries. An entry that
// comes or goes therefore moves one boundary at most.
const (
	pageMask = 63 // a page ends behind one name in 64, on average
	pageMax  = 1024
)

// endsPage reports whether a page of n entries that ends in name is complete.
func endsPage(name string, n int) bool {
	h := uint32(2166136261) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	h ^= h >> 15
	return h&pageMask == 0 || n >= pageMax
}

// dirKey names a directory in catalogs and baselines: a digest of its path.
type dirKey [16]byte

func keyOf(path string) (k dirKey) {
	sum := blake3.Sum256([]byte(path))
	copy(k[:], sum[:])
	return k
}

// pageKey names a page in a baseline.
func pageKey(dir dirKey, first []byte) uint64 {
	buf := make([]byte, 0, len(dir)+maxName)
	sum := blake3.Sum256(append(append(buf, dir[:]...), first...))
	return binary.BigEndian.Uint64(sum[:])
}

// entry is one row of a page.
type entry struct {
	name                 string
	mode, uid, gid       uint32
	size                 uint64
	mtimeSec, ctimeSec   int64
	mtimeNsec, ctimeNsec uint32
	inode                uint64
	links                uint32
	device               uint64
}

func entryOf(name string, st *unix.Stat_t) entry {
	e := entry{name: name, mode: st.Mode, uid: st.Uid, gid: st.Gid, size: uint64(st.Size),
		mtimeSec: st.Mtim.Sec, mtimeNsec: uint32(st.Mtim.Nsec), ctimeSec: st.Ctim.Sec, ctimeNsec: uint32(st.Ctim.Nsec),
		inode: st.Ino, links: uint32(st.Nlink)}
	switch kindOf(st.Mode) {
	case unix.S_IFCHR, unix.S_IFBLK:
		e.device = st.Rdev
	case unix.S_IFDIR:
		e.size, e.links = 0, 0 // change with every child and are not copied
	}
	return e
}

// entryOfMeta is the row that a scan would show for what m describes.
func entryOfMeta(name string, m *agentpb.Meta) entry {
	e := entry{name: name, mode: m.Mode, uid: m.Uid, gid: m.Gid, size: m.Size, mtimeSec: m.MtimeSec, mtimeNsec: m.MtimeNsec,
		ctimeSec: m.CtimeSec, ctimeNsec: m.CtimeNsec, inode: m.Inode, links: m.Links}
	switch kindOf(m.Mode) {
	case unix.S_IFCHR, unix.S_IFBLK:
		e.device = m.Device
	case unix.S_IFDIR:
		e.size, e.links = 0, 0
	}
	return e
}

// pack appends e to the page's columns. prev is the entry before it, or zero.
func pack(p *agentpb.Page, e, prev *entry) {
	p.Name = append(p.Name, []byte(e.name))
	p.Mode = append(p.Mode, e.mode)
	p.Uid = append(p.Uid, e.uid)
	p.Gid = append(p.Gid, e.gid)
	p.Size = append(p.Size, e.size)
	p.MtimeSec = append(p.MtimeSec, e.mtimeSec-prev.mtimeSec)
	p.MtimeNsec = append(p.MtimeNsec, e.mtimeNsec)
	p.CtimeSec = append(p.CtimeSec, e.ctimeSec-prev.ctimeSec)
	p.CtimeNsec = append(p.CtimeNsec, e.ctimeNsec)
	p.Inode = append(p.Inode, int64(e.inode-prev.inode))
	p.Links = append(p.Links, e.links)
	p.Device = append(p.Device, e.device)
}

// makePage builds the page of entries, which are sorted by name.
func makePage(entries []entry, next string) *agentpb.Page {
	p := &agentpb.Page{Next: []byte(next)}
	var prev entry
	device := false
	for i := range entries {
		pack(p, &entries[i], &prev)
		prev = entries[i]
		device = device || prev.device != 0
	}
	if !device {
		p.Device = nil
	}
	if len(entries) > 0 {
		p.First = []byte(entries[0].name)
	}
	return p
}

var errColumns = errors.New("columns of a page differ in length")

// unpack returns the entries of a page, checking what a hostile peer could have
// put there: lengths, names, and their order.
func unpack(p *agentpb.Page, root bool) ([]entry, error) {
	n := len(p.Name)
	for _, l := range []int{len(p.Mode), len(p.Uid), len(p.Gid), len(p.Size), len(p.MtimeSec), len(p.MtimeNsec), len(p.CtimeSec), len(p.CtimeNsec), len(p.Inode), len(p.Links)} {
		if l != n {
			return nil, errColumns
		}
	}
	if n > pageMax || (len(p.Device) != 0 && len(p.Device) != n) {
		return nil, errColumns
	}
	out := make([]entry, n)
	var prev entry
	for i := range out {
		name := p.Name[i]
		// The root's own entry has the empty name and comes first.
		if !(root && i == 0 && len(name) == 0) {
			if err := checkName(name); err != nil {
				return nil, err
			}
		}
		if i > 0 && prev.name >= string(name) {
			return nil, fmt.Errorf("page names out of order: %q before %q", prev.name, name)
		}
		e := entry{name: string(name), mode: p.Mode[i], uid: p.Uid[i], gid: p.Gid[i], size: p.Size[i],
			mtimeSec: prev.mtimeSec + p.MtimeSec[i], mtimeNsec: p.MtimeNsec[i],
			ctimeSec: prev.ctimeSec + p.CtimeSec[i], ctimeNsec: p.CtimeNsec[i],
			inode: prev.inode + uint64(p.Inode[i]), links: p.Links[i]}
		if len(p.Device) > 0 {
			e.device = p.Device[i]
		}
		out[i], prev = e, e
	}
	if n > 0 && out[0].name != string(p.First) {
		return nil, fmt.Errorf("page of %q begins with %q", p.First, out[0].name)
	}
	if n > 0 && len(p.Next) > 0 && prev.name >= string(p.Next) {
		return nil, fmt.Errorf("page reaches %q, beyond the next one's %q", prev.name, p.Next)
	}
	return out, nil
}

// pageDigest is what a baseline holds of a page: the first 8 bytes of a BLAKE3
// over all its entries and the name that follows.
func pageDigest(entries []entry, next string, buf []byte) (uint64, []byte) {
	b := buf[:0]
	for i := range entries {
		e := &entries[i]
		b = append(b, byte(len(e.name)))
		b = append(b, e.name...)
		b = binary.LittleEndian.AppendUint32(b, e.mode)
		b = binary.LittleEndian.AppendUint32(b, e.uid)
		b = binary.LittleEndian.AppendUint32(b, e.gid)
		b = binary.LittleEndian.AppendUint64(b, e.size)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.mtimeSec))
		b = binary.LittleEndian.AppendUint32(b, e.mtimeNsec)
		b = binary.LittleEndian.AppendUint64(b, uint64(e.ctimeSec))
		b = binary.LittleEndian.AppendUint32(b, e.ctimeNsec)
		b = binary.LittleEndian.AppendUint64(b, e.inode)
		b = binary.LittleEndian.AppendUint32(b, e.links)
		b = binary.LittleEndian.AppendUint64(b, e.device)
	}
	b = append(b, next...)
	sum := blake3.Sum256(b)
	return binary.BigEndian.Uint64(sum[:]), b
}
