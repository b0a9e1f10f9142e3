package discover

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// Change is one difference between two inventories.
type Change struct {
	Server string `json:"server"`
	Area   string `json:"area"` // package, unit, listener …
	What   string `json:"what"` // added, removed, changed, unknown
	Item   string `json:"item"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// Drift lists what changed from one inventory to the next. What one of them could not look
// at is told as unknown, not as gone.
func Drift(a, b *inventory.Estate) (out []Change) {
	before, after := entries(a), entries(b)
	names := slices.Sorted(func(yield func(string) bool) {
		for n := range before {
			if !yield(n) {
				return
			}
		}
		for n := range after {
			if _, both := before[n]; !both && !yield(n) {
				return
			}
		}
	})
	for _, n := range names {
		x, okX := before[n]
		y, okY := after[n]
		switch {
		case !okX:
			out = append(out, Change{Server: n, Area: "server", What: "added", Item: y.Host})
		case !okY:
			out = append(out, Change{Server: n, Area: "server", What: "removed", Item: x.Host})
		case y.Server == nil:
			out = append(out, Change{Server: n, Area: "server", What: "unknown", Item: y.Host, After: y.Err})
		case x.Server == nil:
			out = append(out, Change{Server: n, Area: "server", What: "unknown", Item: x.Host, Before: x.Err})
		default:
			out = append(out, driftOf(n, x.Server, y.Server)...)
		}
	}
	return append(out, newEdges(a, b)...)
}

func entries(e *inventory.Estate) map[string]inventory.Entry {
	m := map[string]inventory.Entry{}
	for _, x := range e.Entries {
		m[x.Name] = x
	}
	return m
}

// fact is one thing that is or is not in an inventory.
type fact struct{ area, item string }

func driftOf(server string, a, b *inventory.Server) (out []Change) {
	x, y := flatten(a), flatten(b)
	lost := blind(b)
	for k, v := range x {
		w, ok := y[k]
		switch {
		case !ok && lost[k.area]:
			out = append(out, Change{server, k.area, "unknown", k.item, v, ""})
		case !ok:
			out = append(out, Change{server, k.area, "removed", k.item, v, ""})
		case v != w:
			out = append(out, Change{server, k.area, "changed", k.item, v, w})
		}
	}
	was := blind(a)
	for k, w := range y {
		if _, ok := x[k]; !ok && !was[k.area] {
			out = append(out, Change{server, k.area, "added", k.item, "", w})
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Area, b.Area), strings.Compare(a.Item, b.Item))
	})
	return out
}

// blind are the areas of which an inventory says that it could not see them.
func blind(s *inventory.Server) map[string]bool {
	m := map[string]bool{}
	for _, u := range s.Unknown {
		for key, areas := range map[string][]string{"packages": {"package"}, "which units run": {"unit state"}, "services": {"unit"},
			"listening sockets": {"listener"}, "firewall": {"firewall"}, "users": {"user"}, "disks": {"disk"}, "crontabs": {"cron job"},
			"not root": {"user", "cron job", "sudo", "certificate"}, "processes": {"listener"}, "mounts": {"mount"}, "certificate": {"certificate"}} {
			if strings.HasPrefix(u.What, key) || strings.Contains(u.Why, key) {
				for _, a := range areas {
					m[a] = true
				}
			}
		}
	}
	return m
}

// flatten turns an inventory into facts that keep their names from one look to the next.
// What changes by itself, processes, sizes and connections, is left out.
func flatten(s *inventory.Server) map[fact]string {
	m := map[fact]string{}
	flattenSystem(s, m)
	for _, p := range s.Packages {
		m[fact{"package", p.Name + ":" + p.Arch + " " + kernelOf(p)}] = p.Version
	}
	for _, u := range s.Units {
		m[fact{"unit", u.Name}] = fmt.Sprintf("%s %s", either(u.Enabled, "enabled", "not enabled"), u.Command)
		if u.State == "failed" || u.State == "active" {
			m[fact{"unit state", u.Name}] = u.State
		}
	}
	for _, t := range s.Timers {
		m[fact{"timer", t.Name}] = fmt.Sprintf("%s, starts %s, %s", strings.Join(t.When, ", "), t.Starts, either(t.Enabled, "enabled", "not enabled"))
	}
	for _, c := range s.Cron {
		m[fact{"cron job", fmt.Sprintf("%s: %s", c.File, c.Command)}] = c.When + " as " + c.User
	}
	for _, c := range s.Containers {
		m[fact{"container", c.Name}] = c.Image + ", " + c.State
	}
	for _, l := range s.Listening {
		if l.Protocol == "tcp" || l.Port < 32768 {
			m[fact{"listener", fmt.Sprintf("%s %s", l.Protocol, joinPort(l.Address, l.Port))}] = cmp.Or(l.Unit, l.Process)
		}
	}
	for _, d := range s.Databases {
		m[fact{"database server", d.Engine + " in " + d.Dir}] = fmt.Sprintf("%s, %s", d.Version, encode(d.Settings))
		for _, n := range d.Databases {
			m[fact{"database", d.Engine + " " + n}] = ""
		}
	}
	for _, c := range s.Certs {
		m[fact{"certificate", c.File}] = fmt.Sprintf("%s until %s", c.Subject, c.Until.Format("2006-01-02"))
	}
	for _, x := range s.Sites {
		m[fact{"site", x.File + " " + strings.Join(x.Names, " ") + " " + strings.Join(x.Listen, " ")}] = encode(x)
	}
	for _, x := range s.Mentions {
		m[fact{"address in configuration", x.File + " " + joinPort(x.What, x.Port)}] = ""
	}
	return m
}

func flattenSystem(s *inventory.Server, m map[fact]string) {
	y := s.System
	for k, v := range map[string]string{"hostname": y.Hostname, "system": y.OS, "running kernel": y.Kernel, "firmware": y.Firmware,
		"CPUs": fmt.Sprint(y.CPUs), "CPU": y.CPU, "memory": Bytes(y.Memory), "machine": y.Vendor + " " + y.Product, "time zone": y.TimeZone, "machine-id": y.MachineID} {
		m[fact{"system", k}] = v
	}
	for _, u := range s.Users {
		m[fact{"user", u.Name}] = fmt.Sprintf("uid %d, %s, %d keys, password %s", u.UID, u.Shell, u.Keys, cmp.Or(u.Lock, "unknown"))
	}
	for _, r := range s.Sudo {
		m[fact{"sudo", r.Who + " " + r.What}] = r.File
	}
	for _, d := range s.Storage.Disks {
		if d.Kind == "loop" {
			continue // snaps, images of somebody's: they come and go
		}
		m[fact{"disk", d.Name}] = fmt.Sprintf("%s, %s %s", d.Kind, Bytes(d.Size), d.Detail)
	}
	for _, f := range s.Storage.Filesystems {
		m[fact{"filesystem", f.Mount}] = fmt.Sprintf("%s, %s", f.Type, f.UUID)
	}
	for _, f := range s.Storage.Fstab {
		m[fact{"fstab", f.Device + " " + f.Mount}] = f.Type + " " + f.Options
	}
	for _, i := range s.Network.Interfaces {
		if !i.Virtual {
			m[fact{"interface", i.Name}] = i.MAC + " " + strings.Join(i.Addresses, " ")
		}
	}
	for _, r := range s.Network.Routes {
		m[fact{"route", r.To + " " + r.Dev}] = r.Via
	}
	m[fact{"system", "resolvers"}] = strings.Join(s.Network.Resolvers, " ")
	for _, h := range s.Network.Hosts {
		m[fact{"hosts entry", h.Address + " " + strings.Join(h.Names, " ")}] = ""
	}
	for _, f := range s.Network.Firewall {
		m[fact{"firewall", f.Kind}] = fmt.Sprintf("%d rules, %s", f.Rules, f.Digest)
	}
}

// kernelOf keeps packages apart of which several versions are installed at once.
func kernelOf(p inventory.Package) string {
	if strings.HasPrefix(p.Name, "kernel") {
		return p.Version
	}
	return ""
}

func either(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// newEdges lists dependencies that were not there before. One that was not seen this time
// is no change: it may just have been quiet.
func newEdges(a, b *inventory.Estate) (out []Change) {
	known := map[string]bool{}
	for _, e := range Build(a).Edges {
		known[fmt.Sprint(e.From, e.To, e.Port, e.Protocol)] = true
	}
	for _, e := range Build(b).Edges {
		if !known[fmt.Sprint(e.From, e.To, e.Port, e.Protocol)] && e.firm() {
			out = append(out, Change{Server: e.From, Area: "dependency", What: "added", Item: joinPort(e.To, e.Port), After: e.Reason()})
		}
	}
	return out
}
