package document

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/leeward-dr/leeward/internal/discover"
)

// The drawing is laid out here, in layers: who waits for nobody is at the bottom. D2's
// library was looked at: with its JavaScript engine it would triple what travels to every
// source, for this binary is the agent as well.
const (
	nodeW, nodeH = 148, 54
	gapX, gapY   = 22, 46
	perRow       = 7 // more would be too small to read on paper
	margin       = 24
	titleH       = 34
	targetW      = 236
	smallest     = 17 // height of a replica's chip
)

// node is a server in the drawing.
type node struct {
	name   string
	lines  []string // below the name
	proven string   // yes, no or never
	ghost  bool     // needed, and not protected
	rank   int
	x, y   float64
}

// topology draws both sites: the source with its servers and who needs whom, the target
// with their replicas.
type topology struct {
	nodes map[string]*node
	order []string
	edges []discover.Edge
	left  []string // what is not drawn, and why
	rowOf map[string]int
	lanes []lane // the ways between the nodes of each row
	w, h  float64
}

// drawTopology returns the drawing and what it leaves out.
func drawTopology(e *Edition) (svg string, left []string) {
	p := &topology{nodes: map[string]*node{}}
	p.collect(e)
	p.place()
	return p.svg(e), p.left
}

// maxEdges is how many lines a drawing can have before nobody can follow any.
const maxEdges = 150

func (p *topology) collect(e *Edition) {
	for _, s := range e.Servers {
		p.nodes[s.Name] = &node{name: s.Name, lines: headlines(s), proven: s.proof()}
		p.order = append(p.order, s.Name)
	}
	if e.Graph == nil {
		return
	}
	asks := map[string]map[string]bool{}
	var all []discover.Edge
	for _, x := range e.Graph.Edges {
		if p.nodes[x.From] == nil || x.From == x.To {
			continue
		}
		if asks[x.From] == nil {
			asks[x.From] = map[string]bool{}
		}
		asks[x.From][x.To] = true
		all = append(all, x)
	}
	pairs := map[string]bool{}
	for _, x := range all {
		if key := x.From + "\x00" + x.To; pairs[key] {
			continue
		} else {
			pairs[key] = true
		}
		// One that asks everybody, a monitor or a backup, would hide all else.
		if len(asks[x.From]) > 8 && len(all) > 40 {
			p.leave(fmt.Sprintf("%s asks %d others", x.From, len(asks[x.From])))
			continue
		}
		if asked := askers(all, x.To); asked > 12 && slices.Contains([]int{53, 123, 514, 25, 389}, x.Port) {
			p.leave(fmt.Sprintf("%d servers use %s, port %d", asked, x.To, x.Port))
			continue
		}
		if len(p.edges) >= maxEdges {
			p.leave("more dependencies than a drawing can hold; the table has them all")
			continue
		}
		if p.nodes[x.To] == nil {
			if !slices.ContainsFunc(e.Graph.Unlisted(), func(u discover.Edge) bool { return u.To == x.To }) {
				continue // the world outside
			}
			p.nodes[x.To] = &node{name: x.To, lines: []string{"not protected"}, ghost: true}
			p.order = append(p.order, x.To)
		}
		p.edges = append(p.edges, x)
	}
}

func (p *topology) leave(what string) {
	if !slices.Contains(p.left, what) {
		p.left = append(p.left, what)
	}
}

func askers(edges []discover.Edge, of string) int {
	from := map[string]bool{}
	for _, e := range edges {
		if e.To == of {
			from[e.From] = true
		}
	}
	return len(from)
}

