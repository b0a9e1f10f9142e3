package discover

import (
	"cmp"
	"slices"
	"strings"
)

// Needs is what a server has to wait for at start, and why.
type Needs struct {
	Server string
	After  []string
	Why    map[string]Edge // by the server it waits for
	Ring   []string        // servers it needs that need it as well: neither waits
}

// firm reports whether an edge is enough to make one server wait for another: traffic was
// seen, or the configuration names a port, not just a name.
func (e Edge) firm() bool { return e.Known && (e.Seen > 0 || e.Port != 0) }

// Order says what each server waits for. Servers that need each other, directly or
// through others, do not wait among themselves.
func (g *Graph) Order() []Needs {
	next := map[string]map[string]Edge{}
	for _, e := range g.Edges {
		if !e.firm() || e.Port == 22 && e.Protocol == "tcp" {
			continue // people and tools come by ssh; no service waits for it
		}
		if next[e.From] == nil {
			next[e.From] = map[string]Edge{}
		}
		if old, ok := next[e.From][e.To]; !ok || old.Seen < e.Seen {
			next[e.From][e.To] = e
		}
	}
	ring := rings(g.Servers, next)
	var out []Needs
	for _, s := range g.Servers {
		n := Needs{Server: s, Why: next[s]}
		for to := range next[s] {
			if ring[to] == ring[s] {
				n.Ring = append(n.Ring, to)
			} else {
				n.After = append(n.After, to)
			}
		}
		slices.Sort(n.After)
		slices.Sort(n.Ring)
		out = append(out, n)
	}
	return out
}

// rings numbers the strongly connected components (Tarjan's way).
func rings(nodes []string, next map[string]map[string]Edge) map[string]int {
	t := &tarjan{next: next, index: map[string]int{}, low: map[string]int{}, on: map[string]bool{}, ring: map[string]int{}}
	for _, n := range nodes {
		if _, seen := t.index[n]; !seen {
			t.visit(n)
		}
	}
	return t.ring
}

type tarjan struct {
	next  map[string]map[string]Edge
	index map[string]int
	low   map[string]int
	on    map[string]bool
	stack []string
	ring  map[string]int
	rings int
}

func (t *tarjan) visit(n string) {
	t.index[n] = len(t.index)
	t.low[n] = t.index[n]
	t.stack, t.on[n] = append(t.stack, n), true
	for m := range t.next[n] {
		if _, seen := t.index[m]; !seen {
			t.visit(m)
			t.low[n] = min(t.low[n], t.low[m])
		} else if t.on[m] {
			t.low[n] = min(t.low[n], t.index[m])
		}
	}
	if t.low[n] != t.index[n] {
		return
	}
	t.rings++
	for {
		m := t.stack[len(t.stack)-1]
		t.stack = t.stack[:len(t.stack)-1]
		t.on[m], t.ring[m] = false, t.rings
		if m == n {
			return
		}
	}
}

// Sequence puts the servers in the order in which they can be started, those that wait for
// nobody first, and names that are alike in rank by name.
func Sequence(needs []Needs) []string {
	depth := map[string]int{}
	by := map[string]Needs{}
	for _, n := range needs {
		by[n.Server] = n
	}
	var of func(s string) int
	of = func(s string) int {
		if d, ok := depth[s]; ok {
			return d
		}
		depth[s] = 0 // After has no rings; this only keeps a fault from running for ever
		d := 0
		for _, a := range by[s].After {
			d = max(d, of(a)+1)
		}
		depth[s] = d
		return d
	}
	var out []string
	for _, n := range needs {
		of(n.Server)
		out = append(out, n.Server)
	}
	slices.SortStableFunc(out, func(a, b string) int { return cmp.Or(cmp.Compare(depth[a], depth[b]), strings.Compare(a, b)) })
	return out
}

// Group is servers that recover together, and why.
type Group struct {
	Name  string
	Order []string
	Why   string
}

// everybody's ports: what all hosts use says nothing of what belongs together.
var commonPorts = []int{22, 25, 53, 67, 69, 111, 123, 389, 514, 636, 9100, 10050, 10051}

// Groups are the servers that traffic binds together, where it is not of the kind that all
// hosts have: names, time, logs, ssh. A server that only asks others, such as a monitor,
// and the one all use, bind nobody.
func (g *Graph) Groups(needs []Needs) (out []Group) {
	parent := map[string]string{}
	var root func(s string) string
	root = func(s string) string {
		if p, ok := parent[s]; ok && p != s {
			r := root(p)
			parent[s] = r
			return r
		}
		return s
	}
	watchers := g.watchers()
	degree := map[string]int{}
	for _, e := range g.Edges {
		if e.firm() && !slices.Contains(commonPorts, e.Port) && !slices.Contains(watchers, e.From) {
			parent[root(e.From)] = root(e.To)
			degree[e.To]++
		}
	}
	members := map[string][]string{}
	for _, s := range Sequence(needs) {
		members[root(s)] = append(members[root(s)], s)
	}
	for _, m := range members {
		if len(m) < 2 {
			continue
		}
		hub := slices.MaxFunc(m, func(a, b string) int { return cmp.Or(cmp.Compare(degree[a], degree[b]), strings.Compare(b, a)) })
		out = append(out, Group{Name: "around-" + strings.Trim(hub[:min(55, len(hub))], ".-_"), Order: m, Why: "they talk to each other; what they share is " + hub})
	}
	slices.SortFunc(out, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// watchers are servers that ask three others or more, and that nobody needs.
func (g *Graph) watchers() (out []string) {
	asks, asked := map[string]map[string]bool{}, map[string]bool{}
	for _, e := range g.Edges {
		if !e.firm() {
			continue
		}
		if asks[e.From] == nil {
			asks[e.From] = map[string]bool{}
		}
		asks[e.From][e.To] = true
		asked[e.To] = true
	}
	for s, to := range asks {
		if len(to) >= 3 && !asked[s] {
			out = append(out, s)
		}
	}
	return out
}
