package protect

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// discovered has the source looked at; that it cannot be is a warning, for a pass does
// without.
func (p *planner) discovered(ctx context.Context, e *config.Estate) {
	p.meter.phase("looking at what it is")
	p.entry = inventory.Entry{Name: string(p.server.Name), Host: p.server.Host, User: p.server.SSH.User}
	var words []string
	for _, s := range e.Servers {
		words = append(words, string(s.Name), s.Host)
	}
	inv, err := discover.Ask(ctx, p.src.client, 0, words)
	if err != nil {
		p.plan.Findings = append(p.plan.Findings, Finding{Warning, "it could not be looked at for what would break after a move: " + err.Error(), "run plan again; a pass does without"})
		return
	}
	p.entry.Server = inv
}

// foresee adds what would stand in the way of a move, by what is known of all servers
// together.
func (r *PlanResult) foresee(e *config.Estate, planners []*planner) {
	all := &inventory.Estate{Version: inventory.Version, Estate: e.Name}
	for _, p := range planners {
		all.Entries = append(all.Entries, p.entry)
	}
	for _, s := range e.Servers { // the others are protected as well, whatever was asked for
		if a, err := netip.ParseAddr(s.Host); err == nil && !hasEntry(all, string(s.Name)) {
			all.Entries = append(all.Entries, inventory.Entry{Name: string(s.Name), Host: a.String()})
		}
	}
	found := discover.Check(all, discover.Build(all), discover.Move{Address: addressMap(e.Target.Network), Now: time.Now()})
	for _, p := range planners {
		for _, f := range found[string(p.server.Name)] {
			p.plan.Findings = append(p.plan.Findings, Finding{Level(f.Level), f.Text, f.Hint})
		}
	}
	r.growth(e, planners)
}

func hasEntry(e *inventory.Estate, name string) bool {
	for _, x := range e.Entries {
		if x.Name == name {
			return true
		}
	}
	return false
}

// addressMap is what addresses become at the target.
func addressMap(networks []config.NetworkMap) func(netip.Addr) (netip.Addr, bool) {
	return func(a netip.Addr) (netip.Addr, bool) {
		b := config.Mapped(networks, a)
		return b, b != a
	}
}

// growthDays is how far ahead the store's room is looked at.
const growthDays = 7

// growth holds what the servers write against the room in the store, by the newest
// inventory that measured it.
func (r *PlanResult) growth(e *config.Estate, planners []*planner) {
	kept, err := discover.Kept(e.Target.Store)
	if err != nil || len(kept) == 0 {
		return // nobody has measured
	}
	last, err := discover.Load(kept[len(kept)-1])
	if err != nil {
		r.Findings = append(r.Findings, Finding{Note, err.Error(), "leeward discover makes a new one"})
		return
	}
	var hour int64
	for _, x := range last.Entries {
		for _, p := range planners {
			if x.Name == string(p.server.Name) && x.Server != nil {
				hour += max(0, x.Server.Storage.WrittenPerHour)
			}
		}
	}
	if week := hour * 24 * growthDays; week > r.Target.Free-r.Target.Need {
		r.Findings = append(r.Findings, Finding{Warning, fmt.Sprintf("the servers write up to %d MiB a day (measured on %s): with %d MiB free in the store, recovery points may fill it within %d days",
			hour*24>>20, last.At.Format("2006-01-02"), r.Target.Free>>20, growthDays), "make the store larger, or keep fewer points with keep:; blocks written twice count twice, so that it may be less"})
	}
}
