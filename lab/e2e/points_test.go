package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// TestPointsAsNoted digests the newest point of every server anew, and finds out one
// whose catalog is another's.
func TestPointsAsNoted(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	check := func(r ran) map[dr.ServerName]protect.ServerPoints {
		t.Helper()
		var res protect.PointsResult
		if err := json.Unmarshal(r.Result, &res); err != nil {
			t.Fatalf("read the result: %v\n%s", err, r)
		}
		out := map[dr.ServerName]protect.ServerPoints{}
		for _, s := range res.Servers {
			out[s.Server] = s
		}
		return out
	}
	for name, s := range check(w.must(t, config, "verify", "--point", "newest")) {
		if len(s.Points) != 1 || s.Points[0].Entries < 1000 || s.Points[0].Bytes < 100e6 {
			t.Errorf("%s: %+v", name, s)
		}
	}
	w.in(t, "web1", "echo more >> /var/www/html/index.html")
	w.must(t, config, "replicate", "web1")
	points := w.points(t, w.store(), "web1")
	const catalog = "catalog-root.db"
	good, err := os.ReadFile(filepath.Join(points[1].StateDir(), catalog))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(filepath.Join(points[0].StateDir(), catalog))
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) {
		if err := os.WriteFile(filepath.Join(points[1].StateDir(), catalog), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(other)
	r := w.run(t, config, "verify", "--point", string(points[1].ID), "web1")
	put(good)
	s := check(r)["web1"]
	if r.code != 1 || s.Outcome != dr.NotDone || len(s.Points) != 1 || len(s.Points[0].Differences) < 2 {
		t.Errorf("a point with the catalog of another: %s", r)
	}
	w.must(t, config, "verify", "--point", "all", "web1")
	if r := w.run(t, config, "verify", "--point", "20200101T000000.000Z", "web1"); r.code != 4 {
		t.Errorf("a point that is not there: %s", r)
	}
}

// TestPointsOfGroups makes points of two servers together, and everything that a user
// does with points.
func TestPointsOfGroups(t *testing.T) {
	w := need(t)
	store := w.newStore(t)
	two := only(small("web1", ""), small("files1", ""))
	config := w.estate(t, inStore(store), two, plus("keep: {last: 2}\n"))
	var ids []dr.PointID
	for range 4 {
		w.in(t, "web1", "date +%N > /etc/leeward-e2e; rm -f /root/e2e-*; seq 300000 > /root/e2e-$$")
		var res protect.RunResult
		result(t, w.must(t, config, "replicate"), &res)
		if len(res.Groups) != 1 || res.Groups[0].Group != "all" || res.Groups[0].Outcome != dr.Done || len(res.Findings) > 0 {
			t.Fatalf("groups %+v, findings %+v", res.Groups, res.Findings)
		}
		for _, s := range res.Servers {
			if s.Point != res.Groups[0].Point {
				t.Errorf("%s has point %s, the group %s", s.Server, s.Point, res.Groups[0].Point)
			}
		}
		if ids = append(ids, res.Groups[0].Point); len(ids) == 1 {
			w.must(t, config, "points", "pin", string(ids[0]), "--reason", "the first")
		}
	}
	var list struct {
		Groups []struct {
			Points []struct {
				ID      dr.PointID
				Skew    time.Duration `json:"skew_ns"`
				Servers []replica.GroupServer
				Pin     *replica.Pin
			}
		}
		Servers []struct{ Points []struct{ ID dr.PointID } }
		Space   protect.PointSpace
	}
	result(t, w.must(t, config, "points"), &list)
	points := list.Groups[0].Points
	if len(points) != 3 || points[2].ID != ids[0] || points[2].Pin == nil || len(points[0].Servers) != 2 || points[0].Skew <= 0 || points[0].Skew > time.Minute {
		t.Errorf("points of the group: %+v", points)
	}
	for _, s := range list.Servers {
		if len(s.Points) != 3 {
			t.Errorf("points of a server: %+v", s.Points)
		}
	}
	if list.Space.Held <= 0 || list.Space.Full <= 0 || len(list.Space.Unknown) > 0 {
		t.Errorf("space %+v", list.Space)
	}
	w.lookInto(t, config, ids[0])
	w.partsOfGroup(t, store, two)
}

// lookInto compares, mounts and locks.
func (w *world) lookInto(t *testing.T, config string, id dr.PointID) {
	t.Helper()
	var diff protect.PointsDiff
	result(t, w.must(t, config, "points", "diff", string(id), "newest", "web1"), &diff)
	found := map[string]string{}
	for _, c := range diff.Servers[0].Changes {
		found[c.Path] = string(c.Kind)
	}
	if found["/etc/leeward-e2e"] != "changed" || !strings.HasPrefix(diff.Servers[0].Changes[0].Path, "/root/e2e-") {
		t.Errorf("differences %+v", diff.Servers[0].Changes)
	}
	dir := filepath.Join(t.TempDir(), "point")
	if r := w.run(t, config, "points", "mount", string(id), dir); r.code != 2 || !strings.Contains(r.Error.Text, "web1, files1") {
		t.Errorf("a point of two servers: %s", r)
	}
	w.must(t, config, "points", "mount", "newest", "--server", "web1", dir)
	got, err := os.ReadFile(filepath.Join(dir, "etc/leeward-e2e"))
	if want := w.in(t, "web1", "cat /etc/leeward-e2e"); err != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("the mount holds %q, %v; want %q", got, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err == nil {
		t.Error("a file was written into a mounted point")
	}
	w.must(t, config, "points", "umount", dir)
	if r := w.run(t, config, "points", "umount", dir); r.code != 1 {
		t.Errorf("unmounted twice: %s", r)
	}
	w.must(t, config, "points", "lock", string(id), "--until", time.Now().AddDate(0, 0, 3).Format(time.DateOnly))
	if r := w.run(t, config, "points", "lock", string(id), "--until", time.Now().AddDate(0, 0, 1).Format(time.DateOnly)); r.code != 1 {
		t.Errorf("a lock was made shorter: %s", r)
	}
	w.must(t, config, "points", "unpin", string(id))
	w.must(t, config, "replicate")
	if points, err := w.openStore(t, config).GroupPoints("all"); err != nil || points[len(points)-1].ID != id {
		t.Errorf("a locked point went: %v", err)
	}
}

func (w *world) openStore(t *testing.T, config string) *replica.Store {
	t.Helper()
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "  store: ")
	dir, _, _ := strings.Cut(rest, "\n")
	s, err := replica.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// partsOfGroup makes passes that are not of the whole group.
func (w *world) partsOfGroup(t *testing.T, store string, two option) {
	t.Helper()
	config := w.estate(t, inStore(store), two)
	before, err := w.openStore(t, config).GroupPoints("all")
	if err != nil {
		t.Fatal(err)
	}
	var res protect.RunResult
	result(t, w.must(t, config, "replicate", "web1"), &res)
	if len(res.Groups) != 1 || !res.Groups[0].Partial || res.Groups[0].Point != "" {
		t.Errorf("a pass of web1 alone: %+v", res.Groups)
	}
	ghost := "{name: ghost, host: files1, ssh: {user: nobody-there}}"
	config = w.estate(t, inStore(store), only(small("web1", ""), ghost), plus("groups: [{name: all, order: [web1, ghost]}]\n"))
	r := w.run(t, config, "replicate")
	res = protect.RunResult{}
	result(t, r, &res)
	if r.code != 3 || len(res.Groups) != 1 || res.Groups[0].Outcome != dr.NotDone || res.Groups[0].Partial || !strings.Contains(res.Groups[0].Err, "ghost") {
		t.Errorf("with a member that fails: %s", r)
	}
	after, err := w.openStore(t, config).GroupPoints("all")
	if err != nil || len(after) != len(before) || after[0].ID != before[0].ID {
		t.Errorf("points of the group: %d before, %d after, %v", len(before), len(after), err)
	}
}
