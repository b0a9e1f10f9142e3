package chunk

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"
)

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return b
}

func cutAll(b []byte, p Params) (out [][]byte) {
	for len(b) > 0 {
		n := Cut(b, p)
		out = append(out, b[:n])
		b = b[n:]
	}
	return out
}

func TestCutSizes(t *testing.T) {
	for _, size := range []int64{1, Block, Block + 1, 3 << 20, 40 << 20} {
		b := random(1, int(size))
		p := ParamsFor(size)
		chunks := cutAll(b, p)
		for i, c := range chunks {
			if len(c) > p.Max || (len(c) < p.Min && i != len(chunks)-1) {
				t.Errorf("size %d: chunk %d has %d bytes, outside %v", size, i, len(c), p)
			}
		}
		if mean := int(size) / len(chunks); size > 1<<20 && (mean < p.Avg/2 || mean > p.Avg*2) {
			t.Errorf("size %d: mean chunk %d, want about %d", size, mean, p.Avg)
		}
	}
}

// TestCutFindsShiftedContent inserts a byte at the front and counts the chunks
// that are still the same.
func TestCutFindsShiftedContent(t *testing.T) {
	b := random(2, 8<<20)
	p := ParamsFor(int64(len(b)))
	known := map[Digest]bool{}
	for _, c := range cutAll(b, p) {
		known[Sum(c)] = true
	}
	hit, all := 0, 0
	for _, c := range cutAll(append([]byte{42}, b...), p) {
		all++
		if known[Sum(c)] {
			hit++
		}
	}
	if hit < all*95/100 {
		t.Errorf("%d of %d chunks found again behind one inserted byte", hit, all)
	}
}

// TestGearIsFixed holds the table to the format: other cuts would make every
// index worthless.
func TestGearIsFixed(t *testing.T) {
	const want = 36511
	if n := Cut(random(3, 1<<20), Params{8 << 10, 32 << 10, 128 << 10}); n != want {
		t.Errorf("first cut at %d, want %d", n, want)
	}
}

func TestHasherIsIndependentOfHowItIsFed(t *testing.T) {
	for _, n := range []int{0, 1, Block - 1, Block, Block + 1, 5*Block + 17} {
		b := random(4, n)
		var whole Hasher
		whole.Write(b)
		want := whole.Sum()
		if n <= Block && want != Sum(b) {
			t.Errorf("%d bytes: digest of a small file is not that of its content", n)
		}
		var bits Hasher
		for rest := b; len(rest) > 0; {
			k := min(len(rest), 1000)
			bits.Write(rest[:k])
			rest = rest[k:]
		}
		if got := bits.Sum(); got != want {
			t.Errorf("%d bytes fed in pieces: %v, want %v", n, got, want)
		}
	}
	for _, n := range []int{1, Block, 3*Block + 5} {
		var a, b Hasher
		a.Write([]byte("x"))
		b.Write([]byte("x"))
		a.Write(make([]byte, n))
		b.Zeros(int64(n))
		if a.Sum() != b.Sum() {
			t.Errorf("%d zeros differ from a hole of that length", n)
		}
	}
}

func TestListHasher(t *testing.T) {
	a, b := Sum([]byte("a")), Sum([]byte("b"))
	sum := func(f func(h *ListHasher)) Digest {
		var h ListHasher
		f(&h)
		return h.Sum()
	}
	if got := sum(func(h *ListHasher) { h.Chunk(a, 1) }); got != a {
		t.Errorf("one chunk: %v, want its own digest", got)
	}
	if got := sum(func(*ListHasher) {}); got != Sum(nil) {
		t.Errorf("nothing: %v", got)
	}
	seen := map[Digest]bool{}
	for _, f := range []func(h *ListHasher){
		func(h *ListHasher) { h.Chunk(a, 1); h.Chunk(b, 1) },
		func(h *ListHasher) { h.Chunk(b, 1); h.Chunk(a, 1) },
		func(h *ListHasher) { h.Chunk(a, 1); h.Hole(1); h.Chunk(b, 1) },
		func(h *ListHasher) { h.Chunk(a, 1); h.Hole(2); h.Chunk(b, 1) },
		func(h *ListHasher) { h.Hole(2) },
	} {
		d := sum(f)
		if seen[d] {
			t.Errorf("two lists have the digest %v", d)
		}
		seen[d] = true
	}
}

func TestPackRoundTrip(t *testing.T) {
	u := NewUnpacker()
	defer u.Close()
	text := bytes.Repeat([]byte("all work and no play "), 50000)
	for level := range len(levels) {
		p := NewPacker(level)
		for _, b := range [][]byte{nil, []byte("x"), text, random(5, 1<<20)} {
			f, z := p.Pack(b[:len(b)/3], b[len(b)/3:])
			got, err := u.Unpack(bytes.Join(f, nil), z, len(b))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("level %d, %d bytes: %v", level, len(b), err)
			}
		}
		if _, z := p.Pack(random(6, 1<<20)); z {
			t.Errorf("level %d: random bytes were compressed", level)
		}
	}
	frame, z := NewPacker(2).Pack(text)
	f := bytes.Join(frame, nil)
	if len(f) > len(text)/20 {
		t.Errorf("text packed to %d of %d bytes", len(f), len(text))
	}
	if _, err := u.Unpack(f, z, len(text)-1); err == nil {
		t.Error("a frame of another length was accepted")
	}
	if _, err := u.Unpack(f[:len(f)/2], z, len(text)); err == nil {
		t.Error("half a frame was accepted")
	}
}

func TestPackerAdapts(t *testing.T) {
	slow, fast := NewPacker(0), NewPacker(0)
	text := bytes.Repeat([]byte("all work and no play "), 5000)
	for range 40 {
		slow.Pack(text)
		slow.Sent(time.Second)
		fast.Pack(text)
		fast.Sent(0)
	}
	if slow.Level() != 4 || fast.Level() != 1 {
		t.Errorf("levels %d on a slow wire and %d on a fast one, want 4 and 1", slow.Level(), fast.Level())
	}
}

func BenchmarkCut(b *testing.B) {
	buf := random(7, 64<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		cutAll(buf, Params{64 << 10, 256 << 10, MaxLen})
	}
}

func BenchmarkHasher(b *testing.B) {
	buf := random(8, 64<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		var h Hasher
		h.Write(buf)
		h.Sum()
	}
}
