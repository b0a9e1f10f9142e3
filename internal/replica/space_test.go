package replica

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// random writes n bytes that nothing can share, durably.
func random(t *testing.T, n int64, off int64, elem ...string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(elem...), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(io.NewOffsetWriter(f, off), io.LimitReader(rand.Reader, n)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func near(got, want, slack int64) bool { return got >= want-slack && got <= want+slack }

// TestCostOf compares the places of files' blocks with what was written.
func TestCostOf(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	dir, err := s.Scratch("cost")
	if err != nil {
		t.Fatal(err)
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	random(t, 8*mebibyte, 0, a)
	check := func(what, file, newer string, alone, older int64) {
		t.Helper()
		c, err := costOf(file, newer)
		if s.pool == "" {
			alone = c.alone // btrfs gives an extent back only whole
		}
		if err != nil || !near(c.alone, alone, 64<<10) || !near(c.older, older, 64<<10) {
			t.Errorf("%s: %+v, %v; want %d alone, %d older", what, c, err, alone, older)
		}
	}
	check("a file of its own", a, b, 8*mebibyte, 8*mebibyte)
	if err := cloneFile(a, b); err != nil {
		t.Fatal(err)
	}
	check("a fresh clone", a, b, 0, 0)
	random(t, 2*mebibyte, 3*mebibyte, b)
	check("after 2 MiB of the clone were written", a, b, 2*mebibyte, 2*mebibyte)
	if err := os.Truncate(b, mebibyte); err != nil {
		t.Fatal(err)
	}
	check("after the clone was cut", a, b, 7*mebibyte, 7*mebibyte)
	check("the other way round", b, a, 0, 0)
	check("nothing to compare with", b, filepath.Join(dir, "none"), 0, mebibyte)
}

// TestCosts writes a known amount between points, and removes one: the store has as
// much more free as was said.
func TestCosts(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const each = 4 * mebibyte
	for i := range 4 {
		random(t, each, 0, m.Root("/"), "data") // all anew each time
		if i == 2 {
			random(t, each, 0, m.Root("/"), "late")
		}
		mustPoint(t, r, m, begin.Add(time.Duration(i)*time.Hour), fmt.Sprint(i))
	}
	random(t, each, 0, m.Root("/"), "data")
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	points, err := r.Points()
	if err != nil {
		t.Fatal(err)
	}
	costs, err := r.Costs(points)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("costs, newest first: %+v", costs)
	const slack = mebibyte // journals, bitmaps, manifests
	for i, c := range costs {
		if !near(c.Held, each, slack) || !near(c.Alone, each, slack) {
			t.Errorf("point %d: %+v, want %d each", i, c, each)
		}
	}
	g, err := r.GrowthOf(points, costs)
	if err != nil || g == nil || g.Every != time.Hour || len(g.Samples) != 3 || !near(g.Held, 4*each, 4*slack) {
		t.Errorf("growth %+v, %v", g, err)
	}
	before := freeNow(t, s)
	removed, err := r.Retain(Retention{Keeps: []Keep{{Last: 1}}})
	if err != nil || len(removed) != 3 {
		t.Fatal(removed, err)
	}
	said := costs[1].Held + costs[2].Held + costs[3].Held
	if freed := freeNow(t, s) - before; !near(freed, said, 2*mebibyte) {
		t.Errorf("removing three freed %d bytes, %d were said", freed, said)
	}
}

// freeNow is the free space of a store once it has settled.
func freeNow(t *testing.T, s *Store) int64 {
	t.Helper()
	var last int64
	for range 50 {
		if err := syncFilesystem(s.root); err != nil {
			t.Fatal(err)
		}
		free, err := freeBytes(s.root)
		if err != nil {
			t.Fatal(err)
		}
		if free == last {
			return free
		}
		last = free
		time.Sleep(100 * time.Millisecond)
	}
	return last
}

func TestForecast(t *testing.T) {
	const each = 10 << 20
	steady := &Growth{Every: time.Hour, Most: 1 << 40, Samples: []Sample{{time.Hour, each}, {time.Hour, each}, {time.Hour, 9 * each}}}
	for _, c := range []struct {
		name  string
		g     *Growth
		keep  Keep
		want  int64
		bound bool
	}{
		{"the newest has cost nothing yet", steady, Keep{Last: 1}, 0, false},
		{"hours", steady, Keep{Last: 25}, 24 * each, false},
		{"hours by another name", steady, Keep{Hourly: 25}, 24 * each, false},
		// Of days nothing is known: each as 24 hours that have nothing in common. The
		// first of them is half an hour before midnight, as the newest is.
		{"days", steady, Keep{Daily: 15}, 14 * 24 * each, true},
		{"days that are known", &Growth{Every: time.Hour, Most: 1 << 40, Samples: []Sample{{time.Hour, each}, {24 * time.Hour, 3 * each}}}, Keep{Daily: 15}, 14 * 3 * each, false},
		{"no more than the disk", &Growth{Every: time.Hour, Most: 5 * each, Samples: []Sample{{time.Hour, each}}}, Keep{Daily: 15}, 14 * 5 * each, true},
		{"a pass a day is one an hour, too", &Growth{Every: 24 * time.Hour, Most: 1 << 40, Samples: []Sample{{24 * time.Hour, each}}}, Keep{Last: 5, Hourly: 10, Daily: 3}, 9 * each, false},
	} {
		if got, bound := c.g.Forecast(c.keep); got != c.want || bound != c.bound {
			t.Errorf("%s: %d, a bound: %v; want %d, %v", c.name, got, bound, c.want, c.bound)
		}
	}
}

// TestCloneOf20GB clones the point of a disk of 20 GB that is in many pieces: it takes
// less than a second, and no space.
func TestCloneOf20GB(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a disk of 20 GB; -short was given")
	}
	needRoot(t)
	s := newStoreOf(t, 2<<30)
	r := newReplica(t, s, "web1")
	facts := extFacts()
	facts.Filesystems[0].SizeBytes, facts.Filesystems[0].Inodes = 20e9, 0
	mustPrepare(t, r, mustPlan(t, facts))
	scatter(t, r.Disk())
	m := mustMount(t, r)
	random(t, 64*mebibyte, 0, m.Root("/"), "data")
	begin := time.Now()
	p := mustPoint(t, r, m, time.Now(), "x")
	made := time.Since(begin)
	dir, err := s.Scratch("clone")
	if err != nil {
		t.Fatal(err)
	}
	var worst time.Duration
	before := freeNow(t, s)
	for i := range 5 {
		begin := time.Now()
		if _, err := p.Clone(context.Background(), filepath.Join(dir, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		worst = max(worst, time.Since(begin))
	}
	took := (before - freeNow(t, s)) / 5
	size, err := allocated(p.Disk())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a disk of %d MiB with %d MiB allocated in %d extents: point made in %v, cloned in %v at the worst of 5, %d KiB of metadata a clone",
		p.Manifest.DiskBytes>>20, size>>20, extentsOf(t, p.Disk()), made.Round(time.Millisecond), worst.Round(time.Millisecond), took>>10)
	if size < 19e9 {
		t.Errorf("only %d bytes are allocated", size)
	}
	if worst > time.Second {
		t.Errorf("cloning took %v, want less than a second", worst)
	}
	if took > size/1000 {
		t.Errorf("a clone takes %d bytes, want no space to speak of", took)
	}
}

// scatter puts content behind every hole of a disk, in pieces that do not follow each
// other in the store: what is written once, again and again.
func scatter(t *testing.T, disk string) {
	t.Helper()
	const stock, piece = 256 * mebibyte, mebibyte
	from := disk + ".stock"
	random(t, stock, 0, from)
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for n, at := 0, int64(0); at+piece <= st.Size(); n, at = n+1, at+piece {
		if data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA); err == nil && data < at+piece {
			continue
		}
		r := &unix.FileCloneRange{Src_fd: int64(in.Fd()), Src_offset: uint64(n*37%256) * piece, Src_length: piece, Dest_offset: uint64(at)}
		if err := unix.IoctlFileCloneRange(int(f.Fd()), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
}

func extentsOf(t *testing.T, path string) (n int) {
	t.Helper()
	r, err := openExtents(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	for {
		if _, ok, err := r.read(); err != nil {
			t.Fatal(err)
		} else if !ok {
			return n
		}
		n++
	}
}
