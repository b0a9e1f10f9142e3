package config

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

func (r *reader) groups(n *yaml.Node, e *Estate) {
	r.each("groups", n, func(i int, n *yaml.Node) {
		g := Group{Line: n.Line}
		r.mapping(label("group", i, n), n, []field{
			{"name", true, func(w string, n *yaml.Node) { g.Name = r.name(w, n) }},
			{"order", true, func(w string, n *yaml.Node) { g.Order = r.references(w, n, true) }},
			{"objective", false, func(w string, n *yaml.Node) {
				r.mapping(w, n, []field{
					{"rpo", false, func(w string, n *yaml.Node) { g.Objective.RPO = r.duration(w, n) }},
					{"rto", false, func(w string, n *yaml.Node) { g.Objective.RTO = r.duration(w, n) }},
				})
			}},
			{"keep", false, func(w string, n *yaml.Node) { g.Keep = r.keep(w, n) }},
		})
		e.Groups = append(e.Groups, g)
	})
}

// check looks for what is right in itself and wrong together.
func (r *reader) check(e *Estate) {
	if e.Source.Name == e.Target.Name {
		r.problems.add(0, "source and target have one name, %q", e.Source.Name)
	}
	r.checkNames(e)
	r.checkHosts(e)
	r.checkReferences(e)
	r.checkCycles(e)
	for _, g := range e.Groups {
		r.checkOrder(e, g)
	}
}

// checkNames refuses one name for two things: commands take any of them.
func (r *reader) checkNames(e *Estate) {
	type thing struct {
		what string
		line int
	}
	seen := map[string]thing{}
	add := func(what, name string, line int) {
		if name == "" {
			return
		}
		if first, ok := seen[name]; ok {
			r.problems.add(line, "%s %s: the name is taken by the %s in line %d", what, name, first.what, first.line)
			return
		}
		seen[name] = thing{what, line}
	}
	for _, s := range e.Servers {
		add("server", string(s.Name), s.Line)
	}
	for _, d := range e.Databases {
		add("database", d.Name, d.Line)
	}
	for _, g := range e.Groups {
		add("group", g.Name, g.Line)
	}
}

// checkHosts refuses two names for one machine: it would be copied twice.
func (r *reader) checkHosts(e *Estate) {
	seen := map[string]Server{}
	for _, s := range e.Servers {
		key := fmt.Sprintf("%s port %d", s.Host, s.SSH.Port)
		if first, ok := seen[key]; ok && s.Host != "" && first.Name != s.Name {
			r.problems.add(s.Line, "server %s: host %s is server %s already, in line %d", s.Name, s.Host, first.Name, first.Line)
			continue
		}
		seen[key] = s
	}
}

func (r *reader) checkReferences(e *Estate) {
	var servers, all []string
	for _, s := range e.Servers {
		servers = append(servers, string(s.Name))
	}
	all = slices.Clone(servers)
	for _, d := range e.Databases {
		all = append(all, d.Name)
	}
	for _, ref := range r.refs {
		valid, what := servers, "server"
		if ref.any {
			valid, what = all, "server or database"
		}
		if !slices.Contains(valid, ref.name) {
			r.problems.add(ref.line, "%s: there is no %s %q; %s", ref.where, what, ref.name, suggest(ref.name, valid))
		}
	}
}

// checkCycles refuses servers that wait for each other.
func (r *reader) checkCycles(e *Estate) {
	const (
		unseen = iota
		open
		done
	)
	state := map[dr.ServerName]int{}
	var trail []string
	var visit func(s *Server)
	visit = func(s *Server) {
		state[s.Name] = open
		trail = append(trail, string(s.Name))
		for _, name := range s.After {
			next := e.Server(name)
			if next == nil {
				continue
			}
			switch state[name] {
			case unseen:
				visit(next)
			case open:
				ring := append(slices.Clone(trail[slices.Index(trail, string(name)):]), string(name))
				r.problems.add(s.Line, "server %s: servers start after each other in a ring: %s", s.Name, strings.Join(ring, " after "))
			}
		}
		trail = trail[:len(trail)-1]
		state[s.Name] = done
	}
	for i := range e.Servers {
		if state[e.Servers[i].Name] == unseen {
			visit(&e.Servers[i])
		}
	}
}

// checkOrder refuses a group whose order contradicts what its servers say.
func (r *reader) checkOrder(e *Estate, g Group) {
	for i, name := range g.Order {
		s := e.Server(dr.ServerName(name))
		if s == nil {
			continue
		}
		for _, first := range s.After {
			if slices.Index(g.Order, string(first)) > i {
				r.problems.add(g.Line, "group %s: the order has %s before %s, but server %s in line %d starts after %s",
					g.Name, name, first, name, s.Line, first)
			}
		}
	}
}
