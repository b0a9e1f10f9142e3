package rowsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// somePiece makes a piece with everything in it that there can be.
func somePiece(r *rand.Rand, pos string) engine.Piece {
	value := func() []byte {
		switch r.IntN(4) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		b := make([]byte, r.IntN(600))
		for i := range b {
			b[i] = byte(r.IntN(8))
		}
		return b
	}
	row := func() engine.Row {
		out := make(engine.Row, r.IntN(5))
		for i := range out {
			out[i] = value()
		}
		return out
	}
	var p engine.Piece
	for range r.IntN(5) {
		c := engine.Change{Table: engine.Name{Schema: "s", Name: fmt.Sprint("t", r.IntN(3))}}
		if r.IntN(2) == 0 {
			c.Old = row()
		}
		if r.IntN(2) == 0 {
			c.New = row()
			c.Unset = make([]bool, len(c.New))
		}
		c.Truncate = r.IntN(9) == 0
		p.Changes = append(p.Changes, c)
	}
	if r.IntN(5) == 0 {
		p.DDL = []engine.DDL{{Statement: "ALTER", Database: "d", Tables: []engine.Name{{Schema: "s", Name: "t"}}, Follow: r.IntN(2) == 0}}
	}
	if pos != "" {
		p.End = &engine.Commit{Pos: engine.Pos(pos), Time: time.Unix(r.Int64N(1e9), 123).UTC()}
		if r.IntN(2) == 0 {
			p.End.Counters = []engine.Counter{{Kind: "identity", Name: engine.Name{Name: "t"}, Column: "c", Value: "7"}}
		}
	}
	return p
}

func TestPieceRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		p := somePiece(r, []string{"", "p"}[i%2])
		got, err := decodePiece(appendPiece(nil, &p))
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Fatalf("piece %d:\n%+v\ncame back as, %v\n%+v", i, p, err, got)
		}
	}
}

func FuzzDecodePiece(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		p := somePiece(r, "p")
		f.Add(appendPiece(nil, &p))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePiece(b)
		if err != nil {
			return
		}
		again, err := decodePiece(appendPiece(nil, &p))
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Errorf("%+v came back as %+v, %v", p, again, err)
		}
	})
}

