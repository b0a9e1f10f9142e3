package replica

import (
	"bufio"
	"context"
	"encoding/json"
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

func TestGroupManifestSumsUp(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	m := &GroupManifest{
		Servers: []GroupServer{
			{Server: "a", Consistency: dr.Crash, From: at(10), To: at(12)},
			{Server: "b", Consistency: dr.Fuzzy, From: at(5), To: at(30)},
		},
		Databases: []GroupDatabase{{Database: "d", Consistency: dr.Application, Heard: at(41)}},
	}
	m.sumUp()
	if m.Consistency != dr.Fuzzy || m.Skew != 36*time.Second || !m.From.Equal(at(5)) || !m.To.Equal(at(41)) {
		t.Errorf("%s, skew %v from %v to %v", m.Consistency, m.Skew, m.From, m.To)
	}
}

func TestServerMember(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	m := &Manifest{Server: "a", Started: at(0), Finished: at(60), Digest: "x", Filesystems: []FilesystemState{
		{At: at(3), Consistency: dr.Crash, Entries: 2, Bytes: 5}, {At: at(4), Consistency: dr.Crash, Entries: 1, Bytes: 6}}}
	got := ServerMember(&Point{ID: "i", Manifest: m})
	if !got.From.Equal(at(3)) || !got.To.Equal(at(4)) || got.Entries != 3 || got.Bytes != 11 || got.Manifest != "x" || got.Point != "i" {
		t.Errorf("of snapshots: %+v", got)
	}
	m.Filesystems[0].Consistency = dr.Fuzzy
	if got := ServerMember(&Point{Manifest: m}); !got.To.Equal(at(60)) {
		t.Errorf("read live: to %v, want the end of the pass", got.To)
	}
}

// TestGroupPoints makes points of a group, and damages them in each part.
func TestGroupPoints(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	old, now := mustPoint(t, r, m, begin, "0"), mustPoint(t, r, m, begin.Add(time.Hour), "1")
	make := func(p *Point) (*GroupPoint, error) {
		return s.MakeGroupPoint(ctx, &GroupManifest{Group: "all", ID: p.ID, Order: []string{"web1"}, Servers: []GroupServer{ServerMember(p)}})
	}
	for _, p := range []*Point{old, now} {
		if _, err := make(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := make(now); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second point of one id: %v", err)
	}
	points, err := s.GroupPoints("all")
	if err != nil || len(points) != 2 || points[0].ID != now.ID || points[0].Manifest.Servers[0].Source.Hostname != "web1" {
		t.Fatalf("%+v, %v", points, err)
	}
	wrong := ServerMember(now)
	wrong.Manifest = old.Manifest.Digest
	if _, err := s.MakeGroupPoint(ctx, &GroupManifest{Group: "all", ID: "20260101T020000.000Z", Servers: []GroupServer{wrong}}); !errors.Is(err, ErrDamagedPoint) {
		t.Errorf("a member that is another: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.MakeGroupPoint(cancelled, &GroupManifest{Group: "all", ID: "20260101T030000.000Z"}); err == nil {
		t.Error("made after the end")
	}
	checkGroupDamage(t, s, points[1])
	// A member that is damaged takes the group's point with it, but not the older one.
	if err := os.Truncate(filepath.Join(now.Dir, manifestFile), 10); err != nil {
		t.Fatal(err)
	}
	points, err = s.GroupPoints("all")
	if len(points) != 1 || points[0].ID != old.ID || !errors.Is(err, ErrDamagedPoint) || !strings.Contains(err.Error(), string(now.ID)) {
		t.Errorf("with a damaged member: %d points, %v", len(points), err)
	}
}

func checkGroupDamage(t *testing.T, s *Store, g *GroupPoint) {
	t.Helper()
	path := filepath.Join(g.Dir, manifestFile)
	good := readFile(t, path)
	for name, bad := range map[string]string{
		"cut": good[:100], "edited": strings.Replace(good, "web1", "web2", 1), "empty": "", "another version": strings.Replace(good, `"version": 1`, `"version": 2`, 1),
	} {
		writeFile(t, bad, path)
		points, err := s.GroupPoints("all")
		if len(points) != 1 || !errors.Is(err, ErrDamagedPoint) || !strings.Contains(err.Error(), string(g.ID)) {
			t.Errorf("%s: %d points, %v", name, len(points), err)
		}
		// What it needs is not known, so nothing goes.
		if _, err := s.usersOf("web1"); !errors.Is(err, ErrDamagedPoint) {
			t.Errorf("%s: users of web1: %v", name, err)
		}
	}
	writeFile(t, good, path)
}

// TestCutGroupPoints kills a process that makes and removes a group's points, at random
// instants: each that is there is whole.
func TestCutGroupPoints(t *testing.T) {
	if dir := os.Getenv("LEEWARD_TEST_GROUPS"); dir != "" {
		makeGroupPoints(t, dir)
	}
	needRoot(t)
	cuts := 20
	if testing.Short() {
		cuts = 2
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	mustPoint(t, r, m, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), "0")
	most := 0
	for cut := range cuts {
		cmd, out := startSelf(t, "TestCutGroupPoints", "LEEWARD_TEST_GROUPS="+s.dir)
		if lines := bufio.NewScanner(out); !lines.Scan() || lines.Text() != "begun" {
			t.Fatalf("cut %d: the other process says %q", cut, lines.Text())
		}
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		points, err := s.GroupPoints("all")
		if err != nil {
			t.Fatalf("cut %d: %v", cut, err)
		}
		most = max(most, len(points))
	}
	if most < 2 {
		t.Errorf("at most %d points were there: it was cut too early each time", most)
	}
	if _, err := s.RetainGroup(context.Background(), "all", Retention{Keeps: []Keep{{Last: 1}}}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.groupDir("all"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v; want one point", entries, err)
	}
}

// makeGroupPoints is the other process.
func makeGroupPoints(t *testing.T, dir string) {
	ctx := context.Background()
	s, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Replica("web1")
	if err != nil {
		t.Fatal(err)
	}
	points, err := r.Points()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("begun")
	for {
		_, err := s.MakeGroupPoint(ctx, &GroupManifest{Group: "all", ID: dr.NewPointID(time.Now()), Servers: []GroupServer{ServerMember(points[0])}})
		if err != nil && !strings.Contains(err.Error(), "already") {
			t.Fatal(err)
		}
		if _, err := s.RetainGroup(ctx, "all", Retention{Keeps: []Keep{{Last: 3}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzGroupManifest(f *testing.F) {
	m := &GroupManifest{Version: groupVersion, Group: "all", ID: "20160101T000000.000Z", Servers: []GroupServer{{Server: "a"}}}
	m.Digest, _ = m.digest()
	b, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"servers":[{"server":"../.."}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseGroupManifest(b)
		if err != nil {
			return
		}
		if sum, err := m.digest(); err != nil || sum != m.Digest {
			t.Fatalf("accepted a manifest with digest %s, it is %s, %v", m.Digest, sum, err)
		}
	})
}
