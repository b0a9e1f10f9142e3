package chunk

import (
	"bytes"
	"encoding/hex"
	"fmt"
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
	text := bytes.Repeat([]byte("all work and no play "), 50000)
	for level := range len(levels) {
		p, u := NewPacker(level), NewUnpacker()
		defer u.Close()
		for _, b := range [][]byte{nil, []byte("x"), text, random(5, 1<<20), random(9, 300), text[7:], text[:100]} {
			f, z, err := p.Pack(b[:len(b)/3], b[len(b)/3:])
			if err != nil {
				t.Fatal(err)
			}
			got, err := u.Unpack(bytes.Join(f, nil), z, len(b))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("level %d, %d bytes: %v", level, len(b), err)
			}
		}
		if _, z, _ := p.Pack(random(6, 1<<20)); z {
			t.Errorf("level %d: random bytes were compressed", level)
		}
	}
}

// Digits and letters have hardly a repetition, and shrink all the same.
func TestPackTriesText(t *testing.T) {
	var digits []byte
	for i := range 200_000 {
		digits = fmt.Appendln(digits, i)
	}
	if f, z, err := NewPacker(2).Pack(digits); err != nil || !z || len(f[0]) > len(digits)/3 {
		t.Errorf("numbers: %v, zipped %v", err, z)
	}
	letters := hex.AppendEncode(nil, random(8, 1<<19))
	if f, z, err := NewPacker(3).Pack(letters); err != nil || !z || len(f[0]) > len(letters)*2/3 {
		t.Errorf("hexadecimal: %v, zipped %v", err, z)
	}
}

// A frame gains from what went before it.
func TestPackRemembers(t *testing.T) {
	var text []byte
	for i := range 30000 {
		text = fmt.Appendf(text, "%d is not %d\n", i, i*i)
	}
	p := NewPacker(2)
	first, _, _ := p.Pack(text)
	again, z, err := p.Pack(text)
	if err != nil || !z || len(again[0]) > len(first[0])/50 {
		t.Errorf("the same packed to %d and again to %d bytes, error %v", len(first[0]), len(again[0]), err)
	}
}

func TestUnpackRefuses(t *testing.T) {
	text := bytes.Repeat([]byte("all work and no play "), 50000)
	f, z, err := NewPacker(2).Pack(text)
	if err != nil || !z || len(f[0]) > len(text)/20 {
		t.Fatalf("text packed to %d of %d bytes, error %v", len(f[0]), len(text), err)
	}
	for what, frame := range map[string][]byte{"half a frame": f[0][:len(f[0])/2], "nothing": nil, "two frames for one": append(bytes.Clone(f[0]), f[0]...)} {
		u := NewUnpacker()
		if _, err := u.Unpack(frame, true, len(text)); err == nil {
			t.Errorf("%s was accepted", what)
		}
		u.Close()
	}
	if _, err := NewUnpacker().Unpack(f[0], true, MaxFrame+1); err == nil {
		t.Error("more than a frame may hold was accepted")
	}
}

func TestPackerAdapts(t *testing.T) {
	slow, fast := NewPacker(0), NewPacker(0)
	u := NewUnpacker()
	defer u.Close()
	text := bytes.Repeat([]byte("all work and no play "), 5000)
	for range 40 {
		f, z, err := slow.Pack(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.Unpack(bytes.Join(f, nil), z, len(text)); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("at level %d: %v", slow.Level(), err)
		}
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
