package fsinfo

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// ParseExt reads the superblock of an ext2, ext3 or ext4 filesystem. Offsets are
// those of struct ext4_super_block in Linux, fs/ext4/ext4.h.
func ParseExt(r io.ReaderAt) (*Info, error) {
	b, err := readBlock(r, 1024, 1024)
	if err != nil {
		return nil, err
	}
	if b.u16l(0x38) != 0xef53 || b.u32l(0x18) > 6 {
		return nil, ErrUnknown
	}
	compat, incompat, ro := b.u32l(0x5c), b.u32l(0x60), b.u32l(0x64)
	if incompat&0x8 != 0 {
		return nil, ErrUnknown // an external journal, no filesystem
	}
	size := uint32(1024) << b.u32l(0x18)
	info := &Info{
		Type: extType(compat, incompat, ro), UUID: b.uuid(0x68), Label: b.text(0x78, 16),
		Features: extFeatures(compat, incompat, ro), BlockSize: size, InodeSize: 128,
		Inodes: uint64(b.u32l(0x00)), Params: extParams(b),
	}
	info.InodesUsed = info.Inodes - min(info.Inodes, uint64(b.u32l(0x10)))
	if b.u32l(0x4c) > 0 {
		info.InodeSize = uint32(b.u16l(0x58))
	}
	info.SizeBytes = extBlocks(b, 0x04, 0x150) * uint64(size)
	return info, nil
}

// extType names the oldest driver that can mount these features, as blkid does.
func extType(compat, incompat, ro uint32) string {
	const incompatExt3, roExt3 = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
	switch {
	case incompat&^incompatExt3 != 0 || ro&^roExt3 != 0:
		return "ext4"
	case compat&0x4 != 0:
		return "ext3"
	}
	return "ext2"
}

// extBlocks joins the halves of a block count; the upper one counts with 64bit.
func extBlocks(b block, low, high int) uint64 {
	n := uint64(b.u32l(low))
	if b.u32l(0x60)&0x80 != 0 {
		n |= uint64(b.u32l(high)) << 32
	}
	return n
}

// extFeatures names features as dumpe2fs and mke2fs -O do (e2fsprogs,
// lib/e2p/feature.c), in dumpe2fs's order.
func extFeatures(compat, incompat, ro uint32) []string {
	out := bitNames(uint64(compat), []bitName{
		{0x1, "dir_prealloc"}, {0x2, "imagic_inodes"}, {0x4, "has_journal"}, {0x8, "ext_attr"},
		{0x10, "resize_inode"}, {0x20, "dir_index"}, {0x40, "lazy_bg"}, {0x100, "snapshot_bitmap"},
		{0x200, "sparse_super2"}, {0x400, "fast_commit"}, {0x800, "stable_inodes"}, {0x1000, "orphan_file"},
	}, "FEATURE_C")
	out = append(out, bitNames(uint64(incompat), []bitName{
		{0x1, "compression"}, {0x2, "filetype"}, {0x4, "needs_recovery"}, {0x8, "journal_dev"},
		{0x10, "meta_bg"}, {0x40, "extent"}, {0x80, "64bit"}, {0x100, "mmp"}, {0x200, "flex_bg"},
		{0x400, "ea_inode"}, {0x1000, "dirdata"}, {0x2000, "metadata_csum_seed"}, {0x4000, "large_dir"},
		{0x8000, "inline_data"}, {0x10000, "encrypt"}, {0x20000, "casefold"},
	}, "FEATURE_I")...)
	return append(out, bitNames(uint64(ro), []bitName{
		{0x1, "sparse_super"}, {0x2, "large_file"}, {0x8, "huge_file"}, {0x10, "uninit_bg"},
		{0x20, "dir_nlink"}, {0x40, "extra_isize"}, {0x80, "snapshot"}, {0x100, "quota"},
		{0x200, "bigalloc"}, {0x400, "metadata_csum"}, {0x800, "replica"}, {0x1000, "read-only"},
		{0x2000, "project"}, {0x4000, "shared_blocks"}, {0x8000, "verity"}, {0x10000, "orphan_present"},
	}, "FEATURE_R")...)
}

