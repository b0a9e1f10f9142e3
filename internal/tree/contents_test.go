package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"reflect"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
)

// kept returns what the catalog keeps of the file at path.
func (w *world) kept(path string) (value []byte) {
	w.t.Helper()
	cat, err := OpenCatalog(w.state + "/catalog.db")
	if err != nil {
		w.t.Fatal(err)
	}
	defer cat.Close()
	cat.db.View(func(tx *bbolt.Tx) error {
		value = append(value, tx.Bucket(contentsBucket).Get(contentKey(path))...)
		return nil
	})
	return value
}

// patch writes random bytes into a file at the offsets.
func patch(t *testing.T, name string, n int, offsets ...int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	for _, off := range offsets {
		rand.Read(b)
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChangedBlocksOfALargeFile(t *testing.T) {
	w := newWorld(t)
	name := w.src + "/large"
	patch(t, name, contentMin+12345, 0)
	w.sync()
	first := w.kept("large")
	if len(first) == 0 {
		t.Fatal("nothing is kept of what a large file is made of")
	}
	patch(t, name, 64<<10, 3<<20, 20<<20, 31<<20)
	r := w.sync()
	w.equal()
	const changed = 3 * 64 << 10
	if r.Sent > changed*13/10 {
		t.Errorf("%d bytes sent where %d changed", r.Sent, changed)
	}
	if second := w.kept("large"); len(second) == 0 || string(second) == string(first) {
		t.Errorf("after the second pass %d bytes are kept of the file, %d before", len(second), len(first))
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	w.sync()
	if k := w.kept("large"); len(k) > 0 {
		t.Errorf("%d bytes are kept of a file that is gone", len(k))
	}
}

// What is kept of a file must not be believed once somebody else has written to it.
func TestForeignWriteToALargeFile(t *testing.T) {
	w := newWorld(t)
	patch(t, w.src+"/large", contentMin+1, 0)
	w.sync()
	patch(t, w.dst+"/large", 100, 12<<20)
	patch(t, w.src+"/large", 100, 5<<20)
	w.sync()
	w.equal()
}

// A pass that is cut while it writes to a file must leave nothing behind that
// speaks of what the file held before.
func TestCutForgetsContent(t *testing.T) {
	w := newWorld(t)
	patch(t, w.src+"/large", contentMin+1, 0)
	w.sync()
	patch(t, w.src+"/large", 100, 5<<20)
	gone := errors.New("cut")
	w.copyGov = failing{gone}
	if _, err := w.pass(context.Background()); err == nil {
		t.Fatal("the pass was not cut")
	}
	w.copyGov = noLimits{}
	w.sync()
	w.equal()
	cat, err := OpenCatalog(w.state + "/catalog.db")
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	var st unix.Stat_t
	if err := unix.Stat(w.dst+"/large", &st); err != nil {
		t.Fatal(err)
	}
	if pieces, err := cat.takeContent("large", &st); err != nil || len(pieces) == 0 {
		t.Fatalf("%d pieces, error %v: want what the file holds", len(pieces), err)
	}
	if pieces, _ := cat.takeContent("large", &st); pieces != nil {
		t.Error("taken twice: a cut would leave a list of what was there before")
	}
}

// failing lets the reading of a source go on up to the second piece of a file.
type failing struct{ err error }

func (f failing) CPU(context.Context) error { return nil }
func (f failing) Disk(_ context.Context, n int) error {
	if n < largeBatch {
		return f.err
	}
	return nil
}

func TestContentRoundTrip(t *testing.T) {
	cat, err := OpenCatalog(t.TempDir() + "/catalog.db")
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, contentMin); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := []chunk.Piece{{Digest: chunk.Sum([]byte("a")), Offset: 7, Length: 100}, {Digest: chunk.Sum([]byte("b")), Offset: 1 << 40, Length: chunk.MaxLen}}
	if err := cat.keepContent("d/file", int(f.Fd()), []chunk.Piece{want[1], want[0]}); err != nil {
		t.Fatal(err)
	}
	if err := cat.commit(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if got, err := cat.takeContent("d/file", &st); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
}

func FuzzContent(f *testing.F) {
	d := chunk.Sum(nil)
	f.Add(append([]byte{0, 5}, d[:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		pieces, err := parseContent(b)
		if err != nil {
			return
		}
		end := int64(0)
		for _, p := range pieces {
			if p.Offset < end || p.Length <= 0 || p.Length > chunk.MaxLen {
				t.Errorf("piece %v behind %d", p, end)
			}
			end = p.Offset + int64(p.Length)
		}
	})
}
