package document

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/discover"
)

// compose writes the sections in the order of need: what is wrong, what there is, what to
// do, and the details last.
func compose(e *Edition, svg string, left []string) []*section {
	p := &pages{e: e}
	p.cover()
	p.overview(svg, left)
	p.order()
	p.copied()
	p.network()
	p.dependencies()
	p.people()
	for _, x := range e.Procedures {
		p.procedure(x)
	}
	p.bare()
	p.checklist()
	p.changes()
	p.servers()
	p.databases()
	return p.out
}

type pages struct {
	e   *Edition
	out []*section
}

func (p *pages) section(level int, id, title string) *section {
	s := &section{id: id, title: title, level: level}
	p.out = append(p.out, s)
	return s
}

func day(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

func span2(d time.Duration) string {
	if d <= 0 {
		return "not measured"
	}
	return d.Round(time.Second).String()
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (p *pages) cover() {
	e := p.e
	s := p.section(1, "top", e.Estate+": how to recover it")
	s.para(t(fmt.Sprintf("%s is protected at %s. This edition is of %s, written by Leeward %s from %s, the store and the inventory of %s.",
		e.Source, e.Target, day(e.At), e.Version, e.File, day(e.Looked))))
	for _, a := range e.Alarms {
		s.add(block{alarm: t(a)})
	}
	if len(e.Alarms) == 0 {
		s.para(t("Every server is as it was when its copy was last proven."))
	}
	s.para(t("In a hurry: "), p.hurry())
}

// hurry leads to what is needed first.
func (p *pages) hurry() (all text) {
	links := []text{}
	for _, x := range p.e.Procedures {
		links = append(links, to(x.Kind, anchor("procedure", x.Kind)))
	}
	links = append(links, to("without Leeward", "bare"), to("the checklist", "checklist"), to("whom to call", "people"))
	return join(list(links), t("."))
}

func (p *pages) overview(svg string, left []string) {
	e := p.e
	s := p.section(2, "overview", "Overview")
	s.para(t(fmt.Sprintf("%s, and %s followed by themselves. Lines go from who needs something to who has it; dashed ones were not seen in use, only named in a configuration.", count(len(e.Servers), "server"), count(len(e.Databases), "database"))))
	s.add(block{figure: &figure{file: topologyFile, title: "Who needs whom", svg: svg}})
	if len(left) > 0 {
		s.para(t("Not drawn: " + strings.Join(left, "; ") + "."))
	}
	var rows [][]text
	for _, x := range e.Servers {
		proof := "never drilled"
		switch {
		case x.Drilled && x.Proven:
			proof = "proven " + day(x.DrillAt)
		case x.Drilled:
			proof = "NOT PROVEN: " + x.Cause
		}
		what := "not looked at"
		if x.Inventory != nil {
			what = cmp.Or(strings.Join(discover.Services(x.Inventory), ", "), x.Inventory.System.OS)
		}
		rows = append(rows, []text{to(x.Name, anchor("server", x.Name)), t(what), t(day(x.PointAt)), t(proof), t(span2(x.Proof))})
	}
	s.table([]string{"Server", "What it does", "Newest recovery point", "Last drill", "Up in"}, rows)
	rows = nil
	for _, d := range e.Databases {
		rows = append(rows, []text{to(d.Name, anchor("database", d.Name)), t(d.Engine + ", " + d.Mode), t(d.Source), t(d.Target)})
	}
	s.table([]string{"Database", "How it is followed", "From", "To"}, rows)
}

func (p *pages) order() {
	s := p.section(2, "order", "Start order")
	s.para(t("Start from the top; each waits until those it names answer."))
	var rows [][]text
	after := map[string][]string{}
	for _, x := range p.e.Servers {
		after[x.Name] = x.After
	}
	for i, name := range startOrder(p.e.Servers) {
		var waits []text
		for _, a := range after[name] {
			waits = append(waits, to(a, anchor("server", a)))
		}
		why := t("")
		for _, n := range p.e.Needs {
			if n.Server != name {
				continue
			}
			var lacks []string
			for _, a := range n.After {
				if !slices.Contains(after[name], a) {
					lacks = append(lacks, a)
				}
			}
			if len(lacks) > 0 {
				why = t("It was seen to need " + strings.Join(lacks, ", ") + " too, which leeward.yaml does not say.")
			}
		}
		rows = append(rows, []text{t(fmt.Sprint(i + 1)), to(name, anchor("server", name)), list(waits), why})
	}
	s.table([]string{"", "Server", "Waits for", "Remark"}, rows)
	rows = nil
	for _, g := range p.e.Groups {
		rows = append(rows, []text{t(g.Name), t(strings.Join(g.Order, ", then ")), t(objective(g.RPO)), t(objective(g.RTO))})
	}
	s.table([]string{"Group", "Order", "May lose at most", "Must be up within"}, rows)
}

func objective(d time.Duration) string {
	if d == 0 {
		return "not said"
	}
	return d.String()
}

// startOrder puts servers behind those they wait for.
func startOrder(servers []Server) (out []string) {
	by := map[string]Server{}
	for _, s := range servers {
		by[s.Name] = s
	}
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		for _, a := range by[name].After {
			if _, ok := by[a]; ok {
				visit(a)
			}
		}
		out = append(out, name)
	}
	for _, s := range servers {
		visit(s.Name)
	}
	return out
}

func (p *pages) copied() {
	s := p.section(2, "copied", "What is copied, and what is not")
	var rows [][]text
	for _, x := range p.e.Servers {
		if x.Inventory == nil {
			rows = append(rows, []text{to(x.Name, anchor("server", x.Name)), t("not known: it was not looked at"), t(""), t(strings.Join(x.Excludes, ", "))})
			continue
		}
		var fs []string
		for _, f := range x.Inventory.Storage.Filesystems {
			fs = append(fs, fmt.Sprintf("%s (%s, %s)", f.Mount, f.Type, discover.Bytes(f.Used)))
		}
		var not []string
		for _, m := range x.Inventory.Storage.Mounts {
			if !slices.ContainsFunc(x.Inventory.Storage.Filesystems, func(f fsType) bool { return f.Device == m.Device || f.Mount == m.At }) && !strings.HasPrefix(m.Device, "/dev/loop") {
				not = append(not, fmt.Sprintf("%s (%s from %s)", m.At, m.Type, m.Device))
			}
		}
		rows = append(rows, []text{to(x.Name, anchor("server", x.Name)), t(strings.Join(fs, ", ")), t(strings.Join(not, ", ")), t(strings.Join(x.Excludes, ", "))})
	}
	s.table([]string{"Server", "Filesystems that are copied", "Mounts that are not", "Left out by leeward.yaml"}, rows)
	if len(p.e.NotCopied) > 0 {
		s.para(t("Of no server: "), c(strings.Join(p.e.NotCopied, " ")), t(". They are of use to one running system only."))
	}
	for _, w := range p.warnings() {
		s.add(block{alarm: t(w)})
	}
}

func (p *pages) warnings() []string {
	if p.e.Graph == nil {
		return nil
	}
	return p.e.Graph.Warnings()
}

func (p *pages) network() {
	s := p.section(2, "network", "Network")
	var rows [][]text
	for _, n := range p.e.Networks {
		rows = append(rows, []text{c(n[0]), c(n[1])})
	}
	if len(rows) == 0 {
		s.para(t("leeward.yaml maps no network: servers keep their addresses at the target."))
	}
	s.table([]string{"Network at the source", "stands at the target as"}, rows)
	rows = nil
	for _, x := range p.e.Servers {
		if x.Inventory == nil {
			continue
		}
		n := x.Inventory.Network
		for _, i := range n.Interfaces {
			if i.Virtual || len(i.Addresses) == 0 {
				continue
			}
			rows = append(rows, []text{to(x.Name, anchor("server", x.Name)), t(i.Name), c(strings.Join(i.Addresses, " ")), c(cmp.Or(strings.Join(x.Address, " "), "the same")), t(strings.Join(n.Resolvers, ", "))})
		}
	}
	s.table([]string{"Server", "Interface", "Addresses", "At the target", "Resolves names at"}, rows)
	for _, r := range p.e.Redirects {
		s.para(t("Clients are led over by " + r + "."))
	}
}

func (p *pages) dependencies() {
	s := p.section(2, "dependencies", "Who needs whom")
	if p.e.Graph == nil {
		s.para(t("Not known: there is no inventory. leeward discover makes one."))
		return
	}
	var rows [][]text
	known := map[string]bool{}
	for _, x := range p.e.Servers {
		known[x.Name] = true
	}
	for _, x := range p.e.Graph.Edges {
		target := t(discover.At(x))
		if known[x.To] {
			target = to(discover.At(x), anchor("server", x.To))
		}
		rows = append(rows, []text{to(x.From, anchor("server", x.From)), target, t(x.Service), t(strings.Join(x.Evidence[:min(4, len(x.Evidence))], "; "))})
	}
	s.table([]string{"Server", "needs", "what answers there", "How that is known"}, rows)
	rows = nil
	for _, x := range p.e.Graph.Clients[:min(200, len(p.e.Graph.Clients))] {
		rows = append(rows, []text{t(x.Address), t(fmt.Sprintf("%s:%d", x.Server, x.Port)), t(x.Service), t(fmt.Sprint(x.Seen))})
	}
	s.table([]string{"Client from outside", "calls", "Service", "Connections seen"}, rows)
	s.para(t("What was not in use while the servers were watched is missing here."))
}

func (p *pages) people() {
	s := p.section(2, "people", "Whom to call, and where the keys are")
	var rows [][]text
	for _, x := range p.e.Contacts {
		phone, mail := t(x.Phone), t(x.Mail)
		if x.Phone != "" {
			phone = to(x.Phone, "tel:"+strings.Map(func(r rune) rune {
				if r >= '0' && r <= '9' || r == '+' {
					return r
				}
				return -1
			}, x.Phone))
		}
		if x.Mail != "" {
			mail = to(x.Mail, "mailto:"+x.Mail)
		}
		rows = append(rows, []text{t(x.Name), t(x.Role), phone, mail})
	}
	s.table([]string{"Name", "Role", "Phone", "Mail"}, rows)
	if len(rows) == 0 {
		s.add(block{alarm: t("Nobody is named. Write contacts: into leeward.yaml.")})
	}
	rows = nil
	for _, x := range p.e.Credentials {
		rows = append(rows, []text{t(x.For), c(x.Where)})
	}
	s.table([]string{"Secret", "Where it is kept"}, rows)
	s.para(t("No secret is in this document. See that those places are there when the source is not."))
}

func (p *pages) changes() {
	s := p.section(2, "changes", "What changed")
	switch {
	case p.e.Previous.IsZero():
		s.para(t("This is the first edition here."))
		return
	case len(p.e.Changes) == 0:
		s.para(t("Nothing that was looked at since the edition of " + day(p.e.Previous) + "."))
		return
	}
	s.para(t("Since the edition of " + day(p.e.Previous) + ":"))
	s.table([]string{"Server", "", "What", "", "Before", "Now"}, changeRows(p.e.Changes, 300))
}

func changeRows(changes []discover.Change, most int) (rows [][]text) {
	for _, x := range changes[:min(most, len(changes))] {
		rows = append(rows, []text{t(x.Server), t(x.What), t(x.Area), t(x.Item), t(x.Before), t(x.After)})
	}
	if n := len(changes) - most; n > 0 {
		rows = append(rows, []text{t(""), t(""), t(fmt.Sprintf("and %d more", n)), t(""), t(""), t("")})
	}
	return rows
}
