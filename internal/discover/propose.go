package discover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// Wishes are what a proposal cannot find out.
type Wishes struct {
	Source, Target string // names of the sites
	Store          string
	SSHConfig      string
	Accelerator    string
}

// Propose writes a leeward.yaml of what was found, with the reasons as comments. Servers
// that could not be looked at are in it too: they are no less worth protecting.
func Propose(e *inventory.Estate, g *Graph, w Wishes) string {
	p := &proposal{estate: e, graph: g, needs: g.Order()}
	p.line("# Proposed by leeward init on %s. What stands behind # is what was seen; the rest is yours to change.", e.At.Format("2006-01-02 15:04 MST"))
	p.line("estate: %s", scalar(e.Estate))
	p.line("source:")
	p.line("  name: %s", scalar(w.Source))
	if w.SSHConfig != "" {
		p.line("  ssh: {config: %s}", scalar(w.SSHConfig))
	}
	p.line("target:")
	p.line("  name: %s", scalar(w.Target))
	p.line("  store: %s  # needs about %s for the first copies; points come on top", scalar(w.Store), Bytes(used(e)))
	p.line("  hypervisor: qemu")
	p.line("  accelerator: %s", scalar(w.Accelerator))
	for _, n := range Networks(e) {
		p.line("  # network: {map: {%s: A NETWORK OF THE SAME SIZE AT THE TARGET}}", n)
	}
	p.line("servers:")
	for _, x := range e.Entries {
		p.server(x)
	}
	p.groups()
	p.databases()
	p.remarks()
	return p.String()
}

type proposal struct {
	strings.Builder
	estate *inventory.Estate
	graph  *Graph
	needs  []Needs
}

func (p *proposal) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// scalar writes s so that YAML reads it back as the text it is.
func scalar(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	b, err := yaml.Marshal(s)
	text := strings.TrimRight(string(b), "\n")
	var back any
	if err == nil && !strings.ContainsAny(text, "\n#,[]{}") && yaml.Unmarshal([]byte(text), &back) == nil && back == s {
		return text
	}
	q, err := json.Marshal(s) // JSON is YAML
	if err != nil {
		return `""`
	}
	return string(q)
}

// remark makes text from a host fit for a comment: one line, nothing that a terminal or a
// reader of YAML would take for more than text.
func remark(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' || r == unicode.ReplacementChar || r == '\ufeff' {
			return '·'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 160 {
		s = string(r[:159]) + "…"
	}
	return s
}

func (p *proposal) server(x inventory.Entry) {
	for _, why := range p.about(x) {
		p.line("  # %s", remark(why))
	}
	p.line("  - %s", serverFlow(x, p.needsOf(x.Name).After))
}

// serverFlow is a server as one line of YAML.
func serverFlow(x inventory.Entry, after []string) string {
	s := fmt.Sprintf("{name: %s, host: %s", scalar(x.Name), scalar(x.Host))
	if x.User != "" {
		s += fmt.Sprintf(", ssh: {user: %s}", scalar(x.User))
	}
	if len(after) > 0 {
		s += ", after: [" + strings.Join(scalars(after), ", ") + "]"
	}
	return s + "}"
}

func scalars(names []string) (out []string) {
	for _, n := range names {
		out = append(out, scalar(n))
	}
	return out
}

func (p *proposal) needsOf(name string) Needs {
	for _, n := range p.needs {
		if n.Server == name {
			return n
		}
	}
	return Needs{}
}

// about says in a few lines what a server is, and why it waits for others.
func (p *proposal) about(x inventory.Entry) (out []string) {
	if x.Server == nil {
		return []string{fmt.Sprintf("%s could not be looked at: %s", x.Name, x.Err)}
	}
	s := x.Server
	out = append(out, fmt.Sprintf("%s: %s, %s, %d CPUs, %s of memory, %s used", x.Name, s.System.OS, s.System.Firmware, s.System.CPUs,
		Bytes(s.System.Memory), Bytes(usedBy(s))))
	if services := Services(s); len(services) > 0 {
		out = append(out, "  serves "+strings.Join(services, ", "))
	}
	n := p.needsOf(x.Name)
	for _, to := range n.After {
		out = append(out, "  after "+to+": "+n.Why[to].Reason())
	}
	for _, to := range n.Ring {
		out = append(out, "  needs "+to+", which needs it as well, so that neither waits: "+n.Why[to].Reason())
	}
	return out
}

// Reason says in words what an edge rests on.
func (e Edge) Reason() string {
	what := e.Service
	if e.Port != 0 {
		what = strings.TrimSpace(fmt.Sprintf("%s at port %d", what, e.Port))
	}
	if what != "" {
		what += ": "
	}
	return what + strings.Join(e.Evidence[:min(3, len(e.Evidence))], "; ")
}

