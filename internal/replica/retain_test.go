package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// mustPoint makes a point of a replica whose root holds the file n with the text.
func mustPoint(t *testing.T, r *Replica, m *Mounted, at time.Time, text string) *Point {
	t.Helper()
	writeFile(t, text, m.Root("/"), "n")
	p, err := r.MakePoint(context.Background(), m, &Manifest{ID: dr.NewPointID(at), Started: at, Finished: at.Add(time.Minute), Consistency: dr.Fuzzy,
		Filesystems: []FilesystemState{{MountPoint: "/", Type: "ext4", Consistency: dr.Fuzzy, At: at, Entries: 1, Bytes: int64(len(text))}}, Facts: extFacts()})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestKeepChooses(t *testing.T) {
	end := time.Date(2026, 3, 10, 11, 30, 0, 0, time.UTC)
	every := func(step time.Duration, n int) (ids []dr.PointID) {
		for i := range n {
			ids = append(ids, dr.NewPointID(end.Add(-time.Duration(i)*step)))
		}
		return ids
	}
	for _, c := range []struct {
		name string
		keep Keep
		ids  []dr.PointID
		want int
		old  string // the oldest that stays
	}{
		{"last only", Keep{Last: 3}, every(time.Minute, 10), 3, "20260310T112800.000Z"},
		{"fewer than last", Keep{Last: 30}, every(time.Minute, 10), 10, "20260310T112100.000Z"},
		{"newest of each hour", Keep{Hourly: 3}, every(10*time.Minute, 60), 3, "20260310T095000.000Z"},
		{"newest of each day", Keep{Daily: 3}, every(time.Hour, 100), 3, "20260308T233000.000Z"},
		{"hours that have one", Keep{Hourly: 3}, every(7*time.Hour, 10), 3, "20260309T213000.000Z"},
		{"all three", Keep{Last: 12, Hourly: 24, Daily: 14}, every(15*time.Minute, 4*24*20), 44, "20260225T234500.000Z"},
		{"none", Keep{}, every(time.Minute, 3), 0, ""},
		{"no points", Keep{Last: 3, Hourly: 3, Daily: 3}, nil, 0, ""},
	} {
		stay := c.keep.choose(c.ids)
		old := ""
		for id := range stay {
			if old == "" || string(id) < old {
				old = string(id)
			}
		}
		if len(stay) != c.want || old != c.old {
			t.Errorf("%s: %d stay, the oldest is %s; want %d, %s", c.name, len(stay), old, c.want, c.old)
		}
	}
}

func TestShortSpaceTakesOldOnes(t *testing.T) {
	var ids []dr.PointID
	for i := range 10 {
		ids = append(ids, dr.NewPointID(time.Date(2026, 3, 10, 11, 30-i, 0, 0, time.UTC)))
	}
	o := Retention{Keeps: []Keep{{Last: 8}}, Since: ids[1], Least: 3}
	if got := o.Chosen(ids); len(got) != 3 || got[ids[2]] == nil {
		t.Errorf("stay %v, want the newest three", got)
	}
	o.Least = 0
	if got := o.Chosen(ids); len(got) != 2 {
		t.Errorf("stay %v, want two", got)
	}
}

// TestWhatIsKept holds points by each of the ways there are, and takes them away again.
func TestWhatIsKept(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	begin := time.Now().Add(-10 * time.Hour).UTC()
	var points []*Point
	for i := range 6 {
		points = append(points, mustPoint(t, r, m, begin.Add(time.Duration(i)*time.Minute), fmt.Sprint(i)))
	}
	group, err := s.MakeGroupPoint(ctx, &GroupManifest{Group: "all", ID: points[0].ID, Servers: []GroupServer{ServerMember(points[0])}})
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(time.Hour)
	release, err := points[3].Hold()
	err = errors.Join(err, s.SetPin(ctx, points[1].Place(), Pin{Reason: "mine"}),
		s.SetLock(ctx, points[2].Place(), TimeLock{Until: until}))
	if err != nil {
		t.Fatal(err)
	}
	retain := func(want ...int) {
		t.Helper()
		if _, err := r.Retain(Retention{Keeps: []Keep{{Last: 1}}}); err != nil {
			t.Fatal(err)
		}
		have, err := r.Points()
		if err != nil {
			t.Fatal(err)
		}
		var got, ids []string
		for _, p := range slices.Backward(have) {
			got = append(got, string(p.ID))
		}
		for _, i := range want {
			ids = append(ids, string(points[i].ID))
		}
		if !slices.Equal(got, ids) {
			t.Errorf("there are %v, want %v", got, ids)
		}
	}
	retain(0, 1, 2, 3, 5)
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if was, err := s.ClearPin(ctx, points[1].Place()); err != nil || !was {
		t.Errorf("unpin: %v, %v", was, err)
	}
	for _, shorter := range []time.Time{until.Add(-time.Minute), time.Now().Add(-time.Hour), {}} {
		if err := s.SetLock(ctx, points[2].Place(), TimeLock{Until: shorter}); err == nil || !strings.Contains(err.Error(), "locked until") {
			t.Errorf("a lock was made shorter, to %v: %v", shorter, err)
		}
	}
	retain(0, 2, 5)
	if removed, err := s.RetainGroup(ctx, "all", Retention{Keeps: []Keep{{Last: 1}}, Since: "9", Least: 0}); err != nil || len(removed) != 1 || removed[0] != group.ID {
		t.Errorf("removed of the group: %v, %v", removed, err)
	}
	retain(2, 5)
	// Marks that nobody can read keep the point.
	if err := os.WriteFile(filepath.Join(points[2].Dir, marksFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	retain(2, 5)
	if err := s.SetPin(ctx, points[0].Place(), Pin{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a point that is gone was pinned: %v", err)
	}
}

// TestMarksAreNotEdited changes a lock by hand.
func TestMarksAreNotEdited(t *testing.T) {
	s := &Store{root: t.TempDir()}
	p := Place{"web1", "20260101T000000.000Z", t.TempDir()}
	if err := s.SetLock(t.Context(), p, TimeLock{Until: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}); err != nil {
		t.Fatal(err)
	}
	text := readFile(t, p.Dir, marksFile)
	writeFile(t, strings.Replace(text, "2030", "2020", 1), p.Dir, marksFile)
	if m, err := p.Marks(); err == nil {
		t.Errorf("accepted %+v", m)
	}
	pin := Pin{Automatic: true, Reason: "by itself"}
	if err := s.SetPin(t.Context(), p, pin); err == nil {
		t.Error("damaged marks were written over")
	}
	writeFile(t, text, p.Dir, marksFile)
	if err := errors.Join(s.SetPin(t.Context(), p, Pin{Reason: "mine"}), s.SetPin(t.Context(), p, pin)); err != nil {
		t.Fatal(err)
	}
	if m, err := p.Marks(); err != nil || m.Pin.Reason != "mine" || m.Lock == nil {
		t.Errorf("marks %+v, %v: a pin by itself took the place of a person's", m, err)
	}
}

// TestClock sets the clock ahead and back, within a boot and across.
func TestClock(t *testing.T) {
	at := func(hours float64) time.Time {
		return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(hours * float64(time.Hour)))
	}
	last := &tick{Time: at(0), Boot: "a", Up: 5 * time.Hour}
	for _, c := range []struct {
		name string
		wall time.Time
		boot string
		up   float64
		want time.Time
	}{
		{"an hour later", at(1), "a", 6, at(1)},
		{"put right by minutes", at(1.5), "a", 6, at(1.5)},
		{"set ahead by years", at(50000), "a", 6, at(1)},
		{"set back", at(-30), "a", 6, at(0)},
		{"after a restart", at(48), "b", 0.1, at(48)},
		{"set back across a restart", at(-48), "b", 0.1, at(0)},
	} {
		got := last.advance(c.wall, c.boot, time.Duration(c.up*float64(time.Hour)))
		if !got.Equal(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	var none *tick
	if got := none.advance(at(3), "a", 0); !got.Equal(at(3)) {
		t.Errorf("the first time: %v", got)
	}
	s := &Store{root: t.TempDir()}
	first, err := s.clock(at(0))
	if err != nil || !first.Equal(at(0)) {
		t.Fatal(first, err)
	}
	if again, err := s.clock(at(9000)); err != nil || again.Sub(first) > time.Minute {
		t.Errorf("a clock set ahead is believed: %v, %v", again, err)
	}
}

func FuzzMarks(f *testing.F) {
	f.Add([]byte(`{"version":1,"pin":{"at":"2026-01-01T00:00:00Z"},"digest":""}`))
	f.Add([]byte(`{"version":1,"lock":{"until":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMarks(b)
		if err != nil {
			return
		}
		if sum, err := m.digest(); err != nil || sum != m.Digest {
			t.Fatalf("accepted marks with digest %s, it is %s, %v", m.Digest, sum, err)
		}
	})
}

// TestClockSetBack makes points while the clock is a year ahead, and after it was put
// right: the last made is the newest, and stays.
func TestClockSetBack(t *testing.T) {
	needRoot(t)
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	now := time.Now()
	var made []dr.PointID
	for i, at := range []time.Time{now.AddDate(1, 0, 0), now.AddDate(1, 0, 0).Add(time.Minute), now, now.Add(time.Minute)} {
		p := mustPoint(t, r, m, at, fmt.Sprint(i))
		if _, err := s.MakeGroupPoint(t.Context(), &GroupManifest{Group: "all", ID: p.ID, Servers: []GroupServer{ServerMember(p)}}); err != nil {
			t.Fatal(err)
		}
		made = append([]dr.PointID{p.ID}, made...)
	}
	check := func(want []dr.PointID) {
		t.Helper()
		points, err := r.Points()
		groups, groupErr := s.GroupPoints("all")
		var got, of []dr.PointID
		for _, p := range points {
			got = append(got, p.ID)
		}
		for _, g := range groups {
			of = append(of, g.ID)
		}
		if err = errors.Join(err, groupErr); err != nil || !slices.Equal(got, want) || !slices.Equal(of, want) {
			t.Errorf("points %v, of the group %v, %v; want %v", got, of, err, want)
		}
	}
	check(made)
	o := Retention{Keeps: []Keep{{Last: 1, Daily: 1}}}
	_, groupErr := s.RetainGroup(t.Context(), "all", o)
	_, err := r.Retain(o)
	if err = errors.Join(err, groupErr); err != nil {
		t.Fatal(err)
	}
	check(made[:1])
}

// TestProof notes what a drill found beside a point, which stays as it is.
func TestProof(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	p := mustPoint(t, r, mustMount(t, r), time.Now(), "x")
	if proof, err := p.Place().Proof(); err != nil || proof != nil {
		t.Errorf("before any drill: %+v, %v", proof, err)
	}
	if err := p.SetProof(Proof{Outcome: dr.Done, Drill: "d", TimeToProof: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if proof, err := p.Place().Proof(); err != nil || proof.Outcome != dr.Done || proof.TimeToProof != time.Minute {
		t.Errorf("after: %+v, %v", proof, err)
	}
	if points, err := r.Points(); err != nil || len(points) != 1 {
		t.Errorf("%d points, %v", len(points), err)
	}
	writeFile(t, `{"version":9}`, p.Dir, proofFile)
	if proof, err := p.Place().Proof(); err == nil {
		t.Errorf("of another version: %+v", proof)
	}
}
