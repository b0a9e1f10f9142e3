package config

import (
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Keep says how many recovery points stay: the newest Last, and beside them the
// newest of each of the last Hourly hours and Daily days that have one.
type Keep struct {
	Last   int
	Hourly int
	Daily  int
	Given  bool // the file says so; otherwise it is the default, which gives way where space is short
}

// DefaultKeep is what holds where the file says nothing.
func DefaultKeep() Keep { return Keep{Last: 12, Hourly: 24, Daily: 14} }

// keep reads how many points stay. What is not named is not kept.
func (r *reader) keep(where string, n *yaml.Node) (k Keep) {
	k.Given = true
	faults := len(r.problems.List)
	r.mapping(where, n, []field{
		{"last", false, func(w string, n *yaml.Node) { k.Last = r.integer(w, n, 0, 1000) }},
		{"hourly", false, func(w string, n *yaml.Node) { k.Hourly = r.integer(w, n, 0, 1000) }},
		{"daily", false, func(w string, n *yaml.Node) { k.Daily = r.integer(w, n, 0, 3650) }},
	})
	if k.Last+k.Hourly+k.Daily == 0 && len(r.problems.List) == faults {
		r.fault(n, where, "no recovery point would stay; want at least one, as in {last: 12, hourly: 24, daily: 14}")
	}
	return k
}

// KeepOf returns what holds for the points of a group.
func (e *Estate) KeepOf(g *Group) Keep {
	switch {
	case g.Keep.Given:
		return g.Keep
	case e.Keep.Given:
		return e.Keep
	}
	return DefaultKeep()
}

// KeepsOf returns what holds for the points of a server: those of its groups, or the
// estate's where it is in none. A point stays where one of them keeps it.
func (e *Estate) KeepsOf(server dr.ServerName) (out []Keep) {
	for _, g := range e.RecoveryGroups() {
		if slices.Contains(g.Order, string(server)) {
			if k := e.KeepOf(&g); !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	if len(out) == 0 {
		out = []Keep{e.KeepOf(&Group{})}
	}
	return out
}

// RecoveryGroups returns the groups that get recovery points of their own: those of
// the file or, where it has none, one of everything, databases first and every server
// behind those it starts after. That one is named all or, where a server or database
// has that name, everything.
func (e *Estate) RecoveryGroups() []Group {
	if len(e.Groups) > 0 {
		return e.Groups
	}
	g := Group{Name: "all"}
	for _, name := range []string{"all", "everything", "estate", "group", "group-of-all"} {
		if g.Name = name; e.Server(dr.ServerName(name)) == nil && e.Database(name) == nil {
			break
		}
	}
	for _, d := range e.Databases {
		g.Order = append(g.Order, d.Name)
	}
	seen := map[dr.ServerName]bool{}
	var add func(s *Server)
	add = func(s *Server) {
		if s == nil || seen[s.Name] {
			return
		}
		seen[s.Name] = true
		for _, first := range s.After {
			add(e.Server(first))
		}
		g.Order = append(g.Order, string(s.Name))
	}
	for i := range e.Servers {
		add(&e.Servers[i])
	}
	return []Group{g}
}
