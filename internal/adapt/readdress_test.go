package adapt

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// dallas maps 10.10.0.0/24 to 10.20.0.0/24 and fd00:a::/64 to fd00:b::/64.
func dallas(a netip.Addr) netip.Addr {
	for from, to := range map[string]string{"10.10.0.": "10.20.0.", "fd00:a::": "fd00:b::"} {
		if rest, ok := strings.CutPrefix(a.String(), from); ok {
			return netip.MustParseAddr(to + rest)
		}
	}
	return a
}

func TestReaddress(t *testing.T) {
	for in, want := range map[string]string{
		"address 10.10.0.11/24\n":                         "address 10.20.0.11/24\n",
		"gateway=10.10.0.1":                               "gateway=10.20.0.1",
		"address1=10.10.0.11/24,10.10.0.1":                "address1=10.20.0.11/24,10.20.0.1",
		"addresses: [10.10.0.11/24, \"fd00:a::11/64\"]":   "addresses: [10.20.0.11/24, \"fd00:b::11/64\"]",
		"10.10.0.13\tdb1 db1.example\n":                   "10.20.0.13\tdb1 db1.example\n",
		"network 10.10.0.0 broadcast 10.10.0.255":         "network 10.20.0.0 broadcast 10.20.0.255",
		"netmask 255.255.255.0, dns 10.11.0.1, 127.0.0.1": "netmask 255.255.255.0, dns 10.11.0.1, 127.0.0.1",
		"110.10.0.11 10.10.0.110 10.10.0.1.2 v10.10.0.1":  "110.10.0.11 10.20.0.110 10.10.0.1.2 v10.10.0.1",
		"52:54:00:10:10:11 at 10:10 feed.bad":             "52:54:00:10:10:11 at 10:10 feed.bad",
		"ends with 10.10.0.9":                             "ends with 10.20.0.9",
		"a sentence on 10.10.0.9.":                        "a sentence on 10.10.0.9.",
	} {
		if got, _ := readdress(in, dallas); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// TestNetworkMap gives a tree of another family's files the addresses of this site, and
// leaves all else.
func TestNetworkMap(t *testing.T) {
	g, _ := testImage(t, Partition{Kind: KindFilesystem, MountPoint: "/", Type: "ext4", UUID: "u", PartUUID: "p"})
	if err := g.arrange(&agentpb.Facts{}); err != nil {
		t.Fatal(err)
	}
	const old = "address 10.10.0.11/24 via 10.10.0.1\n"
	moved := []string{"/etc/network/interfaces", "/etc/network/interfaces.d/ens3", "/etc/netplan/50-cloud-init.yaml", "/etc/systemd/network/10-lan.network",
		"/etc/NetworkManager/system-connections/lan.nmconnection", "/etc/sysconfig/network-scripts/ifcfg-eth0", "/etc/sysconfig/network/ifcfg-eth0", "/etc/hosts"}
	kept := []string{"/etc/orders.conf", "/etc/systemd/network/10-lan.link", "/var/lib/app/network/interfaces"}
	for _, p := range append(moved, kept...) {
		if _, err := g.WriteFile(p, []byte(old), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	j := &job{img: g, report: &Report{}, fix: "network-map", opts: Options{Readdress: dallas}}
	if err := fixNetworkMap(j); err != nil {
		t.Fatal(err)
	}
	for want, files := range map[string][]string{old: kept, "address 10.20.0.11/24 via 10.20.0.1\n": moved} {
		for _, p := range files {
			if got, err := g.ReadFile(p); err != nil || string(got) != want {
				t.Errorf("%s: %q, %v; want %q", p, got, err, want)
			}
		}
	}
	if len(j.report.Changes) != len(moved) || len(j.report.Warnings) > 0 {
		t.Errorf("changes %+v, warnings %q", j.report.Changes, j.report.Warnings)
	}
	j = &job{img: g, report: &Report{}, opts: Options{Readdress: func(a netip.Addr) netip.Addr { return a }}}
	if err := fixNetworkMap(j); err != nil || len(j.report.Changes) > 0 || len(j.report.Warnings) != 1 {
		t.Errorf("of a map that says nothing: %+v, %v", j.report, err)
	}
}
