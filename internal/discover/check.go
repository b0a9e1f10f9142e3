package discover

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// Level grades a finding.
type Level string

// A blocker keeps a copy from being of use, a warning costs something, a note is good to
// know.
const (
	Blocker Level = "blocker"
	Warning Level = "warning"
	Note    Level = "note"
)

// Finding is something that would stand in the way of a move, with what to do.
type Finding struct {
	Level Level
	Text  string
	Hint  string
}

// Move is what changes when servers go to the target.
type Move struct {
	// Address is what an address becomes; false: it stays as it is.
	Address func(netip.Addr) (netip.Addr, bool)
	Now     time.Time
}

// Check tells, for each server that was looked at, what would stand in its way.
func Check(e *inventory.Estate, g *Graph, m Move) map[string][]Finding {
	out := map[string][]Finding{}
	for _, x := range e.Entries {
		if x.Server == nil {
			continue
		}
		c := &checker{name: x.Name, s: x.Server, m: m}
		for _, step := range []func(){c.modules, c.addresses, c.certificates, c.jobs, c.licences, c.networkMounts} {
			step()
		}
		out[x.Name] = c.out
	}
	for _, w := range g.Unlisted() {
		at := w.To
		if w.Port != 0 {
			at = joinPort(w.To, w.Port)
		}
		out[w.From] = append(out[w.From], Finding{Warning, fmt.Sprintf("it needs %s, which is not protected: %s", at, strings.Join(w.Evidence[:min(3, len(w.Evidence))], "; ")),
			"add that server to leeward.yaml, or see that the target has one of its own at that address"})
	}
	return out
}

type checker struct {
	name string
	s    *inventory.Server
	m    Move
	out  []Finding
}

func (c *checker) add(l Level, hint, format string, args ...any) {
	c.out = append(c.out, Finding{l, fmt.Sprintf(format, args...), hint})
}

// modules looks whether a virtual machine's disk and network have drivers. The kernel that
// runs counts; where it is none of the installed ones, all of them.
func (c *checker) modules() {
	for _, k := range c.s.System.Kernels {
		if k.Version != c.s.System.Kernel && slices.ContainsFunc(c.s.System.Kernels, func(o inventory.Kernel) bool { return o.Version == c.s.System.Kernel }) {
			continue
		}
		for _, need := range []struct {
			what    string
			drivers []string
		}{{"disk", []string{"virtio_blk", "virtio_scsi", "ahci", "ata_piix"}}, {"network card", []string{"virtio_net", "e1000"}}} {
			has := func(list []string) bool {
				return slices.ContainsFunc(need.drivers, func(d string) bool { return slices.Contains(list, d) })
			}
			switch {
			case has(k.Builtin) || has(k.Drivers):
			case has(k.Loadable):
				if k.Read && need.what == "disk" {
					c.add(Note, "nothing: what is missing is put into the initramfs of the copy when it is booted", "the initramfs of kernel %s has no driver for a virtual machine's disk", k.Version)
				}
			default:
				c.add(Blocker, "install a kernel of the distribution's that has virtio, beside the one there is", "kernel %s has no driver for a virtual machine's %s", k.Version, need.what)
			}
		}
	}
}

// addresses lists the places that name an address which is another at the target. The
// files of the network, and /etc/hosts, are adapted there: see the package adapt.
func (c *checker) addresses() {
	at := map[string][]string{}
	for _, x := range c.s.Mentions {
		a, err := netip.ParseAddr(x.What)
		if err != nil {
			continue
		}
		if to, moves := c.m.Address(a); moves {
			key := fmt.Sprintf("%s (%s at the target)", a, to)
			at[key] = append(at[key], fmt.Sprintf("%s:%d", x.File, x.Line))
		}
	}
	var texts []string
	for what, places := range at {
		texts = append(texts, what+" in "+someOf(places, 3))
	}
	if len(texts) > 0 {
		c.add(Warning, "use names in place of addresses, or have a step of the cutover change these files", "files name addresses that move: %s", someOf(texts, 6))
	}
}

// someOf joins the first few, and says how many more there are.
func someOf(list []string, n int) string {
	list = slices.Compact(slices.Sorted(slices.Values(list)))
	if len(list) <= n {
		return strings.Join(list, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(list[:n], "; "), len(list)-n)
}

// soon is from when on a certificate's end is worth a warning.
const soon = 30 * 24 * time.Hour

func (c *checker) certificates() {
	for _, x := range c.s.Certs {
		by := strings.Join(x.UsedBy, ", ")
		for _, addr := range x.Addresses {
			if a, err := netip.ParseAddr(addr); err == nil {
				if to, moves := c.m.Address(a.Unmap()); moves {
					c.add(Warning, "have one made that names "+to.String()+" as well, or only names", "the certificate %s of %s names the address %s, which is %s at the target", x.File, by, addr, to)
				}
			}
		}
		switch left := x.Until.Sub(c.m.Now); {
		case left < 0:
			c.add(Warning, "renew it", "the certificate %s of %s ended on %s", x.File, by, x.Until.Format("2006-01-02"))
		case left < soon:
			c.add(Warning, "renew it before it has to be done during a disaster", "the certificate %s of %s ends on %s", x.File, by, x.Until.Format("2006-01-02"))
		}
	}
}

// outside are words of commands that act on others than the host itself.
var outside = []string{"mail", "curl", "wget", "ssh", "scp", "sftp", "rsync", "ftp", "http://", "https://", "s3", "rclone", "nc ", "bill", "invoice", "payment", "report", "sync", "export", "send"}

// jobs lists what runs by the clock and would run at both sides.
func (c *checker) jobs() {
	var loud, quiet []string
	put := func(text, command string) {
		low := strings.ToLower(command)
		if slices.ContainsFunc(outside, func(w string) bool { return strings.Contains(low, w) }) {
			loud = append(loud, text)
		} else {
			quiet = append(quiet, text)
		}
	}
	for _, j := range c.s.Cron {
		if j.Own {
			at := j.File
			if j.Line > 0 {
				at = fmt.Sprintf("%s:%d", j.File, j.Line)
			}
			put(fmt.Sprintf("%s (%s)", at, j.When), j.Command)
		}
	}
	for _, t := range c.s.Timers {
		if t.Own && t.Enabled {
			command := t.Name
			for _, u := range c.s.Units {
				if u.Name == t.Starts {
					command += " " + u.Command
				}
			}
			put(t.Name, command)
		}
	}
	if len(loud) > 0 {
		c.add(Warning, "a drill has no way out and holds back what hold: names; see that only one side runs them after a failover, before the other returns",
			"jobs that reach out of the host, and must not run at both sides: %s", someOf(loud, 6))
	}
	if len(quiet) > 0 {
		c.add(Note, "", "jobs of your own that run by the clock: %s", someOf(quiet, 6))
	}
}

func (c *checker) licences() {
	for _, l := range c.s.Licences {
		c.add(Warning, "ask its maker what holds for a standby, and keep the key for the other machine beside the runbook", "%s: %s", l.File, l.Why)
	}
}

// networkMounts are filesystems of other servers: no copy has them.
func (c *checker) networkMounts() {
	var texts []string
	for _, m := range c.s.Storage.Mounts {
		if host, ok := mountHost(m); ok {
			texts = append(texts, fmt.Sprintf("%s from %s", m.At, host))
		}
	}
	if len(texts) > 0 {
		c.add(Warning, "protect that server too, or have the target mount a copy; without it the boot may wait for it", "it mounts what no replica of it holds: %s", someOf(texts, 6))
	}
}
