package protect

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/forecast"
	"github.com/leeward-dr/leeward/internal/tree"
)

// sample is a host with a separate /var and a btrfs of two subvolumes.
func sample() *agentpb.Facts {
	return &agentpb.Facts{Filesystems: []*agentpb.Filesystem{
		{MountPoint: "/", Type: "ext4", Mounts: []*agentpb.Mount{{MountPoint: "/", Root: "/"}}},
		{MountPoint: "/var", Type: "xfs", Mounts: []*agentpb.Mount{{MountPoint: "/var", Root: "/"}, {MountPoint: "/srv/www", Root: "/www"}}},
		{MountPoint: "/data", Type: "btrfs", Mounts: []*agentpb.Mount{{MountPoint: "/data", Root: "/@data"}, {MountPoint: "/data/home", Root: "/@home"}}},
	}}
}

func TestRelative(t *testing.T) {
	f := sample()
	for _, c := range []struct{ mount, path, want string }{
		{"/", "/etc/passwd", "etc/passwd"},
		{"/var", "/var/lib/postgresql", "lib/postgresql"},
		{"/var", "/srv/www/site", "www/site"},
		{"/data", "/data/db", "@data/db"},
		{"/data", "/data/home/x", "@home/x"},
	} {
		if got, ok := relative(f, c.mount, c.path); !ok || got != c.want {
			t.Errorf("%s on %s: %q, %v; want %q", c.path, c.mount, got, ok, c.want)
		}
	}
	if got, ok := relative(f, "/var", "/etc/passwd"); ok {
		t.Errorf("/etc/passwd is said to be on /var, at %q", got)
	}
	for path, want := range map[string]string{"/etc/x": "/", "/var/lib/x": "/var", "/data/home/x": "/data", "/variable": "/"} {
		if got := holder(f, path); got != want {
			t.Errorf("%s is on %s, want %s", path, got, want)
		}
	}
}

func TestSystemPath(t *testing.T) {
	src := &source{facts: sample()}
	for _, c := range []struct{ mount, rel, want string }{
		{"/var", "log/syslog", "/var/log/syslog"},
		{"/data", "@home/x", "/data/home/x"},
		{"/data", "@data/db", "/data/db"},
		{"/data", "@homestead", "/data/@homestead"},
	} {
		if got := systemPath(src, c.mount, c.rel); got != c.want {
			t.Errorf("%s on %s: %s, want %s", c.rel, c.mount, got, c.want)
		}
	}
}

func TestTreatment(t *testing.T) {
	for _, c := range []struct {
		db          *agentpb.Database
		consistency dr.Consistency
		backup      bool
		exclude     string
		says        string
	}{
		{&agentpb.Database{Engine: "postgres", DataDir: "/d"}, dr.Fuzzy, true, "", "backup mode"},
		{&agentpb.Database{Engine: "postgres", DataDir: "/d"}, dr.Crash, false, "", "snapshot"},
		{&agentpb.Database{Engine: "postgres", DataDir: "/d", Recovering: true}, dr.Fuzzy, false, "", "standby"},
		{&agentpb.Database{Engine: "mariadb", DataDir: "/d/"}, dr.Fuzzy, false, "/d/**", "left out"},
		{&agentpb.Database{Engine: "mariadb", DataDir: "/d"}, dr.Crash, false, "", "snapshot"},
		{&agentpb.Database{Engine: "redis"}, dr.Fuzzy, false, "", "not found"},
	} {
		got := treat(c.db, c.consistency)
		if got.backup != c.backup || strings.Join(got.exclude, " ") != c.exclude || !strings.Contains(got.plan.Decision, c.says) {
			t.Errorf("%s on a %s filesystem: %+v", c.db.Engine, c.consistency, got)
		}
		if len(got.exclude) > 0 && got.plan.Advice == "" {
			t.Errorf("%s is left out without a word on what to do", c.db.Engine)
		}
	}
}

func TestVolatilePatterns(t *testing.T) {
	p, err := newPatterns(Volatile)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/var/log/syslog": true, "/var/log/a/b/c": true, "/var/logs": false, "/etc/adjtime": true,
		"/etc/passwd": false, "/tmp/x/y": true, "/var/lib/mysql/ibdata1": false,
	} {
		if got := p.match(path); got != want {
			t.Errorf("%s counts as volatile: %v, want %v", path, got, want)
		}
	}
}

func TestFileNamesDiffer(t *testing.T) {
	seen := map[string]string{}
	for _, m := range []string{"/", "/var", "/var/lib", "/var%2Flib", "/root", "/root%"} {
		n := fileName(m)
		if strings.Contains(n, "/") {
			t.Errorf("%s becomes %s, which is no file name", m, n)
		}
		if old, dup := seen[n]; dup {
			t.Errorf("%s and %s have the same file name %s", old, m, n)
		}
		seen[n] = m
	}
}

func TestWeakest(t *testing.T) {
	order := []dr.Consistency{dr.Fuzzy, dr.Crash, dr.Filesystem, dr.Application}
	for i, a := range order {
		for j, b := range order {
			if a.Weaker(b) != (i < j) {
				t.Errorf("%s weaker than %s: %v", a, b, a.Weaker(b))
			}
		}
	}
}

