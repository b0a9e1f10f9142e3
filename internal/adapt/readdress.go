package adapt

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// addressFiles are where Linux systems keep the addresses of their network, as directory
// and pattern: ifupdown, netplan, systemd-networkd, NetworkManager, the network scripts
// of RHEL and SUSE, and the names that go before any name service.
var addressFiles = [][2]string{
	{"/etc", "hosts"}, {"/etc", "resolv.conf"},
	{"/etc/network", "interfaces"}, {"/etc/network/interfaces.d", "*"},
	{"/etc/netplan", "*.yaml"}, {"/etc/systemd/network", "*.network"}, {"/etc/systemd", "resolved.conf"},
	{"/etc/NetworkManager/system-connections", "*"},
	{"/etc/sysconfig", "network"}, {"/etc/sysconfig/network-scripts", "ifcfg-*"}, {"/etc/sysconfig/network-scripts", "route-*"},
	{"/etc/sysconfig/network", "ifcfg-*"}, {"/etc/sysconfig/network", "ifroute-*"}, {"/etc/sysconfig/network", "routes"},
}

// addressToken finds what may be an address; what stands around it decides too.
var addressToken = regexp.MustCompile(`[0-9A-Fa-f:.]*[0-9A-Fa-f:]`)

// fixNetworkMap gives the machine the addresses it has at this site, in the files of the
// network alone: what applications were told is theirs.
func fixNetworkMap(j *job) error {
	if j.opts.Readdress == nil {
		return nil
	}
	n := 0
	for _, at := range addressFiles {
		for _, file := range j.img.Glob(at[0], at[1]) {
			old, err := j.img.ReadFile(file)
			if err != nil {
				continue // a link to what is made at boot, or no file
			}
			text, changed := readdress(string(old), j.opts.Readdress)
			if changed == 0 {
				continue
			}
			n += changed
			if err := j.write(file, []byte(text), 0o600, fmt.Sprintf("addresses of this site in place of %d", changed),
				"network: map: says where its network is here"); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		j.warn("network-map: none of its network's files names an address that network: map: knows; it asks for a lease, or keeps them elsewhere")
	}
	return nil
}

// readdress replaces each address in a text that to maps to another.
func readdress(text string, to func(netip.Addr) netip.Addr) (out string, changed int) {
	var b strings.Builder
	last := 0
	for _, m := range addressToken.FindAllStringIndex(text, -1) {
		if part(text, m[0]-1) || part(text, m[1]) {
			continue
		}
		a, err := netip.ParseAddr(text[m[0]:m[1]])
		if err != nil {
			continue
		}
		if x := to(a); x != a {
			b.WriteString(text[last:m[0]])
			b.WriteString(x.String())
			last = m[1]
			changed++
		}
	}
	b.WriteString(text[last:])
	return b.String(), changed
}

// part reports whether the byte at i goes on with a word, so that what is beside it is no
// address by itself.
func part(text string, i int) bool {
	if i < 0 || i >= len(text) {
		return false
	}
	c := text[i]
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '_' || c == '-' || c == '.'
}
