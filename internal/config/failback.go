package config

import (
	"cmp"
	"net/netip"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Failback says where servers that come back to the source run: on a host there, from
// disks of its own, as replicas run at the target.
type Failback struct {
	Host        string // reached by ssh, as root
	SSH         SSH    // complete: what is not said is as for servers
	Store       string // directory on that host
	Bridge      string // of the production network there
	Accelerator string // auto, kvm or tcg
	Seeds       []string
	// Reach is how that host reaches servers at the target by ssh.
	Reach struct {
		User    string // empty: as for servers
		Config  string // file there in place of ~/.ssh/config
		Options []string
	}
	Drill bool // what came is booted there in isolation before anything is moved
}

func (r *reader) failback(where string, n *yaml.Node, from SSH) *Failback {
	f := &Failback{SSH: from, Accelerator: "auto", Drill: true}
	r.mapping(where, n, []field{
		{"host", true, func(w string, n *yaml.Node) { f.Host = r.word(w, n) }},
		{"ssh", false, func(w string, n *yaml.Node) { r.ssh(w, n, &f.SSH) }},
		{"store", true, func(w string, n *yaml.Node) { f.Store = r.pathThere(w, n) }},
		{"bridge", true, func(w string, n *yaml.Node) { f.Bridge = r.word(w, n) }},
		{"accelerator", false, func(w string, n *yaml.Node) { f.Accelerator = r.choice(w, n, "auto", "kvm", "tcg") }},
		{"seeds", false, func(w string, n *yaml.Node) {
			r.each(w, n, func(_ int, n *yaml.Node) { f.Seeds = append(f.Seeds, r.pathThere(w, n)) })
		}},
		{"reach", false, func(w string, n *yaml.Node) {
			r.mapping(w, n, []field{
				{"user", false, func(w string, n *yaml.Node) { f.Reach.User = r.word(w, n) }},
				{"config", false, func(w string, n *yaml.Node) { f.Reach.Config = r.pathThere(w, n) }},
				{"options", false, func(w string, n *yaml.Node) { f.Reach.Options = r.texts(w, n) }},
			})
		}},
		{"drill", false, func(w string, n *yaml.Node) { f.Drill = r.yes(w, n) }},
	})
	return f
}

// Mapped is the address at the target that stands for a.
func Mapped(maps []NetworkMap, a netip.Addr) netip.Addr {
	for _, m := range maps {
		if !m.From.Contains(a) {
			continue
		}
		from, to := a.AsSlice(), m.To.Addr().AsSlice()
		for bit := m.From.Bits(); bit < len(from)*8; bit++ {
			mask := byte(0x80 >> (bit % 8))
			to[bit/8] = to[bit/8]&^mask | from[bit/8]&mask
		}
		if b, ok := netip.AddrFromSlice(to); ok {
			return b
		}
	}
	return a
}

// Reversed is the estate of the given servers as a host at the source sees it once they
// run at the target: sites have changed places. It has no databases, no groups and no
// switchover. addresses are those that servers have at the source; servers that have
// none are not in it.
func (e *Estate) Reversed(addresses map[dr.ServerName]netip.Addr) *Estate {
	back := &Estate{File: e.File, Name: e.Name, Keep: e.Keep, Volatile: e.Volatile, Source: Source{Name: e.Target.Name, SSH: e.Source.SSH},
		Target: Target{Name: e.Source.Name, Hypervisor: "qemu"}, Switchover: defaultSwitchover()}
	for _, m := range e.Target.Network {
		back.Target.Network = append(back.Target.Network, NetworkMap{From: m.To, To: m.From})
	}
	for _, s := range e.Servers {
		at, known := addresses[s.Name]
		if !known {
			continue
		}
		if moved := Mapped(e.Target.Network, at); moved != at {
			s.SSH.Moved = moved
		}
		s.Fence = nil // it was of the machine at the source
		s.Machine, s.Home = s.Home, s.Machine
		back.Servers = append(back.Servers, s)
	}
	if f := e.Switchover.Failback; f != nil {
		back.Target.Store, back.Target.Bridge, back.Target.Accelerator, back.Seeds = f.Store, f.Bridge, f.Accelerator, f.Seeds
	}
	return back
}

// Text writes a Reversed estate as leeward.yaml for the host that servers come back to,
// which reaches them by its own ssh.
func (f *Failback) Text(e *Estate) ([]byte, error) {
	type m = map[string]any
	ssh := m{}
	if f.Reach.Config != "" {
		ssh["config"] = f.Reach.Config
	}
	var servers []m
	for _, s := range e.Servers {
		servers = append(servers, f.server(e, s))
	}
	network := m{"bridge": e.Target.Bridge}
	maps := m{}
	for _, n := range e.Target.Network {
		maps[n.From.String()] = n.To.String()
	}
	if len(maps) > 0 {
		network["map"] = maps
	}
	out := m{"estate": e.Name, "source": m{"name": e.Source.Name, "ssh": ssh}, "servers": servers,
		"target": m{"name": e.Target.Name, "store": e.Target.Store, "hypervisor": "qemu", "accelerator": e.Target.Accelerator, "network": network}}
	set(out, "seeds", e.Seeds)
	if len(e.Volatile) > 0 {
		out["verify"] = m{"volatile": e.Volatile}
	}
	b, err := yaml.Marshal(out)
	if err != nil {
		return nil, err
	}
	head := strings.Join([]string{"# Written by leeward failback, anew each time: " + e.Source.Name + " is the source here, and",
		"# " + e.Target.Name + " the target that servers come back to.", ""}, "\n")
	return append([]byte(head), b...), nil
}

func (f *Failback) server(e *Estate, s Server) map[string]any {
	s.SSH.Options = f.Reach.Options // its own are for another client
	ssh := map[string]any{}
	set(ssh, "options", s.SSH.Arguments(s.Host))
	if s.SSH.User = cmp.Or(f.Reach.User, s.SSH.User); s.SSH.User != "" {
		ssh["user"] = s.SSH.User
	}
	if s.SSH.Port != 0 {
		ssh["port"] = s.SSH.Port
	}
	out := map[string]any{"name": string(s.Name), "host": s.Host, "ssh": ssh}
	set(out, "exclude", s.Exclude)
	set(out, "include_excluded", s.IncludeExcluded)
	set(out, "hold", s.Hold)
	set(out, "probes", probesText(s.Probes))
	var after []string
	for _, a := range s.After {
		if e.Server(a) != nil {
			after = append(after, string(a))
		}
	}
	set(out, "after", after)
	if m := s.Machine; m != nil {
		out["machine"] = map[string]any{"start": m.Start, "stop": m.Stop, "check": m.Check}
	}
	return out
}

func set[T any](m map[string]any, key string, list []T) {
	if len(list) > 0 {
		m[key] = list
	}
}

func probesText(probes []Probe) (out []map[string]any) {
	for _, p := range probes {
		one := map[string]any{}
		switch {
		case p.HTTP != "":
			one["http"] = p.HTTP
			if p.Status != 0 {
				one["status"] = p.Status
			}
			if p.Text != "" {
				one["text"] = p.Text
			}
		case p.SQL != "":
			one["sql"], one["engine"] = p.SQL, p.Engine
			if p.Database != "" {
				one["database"] = p.Database
			}
			if p.Expect != "" {
				one["expect"] = p.Expect
			}
		case p.Command != "":
			one["command"] = p.Command
			if p.Expect != "" {
				one["expect"] = p.Expect
			}
		default:
			one["tcp"] = p.TCP
		}
		out = append(out, one)
	}
	return out
}
