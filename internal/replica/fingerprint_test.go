package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// TestFingerprintTellsOfAWrite changes one byte of a point's disk while a clone of it is
// there, as a drill has one.
func TestFingerprintTellsOfAWrite(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	p := mustPoint(t, r, m, time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC), "1")
	print := func() string {
		t.Helper()
		sum, err := p.Fingerprint(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	before := print()
	dir := scratch(t, r)
	if _, err := p.Clone(ctx, filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	img, err := p.Clone(ctx, filepath.Join(dir, "booted"))
	if err != nil {
		t.Fatal(err)
	}
	flip(t, img.Disk)
	if now := print(); now != before {
		t.Errorf("the digest changed from %s to %s, and only a clone was written to", before, now)
	}
	flip(t, p.Disk())
	if print() == before {
		t.Error("a byte of the disk was written, and the digest is what it was")
	}
}

// flip writes one byte in the middle of the data of an image, and restores its time.
func flip(t *testing.T, image string) {
	t.Helper()
	st, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	at, err := f.Seek(1<<20, 3) // SEEK_DATA
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close(), os.Chtimes(image, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedPointsAreNamed wants the id of a point that cannot be relied on.
func TestDamagedPointsAreNamed(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	p, err := r.MakePoint(context.Background(), mustMount(t, r), &Manifest{ID: dr.NewPointID(time.Now()), Facts: extFacts()})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(p.Dir, manifestFile), 100); err != nil {
		t.Fatal(err)
	}
	_, err = r.Points()
	named := PointErrors(err)
	if len(named) != 1 || named[0].ID != p.ID || !errors.Is(named[0], ErrDamagedPoint) {
		t.Errorf("named %v of %v", named, err)
	}
}
