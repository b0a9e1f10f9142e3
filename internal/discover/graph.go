package discover

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// Edge says that one side needs the other: it calls it, or its configuration names it.
type Edge struct {
	From     string   `json:"from"`  // a server of the estate
	To       string   `json:"to"`    // a server of the estate, or an address that is none
	Known    bool     `json:"known"` // To is a server of the estate
	Port     int      `json:"port,omitempty"`
	Protocol string   `json:"protocol,omitempty"`
	Process  string   `json:"process,omitempty"` // that calls
	Service  string   `json:"service,omitempty"` // that answers
	Seen     int      `json:"seen"`              // connections
	Evidence []string `json:"evidence"`
}

// Client is somebody outside who calls a server of the estate.
type Client struct {
	Address string `json:"address"`
	Server  string `json:"server"`
	Port    int    `json:"port"`
	Service string `json:"service,omitempty"`
	Seen    int    `json:"seen"`
}

// Graph is who depends on whom.
type Graph struct {
	Servers []string `json:"servers"`
	Edges   []Edge   `json:"edges"`
	Clients []Client `json:"clients,omitempty"`
}

// Unlisted are the edges to private addresses that no server of the estate has: something
// there is needed, and is not protected.
func (g *Graph) Unlisted() (out []Edge) {
	for _, e := range g.Edges {
		if a, err := netip.ParseAddr(e.To); !e.Known && err == nil && a.IsPrivate() {
			out = append(out, e)
		}
	}
	return out
}

type edgeKey struct {
	from, to, protocol string
	port               int
}

type grapher struct {
	byAddr  map[netip.Addr]string // of servers
	byName  map[string]string
	hosts   map[string]map[string]netip.Addr // by server: what its /etc/hosts says of names
	servers map[string]*inventory.Server
	edges   map[edgeKey]*Edge
	clients map[Client]int
	ignore  map[netip.Addr]bool
}

// Build joins what the servers of an estate told into a graph. Traffic with the addresses
// in ignore, Leeward's own machine, does not count.
func Build(e *inventory.Estate, ignore ...netip.Addr) *Graph {
	g := &grapher{byAddr: map[netip.Addr]string{}, byName: map[string]string{}, servers: map[string]*inventory.Server{},
		hosts: map[string]map[string]netip.Addr{}, edges: map[edgeKey]*Edge{}, clients: map[Client]int{}, ignore: map[netip.Addr]bool{}}
	for _, a := range ignore {
		g.ignore[a] = true
	}
	out := &Graph{}
	for _, x := range e.Entries {
		out.Servers = append(out.Servers, x.Name)
		g.know(x)
	}
	for _, x := range e.Entries {
		if x.Server != nil {
			g.seen(x.Name, x.Server)
		}
	}
	for _, x := range e.Entries {
		if x.Server != nil {
			g.configured(x.Name, x.Server)
		}
	}
	for _, k := range g.edges {
		k.Evidence = tidy(k.Evidence)
		out.Edges = append(out.Edges, *k)
	}
	slices.SortFunc(out.Edges, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	for c, n := range g.clients {
		c.Seen = n
		out.Clients = append(out.Clients, c)
	}
	slices.SortFunc(out.Clients, func(a, b Client) int {
		return cmp.Or(cmp.Compare(a.Server, b.Server), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Address, b.Address))
	})
	return out
}

const (
	gone   = "something that was gone by then calls it"
	called = "seen at the side that is called"
)

// tidy sorts evidence and leaves out what better evidence makes needless.
func tidy(evidence []string) []string {
	slices.Sort(evidence)
	evidence = slices.Compact(evidence)
	calls := func(s string) bool { return strings.HasSuffix(s, " calls it") && s != gone }
	if slices.ContainsFunc(evidence, calls) {
		return slices.DeleteFunc(evidence, func(s string) bool { return s == gone || s == called })
	}
	return evidence
}

// know notes the names and addresses of a server. An address that two have is nobody's.
func (g *grapher) know(x inventory.Entry) {
	name := func(s string) {
		if s = strings.ToLower(s); s != "" && s != "localhost" {
			if other, ok := g.byName[s]; ok && other != x.Name {
				g.byName[s] = ""
				return
			}
			g.byName[s] = x.Name
		}
	}
	name(x.Name)
	if x.Host != x.Name {
		name(x.Host)
	}
	if a, err := netip.ParseAddr(x.Host); err == nil {
		g.address(a, x.Name)
	}
	if x.Server == nil {
		return
	}
	g.servers[x.Name] = x.Server
	if h := strings.ToLower(x.Server.System.Hostname); h != x.Name {
		name(h)
	}
	if d := x.Server.System.Domain; d != "" && !strings.Contains(x.Server.System.Hostname, ".") {
		name(x.Server.System.Hostname + "." + d)
	}
	for _, a := range addresses(x.Server) {
		g.address(a, x.Name)
	}
	g.hosts[x.Name] = map[string]netip.Addr{}
	for _, h := range x.Server.Network.Hosts {
		if a, err := netip.ParseAddr(h.Address); err == nil {
			for _, n := range h.Names {
				g.hosts[x.Name][strings.ToLower(n)] = a
			}
		}
	}
}

func (g *grapher) address(a netip.Addr, name string) {
	if other, ok := g.byAddr[a]; ok && other != name {
		g.byAddr[a] = ""
		return
	}
	g.byAddr[a] = name
}

// resolve tells what a server means by a name or address: a server of the estate, or
// itself an address. Empty: nothing that is known.
func (g *grapher) resolve(from, what string) (to string, known bool) {
	what = strings.ToLower(what)
	if a, err := netip.ParseAddr(what); err == nil {
		return g.resolveAddr(a)
	}
	if a, ok := g.hosts[from][what]; ok {
		return g.resolveAddr(a)
	}
	if s := g.byName[what]; s != "" {
		return s, true
	}
	return "", false
}

