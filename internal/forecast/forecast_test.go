package forecast

import (
	"fmt"
	"math"
	"testing"
	"time"
)

const mb = 1e6

// near reports whether got is within a hundredth of want.
func near(got, want time.Duration) bool {
	return math.Abs(float64(got-want)) <= float64(want)/100
}

func TestMakeOfKnownFigures(t *testing.T) {
	web := Item{Name: "web1", Wire: Exactly(100 * mb), Before: Exactly(2), After: Exactly(1)}
	for _, c := range []struct {
		name string
		in   Input
		want []time.Duration // of each item
		all  time.Duration
	}{
		{"one", Input{Items: []Item{web}, Link: Exactly(10 * mb)}, []time.Duration{13 * time.Second}, 13 * time.Second},
		{"its own ends are slower", Input{Items: []Item{{Wire: Exactly(100 * mb), Alone: Exactly(5 * mb)}}, Link: Exactly(10 * mb)},
			[]time.Duration{20 * time.Second}, 20 * time.Second},
		// Both send at 5 MB/s until the small one is done after 20 s; the large one has
		// 200 MB left and the link to itself.
		{"two share", Input{Items: []Item{{Wire: Exactly(300 * mb)}, {Wire: Exactly(100 * mb)}}, Link: Exactly(10 * mb)},
			[]time.Duration{40 * time.Second, 20 * time.Second}, 40 * time.Second},
		// The first can do 2 MB/s; the second gets the other 8.
		{"what one cannot use", Input{Items: []Item{{Wire: Exactly(100 * mb), Alone: Exactly(2 * mb)}, {Wire: Exactly(80 * mb)}}, Link: Exactly(10 * mb)},
			[]time.Duration{50 * time.Second, 10 * time.Second}, 50 * time.Second},
		{"one at a time", Input{Items: []Item{web, web}, Link: Exactly(10 * mb), AtOnce: 1},
			[]time.Duration{13 * time.Second, 26 * time.Second}, 26 * time.Second},
		{"nothing to carry", Input{Items: []Item{{Before: Exactly(3)}}, Link: Exactly(10 * mb)}, []time.Duration{3 * time.Second}, 3 * time.Second},
		{"no link", Input{Items: []Item{web}}, []time.Duration{forever}, forever},
		{"no link, nothing to carry", Input{Items: []Item{{Before: Exactly(3)}}}, []time.Duration{3 * time.Second}, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := Make(c.in)
			for i, want := range c.want {
				if got := f.Items[i].Safe; !near(got.P50, want) || got.P50 != got.P95 {
					t.Errorf("item %d is safe after %v, want %v", i, got, want)
				}
			}
			if !near(f.Safe.P95, c.all) {
				t.Errorf("all are safe after %v, want %v", f.Safe, c.all)
			}
		})
	}
}

func TestMakeOfNothing(t *testing.T) {
	if f := Make(Input{}); f.Safe != (Span{}) || len(f.Items) != 0 {
		t.Errorf("got %+v, want nothing", f)
	}
}

// TestMakeKeepsItsWord plays an estate of unsure figures with other dice: the time of 19
// in 20 is kept about that often, the median half the time.
func TestMakeKeepsItsWord(t *testing.T) {
	in := Input{Link: Range{12 * mb, 8 * mb}}
	for i := range 12 {
		in.Items = append(in.Items, Item{Name: fmt.Sprint(i), Wire: Within(float64(50+40*i)*mb, 1.6), Before: Within(3, 2), After: Within(2, 2)})
	}
	f := Make(in)
	var half, most int
	const times = 4000
	d := newDice()
	for range 1000 { // away from the draws that Make made
		d.draw(in)
	}
	for range times {
		p := d.draw(in)
		p.run()
		end := 0.0
		for _, it := range p.items {
			end = max(end, it.done)
		}
		if duration(end) <= f.Safe.P50 {
			half++
		}
		if duration(end) <= f.Safe.P95 {
			most++
		}
	}
	if got := float64(half) / times; got < 0.43 || got > 0.57 {
		t.Errorf("the median was kept in %.2f of the cases", got)
	}
	if got := float64(most) / times; got < 0.92 || got > 0.98 {
		t.Errorf("the time of 19 in 20 was kept in %.2f of the cases", got)
	}
}

func TestMakeIsTheSameAgain(t *testing.T) {
	in := Input{Link: Range{12 * mb, 8 * mb}, Items: []Item{{Wire: Within(500*mb, 2)}, {Wire: Within(100*mb, 3)}}}
	if a, b := Make(in), Make(in); fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("one input gave\n%v\n%v", a, b)
	}
}

