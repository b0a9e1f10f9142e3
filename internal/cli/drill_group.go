package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/retry"
)

// describe adds what the configuration says of the subjects: whom they come after,
// what is held back and what is asked of them.
func describe(e *config.Estate, subjects []drill.Subject) {
	for i := range subjects {
		subject := &subjects[i]
		s := e.Server(subject.Server)
		subject.Names = []string{s.Host}
		subject.After = predecessors(e, s)
		subject.Hold = s.Hold
		for _, p := range s.Probes {
			subject.Probes = append(subject.Probes, drill.Probe{TCP: p.TCP, HTTP: p.HTTP, Status: p.Status, Text: p.Text,
				Command: p.Command, SQL: p.SQL, Engine: p.Engine, Database: p.Database, Expect: p.Expect})
		}
	}
}

// predecessors are the servers that s names, and those before it in a group that was
// written down.
func predecessors(e *config.Estate, s *config.Server) []dr.ServerName {
	after := slices.Clone(s.After)
	for _, g := range e.Groups {
		at := slices.Index(g.Order, string(s.Name))
		for _, member := range g.Order[:max(0, at)] {
			if e.Server(dr.ServerName(member)) != nil && !slices.Contains(after, dr.ServerName(member)) {
				after = append(after, dr.ServerName(member))
			}
		}
	}
	return after
}

// outside is what a drill must not reach: the sources themselves.
func outside(e *config.Estate) (out []netip.AddrPort) {
	for _, s := range e.Servers {
		if a, err := netip.ParseAddr(s.Host); err == nil {
			out = append(out, netip.AddrPortFrom(a, 22))
		}
	}
	return out
}

// openFile, in a drill's scratch directory, says that it was left open on purpose.
const openFile = "open"

// openDrill is what openFile holds. With the process that is named all of it ends: what
// is left then is the directory, which the next drill removes.
type openDrill struct {
	Version  int          `json:"version"`
	PID      int          `json:"pid"`
	Since    time.Time    `json:"since"`
	Machines []drill.Open `json:"machines"`
}

// keepOpen says how to reach what runs and waits until somebody closes it.
func (c *call) keepOpen(ctx context.Context, work string, open []drill.Open) {
	if len(open) == 0 {
		fmt.Fprintln(c.Err, "leeward: nothing was proven in a network that can be entered; nothing is left open")
		return
	}
	mark := filepath.Join(work, openFile)
	b, err := json.MarshalIndent(openDrill{Version: 1, PID: os.Getpid(), Since: time.Now().UTC(), Machines: open}, "", "  ")
	if err == nil {
		err = atomicfile.Write(mark, append(b, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintln(c.Err, "leeward: the drill cannot be left open:", err)
		return
	}
	w := c.Err // the result alone goes to the output
	fmt.Fprintln(w, "\nThe drill is open. Its machines lead nowhere; enter them from this host with:")
	for _, o := range open {
		fmt.Fprintf(w, "  %-12s nsenter --net=%s ssh -o StrictHostKeyChecking=no root@%s\n", o.Server, o.Enter, o.Address)
	}
	fmt.Fprintln(w, "Close it by: leeward drill --close (elsewhere), or interrupt this command.")
	for ctx.Err() == nil {
		if _, err := os.Stat(mark); err != nil {
			return
		}
		if retry.Sleep(ctx, 500*time.Millisecond) != nil {
			return
		}
	}
}

// closedDrills is the result of drill --close.
type closedDrills struct {
	Version int   `json:"version"`
	Closed  []int `json:"closed"` // processes that kept them open
}

const closeTimeout = time.Minute

// closeDrills asks the drills that were left open to end, and waits for them.
func (c *call) closeDrills(ctx context.Context, e *config.Estate) (err error) {
	s, err := replica.Open(ctx, e.Target.Store)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	removeDeadScratch(s)
	res := &closedDrills{Version: 1, Closed: []int{}}
	marks, err := filepath.Glob(filepath.Join(s.Dir(), "scratch", "drill-*", openFile))
	if err != nil {
		return fmt.Errorf("find open drills: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for _, mark := range marks {
		dir := filepath.Dir(mark)
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), "drill-"))
		if err != nil {
			continue
		}
		if err := os.Remove(mark); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("close drill of process %d: %w", pid, err)
		}
		for drillRuns(dir) {
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				break // it removed all it had
			}
			if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
				return fmt.Errorf("close drill of process %d: wait for it: %w", pid, err)
			}
		}
		res.Closed = append(res.Closed, pid)
	}
	return c.done(exitDone, res, func(w io.Writer) { fmt.Fprintf(w, "%s closed\n", count(len(res.Closed), "open drill")) })
}
