package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
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
