package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

// defaultWatch is how long hosts are watched unless somebody says otherwise.
const defaultWatch = 10 * time.Second

// discoverResult is what a look at the estate found.
type discoverResult struct {
	Inventory string            `json:"inventory,omitempty"` // the file
	Against   string            `json:"against,omitempty"`   // the one it is compared with
	Servers   []discoverServer  `json:"servers,omitempty"`
	Graph     *discover.Graph   `json:"graph,omitempty"`
	Warnings  []string          `json:"warnings,omitempty"` // who is depended upon and not protected
	Changes   []discover.Change `json:"changes"`
}

// discoverServer is one server of it.
type discoverServer struct {
	Server  string              `json:"server"`
	Host    string              `json:"host"`
	Outcome dr.Outcome          `json:"outcome"`
	Summary string              `json:"summary,omitempty"`
	Serves  []string            `json:"serves,omitempty"`
	Took    time.Duration       `json:"took_ns,omitempty"`
	Unknown []inventory.Unknown `json:"unknown,omitempty"`
	Err     string              `json:"error,omitempty"`
	Hint    string              `json:"hint,omitempty"`
}

func runDiscover(ctx context.Context, c *call) error {
	watch := c.flags.Duration("watch", defaultWatch, "watch connections and disks for `DURATION`; the longer, the more of who talks to whom is seen")
	diff := c.flags.Bool("diff", false, "tell what changed: between two inventories A B, or since the last one until now")
	names, err := c.parse()
	if err != nil {
		return err
	}
	if *diff && len(names) == 2 && strings.HasSuffix(names[0], ".json") {
		return c.driftOf(names[0], names[1])
	}
	e, selected, err := c.estate(names)
	if err == nil {
		err = c.needServers(selected)
	}
	if err != nil {
		return err
	}
	old, err := discover.Kept(e.Target.Store)
	if err != nil {
		return err
	}
	found, err := c.look(ctx, e.Name, targetsOf(e, selected), *watch)
	if err != nil {
		return err
	}
	res := describeEstate(found)
	if len(old) > 0 {
		if err := res.compare(old[len(old)-1], found, selected); err != nil {
			return err
		}
	}
	if res.Inventory, err = discover.Keep(e.Target.Store, found); err != nil {
		return err
	}
	return c.done(res.code(), res, func(w io.Writer) { renderDiscover(w, res, *diff) })
}

// driftOf compares two files.
func (c *call) driftOf(a, b string) error {
	x, err := discover.Load(a)
	if err != nil {
		return err
	}
	y, err := discover.Load(b)
	if err != nil {
		return err
	}
	res := &discoverResult{Inventory: b, Against: a, Changes: discover.Drift(x, y)}
	return c.done(exitDone, res, func(w io.Writer) { renderDrift(w, res) })
}

// compare adds what changed since an older inventory, of the servers that were looked at.
func (r *discoverResult) compare(path string, found *inventory.Estate, selected []dr.ServerName) error {
	old, err := discover.Load(path)
	if err != nil {
		return err
	}
	of := map[string]bool{}
	for _, n := range selected {
		of[string(n)] = true
	}
	kept := old.Entries[:0]
	for _, x := range old.Entries {
		if of[x.Name] {
			kept = append(kept, x)
		}
	}
	old.Entries = kept
	r.Against, r.Changes = path, discover.Drift(old, found)
	return nil
}

// targetsOf are the named servers as leeward.yaml reaches them.
func targetsOf(e *config.Estate, names []dr.ServerName) (out []discover.Target) {
	for _, n := range names {
		s := e.Server(n)
		out = append(out, discover.Target{Name: string(n), Reach: protect.TargetOf(s)})
	}
	return out
}

// look has all targets looked at, with progress.
func (c *call) look(ctx context.Context, estate string, targets []discover.Target, watch time.Duration) (*inventory.Estate, error) {
	if watch < 0 || watch > time.Hour {
		return nil, usagef("--watch %v: want from 0s to 1h", watch)
	}
	names := make([]dr.ServerName, len(targets))
	for i, t := range targets {
		if names[i] = dr.ServerName(t.Name); t.Name == "" {
			names[i] = dr.ServerName(t.Reach.Host)
		}
	}
	p := c.startProgress(c.command.name, names)
	defer p.Close()
	begin := time.Now()
	return discover.Look(ctx, targets, discover.Options{Estate: estate, Version: c.Version, Watch: watch, Progress: func(i int, phase string) {
		p.Report(protect.Progress{Server: names[i], Phase: phase, Started: begin, Finished: phase == ""})
	}})
}

