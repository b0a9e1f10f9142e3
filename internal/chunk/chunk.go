// Package chunk is Leeward's one engine for everything that is bytes: it cuts
// content where the content says so, names each piece by its BLAKE3 digest, packs
// pieces for the wire, and remembers at the target where every piece already lies.
package chunk

import (
	"encoding/binary"
	"encoding/hex"
	"math/bits"

	"github.com/zeebo/blake3"
)

// Digest names a chunk: the BLAKE3-256 of its bytes.
type Digest [32]byte

func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Sum returns the digest of b.
func Sum(b []byte) Digest { return blake3.Sum256(b) }

const (
	// Block is the size in bytes of the fixed blocks that content digests are
	// built from and that large files are compared by when an older version is
	// there.
	Block = 64 << 10
	// MaxLen is the longest chunk any parameters cut, in bytes.
	MaxLen = 1 << 20
)

// Params say how long the chunks of a file may be, in bytes. Avg is a power of
// two.
type Params struct{ Min, Avg, Max int }

// ParamsFor returns the chunk sizes for a file of size bytes. Up to one Block a
// file is a single chunk. Small chunks find more of a changed file again; large
// ones cost fewer digests on the wire (32 bytes each).
func ParamsFor(size int64) Params {
	switch {
	case size <= Block:
		return Params{Block, Block, Block}
	case size <= 16<<20:
		return Params{8 << 10, 32 << 10, 128 << 10}
	case size <= 1<<30:
		return Params{16 << 10, 64 << 10, 256 << 10}
	}
	return Params{128 << 10, 256 << 10, MaxLen}
}

// gear maps a byte to a fixed random-looking word. It is part of the format: two
// versions of Leeward find each other's chunks only if it stays as it is.
var gear = makeGear()

func makeGear() (t [256]uint64) {
	for i := range t {
		sum := blake3.Sum256([]byte{'l', 'e', 'e', 'w', 'a', 'r', 'd', byte(i)})
		for _, b := range sum[:8] {
			t[i] = t[i]<<8 | uint64(b)
		}
	}
	return t
}

// Cut returns the length of the first chunk of b, which holds the rest of the
// file or at least p.Max bytes. It is normalised content-defined chunking with a
// gear hash, after Xia et al., "FastCDC" (USENIX ATC 2016): up to the average a
// cut needs two bits more than the average asks for, behind it two bits fewer.
func Cut(b []byte, p Params) int {
	if len(b) <= p.Min {
		return len(b)
	}
	n := min(len(b), p.Max)
	avg := min(p.Avg, n)
	width := bits.TrailingZeros(uint(p.Avg))
	strict := uint64(1)<<(width+2) - 1
	loose := uint64(1)<<(width-2) - 1
	// The high bits of a gear hash have seen the most bytes: test those.
	strict, loose = strict<<(64-width-2), loose<<(64-width+2)
	var h uint64
	i := p.Min
	b = b[:n] // so that the loops need no bounds checks
	for ; i < avg; i++ {
		h = h<<1 + gear[b[i]]
		if h&strict == 0 {
			return i + 1
		}
	}
	for ; i < n; i++ {
		h = h<<1 + gear[b[i]]
		if h&loose == 0 {
			return i + 1
		}
	}
	return n
}

// Hasher computes the content digest of a file from its bytes in order: the
// BLAKE3 of the content itself up to one Block, else of the digests of all its
// Blocks. The zero value is ready.
type Hasher struct {
	buf   []byte
	sums  *blake3.Hasher
	first Digest
	n     int64 // whole blocks so far
}

var zeros [Block]byte
var zeroBlock = Sum(zeros[:])

func (h *Hasher) block(d Digest) {
	switch h.n {
	case 0:
		h.first = d
	case 1:
		h.sums = blake3.New()
		h.sums.Write(h.first[:])
		h.sums.Write(d[:])
	default:
		h.sums.Write(d[:])
	}
	h.n++
}

// Write adds b. It never fails.
func (h *Hasher) Write(b []byte) (int, error) {
	total := len(b)
	if len(h.buf) > 0 {
		k := min(Block-len(h.buf), len(b))
		h.buf = append(h.buf, b[:k]...)
		b = b[k:]
		if len(h.buf) == Block {
			h.block(Sum(h.buf))
			h.buf = h.buf[:0]
		}
	}
	for len(b) >= Block {
		h.block(Sum(b[:Block]))
		b = b[Block:]
	}
	if len(b) > 0 {
		if h.buf == nil {
			h.buf = make([]byte, 0, Block)
		}
		h.buf = append(h.buf, b...)
	}
	return total, nil
}

// Zeros adds n zero bytes.
func (h *Hasher) Zeros(n int64) {
	if len(h.buf) > 0 && n > 0 {
		k := min(int64(Block-len(h.buf)), n)
		h.Write(zeros[:k])
		n -= k
	}
	for ; n >= Block; n -= Block {
		h.block(zeroBlock)
	}
	if n > 0 {
		h.Write(zeros[:n])
	}
}

// Sum returns the digest of what was added. The Hasher must not be used further.
func (h *Hasher) Sum() Digest {
	if h.n == 0 || len(h.buf) > 0 {
		d := Sum(h.buf)
		if h.n == 0 {
			return d
		}
		h.block(d)
	}
	if h.n == 1 {
		return h.first
	}
	var d Digest
	h.sums.Sum(d[:0])
	return d
}

// ListHasher computes the digest that a catalog keeps of a file's content, from
// the chunks it was cut into: for one chunk its own digest, for an empty file that
// of nothing, else the BLAKE3 of the digest and length of each chunk and hole in
// order, a hole's digest being zero. The zero value is ready.
type ListHasher struct {
	n     int
	first Digest
	list  *blake3.Hasher
}

// Chunk adds a chunk of n bytes.
func (h *ListHasher) Chunk(d Digest, n int) { h.add(d, int64(n)) }

// Hole adds a hole of n bytes.
func (h *ListHasher) Hole(n int64) { h.add(Digest{}, n) }

func (h *ListHasher) add(d Digest, n int64) {
	if h.n == 0 {
		h.first = d
		h.list = blake3.New()
	}
	h.n++
	var b [40]byte
	copy(b[:], d[:])
	binary.LittleEndian.PutUint64(b[32:], uint64(n))
	h.list.Write(b[:])
}

// Sum returns the digest of what was added.
func (h *ListHasher) Sum() (d Digest) {
	switch {
	case h.n == 0:
		return Sum(nil)
	case h.n == 1 && h.first != Digest{}:
		return h.first
	}
	h.list.Sum(d[:0])
	return d
}
