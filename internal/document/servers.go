package document

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

type fsType = inventory.Filesystem

func (p *pages) servers() {
	p.section(2, "servers", "Servers").para(t("One after the other."))
	for _, x := range p.e.Servers {
		s := p.section(3, anchor("server", x.Name), x.Name)
		s.page = "servers/" + x.Name + ".md"
		p.state(s, x)
		if x.Inventory == nil {
			s.para(t("It was never looked at" + because(x.Err)))
			continue
		}
		p.facts(s, x)
		p.software(s, x)
		p.storage(s, x)
		p.clock(s, x)
		unknowns(s, x.Inventory)
	}
}

func because(why string) string {
	if why == "" {
		return "."
	}
	return ": " + why
}

// state tells of its copies.
func (p *pages) state(s *section, x Server) {
	if len(x.Drift) > 0 {
		s.add(block{alarm: t(fmt.Sprintf("Not as last proven: %d things changed since the drill of %s, the first of them: %s.", len(x.Drift), day(x.DrillAt), oneLine(x.Drift[0])))})
	}
	switch {
	case x.Drilled && !x.Proven:
		s.add(block{alarm: t("Its newest drill failed: " + x.Cause)})
	case !x.Drilled:
		s.add(block{alarm: t("No copy of it was ever booted: leeward drill " + x.Name)})
	}
	rows := [][]text{
		{t("Reached as"), c(x.Host)},
		{t("Newest recovery point"), join(c(orNone(x.Point)), t(", "+day(x.PointAt)+", "+x.Consistent))},
		{t("Last drill"), t(fmt.Sprintf("%s, of point %s; up in %s", day(x.DrillAt), orNone(x.DrillPoint), span2(x.Proof)))},
	}
	var waits []text
	for _, a := range x.After {
		waits = append(waits, to(a, anchor("server", a)))
	}
	if len(waits) > 0 {
		rows = append(rows, []text{t("Starts after"), list(waits)})
	}
	if len(x.HeldBack) > 0 {
		rows = append(rows, []text{t("Held back in a drill"), t(strings.Join(x.HeldBack, "; "))})
	}
	s.table([]string{"", ""}, rows)
	if len(x.Drift) > 0 {
		s.para(t("Changed since it was last proven:"))
		s.table([]string{"Server", "", "What", "", "Before", "Now"}, changeRows(x.Drift, 40))
	}
}

func oneLine(x discover.Change) string {
	text := fmt.Sprintf("%s %s %s", x.Area, x.Item, x.What)
	if x.What == "changed" {
		text += ", " + x.Before + " to " + x.After
	}
	return text
}

func (p *pages) facts(s *section, x Server) {
	i := x.Inventory
	y := i.System
	rows := [][]text{
		{t("System"), t(fmt.Sprintf("%s, kernel %s, %s, %s", y.OS, y.Kernel, y.Firmware, y.Arch))},
		{t("Machine"), t(fmt.Sprintf("%s %s, %d CPUs (%s), %s of memory", y.Vendor, y.Product, y.CPUs, y.CPU, discover.Bytes(y.Memory)))},
		{t("Name and zone"), t(strings.TrimSuffix(y.Hostname+"."+y.Domain, ".") + ", " + orNone(y.TimeZone))},
		{t("Packages"), t(fmt.Sprint(len(i.Packages)))},
	}
	if w := i.Storage.WrittenPerHour; w >= 0 {
		rows = append(rows, []text{t("Changes"), t("at most " + discover.Bytes(w) + " an hour")})
	}
	for _, u := range i.Users {
		rows = append(rows, []text{t("Can log in"), t(fmt.Sprintf("%s (uid %d, %s, %d ssh keys, password %s)", u.Name, u.UID, u.Shell, u.Keys, orNone(u.Lock)))})
	}
	for _, u := range i.Sudo {
		rows = append(rows, []text{t("Sudo"), t(u.Who + ": " + u.What)})
	}
	for _, f := range i.Network.Firewall {
		rows = append(rows, []text{t("Firewall"), t(fmt.Sprintf("%s, %d rules", f.Kind, f.Rules))})
	}
	s.table([]string{"", ""}, rows)
}