func (g *grapher) resolveAddr(a netip.Addr) (to string, known bool) {
	if a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || g.ignore[a] {
		return "", false
	}
	if s := g.byAddr[a]; s != "" {
		return s, true
	}
	return a.String(), false
}

// edge returns the one of a key, made where there is none.
func (g *grapher) edge(k edgeKey, known bool) *Edge {
	e := g.edges[k]
	if e == nil {
		e = &Edge{From: k.from, To: k.to, Known: known, Port: k.port, Protocol: k.protocol}
		if s := g.servers[k.to]; s != nil && known {
			e.Service = serviceAt(s, k.protocol, k.port)
		}
		g.edges[k] = e
	}
	return e
}

// serviceAt names what listens at a port of a server.
func serviceAt(s *inventory.Server, protocol string, port int) string {
	for _, l := range s.Listening {
		if l.Port == port && l.Protocol == protocol && !l.Loopback() {
			return cmp.Or(strings.TrimSuffix(l.Unit, ".service"), l.Process)
		}
	}
	return ""
}

// seen takes in the connections of one server.
func (g *grapher) seen(name string, s *inventory.Server) {
	for _, c := range s.Connections {
		remote, err := netip.ParseAddr(c.Remote)
		if err != nil || g.ignore[remote] {
			continue
		}
		other, known := g.resolveAddr(remote)
		if other == "" || other == name {
			continue
		}
		switch {
		case c.Out:
			g.call(edgeKey{name, other, c.Protocol, c.Port}, known, c, caller(c))
		case known:
			k := edgeKey{other, name, c.Protocol, c.Port}
			c.Process = ""
			g.call(k, true, c, called)
		default:
			g.clients[Client{Address: other, Server: name, Port: c.Port, Service: serviceAt(s, c.Protocol, c.Port)}] += c.Count
		}
	}
}

func caller(c inventory.Connection) string {
	if c.Process == "" {
		return gone
	}
	return c.Process + " calls it"
}

func (g *grapher) call(k edgeKey, known bool, c inventory.Connection, evidence string) {
	e := g.edge(k, known)
	e.Seen = max(e.Seen, c.Count)
	e.Process = cmp.Or(e.Process, c.Process)
	e.Evidence = append(e.Evidence, evidence)
}

// configured takes in what a server's configuration names: resolvers, mounts, mentions,
// what proxies hand on to.
func (g *grapher) configured(name string, s *inventory.Server) {
	add := func(what, protocol string, port int, evidence string) {
		to, known := g.resolve(name, what)
		if to == "" || to == name {
			return
		}
		if port == 0 {
			// Without a port it adds to what was seen, if that leaves no doubt.
			if only := g.only(name, to); only != nil {
				only.Evidence = append(only.Evidence, evidence)
				return
			}
		}
		e := g.edge(edgeKey{name, to, protocol, port}, known)
		e.Evidence = append(e.Evidence, evidence)
	}
	for _, r := range s.Network.Resolvers {
		add(r, "udp", 53, "it resolves names there")
	}
	for _, m := range s.Storage.Mounts {
		if host, ok := mountHost(m); ok {
			add(host, "tcp", mountPort(m.Type), "it mounts "+m.At+" from there")
		}
	}
	for _, x := range s.Sites {
		for _, p := range x.Passes {
			host, port := splitHostPort(p)
			add(host, "tcp", port, x.Server+" hands requests on to it ("+x.File+")")
		}
	}
	for _, m := range s.Mentions {
		protocol := "tcp"
		if m.Port == 0 {
			protocol = ""
		}
		add(m.What, protocol, m.Port, fmt.Sprintf("%s:%d names it", m.File, m.Line))
	}
	for _, d := range s.Databases {
		if h := between(d.Settings["primary_conninfo"], "host="); h != "" {
			add(h, "tcp", 5432, "its "+d.Engine+" is a replica of it")
		}
	}
}

// only returns the one edge between two, nil where there is none or a choice.
func (g *grapher) only(from, to string) (found *Edge) {
	for k, e := range g.edges {
		if k.from == from && k.to == to {
			if found != nil {
				return nil
			}
			found = e
		}
	}
	return found
}

// mountHost is the server behind a network mount.
func mountHost(m inventory.Mount) (string, bool) {
	switch {
	case strings.HasPrefix(m.Type, "nfs"), m.Type == "ceph", m.Type == "glusterfs", m.Type == "fuse.glusterfs":
		host, _, ok := strings.Cut(m.Device, ":/")
		return strings.Trim(host, "[]"), ok
	case m.Type == "cifs", m.Type == "smb3":
		host, _, ok := strings.Cut(strings.TrimLeft(m.Device, "/\\"), "/")
		return host, ok
	case m.Type == "fuse.sshfs":
		host, _, ok := strings.Cut(m.Device, ":")
		return host[strings.LastIndex(host, "@")+1:], ok
	}
	return "", false
}

func mountPort(kind string) int {
	switch {
	case strings.HasPrefix(kind, "nfs"):
		return 2049
	case kind == "cifs" || kind == "smb3":
		return 445
	case kind == "fuse.sshfs":
		return 22
	}
	return 0
}

func splitHostPort(s string) (host string, port int) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String(), int(ap.Port())
	}
	host, p, ok := strings.Cut(s, ":")
	if ok {
		_, _ = fmt.Sscanf(p, "%d", &port) // no number: no port
	}
	return host, port
}

// between is the word that follows key in s.
func between(s, key string) string {
	_, after, ok := strings.Cut(s, key)
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(strings.TrimLeft(after, " '"), " ")
	return strings.Trim(word, "'\"")
}
