package fsinfo

import (
	"io"
	"math/bits"
	"strconv"
)

// ParseXFS reads the superblock of an XFS of version 4 or 5. Offsets are those of
// struct xfs_dsb in Linux, fs/xfs/libxfs/xfs_format.h.
func ParseXFS(r io.ReaderAt) (*Info, error) {
	b, err := readBlock(r, 0, 512)
	if err != nil {
		return nil, err
	}
	version := b.u16b(100)
	if string(b[:4]) != "XFSB" || version&0xf != 4 && version&0xf != 5 {
		return nil, ErrUnknown
	}
	size := b.u32b(4)
	if bits.OnesCount32(size) != 1 || size < 512 || size > 65536 {
		return nil, ErrUnknown
	}
	info := &Info{
		Type: "xfs", UUID: b.uuid(32), Label: b.text(108, 12), BlockSize: size,
		InodeSize: uint32(b.u16b(104)), SizeBytes: b.u64b(8) * uint64(size),
		InodesUsed: b.u64b(128) - min(b.u64b(128), b.u64b(136)),
		Features:   xfsFeatures(b), Params: map[string]string{},
	}
	number := func(key string, n uint64) { info.Params[key] = strconv.FormatUint(n, 10) }
	number("version", uint64(version&0xf))
	number("sector_size", uint64(b.u16b(102)))
	number("agcount", uint64(b.u32b(88)))
	number("log_bytes", uint64(b.u32b(96))*uint64(size))
	number("imaxpct", uint64(b[127]))
	if b[192] < 8 {
		number("directory_block_size", uint64(size)<<b[192])
	}
	if version&0xf == 5 && b.u32b(216)&0x4 != 0 {
		set(info.Params, "meta_uuid", b.uuid(248))
	}
	if q := b.u16b(176); version&0x40 != 0 && q != 0 {
		number("quota", uint64(q))
	}
	return info, nil
}

// xfsFeatures names features as mkfs.xfs does.
func xfsFeatures(b block) []string {
	var out []string
	version, features2 := b.u16b(100), b.u32b(200)
	if version&0x4000 != 0 {
		out = append(out, "ascii-ci")
	}
	if b.u64b(16) != 0 {
		out = append(out, "realtime")
	}
	if version&0xf == 4 {
		return append(out, bitNames(uint64(features2&(0x8|0x80|0x200)), []bitName{
			{0x8, "attr2"}, {0x80, "projid32bit"}, {0x200, "ftype"}}, "")...)
	}
	out = append(out, "crc", "attr2", "projid32bit")
	out = append(out, bitNames(uint64(b.u32b(212)), []bitName{
		{0x1, "finobt"}, {0x2, "rmapbt"}, {0x4, "reflink"}, {0x8, "inobtcount"}}, "ro-compat-")...)
	return append(out, bitNames(uint64(b.u32b(216)&^(0x4|0x10)), []bitName{
		{0x1, "ftype"}, {0x2, "sparse"}, {0x8, "bigtime"}, {0x20, "nrext64"}, {0x40, "exchange"},
		{0x80, "parent"}, {0x100, "metadir"}, {0x200, "zoned"}, {0x400, "zone-gaps"}}, "incompat-")...)
}
