package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/drill"
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
	return errors.Join(agent.Main(ctx, c.In, c.Out, governor, files, agent.Postgres{}), files.Close())
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