// Services names what a server offers to others: unit or process, and port.
func Services(s *inventory.Server) (out []string) {
	for _, l := range s.Listening {
		name := strings.TrimSuffix(l.Unit, ".service")
		if name == "" {
			name = l.Process
		}
		if name == "" {
			name = "?" // whose it is could not be seen
		}
		if l.Loopback() || l.Protocol == "udp" && l.Port >= 32768 {
			continue
		}
		if text := fmt.Sprintf("%s:%d", name, l.Port); !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return out
}

func (p *proposal) groups() {
	groups := p.graph.Groups(p.needs)
	names := map[string]bool{}
	for _, x := range p.estate.Entries {
		names[x.Name] = true
	}
	first := true
	for _, g := range groups {
		if names[g.Name] {
			continue // a server has that name
		}
		if first {
			p.line("groups:")
			first = false
		}
		p.line("  # %s", remark(g.Why))
		p.line("  - {name: %s, order: [%s]}", scalar(g.Name), strings.Join(scalars(g.Order), ", "))
	}
}

// databases proposes to replicate databases by themselves, as comments: accounts and
// passwords are a person's to give.
func (p *proposal) databases() {
	first := true
	for _, x := range p.estate.Entries {
		if x.Server == nil {
			continue
		}
		for _, d := range x.Server.Databases {
			scheme := map[string]string{"postgres": "postgres", "mariadb": "mariadb", "mysql": "mariadb", "mssql": "sqlserver"}[d.Engine]
			for _, name := range d.Databases {
				if scheme == "" || name == "postgres" {
					continue
				}
				if first {
					p.line("# Databases that can be followed row by row, with an account for Leeward (docs/databases.md):")
					p.line("# databases:")
					first = false
				}
				p.line("#   - name: %s-%s", fitName(x.Name), remark(fitName(name)))
				p.line("#     engine: %s", scalar(engineName(d.Engine)))
				p.line("#     source: {dsn: %s, password_file: FILE}", remark(scalar(fmt.Sprintf("%s://USER@%s:%d/%s", scheme, addressOf(x), d.Port, name))))
				p.line("#     target: {dsn: %s, password_file: FILE}", scalar(scheme+"://USER@HOST/NAME"))
			}
		}
	}
}

func engineName(s string) string {
	if s == "mysql" {
		return "mariadb"
	}
	return s
}

func addressOf(x inventory.Entry) string {
	if x.Server != nil {
		for _, a := range addresses(x.Server) {
			if a.Is4() {
				return a.String()
			}
		}
	}
	return x.Host
}

// remarks names what is needed and not protected, and what is not known.
func (p *proposal) remarks() {
	for _, text := range p.graph.Warnings() {
		p.line("# NOT PROTECTED: %s", remark(text))
	}
}

// Warnings says which hosts are depended upon and are in no inventory.
func (g *Graph) Warnings() (out []string) {
	for _, e := range g.Unlisted() {
		at := e.To
		if e.Port != 0 {
			at = joinPort(e.To, e.Port)
		}
		verb := "names"
		if e.Seen > 0 {
			verb = "talks to"
		}
		out = append(out, fmt.Sprintf("%s %s %s, which is not protected (%s)", e.From, verb, at, strings.Join(e.Evidence[:min(2, len(e.Evidence))], "; ")))
	}
	return out
}

// Networks are the source's own: those of interfaces with a server's address.
func Networks(e *inventory.Estate) (out []string) {
	for _, x := range e.Entries {
		if x.Server == nil {
			continue
		}
		own := addresses(x.Server)
		for _, i := range x.Server.Network.Interfaces {
			for _, a := range i.Addresses {
				if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() && slices.Contains(own, p.Addr()) && p.Bits() < 32 {
					out = append(out, p.Masked().String())
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func used(e *inventory.Estate) (sum int64) {
	for _, x := range e.Entries {
		if x.Server != nil {
			sum += usedBy(x.Server)
		}
	}
	return sum
}

func usedBy(s *inventory.Server) (sum int64) {
	for _, f := range s.Storage.Filesystems {
		sum += f.Used
	}
	return sum
}

// Bytes writes bytes in decimal units.
func Bytes(n int64) string {
	f, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	if unit == "B" || f >= 100 {
		return fmt.Sprintf("%.0f %s", f, unit)
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// joinPort writes an address with a port.
func joinPort(address string, port int) string {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	return fmt.Sprintf("%s:%d", address, port)
}

// Summary says in a line what a server is.
func Summary(s *inventory.Server) string {
	text := fmt.Sprintf("%s, kernel %s, %s, %d CPUs, %s of memory, %s used", s.System.OS, s.System.Kernel, s.System.Firmware, s.System.CPUs,
		Bytes(s.System.Memory), Bytes(usedBy(s)))
	if n := s.Storage.WrittenPerHour; n >= 0 {
		text += ", at most " + Bytes(n) + " changed an hour"
	}
	for _, d := range s.Databases {
		text += ", " + d.Engine
		if d.Size >= 0 {
			text += " of " + Bytes(d.Size)
		}
	}
	return text
}

// At is where an edge leads.
func At(e Edge) string {
	if e.Port == 0 {
		return e.To
	}
	return joinPort(e.To, e.Port) + either(e.Protocol == "udp", "/udp", "")
}
