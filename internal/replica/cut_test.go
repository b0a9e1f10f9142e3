package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// TestCutPoints kills a process that makes passes and points, at random instants.
// After each cut every point is whole: its filesystem is clean, and it holds what
// its manifest says.
func TestCutPoints(t *testing.T) {
	if dir := os.Getenv("LEEWARD_TEST_PASSES"); dir != "" {
		makePasses(t, dir)
	}
	needRoot(t, "e2fsck")
	cuts := 5
	if testing.Short() {
		cuts = 1
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for cut := range cuts {
		cmd, out := startSelf(t, "TestCutPoints", "LEEWARD_TEST_PASSES="+s.dir)
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "mounted" {
			t.Fatalf("cut %d: the other process says %q", cut, lines.Text())
		}
		time.Sleep(time.Duration(random.IntN(250)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if err := r.Lock(); err != nil {
			t.Fatal(err)
		}
		points, err := r.Points()
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		if len(points) > 0 {
			checkPoint(t, r, points[0])
		}
		t.Logf("cut %d: %d points", cut, len(points))
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	checkAllPoints(t, r)
}

func checkAllPoints(t *testing.T, r *Replica) {
	t.Helper()
	points, err := r.Points()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range points {
		checkPoint(t, r, p)
	}
	entries, err := os.ReadDir(r.path(pointsDir))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(points) {
		t.Errorf("%d names for %d points", len(entries), len(points))
	}
}

// checkPoint compares a clone of p with p's manifest.
func checkPoint(t *testing.T, r *Replica, p *Point) {
	t.Helper()
	ctx := context.Background()
	if out, err := p.Check(ctx, scratch(t, r)); err != nil {
		t.Errorf("point %s: %v\n%s", p.ID, err, out)
	}
	img, err := p.Clone(ctx, filepath.Join(scratch(t, r), "c"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Mount(ctx, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, m.Root("/"), "pass"); got != p.Manifest.Leeward {
		t.Errorf("point %s holds pass %q, its manifest says %q", p.ID, got, p.Manifest.Leeward)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

// makePasses is the other process: passes and points until it is killed.
func makePasses(t *testing.T, dir string) {
	ctx := context.Background()
	s, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Replica("web1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Mount(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("mounted")
	for {
		now := time.Now()
		name := fmt.Sprint(now.UnixNano())
		err := errors.Join(
			os.WriteFile(filepath.Join(m.Root("/"), "pass"), []byte(name), 0o600),
			os.WriteFile(filepath.Join(m.Root("/"), "data"), []byte(strings.Repeat(name, 20_000)), 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.MakePoint(ctx, m, &Manifest{ID: dr.NewPointID(now), Leeward: name}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Retain(Retention{Keeps: []Keep{{Last: 3}}}); err != nil {
			t.Fatal(err)
		}
	}
}
