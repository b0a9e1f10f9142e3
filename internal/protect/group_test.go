package protect

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// TestGroupPointsOfARun makes points of groups from runs of which parts fail.
func TestGroupPointsOfARun(t *testing.T) {
	w := newPointsWorld(t)
	made := w.point()
	r := w.pass.run
	done := ServerRun{Server: "web1", Outcome: dr.Done, Point: made.ID, made: made}
	r.Estate = &config.Estate{Servers: []config.Server{{Name: "web1"}, {Name: "db1"}, {Name: "app1"}}, Databases: []config.Database{{Name: "erp", Engine: "postgres"}},
		Groups: []config.Group{{Name: "web", Order: []string{"web1"}}, {Name: "shop", Order: []string{"erp", "web1", "db1"}}, {Name: "app", Order: []string{"app1"}}}}
	at := w.at.Add(time.Minute)
	run := func(servers []ServerRun, databases ...DatabaseRun) map[string]GroupRun {
		out := map[string]GroupRun{}
		at = at.Add(time.Second)
		for _, g := range r.groupPoints(t.Context(), at, &RunResult{Servers: servers, Databases: databases}) {
			out[g.Group] = g
		}
		return out
	}
	got := run([]ServerRun{done})
	if g := got["web"]; g.Outcome != dr.Done || g.Point != dr.NewPointID(at) || len(got) != 2 {
		t.Errorf("groups %+v", got)
	}
	if g := got["shop"]; g.Outcome != dr.NotDone || !g.Partial || !slices.Equal(g.Missing, []string{"erp", "db1"}) || !strings.Contains(g.Err, "this pass was not of erp, db1") {
		t.Errorf("of a part of the group: %+v", g)
	}
	got = run([]ServerRun{done, {Server: "db1", Outcome: dr.NotDone, Err: "refused"}}, DatabaseRun{Database: "erp", Outcome: dr.NotDone, Stopped: []string{"orders is not followed"}})
	if g := got["shop"]; g.Outcome != dr.NotDone || g.Partial || g.Point != "" || !strings.Contains(g.Err, "erp, db1 are not done") {
		t.Errorf("two members failed: %+v", g)
	}
	got = run([]ServerRun{done, {Server: "db1", Outcome: dr.NotDone}}, DatabaseRun{Database: "erp", Outcome: dr.Done})
	if g := got["shop"]; g.Outcome != dr.NotDone || g.Partial {
		t.Errorf("a member failed: %+v", g)
	}
	points, err := r.store.GroupPoints("shop")
	if err != nil || len(points) > 0 {
		t.Errorf("points of a group that never was done whole: %+v, %v", points, err)
	}
	if points, err = r.store.GroupPoints("web"); err != nil || len(points) != 3 {
		t.Errorf("points of web: %d, %v", len(points), err)
	}
}

// TestRetainRemovesWhatRunsOut makes more points than are kept: those of the group go
// first, then those of its members.
func TestRetainRemovesWhatRunsOut(t *testing.T) {
	w := newPointsWorld(t)
	r := w.pass.run
	r.Estate.Keep = config.Keep{Last: 2, Given: true}
	var last *replica.Point
	for range 4 {
		shell(t, w.from, `date +%N >> f`)
		last = w.point()
	}
	w.release()
	res := &RunResult{Servers: []ServerRun{{Server: "web1", Outcome: dr.Done, made: last}}, Groups: []GroupRun{{Group: "all", Outcome: dr.Done}}}
	r.retain(t.Context(), res, last.ID)
	if len(res.Servers[0].Removed) != 2 || len(res.Groups[0].Removed) != 2 || len(res.Findings) > 0 {
		t.Errorf("removed %+v, %+v; %+v", res.Servers[0].Removed, res.Groups[0].Removed, res.Findings)
	}
	points, err := r.store.GroupPoints("all")
	if err != nil || len(points) != 2 || points[0].ID != last.ID {
		t.Errorf("left of the group: %d, %v", len(points), err)
	}
}

