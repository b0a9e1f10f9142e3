package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

func runClean(ctx context.Context, c *call) error {
	names, err := c.parse()
	if err != nil {
		return err
	}
	e, selected, err := c.carried(names)
	if err == nil {
		err = c.needServers(selected)
	}
	if err != nil {
		return err
	}
	p := c.startProgress("clean", selected)
	res, err := protect.Clean(ctx, protect.Options{Estate: e, Names: selected, Progress: p.Report})
	p.Close()
	if err != nil {
		return err
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderClean(w, res) })
}

func renderClean(w io.Writer, res *protect.CleanResult) {
	for _, s := range res.Servers {
		if s.Outcome == dr.Done {
			fmt.Fprintf(w, "%s: nothing of Leeward is left there; its replica stays here\n", s.Server)
			continue
		}
		fmt.Fprintf(w, "%s: NOT DONE: %s\n", s.Server, s.Err)
		if s.Hint != "" {
			fmt.Fprintf(w, "    what to do: %s\n", s.Hint)
		}
	}
}
