package e2e

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/protect"
)

// TestForecast holds what plan says of a first pass over a slow link against the pass.
func TestForecast(t *testing.T) {
	w := need(t)
	w.slow(t, "50mbit")
	config := w.estate(t, inStore(w.newStore(t)), only(line("web1"), line("files1")))
	p := w.must(t, config, "plan", "--deadline", "1h")
	var plan protect.PlanResult
	if err := json.Unmarshal(p.Result, &plan); err != nil || plan.Forecast == nil {
		t.Fatalf("%v\n%s", err, p)
	}
	if plan.Verdict == nil || !plan.Verdict.Fits || plan.Rescue != nil {
		t.Errorf("an hour is enough, it says %+v, %+v", plan.Verdict, plan.Rescue)
	}
	if link := float64(plan.Measured); link < 5e6 || link > 6.5e6 {
		t.Errorf("a link of 6.25 MB/s was measured as %.1f MB/s", link/1e6)
	}
	r := w.must(t, config, "replicate")
	var wire int64
	for _, s := range r.servers(t) {
		wire += s.Traffic.WireIn + s.Traffic.WireOut
	}
	bytes, likely, most := plan.Forecast.Wire.P50, plan.Forecast.Safe.P50, plan.Forecast.Safe.P95
	t.Logf("forecast %.1f MB in %v, in 19 of 20 cases %v; it was %.1f MB in %v", bytes/1e6, likely.Round(time.Second), most.Round(time.Second),
		float64(wire)/1e6, r.took.Round(time.Second))
	if off := bytes/float64(wire) - 1; math.Abs(off) > 0.15 {
		t.Errorf("the forecast's bytes are off by %.0f %%", 100*off)
	}
	if off := float64(likely)/float64(r.took) - 1; math.Abs(off) > 0.25 {
		t.Errorf("the forecast's time is off by %.0f %%", 100*off)
	}
}
