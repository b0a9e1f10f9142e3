package cli

import (
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/report"
)

// drillGroup is what a drill found out about servers that recover together.
type drillGroup struct {
	Name    string          `json:"name"`
	Outcome dr.Outcome      `json:"outcome"` // done where every member was drilled and is proven
	Servers []dr.ServerName `json:"servers"`
	Missing []dr.ServerName `json:"missing,omitempty"` // members that this drill was not of
	// RTO is from the first step of the first member until the last one was proven.
	RTO    time.Duration `json:"rto_ns,omitempty"`
	Phases drill.Phases  `json:"phases"` // the longest of all members, each
	Last   dr.ServerName `json:"last,omitempty"`
}

// groupResults sums up the groups of e that a drill was of.
func groupResults(e *config.Estate, results []drill.Result) (out []drillGroup) {
	for _, g := range e.Groups {
		one := drillGroup{Name: g.Name, Outcome: dr.Done}
		var begin, end time.Time
		for _, member := range g.Order {
			name := dr.ServerName(member)
			if e.Server(name) == nil {
				continue // a database: it is proven by its server, or by rows
			}
			i := lastOf(results, name)
			if i < 0 {
				one.Missing = append(one.Missing, name)
				continue
			}
			r := &results[i]
			one.Servers = append(one.Servers, name)
			if r.Outcome != dr.Done {
				one.Outcome = r.Outcome
				continue
			}
			one.Phases.Widen(r.Phases)
			if begin.IsZero() || r.Began.Before(begin) {
				begin = r.Began
			}
			if e := r.Began.Add(r.Took); e.After(end) {
				end, one.Last = e, name
			}
		}
		if len(one.Servers) == 0 {
			continue
		}
		if len(one.Missing) > 0 && one.Outcome == dr.Done {
			one.Outcome = dr.Unknown
		}
		if one.Outcome == dr.Done {
			one.RTO = end.Sub(begin)
		}
		out = append(out, one)
	}
	return out
}

// lastOf is the last result of a server: the one before it was refused.
func lastOf(results []drill.Result, name dr.ServerName) int {
	at := -1
	for i, r := range results {
		if r.Server == name {
			at = i
		}
	}
	return at
}

// drillPage is the report of a drill.
func drillPage(res *drillResult) *report.Page {
	p := &report.Page{Mood: report.Good, Intro: fmt.Sprintf("A drill of %s, %s. It took %s.", res.Estate, res.Started.Local().Format("Mon 2 Jan 2006 15:04:05 MST"), span(res.Duration))}
	var parts []dr.Outcome
	var longest time.Duration
	checks, good := 0, 0
	for _, r := range res.Servers {
		parts = append(parts, r.Outcome)
		longest = max(longest, r.Took)
		for _, c := range slices.Concat(r.Checks, r.Probes) {
			checks++
			if c.Outcome == dr.Done {
				good++
			}
		}
		p.Sections = append(p.Sections, drillSection(res, r))
	}
	p.Title = drillTally(res.Servers)
	if slices.ContainsFunc(parts, func(o dr.Outcome) bool { return o != dr.Done }) {
		p.Mood = report.Bad
	}
	p.Tiles = []report.Tile{{Figure: span(res.Duration), Label: "until all was decided"}, {Figure: span(longest), Label: "the longest of one server"},
		{Figure: fmt.Sprintf("%d of %d", good, checks), Label: "checks and probes held"}}
	if left, ok := leaked(res.Servers); ok {
		p.Tiles = append(p.Tiles, report.Tile{Figure: number(left), Label: "packets left the bubble"})
	}
	servers := report.Table{Title: "Achieved, step by step", Head: []string{"server", "verdict", "check", "clone", "adapt", "boot", "probe", "in all", "recovery point"}}
	for _, r := range res.Servers {
		h := r.Phases
		servers.Rows = append(servers.Rows, []string{string(r.Server), drillVerdict(r), spanOrDash(h.Check), spanOrDash(h.Clone), spanOrDash(h.Adapt), spanOrDash(h.Boot), spanOrDash(h.Probe), spanOrDash(r.Took), dash(string(r.Point))})
		servers.Moods = append(servers.Moods, moodOf(r.Outcome))
	}
	p.Tables = append(p.Tables, servers)
	if len(res.Groups) > 0 {
		groups := report.Table{Title: "Groups", Head: []string{"group", "verdict", "achieved RTO", "last one", "servers"}}
		for _, g := range res.Groups {
			groups.Rows = append(groups.Rows, []string{g.Name, groupVerdict(g), spanOrDash(g.RTO), dash(string(g.Last)), fmt.Sprintf("%d of %d", len(g.Servers), len(g.Servers)+len(g.Missing))})
			groups.Moods = append(groups.Moods, moodOf(g.Outcome))
		}
		p.Tables = append(p.Tables, groups)
	}
	p.Notes = drillNotes(res.Servers)
	return p
}