// ownAddresses are this machine's: that it talks to the servers is no dependency of theirs.
func ownAddresses() (out []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then it may be listed as a client, by its address
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr())
		}
	}
	return out
}

// describeEstate is what is told of an inventory.
func describeEstate(e *inventory.Estate) *discoverResult {
	g := discover.Build(e, ownAddresses()...)
	res := &discoverResult{Graph: g, Warnings: g.Warnings()}
	for _, x := range e.Entries {
		s := discoverServer{Server: x.Name, Host: x.Host, Err: x.Err, Hint: x.Hint, Outcome: dr.NotDone}
		if i := x.Server; i != nil {
			s.Outcome, s.Took, s.Unknown, s.Serves = dr.Done, i.Took, i.Unknown, discover.Services(i)
			s.Summary = discover.Summary(i)
		}
		res.Servers = append(res.Servers, s)
	}
	return res
}

func (r *discoverResult) code() int {
	var parts []dr.Outcome
	for _, s := range r.Servers {
		parts = append(parts, s.Outcome)
	}
	return outcomeCode(parts)
}

func renderDiscover(w io.Writer, r *discoverResult, diffOnly bool) {
	if diffOnly && r.Against != "" {
		renderMissed(w, r)
		renderDrift(w, r)
		return
	}
	renderFound(w, r)
	if r.Against != "" {
		fmt.Fprintln(w)
		renderDrift(w, r)
	}
	fmt.Fprintf(w, "Inventory: %s\n", clean(r.Inventory))
}

func renderMissed(w io.Writer, r *discoverResult) {
	for _, s := range r.Servers {
		if s.Outcome != dr.Done {
			fmt.Fprintf(w, "%s  NOT LOOKED AT: %s\n", s.Server, clean(s.Err))
			if s.Hint != "" {
				fmt.Fprintf(w, "    what to do: %s\n", clean(s.Hint))
			}
		}
	}
}

// maxShown bounds how much of a list a person gets; --json has it whole.
const maxShown = 60

func renderFound(w io.Writer, r *discoverResult) {
	for _, s := range r.Servers {
		if s.Outcome != dr.Done {
			continue
		}
		fmt.Fprintf(w, "%s  %s\n", clean(s.Server), clean(s.Summary))
		if len(s.Serves) > 0 {
			fmt.Fprintf(w, "    serves %s\n", clean(strings.Join(s.Serves, ", ")))
		}
		for _, u := range s.Unknown {
			fmt.Fprintf(w, "    unknown: %s: %s\n", clean(u.What), clean(u.Why))
		}
	}
	renderMissed(w, r)
	fmt.Fprintln(w)
	t := table{}
	for _, e := range r.Graph.Edges[:min(maxShown, len(r.Graph.Edges))] {
		t.row(clean(e.From), "needs", clean(discover.At(e)), clean(e.Reason()))
	}
	t.print(w, "")
	if n := len(r.Graph.Edges) - maxShown; n > 0 {
		fmt.Fprintf(w, "and %s more, which --json has\n", number(int64(n)))
	}
	for _, x := range r.Warnings {
		fmt.Fprintf(w, "warning: %s\n  what to do: protect it as well, or see that the target has one of its own\n", clean(x))
	}
}

func renderDrift(w io.Writer, r *discoverResult) {
	if len(r.Changes) == 0 {
		fmt.Fprintf(w, "Nothing has changed since %s\n", clean(r.Against))
		return
	}
	fmt.Fprintf(w, "Changed since %s:\n", clean(r.Against))
	t := table{}
	for _, x := range r.Changes[:min(4*maxShown, len(r.Changes))] {
		what := x.After
		switch x.What {
		case "changed":
			what = x.Before + " → " + x.After
		case "removed":
			what = "was " + x.Before
		case "unknown":
			what = "could not be looked at this time or the last; " + x.Before + x.After
		}
		t.row(clean(x.Server), x.What, x.Area, clean(cut(x.Item, 80)), clean(cut(what, 120)))
	}
	t.print(w, "  ")
	if n := len(r.Changes) - 4*maxShown; n > 0 {
		fmt.Fprintf(w, "and %s more, which --json has\n", number(int64(n)))
	}
}
