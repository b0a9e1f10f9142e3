package config

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Parse reads an estate from data, which was found in file. Relative paths are
// taken from that file's directory. An error is of type *Problems.
func Parse(file string, data []byte) (*Estate, error) {
	r := &reader{dir: filepath.Dir(file), problems: Problems{File: file}}
	root := r.document(data)
	if root == nil {
		return nil, r.problems.err()
	}
	e := &Estate{File: file, Source: Source{Name: "source"}}
	e.Source.SSH.Sudo = SudoAuto
	e.Target = Target{Name: "target", Hypervisor: "qemu", Accelerator: "auto"}
	e.Switchover = defaultSwitchover()
	r.estate(root, e)
	r.check(e)
	if err := r.problems.err(); err != nil {
		return nil, err
	}
	return e, nil
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line ([0-9]+): )?(.*)`)

// document returns the one document of data, or nil with the problem noted.
func (r *reader) document(data []byte) *yaml.Node {
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(data))
	err := d.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF):
		r.problems.add(0, "the file is empty; it needs estate, target and servers")
		return nil
	case err != nil:
		m := yamlLine.FindStringSubmatch(strings.ReplaceAll(err.Error(), "\n", " "))
		line, _ := strconv.Atoi(m[1]) // no number is line 0: unknown
		r.problems.add(line, "this is not YAML: %s", m[2])
		return nil
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		r.problems.add(more.Line, "there is a second document after the first (---); want one")
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		r.problems.add(0, "the file is empty; it needs estate, target and servers")
		return nil
	}
	return doc.Content[0]
}

func (r *reader) estate(n *yaml.Node, e *Estate) {
	r.mapping("", n, []field{
		{"estate", true, func(w string, n *yaml.Node) { e.Name = r.name(w, n) }},
		{"source", false, func(w string, n *yaml.Node) { r.source(w, n, &e.Source) }},
		{"target", true, func(w string, n *yaml.Node) { r.target(w, n, &e.Target) }},
		{"limits", false, func(w string, n *yaml.Node) { r.limits(w, n, &e.Source.Limits) }},
		{"seeds", false, func(w string, n *yaml.Node) { e.Seeds = r.paths(w, n) }},
		{"deadline", false, func(w string, n *yaml.Node) { e.Deadline = r.instant(w, n) }},
		{"servers", false, func(w string, n *yaml.Node) { r.servers(n, e) }},
		{"databases", false, func(w string, n *yaml.Node) { r.databases(n, e) }},
		{"groups", false, func(w string, n *yaml.Node) { r.groups(n, e) }},
		{"keep", false, func(w string, n *yaml.Node) { e.Keep = r.keep(w, n) }},
		{"verify", false, func(w string, n *yaml.Node) { r.verify(w, n, e) }},
		{"contacts", false, func(w string, n *yaml.Node) { e.Contacts = r.contacts(n) }},
		{"switchover", false, func(w string, n *yaml.Node) { r.switchover(w, n, &e.Switchover, e.Source.SSH) }},
	})
	if n.Kind == yaml.MappingNode && len(e.Servers)+len(e.Databases) == 0 {
		r.fault(n, "servers", "there is none, and no database; want at least one, as in {name: web1, host: 10.10.0.11}")
	}
}

func (r *reader) paths(where string, n *yaml.Node) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		if p := r.path(where, n); p != "" {
			out = append(out, p)
		}
	})
	return out
}

func (r *reader) source(where string, n *yaml.Node, s *Source) {
	r.mapping(where, n, []field{
		{"name", false, func(w string, n *yaml.Node) { s.Name = r.name(w, n) }},
		{"ssh", false, func(w string, n *yaml.Node) { r.ssh(w, n, &s.SSH) }},
	})
}

// ssh reads settings over those s holds.
func (r *reader) ssh(where string, n *yaml.Node, s *SSH) {
	r.mapping(where, n, []field{
		{"user", false, func(w string, n *yaml.Node) { s.User = r.word(w, n) }},
		{"port", false, func(w string, n *yaml.Node) { s.Port = r.integer(w, n, 1, 65535) }},
		{"config", false, func(w string, n *yaml.Node) { s.Config = r.path(w, n) }},
		{"options", false, func(w string, n *yaml.Node) { s.Options = r.texts(w, n) }},
		{"streams", false, func(w string, n *yaml.Node) { s.Streams = r.integer(w, n, 1, 32) }},
		{"sudo", false, func(w string, n *yaml.Node) {
			s.Sudo = Sudo(r.choice(w, n, string(SudoAuto), string(SudoNever)))
		}},
	})
}

// word reads what must not be taken for an option, nor fall apart in a shell.
func (r *reader) word(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && (strings.HasPrefix(s, "-") || strings.ContainsAny(s, " \t'\"`$\\;&|<>(){}")) {
		r.fault(n, where, "%q: want a single word", s)
		return ""
	}
	return s
}

