package config

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

const homeward = `estate: acme
source: {name: miami, ssh: {user: ops, options: [-o, "ProxyJump=gate"]}}
target: {name: dallas, store: /srv/leeward, network: {map: {10.10.0.0/24: 10.20.0.0/24}, bridge: br0}}
verify: {volatile: [/var/tmp/**]}
servers:
  - {name: web1, host: 10.10.0.11, exclude: [/srv/cache/**], ssh: {port: 2222}, fence: {command: a, check: b}}
  - name: app1
    host: 10.10.0.12
    after: [web1, db1]
    hold: [billing]
    probes: [{http: "http://:80/", status: 200, text: 'a "b" #c'}, {tcp: 22}, {command: "echo 'x: y'", expect: x}, {sql: "select 'a: b'", engine: postgres, database: shop, expect: "a: b"}]
  - {name: db1, host: 10.10.0.13}
  - {name: erp1, host: 10.10.0.14, home: {start: "virsh start erp1 # it's", stop: virsh shutdown erp1, check: "virsh domstate erp1 | grep -q running"}}
switchover:
  failback:
    host: kvm1
    ssh: {user: root}
    store: /srv/home
    bridge: br1
    accelerator: tcg
    seeds: [/var/lib/libvirt/images/web1.qcow2]
    reach: {config: /etc/leeward/ssh, options: [-o, "User=root"]}
    drill: no
`

func TestFailback(t *testing.T) {
	e, err := Parse("/etc/l.yaml", []byte(homeward))
	if err != nil {
		t.Fatal(err)
	}
	f := e.Switchover.Failback
	if f.Host != "kvm1" || f.SSH.User != "root" || f.Drill || f.Store != "/srv/home" || !slices.Equal(f.SSH.Options, []string{"-o", "ProxyJump=gate"}) {
		t.Errorf("got %+v", f)
	}
	back := e.Reversed(map[dr.ServerName]netip.Addr{"web1": netip.MustParseAddr("10.10.0.11"), "app1": netip.MustParseAddr("10.10.0.12"),
		"erp1": netip.MustParseAddr("10.10.0.14")})
	text, err := f.Text(back)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("/srv/home/leeward-home.yaml", text)
	if err != nil {
		t.Fatalf("what was written is refused: %v\n%s", err, text)
	}
	if got.Source.Name != "dallas" || got.Target.Name != "miami" || got.Target.Store != "/srv/home" || got.Target.Bridge != "br1" ||
		got.Target.Accelerator != "tcg" || !reflect.DeepEqual(got.Seeds, f.Seeds) || !slices.Equal(got.Volatile, e.Volatile) {
		t.Errorf("sites: %+v, %+v", got.Source, got.Target)
	}
	if a := Mapped(got.Target.Network, netip.MustParseAddr("10.20.0.77")); a.String() != "10.10.0.77" {
		t.Errorf("10.20.0.77 comes home as %s", a)
	}
	if len(got.Servers) != 3 || !reflect.DeepEqual(got.Servers[2].Machine, e.Servers[3].Home) || e.Servers[3].Machine != nil {
		t.Fatalf("servers: %+v", got.Servers)
	}
	web, app := got.Servers[0], got.Servers[1]
	if web.Host != "10.10.0.11" || web.SSH.Port != 2222 || web.SSH.User != "ops" || web.SSH.Config != "/etc/leeward/ssh" || web.Fence != nil ||
		!slices.Equal(web.SSH.Options, []string{"-o", "HostName=10.20.0.11", "-o", "HostKeyAlias=10.10.0.11", "-o", "User=root"}) || !slices.Equal(web.Exclude, e.Servers[0].Exclude) {
		t.Errorf("web1: %+v", web)
	}
	if !reflect.DeepEqual(app.Probes, e.Servers[1].Probes) || !slices.Equal(app.Hold, e.Servers[1].Hold) || !slices.Equal(app.After, []dr.ServerName{"web1"}) {
		t.Errorf("app1: %+v", app)
	}
}

func TestFailbackProblems(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"host: kvm1", "hots: kvm1", `unknown key "hots"; did you mean "host"?`},
		{"    store: /srv/home\n", "", `"store" is missing`},
		{"    bridge: br1\n", "", `"bridge" is missing`},
		{"store: /srv/home", "store: home", `"home": want a whole path`},
		{"host: kvm1", "host: -oX", `"-oX": want a single word`},
		{"drill: no", "drill: maybe", `unknown value "maybe"`},
		{"accelerator: tcg", "accelerator: xen", `unknown value "xen"`},
	} {
		if _, err := Parse("l.yaml", []byte(strings.Replace(homeward, c.from, c.to, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.to, err, c.want)
		}
	}
}
