package protect

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/forecast"
	"github.com/leeward-dr/leeward/internal/pipe"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

const (
	// samplesEach is how many pieces are looked at for each server, about, and minStep is
	// the least content that one stands for, in bytes.
	samplesEach = 400
	minStep     = 128 << 10
	// sampleLevel is how hard a sample is compressed; a pass over a slow link does better.
	sampleLevel = 2
	// inContext is what a pass makes of packed samples: there small files gain from those
	// before them, and the compressor has time while the link is busy. Measured on the six
	// servers and two minions of the lab, at 100 Mbit/s and unshaped.
	inContext = 0.85
	// entryCost is what an entry takes on the wire beside its content, in bytes: its line in
	// the scan, its state, the digest of its content.
	entryCost = 70
	// seldom and oftener are how far the bytes of a first pass, and of a later one, may
	// exceed the estimate in one case of 20.
	seldom, oftener = 1.2, 2.5
	// slower is what a link carries of what was measured, in one case of 20.
	slower = 0.75
	// reachSeconds is how long it takes to reach a source that has the agent, and to look
	// at it.
	reachSeconds = 2
	// pointSeconds is how long the end of a pass takes: what is written goes to the disk,
	// the recovery point is made.
	pointSeconds = 2
	// scanRate is how many entries a second a source lists, at the least.
	scanRate = 50_000
)

// outlook measures the link, samples what is to be carried for the first time, and
// reckons when all is safe.
func (r *PlanResult) outlook(ctx context.Context, e *config.Estate, store *replica.Store, planners []*planner) error {
	var conns []*pipe.Conn
	var content int64
	for _, p := range planners {
		if p.src != nil {
			p.meter.phase("measuring the link")
			conns = append(conns, p.src.client.Conn())
			content += p.plan.Bytes
		}
	}
	if len(conns) > 0 {
		rate, err := tree.MeasureLink(ctx, conns...)
		if err != nil {
			r.Findings = append(r.Findings, Finding{Warning, "the link could not be measured: " + err.Error(), "run plan again; without it nothing is said of time"})
		}
		r.Measured = rate
	}
	step := max(minStep, content/int64(samplesEach*max(1, len(conns))))
	var wg sync.WaitGroup
	for _, p := range planners {
		if p.src != nil {
			wg.Go(func() { p.meter.end(p.sample(ctx, step)) })
		}
	}
	wg.Wait()
	index := chunk.NewIndex()
	defer index.Close()
	if err := attachAll(index, store, e.Servers); err != nil {
		return err
	}
	if len(e.Seeds) > 0 {
		r.Findings = append(r.Findings, Finding{Note, "what seeds: hold is not read for a plan: as much of the forecast's bytes as lies in them will not travel", ""})
	}
	r.reckon(planners, index, time.Now())
	return nil
}

// history reads what the passes after the first have carried.
func (p *planner) history(rep *replica.Replica) error {
	points, err := rep.Points()
	if err != nil {
		return err
	}
	for _, pt := range points {
		if t := pt.Manifest.Traffic; t.Reused+t.Sent < p.plan.Bytes/2 { // the first pass carries all
			p.past = append(p.past, t.WireIn+t.WireOut)
		}
	}
	return nil
}

// sample looks at what a first pass would carry, and reads none of a source that has a
// replica: its last passes tell more.
func (p *planner) sample(ctx context.Context, step int64) error {
	if p.known {
		return nil
	}
	p.meter.phase("sampling")
	var reply agentpb.OpenReply
	conn := p.src.client.Conn()
	if err := conn.Call(ctx, "tree.open", p.src.openRequest(nil), &reply); err != nil {
		return p.src.client.Explain(err)
	}
	for _, f := range reply.Filesystems {
		if f.Error != "" {
			p.plan.Findings = append(p.plan.Findings, Finding{Blocker, fmt.Sprintf("%s cannot be opened: %s", f.MountPoint, f.Error), ""})
			continue
		}
		s, err := tree.TakeSample(ctx, conn, f.MountPoint, step, sampleLevel)
		if err != nil {
			return p.src.client.Explain(err)
		}
		p.samples = append(p.samples, s)
	}
	return nil
}

// reckon makes the forecast.
func (r *PlanResult) reckon(planners []*planner, index *chunk.Index, now time.Time) {
	share := shares(planners, index)
	priorities := map[string]int{}
	for _, p := range planners {
		priorities[string(p.server.Name)] = p.server.Priority
	}
	in := forecast.Input{Link: forecast.Within(float64(r.Measured), slower)}
	var at []int // the server of each item
	for i, p := range planners {
		if item, ok := p.item(share); ok {
			p.plan.Wire = int64(item.Wire.P50)
			in.Items, at = append(in.Items, item), append(at, i)
		}
	}
	for i := range r.Rows {
		if item, ok := r.Rows[i].item(); ok {
			item.Priority = r.Rows[i].priority
			in.Items = append(in.Items, item)
		}
	}
	for i := range in.Items {
		if p, ok := priorities[in.Items[i].Name]; ok {
			in.Items[i].Priority = p
		}
	}
	if r.input = in; len(in.Items) == 0 || r.Measured <= 0 {
		return
	}
	f := forecast.Make(in)
	r.Forecast, r.ETA = &f, f.Safe.P95
	for n, i := range at {
		r.Servers[i].ETA = f.Items[n].Safe.P95
	}
	if r.Deadline.IsZero() {
		return
	}
	v := f.Against(now, r.Deadline)
	if r.Verdict = &v; !v.Fits {
		rescue := forecast.Save(in, r.Deadline.Sub(now))
		r.Rescue = &rescue
	}
}

