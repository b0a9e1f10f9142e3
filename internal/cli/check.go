package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

// checkPoints is verify --point.
func (c *call) checkPoints(ctx context.Context, e *config.Estate, selected []dr.ServerName, which string) error {
	if err := c.needServers(selected); err != nil {
		return err
	}
	p := c.startProgress("verify", selected)
	res, err := protect.CheckPoints(ctx, protect.Options{Estate: e, Names: selected, Progress: p.Report}, which)
	p.Close()
	if res == nil {
		return err
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	end := c.done(outcomeCode(parts), res, func(w io.Writer) { renderChecks(w, res) })
	if err != nil {
		return err
	}
	return end
}

func renderChecks(w io.Writer, res *protect.PointsResult) {
	t := table{right: map[int]bool{3: true, 4: true, 5: true, 6: true, 7: true}}
	t.row("server", "recovery point", "verdict", "entries", "content", "differ", "unclear", "took")
	var parts []dr.Outcome
	for _, s := range res.Servers {
		for _, p := range s.Points {
			t.row(string(s.Server), string(p.ID), pointVerdict(p), number(p.Entries), size(p.Bytes), number(int64(len(p.Differences))),
				number(int64(len(p.Unclear))), span(p.Duration))
		}
		parts = append(parts, s.Outcome)
	}
	fmt.Fprintln(w)
	t.print(w, "")
	for _, s := range res.Servers {
		renderServerChecks(w, s)
	}
	fmt.Fprintf(w, "\n%s in %s\n", strings.ReplaceAll(tally(parts), "done", "as noted"), span(res.Duration))
}

func pointVerdict(p protect.PointCheck) string {
	switch {
	case p.Outcome == dr.Done:
		return "as noted"
	case len(p.Differences) > 0:
		return "DIFFERENT"
	}
	return "not known"
}

func renderServerChecks(w io.Writer, s protect.ServerPoints) {
	if s.Err != "" {
		fmt.Fprintf(w, "\n%s\n", s.Server)
		renderTrouble(w, s.Err, s.Hint)
	}
	for _, p := range s.Points {
		if p.Outcome == dr.Done {
			continue
		}
		fmt.Fprintf(w, "\n%s %s\n", s.Server, p.ID)
		if p.Err != "" {
			renderTrouble(w, p.Err, "")
		}
		if len(p.Differences) > 0 {
			fmt.Fprintf(w, "    %s:\n", count(len(p.Differences), "difference"))
			listed(w, differenceLines(p.Differences))
		}
		if len(p.Unclear) > 0 {
			fmt.Fprintf(w, "    %s whose digest the source took over other holes:\n", count(len(p.Unclear), "sparse file"))
			listed(w, p.Unclear)
		}
	}
}
