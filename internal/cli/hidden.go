package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/discover/look"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/switchover"
	"github.com/leeward-dr/leeward/internal/tree"
)

// agentMemory is what the agent's heap should stay below, in bytes.
const agentMemory = 160 << 20

// runAgent serves at a source. What it mounts, it mounts beside its own file:
// the cache directory is the only place it may write to.
func runAgent(ctx context.Context, c *call) error {
	if err := c.parseNone(); err != nil {
		return err
	}
	// A source's memory is for its own work: collect sooner, at some cost in time.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(agentMemory)
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	governor := agent.NewGovernor()
	files := tree.NewService(governor, filepath.Dir(self))
	return errors.Join(agent.Main(ctx, c.In, c.Out, governor, files, agent.Postgres{}, look.Service{Governor: governor}), files.Close())
}

// runLab hands over to the lab's own parser, and puts what it prints as JSON into
// the usual result object.
func runLab(ctx context.Context, c *call) error {
	c.json = slices.Contains(c.rest, "--json") || slices.Contains(c.rest, "-json")
	out := c.Out
	var object bytes.Buffer
	if c.json {
		out = &object
	}
	err := labCommand(ctx, c.rest, out, c.Err)
	if errors.Is(err, flag.ErrHelp) {
		if c.json {
			_, _ = c.Out.Write(object.Bytes()) // it is the usage text
		}
		return err
	}
	if b := bytes.TrimSpace(object.Bytes()); json.Valid(b) {
		c.result = json.RawMessage(b)
	}
	return err
}

// runGuestReport tells the state of the machine it runs in to the serial port it
// is given, or to standard output.
func runGuestReport(ctx context.Context, c *call) error {
	ports, err := c.parse()
	switch {
	case err != nil:
		return err
	case len(ports) == 0:
		return drill.GuestReport(ctx, c.Out)
	case len(ports) > 1:
		return usagef("unexpected argument %q", ports[1])
	}
	return drill.GuestReportPort(ctx, ports[0])
}

// runMachine does for one machine of this host's store what a failback that runs at the
// other site asks for.
func runMachine(ctx context.Context, c *call) error {
	point := ""
	c.flags.StringVar(&point, "point", "", "boot: the recovery `POINT`; the newest where it is not given")
	words, err := c.parse()
	if err != nil {
		return err
	}
	if len(words) < 2 || len(words) > 2 && words[0] != "ready" {
		return usagef("machine: want what to do, and a server")
	}
	e, selected, err := c.estate(words[1:])
	if err != nil {
		return err
	}
	if err := c.needServers(selected); err != nil {
		return err
	}
	if err := enterStore(ctx, e); err != nil {
		return err
	}
	_, dir, err := readStore(ctx, e, nil)
	if err != nil {
		return err
	}
	g, name := switchover.NewGuests(e, dir), words[1]
	do := map[string]func(context.Context, string) ([]string, error){
		"start": g.Start, "probe": g.Probe, "halt": g.Halt, "put-away": g.PutAway,
		"ready":   func(ctx context.Context, _ string) ([]string, error) { return g.Ready(ctx, words[1:]) },
		"running": func(context.Context, string) ([]string, error) { return nil, nil },
		"boot":    func(ctx context.Context, name string) ([]string, error) { return g.Boot(ctx, name, dr.PointID(point)) },
	}[words[0]]
	if do == nil {
		return usagef("machine: unknown word %q", words[0])
	}
	a := switchover.MachineAnswer{}
	if a.Facts, err = do(ctx, name); err != nil {
		return err
	}
	if a.Running, err = g.Running(ctx, name); err != nil {
		return err
	}
	return c.done(exitDone, a, func(w io.Writer) {
		fmt.Fprintln(w, choose(a.Running, name+" runs", name+" does not run"))
		listed(w, a.Facts)
	})
}
