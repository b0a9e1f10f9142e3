package config

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Priorities are whole numbers; the lower goes first.
const (
	defaultPriority = 50
	mostPriority    = 100
)

// servers reads the list of servers; the source's settings are known by then.
func (r *reader) servers(n *yaml.Node, e *Estate) {
	r.each("servers", n, func(i int, n *yaml.Node) {
		e.Servers = append(e.Servers, r.server(label("server", i, n), n, e.Source))
	})
}

// label names element i of a list by its own name where it has one.
func label(what string, i int, n *yaml.Node) string {
	for k := 0; n.Kind == yaml.MappingNode && k+1 < len(n.Content); k += 2 {
		if v := n.Content[k+1]; n.Content[k].Value == "name" && dr.ValidName(v.Value) {
			return what + " " + v.Value
		}
	}
	return fmt.Sprintf("%s %d", what, i+1)
}

func (r *reader) server(where string, n *yaml.Node, from Source) Server {
	s := Server{Capture: Files, Priority: defaultPriority, SSH: from.SSH, Limits: from.Limits, Line: n.Line}
	r.mapping(where, n, []field{
		{"name", true, func(w string, n *yaml.Node) { s.Name = dr.ServerName(r.name(w, n)) }},
		{"host", false, func(w string, n *yaml.Node) { s.Host = r.word(w, n) }},
		{"capture", false, func(w string, n *yaml.Node) {
			s.Capture = Capture(r.choice(w, n, string(Files), string(QEMU)))
		}},
		{"after", false, func(w string, n *yaml.Node) {
			for _, name := range r.references(w, n, false) {
				s.After = append(s.After, dr.ServerName(name))
			}
		}},
		{"probes", false, func(w string, n *yaml.Node) {
			r.each(w, n, func(_ int, n *yaml.Node) { s.Probes = append(s.Probes, r.probe(w, n)) })
		}},
		{"hold", false, func(w string, n *yaml.Node) { s.Hold = r.hold(w, n) }},
		{"exclude", false, func(w string, n *yaml.Node) { s.Exclude = r.patterns(w, n) }},
		{"include_excluded", false, func(w string, n *yaml.Node) { s.IncludeExcluded = r.patterns(w, n) }},
		{"ssh", false, func(w string, n *yaml.Node) { r.ssh(w, n, &s.SSH) }},
		{"machine", false, func(w string, n *yaml.Node) { s.Machine = r.machine(w, n) }},
		{"home", false, func(w string, n *yaml.Node) { s.Home = r.machine(w, n) }},
		{"quiesce", false, func(w string, n *yaml.Node) { s.Quiesce = r.quiesce(w, n) }},
		{"fence", false, func(w string, n *yaml.Node) {
			f := &Work{}
			s.Fence = r.fence(w, n, f, field{"undo", false, func(w string, n *yaml.Node) { f.Undo, _ = r.text(w, n) }})
		}},
		{"priority", false, func(w string, n *yaml.Node) { s.Priority = r.integer(w, n, 1, mostPriority) }},
		{"limits", false, func(w string, n *yaml.Node) { r.limits(w, n, &s.Limits) }},
	})
	if s.Host == "" {
		s.Host = string(s.Name) // as ssh_config may know it
	}
	return s
}

func (r *reader) machine(where string, n *yaml.Node) *Machine {
	m := &Machine{}
	r.mapping(where, n, []field{
		{"start", true, func(w string, n *yaml.Node) { m.Start, _ = r.text(w, n) }},
		{"stop", true, func(w string, n *yaml.Node) { m.Stop, _ = r.text(w, n) }},
		{"check", true, func(w string, n *yaml.Node) { m.Check, _ = r.text(w, n) }},
	})
	return m
}

// references reads names to be resolved once everything is read.
func (r *reader) references(where string, n *yaml.Node, any bool) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		s, ok := r.text(where, n)
		if !ok {
			return
		}
		for _, other := range out {
			if other == s {
				r.fault(n, where, "%q is there twice", s)
				return
			}
		}
		out = append(out, s)
		r.refs = append(r.refs, reference{line: n.Line, where: where, name: s, any: any})
	})
	return out
}

func (r *reader) address(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if !ok {
		return ""
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		r.fault(n, where, "%q: want a URL; without a host it is the server itself, as in http://:8080/health", s)
		return ""
	}
	if port := u.Port(); port != "" {
		if p, err := strconv.Atoi(port); err != nil || p < 1 || p > 65535 {
			r.fault(n, where, "%q: port %s: want 1 to 65535", s, port)
		}
	}
	if u.User != nil {
		r.fault(n, where, "the URL holds a user name or password; no secret belongs in this file")
	}
	return s
}

// patterns reads paths with wildcards, in the language that docs/formats.md
// describes.
func (r *reader) patterns(where string, n *yaml.Node) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		s, ok := r.text(where, n)
		if !ok {
			return
		}
		if !strings.HasPrefix(s, "/") || s == "/" {
			r.fault(n, where, "%q: want a path that begins with /, as in /var/tmp/** or /**/*.iso", s)
			return
		}
		for part := range strings.SplitSeq(s, "/") {
			if _, err := path.Match(part, ""); err != nil {
				r.fault(n, where, "%q: %q is no pattern: %v", s, part, err)
				return
			}
		}
		out = append(out, s)
	})
	return out
}
