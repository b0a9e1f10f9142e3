package forecast

import (
	"math"
	"math/rand/v2"
)

// play is the estate with every figure drawn: who sends when at what rate.
type play struct {
	items  []playItem
	link   float64
	atOnce int
	live   []*playItem // whose turn has come and that are not safe yet
}

type playItem struct {
	before, wire, alone, after float64
	churn, scan                float64
	ready                      float64 // when it goes on from opening or closing
	left, rate                 float64
	state                      state
	done                       float64
}

type state byte

const (
	waiting state = iota
	opening       // its turn has come, it sends nothing yet
	sending
	closing // its last byte is there, its recovery point is not
	safe
)

// dice draws figures. What is unsure about several items errs in the same direction for a
// good part, because it was estimated in the same way: half the variance is common.
type dice struct{ rng *rand.Rand }

func newDice() *dice { return &dice{rand.New(rand.NewPCG(20170910, 12))} }

// z95 is the standard normal deviate that is exceeded in one case of 20.
const z95 = 1.6448536

func (r Range) at(z float64) float64 {
	if r.P50 <= 0 || r.P95 <= 0 || r.P50 == r.P95 {
		return r.P50
	}
	return r.P50 * math.Exp(z*math.Log(r.P95/r.P50)/z95)
}

func (d *dice) draw(in Input) *play {
	p := &play{items: make([]playItem, len(in.Items)), link: in.Link.at(d.rng.NormFloat64()), atOnce: in.AtOnce}
	if p.atOnce <= 0 {
		p.atOnce = len(in.Items)
	}
	common := d.rng.NormFloat64()
	z := func() float64 { return (common + d.rng.NormFloat64()) / math.Sqrt2 }
	for i, it := range in.Items {
		p.items[i] = playItem{before: it.Before.at(z()), wire: it.Wire.at(z()), alone: it.Alone.at(z()),
			after: it.After.at(z()), churn: it.Churn.at(z()), scan: it.Scan.at(z())}
	}
	return p
}

// run plays all passes to their ends: it goes from one moment at which something changes
// to the next, and between them every rate is constant.
func (p *play) run() {
	next := 0
	for now := 0.0; ; {
		for next < len(p.items) && len(p.live) < p.atOnce {
			it := &p.items[next]
			it.state, it.ready, it.left = opening, now+it.before, it.wire
			p.live = append(p.live, it)
			next++
		}
		if len(p.live) == 0 {
			return
		}
		p.share()
		step := p.until(now)
		if math.IsInf(step, 1) { // nothing has a rate, nor ever will
			for i := range p.items {
				if p.items[i].state != safe {
					p.items[i].done = step
				}
			}
			return
		}
		now += step
		p.pass(now, step)
	}
}

// share gives each sender its rate: all alike, and what one cannot use goes to the
// others.
func (p *play) share() {
	room, open := p.link, 0
	for _, it := range p.live {
		if it.state == sending {
			it.rate = -1
			open++
		}
	}
	for open > 0 {
		fair, capped := room/float64(open), 0
		for _, it := range p.live {
			if it.state == sending && it.rate < 0 && it.alone > 0 && it.alone <= fair {
				it.rate = it.alone
				room -= it.rate
				capped++
			}
		}
		open -= capped
		if capped > 0 {
			continue
		}
		for _, it := range p.live {
			if it.state == sending && it.rate < 0 {
				it.rate = fair
			}
		}
		return
	}
}

// until returns how long nothing changes.
func (p *play) until(now float64) float64 {
	step := math.Inf(1)
	for _, it := range p.live {
		switch {
		case it.state != sending:
			step = min(step, it.ready-now)
		case it.rate > 0:
			step = min(step, it.left/it.rate)
		}
	}
	return max(step, 0)
}

// What rounding leaves of a stretch of bytes or seconds is not worth a further step.
const (
	crumb  = 1
	moment = 1e-6
)

// pass lets the time of a step go by, up to now.
func (p *play) pass(now, step float64) {
	live := p.live[:0]
	for _, it := range p.live {
		if it.state == sending {
			it.left -= it.rate * step
		}
		if it.state == opening && it.ready <= now+moment {
			it.state = sending
		}
		if it.state == sending && it.left < crumb {
			it.state, it.ready = closing, now+it.after
		}
		if it.state == closing && it.ready <= now+moment {
			it.state, it.done = safe, now
			continue
		}
		live = append(live, it)
	}
	p.live = live
}

// solo returns the time an item takes with the link to itself.
func (p *play) solo(it *playItem) float64 {
	rate := p.link
	if it.alone > 0 {
		rate = min(rate, it.alone)
	}
	if it.wire <= 0 {
		return it.before + it.after
	}
	return it.before + it.wire/rate + it.after
}

func (p *play) churn() (total float64) {
	for i := range p.items {
		total += p.items[i].churn
	}
	return total
}

// lag is how old the copy of an item is at most when pass follows pass, in seconds: what
// changed while a pass looked and carried is carried by the next. total is the churn of
// all items.
func (p *play) lag(it *playItem, total float64) float64 {
	rate := p.link
	if total > 0 {
		rate = p.link * it.churn / total // the link in proportion to need
	}
	if it.alone > 0 {
		rate = min(rate, it.alone)
	}
	if it.churn > 0 && it.churn >= rate {
		return math.Inf(1)
	}
	fixed := it.scan + it.after
	if it.churn == 0 {
		return 2 * fixed
	}
	// A pass of length t carries what changed during the one before: t = fixed + churn·t/rate.
	pass := fixed / (1 - it.churn/rate)
	return 2 * pass // what changed just after a pass looked waits for the whole of it and the whole of the next
}
