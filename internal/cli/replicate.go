package cli

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

func runReplicate(ctx context.Context, c *call) error {
	e, selected, err := c.carriedInStore(ctx)
	if err != nil {
		return err
	}
	debug.SetGCPercent(50) // memory is worth more than the time it costs to collect
	world, selected, moved, err := c.stays(ctx, e, selected)
	if err != nil {
		return err
	}
	res := &protect.RunResult{}
	if len(selected)+len(c.databases) > 0 { // no names would be all
		p := c.startProgress("replicate", c.everything(selected))
		res, err = protect.Replicate(ctx, protect.Options{Estate: e, Names: selected, Databases: c.databases, Progress: p.Report})
		p.Close()
		if res == nil {
			return err
		}
	}
	out := replicated{res, keepUp(ctx, world, moved)}
	var parts []dr.Outcome
	for _, m := range out.Moved {
		parts = append(parts, m.Outcome)
	}
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	for _, d := range res.Databases {
		parts = append(parts, d.Outcome)
	}
	for _, g := range res.Groups {
		if !g.Partial {
			parts = append(parts, g.Outcome)
		}
	}
	end := c.done(outcomeCode(parts), out, func(w io.Writer) { renderRun(w, res); renderMoved(w, out.Moved) })
	if err != nil {
		return err
	}
	return end
}

// maxListed is how many lines of one kind a person is shown; --json has all.
const maxListed = 20

func renderRun(w io.Writer, res *protect.RunResult) {
	t := table{right: map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true}}
	t.row("server", "outcome", "took", "read", "sent", "reused", "wire", "recovery point")
	var wire int64
	var parts []dr.Outcome
	for _, s := range res.Servers {
		x := s.Traffic
		t.row(string(s.Server), s.Outcome.String(), span(s.Duration), size(x.Read), size(x.Sent), size(x.Reused),
			size(x.WireIn+x.WireOut), choose(s.Point == "", "none", string(s.Point)))
		wire += x.WireIn + x.WireOut
		parts = append(parts, s.Outcome)
	}
	if len(res.Servers) > 0 {
		fmt.Fprintln(w)
		t.print(w, "")
	}
	for _, s := range res.Servers {
		renderServerRun(w, s)
	}
	renderDatabaseRuns(w, res.Databases)
	renderGroupRuns(w, res.Groups)
	if len(res.Findings) > 0 {
		fmt.Fprintln(w)
		renderFindings(w, "", res.Findings)
	}
	var rows []dr.Outcome
	for _, d := range res.Databases {
		rows = append(rows, d.Outcome)
	}
	fmt.Fprintf(w, "\n%s in %s%s\n", tallies(parts, rows), span(res.Duration), choose(wire > 0, ", "+size(wire)+" on the wire", ""))
}

// tallies is the tally of servers and that of databases, of which one may be empty.
func tallies(servers, databases []dr.Outcome) string {
	switch {
	case len(databases) == 0:
		return tally(servers)
	case len(servers) == 0:
		return tallyOf(databases, "database")
	}
	return tally(servers) + "; " + tallyOf(databases, "database")
}

// tally is "6 of 6 servers done" with whatever else there is.
func tally(parts []dr.Outcome) string { return tallyOf(parts, "server") }

func tallyOf(parts []dr.Outcome, noun string) string {
	n := map[dr.Outcome]int{}
	for _, o := range parts {
		n[o]++
	}
	s := fmt.Sprintf("%d of %s done", n[dr.Done], count(len(parts), noun))
	if n[dr.NotDone] > 0 {
		s += fmt.Sprintf(", %d NOT DONE", n[dr.NotDone])
	}
	if n[dr.Unknown] > 0 {
		s += fmt.Sprintf(", %d UNKNOWN: look at them before anything else", n[dr.Unknown])
	}
	return s
}

func renderGroupRuns(w io.Writer, groups []protect.GroupRun) {
	if len(groups) > 0 {
		fmt.Fprintln(w)
	}
	for _, g := range groups {
		if g.Point != "" {
			fmt.Fprintf(w, "group %s: recovery point %s, %s, members %s apart\n", g.Group, g.Point, g.Consistency, span(g.Skew))
			continue
		}
		fmt.Fprintf(w, "group %s: %s\n", g.Group, clean(g.Err))
		if g.Hint != "" {
			fmt.Fprintf(w, "    what to do: %s\n", clean(g.Hint))
		}
	}
}

func renderServerRun(w io.Writer, s protect.ServerRun) {
	if s.Err == "" && len(s.Warnings)+len(s.Fuzzy)+len(s.Anomalies) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", s.Server)
	renderTrouble(w, s.Err, s.Hint)
	for _, a := range s.Anomalies {
		fmt.Fprintf(w, "    UNUSUAL: %s: %s\n", clean(a.MountPoint), clean(a.Text))
	}
	if len(s.Anomalies) > 0 {
		fmt.Fprintf(w, "    what to do: look at the source; pinned meanwhile: %s; leeward points diff shows what changed\n",
			choose(len(s.Pinned) == 0, "none", strings.Join(s.Pinned, ", ")))
	}
	for _, x := range s.Warnings {
		fmt.Fprintf(w, "    warning: %s\n", clean(x))
	}
	if n := len(s.Fuzzy); n > 0 {
		fmt.Fprintf(w, "    %s changed each time it was read, so the copy may mix old and new:\n", count(n, "file"))
		listed(w, s.Fuzzy)
	}
}

func renderTrouble(w io.Writer, text, hint string) {
	if text != "" {
		fmt.Fprintf(w, "    %s\n", clean(text))
	}
	if hint != "" {
		fmt.Fprintf(w, "    what to do: %s\n", clean(hint))
	}
}

func listed(w io.Writer, lines []string) {
	for i, l := range lines {
		if i == maxListed {
			fmt.Fprintf(w, "      and %d more; --json has all\n", len(lines)-i)
			return
		}
		fmt.Fprintf(w, "      %s\n", clean(l))
	}
}