// TestReckon forecasts two servers that share a link and half of their content, and one
// that has a replica.
func TestReckon(t *testing.T) {
	piece := func(s string) tree.Piece {
		return tree.Piece{Size: 1e6, Weight: 100, Packed: 0.5, Chunks: []chunk.Digest{chunk.Sum([]byte(s))}, Lengths: []int64{1e6}}
	}
	first := func(name string, pieces ...tree.Piece) *planner {
		return &planner{server: &config.Server{Name: dr.ServerName(name)}, src: &source{}, plan: &ServerPlan{},
			samples: []*tree.Sample{{Entries: 1000, Bytes: 200e6, Pieces: pieces, Read: 2e6, Busy: 20 * time.Millisecond}}}
	}
	again := &planner{server: &config.Server{Name: "old1"}, src: &source{}, plan: &ServerPlan{Bytes: 1e9}, known: true, past: []int64{2e6, 4e6}}
	again.server.Priority = 1
	away := &planner{server: &config.Server{Name: "gone1"}, plan: &ServerPlan{}}
	planners := []*planner{first("web1", piece("common"), piece("web")), first("app1", piece("common"), piece("app")), again, away}
	r := &PlanResult{Measured: 10e6, Servers: make([]ServerPlan, len(planners)), Deadline: time.Unix(1000, 0), Rows: []RowsPlan{
		{Database: "shop", Mode: logical, Modes: []ModePlan{{Mode: logical, Possible: true, Bytes: 1e6, ETA: 5 * time.Second}, {Mode: physical}}},
		{Database: "plant", Mode: physical, Modes: []ModePlan{{Mode: physical}}}}}
	r.reckon(planners, chunk.NewIndex(), time.Unix(980, 0))
	if web, app, old := planners[0].plan.Wire, planners[1].plan.Wire, planners[2].plan.Wire; web != app || app != 63_820_000 || old != 3e6 {
		t.Errorf("on the wire: web1 %d, app1 %d, old1 %d", web, app, old)
	}
	// 131 MB at 10 MB/s; in one case of 20 it is more, or slower.
	if s := r.Forecast.Safe; s.P50 < 13*time.Second || s.P50 > 22*time.Second || s.P95 <= s.P50 {
		t.Errorf("safe in %v", s)
	}
	if r.Servers[0].ETA == 0 || r.Servers[3].ETA != 0 || len(r.Forecast.Items) != 4 {
		t.Errorf("servers %+v, forecast %+v", r.Servers, r.Forecast.Items)
	}
	if db := r.Forecast.Items[3]; db.Name != "shop" || db.Safe.P50 < 5*time.Second || db.Safe.P50 > 10*time.Second {
		t.Errorf("the database is safe in %+v, want some seven seconds", db)
	}
	if r.Verdict == nil || r.Verdict.Fits || r.Rescue == nil || len(r.Rescue.Leave) == 0 || r.Rescue.Link <= 1 {
		t.Errorf("twenty seconds are not enough: %+v, %+v", r.Verdict, r.Rescue)
	}
	if first := r.Rescue.Carry[0].Name; first != "shop" { // which has priority 0 here
		t.Errorf("first is %s", first)
	}
	s, ok := r.Simulate("link=800Mbit/s", forecast.WhatIf{Link: 100e6}, time.Unix(980, 0))
	if !ok || s.Forecast.Safe.P50 >= r.Forecast.Safe.P50 || s.Verdict == nil {
		t.Errorf("with ten times the link: %+v", s)
	}
	if s, ok = r.Simulate("start=+1h", forecast.WhatIf{Later: time.Hour}, time.Unix(980, 0)); !ok || s.Verdict.Margin >= r.Verdict.Margin-time.Hour+time.Second {
		t.Errorf("an hour later: %+v, now %+v", s.Verdict, r.Verdict)
	}
	if _, ok = (&PlanResult{}).Simulate("", forecast.WhatIf{More: 1}, time.Now()); ok {
		t.Error("nothing measured, and yet a forecast")
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/plain/ü": "/plain/ü", "/new\nline": `"/new\nline"`, "/bad\xff": `"/bad\xff"`} {
		if got := quote(in); got != want {
			t.Errorf("%q shown as %s, want %s", in, got, want)
		}
	}
}

func TestCutTree(t *testing.T) {
	s, m, ok := cutTree(treeName("web1", "/var/lib"))
	if !ok || s != "web1" || m != "/var/lib" {
		t.Errorf("%q %q %v", s, m, ok)
	}
	if _, _, ok := cutTree("seed of something"); ok {
		t.Error("a seed's tree passes for a server's")
	}
}

func TestMeterAddsUp(t *testing.T) {
	var last Progress
	m := &meter{}
	m.begin(func(p Progress) { last = p }, "web1")
	a, b := m.filesystem("copying", "/"), m.filesystem("copying", "/var")
	a.Examined.Store(3)
	b.Examined.Store(4)
	b.Settled.Store(5)
	b.Sent.Store(2)
	m.end(nil)
	if last.Examined != 7 || last.BytesDone != 5 || !last.Finished || last.Phase != "done" {
		t.Errorf("progress %+v", last)
	}
	if tr := m.traffic(); tr.Sent != 2 || tr.Examined != 7 {
		t.Errorf("traffic %+v", tr)
	}
}
