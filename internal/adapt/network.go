package adapt

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const (
	linkDir         = "/etc/systemd/network"
	persistentRules = "/etc/udev/rules.d/70-persistent-net.rules"
)

// Cards returns the interfaces that have a device behind them, loopback never.
func Cards(f *agentpb.Facts) []*agentpb.Interface {
	var real []*agentpb.Interface
	for _, i := range f.GetInterfaces() {
		if !i.GetVirtual() && i.GetName() != "lo" && macRE.MatchString(i.GetMac()) && nameRE.MatchString(i.GetName()) {
			real = append(real, i)
		}
	}
	return real
}

var (
	macRE  = regexp.MustCompile(`^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$`)
	nameRE = regexp.MustCompile(`^[A-Za-z0-9_.:@-]{1,15}$`)
)

// fixNetworkNames keeps each card's name, which addresses, firewalls and
// everything else refer to: the hardware around it is another, its MAC is not.
func fixNetworkNames(j *job) error {
	if j.img.Exists(persistentRules) || !j.systemd() {
		if err := j.rewritePersistentRules(); err != nil {
			return err
		}
	}
	if !j.systemd() {
		return nil
	}
	for _, c := range Cards(j.facts) {
		content := fmt.Sprintf("[Match]\nMACAddress=%s\n\n[Link]\nName=%s\n", strings.ToLower(c.GetMac()), c.GetName())
		if m := c.GetMtu(); m != 0 && m != 1500 {
			content += fmt.Sprintf("MTUBytes=%d\n", m)
		}
		file := fmt.Sprintf("%s/10-leeward-%s.link", linkDir, c.GetName())
		if err := j.write(file, []byte(content), 0o644, "names the card with address "+c.GetMac()+" "+c.GetName(),
			"the card sits in another slot here"); err != nil {
			return err
		}
	}
	return nil
}

// rewritePersistentRules replaces rules that find cards by their slot.
func (j *job) rewritePersistentRules() error {
	var out strings.Builder
	old, _ := j.img.ReadFile(persistentRules) // not there is empty
	for _, line := range strings.SplitAfter(string(old), "\n") {
		t := strings.TrimSpace(line)
		if t != "" && t[0] != '#' && strings.Contains(t, "NAME=") {
			line = comment(line)
		}
		if !strings.Contains(line, ruleMark) {
			out.WriteString(line)
		}
	}
	if n := out.Len(); n > 0 && out.String()[n-1] != '\n' {
		out.WriteString("\n")
	}
	for _, c := range Cards(j.facts) {
		fmt.Fprintf(&out, "SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", ATTR{address}==\"%s\", NAME=\"%s\"%s\n",
			strings.ToLower(c.GetMac()), c.GetName(), ruleMark)
	}
	if out.Len() == 0 {
		return nil
	}
	return j.write(persistentRules, []byte(out.String()), 0o644, "names cards by their address", "cards sit in other slots here")
}

const ruleMark = `, ENV{LEEWARD}="1"`

var (
	ifaceDHCP = regexp.MustCompile(`(?m)^([ \t]*iface[ \t]+(\S+)[ \t]+inet[ \t]+)dhcp([ \t]*)$`)
	autoConf  = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// fixAddresses gives a card that had its address from a lease the same address
// for the drill: nobody hands out leases on a network that leads nowhere, and
// ifupdown would wait minutes for one.
func fixAddresses(j *job) error {
	if j.opts.Persistent {
		return nil
	}
	files := []string{"/etc/network/interfaces"}
	for _, name := range j.img.List("/etc/network/interfaces.d") {
		if autoConf.MatchString(name) {
			files = append(files, "/etc/network/interfaces.d/"+name)
		}
	}
	for _, file := range files {
		old, err := j.img.ReadFile(file)
		if err != nil {
			continue
		}
		out := ifaceDHCP.ReplaceAllStringFunc(string(old), func(line string) string {
			m := ifaceDHCP.FindStringSubmatch(line)
			if a := addressOf(j.facts, m[2]); a != "" {
				return m[1] + "static" + m[3] + "\n    address " + a
			}
			return line
		})
		if err := j.write(file, []byte(out), 0o644, "static addresses in place of leases",
			"no one hands out leases in a drill"); err != nil {
			return err
		}
	}
	return nil
}

// addressOf returns the interface's first IPv4 address with its prefix length.
func addressOf(f *agentpb.Facts, name string) string {
	for _, i := range f.GetInterfaces() {
		if i.GetName() != name {
			continue
		}
		for _, a := range i.GetAddresses() {
			if p, err := netip.ParsePrefix(a); err == nil && p.Addr().Is4() {
				return a
			}
		}
	}
	return ""
}

// fixWaitOnline bounds how long a boot waits for cards or leases that do not come.
func fixWaitOnline(j *job) error {
	if !j.systemd() {
		return nil
	}
	why := "a card or a lease that does not come must not hold the boot up"
	for _, dir := range []string{"/usr/lib/systemd", "/lib/systemd"} {
		if bin := dir + "/systemd-networkd-wait-online"; j.img.Exists(bin) {
			err := j.write("/etc/systemd/system/systemd-networkd-wait-online.service.d/50-leeward.conf",
				[]byte("[Service]\nExecStart=\nExecStart="+bin+" --any --timeout=15\n"), 0o644, "waits 15 s at most", why)
			if err != nil {
				return err
			}
			break
		}
	}
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		if j.img.Exists(dir + "/NetworkManager-wait-online.service") {
			return j.write("/etc/systemd/system/NetworkManager-wait-online.service.d/50-leeward.conf",
				[]byte("[Service]\nEnvironment=NM_ONLINE_TIMEOUT=10\n"), 0o644, "waits 10 s at most", why)
		}
	}
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
