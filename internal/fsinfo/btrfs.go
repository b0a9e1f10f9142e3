package fsinfo

import (
	"io"
	"math/bits"
	"strconv"
)

// ParseBtrfs reads the first superblock of a btrfs device. Offsets are those of
// struct btrfs_super_block in Linux, include/uapi/linux/btrfs_tree.h.
func ParseBtrfs(r io.ReaderAt) (*Info, error) {
	b, err := readBlock(r, 64<<10, 4096)
	if err != nil {
		return nil, err
	}
	if string(b[64:72]) != "_BHRfS_M" || bits.OnesCount32(b.u32l(144)) != 1 {
		return nil, ErrUnknown
	}
	const devItem = 201
	info := &Info{
		Type: "btrfs", UUID: b.uuid(32), Label: b.text(299, 256), BlockSize: b.u32l(144),
		SizeBytes: b.u64l(112), Features: btrfsFeatures(b.u64l(188), b.u64l(180)),
		Params: map[string]string{
			"nodesize": strconv.FormatUint(uint64(b.u32l(148)), 10),
			"devices":  strconv.FormatUint(b.u64l(136), 10),
		},
	}
	set(info.Params, "csum_type", pick(int(b.u16l(196)), "crc32c", "xxhash", "sha256", "blake2"))
	set(info.Params, "device_uuid", b.uuid(devItem+66))
	if b.u64l(188)&0x400 != 0 {
		set(info.Params, "metadata_uuid", b.uuid(571))
	}
	return info, nil
}

// btrfsFeatures names features as mkfs.btrfs -O does, and those that come with
// use as the kernel's sysfs does with dashes.
func btrfsFeatures(incompat, compatRO uint64) []string {
	out := bitNames(incompat, []bitName{
		{0x1, "mixed-backref"}, {0x2, "default-subvol"}, {0x4, "mixed-bg"}, {0x8, "compress-lzo"},
		{0x10, "compress-zstd"}, {0x20, "big-metadata"}, {0x40, "extref"}, {0x80, "raid56"},
		{0x100, "skinny-metadata"}, {0x200, "no-holes"}, {0x400, "metadata-uuid"}, {0x800, "raid1c34"},
		{0x1000, "zoned"}, {0x2000, "extent-tree-v2"}, {0x4000, "raid-stripe-tree"}, {0x10000, "squota"},
	}, "incompat-")
	return append(out, bitNames(compatRO&^0x2, []bitName{
		{0x1, "free-space-tree"}, {0x4, "verity"}, {0x8, "block-group-tree"}}, "compat-ro-")...)
}
