package fsinfo

import (
	"errors"
	"io"
	"math/bits"
	"strconv"
	"strings"
)

// fat is the geometry of a FAT filesystem, in sectors where not said otherwise.
type fat struct {
	sector, cluster    int64 // bytes
	fatStart, fatSize  int64
	rootStart, rootLen int64 // the fixed root directory of FAT12 and FAT16
	dataStart          int64
	total              int64
	rootCluster        uint32
	bits               int
}

// ParseVFAT reads the boot sector and root directory of a FAT12, FAT16 or FAT32
// filesystem.
func ParseVFAT(r io.ReaderAt) (*Info, error) {
	b, err := readBlock(r, 0, 512)
	if err != nil {
		return nil, err
	}
	g, ok := fatGeometry(b)
	if !ok {
		return nil, ErrUnknown
	}
	id, label := b.u32l(39), string(b[43:54])
	if g.bits == 32 {
		id, label = b.u32l(67), string(b[71:82])
	}
	found, err := fatLabel(r, g)
	if err != nil {
		return nil, err
	}
	if found != "" {
		label = found
	}
	return &Info{
		Type: "vfat", UUID: hexID(id), Label: cleanLabel(label), BlockSize: uint32(g.cluster),
		SizeBytes: uint64(g.total) * uint64(g.sector),
		Params: map[string]string{
			"fat_bits":     strconv.Itoa(g.bits),
			"sector_size":  strconv.FormatInt(g.sector, 10),
			"cluster_size": strconv.FormatInt(g.cluster, 10),
		},
	}, nil
}

// fatGeometry reads the BIOS parameter block and refuses what is none: other
// systems' boot sectors end in the same two bytes.
func fatGeometry(b block) (fat, bool) {
	g := fat{sector: int64(b.u16l(11)), fatStart: int64(b.u16l(14)), fatSize: int64(b.u16l(22)), total: int64(b.u16l(19))}
	perCluster, fats, roots := int64(b[13]), int64(b[16]), int64(b.u16l(17))
	if b[510] != 0x55 || b[511] != 0xaa || b[0] != 0xeb && b[0] != 0xe9 {
		return g, false
	}
	if bits.OnesCount64(uint64(g.sector)) != 1 || g.sector < 512 || g.sector > 4096 ||
		bits.OnesCount64(uint64(perCluster)) != 1 || g.fatStart == 0 || fats == 0 || fats > 4 {
		return g, false
	}
	if g.total == 0 {
		g.total = int64(b.u32l(32))
	}
	fat32 := g.fatSize == 0
	if fat32 {
		g.fatSize, g.rootCluster = int64(b.u32l(36)), b.u32l(44)
	}
	g.cluster = perCluster * g.sector
	g.rootStart = g.fatStart + fats*g.fatSize
	g.rootLen = (roots*32 + g.sector - 1) / g.sector
	g.dataStart = g.rootStart + g.rootLen
	if g.fatSize == 0 || g.dataStart >= g.total {
		return g, false
	}
	switch clusters := (g.total - g.dataStart) / perCluster; {
	case fat32:
		g.bits = 32
	case clusters < 4085:
		g.bits = 12
	default:
		g.bits = 16
	}
	return g, true
}

// fatLabel finds the volume label among the root directory's entries, "" if there
// is none. It looks at the first 64 clusters at most.
func fatLabel(r io.ReaderAt, g fat) (string, error) {
	if g.bits != 32 {
		label, _, err := labelIn(r, g.rootStart*g.sector, g.rootLen*g.sector)
		return label, err
	}
	cluster := g.rootCluster
	for range 64 {
		if cluster < 2 || cluster >= 0x0ffffff7 {
			return "", nil
		}
		at := g.dataStart*g.sector + int64(cluster-2)*g.cluster
		label, end, err := labelIn(r, at, g.cluster)
		if err != nil || label != "" || end {
			return label, err
		}
		next, err := readBlock(r, g.fatStart*g.sector+int64(cluster)*4, 4)
		if errors.Is(err, ErrUnknown) {
			return "", nil // the chain leaves the device
		}
		if err != nil {
			return "", err
		}
		cluster = next.u32l(0) & 0x0fffffff
	}
	return "", nil
}

// labelIn looks for the label in n bytes of directory entries. end says that no
// entries follow.
func labelIn(r io.ReaderAt, at, n int64) (label string, end bool, err error) {
	b, err := readBlock(r, at, int(min(n, 2<<20)))
	if errors.Is(err, ErrUnknown) {
		return "", true, nil
	}
	if err != nil {
		return "", true, err
	}
	for i := 0; i+32 <= len(b); i += 32 {
		e := b[i : i+32]
		switch {
		case e[0] == 0:
			return "", true, nil
		case e[0] != 0xe5 && e[11]&0x3f != 0x0f && e[11]&0x18 == 0x08:
			return string(e[:11]), true, nil
		}
	}
	return "", false, nil
}

func cleanLabel(s string) string {
	if s == "NO NAME    " {
		return ""
	}
	return strings.TrimRight(strings.ToValidUTF8(s, "\uFFFD"), " \x00")
}
