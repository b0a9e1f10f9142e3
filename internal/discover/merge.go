package discover

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// Merge proposes what to add to a leeward.yaml that is there: servers that it lacks, and
// what servers wait for. It changes no word of it otherwise: the result is the old text
// with lines put in, or with an after: put into a line. What cannot be put in without
// touching more is said in a comment.
func Merge(old string, e *inventory.Estate, g *Graph) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(old), &doc); err != nil {
		return "", fmt.Errorf("read the old file: %w", err)
	}
	servers := lookup(&doc, "servers")
	if servers == nil || servers.Kind != yaml.SequenceNode || servers.Style&yaml.FlowStyle != 0 || len(servers.Content) == 0 {
		return "", fmt.Errorf("the file has no list of servers, one a line, to add to")
	}
	m := &merger{lines: strings.SplitAfter(old, "\n"), put: map[int][]string{}, p: &proposal{estate: e, graph: g, needs: g.Order()}}
	known := map[string]bool{}
	for _, n := range servers.Content {
		m.known(n, known)
	}
	last := servers.Content[len(servers.Content)-1]
	at := endOf(last)
	if at >= len(m.lines) && at > 0 && !strings.HasSuffix(m.lines[len(m.lines)-1], "\n") {
		m.lines[len(m.lines)-1] += "\n"
	}
	indent := strings.Repeat(" ", max(0, servers.Content[0].Column-3))
	for _, x := range e.Entries {
		if known[x.Name] || known["host "+x.Host] {
			continue
		}
		for _, why := range m.p.about(x) {
			m.insert(at, indent+"# "+remark(why))
		}
		m.insert(at, indent+"- "+serverFlow(x, m.p.needsOf(x.Name).After))
	}
	m.warnings(old)
	return m.String(), nil
}

// lookup finds a key of the document's mapping.
func lookup(doc *yaml.Node, key string) *yaml.Node {
	if doc.Kind == yaml.DocumentNode && len(doc.Content) > 0 {
		doc = doc.Content[0]
	}
	if doc.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(doc.Content); i += 2 {
		if doc.Content[i].Value == key {
			return doc.Content[i+1]
		}
	}
	return nil
}

// endOf is the last line that a node has a part on.
func endOf(n *yaml.Node) int {
	end := n.Line
	if n.Kind == yaml.ScalarNode && n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		end += strings.Count(n.Value, "\n")
	}
	for _, c := range n.Content {
		end = max(end, endOf(c))
	}
	return end
}

// merger puts lines behind others.
type merger struct {
	lines []string
	put   map[int][]string // behind that line, from 1
	p     *proposal
}

func (m *merger) insert(after int, line string) { m.put[after] = append(m.put[after], line+"\n") }

func (m *merger) String() string {
	var b strings.Builder
	for i, l := range m.lines {
		b.WriteString(l)
		for _, more := range m.put[i+1] {
			b.WriteString(more)
		}
	}
	return b.String()
}

// known notes a server that the file has, and what it should wait for beyond what the file
// says.
func (m *merger) known(n *yaml.Node, known map[string]bool) {
	name, host := lookup(n, "name"), lookup(n, "host")
	if name == nil {
		return
	}
	known[name.Value] = true
	if host != nil {
		known["host "+host.Value] = true
	}
	var has []string
	after := lookup(n, "after")
	if after != nil {
		for _, a := range after.Content {
			has = append(has, a.Value)
		}
	}
	var lacks []string
	for _, a := range m.p.needsOf(name.Value).After {
		if !slices.Contains(has, a) {
			lacks = append(lacks, a)
		}
	}
	if len(lacks) == 0 {
		return
	}
	why := m.p.needsOf(name.Value).Why
	for _, a := range lacks {
		m.insert(n.Line-1, strings.Repeat(" ", max(0, n.Column-3))+"# "+remark(name.Value+" after "+a+": "+why[a].Reason()))
	}
	text := "after: [" + strings.Join(scalars(append(has, lacks...)), ", ") + "]"
	switch i := n.Line - 1; {
	case after != nil:
		m.insert(n.Line-1, strings.Repeat(" ", max(0, n.Column-3))+"# proposed instead of the after: that "+remark(name.Value)+" has: "+text)
	case n.Style&yaml.FlowStyle == 0:
		m.insert(n.Line, strings.Repeat(" ", n.Column-1)+text)
	case endOf(n) == n.Line && i < len(m.lines) && flowAlone(m.lines[i], n):
		cut := strings.LastIndexByte(m.lines[i], '}')
		m.lines[i] = m.lines[i][:cut] + ", " + text + m.lines[i][cut:]
	default:
		m.insert(n.Line-1, strings.Repeat(" ", max(0, n.Column-3))+"# proposed for "+remark(name.Value)+": "+text)
	}
}

// flowAlone reports whether a line holds the node as {…} up to its last brace, with no
// comment that has one.
func flowAlone(line string, n *yaml.Node) bool {
	from, to := n.Column-1, strings.LastIndexByte(line, '}')
	if from < 0 || to < from || from >= len(line) || line[from] != '{' {
		return false
	}
	var back yaml.Node
	if yaml.Unmarshal([]byte(line[from:to+1]), &back) != nil || len(back.Content) != 1 {
		return false
	}
	return back.Content[0].Kind == yaml.MappingNode && len(back.Content[0].Content) == len(n.Content)
}

// warnings adds what is not protected at the end, where the file does not say it yet.
func (m *merger) warnings(old string) {
	for _, w := range m.p.graph.Warnings() {
		text := "# NOT PROTECTED: " + remark(w)
		if head, _, _ := strings.Cut(text, " ("); !strings.Contains(old, head) {
			last := len(m.lines)
			if m.lines[last-1] == "" && last > 1 {
				last--
			}
			m.insert(last, text)
		}
	}
}
