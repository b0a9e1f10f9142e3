package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"runtime"
	"strings"
)

const helpTail = `
Every command takes
  -c FILE        the estate to work on; leeward.yaml where it is not given
  --json         one JSON object with the result as the last line of output
  --record FILE  write that object to FILE as well

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 some parts failed,
4 unknown outcome: a person must look, 130 interrupted.
`

func printHelp(w io.Writer) {
	fmt.Fprint(w, "Leeward keeps a bootable, proven standby of a server estate at a second site.\n\nusage: leeward COMMAND [NAME…]     a NAME is a server or a group of leeward.yaml\n\n")
	t := table{}
	for _, c := range commands() {
		if !c.hidden {
			args, _, _ := strings.Cut(c.args, "\n")
			t.row("  "+strings.TrimSpace(c.name+" "+args), c.short)
		}
	}
	fmt.Fprint(w, strings.Join(t.lines(), "\n"), "\n", helpTail)
}

func (c *call) printCommandHelp(w io.Writer) {
	fmt.Fprintf(w, "leeward %s: %s\n\nusage: leeward %s\n\n", c.command.name, c.command.short,
		strings.TrimSpace(c.command.name+" "+c.command.args))
	c.flags.VisitAll(func(f *flag.Flag) {
		arg, text := flag.UnquoteUsage(f)
		dash := choose(len(f.Name) == 1, "-", "--")
		fmt.Fprintf(w, "  %s\n      %s\n", strings.TrimSpace(dash+f.Name+" "+arg), text)
	})
}

func runHelp(ctx context.Context, c *call) error {
	names, err := c.parse()
	if err != nil {
		return err
	}
	if len(names) == 0 {
		printHelp(c.Out)
		return flag.ErrHelp
	}
	other := find(names[0])
	if other == nil {
		return unknownCommand(names[0])
	}
	of := &call{Streams: c.Streams, command: other, rest: []string{"-h"}, flags: flag.NewFlagSet(other.name, flag.ContinueOnError)}
	of.flags.SetOutput(io.Discard)
	return other.run(ctx, of)
}

// versionResult is the result of version.
type versionResult struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	System  string `json:"system"`
}

func runVersion(_ context.Context, c *call) error {
	if err := c.parseNone(); err != nil {
		return err
	}
	v := versionResult{c.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	return c.done(exitDone, v, func(w io.Writer) {
		fmt.Fprintf(w, "leeward %s, %s, %s\n", v.Version, v.Go, v.System)
	})
}
