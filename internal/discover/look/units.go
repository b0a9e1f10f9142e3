package look

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// unitDirs are where units lie, the first that has one counting (systemd.unit(5)).
var unitDirs = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// units lists services: with systemd by its files and, where it runs, by what it says of
// itself; otherwise by the scripts of the init system.
func (l *looker) units(ctx context.Context) {
	switch {
	case l.inv.System.Init == "openrc" || l.exists("etc/runlevels"):
		l.openrc()
	case l.exists("etc/systemd") || l.exists("lib/systemd/system") || l.exists("usr/lib/systemd/system"):
		l.systemd(ctx)
	case l.exists("etc/rc3.d") || l.exists("etc/rc.d/rc3.d") || l.exists("etc/rc2.d"):
		l.sysv()
	default:
		l.unknown("services", "init is "+l.inv.System.Init+", whose services have no list")
	}
}

// unitFile is what a unit's file and its drop-ins say: sections' keys to their values, in
// order.
type unitFile struct {
	path string
	keys map[string][]string // "Service.ExecStart"
}

func (u *unitFile) last(key string) string {
	if v := u.keys[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

// parseUnit reads a unit's file into keys: an empty value forgets those before it.
func parseUnit(b []byte, keys map[string][]string) {
	section := ""
	lines([]byte(strings.ReplaceAll(string(b), "\\\n", " ")), func(_ int, line string) {
		if line[0] == ';' {
			return
		}
		if line[0] == '[' {
			section = strings.Trim(line, "[]")
			return
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok {
			return
		}
		key, value = section+"."+strings.TrimSpace(key), strings.TrimSpace(value)
		if value == "" {
			delete(keys, key)
			return
		}
		keys[key] = append(keys[key], value)
	})
}

// unit reads a unit by name; false where no file of it is there. An instance of a
// template is read as its template.
func (l *looker) unit(name string) (*unitFile, bool) {
	u := &unitFile{keys: map[string][]string{}}
	template := name
	if at, dot := strings.IndexByte(name, '@'), strings.LastIndexByte(name, '.'); at > 0 && dot > at {
		template = name[:at+1] + name[dot:]
	}
	for _, dir := range unitDirs {
		for _, n := range slices.Compact([]string{name, template}) {
			b, err := read(l.path(dir, n), maxConfig)
			if err != nil {
				continue
			}
			u.path = dir + "/" + n
			if to, err := os.Readlink(l.path(dir, n)); err == nil && filepath.IsAbs(to) {
				u.path = to
			}
			parseUnit(b, u.keys)
			for _, d := range unitDirs {
				for _, drop := range l.glob(d + "/" + n + ".d/*.conf") {
					if b, err := read(l.path(drop), maxConfig); err == nil {
						parseUnit(b, u.keys)
					}
				}
			}
			return u, true
		}
	}
	return nil, false
}

// enabled lists the units that are started at boot or by another: those that
// /etc/systemd/system links to (systemctl(1), enable).
func (l *looker) enabled() (out []string) {
	for _, link := range l.glob("etc/systemd/system/*.wants/*", "etc/systemd/system/*.requires/*") {
		out = append(out, filepath.Base(link))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (l *looker) systemd(ctx context.Context) {
	found := map[string]*inventory.Unit{}
	for _, name := range l.enabled() {
		if strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".socket") {
			found[name] = &inventory.Unit{Name: name, Enabled: true}
		}
	}
	if l.inv.System.Init == "systemd" && l.exists("run/systemd/system") {
		l.running(ctx, found)
	} else {
		l.unknown("which units run", "systemd is not what runs this host; units are those its files enable")
	}
	var own []string
	for _, u := range found {
		if f, ok := l.unit(u.Name); ok {
			u.File = f.path
			u.Command = redact(strings.TrimLeft(f.last("Service.ExecStart"), "-@:+!"))
			for _, after := range append(f.keys["Unit.After"], f.keys["Unit.Requires"]...) {
				u.After = append(u.After, strings.Fields(after)...)
			}
			slices.Sort(u.After)
			u.After = slices.Compact(u.After)
			own = append(own, f.path)
		}
	}
	packaged := l.owners(ctx, own)
	for _, u := range found {
		u.Own = len(l.inv.Packages) > 0 && u.File != "" && packaged[u.File] == "" && !strings.HasPrefix(u.File, "/run/")
		l.inv.Units = append(l.inv.Units, *u)
	}
	slices.SortFunc(l.inv.Units, func(a, b inventory.Unit) int { return strings.Compare(a.Name, b.Name) })
}

// running asks systemd for services that run or failed. `systemctl show` has one form
// since its beginning: properties a line, units apart by an empty one.
func (l *looker) running(ctx context.Context, found map[string]*inventory.Unit) {
	out, err := l.run(ctx, "systemctl", "show", "--no-pager", "--property=Id,ActiveState,SubState,UnitFileState", "*.service", "*.socket")
	if err != nil {
		l.unknown("which units run", err)
		return
	}
	for _, p := range parseShow(out) {
		name, state := p["Id"], p["ActiveState"]
		u := found[name]
		if name == "" || u == nil && (p["SubState"] == "exited" || state != "active" && state != "failed" && state != "activating") {
			continue
		}
		if u == nil {
			u = &inventory.Unit{Name: name}
			found[name] = u
		}
		u.State, u.Enabled = state, u.Enabled || p["UnitFileState"] == "enabled"
	}
}

// parseShow reads the output of `systemctl show` for several units.
func parseShow(b []byte) (out []map[string]string) {
	m := map[string]string{}
	for line := range strings.Lines(string(b) + "\n\n") {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if len(m) > 0 {
				out = append(out, m)
			}
			m = map[string]string{}
			continue
		}
		if k, v, ok := strings.Cut(line, "="); ok {
			m[k] = v
		}
	}
	return out
}

// openrc lists the services of runlevels; what runs is in /run/openrc/started.
func (l *looker) openrc() {
	seen := map[string]*inventory.Unit{}
	for _, p := range l.glob("etc/runlevels/*/*") {
		name := filepath.Base(p)
		seen[name] = &inventory.Unit{Name: name, Enabled: true, File: "/etc/init.d/" + name}
	}
	for _, p := range l.glob("run/openrc/started/*") {
		name := filepath.Base(p)
		if seen[name] == nil {
			seen[name] = &inventory.Unit{Name: name, File: "/etc/init.d/" + name}
		}
		seen[name].State = "active"
	}
	for _, name := range slices.Sorted(mapKeys(seen)) {
		l.inv.Units = append(l.inv.Units, *seen[name])
	}
}

// sysv lists the scripts that runlevels 2 and 3 start.
func (l *looker) sysv() {
	seen := map[string]bool{}
	for _, p := range l.glob("etc/rc2.d/S*", "etc/rc3.d/S*", "etc/rc.d/rc3.d/S*") {
		name := strings.TrimLeft(filepath.Base(p)[1:], "0123456789")
		if name != "" && !seen[name] {
			seen[name] = true
			l.inv.Units = append(l.inv.Units, inventory.Unit{Name: name, Enabled: true, File: "/etc/init.d/" + name})
		}
	}
	l.unknown("which services run", "init is "+l.inv.System.Init+", which keeps no list of that")
}

// timers lists the units that start others at times.
func (l *looker) timers(ctx context.Context) {
	enabled := l.enabled()
	seen := map[string]bool{}
	var files []string
	for _, dir := range unitDirs {
		for _, p := range l.glob(dir + "/*.timer") {
			name := filepath.Base(p)
			f, ok := l.unit(name)
			if !ok || seen[name] {
				continue
			}
			seen[name] = true
			t := inventory.Timer{Name: name, Enabled: slices.Contains(enabled, name), Starts: f.last("Timer.Unit")}
			if t.Starts == "" {
				t.Starts = strings.TrimSuffix(name, ".timer") + ".service"
			}
			for _, key := range []string{"OnCalendar", "OnBootSec", "OnStartupSec", "OnUnitActiveSec", "OnUnitInactiveSec", "OnActiveSec"} {
				for _, v := range f.keys["Timer."+key] {
					t.When = append(t.When, key+"="+v)
				}
			}
			l.inv.Timers, files = append(l.inv.Timers, t), append(files, f.path)
		}
	}
	packaged := l.owners(ctx, files)
	for i := range l.inv.Timers {
		l.inv.Timers[i].Own = len(l.inv.Packages) > 0 && packaged[files[i]] == ""
	}
	slices.SortFunc(l.inv.Timers, func(a, b inventory.Timer) int { return strings.Compare(a.Name, b.Name) })
}
