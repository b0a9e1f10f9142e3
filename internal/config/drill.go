package config

import (
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// unitRE is what systemd allows in the name of a unit. None of it needs quotes on a
// kernel's command line, where a drill puts it.
var unitRE = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,200}$`)

// hold reads the units that a drill of this server holds back.
func (r *reader) hold(where string, n *yaml.Node) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		s, ok := r.text(where, n)
		if !ok {
			return
		}
		if !unitRE.MatchString(s) {
			r.fault(n, where, "%q is no unit of systemd; want one as in billing.service", s)
			return
		}
		if !strings.Contains(s, ".") {
			s += ".service"
		}
		out = append(out, s)
	})
	return out
}

// probe reads a question that the server answers when it works.
func (r *reader) probe(where string, n *yaml.Node) (p Probe) {
	set, ofAnswer, expects, ofSQL := 0, 0, 0, 0
	r.mapping(where, n, []field{
		{"http", false, func(w string, n *yaml.Node) { p.HTTP = r.address(w, n); set++ }},
		{"tcp", false, func(w string, n *yaml.Node) { p.TCP = r.port(w, n); set++ }},
		{"status", false, func(w string, n *yaml.Node) { p.Status = r.integer(w, n, 100, 599); ofAnswer++ }},
		{"text", false, func(w string, n *yaml.Node) { p.Text, _ = r.text(w, n); ofAnswer++ }},
		{"command", false, func(w string, n *yaml.Node) { p.Command, _ = r.text(w, n); set++ }},
		{"expect", false, func(w string, n *yaml.Node) { p.Expect, _ = r.text(w, n); expects++ }},
		{"sql", false, func(w string, n *yaml.Node) { p.SQL, _ = r.text(w, n); set++ }},
		{"engine", false, func(w string, n *yaml.Node) { p.Engine = r.choice(w, n, "postgres", "mariadb"); ofSQL++ }},
		{"database", false, func(w string, n *yaml.Node) { p.Database = r.database(w, n); ofSQL++ }},
	})
	if n.Kind != yaml.MappingNode {
		return p
	}
	if set != 1 {
		r.fault(n, where, "a probe is one of http, tcp, command and sql, as in {http: \"http://:8080/health\"}")
	}
	if ofAnswer > 0 && p.HTTP == "" {
		r.fault(n, where, "status and text are of an answer by http")
	}
	if expects > 0 && !p.Inside() {
		r.fault(n, where, "expect is of what a command prints or sql answers")
	}
	switch {
	case ofSQL > 0 && p.SQL == "":
		r.fault(n, where, "engine and database are of a probe by sql")
	case p.SQL != "" && p.Engine == "":
		r.fault(n, where, "a probe by sql wants engine: postgres or mariadb")
	}
	return p
}

// database reads the name of a database. One that begins as an option does would be read
// as one by the client.
func (r *reader) database(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && (s == "" || strings.HasPrefix(s, "-")) {
		r.fault(n, where, "%q is no name of a database", s)
		return ""
	}
	return s
}

// port reads a port, written as a number or as in ":5432".
func (r *reader) port(where string, n *yaml.Node) int {
	if f := r.follow(n); f != nil && strings.HasPrefix(f.Value, ":") {
		bare := *f
		bare.Value, bare.Tag, bare.Style = f.Value[1:], "!!int", 0
		n = &bare
	}
	return r.integer(where, n, 1, 65535)
}
