package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

func runVerify(ctx context.Context, c *call) error {
	point := c.flags.String("point", "", "check recovery point `ID`, newest or all, against what was noted when it was made; no source is asked")
	e, selected, err := c.carriedInStore(ctx)
	if err != nil {
		return err
	}
	if *point != "" {
		return c.checkPoints(ctx, e, selected, *point)
	}
	p := c.startProgress("verify", c.everything(selected))
	res, err := protect.Verify(ctx, protect.Options{Estate: e, Names: selected, Databases: c.databases, Progress: p.Report})
	p.Close()
	if res == nil {
		return err
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	for _, d := range res.Databases {
		parts = append(parts, d.Outcome)
	}
	end := c.done(outcomeCode(parts), res, func(w io.Writer) { renderVerify(w, res) })
	if err != nil {
		return err
	}
	return end
}

func renderVerify(w io.Writer, res *protect.VerifyResult) {
	t := table{right: map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true, 7: true}}
	t.row("server", "verdict", "entries", "content", "differ", "volatile", "newer", "took")
	var parts []dr.Outcome
	for _, s := range res.Servers {
		t.row(string(s.Server), verdict(s), number(s.Entries), size(s.Bytes), number(int64(len(s.Differences))),
			number(int64(len(s.Volatile))), number(int64(len(s.Newer))), span(s.Duration))
		parts = append(parts, s.Outcome)
	}
	if len(res.Servers) > 0 {
		fmt.Fprintln(w)
		t.print(w, "")
	}
	for _, s := range res.Servers {
		renderServerVerify(w, s)
	}
	rows := renderDatabaseVerifies(w, res.Databases)
	if len(res.Servers) > 0 && len(res.Patterns) > 0 {
		fmt.Fprintf(w, "\nvolatile, may differ: %s\n", strings.Join(res.Patterns, " "))
	}
	fmt.Fprintf(w, "\n%s in %s\n", strings.ReplaceAll(tallies(parts, rows), "done", "equal to the source"), span(res.Duration))
}

func verdict(s protect.ServerVerify) string {
	switch {
	case s.Outcome == dr.Done:
		return "equal"
	case s.Outcome == dr.NotDone && len(s.Differences) > 0:
		return "DIFFERENT"
	}
	return "not compared"
}

func renderServerVerify(w io.Writer, s protect.ServerVerify) {
	if s.Err == "" && len(s.Differences) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", s.Server)
	renderTrouble(w, s.Err, s.Hint)
	if len(s.Differences) > 0 {
		fmt.Fprintf(w, "    %s:\n", count(len(s.Differences), "difference"))
		listed(w, differenceLines(s.Differences))
	}
}

func differenceLines(all []protect.Difference) []string {
	t := table{}
	for _, d := range all[:min(len(all), maxListed)] {
		t.row(d.Kind, clean(d.Path), clean(d.Detail))
	}
	lines := t.lines()
	return append(lines, make([]string, len(all)-len(lines))...) // so that their number is told
}