func groupVerdict(g drillGroup) string {
	switch {
	case g.Outcome == dr.Done:
		return "proven"
	case len(g.Missing) > 0 && g.Outcome == dr.Unknown:
		return "not all drilled"
	}
	return choose(g.Outcome == dr.NotDone, "NOT PROVEN", "UNKNOWN")
}

// leaked sums the packets that left; ok where somebody counted.
func leaked(results []drill.Result) (left int64, ok bool) {
	for _, r := range results {
		if r.Bubble != nil {
			left, ok = max(left, int64(r.Bubble.Left)), true
		}
	}
	return left, ok
}

func moodOf(o dr.Outcome) report.Mood {
	switch o {
	case dr.Done:
		return report.Good
	case dr.NotDone:
		return report.Bad
	}
	return report.Unclear
}

func spanOrDash(d time.Duration) string {
	if d <= 0 {
		return "-"
	}
	return span(d)
}

func drillSection(res *drillResult, r drill.Result) report.Section {
	s := report.Section{Title: string(r.Server), Verdict: drillVerdict(r), Mood: moodOf(r.Outcome), Trouble: r.Cause, Hint: r.Hint, Picture: r.Screenshot}
	from := max(0, r.Began.Sub(res.Started))
	for _, b := range []report.Bar{{Name: "clone", Took: r.Phases.Clone}, {Name: "adapt", Took: r.Phases.Adapt}, {Name: "boot", Took: r.Phases.Boot}, {Name: "probe", Took: r.Phases.Probe}} {
		if b.Took > 0 {
			b.From, from = from, from+b.Took
			s.Bars = append(s.Bars, b)
		}
	}
	add := func(c drill.Check) {
		if c.Name != "" {
			s.Steps = append(s.Steps, report.Step{Name: c.Name, State: choose(c.Outcome == dr.Done, "good", c.Outcome.String()), Mood: moodOf(c.Outcome), Details: []string{c.Detail}})
		}
	}
	if d := r.Digests; d != nil {
		add(drill.Check{Name: "as it was made", Outcome: d.Outcome, Detail: digestsWords(d)})
	}
	for _, c := range slices.Concat(r.Checks, r.Probes) {
		add(c)
	}
	if d := r.Digests; d != nil {
		add(d.Untouched)
		add(d.Replica)
	}
	return s
}

// digestsWords tells what was compared of a point before it was booted.
func digestsWords(d *drill.Digests) string {
	words := fmt.Sprintf("%s entries and %s of content compared with the catalog in %s", number(d.Entries), size(d.Bytes), span(d.Took))
	if d.Skipped > 0 {
		words += fmt.Sprintf("; %s of content left out by lot", size(d.Skipped))
	}
	if d.Unclear > 0 {
		words += fmt.Sprintf("; %s cannot be told", count(d.Unclear, "sparse file"))
	}
	if d.Err != "" {
		words += "; " + d.Err
	}
	if len(d.Differences) > 0 {
		words += "; " + few(d.Differences)
	}
	return words
}
