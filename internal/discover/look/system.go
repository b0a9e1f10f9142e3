package look

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// system collects what the machine and its system say of themselves beside the facts.
func (l *looker) system(context.Context) {
	s := &l.inv.System
	s.Vendor, s.Product = l.text("sys/class/dmi/id/sys_vendor"), l.text("sys/class/dmi/id/product_name")
	s.ProductID = l.text("sys/class/dmi/id/product_uuid")
	s.Init = l.initSystem()
	s.TimeZone = l.timeZone()
	l.names(s)
	stat, err := read(l.path("proc/stat"), maxConfig)
	if err != nil {
		l.unknown("time of the last boot", err)
		return
	}
	for line := range bytes.Lines(stat) {
		if v, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			if n, err := strconv.ParseInt(string(bytes.TrimSpace(v)), 10, 64); err == nil {
				s.Booted = time.Unix(n, 0).UTC()
			}
		}
	}
}

// names fills in what the files know of the host's name.
func (l *looker) names(s *inventory.System) {
	if s.Hostname == "" {
		s.Hostname = l.text("etc/hostname")
	}
	short, domain, _ := strings.Cut(s.Hostname, ".")
	if domain == "" && short != "" {
		for _, h := range l.hostsFile() {
			for _, name := range h.Names {
				if d, ok := strings.CutPrefix(name, short+"."); ok && d != "localdomain" {
					domain = d
				}
			}
		}
	}
	s.Domain = domain
}

// initSystem names what process 1 is, by what it leaves in /run, or is.
func (l *looker) initSystem() string {
	switch {
	case l.exists("run/systemd/system"):
		return "systemd"
	case l.exists("run/openrc"), l.exists("sbin/openrc-init"):
		return "openrc"
	}
	if exe, err := os.Readlink(l.path("sbin/init")); err == nil {
		base := filepath.Base(exe)
		if base == "busybox" && l.exists("etc/init.d/rcS") {
			return "busybox"
		}
		if base == "systemd" && l.text("proc/1/comm") == "" {
			return "systemd" // a tree that is not running
		}
	}
	if comm := l.text("proc/1/comm"); comm != "" {
		return comm
	}
	return "unknown"
}

func (l *looker) timeZone() string {
	if tz := l.text("etc/timezone"); tz != "" {
		return tz
	}
	if to, err := os.Readlink(l.path("etc/localtime")); err == nil {
		if _, zone, ok := strings.Cut(to, "zoneinfo/"); ok {
			return zone
		}
	}
	return ""
}

// hostsFile is /etc/hosts.
func (l *looker) hostsFile() (out []inventory.HostsLine) {
	b, _ := l.config("names in /etc/hosts", "etc/hosts")
	lines(b, func(_ int, line string) {
		line, _, _ = strings.Cut(line, "#")
		if f := strings.Fields(line); len(f) > 1 {
			out = append(out, inventory.HostsLine{Address: f[0], Names: f[1:]})
		}
	})
	return out
}
