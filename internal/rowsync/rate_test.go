package rowsync

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestRate measures how fast small transactions are landed and applied. It says so,
// and fails only where that is absurdly slow.
func TestRate(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	n := 5000
	if os.Getenv("LEEWARD_SOAK") != "" {
		n = 50000
	}
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.items(d.app, 0, 2000, "x")
		r := d.replicator()
		d.pass(r)
		for i := 0; i < n; i += 100 {
			var qs []string
			for k := range 100 {
				qs = append(qs, fmt.Sprintf("UPDATE items SET n = %d WHERE id = %d", i, (i*7+k)%2000))
			}
			if d.k.name == "postgres" {
				d.at(d.app, strings.Join(append([]string{"BEGIN"}, strings.Join(qs, "; COMMIT; BEGIN; "), "COMMIT"), ";"))
				continue
			}
			d.at(d.app, qs...)
		}
		begun := time.Now()
		res := d.pass(r)
		took := time.Since(begun)
		t.Logf("%d transactions in %v: %.0f a second", res.Commits, took, float64(n)/took.Seconds())
		d.same()
		if float64(n)/took.Seconds() < 200 {
			t.Errorf("%d small transactions took %v", n, took)
		}
	})
}
