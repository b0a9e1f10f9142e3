package tree

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
)

// contentMin is the size in bytes from which the catalog keeps what a file is made
// of, so that the next pass need not read the replica's to know what has changed.
const contentMin = 32 << 20

// maxContent bounds the pieces kept of one file: 40 bytes each.
const maxContent = 1 << 20

var contentsBucket = []byte("contents")

// contentKey names a file in bucket "contents": the digests of its directory's path
// and of its name, so that a directory's files lie together.
func contentKey(path string) []byte {
	dir, name := split(path)
	d, n := keyOf(dir), keyOf(name)
	return append(d[:], n[:]...)
}

// contentHead is what must be as it was for the pieces to hold: a version byte,
// then the inode, the size and the time of the last change of the replica's file,
// which nobody but a pass writes. 8 bytes each.
func contentHead(st *unix.Stat_t) []byte {
	b := []byte{catalogVersion}
	for _, v := range []uint64{st.Ino, uint64(st.Size), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// keepContent stages what an open file of the replica, at path, is made of. It is
// stored once the replica is on disk.
func (c *Catalog) keepContent(path string, fd int, pieces []chunk.Piece) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if st.Size < contentMin || len(pieces) > maxContent {
		return nil
	}
	slices.SortFunc(pieces, func(a, b chunk.Piece) int { return cmp.Compare(a.Offset, b.Offset) })
	value := contentHead(&st)
	end := int64(0)
	for _, p := range pieces {
		value = binary.AppendUvarint(value, uint64(p.Offset-end))
		value = binary.AppendUvarint(value, uint64(p.Length))
		value = append(value, p.Digest[:]...)
		end = p.Offset + int64(p.Length)
	}
	c.stage(stagedPage{content: contentKey(path), value: value})
	return nil
}

// takeContent returns what the replica's file at path, whose state is st, is made
// of, in order, or nil where that is not known. The caller is going to write to the
// file: what is stored is gone for good before takeContent returns, for after a cut
// the file may hold anything.
func (c *Catalog) takeContent(path string, st *unix.Stat_t) ([]chunk.Piece, error) {
	if st.Size < contentMin {
		return nil, nil
	}
	key := contentKey(path)
	var value []byte
	err := c.view(func(tx *bbolt.Tx) error {
		value = slices.Clone(tx.Bucket(contentsBucket).Get(key))
		return nil
	})
	if err != nil || value == nil {
		return nil, err
	}
	err = c.update(func(tx *bbolt.Tx) error { return tx.Bucket(contentsBucket).Delete(key) })
	if err != nil {
		return nil, fmt.Errorf("write catalog: %w", err)
	}
	head := contentHead(st)
	if len(value) < len(head) || string(value[:len(head)]) != string(head) {
		return nil, nil
	}
	pieces, err := parseContent(value[len(head):])
	if err != nil {
		return nil, nil // a hint that cannot be read is none: the file is read instead
	}
	return pieces, nil
}

var errContent = errors.New("damaged list of a file's content")

func parseContent(b []byte) ([]chunk.Piece, error) {
	pieces := make([]chunk.Piece, 0, len(b)/36)
	end := uint64(0)
	for len(b) > 0 {
		gap, n := binary.Uvarint(b)
		if n <= 0 || gap > maxOffset {
			return nil, errContent
		}
		length, m := binary.Uvarint(b[n:])
		if m <= 0 || length == 0 || length > chunk.MaxLen || len(b) < n+m+32 || end+gap+length > maxOffset {
			return nil, errContent
		}
		b = b[n+m:]
		pieces = append(pieces, chunk.Piece{Digest: chunk.Digest(b), Offset: int64(end + gap), Length: int(length)})
		end += gap + length
		b = b[32:]
	}
	return pieces, nil
}

// dropContent stages the removal of what is kept of the file at path.
func (c *Catalog) dropContent(path string) error {
	key := contentKey(path)
	found := false
	err := c.view(func(tx *bbolt.Tx) error {
		found = tx.Bucket(contentsBucket).Get(key) != nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	if found {
		c.stage(stagedPage{content: key})
	}
	return nil
}

// stage adds p to what the next commit writes.
func (c *Catalog) stage(p stagedPage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.staged = append(c.staged, p)
	c.size += len(p.value)
}

// applyContent writes what a staged page says of a file's content, or of those of
// a whole directory.
func (p *stagedPage) applyContent(b *bbolt.Bucket) error {
	if p.content != nil && p.value != nil {
		return b.Put(p.content, p.value)
	}
	if p.content != nil {
		return b.Delete(p.content)
	}
	var old [][]byte
	cur := b.Cursor()
	for k, _ := cur.Seek(p.dir[:]); k != nil && dirKey(k[:16]) == p.dir; k, _ = cur.Next() {
		old = append(old, slices.Clone(k))
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