func (r *reader) target(where string, n *yaml.Node, t *Target) {
	r.mapping(where, n, []field{
		{"name", false, func(w string, n *yaml.Node) { t.Name = r.name(w, n) }},
		{"store", true, func(w string, n *yaml.Node) { t.Store = r.path(w, n) }},
		{"hypervisor", false, func(w string, n *yaml.Node) { t.Hypervisor = r.hypervisor(w, n) }},
		{"accelerator", false, func(w string, n *yaml.Node) { t.Accelerator = r.choice(w, n, "auto", "kvm", "tcg") }},
		{"network", false, func(w string, n *yaml.Node) {
			r.mapping(w, n, []field{
				{"map", false, func(w string, n *yaml.Node) { t.Network = r.networks(w, n) }},
				{"bridge", false, func(w string, n *yaml.Node) { t.Bridge = r.word(w, n) }},
			})
		}},
	})
}

func (r *reader) hypervisor(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && s != "qemu" && (!strings.HasPrefix(s, "libvirt:") || s == "libvirt:") {
		r.fault(n, where, "unknown value %q; want qemu or libvirt:URI, as in libvirt:qemu:///system", s)
		return ""
	}
	return s
}

// networks reads {from: to}; the keys are data here, not names.
func (r *reader) networks(where string, n *yaml.Node) (out []NetworkMap) {
	if n = r.follow(n); n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, where, "want networks, as in {10.10.0.0/24: 10.20.0.0/24}")
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		from, okFrom := r.prefix(where, n.Content[i])
		to, okTo := r.prefix(where, n.Content[i+1])
		if !okFrom || !okTo {
			continue
		}
		if from.Bits() != to.Bits() || from.Addr().BitLen() != to.Addr().BitLen() {
			r.fault(n.Content[i], where, "%s and %s are not of one size", from, to)
			continue
		}
		for _, other := range out {
			if other.From.Overlaps(from) {
				r.fault(n.Content[i], where, "%s and %s overlap", other.From, from)
			}
		}
		out = append(out, NetworkMap{From: from, To: to})
	}
	return out
}

func (r *reader) prefix(where string, n *yaml.Node) (netip.Prefix, bool) {
	s, ok := r.text(where, n)
	if !ok {
		return netip.Prefix{}, false
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		r.fault(n, where, "%q is no network; want one as in 10.10.0.0/24", s)
		return p, false
	}
	if p != p.Masked() {
		r.fault(n, where, "%q is an address in a network; did you mean %q?", s, p.Masked())
		return p, false
	}
	return p, true
}

// limits reads bounds over those l holds.
func (r *reader) limits(where string, n *yaml.Node, l *Limits) {
	r.mapping(where, n, []field{
		{"bandwidth", false, func(w string, n *yaml.Node) { l.Bandwidth = r.rate(w, n) }},
		{"disk", false, func(w string, n *yaml.Node) { l.Disk = r.rate(w, n) }},
		{"cpu", false, func(w string, n *yaml.Node) {
			r.mapping(w, n, []field{
				{"nice", false, func(w string, n *yaml.Node) { l.Nice = r.integer(w, n, 0, 19) }},
				{"cores", false, func(w string, n *yaml.Node) { l.Cores = r.cores(w, n) }},
			})
		}},
	})
}

func (r *reader) cores(where string, n *yaml.Node) float64 {
	s, ok := r.text(where, n)
	if !ok {
		return 0
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0.01 && f <= 1024) {
		r.fault(n, where, "%q: want a number of cores from 0.01 to 1024; 0.5 is half of one", s)
		return 0
	}
	return f
}

func (r *reader) verify(where string, n *yaml.Node, e *Estate) {
	r.mapping(where, n, []field{
		{"volatile", false, func(w string, n *yaml.Node) { e.Volatile = r.patterns(w, n) }},
	})
}