func TestLag(t *testing.T) {
	// Passes of t = 10 s + 1 MB/s × t ÷ 2 MB/s, so t = 20 s, and what changed at the
	// beginning of one is there at the end of the next.
	in := Input{Link: Exactly(2 * mb), Items: []Item{{Churn: Exactly(mb), Scan: Exactly(8), After: Exactly(2)}}}
	if got := Make(in).Items[0].Lag.P50; !near(got, 40*time.Second) {
		t.Errorf("lag %v, want 40s", got)
	}
	in.Link = Exactly(mb)
	if it := Make(in).Items[0]; !it.Falls || it.Lag != (Span{}) {
		t.Errorf("changes fill the link, got %+v", it)
	}
	in.Items[0].Churn = Exactly(0)
	if got := Make(in).Items[0].Lag.P50; !near(got, 20*time.Second) {
		t.Errorf("nothing changes: lag %v, want 20s", got)
	}
}

func TestAgainst(t *testing.T) {
	start := time.Date(2017, 9, 10, 8, 0, 0, 0, time.UTC)
	f := Make(Input{Link: Exactly(mb), Items: []Item{{Name: "small", Wire: Exactly(1800 * mb)}, {Name: "large", Wire: Exactly(5400 * mb)}}})
	// They share until the small one is there after an hour; the large one takes two.
	v := f.Against(start, start.Add(90*time.Minute))
	if v.Fits || !near(-v.Margin, 30*time.Minute) || !v.Start.Before(start) {
		t.Errorf("got %+v, want half an hour too late", v)
	}
	if small := v.Items[0]; !small.Fits || !near(small.Margin, 30*time.Minute) {
		t.Errorf("the small one: %+v, want half an hour to spare", small)
	}
	if v := f.Against(start, start.Add(3*time.Hour)); !v.Fits || !near(v.Start.Sub(start), time.Hour) {
		t.Errorf("got %+v, want an hour until the latest start", v)
	}
	never := Make(Input{Items: []Item{{Name: "a", Wire: Exactly(1)}}})
	v = never.Against(start, start.Add(time.Hour))
	if _, err := v.Items[0].Safe.MarshalJSON(); err != nil || v.Fits {
		t.Errorf("without a link: %+v, %v", v, err)
	}
}

func TestSave(t *testing.T) {
	in := Input{Link: Exactly(mb), Items: []Item{
		{Name: "archive", Priority: 9, Wire: Exactly(100 * mb)},
		{Name: "files", Priority: 5, Wire: Exactly(4000 * mb)},
		{Name: "web", Priority: 5, Wire: Exactly(200 * mb)},
		{Name: "erp", Priority: 1, Wire: Exactly(1000 * mb)},
	}}
	r := Save(in, 1500*time.Second)
	var order []string
	for _, c := range r.Carry {
		order = append(order, c.Name)
	}
	if got := fmt.Sprint(order, r.Leave); got != "[erp web archive] [files]" {
		t.Errorf("carry and leave %s", got)
	}
	if got := r.Carry[1].Safe.P95; !near(got, 1200*time.Second) {
		t.Errorf("web is safe after %v, want 20m", got)
	}
	// 5300 MB in 1500 s.
	if r.Link < 3.5 || r.Link > 3.7 {
		t.Errorf("a link %.2f times as fast would do, want about 3.53", r.Link)
	}
	if r := Save(in, 6000*time.Second); len(r.Leave) > 0 || r.Link != 1 {
		t.Errorf("all fits, got %+v", r)
	}
	in.Items[1].Alone = Exactly(mb)
	if r := Save(in, 1500*time.Second); r.Link != 0 {
		t.Errorf("a link %.2f times as fast would do, but the source cannot", r.Link)
	}
}

// TestManyServers is what a person waits for: five hundred servers against a deadline.
func TestManyServers(t *testing.T) {
	if testing.Short() {
		t.Skip("its time counts, and -short runs under the race detector")
	}
	in := Input{Link: Range{120 * mb, 60 * mb}}
	for i := range 500 {
		in.Items = append(in.Items, Item{Name: fmt.Sprint(i), Priority: i % 5, Wire: Within(float64(1+i%97)*100*mb, 1.5),
			Alone: Within(30*mb, 0.7), Before: Within(3, 2), After: Within(2, 2), Churn: Within(float64(i%7)*1e3, 2), Scan: Within(5, 2)})
	}
	start := time.Now()
	f := Make(in)
	made := time.Since(start)
	r := Save(in, f.Safe.P50/2)
	t.Logf("forecast in %v, with what to carry first in %v; safe after %v, %d fit into half of it", made, time.Since(start), f.Safe, len(r.Carry))
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}