// TestFormerGroup gives the group another name: its old points go as its server's do.
func TestFormerGroup(t *testing.T) {
	w := newPointsWorld(t)
	r := w.pass.run
	for range 2 {
		w.point()
	}
	r.Estate.Groups = []config.Group{{Name: "new", Order: []string{"web1"}, Keep: config.Keep{Last: 2, Given: true}}}
	left := func(want int) {
		t.Helper()
		if err := r.retainFormer(t.Context()); err != nil {
			t.Fatal(err)
		}
		if points, err := r.store.GroupPoints("all"); err != nil || len(points) != want {
			t.Errorf("%d points of the former group, %v; want %d", len(points), err, want)
		}
	}
	left(2)
	if names, err := FormerGroups(r.store, r.Estate); err != nil || !slices.Equal(names, []string{"all"}) {
		t.Errorf("former groups %v, %v", names, err)
	}
	shell(t, w.from, `date > f`)
	w.pointOf("new")
	left(1)
	w.pointOf("new")
	left(0)
}

// TestDefaultGivesWay fills a small store with points: without keep: the oldest go
// before their time, with it none does.
func TestDefaultGivesWay(t *testing.T) {
	if testing.Short() {
		t.Skip("it fills a store; -short was given")
	}
	w := newPointsWorldOf(t, 550<<20)
	r := w.pass.run
	w.carry.Space = w.pass.mounted.Reserve
	var last *replica.Point
	for range 8 {
		shell(t, w.from, `head -c 50000000 /dev/urandom > f`)
		last = w.point()
	}
	w.release()
	retain := func() *RunResult {
		res := &RunResult{Servers: []ServerRun{{Server: "web1", Outcome: dr.Done, made: last}}, Groups: []GroupRun{{Group: "all", Outcome: dr.Done}}}
		r.retain(t.Context(), res, last.ID)
		return res
	}
	before, err := r.store.Room()
	if err != nil || before > 100<<20 {
		t.Fatalf("%d MiB of room, %v: the store is too large for this test", before>>20, err)
	}
	r.Estate.Keep = config.Keep{Last: 12, Given: true}
	if res := retain(); len(res.Servers[0].Removed)+len(res.Groups[0].Removed) > 0 || len(res.Findings) != 1 || !strings.Contains(res.Findings[0].Text, "space in the store is short") {
		t.Errorf("what the user keeps: removed %v; %+v", res.Servers[0].Removed, res.Findings)
	}
	r.Estate.Keep = config.Keep{}
	res := retain()
	n := len(res.Servers[0].Removed)
	if n == 0 || n > 5 || n != len(res.Groups[0].Removed) || len(res.Findings) != 1 || !strings.Contains(res.Findings[0].Text, "before their time") {
		t.Errorf("by default: removed %v and %v; %+v", res.Servers[0].Removed, res.Groups[0].Removed, res.Findings)
	}
	space, err := measureSpace(r.store, r.Estate, []dr.ServerName{"web1"})
	if err != nil || space.Room < space.Next || len(space.Servers[0].Points) != 8-n {
		t.Errorf("then: %+v, %v", space, err)
	}
	// A pass that has failed for want of room finds more the next time.
	res = &RunResult{Servers: []ServerRun{{Server: "web1", Outcome: dr.NotDone, full: true}}, Groups: []GroupRun{{Group: "all", Outcome: dr.NotDone}}}
	r.retain(t.Context(), res, "")
	if more := len(res.Servers[0].Removed); n+more != 8-fewest {
		t.Errorf("after a pass without room %d more went, want all but %d: %+v", more, fewest, res.Findings)
	}
	t.Logf("%d MiB of room before, %d after %d of 8 points went; the next may want %d", before>>20, space.Room>>20, n, space.Next>>20)
}
