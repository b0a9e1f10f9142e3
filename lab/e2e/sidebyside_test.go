package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
)

// TestSideBySide runs tests that mostly wait, with what keeps processors busy
// meanwhile. What is in one group does not touch the other's server or the link.
func TestSideBySide(t *testing.T) {
	w := need(t)
	type test struct {
		name string
		run  func(*world, *testing.T)
	}
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"one", []test{{"link cut for long", linkCutForLong}, {"last point boots", lastPointBoots}}},
		{"two", []test{{"hostile trees", hostileTrees}, {"host down", hostDown}}},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.tests {
				t.Run(c.name, func(t *testing.T) {
					t.Parallel()
					c.run(w, t)
				})
			}
		})
	}
}

// lastPointBoots boots the newest recovery point, after all that was cut short.
func lastPointBoots(w *world, t *testing.T) {
	r := w.must(t, w.estate(t), "drill", "web1")
	var res struct{ Servers []drill.Result }
	if err := json.Unmarshal(r.Result, &res); err != nil || len(res.Servers) != 1 || res.Servers[0].Outcome != dr.Done {
		t.Fatalf("%v\n%s", err, r)
	}
	t.Logf("proven after %v", res.Servers[0].TimeToProof.Round(time.Second))
}
