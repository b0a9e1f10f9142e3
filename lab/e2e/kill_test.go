package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/tree"
)

// cuts is how many passes TestCuts cuts short.
func cuts() int {
	if soak() {
		return 100
	}
	return 20
}

// ledger remembers what each recovery point's tree digested to when it was new.
type ledger map[string]string

// TestCuts cuts passes short at random instants, while everything is written to,
// in every way there is, and looks after each cut whether the recovery points are
// what they were. The last pass is left alone and must equal the source; lastPointBoots boots it.
func TestCuts(t *testing.T) {
	w := need(t)
	r := w.chance(t)
	config := w.estate(t, plus("groups: [{name: pair, order: [web1, files1]}]\n"))
	took := w.must(t, config, "replicate", "web1", "files1").took
	known := ledger{}
	w.audit(t, known, "web1", "files1")
	ways := []struct {
		name string
		cut  func(*world, *testing.T, *rand.Rand, *started)
	}{{"kill -9 of leeward", killLeeward}, {"kill -9 of an agent", killAgent}, {"link cut", cutLink}}
	for n := range cuts() {
		way := ways[r.IntN(len(ways))]
		stir(w, t, r)
		after := time.Duration(r.Int64N(int64(took * 3 / 2)))
		s := w.start(t, config, "replicate", "web1", "files1")
		time.Sleep(after)
		alive := s.running()
		way.cut(w, t, r, s)
		res := s.wait()
		t.Logf("cut %d: %s after %v (running: %v): exit code %d after %v", n, way.name, after.Round(time.Millisecond), alive, res.code, res.took.Round(time.Millisecond))
		if way.name != "kill -9 of leeward" && res.code != 0 {
			t.Errorf("the pass did not get over it: %s", res)
		}
		nothingLeft(t, w.store())
		w.points(t, w.store(), "web1")
		w.points(t, w.store(), "files1")
		if _, err := w.openStore(t, config).GroupPoints("pair"); err != nil {
			t.Errorf("recovery points of both: %v", err)
		}
		if n%4 == 3 {
			w.audit(t, known, []string{"web1", "files1"}[n/4%2])
		}
		if t.Failed() {
			t.Fatalf("stopped after cut %d", n)
		}
	}
	w.quiet(t, "web1", "files1")
	w.must(t, config, "replicate", "web1", "files1")
	w.equal(t, config, "web1", "files1")
	w.audit(t, known, "web1", "files1")
	w.must(t, config, "verify", "--point", "all", "web1", "files1")
}

// stir gives the next pass something to carry beside what the writers do: large
// files new and changed, and many small ones.
func stir(w *world, t *testing.T, r *rand.Rand) {
	t.Helper()
	for _, s := range []string{"web1", "files1"} {
		n := r.IntN(4)
		w.in(t, s, fmt.Sprintf(`mkdir -p /var/lib/stir; cd /var/lib/stir
head -c %d /dev/urandom > big.%d
dd if=/dev/urandom of=big.%d bs=4096 count=1 seek=%d conv=notrunc status=none
rm -rf many.%d; mkdir many.%d; cd many.%d; seq 300 | split -l 1 -a 3`,
			r.IntN(30<<20), r.IntN(3), r.IntN(3), r.IntN(4000), n, n, n))
	}
}

func killLeeward(_ *world, _ *testing.T, _ *rand.Rand, s *started) { s.kill() }

func killAgent(w *world, t *testing.T, r *rand.Rand, _ *started) {
	server := []string{"web1", "files1"}[r.IntN(2)]
	for _, pid := range w.agents(t, server) {
		w.in(t, server, "kill -9 "+pid+" || true")
	}
}

func cutLink(w *world, t *testing.T, r *rand.Rand, _ *started) {
	if err := w.lab.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(r.IntN(2500)) * time.Millisecond)
	if err := w.lab.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// audit insists that every recovery point of the named servers stands, and that
// the newest one, or the oldest one seen before, holds what it held then.
func (w *world) audit(t *testing.T, known ledger, names ...string) {
	t.Helper()
	for _, name := range names {
		points := w.points(t, w.store(), name)
		if len(points) == 0 {
			t.Fatalf("%s has no recovery point", name)
		}
		p := points[0]
		for _, older := range points {
			if known[name+" "+string(older.ID)] != "" {
				p = older
			}
		}
		key := name + " " + string(p.ID)
		sum := w.digest(t, name, p.ID)
		if was := known[key]; was != "" && was != sum {
			t.Errorf("%s digested to %s and now to %s", key, was, sum)
		}
		known[key] = sum
	}
}

// digest mounts a clone of a recovery point and digests all its filesystems. What
// the manifest says of each must be what the catalog in the point says.
func (w *world) digest(t *testing.T, server string, id dr.PointID) string {
	t.Helper()
	var sums []string
	for _, p := range w.points(t, w.store(), server) {
		if p.ID != id {
			continue
		}
		m, release := w.mount(t, w.store(), p, true)
		defer release()
		for _, f := range p.Manifest.Filesystems {
			root, err := tree.OpenRoot(m.Root(f.MountPoint))
			if err != nil {
				t.Fatal(err)
			}
			sum, err := tree.Digest(t.Context(), root, nil)
			unix.Close(root)
			if err != nil {
				t.Fatal(err)
			}
			sums = append(sums, f.MountPoint+" "+sum)
			if f.Digest == "" || f.Entries == 0 {
				t.Errorf("%s of %s: the manifest says nothing of %s", id, server, f.MountPoint)
			}
		}
	}
	return strings.Join(sums, ", ")
}