// headlines are the two lines of what a server is, in a few words each.
func headlines(s Server) []string {
	if s.Inventory == nil {
		return []string{"not looked at"}
	}
	var main []string
	for _, d := range s.Inventory.Databases {
		main = append(main, d.Engine)
	}
	for _, x := range discover.Services(s.Inventory) {
		if !strings.HasPrefix(x, "ssh:") && !slices.ContainsFunc(main, func(m string) bool { return strings.HasPrefix(x, m) }) {
			main = append(main, x)
		}
	}
	if len(main) == 0 {
		main = []string{s.Inventory.System.OS}
	}
	return []string{strings.Join(main[:min(2, len(main))], ", ")}
}

// place gives every node its layer and its place in it.
func (p *topology) place() {
	p.rank()
	rows := p.rows()
	p.untangle(rows)
	widest := 0
	for _, r := range rows {
		widest = max(widest, len(r))
	}
	p.w = float64(max(widest, 2)*(nodeW+gapX)-gapX) + 2*margin
	y := float64(titleH + margin)
	p.rowOf = map[string]int{}
	for i, r := range rows {
		p.lanes = append(p.lanes, laneOf(r, p.w, y))
		for _, n := range r {
			p.rowOf[n] = i
		}
		x := (p.w - float64(len(r)*(nodeW+gapX)-gapX)) / 2
		for _, n := range r {
			p.nodes[n].x, p.nodes[n].y = x, y
			x += nodeW + gapX
		}
		y += nodeH + gapY
	}
	p.h = y - gapY + margin
}

// rank is the length of the longest way down from a node; rings are cut where they close.
func (p *topology) rank() {
	next := map[string][]string{}
	for _, e := range p.edges {
		next[e.From] = append(next[e.From], e.To)
	}
	const unseen, open, done = 0, 1, 2
	state := map[string]int{}
	var visit func(n string) int
	visit = func(n string) int {
		if state[n] == done {
			return p.nodes[n].rank
		}
		state[n] = open
		deepest := 0
		for _, m := range next[n] {
			if state[m] != open && p.nodes[m] != nil {
				deepest = max(deepest, visit(m)+1)
			}
		}
		state[n], p.nodes[n].rank = done, deepest
		return deepest
	}
	for _, n := range p.order {
		visit(n)
	}
}

// rows are the layers from the top, those that are too wide in several. Servers without
// any line are at the end.
func (p *topology) rows() (rows [][]string) {
	linked := map[string]bool{}
	top := 0
	for _, e := range p.edges {
		linked[e.From], linked[e.To] = true, true
	}
	for _, n := range p.order {
		top = max(top, p.nodes[n].rank)
	}
	layer := func(want func(n string) bool) {
		var row []string
		for _, n := range p.order {
			if want(n) {
				row = append(row, n)
			}
		}
		for len(row) > 0 {
			lines := (len(row) + perRow - 1) / perRow
			size := (len(row) + lines - 1) / lines
			rows = append(rows, row[:size:size])
			row = row[size:]
		}
	}
	for r := top; r >= 0; r-- {
		layer(func(n string) bool { return linked[n] && p.nodes[n].rank == r })
	}
	layer(func(n string) bool { return !linked[n] })
	return rows
}

// untangle moves nodes within their rows towards those they are linked to.
func (p *topology) untangle(rows [][]string) {
	at := map[string]float64{}
	number := func() {
		for _, r := range rows {
			for i, n := range r {
				at[n] = (float64(i) + 0.5) / float64(len(r))
			}
		}
	}
	number()
	for range 8 {
		for _, r := range rows {
			want := map[string]float64{}
			for _, n := range r {
				sum, k := at[n], 1.0
				for _, e := range p.edges {
					switch n {
					case e.From:
						sum, k = sum+at[e.To], k+1
					case e.To:
						sum, k = sum+at[e.From], k+1
					}
				}
				want[n] = sum / k
			}
			slices.SortStableFunc(r, func(a, b string) int { return cmp.Compare(want[a], want[b]) })
		}
		number()
	}
}