func (p *pages) software(s *section, x Server) {
	i := x.Inventory
	var rows [][]text
	for _, l := range i.Listening {
		if l.Protocol == "tcp" || l.Port < 32768 {
			rows = append(rows, []text{c(fmt.Sprintf("%s %s port %d", l.Protocol, l.Address, l.Port)), t(l.Process), t(l.Unit), t(l.Package)})
		}
	}
	s.table([]string{"Listens at", "Process", "Unit", "Package"}, rows)
	rows = nil
	for _, u := range i.Units {
		if u.Own || u.State == "failed" {
			rows = append(rows, []text{t(u.Name), t(u.State), c(u.Command), c(u.File)})
		}
	}
	s.table([]string{"Units of your own, or failed", "State", "Starts", "File"}, rows)
	rows = nil
	for _, d := range i.Databases {
		size := "not measured"
		if d.Size >= 0 {
			size = discover.Bytes(d.Size)
		}
		rows = append(rows, []text{t(d.Engine + " " + d.Version), c(d.Dir), t(size), t(strings.Join(d.Databases, ", ")), t(strings.Join(d.Replication, "; "))})
	}
	s.table([]string{"Database server", "Directory", "Size", "Databases", "Replication"}, rows)
	rows = nil
	for _, k := range i.Containers {
		rows = append(rows, []text{t(k.Name), t(k.Engine + ", " + k.State), t(k.Image), t(strings.Join(k.Ports, ", ")), t(strings.Join(k.Volumes, ", "))})
	}
	s.table([]string{"Container", "", "Image", "Ports", "Volumes"}, rows)
	rows = nil
	for _, w := range i.Sites {
		rows = append(rows, []text{t(strings.Join(w.Names, " ")), t(w.Server + ": " + strings.Join(w.Listen, ", ")), t(strings.Join(w.Passes, ", ")), c(orNone(w.Root))})
	}
	s.table([]string{"Site", "Served by", "Hands on to", "Files"}, rows)
	rows = nil
	for _, k := range i.Certs {
		rows = append(rows, []text{c(k.File), t(k.Subject), t(strings.Join(append(k.Names, k.Addresses...), ", ")), t(day(k.Until)), t(strings.Join(k.UsedBy, ", "))})
	}
	s.table([]string{"Certificate", "Of", "Names", "Ends", "Shown by"}, rows)
	for _, m := range i.Mail {
		s.para(t(fmt.Sprintf("Mail that waited in %s: %d messages, of them %d deferred.", m.Server, m.Messages, m.Deferred)))
	}
	for _, l := range i.Licences {
		s.add(block{alarm: t("Licence: " + l.File + ": " + l.Why)})
	}
}

func (p *pages) storage(s *section, x Server) {
	var rows [][]text
	for _, f := range x.Inventory.Storage.Filesystems {
		rows = append(rows, []text{c(f.Mount), t(f.Type), t(discover.Bytes(f.Used) + " of " + discover.Bytes(f.Size)), c(f.Device), c(orNone(f.UUID))})
	}
	s.table([]string{"Filesystem", "Type", "Used", "Device", "UUID"}, rows)
	rows = nil
	for _, d := range x.Inventory.Storage.Disks {
		if d.Kind != "loop" {
			rows = append(rows, []text{t(d.Name), t(d.Kind), t(discover.Bytes(d.Size)), t(strings.Join(d.On, ", ")), t(strings.TrimSpace(d.Table + " " + d.Detail + " " + d.Model))})
		}
	}
	s.table([]string{"Device", "Kind", "Size", "On", ""}, rows)
}

// clock lists what runs by the clock: it must not run twice.
func (p *pages) clock(s *section, x Server) {
	var rows [][]text
	for _, j := range x.Inventory.Cron {
		if j.Own {
			rows = append(rows, []text{t(j.When), t(j.User), c(j.Command), c(j.File)})
		}
	}
	for _, j := range x.Inventory.Timers {
		if j.Own && j.Enabled {
			rows = append(rows, []text{t(strings.Join(j.When, ", ")), t(""), t(j.Starts), c(j.Name)})
		}
	}
	s.table([]string{"Runs by the clock", "As", "What", "Where it is set"}, rows)
}

func unknowns(s *section, i *inventory.Server) {
	var items []text
	for _, u := range i.Unknown {
		items = append(items, t("Not known: "+u.What+": "+u.Why))
	}
	if len(items) > 0 {
		s.add(block{items: items})
	}
}

func (p *pages) databases() {
	if len(p.e.Databases) == 0 {
		return
	}
	p.section(2, "databases", "Databases").para(t("Those that are followed by themselves, beside the servers."))
	for _, d := range p.e.Databases {
		s := p.section(3, anchor("database", d.Name), d.Name)
		s.page = "databases/" + d.Name + ".md"
		rows := [][]text{
			{t("Engine"), t(d.Engine)}, {t("Followed"), t(d.Mode)}, {t("At the source"), c(d.Source)}, {t("At the target"), c(d.Target)},
		}
		if d.Server != "" {
			rows = append(rows, []text{t("Is on"), to(d.Server, anchor("server", d.Server))})
		}
		for _, x := range d.Secrets {
			rows = append(rows, []text{t("Password"), c(x)})
		}
		s.table([]string{"", ""}, rows)
		s.add(block{code: p.command("status "+d.Name) + "\n" + p.command("verify "+d.Name)})
	}
}