func extParams(b block) map[string]string {
	p := map[string]string{}
	number := func(key string, n uint64) { p[key] = strconv.FormatUint(n, 10) }
	blocks, reserved := extBlocks(b, 0x04, 0x150), extBlocks(b, 0x08, 0x154)
	number("reserved_blocks", reserved)
	if blocks > 0 {
		p["reserved_percent"] = strconv.FormatFloat(float64(reserved)*100/float64(blocks), 'f', 2, 64)
	}
	number("revision", uint64(b.u32l(0x4c)))
	p["default_mount_options"] = extMountOptions(b.u32l(0x100))
	set(p, "mount_opts", b.text(0x200, 64))
	set(p, "hash_seed", b.uuid(0xec))
	set(p, "hash_alg", pick(int(b[0xfc])%3, "legacy", "half_md4", "tea"))
	set(p, "errors", pick(int(b.u16l(0x3c))-1, "continue", "remount-ro", "panic"))
	set(p, "flags", strings.Join(bitNames(uint64(b.u32l(0x160)&0x7), []bitName{
		{0x1, "signed_directory_hash"}, {0x2, "unsigned_directory_hash"}, {0x4, "test_filesystem"}}, ""), ","))
	incompat, ro := b.u32l(0x60), b.u32l(0x64)
	if incompat&0x200 != 0 && b[0x174] < 32 {
		number("flex_bg_size", 1<<b[0x174])
	}
	if ro&0x200 != 0 && b.u32l(0x1c) < 20 {
		number("cluster_size", 1024<<b.u32l(0x1c))
	}
	if b.u32l(0x5c)&0x4 != 0 && b[0xfd] == 1 { // the journal's inode is kept here, too
		number("journal_bytes", uint64(b.u32l(0x148))<<32|uint64(b.u32l(0x14c)))
	}
	if incompat&0x20000 != 0 {
		set(p, "encoding", pick(int(b.u16l(0x27c))-1, "utf8"))
	}
	if ro&0x100 != 0 {
		set(p, "quotatype", extQuotas(b))
	}
	if n := b.u16l(0x164); n > 0 {
		number("stride", uint64(n))
	}
	if n := b.u32l(0x170); n > 0 {
		number("stripe_width", uint64(n))
	}
	return p
}

// extMountOptions lists default mount options as dumpe2fs and tune2fs -o name
// them; the journal mode is a number of two bits.
func extMountOptions(v uint32) string {
	out := bitNames(uint64(v&^0x60), []bitName{
		{0x1, "debug"}, {0x2, "bsdgroups"}, {0x4, "user_xattr"}, {0x8, "acl"}, {0x10, "uid16"},
		{0x100, "nobarrier"}, {0x200, "block_validity"}, {0x400, "discard"}, {0x800, "nodelalloc"},
	}, "MNTOPT_")
	out = slices.DeleteFunc(out, func(s string) bool { return strings.HasPrefix(s, "MNTOPT_") })
	if mode := pick(int(v>>5&3)-1, "journal_data", "journal_data_ordered", "journal_data_writeback"); mode != "" {
		out = append(out, mode)
	}
	return strings.Join(out, ",")
}

func extQuotas(b block) string {
	var out []string
	for _, q := range []struct {
		at   int
		name string
	}{{0x240, "usrquota"}, {0x244, "grpquota"}, {0x26c, "prjquota"}} {
		if b.u32l(q.at) != 0 {
			out = append(out, q.name)
		}
	}
	return strings.Join(out, ":")
}

// pick returns names[i], "" if there is no such.
func pick(i int, names ...string) string {
	if i < 0 || i >= len(names) {
		return ""
	}
	return names[i]
}

// set stores a value that is there.
func set(p map[string]string, key, value string) {
	if value != "" {
		p[key] = value
	}
}

// hexID formats a FAT volume id.
func hexID(v uint32) string { return fmt.Sprintf("%04X-%04X", v>>16, v&0xffff) }