// shorten cuts s to n characters, and marks that it did.
func shorten(s string, n int) string {
	if s = plainText(s); utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

func (p *topology) svg(e *Edition) string {
	var b strings.Builder
	full := p.w + gapX*4 + targetW
	height := max(p.h, float64(190+(len(e.Servers)+len(e.Databases)+1)/2*smallest))
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" height=\"%.0f\" role=\"img\" font-family=\"system-ui, DejaVu Sans, sans-serif\">\n", full+4, height+4, full+4, height+4)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape("Who needs whom in "+e.Estate))
	b.WriteString("<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#5b6b7b\"/></marker></defs>\n")
	site(&b, 2, 2, p.w, height, e.Source+": the source", "#f5f7f9")
	for _, x := range p.edges {
		p.edge(&b, x)
	}
	for _, n := range p.order {
		p.nodes[n].svg(&b)
	}
	p.target(&b, e, p.w+gapX*4, height)
	b.WriteString("</svg>\n")
	return b.String()
}

func site(b *strings.Builder, x, y, w, h float64, title, fill string) {
	fmt.Fprintf(b, "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" rx=\"10\" fill=\"%s\" stroke=\"#9aa8b5\"/>\n", x, y, w, h, fill)
	fmt.Fprintf(b, "<text x=\"%.0f\" y=\"%.0f\" font-size=\"16\" font-weight=\"700\" fill=\"#1c2733\">%s</text>\n", x+14, y+25, escape(shorten(title, int(w/9.5))))
}

// lane is where lines can pass a row: between its nodes, and beside them.
type lane struct {
	y    float64
	at   []float64
	used []int
}

func laneOf(row []string, width, y float64) lane {
	l := lane{y: y}
	x := (width-float64(len(row)*(nodeW+gapX)-gapX))/2 - gapX/2
	for range len(row) + 1 {
		l.at = append(l.at, x)
		x += nodeW + gapX
	}
	l.used = make([]int, len(l.at))
	return l
}

// pass finds the way through a row that is nearest to x; lines that take the same one lie
// beside each other.
func (l *lane) pass(x float64) float64 {
	best := 0
	for i, at := range l.at {
		if math.Abs(at-x) < math.Abs(l.at[best]-x) {
			best = i
		}
	}
	k := l.used[best]
	l.used[best]++
	return l.at[best] + float64([]int{0, -4, 4, -8, 8}[k%5])
}

// edge is a line from who asks to who answers.
func (p *topology) edge(b *strings.Builder, x discover.Edge) {
	f, to := p.nodes[x.From], p.nodes[x.To]
	dash, colour := "", "#5b6b7b"
	if x.Seen == 0 {
		dash = " stroke-dasharray=\"5 4\""
	}
	if to.ghost {
		colour = "#b3261e"
	}
	fmt.Fprintf(b, "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.4\" stroke-opacity=\".8\" marker-end=\"url(#tip)\"%s><title>%s</title></path>\n",
		p.way(f, to), colour, dash, escape(x.From+" needs "+discover.At(x)+": "+x.Reason()))
}

// way is the path of a line: down, past the rows between; beside or up, straight.
func (p *topology) way(f, to *node) string {
	x1, x2 := f.x+nodeW/2, to.x+nodeW/2
	if to.y == f.y {
		return curve(x1, f.y, x2, to.y-1, -30, -30)
	}
	if to.y < f.y {
		bend := (f.y - to.y) / 2
		return curve(x1, f.y, x2, to.y+nodeH+1, -bend, bend)
	}
	x, y := x1, f.y+nodeH
	path := ""
	for r := p.rowOf[f.name] + 1; r < p.rowOf[to.name]; r++ {
		l := &p.lanes[r]
		share := (l.y - f.y) / (to.y - f.y)
		gap := l.pass(x1 + (x2-x1)*share)
		path += curve(x, y, gap, l.y-4, gapY/2, -gapY/2) + fmt.Sprintf("L%.1f %.1f", gap, l.y+nodeH+4)
		x, y = gap, l.y+nodeH+4
	}
	return path + curve(x, y, x2, to.y-1, gapY/2, -gapY/2)
}

