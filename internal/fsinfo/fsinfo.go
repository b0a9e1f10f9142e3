// Package fsinfo reads what filesystems tell of themselves in their superblocks:
// ext2, ext3, ext4, XFS, btrfs, FAT and swap. It runs no program and trusts no byte
// it reads.
package fsinfo

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrUnknown says that no known filesystem is there.
var ErrUnknown = errors.New("no known filesystem")

// Info is what a superblock tells. Features are in the words of the type's own
// mkfs; Params are further parameters of mkfs. The keys of Params by type:
//
//	ext4   reserved_blocks, reserved_percent, default_mount_options (as dumpe2fs
//	       lists them, by comma), mount_opts, hash_seed, hash_alg, errors, flags,
//	       flex_bg_size, cluster_size, journal_bytes, encoding, quotatype,
//	       revision, stride, stripe_width
//	xfs    version, sector_size, directory_block_size, meta_uuid, agcount,
//	       log_bytes, imaxpct, quota
//	btrfs  nodesize, csum_type, devices, metadata_uuid, device_uuid
//	vfat   fat_bits, sector_size, cluster_size
type Info struct {
	Type       string // as blkid names it: ext4, xfs, btrfs, vfat, swap …
	UUID       string // as blkid prints it
	Label      string
	Features   []string
	BlockSize  uint32
	InodeSize  uint32 // 0 where the type has none
	Inodes     uint64 // 0 where the type has no fixed number
	InodesUsed uint64
	SizeBytes  uint64 // of the filesystem as made, not what is usable in it
	Params     map[string]string
}

// Detect tells which filesystem r begins with. It returns ErrUnknown if there is
// none it knows, and other errors only when reading fails.
func Detect(r io.ReaderAt) (*Info, error) {
	// FAT comes last: its signature is the weakest.
	for _, parse := range []func(io.ReaderAt) (*Info, error){ParseXFS, ParseBtrfs, ParseExt, ParseSwap, ParseVFAT} {
		info, err := parse(r)
		if err == nil || !errors.Is(err, ErrUnknown) {
			return info, err
		}
	}
	return nil, ErrUnknown
}

// readBlock reads n bytes at offset. A device too short for them holds nothing
// there: ErrUnknown.
func readBlock(r io.ReaderAt, offset int64, n int) (block, error) {
	b := make([]byte, n)
	got, err := r.ReadAt(b, offset)
	if got == n {
		return b, nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, ErrUnknown
	}
	return nil, fmt.Errorf("read superblock at %d: %w", offset, err)
}

// block is a superblock; the letters say the byte order of a read number.
type block []byte

func (b block) u16l(at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func (b block) u32l(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
func (b block) u64l(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
func (b block) u16b(at int) uint16 { return binary.BigEndian.Uint16(b[at:]) }
func (b block) u32b(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
func (b block) u64b(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

// text returns the n bytes at, up to the first zero byte. What is no UTF-8 is
// replaced: labels go into messages and JSON.
func (b block) text(at, n int) string {
	s, _, _ := strings.Cut(string(b[at:at+n]), "\x00")
	return strings.ToValidUTF8(s, "\uFFFD")
}

// uuid formats the 16 bytes at, "" if they are all zero.
func (b block) uuid(at int) string {
	u := b[at : at+16]
	if strings.Trim(string(u), "\x00") == "" {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", []byte(u[:4]), []byte(u[4:6]), []byte(u[6:8]), []byte(u[8:10]), []byte(u[10:]))
}

// bitName names one bit of a feature word.
type bitName struct {
	bit  uint64
	name string
}

// bitNames lists the names of the bits set in v in the order of names, and for a
// bit without a name unknown followed by its number.
func bitNames(v uint64, names []bitName, unknown string) []string {
	var out []string
	for _, n := range names {
		if v&n.bit != 0 {
			out = append(out, n.name)
			v &^= n.bit
		}
	}
	for i := range 64 {
		if v&(1<<i) != 0 {
			out = append(out, fmt.Sprintf("%s%d", unknown, i))
		}
	}
	return out
}
