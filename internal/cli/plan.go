package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

func runPlan(ctx context.Context, c *call) error {
	deadline := c.flags.String("deadline", "", "judge the estimate against `T`, a time such as 2017-09-10T12:00:00-04:00 or a span such as 96h")
	var wonders []wonder
	c.flags.Func("simulate", "forecast under a `CHANGE` as well: link=RATE, servers=+N, start=+SPAN, joined by commas; may be given again", func(s string) error {
		w, err := parseWonder(s)
		wonders = append(wonders, w)
		return err
	})
	names, err := c.parse()
	if err != nil {
		return err
	}
	e, selected, err := c.carried(names)
	if err != nil {
		return err
	}
	if *deadline != "" {
		if e.Deadline, err = parseDeadline(*deadline, c.started); err != nil {
			return err
		}
	}
	if err := ensureStore(ctx, e); err != nil {
		return err
	}
	if err := enterStore(ctx, e); err != nil {
		return err
	}
	p := c.startProgress("plan", c.everything(selected))
	res, err := protect.Plan(ctx, protect.Options{Estate: e, Names: selected, Databases: c.databases, Progress: p.Report})
	p.Close()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, w := range wonders {
		if s, ok := res.Simulate(w.text, w.WhatIf, now); ok {
			res.Simulated = append(res.Simulated, s)
		}
	}
	return c.done(planCode(res), res, func(w io.Writer) { renderPlan(w, e, res, now) })
}

func parseDeadline(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, usagef("deadline %q: want a time with its offset from UTC, as in 2017-09-10T12:00:00-04:00, or a span, as in 96h", s)
	}
	return t, nil
}

// planCode is how a plan ends: a blocker of the estate, or of every server, is a
// failure; of some, an incomplete plan.
func planCode(res *protect.PlanResult) int {
	if blocked(res.Findings) {
		return exitFailed
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		if !s.Reachable || blocked(s.Findings) {
			parts = append(parts, dr.NotDone)
		} else {
			parts = append(parts, dr.Done)
		}
	}
	for _, d := range res.Rows {
		if !d.Reachable || blocked(d.Findings) {
			parts = append(parts, dr.NotDone)
		} else {
			parts = append(parts, dr.Done)
		}
	}
	return outcomeCode(parts)
}

func blocked(findings []protect.Finding) bool {
	for _, f := range findings {
		if f.Level == protect.Blocker {
			return true
		}
	}
	return false
}

func renderPlan(w io.Writer, e *config.Estate, res *protect.PlanResult, now time.Time) {
	fmt.Fprintf(w, "\n%s: %s to %s, %s%s\n", e.Name, e.Source.Name, e.Target.Name, count(len(res.Servers), "server"),
		choose(len(res.Rows) > 0, ", "+count(len(res.Rows), "database"), ""))
	for _, s := range res.Servers {
		fmt.Fprintln(w)
		renderServerPlan(w, s)
	}
	for _, d := range res.Rows {
		fmt.Fprintln(w)
		renderRowsPlan(w, d)
	}
	fmt.Fprintln(w)
	renderFindings(w, "", res.Findings)
	fmt.Fprintf(w, "Store %s: needs %s, %s free%s\n", clean(res.Target.Store), size(res.Target.Need), size(res.Target.Free),
		choose(res.Target.Need > res.Target.Free, "  NOT ENOUGH", ""))
	renderPlanSpace(w, res.Points)
	fmt.Fprintf(w, "To carry: %s%s\n", size(res.Bytes), choose(res.Measured > 0, "; the link carries "+size(res.Measured)+"/s", ""))
	renderForecast(w, res, now)
	if n := blockedServers(res); len(n) > 0 {
		fmt.Fprintf(w, "Not ready: %s\n", strings.Join(n, ", "))
	}
}

// renderPlanSpace tells what recovery points will want, where that is known.
func renderPlanSpace(w io.Writer, p *protect.PointSpace) {
	if p == nil || len(p.Unknown) == len(p.Servers) {
		return
	}
	fmt.Fprintf(w, "Recovery points: hold %s, %s %s once keep: is in full use, %s can be written%s\n", size(p.Held), choose(p.Bound, "at most", "about"), size(p.Full), size(p.Room),
		choose(p.Short() > 0, "  NOT ENOUGH", ""))
}

func choose(condition bool, yes, no string) string {
	if condition {
		return yes
	}
	return no
}

func blockedServers(res *protect.PlanResult) (out []string) {
	for _, s := range res.Servers {
		if !s.Reachable || blocked(s.Findings) {
			out = append(out, string(s.Server))
		}
	}
	for _, d := range res.Rows {
		if !d.Reachable || blocked(d.Findings) {
			out = append(out, d.Database)
		}
	}
	return out
}

func renderServerPlan(w io.Writer, s protect.ServerPlan) {
	const in = "    "
	if !s.Reachable {
		fmt.Fprintf(w, "%s  NOT REACHABLE\n%s%s\n", s.Server, in, clean(s.Err))
		if s.Hint != "" {
			fmt.Fprintf(w, "%swhat to do: %s\n", in, clean(s.Hint))
		}
		told := func(f protect.Finding) bool { return f.Text == s.Err }
		renderFindings(w, in, slices.DeleteFunc(slices.Clone(s.Findings), told))
		return
	}
	fmt.Fprintf(w, "%s  %s\n", s.Server, clean(s.System))
	t := table{right: map[int]bool{2: true, 3: true}}
	for _, f := range s.Filesystems {
		t.row(clean(f.MountPoint), f.Type, size(f.Used)+" of "+size(f.Size), choose(f.Inodes > 0, entries(f.Inodes, ""), ""), clean(f.Capture))
	}
	t.print(w, in)
	fmt.Fprintf(w, "%sto carry %s, %s\n", in, size(s.Bytes), choose(s.Wire > 0, "about "+size(s.Wire)+" of it on the wire", "no forecast yet"))
	for _, d := range s.Databases {
		fmt.Fprintf(w, "%sdatabase %s in %s: %s\n", in, d.Engine, clean(d.DataDir), clean(d.Decision))
		if d.Advice != "" {
			fmt.Fprintf(w, "%s  what to do: %s\n", in, clean(d.Advice))
		}
	}
	renderFindings(w, in, s.Findings)
	renderExcluded(w, in, s.Excluded)
}

func renderFindings(w io.Writer, in string, findings []protect.Finding) {
	for _, f := range findings {
		level := string(f.Level)
		if f.Level == protect.Blocker {
			level = "BLOCKER"
		}
		fmt.Fprintf(w, "%s%s: %s\n", in, level, clean(f.Text))
		if f.Hint != "" {
			fmt.Fprintf(w, "%s  what to do: %s\n", in, clean(f.Hint))
		}
	}
}

// renderExcluded groups what is left out by reason: the reasons are few, the
// paths many.
func renderExcluded(w io.Writer, in string, excluded []protect.Exclusion) {
	var reasons []string
	paths := map[string][]string{}
	for _, x := range excluded {
		if paths[x.Reason] == nil {
			reasons = append(reasons, x.Reason)
		}
		paths[x.Reason] = append(paths[x.Reason], clean(x.Path))
	}
	for _, r := range reasons {
		fmt.Fprintf(w, "%sleft out (%s): %s\n", in, clean(r), strings.Join(paths[r], " "))
	}
}
