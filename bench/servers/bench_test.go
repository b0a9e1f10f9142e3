package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestParseRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"-cases", "g"}, {"-scale", "0"}, {"-passes", "0"}, {"-leeward", "/nowhere/leeward"}, {"-unknown"},
	} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse %q: no error", args)
		}
	}
}

func TestMedianTakesEachFigureAlone(t *testing.T) {
	got := median([]usage{
		{Wall: 3, In: 1, Source: side{CPU: 9, RSS: 5}}, {Wall: 1, In: 2, Source: side{CPU: 7, RSS: 6}}, {Wall: 2, In: 3, Source: side{CPU: 8, RSS: 4}},
	})
	want := usage{Wall: 2, In: 2, Source: side{CPU: 8, RSS: 5}}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTargetsAreJudged(t *testing.T) {
	f := figures{
		Leeward: usage{Wall: 5, In: 3, Out: 1, Target: side{RSS: 301e6}},
		Rsync:   usage{Wall: 10, In: 90, Out: 10},
	}
	for _, c := range []struct {
		target target
		got    float64
		met    bool
	}{
		{timeAtMost(0.5), 0.5, true},
		{timeAtMost(0.49), 0.5, false},
		{bytesAtMost(0.05), 0.04, true},
		{bytesAtMost(0.03), 0.04, false},
		{bytesOf(2, 1.3), 2, false},
		{rateAtLeast(1.5), 2, true},
		{rateAtLeast(2.1), 2, false},
		{memoryAtMost(300e6), 301, false},
		{memoryAtMost(301e6), 301, true},
	} {
		if got, met := c.target.judge(f); got != c.got || met != c.met {
			t.Errorf("%s %s: got %v, %v, want %v, %v", c.target.What, c.target.Want, got, met, c.got, c.met)
		}
	}
}

func TestVolatile(t *testing.T) {
	for name, want := range map[string]bool{
		"lost+found/": true, "srv/lost+found/": true, "var/log/syslog": true, "var/lib/systemd/random-seed": true,
		"var/lib/dpkg/status": false, "etc/var/login": false, "data/f1": false,
	} {
		if got := isVolatile(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestSmallFilesChangeAsCounted(t *testing.T) {
	root := t.TempDir()
	const n = 400
	if err := makeSmall(root, n); err != nil {
		t.Fatal(err)
	}
	before := read(t, root, n)
	seen := map[int]bool{}
	for round := range 3 {
		if err := changeSmall(root, n, 4, round); err != nil {
			t.Fatal(err)
		}
		after := read(t, root, n)
		changed := 0
		for i := range n {
			if before[i] != after[i] {
				changed++
				if seen[i] {
					t.Errorf("file %d changed in two rounds", i)
				}
				seen[i] = true
			}
		}
		if changed != 4 {
			t.Errorf("round %d changed %d files, want 4", round, changed)
		}
		before = after
	}
}

func read(t *testing.T, root string, n int) []string {
	t.Helper()
	out := make([]string, n)
	for i := range n {
		b, err := os.ReadFile(smallFile(root, i))
		if err != nil {
			t.Fatal(err)
		}
		out[i] = string(b)
	}
	return out
}

func TestLargeFileChangesInWholeBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large")
	const size = 300 * blockSize
	if err := makeLarge(path, size); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := changeLarge(path, size)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	different := 0
	for i := 0; i < size; i += blockSize {
		if string(before[i:i+blockSize]) != string(after[i:i+blockSize]) {
			different++
		}
	}
	if len(after) != size || different != 3 || changed != 3*blockSize {
		t.Errorf("size %d, %d blocks differ, %d bytes told; want %d, 3, %d", len(after), different, changed, size, 3*blockSize)
	}
}

func TestAgedCopyHasAllContentElsewhere(t *testing.T) {
	root := t.TempDir()
	if err := makeSmall(root, 1000); err != nil {
		t.Fatal(err)
	}
	a, err := age(root)
	if err != nil {
		t.Fatal(err)
	}
	if a.files != 1000 || a.moved < 200 || a.moved > 450 || a.changed == 0 {
		t.Errorf("got %+v", a)
	}
	moved, err := filepath.Glob(filepath.Join(root, "old", "*", "*"))
	if err != nil || len(moved) != a.moved {
		t.Errorf("%d files in old, %v; want %d", len(moved), err, a.moved)
	}
}
