package forecast

import (
	"math"
	"slices"
	"time"
)

// Verdict says how a forecast stands to a deadline.
type Verdict struct {
	Deadline time.Time     `json:"deadline"`
	Fits     bool          `json:"fits"`         // all is safe in time in 19 of 20 cases
	Margin   time.Duration `json:"margin_ns"`    // between the time of 19 in 20 and the deadline; below zero it is too late
	Start    time.Time     `json:"latest_start"` // the latest moment to start that still fits; in the past it is too late
	Items    []ItemVerdict `json:"items"`
}

// ItemVerdict says when an item is safe, and how that stands to the deadline.
type ItemVerdict struct {
	Name   string        `json:"name"`
	Likely time.Time     `json:"safe_p50"`
	Safe   time.Time     `json:"safe_p95"`
	Margin time.Duration `json:"margin_ns"`
	Fits   bool          `json:"fits"`
}

// Against holds the forecast of passes that begin at start against a deadline.
func (f Forecast) Against(start, deadline time.Time) Verdict {
	v := Verdict{Deadline: deadline, Start: before(deadline, f.Safe.P95)}
	v.Margin = v.Start.Sub(start)
	v.Fits = v.Margin >= 0
	for _, it := range f.Items {
		w := ItemVerdict{Name: it.Name, Likely: after(start, it.Safe.P50), Safe: after(start, it.Safe.P95)}
		w.Margin = before(deadline, it.Safe.P95).Sub(start)
		w.Fits = w.Margin >= 0
		v.Items = append(v.Items, w)
	}
	return v
}

// farAway is further than anybody plans: what would lie beyond it is taken to be there,
// so that times stay such as can be written.
const farAway = 100 * 365 * 24 * time.Hour

func after(t time.Time, d time.Duration) time.Time  { return t.Add(min(d, farAway)) }
func before(t time.Time, d time.Duration) time.Time { return t.Add(-min(d, farAway)) }

// Rescue is what to do where not everything fits into the time there is.
type Rescue struct {
	Carry []Turn   `json:"carry"` // one after the other, in this order; each is safe in time
	Leave []string `json:"leave"` // what does not fit beside them
	// Link is how many times the link's rate would let everything fit when all is carried
	// side by side; 1 where it fits as it is, 0 where no link would do.
	Link float64 `json:"link_factor"`
}

// Turn is an item and when it is safe if it is carried in its turn, from the start.
type Turn struct {
	Name string `json:"name"`
	Safe Span   `json:"safe_after"`
}

// Save finds what can be made safe within the time there is, and what link would be
// enough for all. Items go one after the other in the order of their priorities: half of
// everything is worth nothing, all of half may be worth much. What does not fit is left,
// and the next is tried.
func Save(in Input, within time.Duration) Rescue {
	r := Rescue{Link: factor(in, within)}
	in = in.Order()
	runs := playsOf(len(in.Items))
	drawn := make([]*play, runs)
	d := newDice()
	for i := range drawn {
		drawn[i] = d.draw(in)
	}
	ends := make([]float64, runs) // of what is carried so far, in each play
	for i, it := range in.Items {
		until := make([]float64, runs)
		for n, p := range drawn {
			until[n] = ends[n] + p.solo(&p.items[i])
		}
		safe := spanOf(slices.Clone(until))
		if safe.P95 > within {
			r.Leave = append(r.Leave, it.Name)
			continue
		}
		ends = until
		r.Carry = append(r.Carry, Turn{it.Name, safe})
	}
	return r
}

// maxFactor is how much faster a link is ever proposed.
const maxFactor = 1000

// factor searches the link that is enough for all, to a twentieth.
func factor(in Input, within time.Duration) float64 {
	enough := func(x float64) bool {
		faster := in
		faster.Link = Range{in.Link.P50 * x, in.Link.P95 * x}
		return faster.play(fewest).Safe.P95 <= within
	}
	low, high := 1.0, 2.0
	if enough(low) {
		return 1
	}
	for ; !enough(high); high *= 2 {
		if low = high; low >= maxFactor {
			return 0
		}
	}
	for high/low > 1.05 {
		if mid := math.Sqrt(low * high); enough(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return math.Ceil(high*10) / 10
}
