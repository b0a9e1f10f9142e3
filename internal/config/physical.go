package config

import (
	"net"
	"net/url"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

// DatabaseServer is the machine of one end of a database that is copied physically, and
// how its server is run there.
type DatabaseServer struct {
	// Host is reached by ssh: a name of servers:, or of a host that ssh knows. Empty:
	// the machine Leeward runs on.
	Host    string
	SSH     SSH    // complete: as the server of that name has it, or the source
	Address string // host:port as the server at the other end reaches this one; empty: as in the DSN
	Data    string // the server's data directory, an absolute path there
	Owner   string // account that owns it and runs the server
	Tools   string // directory of the engine's programs there
	Start   []string
	Stop    []string
}

func (r *reader) databaseServer(where string, n *yaml.Node) *DatabaseServer {
	s := &DatabaseServer{}
	r.mapping(where, n, []field{
		{"host", false, func(w string, n *yaml.Node) { s.Host = r.word(w, n) }},
		{"address", false, func(w string, n *yaml.Node) { s.Address = r.reachedAt(w, n) }},
		{"data", true, func(w string, n *yaml.Node) { s.Data = r.pathThere(w, n) }},
		{"owner", false, func(w string, n *yaml.Node) { s.Owner = r.word(w, n) }},
		{"tools", false, func(w string, n *yaml.Node) { s.Tools = r.pathThere(w, n) }},
		{"start", false, func(w string, n *yaml.Node) { s.Start = r.texts(w, n) }},
		{"stop", false, func(w string, n *yaml.Node) { s.Stop = r.texts(w, n) }},
	})
	if (len(s.Start) == 0) != (len(s.Stop) == 0) {
		r.fault(n, where, "want both start and stop, or neither")
	}
	return s
}

// Host is the host that the DSN names, with its port where it has one, and nothing secret:
// of a URL, of MariaDB's user@tcp(host)/name, or of words such as host=h; "" where it is of
// another form.
func (e Endpoint) Host() string {
	if u, err := url.Parse(e.DSN); err == nil && u.Host != "" {
		return u.Host
	}
	if _, rest, ok := strings.Cut(e.DSN, "@tcp("); ok {
		if host, _, ok := strings.Cut(rest, ")"); ok {
			return host
		}
	}
	for _, word := range strings.FieldsFunc(e.DSN, func(c rune) bool { return c == ' ' || c == ';' }) {
		if host, ok := strings.CutPrefix(word, "host="); ok {
			return host
		}
	}
	return ""
}

// HostedBy are the servers at the source that databases of this estate are on.
func (e *Estate) HostedBy() map[string][]dr.ServerName {
	out := map[string][]dr.ServerName{}
	for _, d := range e.Databases {
		host := d.Source.Host()
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		for _, s := range e.Servers {
			if host != "" && (s.Host == host || string(s.Name) == host) {
				out[d.Name] = append(out[d.Name], s.Name)
			}
		}
	}
	return out
}

// pathThere reads an absolute path of another machine.
func (r *reader) pathThere(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && (!strings.HasPrefix(s, "/") || strings.TrimRight(s, "/") == "" || strings.Contains(s+"/", "/../")) {
		r.fault(n, where, "%q: want a whole path, as in /srv/postgres/shop", s)
		return ""
	}
	return strings.TrimRight(s, "/")
}

func (r *reader) reachedAt(where string, n *yaml.Node) string {
	s := r.word(where, n)
	if s == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(s)
	if p, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || p < 1 || p > 65535 {
		r.fault(n, where, "%q: want host:port, as in 10.20.0.5:5432", s)
		return ""
	}
	return s
}

// resolve says how the machines of a database are reached.
func (d *Database) resolve(e *Estate) {
	for _, p := range []*Endpoint{&d.Source, &d.Target} {
		if p.Server == nil || p.Server.Host == "" {
			continue
		}
		p.Server.SSH = e.Source.SSH
		if s := e.Server(dr.ServerName(p.Server.Host)); s != nil {
			p.Server.Host, p.Server.SSH = s.Host, s.SSH
		}
	}
}

// mode refuses what does not go with how a database is replicated.
func (r *reader) mode(where string, n *yaml.Node, d *Database) {
	ends := []struct {
		name string
		e    Endpoint
	}{{"source", d.Source}, {"target", d.Target}}
	if d.Mode != "physical" {
		return // server: may be there: plan compares the modes
	}
	switch {
	case d.Engine == "mssql":
		r.fault(n, where, "mode: physical is not driven for mssql; leave mode out: rows are replicated then")
	case len(d.Tables.Include)+len(d.Tables.Exclude) > 0:
		r.fault(n, where, "tables: chooses rows; a physical copy is of the whole server: leave it out, or mode:")
	case d.CopyInstance:
		r.fault(n, where, "instance: copy: a physical copy has all of that already: leave it out")
	case d.Target.Server == nil:
		r.fault(n, where, "mode: physical wants server: {data: …} for the target: where the copy is to be")
	case d.Engine == "mariadb" && d.Source.Server == nil:
		r.fault(n, where, "mode: physical wants server: {data: …} for the source: mariadb-backup runs there")
	}
	for _, x := range ends {
		if d.Engine == "mariadb" && x.e.Server != nil && len(x.e.Server.Start) == 0 {
			r.fault(n, where, "%s: server: start and stop are missing: the commands that start and stop the server, as in [systemctl, start, mariadb]", x.name)
		}
	}
}