// Simulation is a forecast of the same estate under a change that somebody wonders about.
type Simulation struct {
	What     string            `json:"what"` // in the words it was asked for
	Forecast forecast.Forecast `json:"forecast"`
	Verdict  *forecast.Verdict `json:"verdict,omitempty"`
	Rescue   *forecast.Rescue  `json:"rescue,omitempty"`
}

// Simulate forecasts under a change. false means that there is nothing to reckon with: the
// link, or all that is to be carried, could not be measured.
func (r *PlanResult) Simulate(what string, w forecast.WhatIf, now time.Time) (Simulation, bool) {
	if r.Forecast == nil && (w.Link == 0 || len(r.input.Items) == 0) {
		return Simulation{}, false
	}
	in := w.In(r.input)
	s := Simulation{What: what, Forecast: forecast.Make(in)}
	if r.Deadline.IsZero() {
		return s, true
	}
	start := now.Add(w.Later)
	v := s.Forecast.Against(start, r.Deadline)
	if s.Verdict = &v; !v.Fits {
		rescue := forecast.Save(in, r.Deadline.Sub(start))
		s.Rescue = &rescue
	}
	return s, true
}

// shares tells of each chunk how much of it a server brings: nothing of what a replica
// has, and of what several servers have its part.
func shares(planners []*planner, index *chunk.Index) func(chunk.Digest) float64 {
	owners := map[chunk.Digest]int{}
	for _, p := range planners {
		own := map[chunk.Digest]bool{}
		for _, s := range p.samples {
			for _, piece := range s.Pieces {
				for _, d := range piece.Chunks {
					own[d] = true
				}
			}
		}
		for d := range own {
			owners[d]++
		}
	}
	return func(d chunk.Digest) float64 {
		if len(index.Lookup(d, "")) > 0 {
			return 0
		}
		return 1 / float64(max(1, owners[d]))
	}
}

// item is what the forecast has to know of a server; false where nothing is known.
func (p *planner) item(share func(chunk.Digest) float64) (it forecast.Item, ok bool) {
	if p.src == nil || !p.known && p.samples == nil {
		return it, false
	}
	it = forecast.Item{Name: string(p.server.Name), Before: forecast.Within(reachSeconds, 2), After: forecast.Within(pointSeconds, 2)}
	if p.known {
		it.Wire = laterPass(p.past, p.plan.Bytes)
		return it, true
	}
	var wire, read, entries int64
	var content int64
	var busy time.Duration
	for _, s := range p.samples {
		wire += s.Wire(share)
		read, entries, content, busy = read+s.Read, entries+s.Entries, content+s.Bytes, busy+s.Busy
	}
	p.plan.Bytes = content
	total := float64(wire)*inContext + float64(entries*entryCost)
	it.Wire = forecast.Within(total, seldom)
	it.Scan = forecast.Within(float64(entries)/scanRate, 2)
	if busy > 0 && content > 0 {
		// The source does no more than it did for the sample, on one core: chunks go
		// through one compressor.
		it.Alone = forecast.Within(float64(read)/busy.Seconds()*total/float64(content), slower)
	}
	return it, true
}

// item is what the forecast has to know of a database; false where nothing is known.
func (p *RowsPlan) item() (it forecast.Item, ok bool) {
	for _, m := range p.Modes {
		if m.Mode != p.Mode || !m.Possible {
			continue
		}
		it = forecast.Item{Name: p.Database, Wire: forecast.Within(max(1, float64(m.Bytes)), seldom), Before: forecast.Within(reachSeconds, 2)}
		if s := m.ETA.Seconds(); s > 0 && m.Bytes > 0 {
			it.Alone = forecast.Within(float64(m.Bytes)/s, slower)
		}
		return it, true
	}
	return it, false
}

// laterPass is what a pass carries of a server that has a replica: about what the last
// ones did, or little, where there was none yet.
func laterPass(past []int64, content int64) forecast.Range {
	if len(past) == 0 {
		return forecast.Within(max(1, float64(content)/200), 10)
	}
	recent := past[max(0, len(past)-8):]
	sum := int64(0)
	for _, n := range recent {
		sum += n
	}
	return forecast.Within(max(1, float64(sum)/float64(len(recent))), oftener)
}
