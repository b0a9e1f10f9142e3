package adapt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const (
	swapPage = 4096
	// swapShare bounds a swap file to a part of what its filesystem has free.
	swapShare = 2
)

// makeSwapFile makes a swap file again that the source has: a pass leaves its
// content out, and the file with it. It reports false where it cannot be had.
func (j *job) makeSwapFile(s *agentpb.Swap) (made bool, err error) {
	fsys, rel, err := j.img.find(s.GetPath(), true)
	if err != nil {
		return false, err
	}
	header := swapHeader(s)
	size := int64(s.GetSizeBytes()+swapPage-1)/swapPage*swapPage + swapPage // the kernel's figure leaves the header out
	if header == nil || !strings.HasPrefix(fsys.Type, "ext") && fsys.Type != "xfs" {
		return false, nil // btrfs takes none without further conditions
	}
	d, err := fsys.Root.Open(path.Dir(rel))
	if err != nil {
		return false, nil // its directory was left out
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil || size > int64(st.Bavail)*st.Bsize/swapShare {
		return false, nil
	}
	f, err := fsys.Root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, err
	}
	// A swap file has no holes; blocks that were never written do.
	err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	if err == nil {
		_, err = f.WriteAt(header, 0)
	}
	if err = errors.Join(err, f.Chmod(0o600), labelLike(fsys.Root, path.Dir(rel), f), f.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("make swap file %s: %w", s.GetPath(), err), fsys.Root.Remove(rel))
	}
	return true, nil
}

// swapHeader is the first page of a swap area as mkswap writes it (union
// swap_header in linux/swap.h), nil where the source tells no such swap.
func swapHeader(s *agentpb.Swap) []byte {
	id, err := hex.DecodeString(strings.ReplaceAll(s.GetUuid(), "-", ""))
	pages := s.GetSizeBytes() / swapPage
	if err != nil || len(id) != 16 || !s.GetFile() || pages < 10 || pages > 1<<31 {
		return nil
	}
	b := make([]byte, swapPage)
	binary.LittleEndian.PutUint32(b[1024:], 1)             // version
	binary.LittleEndian.PutUint32(b[1028:], uint32(pages)) // the last page
	copy(b[1036:1052], id)
	copy(b[1052:1067], s.GetLabel())
	copy(b[swapPage-10:], "SWAPSPACE2")
	return b
}
