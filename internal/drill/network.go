package drill

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/drill/bubble"
)

// network is a bubble with the subjects in it.
type network struct {
	*bubble.Bubble
	hosts    []bubble.Host
	taken    map[string]bool // addresses of both kinds
	subjects []int
}

// openNetworks puts all subjects into one bubble, but for those that have an address of
// another: production has two networks there. Without root there is none, and cards
// lead nowhere at all.
func (d *drills) openNetworks(ctx context.Context, subjects []Subject) error {
	if os.Getuid() != 0 {
		return nil
	}
	d.networks = make([]*network, len(subjects))
	var all []*network
	for i, s := range subjects {
		own := addressesOf(s.Facts)
		if len(own) == 0 {
			continue
		}
		at := slices.IndexFunc(all, func(n *network) bool {
			return !slices.ContainsFunc(own, func(a string) bool { return n.taken[a] })
		})
		if at < 0 {
			at = len(all)
			all = append(all, &network{taken: map[string]bool{}})
		}
		n := all[at]
		for _, a := range own {
			n.taken[a] = true
		}
		n.hosts = append(n.hosts, hostOf(s))
		n.subjects = append(n.subjects, i)
		d.networks[i] = n
	}
	for _, n := range all {
		b, err := bubble.Open(ctx, n.hosts, d.o.Outside)
		if err != nil {
			return err
		}
		n.Bubble = b
		d.opened = append(d.opened, n)
	}
	return nil
}

// closeNetworks ends the bubbles and puts on record what went on in each.
func (d *drills) closeNetworks(results []Result) error {
	var errs []error
	for _, n := range d.opened {
		f, err := n.Figures()
		errs = append(errs, err, n.Close())
		if f.Left != 0 {
			errs = append(errs, fmt.Errorf("%d packets left the bubble", f.Left))
		}
		for _, i := range n.subjects {
			results[i].Bubble = &f
		}
	}
	return errors.Join(errs...)
}

// addressesOf returns what must be the only one of its kind in a network.
func addressesOf(f *agentpb.Facts) (out []string) {
	for _, c := range adapt.Cards(f) {
		out = append(out, strings.ToLower(c.GetMac()))
		for _, a := range c.GetAddresses() {
			if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() {
				out = append(out, p.Addr().String())
			}
		}
	}
	return out
}

func hostOf(s Subject) bubble.Host {
	h := bubble.Host{Names: append([]string{string(s.Server)}, s.Names...)}
	if name := s.Facts.GetHost().GetHostname(); name != "" {
		h.Names = append(h.Names, name)
	}
	for _, i := range s.Facts.GetInterfaces() { // bridges and bonds too carry addresses
		for _, a := range i.GetAddresses() {
			if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() {
				h.Addresses = append(h.Addresses, p.Addr())
				h.Networks = append(h.Networks, p)
			}
		}
	}
	for _, r := range s.Facts.GetRoutes() {
		if g, err := netip.ParseAddr(r.GetGateway()); err == nil && r.GetDestination() == "0.0.0.0/0" {
			h.Gateway = g
			break
		}
	}
	return h
}

// address is where the bubble reaches a subject; invalid without any.
func address(s Subject) netip.Addr {
	if h := hostOf(s); len(h.Addresses) > 0 {
		return h.Addresses[0]
	}
	return netip.Addr{}
}
