package tree

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// witnessed is what a walk of the real tree shows of each entry.
func witnessed(t *testing.T, root string) map[string][2]string {
	t.Helper()
	out := map[string][2]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		content, attributes := fmt.Sprint(st.Mode&unix.S_IFMT), fmt.Sprint(st.Mode, st.Uid, st.Gid)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content += fmt.Sprintf("%x", sha256.Sum256(b))
			attributes += fmt.Sprint(st.Mtim)
		}
		out[strings.TrimPrefix(path, root+"/")] = [2]string{content, attributes}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCatalogDifferences changes a tree at random, with a directory of many pages in it,
// and compares what two catalogs tell with what a walk of the tree shows.
func TestCatalogDifferences(t *testing.T) {
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w.sh(`mkdir -p many a/b/c gone/deep; cd many; for i in $(seq 3000); do : > f$i; done; cd ..; seq 9 > a/b/c/f; seq 5 > gone/deep/f; ln -s x a/l`)
	w.sync()
	for round := range 3 {
		before := witnessed(t, w.src)
		old := filepath.Join(t.TempDir(), "old.db")
		b, err := os.ReadFile(w.state + "/catalog.db")
		if err == nil {
			err = os.WriteFile(old, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		var script strings.Builder
		for range 60 {
			n := random.IntN(3000)
			fmt.Fprintf(&script, "rm -f many/f%d; echo %d > many/f%d; : > many/new%d-%d; [ ! -e many/f%d ] || chmod 600 many/f%d\n",
				n, n, random.IntN(3000), round, n, random.IntN(3000), random.IntN(3000))
		}
		w.sh(`umask 022; set +e; ` + script.String() + fmt.Sprintf("rm -rf gone; mkdir -p new%d/x; echo %d > new%d/x/f; chmod 70%d a/b; true", round, round, round, round))
		w.sync()
		after := witnessed(t, w.src)
		want := map[string]ChangeKind{}
		for path, x := range before {
			y, there := after[path]
			switch {
			case !there:
				want[path] = Removed
			case x[0] != y[0]:
				want[path] = Changed
			case x[1] != y[1]:
				want[path] = Attributes
			}
		}
		for path := range after {
			if _, there := before[path]; !there {
				want[path] = Added
			}
		}
		got := map[string]ChangeKind{}
		sum, err := CatalogDifferences(t.Context(), old, w.state+"/catalog.db", func(c EntryChange) error {
			got[c.Path] = c.Kind
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for path, kind := range want {
			if got[path] != kind {
				t.Errorf("round %d: %s is %q, want %q", round, path, got[path], kind)
			}
		}
		for path, kind := range got {
			if want[path] == "" {
				t.Errorf("round %d: %s is %s, want it equal", round, path, kind)
			}
		}
		counted, err := CountCatalogChanges(t.Context(), old, w.state+"/catalog.db")
		if err != nil || counted != sum || len(want) < 100 {
			t.Errorf("round %d: counted %+v, %v; listed %+v; %d differ", round, counted, err, sum, len(want))
		}
	}
	if _, err := CountCatalogChanges(t.Context(), filepath.Join(t.TempDir(), "none"), w.state+"/catalog.db"); err == nil {
		t.Error("compared with a catalog that is not there")
	}
}
