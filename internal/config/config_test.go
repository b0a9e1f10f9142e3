package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

const whole = `# an estate with every key
estate: acme
source:
  name: miami
  ssh: {user: root, port: 2222, config: ssh/config, options: [-J, jump], streams: 2, sudo: auto}
target:
  name: dallas
  store: /srv/leeward
  hypervisor: libvirt:qemu:///system
  accelerator: tcg
  network: {map: {10.10.0.0/24: 10.20.0.0/24}}
limits:
  bandwidth: 200 Mbit/s
  disk: 50MB/s
  cpu: {nice: 10, cores: 0.5}
seeds: [/srv/clones/dev-web.qcow2, clones/tree]
deadline: 2017-09-10T12:00:00-04:00
servers:
  - {name: web1, host: 10.10.0.11, capture: files}
  - name: app1
    host: 10.10.0.12
    after: [db1]
    probes: [{http: "http://:8080/health"}, {tcp: 22}]
    exclude: [/var/tmp/**]
    include_excluded: [/lost+found]
    ssh: {user: ops, sudo: never}
    limits: {bandwidth: none}
  - {name: db1, capture: qemu}
databases:
  - name: erp
    engine: mssql
    capture: triggers
    tables: {include: ["dbo.*"], exclude: [dbo.log]}
    source: {dsn: "sqlserver://sa@10.10.0.20", password_file: erp.pass}
    target: {dsn: "sqlserver://sa@10.20.0.20", password_command: [pass, show, erp]}
groups:
  - {name: all, order: [db1, app1, web1, erp], objective: {rpo: 1m, rto: 10m}}
verify:
  volatile: [/srv/cache/**]
`

