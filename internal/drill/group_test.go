package drill

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// TestGroupReachesEachOther boots an application that fails unless it finds its database
// by name, on the production address, and sends mail at start; a job that must not run
// would fail too.
func TestGroupReachesEachOther(t *testing.T) {
	db := server(t, "db1", machine{suite: "trixie", fs: "ext4", spoil: func(t *testing.T, root string) {
		writeFile(t, filepath.Join(root, "etc/network/interfaces"), "auto lo lan0\niface lo inet loopback\n"+
			"iface lan0 inet static\n    address 10.10.0.12/24\n    gateway 10.10.0.1\n")
	}})
	db.Facts.Interfaces = []*agentpb.Interface{{Name: "lan0", Mac: "52:54:00:11:22:44", Addresses: []string{"10.10.0.12/24"}, Up: true, Mtu: 1500}}
	app := server(t, "app1", machine{suite: "trixie", fs: "ext4", spoil: func(t *testing.T, root string) {
		writeFile(t, filepath.Join(root, "etc/network/interfaces"), "auto lo lan0\niface lo inet loopback\n"+
			"iface lan0 inet static\n    address 10.10.0.11/24\n    gateway 10.10.0.1\n")
		os.Remove(filepath.Join(root, "etc/resolv.conf"))
		writeFile(t, filepath.Join(root, "etc/resolv.conf"), "nameserver 9.9.9.9\n")
		oneshot(t, root, "needs-db.service", `exec 3<>/dev/tcp/db1/22; read -t 20 -u 3 line; [[ $line == SSH* ]]`)
		oneshot(t, root, "mails.service", `exec 3<>/dev/tcp/203.0.113.9/25; read -t 20 -u 3 line; printf "DATA\r\nx\r\n.\r\nQUIT\r\n" >&3; read -t 20 -u 3; read -t 20 -u 3`)
		oneshot(t, root, "billing.service", `false`)
	}})
	app.Facts.Interfaces = []*agentpb.Interface{{Name: "lan0", Mac: "52:54:00:11:22:33", Addresses: []string{"10.10.0.11/24"}, Up: true, Mtu: 1500}}
	app.After, app.Hold, app.Probes = []dr.ServerName{"db1"}, []string{"billing"}, []Probe{{TCP: 22}, {Command: "cat /etc/hostname", Expect: "web1"}}
	results := drillAll(t, []Subject{app, db})
	wantProven(t, results["db1"])
	r := results["app1"]
	wantProven(t, r)
	if r.Bubble == nil || r.Bubble.Mails != 1 || r.Bubble.Left != 0 || r.Bubble.Between == 0 || r.Bubble.Names == 0 {
		t.Errorf("the bubble: %+v", r.Bubble)
	}
	if len(r.Probes) != 2 || r.Probes[0].Outcome != dr.Done || r.Probes[1].Outcome != dr.Done {
		t.Errorf("probes: %+v", r.Probes)
	}
}

// oneshot makes a unit that runs a script of bash once the network is up.
func oneshot(t *testing.T, root, unit, script string) {
	t.Helper()
	script = strings.ReplaceAll(strings.ReplaceAll(script, "$", "$$"), "%", "%%")
	writeFile(t, filepath.Join(root, "etc/systemd/system", unit), "[Unit]\nAfter=network-online.target\nWants=network-online.target\n"+
		"[Service]\nType=oneshot\nExecStart=/bin/bash -c '"+strings.ReplaceAll(script, `\`, `\\`)+"'\n")
	dir := filepath.Join(root, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/systemd/system/"+unit, filepath.Join(dir, unit)); err != nil {
		t.Fatal(err)
	}
}
