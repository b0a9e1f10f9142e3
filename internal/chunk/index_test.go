package chunk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func piece(i int) Piece {
	return Piece{Sum([]byte(fmt.Sprint(i))), int64(i) * 10, 10}
}

func TestIndexFindsAcrossReopening(t *testing.T) {
	dir := t.TempDir()
	x := NewIndex()
	for round := range mergeAt + 2 { // enough closings to merge
		if err := x.Attach("web1:/", dir); err != nil {
			t.Fatal(err)
		}
		w, err := x.NewWriter("web1:/")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			n := round*10 + i
			if err := w.Add(fmt.Sprintf("dir/file%d", n), []Piece{piece(n)}); err != nil {
				t.Fatal(err)
			}
			if len(x.Lookup(piece(n).Digest, "")) != 1 {
				t.Fatalf("chunk %d is not found right after it was added", n)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if files, _ := filepath.Glob(dir + "/*.run"); len(files) > 3 {
		t.Errorf("%d runs left after merging", len(files))
	}
	for n := range (mergeAt + 2) * 10 {
		got := x.Lookup(piece(n).Digest, "web1:/")
		want := Location{"web1:/", fmt.Sprintf("dir/file%d", n), int64(n) * 10, 10}
		if len(got) == 0 || got[0] != want {
			t.Fatalf("chunk %d: %v, want %v", n, got, want)
		}
	}
	if got := x.Lookup(piece(99999).Digest, ""); got != nil {
		t.Errorf("unknown chunk found at %v", got)
	}
	x.Close()
}

func TestDamagedRunIsDropped(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "00000001.run"), []byte("LWINDEX1 but no more than thirty bytes"), 0o600)
	x := NewIndex()
	if err := x.Attach("t", dir); err != nil {
		t.Fatal(err)
	}
	if !x.Empty() {
		t.Error("a damaged run counts as content")
	}
}

func TestFlightHasOneOwner(t *testing.T) {
	x := NewIndex()
	d := Sum([]byte("x"))
	f, owner := x.Begin(d)
	if !owner {
		t.Fatal("the first does not own the flight")
	}
	g, owner := x.Begin(d)
	if owner || g != f {
		t.Fatal("a second owner")
	}
	select {
	case <-g.Done():
		t.Fatal("landed before Land")
	default:
	}
	f.Land([]byte("x"))
	f.Land(nil)
	<-g.Done()
	if string(g.Data()) != "x" {
		t.Errorf("landed with %q", g.Data())
	}
	if h, owner := x.Begin(d); owner || string(h.Data()) != "x" {
		t.Error("a landed chunk is not found before it is released")
	}
	f.Release()
	h, owner := x.Begin(d)
	if !owner {
		t.Error("a released chunk cannot be asked for again")
	}
	h.Land(nil)
	if _, owner := x.Begin(d); !owner {
		t.Error("a chunk that did not come cannot be asked for again")
	}
}

func FuzzRun(f *testing.F) {
	name := filepath.Join(f.TempDir(), "seed.run")
	var recs []record
	for i := range 5 {
		recs = append(recs, record{piece(i).Digest.key(), uint32(i % 2), 10, int64(i)})
	}
	if err := writeRun(name, recs, []byte("a/bc/d"), []uint64{3, 6}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRun(b)
		if err != nil {
			return
		}
		for i := range r.count {
			r.path(r.record(i).file)
			r.find(r.key(i))
		}
	})
}