func TestParseWhole(t *testing.T) {
	e, err := Parse("/etc/lw/leeward.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	ssh := SSH{User: "root", Port: 2222, Config: "/etc/lw/ssh/config", Options: []string{"-J", "jump"}, Streams: 2, Sudo: SudoAuto}
	limits := Limits{Bandwidth: 25_000_000, Disk: 50_000_000, Nice: 10, Cores: 0.5}
	appSSH, appLimits := ssh, limits
	appSSH.User, appSSH.Sudo = "ops", SudoNever
	appLimits.Bandwidth = 0
	want := &Estate{
		File:   "/etc/lw/leeward.yaml",
		Name:   "acme",
		Source: Source{Name: "miami", SSH: ssh, Limits: limits},
		Target: Target{
			Name: "dallas", Store: "/srv/leeward", Hypervisor: "libvirt:qemu:///system", Accelerator: "tcg",
			Network: []NetworkMap{{netip.MustParsePrefix("10.10.0.0/24"), netip.MustParsePrefix("10.20.0.0/24")}},
		},
		Seeds:    []string{"/srv/clones/dev-web.qcow2", "/etc/lw/clones/tree"},
		Deadline: time.Date(2017, 9, 10, 16, 0, 0, 0, time.UTC),
		Servers: []Server{
			{Name: "web1", Host: "10.10.0.11", Capture: Files, Priority: 50, SSH: ssh, Limits: limits, Line: 19},
			{
				Name: "app1", Host: "10.10.0.12", Capture: Files, Priority: 50, After: []dr.ServerName{"db1"},
				Probes:  []Probe{{HTTP: "http://:8080/health"}, {TCP: 22}},
				Exclude: []string{"/var/tmp/**"}, IncludeExcluded: []string{"/lost+found"},
				SSH: appSSH, Limits: appLimits, Line: 20,
			},
			{Name: "db1", Host: "db1", Capture: QEMU, Priority: 50, SSH: ssh, Limits: limits, Line: 28},
		},
		Databases: []Database{{
			Name: "erp", Engine: "mssql", Mode: "logical", Capture: "triggers", Priority: 50, Line: 30,
			Tables: Tables{Include: []string{"dbo.*"}, Exclude: []string{"dbo.log"}},
			Source: Endpoint{DSN: "sqlserver://sa@10.10.0.20", PasswordFile: "/etc/lw/erp.pass"},
			Target: Endpoint{DSN: "sqlserver://sa@10.20.0.20", PasswordCommand: []string{"pass", "show", "erp"}},
		}},
		Groups:     []Group{{Name: "all", Order: []string{"db1", "app1", "web1", "erp"}, Objective: Objective{RPO: time.Minute, RTO: 10 * time.Minute}, Line: 37}},
		Volatile:   []string{"/srv/cache/**"},
		Switchover: defaultSwitchover(),
	}
	if !e.Deadline.Equal(want.Deadline) {
		t.Errorf("deadline %v, want %v", e.Deadline, want.Deadline)
	}
	e.Deadline = want.Deadline
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
}

func TestDefaults(t *testing.T) {
	e, err := Parse("leeward.yaml", []byte("estate: a\ntarget: {store: store}\nservers: [{name: web1}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := e.Servers[0]
	if s.Host != "web1" || s.Capture != Files || s.SSH.Sudo != SudoAuto || e.Target.Hypervisor != "qemu" ||
		e.Target.Accelerator != "auto" || e.Target.Store != "store" || e.Source.Name != "source" {
		t.Errorf("defaults: %+v", e)
	}
}

// small is an estate with a place for one more line at the end.
const small = "estate: a\ntarget: {store: /s}\nservers: [{name: web1}, {name: app1}]\n"

func TestProblems(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", `l.yaml: the file is empty; it needs estate, target and servers`},
		{"comment only", "# nothing\n", `l.yaml: the file is empty; it needs estate, target and servers`},
		{"not yaml", "estate: a\n  target: [\n", `l.yaml:2: this is not YAML: mapping values are not allowed in this context`},
		{"a list", "- a\n", `l.yaml:1: want keys and values (estate, source, target, limits, seeds, deadline, servers, databases, groups, keep, verify, contacts, switchover)`},
		{"missing", "estate: a\n", "l.yaml:1: \"target\" is missing\nl.yaml:1: servers: there is none, and no database; want at least one, as in {name: web1, host: 10.10.0.11}"},
		{"second document", small + "---\na: b\n", `l.yaml:4: there is a second document after the first (---); want one`},
		{"unknown key", small + "seed: []\n", `l.yaml:4: unknown key "seed"; did you mean "seeds"?`},
		{"swapped letters", small + "sevrers: []\n", `l.yaml:4: unknown key "sevrers"; did you mean "servers"?`},
		{"far from any", small + "zzzzzzzz: 1\n", `l.yaml:4: unknown key "zzzzzzzz"; want one of: estate, source, target, limits, seeds, deadline, servers, databases, groups, keep, verify, contacts, switchover`},
		{"unknown in server", "estate: a\ntarget: {store: /s}\nservers:\n  - name: web1\n    captur: files\n", `l.yaml:5: server web1: unknown key "captur"; did you mean "capture"?`},
		{"twice", small + "estate: b\n", `l.yaml:4: "estate" is there twice; the first is in line 1`},
		{"one name", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1}\n  - {name: web1, host: b}\n", `l.yaml:5: server web1: the name is taken by the server in line 4`},
		{"one host", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1, host: h}\n  - {name: web2, host: h}\n", `l.yaml:5: server web2: host h is server web1 already, in line 4`},
		{"bad name", "estate: a\ntarget: {store: /s}\nservers: [{name: ../x}]\n", `l.yaml:3: server 1: name: "../x" is no name: want 1 to 63 of a-z, 0-9, dot, dash and underscore, a letter or digit first and last`},
		{"capture", "estate: a\ntarget: {store: /s}\nservers: [{name: w, capture: file}]\n", `l.yaml:3: server w: capture: unknown value "file"; did you mean "files"?`},
		{"option as host", "estate: a\ntarget: {store: /s}\nservers: [{name: w, host: -oProxyCommand=x}]\n", `l.yaml:3: server w: host: "-oProxyCommand=x": want a single word`},
		{"no unit", small + "limits: {bandwidth: 200}\n", `l.yaml:4: limits: bandwidth: "200": the unit is missing; write Mbit/s, MB/s or another`},
		{"bits or bytes", small + "limits: {bandwidth: 200 Mbps}\n", `l.yaml:4: limits: bandwidth: "200 Mbps": unit "Mbps" may be bits or bytes; write Mbit/s or MB/s`},
		{"slip in unit", small + "limits: {disk: 5 Mbits}\n", `l.yaml:4: limits: disk: "5 Mbits": unknown unit "Mbits"; did you mean "Mbit/s"?`},
		{"no rate", small + "limits: {disk: fast}\n", `l.yaml:4: limits: disk: "fast" is no rate: want a number and a unit, as in 200 Mbit/s or 50 MB/s`},
		{"zero", small + "limits: {disk: 0 B/s}\n", `l.yaml:4: limits: disk: "0 B/s" is out of range; for no limit write none`},
		{"nice", small + "limits: {cpu: {nice: 20}}\n", `l.yaml:4: limits: cpu: nice: "20": want a whole number from 0 to 19`},
		{"cores", small + "limits: {cpu: {cores: NaN}}\n", `l.yaml:4: limits: cpu: cores: "NaN": want a number of cores from 0.01 to 1024; 0.5 is half of one`},
		{"minutes", small + "groups: [{name: g, order: [web1], objective: {rpo: 10 min}}]\n", `l.yaml:4: group g: objective: rpo: "10 min": unknown unit "min"; did you mean "10m"?`},
		{"days", small + "groups: [{name: g, order: [web1], objective: {rpo: 1d}}]\n", `l.yaml:4: group g: objective: rpo: "1d": unknown unit "d"; write days as hours: 1 day is 24h`},
		{"no offset", small + "deadline: 2017-09-10 12:00\n", `l.yaml:4: deadline: "2017-09-10 12:00": want a time with its offset from UTC, as in 2017-09-10T12:00:00-04:00`},
		{"after unknown", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1, after: [ap1]}\n  - {name: app1}\n", `l.yaml:4: server web1: after: there is no server "ap1"; did you mean "app1"?`},
		{"ring", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1, after: [app1]}\n  - {name: app1, after: [web1]}\n", `l.yaml:5: server app1: servers start after each other in a ring: web1 after app1 after web1`},
		{"after itself", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1, after: [web1]}\n", `l.yaml:4: server web1: servers start after each other in a ring: web1 after web1`},
		{"order unknown", small + "groups: [{name: g, order: [db9]}]\n", `l.yaml:4: group g: order: there is no server or database "db9"; want one of: web1, app1`},
		{"order twice", small + "groups: [{name: g, order: [web1, web1]}]\n", `l.yaml:4: group g: order: "web1" is there twice`},
		{"order against after", "estate: a\ntarget: {store: /s}\nservers:\n  - {name: web1, after: [app1]}\n  - {name: app1}\ngroups:\n  - {name: g, order: [web1, app1]}\n", `l.yaml:7: group g: the order has web1 before app1, but server web1 in line 4 starts after app1`},
		{"group named as server", small + "groups: [{name: web1, order: [web1]}]\n", `l.yaml:4: group web1: the name is taken by the server in line 3`},
		{"network size", "estate: a\ntarget: {store: /s, network: {map: {10.0.0.0/24: 10.1.0.0/16}}}\nservers: [{name: w}]\n", `l.yaml:2: target: network: map: 10.0.0.0/24 and 10.1.0.0/16 are not of one size`},
		{"network address", "estate: a\ntarget: {store: /s, network: {map: {10.0.0.1/24: 10.1.0.0/24}}}\nservers: [{name: w}]\n", `l.yaml:2: target: network: map: "10.0.0.1/24" is an address in a network; did you mean "10.0.0.0/24"?`},
		{"tilde", "estate: a\ntarget: {store: ~/s}\nservers: [{name: w}]\n", `l.yaml:2: target: store: "~/s": ~ is not expanded here; write the whole path`},
		{"one name for both sites", "estate: a\nsource: {name: x}\ntarget: {name: x, store: /s}\nservers: [{name: w}]\n", `l.yaml: source and target have one name, "x"`},
		{"pattern", "estate: a\ntarget: {store: /s}\nservers: [{name: w, exclude: [var/tmp, \"/a[\"]}]\n", "l.yaml:3: server w: exclude: \"var/tmp\": want a path that begins with /, as in /var/tmp/** or /**/*.iso\nl.yaml:3: server w: exclude: \"/a[\": \"a[\" is no pattern: syntax error in pattern"},
		{"probe", "estate: a\ntarget: {store: /s}\nservers: [{name: w, probes: [{tcp: 1, http: \"http://:1/\"}]}]\n", `l.yaml:3: server w: probes: a probe is one of http, tcp, command and sql, as in {http: "http://:8080/health"}`},
		{"hypervisor", "estate: a\ntarget: {store: /s, hypervisor: vmware}\nservers: [{name: w}]\n", `l.yaml:2: target: hypervisor: unknown value "vmware"; want qemu or libvirt:URI, as in libvirt:qemu:///system`},
		{"no servers", "estate: a\ntarget: {store: /s}\nservers: []\n", `l.yaml:1: servers: there is none, and no database; want at least one, as in {name: web1, host: 10.10.0.11}`},
		{"all at once, by line", "estate: A\ntarget: {stor: /s}\nservers: [{name: w, host: }]\nlimit: {}\n", "l.yaml:1: estate: \"A\" is no name: want 1 to 63 of a-z, 0-9, dot, dash and underscore, a letter or digit first and last\nl.yaml:2: target: unknown key \"stor\"; did you mean \"store\"?\nl.yaml:2: target: \"store\" is missing\nl.yaml:4: unknown key \"limit\"; did you mean \"limits\"?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("l.yaml", []byte(c.text))
			var p *Problems
			if !errors.As(err, &p) {
				t.Fatalf("got error %v, want problems", err)
			}
			if err.Error() != c.want {
				t.Errorf("got\n%s\nwant\n%s", err, c.want)
			}
		})
	}
}

func TestSecretsAreRefusedAndNotRepeated(t *testing.T) {
	for _, dsn := range []string{
		"sqlserver://sa:hunter2@h", "postgres://h/db?password=hunter2", "server=h;Password=hunter2",
		"root:hunter2@tcp(h)/db", "host=h password=hunter2", "sqlserver://sa:hunter2@h:port%",
	} {
		text := small + "databases: [{name: d, engine: mssql, source: {dsn: \"" + dsn + "\"}, target: {dsn: x}}]\n"
		_, err := Parse("l.yaml", []byte(text))
		if err == nil {
			t.Errorf("%s: accepted", dsn)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats the password: %v", err)
		}
	}
	_, err := Parse("l.yaml", []byte(small+"databases: [{name: d, engine: mssql, source: {dsn: y, password: hunter2}, target: {dsn: x}}]\n"))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "password_file") {
		t.Errorf("password in the file: %v", err)
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]Rate{
		"200 Mbit/s": 25_000_000, "50MB/s": 50_000_000, "1.5 MiB/s": 1_572_864, "8 bit/s": 1,
		"none": 0, "1 Gbit/s": 125_000_000, "64 kbit/s": 8000,
	} {
		got, err := parseRate(text)
		if err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
		again, err := parseRate(got.String())
		if err != nil || float64(again) < float64(got)*0.99 || float64(again) > float64(got)*1.01 {
			t.Errorf("%s prints as %q, which reads as %d, %v", text, got, again, err)
		}
	}
}

