package tree

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"go.etcd.io/bbolt"
)

// linkNames counts what the catalog knows of inodes with several names.
func linkNames(t *testing.T, path string) (n int) {
	t.Helper()
	c, err := OpenCatalog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.view(func(tx *bbolt.Tx) error {
		n = tx.Bucket(linksBucket).Stats().KeyN
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLinksShrink(t *testing.T) {
	for _, kind := range []string{"", "btrfs"} {
		w := newWorld(t)
		if kind != "" {
			w = newLoopWorld(t, kind)
		}
		catalog := w.state + "/catalog.db"
		steps := []struct {
			change string
			want   int
		}{
			{`mkdir -p a/b c; echo x > a/f; ln a/f a/b/g; ln a/f c/h; echo y > c/one; ln c/one c/two`, 5},
			{`rm c/h`, 4},
			{`rm c/two`, 2},
			{`mv a d`, 2},
			{`rm d/f; echo z > d/f`, 0},
			{`ln d/f d/k; mkdir e; ln d/f e/l`, 3},
			{`rm -r d e`, 0},
		}
		if kind == "btrfs" {
			steps = append(steps, []struct {
				change string
				want   int
			}{{`btrfs -q subvolume create s; mkdir s/d; echo x > s/d/f; ln s/d/f s/d/g; btrfs -q subvolume create s/n; echo y > s/n/f; ln s/n/f s/n/g`, 4},
				{`rm s/d/g`, 2}, {`btrfs -q subvolume delete s/n; btrfs -q subvolume delete s`, 0}}...)
		}
		for _, s := range steps {
			w.sh(s.change)
			w.sync()
			w.equal()
			if got := linkNames(t, catalog); got != s.want {
				t.Errorf("%s after %q: %d names, want %d", kind, s.change, got, s.want)
			}
		}
	}
}

// A page that cannot be read is found out as such, and so is a file whose inner
// structure leads nowhere.
func TestDamagedCatalog(t *testing.T) {
	w := newWorld(t)
	w.sh(`for i in $(seq 40); do mkdir -p d$((i % 7))/e$i; echo $i > d$((i % 7))/e$i/f; done`)
	w.sync()
	path := w.state + "/catalog.db"
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	w.sh(`for i in $(seq 40); do echo more >> d$((i % 7))/e$i/f; done`)
	c, err := OpenCatalog(path)
	if err != nil {
		t.Fatal(err)
	}
	err = c.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(pagesBucket)
		k, v := b.Cursor().First()
		return b.Put(bytes.Clone(k), append(bytes.Clone(v[:9]), 0xff, 0xff, 0xff))
	})
	if err != nil || c.Close() != nil {
		t.Fatal(err)
	}
	if _, err := w.pass(context.Background()); !errors.Is(err, ErrDamaged) {
		t.Errorf("a pass over a damaged page: %v", err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 6))
	found := 0
	for range 8 {
		b := bytes.Clone(good)
		page := 2 + r.IntN(len(b)/4096-2) // not the two that bbolt checks by itself
		for i := range 64 {
			b[4096*page+i] = byte(r.Uint32())
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, replaced, err := OpenOrReplaceCatalog(path)
		if err != nil || c.Close() != nil {
			t.Fatalf("page %d damaged, seed %d: %v", page, seed, err)
		}
		if replaced {
			found++
			continue
		}
		_, err = w.pass(context.Background())
		if err != nil && !isDamaged(err) {
			t.Fatalf("page %d damaged, seed %d: %v", page, seed, err)
		}
		if err != nil {
			found++
			if err := SetAside(path); err != nil {
				t.Fatal(err)
			}
			w.sync()
		}
	}
	if found == 0 {
		t.Errorf("no damage was found, seed %d", seed)
	}
	w.sync()
	w.equal()
}