// curve leads from one point to another, leaving and coming vertically.
func curve(x1, y1, x2, y2, out, in float64) string {
	return fmt.Sprintf("M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f", x1, y1, x1, y1+out, x2, y2+in, x2, y2)
}

// proofColours tell at a glance which copies were proven.
var proofColours = map[string]string{"yes": "#2e7d4f", "no": "#b3261e", "never": "#9aa8b5"}

func (n *node) svg(b *strings.Builder) {
	stroke, dash := "#3f5366", ""
	if n.ghost {
		stroke, dash = "#b3261e", " stroke-dasharray=\"6 4\""
	}
	fmt.Fprintf(b, "<g><title>%s</title><rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%d\" rx=\"7\" fill=\"#fff\" stroke=\"%s\" stroke-width=\"1.4\"%s/>\n",
		escape(n.name+": "+strings.Join(n.lines, "; ")), n.x, n.y, nodeW, nodeH, stroke, dash)
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"14\" font-weight=\"700\" text-anchor=\"middle\" fill=\"#1c2733\">%s</text>\n", n.x+nodeW/2, n.y+23, escape(shorten(n.name, 16)))
	for i, l := range n.lines[:min(1, len(n.lines))] {
		fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11.5\" text-anchor=\"middle\" fill=\"#5b6b7b\">%s</text>\n", n.x+nodeW/2, n.y+41+float64(i)*14, escape(shorten(l, 22)))
	}
	b.WriteString("</g>\n")
}

// target is the other site: each replica is a chip, coloured by whether it was proven.
func (p *topology) target(b *strings.Builder, e *Edition, x, height float64) {
	site(b, x, 2, targetW, height, e.Target+": the target", "#eef3ee")
	y := float64(titleH + margin)
	fmt.Fprintf(b, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"#2e7d4f\" stroke-width=\"3\" marker-end=\"url(#tip)\"/>\n", p.w+6, y+22, x-4, y+22)
	fmt.Fprintf(b, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11.5\" text-anchor=\"middle\" fill=\"#2e7d4f\">copies</text>\n", p.w+gapX*2, y+12)
	count := map[string]int{}
	for _, s := range e.Servers {
		count[s.proof()]++
	}
	for _, l := range []struct{ proof, text string }{{"yes", "proven by a drill"}, {"no", "NOT proven: its drill failed"}, {"never", "never drilled"}} {
		fmt.Fprintf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"11\" height=\"11\" rx=\"2\" fill=\"%s\"/><text x=\"%.1f\" y=\"%.1f\" font-size=\"12\" fill=\"#1c2733\">%d %s</text>\n",
			x+14, y, proofColours[l.proof], x+32, y+10, count[l.proof], l.text)
		y += 20
	}
	y += 8
	columns, chip := 2, float64(targetW-28-8)/2
	room := height - y - 40
	size := math.Min(24, math.Max(smallest, room/math.Ceil(float64(len(e.Servers)+len(e.Databases))/float64(columns))))
	i := 0
	put := func(name, colour string) {
		cx, cy := x+14+float64(i%columns)*(chip+8), y+float64(i/columns)*size
		fmt.Fprintf(b, "<g><title>%s</title><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" rx=\"3\" fill=\"#fff\" stroke=\"%s\" stroke-width=\"1.5\"/><text x=\"%.1f\" y=\"%.1f\" font-size=\"%.1f\" fill=\"#1c2733\">%s</text></g>\n",
			escape(name), cx, cy, chip, size-3, colour, cx+6, cy+size-3-(size-3)*0.28, math.Min(12, size*0.56), escape(shorten(name, 13)))
		i++
	}
	for _, s := range e.Servers {
		put(s.Name, proofColours[s.proof()])
	}
	for _, d := range e.Databases {
		put(d.Name, "#0b5394")
	}
}