func TestSelect(t *testing.T) {
	e, err := Parse("/l.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ names, want []string }{
		{nil, []string{"web1", "app1", "db1", "erp"}},
		{[]string{"db1", "web1", "db1"}, []string{"web1", "db1"}},
		{[]string{"erp", "web1"}, []string{"web1", "erp"}},
		{[]string{"all"}, []string{"web1", "app1", "db1", "erp"}},
	} {
		got, databases, err := e.Select(c.names)
		var names []string
		for _, n := range got {
			names = append(names, string(n))
		}
		names = append(names, databases...)
		if err != nil || !slices.Equal(names, c.want) {
			t.Errorf("select %v: %v, %v; want %v", c.names, names, err, c.want)
		}
	}
	var hinted *dr.Hinted
	if _, _, err := e.Select([]string{"wbe1"}); !errors.As(err, &hinted) || hinted.Hint != `did you mean "web1"?` {
		t.Errorf("select wbe1: %v, hint %v", err, hinted)
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leeward.yaml")
	var hinted *dr.Hinted
	if _, err := Load(path); !errors.As(err, &hinted) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := Load(path); err != nil || len(e.Servers) != 2 {
		t.Errorf("load: %+v, %v", e, err)
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "larger than 4 MiB") {
		t.Errorf("large file: %v", err)
	}
}

// TestManyAliases holds a short file that stands for a billion values.
func TestManyAliases(t *testing.T) {
	text := "estate: a\ntarget: {store: /s}\nseeds: &s [" + strings.Repeat("x,", 1000) + "x]\nservers:\n- &w {name: w, exclude: *s, include_excluded: *s}\n" +
		strings.Repeat("- *w\n", 1000)
	start := time.Now()
	_, err := Parse("l.yaml", []byte(text))
	if err == nil || !strings.Contains(err.Error(), "more than 200000 values") {
		t.Errorf("got %.200v", err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(small))
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("estate: a\ntarget: &t {store: /s, network: {map: *t}}\nservers: [*t]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := Parse("dir/l.yaml", data)
		if (e == nil) == (err == nil) {
			t.Fatalf("got %v and %v", e, err)
		}
		var p *Problems
		if err != nil && (!errors.As(err, &p) || len(p.List) == 0) {
			t.Fatalf("error %v is not problems", err)
		}
		if err != nil {
			return
		}
		for _, s := range e.Servers {
			if !dr.ValidName(string(s.Name)) || s.Host == "" || e.Server(s.Name) == nil {
				t.Fatalf("accepted server %+v", s)
			}
		}
		if _, _, err := e.Select(nil); err != nil {
			t.Fatal(err)
		}
	})
}
