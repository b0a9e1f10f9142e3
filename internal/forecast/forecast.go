// Package forecast reckons when each server and database is safe at the target: how
// much has to travel over which link, with what margin before a deadline, and what to
// carry first when not all of it fits. It is arithmetic alone: it measures nothing and
// reads no clock, and one input always gives one answer.
//
// What is not known exactly is a Range. The estate is played through many times with
// figures drawn from these ranges; what is said to hold in 19 of 20 cases is the time
// that 95 % of the plays keep.
package forecast

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Range is a figure that is not known exactly: its median, and the value towards the bad
// side that it is beyond in one case of 20. The bad side of a rate is the low one. Between
// them the figure is taken to be distributed log-normally, as sizes and rates are.
type Range struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
}

// Exactly is a figure that is known.
func Exactly(x float64) Range { return Range{x, x} }

// Within is a figure that is at least as bad as factor times its median in one case of 20.
func Within(median, factor float64) Range { return Range{median, median * factor} }

// Item is a server or a database that is to be carried.
type Item struct {
	Name     string
	Priority int   // what has the lower number goes first where not everything fits
	Wire     Range // bytes that cross the link until the first complete copy
	Alone    Range // bytes a second on the wire that its own ends can do; zero if the link is all that limits it
	Before   Range // seconds until its first byte: reaching it, looking at it
	After    Range // seconds from its last byte until its recovery point is there
	Churn    Range // bytes a second that its changes put on the wire from then on
	Scan     Range // seconds that finding its changes takes in a pass
}

// Input is what a forecast is made from.
type Input struct {
	Items []Item
	Link  Range // bytes a second, for all together
	// AtOnce is how many items are carried side by side, in the order of Items; 0 is all.
	AtOnce int
}

// Span is a time that is not known exactly.
type Span struct {
	P50 time.Duration `json:"p50_ns"`
	P95 time.Duration `json:"p95_ns"`
}

// ItemForecast is what becomes of one item.
type ItemForecast struct {
	Name string `json:"name"`
	Wire Range  `json:"wire_bytes"`
	Safe Span   `json:"safe_after"` // from the start until its first complete copy
	Lag  Span   `json:"lag"`        // how old its copy is at most, afterwards, when pass follows pass
	// Falls is set where changes come faster than they can be carried: the copy falls
	// behind for good, and Lag says nothing.
	Falls bool `json:"falls_behind,omitempty"`
}

// Forecast is what becomes of all.
type Forecast struct {
	Items []ItemForecast `json:"items"` // in the order of the input
	Wire  Range          `json:"wire_bytes"`
	Safe  Span           `json:"safe_after"` // all of them
}

// plays is how often an estate is played through, and budget bounds plays times items,
// so that five hundred servers take no longer than a person waits.
const (
	plays  = 400
	fewest = 40
	budget = 50_000
)

// Make reckons a forecast. Of an input without items everything is zero; a link of no
// rate makes every time as long as a Duration can be.
func Make(in Input) Forecast { return in.play(playsOf(len(in.Items))) }

// play makes a forecast of so many plays.
func (in Input) play(runs int) Forecast {
	n := len(in.Items)
	f := Forecast{Items: make([]ItemForecast, n)}
	if n == 0 {
		return f
	}
	safe, lags, wires := grid(n, runs), grid(n, runs), make([]float64, runs)
	all := make([]float64, runs)
	d := newDice()
	for r := range runs {
		p := d.draw(in)
		p.run()
		churn := p.churn()
		for i := range p.items {
			it := &p.items[i]
			safe[i][r] = it.done
			all[r] = max(all[r], it.done)
			wires[r] += it.wire
			lags[i][r] = p.lag(it, churn)
		}
	}
	for i, it := range in.Items {
		f.Items[i] = ItemForecast{Name: it.Name, Wire: it.Wire, Safe: spanOf(safe[i]), Lag: spanOf(lags[i])}
		if f.Items[i].Lag.P95 == forever {
			f.Items[i].Lag, f.Items[i].Falls = Span{}, true
		}
	}
	f.Wire = Range{quantile(wires, 0.5), quantile(wires, 0.95)}
	f.Safe = spanOf(all)
	return f
}

func playsOf(items int) int { return max(fewest, min(plays, budget/max(items, 1))) }

func grid(n, runs int) [][]float64 {
	g := make([][]float64, n)
	cells := make([]float64, n*runs)
	for i := range g {
		g[i], cells = cells[:runs:runs], cells[runs:]
	}
	return g
}

// forever is the longest time there is.
const forever = time.Duration(math.MaxInt64)

func spanOf(seconds []float64) Span {
	return Span{duration(quantile(seconds, 0.5)), duration(quantile(seconds, 0.95))}
}

func duration(seconds float64) time.Duration {
	if ns := seconds * float64(time.Second); ns < float64(forever) {
		return time.Duration(ns).Round(time.Millisecond)
	}
	return forever
}

// quantile sorts x. It errs towards the bad side: the value is one that occurred.
func quantile(x []float64, q float64) float64 {
	slices.Sort(x)
	return x[min(len(x)-1, int(math.Ceil(q*float64(len(x)))))]
}

// Order returns the input as it is best carried where not everything may fit: what has
// the lower priority number first, and of equals what is sooner safe.
func (in Input) Order() Input {
	in.Items = slices.Clone(in.Items)
	slices.SortStableFunc(in.Items, func(a, b Item) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Wire.P50, b.Wire.P50))
	})
	return in
}