func FuzzSegment(f *testing.F) {
	sp := newSpool(f, 0)
	for i := range 5 {
		p := somePiece(rand.New(rand.NewPCG(1, uint64(i))), fmt.Sprint(i))
		if err := sp.append(context.Background(), &p); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := sp.sync(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(segmentPath(sp.dir, 1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	dec := sp.dec
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_, at, err := readSegmentHeader(r)
		for err == nil {
			var fr frame
			if fr, err = readFrame(r, at, int64(len(b))); err == nil {
				if fr.next <= at {
					t.Fatal("a record has no length")
				}
				at = fr.next
				_, _ = fr.piece(dec)
			}
		}
	})
}

func newSpool(t testing.TB, segSize int64) *spool {
	t.Helper()
	sp, ok, err := openSpool(t.TempDir(), 0, "s", "e")
	if err != nil || ok {
		t.Fatalf("a new spool: there %v, %v", ok, err)
	}
	if segSize > 0 {
		sp.segSize = segSize
	}
	if err := sp.reset("p0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sp.close() })
	return sp
}

func put(t *testing.T, sp *spool, p engine.Piece) {
	t.Helper()
	if err := sp.append(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
}

func piece(n int, pos string) engine.Piece {
	p := engine.Piece{Changes: []engine.Change{{Table: engine.Name{Name: "t"}, New: engine.Row{[]byte(fmt.Sprint(n, strings.Repeat("x", 50)))}}}}
	if pos != "" {
		p.End = &engine.Commit{Pos: engine.Pos(pos)}
	}
	return p
}

// What is read is what was synced whole, over segments and restarts, from any
// position on; what is dropped is gone from the disk.
func TestSpoolGivesBackWhatLanded(t *testing.T) {
	sp := newSpool(t, 500)
	for i := 1; i <= 50; i++ {
		put(t, sp, piece(i, ""))
		put(t, sp, piece(-i, fmt.Sprint("p", i)))
		if i%3 == 0 {
			if _, err := sp.sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := sp.sync(); err != nil {
		t.Fatal(err)
	}
	put(t, sp, piece(99, "")) // does not end
	if _, err := sp.sync(); err != nil {
		t.Fatal(err)
	}
	if err := sp.close(); err != nil {
		t.Fatal(err)
	}
	sp, ok, err := openSpool(sp.dir, 0, "s", "e")
	if err != nil || !ok {
		t.Fatalf("opened again: there %v, %v", ok, err)
	}
	defer sp.close()
	if l, _ := sp.newest(); l.Pos != "p50" {
		t.Errorf("the newest is %s, want p50", l.Pos)
	}
	for from := range 51 {
		rd, err := sp.reader(engine.Pos(fmt.Sprint("p", from)))
		if err != nil {
			t.Fatalf("from p%d: %v", from, err)
		}
		for i := from + 1; i <= 50; i++ {
			for _, want := range []engine.Piece{piece(i, ""), piece(-i, fmt.Sprint("p", i))} {
				got, err := rd.next(t.Context())
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Fatalf("from p%d, piece %d: %+v, %v", from, i, got, err)
				}
			}
		}
		if rd.ready() {
			t.Errorf("from p%d there is more than was appended", from)
		}
		at := rd.at
		rd.close()
		if from == 25 {
			if err := sp.drop(at); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if ns, _ := segments(sp.dir); len(ns) > 2 {
		t.Errorf("%d segments are left of what was dropped", len(ns))
	}
	if _, err := sp.reader("p1"); !errors.Is(err, errNotThere) {
		t.Errorf("a position that was dropped gave %v", err)
	}
	if other, ok, err := openSpool(sp.dir, 0, "s", "another"); err != nil || ok {
		t.Errorf("the spool of another epoch was taken: %v, %v", ok, err)
	} else {
		other.close()
	}
}

// A crash may cut the last segment anywhere behind what was synced; a flipped bit
// before is told.
func TestSpoolAfterACut(t *testing.T) {
	sp := newSpool(t, 0)
	for i := 1; i <= 3; i++ {
		put(t, sp, piece(i, fmt.Sprint("p", i)))
	}
	if _, err := sp.sync(); err != nil {
		t.Fatal(err)
	}
	sp.close()
	path := segmentPath(sp.dir, 1)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, first, _ := readSegmentHeader(bytes.NewReader(whole))
	for cut := int(first); cut <= len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		sp, ok, err := openSpool(sp.dir, 0, "s", "e")
		if err != nil || !ok {
			t.Fatalf("cut at %d: %v, %v", cut, ok, err)
		}
		l, _ := sp.newest()
		rd, err := sp.reader("p0")
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		n := 0
		for rd.ready() {
			p, err := rd.next(t.Context())
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			n++
			if p.End.Pos != engine.Pos(fmt.Sprint("p", n)) {
				t.Fatalf("cut at %d: %s came", cut, p.End.Pos)
			}
		}
		if want := fmt.Sprint("p", n); string(l.Pos) != want {
			t.Fatalf("cut at %d: newest %s, readable up to %s", cut, l.Pos, want)
		}
		rd.close()
		sp.close()
	}
	whole[first+20] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	sp, _, err = openSpool(sp.dir, 0, "s", "e")
	if err != nil {
		t.Fatal(err)
	}
	defer sp.close()
	if l, _ := sp.newest(); l.Pos != "p0" {
		t.Errorf("after damage in the first record, %s counts as landed", l.Pos)
	}
}

func TestSpoolRewinds(t *testing.T) {
	sp := newSpool(t, 0)
	put(t, sp, piece(1, "p1"))
	put(t, sp, piece(2, ""))
	put(t, sp, piece(3, ""))
	l, err := sp.rewind()
	if err != nil || l.Pos != "p1" {
		t.Fatalf("rewound to %s, %v", l.Pos, err)
	}
	put(t, sp, piece(4, "p2"))
	if _, err := sp.sync(); err != nil {
		t.Fatal(err)
	}
	rd, err := sp.reader("p1")
	if err != nil {
		t.Fatal(err)
	}
	defer rd.close()
	if p, err := rd.next(t.Context()); err != nil || p.End == nil || p.End.Pos != "p2" {
		t.Errorf("after p1 comes %+v, %v", p, err)
	}
}

// A full spool makes the source wait, and a transaction that can never fit is told.
func TestSpoolIsBounded(t *testing.T) {
	sp := newSpool(t, 0)
	sp.limit = 400
	put(t, sp, piece(1, "p1"))
	put(t, sp, piece(2, "p2"))
	put(t, sp, piece(3, "p3"))
	put(t, sp, piece(4, "p4"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	p := piece(5, "p5")
	if err := sp.append(ctx, &p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a full spool took another transaction: %v", err)
	}
	sp.limit = 600
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		p := piece(i, "")
		err = sp.append(ctx, &p)
	}
	if err == nil || !strings.Contains(err.Error(), "raise the limit") {
		t.Errorf("an endless transaction gave %v", err)
	}
}

// A transaction that has not ended is not read, however durable its records are.
func TestSpoolHidesWhatHasNotEnded(t *testing.T) {
	sp := newSpool(t, 0)
	put(t, sp, piece(1, ""))
	l, err := sp.sync()
	if err != nil || l.Pos != "p0" {
		t.Fatalf("landed is %s, %v", l.Pos, err)
	}
	rd, err := sp.reader("p0")
	if err != nil {
		t.Fatal(err)
	}
	defer rd.close()
	if rd.ready() {
		t.Error("a part of a transaction can be read before its end has landed")
	}
	put(t, sp, piece(2, "p1"))
	if _, err := sp.sync(); err != nil || !rd.ready() {
		t.Errorf("a transaction that has ended cannot be read: %v", err)
	}
}
