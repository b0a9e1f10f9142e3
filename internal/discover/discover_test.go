package discover

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

func server(name, address string, more func(*inventory.Server)) inventory.Entry {
	s := &inventory.Server{Version: inventory.Version}
	s.System.Hostname, s.System.OS, s.System.Firmware = name, "Debian", "BIOS"
	s.Network.Interfaces = []inventory.Interface{{Name: "eth0", Addresses: []string{address + "/24"}, Up: true}}
	if more != nil {
		more(s)
	}
	return inventory.Entry{Name: name, Host: name, Server: s}
}

func out(remote string, port, n int, process string) inventory.Connection {
	return inventory.Connection{Out: true, Protocol: "tcp", Remote: remote, Port: port, Process: process, Count: n}
}

// estate is a shop: web1 before app1 before db1, a monitor, and somebody nobody protects.
func estate() *inventory.Estate {
	return &inventory.Estate{Version: inventory.Version, Estate: "shop", At: time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC), Entries: []inventory.Entry{
		server("web1", "10.10.0.11", func(s *inventory.Server) {
			s.Listening = []inventory.Listener{{Protocol: "tcp", Address: "0.0.0.0", Port: 443, Process: "nginx", Unit: "nginx.service"}}
			s.Sites = []inventory.Site{{Server: "nginx", Passes: []string{"app1:8080"}, File: "/etc/nginx/x"}}
			s.Connections = []inventory.Connection{{Protocol: "tcp", Remote: "203.0.113.9", Port: 443, Count: 4}}
		}),
		server("app1", "10.10.0.12", func(s *inventory.Server) {
			s.Listening = []inventory.Listener{{Protocol: "tcp", Address: "0.0.0.0", Port: 8080, Process: "java", Unit: "orders.service"}}
			s.Connections = []inventory.Connection{out("10.10.0.13", 5432, 7, "java"), out("10.10.0.40", 1433, 2, "java")}
			s.Mentions = []inventory.Mention{{File: "/etc/orders.conf", Line: 3, What: "10.10.0.13"}, {File: "/etc/orders.conf", Line: 4, What: "10.10.0.40", Port: 1433}}
		}),
		server("db1", "10.10.0.13", func(s *inventory.Server) {
			s.Listening = []inventory.Listener{{Protocol: "tcp", Address: "0.0.0.0", Port: 5432, Process: "postgres"}}
			s.Connections = []inventory.Connection{{Protocol: "tcp", Remote: "10.10.0.12", Port: 5432, Count: 9}}
			s.Databases = []inventory.Database{{Engine: "postgres", Dir: "/var/lib/postgresql", Port: 5432, Databases: []string{"shop"}}}
		}),
		server("mon1", "10.10.0.22", func(s *inventory.Server) {
			s.Connections = []inventory.Connection{out("10.10.0.11", 443, 1, "curl"), out("10.10.0.12", 8080, 1, "curl"), out("10.10.0.13", 5432, 1, "check")}
		}),
	}}
}

func TestGraph(t *testing.T) {
	g := Build(estate())
	var got []string
	for _, e := range g.Edges {
		got = append(got, fmt.Sprintf("%s %s:%d %d %s", e.From, e.To, e.Port, e.Seen, e.Service))
	}
	want := []string{"app1 10.10.0.40:1433 2 ", "app1 db1:5432 9 postgres", "mon1 app1:8080 1 orders", "mon1 db1:5432 1 postgres", "mon1 web1:443 1 nginx", "web1 app1:8080 0 orders"}
	if !slices.Equal(got, want) {
		t.Errorf("edges:\n got %q\nwant %q", got, want)
	}
	if e := g.Edges[1]; !slices.Equal(e.Evidence, []string{"/etc/orders.conf:3 names it", "java calls it"}) {
		t.Errorf("evidence of %s to %s: %q", e.From, e.To, e.Evidence)
	}
	if len(g.Clients) != 1 || g.Clients[0].Address != "203.0.113.9" || g.Clients[0].Service != "nginx" {
		t.Errorf("clients: %+v", g.Clients)
	}
	if w := g.Warnings(); len(w) != 1 || !strings.HasPrefix(w[0], "app1 talks to 10.10.0.40:1433, which is not protected") {
		t.Errorf("warnings: %q", w)
	}
	if g := Build(estate(), netip.MustParseAddr("203.0.113.9")); len(g.Clients) != 0 {
		t.Errorf("Leeward's own machine is a client: %+v", g.Clients)
	}
}

func TestOrder(t *testing.T) {
	g := Build(estate())
	needs := g.Order()
	if got := Sequence(needs); !slices.Equal(got, []string{"db1", "app1", "web1", "mon1"}) {
		t.Errorf("sequence %q", got)
	}
	groups := g.Groups(needs)
	if len(groups) != 1 || !slices.Equal(groups[0].Order, []string{"db1", "app1", "web1"}) {
		t.Errorf("groups %+v: a monitor binds nobody", groups)
	}
	// app1 and db1 call each other: neither can wait.
	e := estate()
	e.Entries[2].Server.Connections = append(e.Entries[2].Server.Connections, out("10.10.0.12", 8080, 1, "hook"))
	for _, n := range Build(e).Order() {
		if n.Server == "app1" && (len(n.After) != 0 || !slices.Equal(n.Ring, []string{"db1"})) {
			t.Errorf("app1 in a ring: %+v", n)
		}
		if n.Server == "web1" && !slices.Equal(n.After, []string{"app1"}) {
			t.Errorf("web1 before a ring: %+v", n)
		}
	}
}

var wishes = Wishes{Source: "miami", Target: "dallas", Store: "/srv/leeward", Accelerator: "auto"}

func TestPropose(t *testing.T) {
	e := estate()
	text := Propose(e, Build(e), wishes)
	c, err := config.Parse("leeward.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if s := c.Server("app1"); s == nil || len(s.After) != 1 || s.After[0] != "db1" {
		t.Errorf("app1: %+v", s)
	}
	for _, want := range []string{"after db1: postgres at port 5432", "NOT PROTECTED: app1 talks to 10.10.0.40:1433", "#   - name: db1-shop", "name: around-app1"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}

// nasty are names that are more than names to YAML, a terminal or a browser.
var nasty = []string{"a: b", "x\n- {name: evil}", "\"},\n evil: [", "# no", "'", "{{.}}", "\x1b[2J", "<script>alert(1)</script>", "\u202etxt", "yes", "~", "- a", "&a", "*a", "!!x", "\u2028servers: []", strings.Repeat("n", 300), "\xff\xfe", ""}

func TestHostileNames(t *testing.T) {
	e := &inventory.Estate{Version: inventory.Version, Estate: "shop"}
	for i, n := range nasty {
		x := server(n, fmt.Sprintf("10.0.0.%d", i+1), func(s *inventory.Server) {
			s.System.OS = n
			s.Listening = []inventory.Listener{{Protocol: "tcp", Address: "0.0.0.0", Port: 80, Process: n, Unit: n}}
			s.Connections = []inventory.Connection{out(fmt.Sprintf("10.0.0.%d", (i+1)%len(nasty)+1), 80, 1, n), out("10.9.9.9", 1, 1, n)}
			s.Databases = []inventory.Database{{Engine: "postgres", Databases: []string{n}}}
		})
		x.Name, x.Host = "", fmt.Sprintf("h%d", i)
		e.Entries = append(e.Entries, x)
	}
	nameAll(e)
	text := Propose(e, Build(e), wishes)
	c, err := config.Parse("leeward.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(c.Servers) != len(nasty) {
		t.Errorf("%d servers of %d", len(c.Servers), len(nasty))
	}
	for _, r := range text {
		if r < ' ' && r != '\n' || r == '\u202e' || r == '\u2028' {
			t.Errorf("the proposal holds %q", r)
		}
	}
	merged, err := Merge("estate: shop\nsource: {name: a}\ntarget: {name: b, store: /s}\nservers:\n  - {name: mine, host: y}\n", e, Build(e))
	if err != nil {
		t.Fatal(err)
	}
	if c, err = config.Parse("leeward.yaml", []byte(merged)); err != nil || len(c.Servers) != len(nasty)+1 {
		t.Errorf("merged: %v\n%s", err, merged)
	}
}

func TestScalar(t *testing.T) {
	for _, n := range append(nasty, "a, b", "x: y", "plain", "10", "0x1f", "null", "2017-09-06", " lead", "trail ", "a#b", "a #b", "[") {
		want := strings.ToValidUTF8(n, "\uFFFD")
		var back struct {
			A string
			B []string
		}
		if err := yaml.Unmarshal([]byte("{a: "+scalar(n)+", b: ["+scalar(n)+"]}"), &back); err != nil || back.A != want || len(back.B) != 1 || back.B[0] != want {
			t.Errorf("%q is written as %s and read as %+v, %v", n, scalar(n), back, err)
		}
	}
}

const written = `# Ours. Do not touch.
estate: shop
source: {name: miami}
target: {name: dallas, store: /srv/leeward}   # the new array
servers:
  - {name: app1, host: app1, exclude: [/tmp/x]} # the shop
  - name: web1
    host: web1
    exclude:
      - /srv/cache/**

# and nothing else
keep: {last: 3}
`

func TestMerge(t *testing.T) {
	e := estate()
	text, err := Merge(written, e, Build(e))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("leeward.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if a := c.Server("app1"); len(a.After) != 1 || len(a.Exclude) != 1 || c.Server("db1") == nil || len(c.Server("web1").After) != 1 || c.Keep.Last != 3 {
		t.Errorf("merged:\n%s", text)
	}
	for _, line := range strings.Split(strings.TrimSpace(written), "\n") {
		if !strings.Contains(text, line) && !strings.Contains(line, "name: app1") {
			t.Errorf("the line %q is gone", line)
		}
	}
	again, err := Merge(text, e, Build(e))
	if err != nil || again != text {
		t.Errorf("merging again changes it: %v\n%s", err, Diff("a", "b", text, again))
	}
}

// TestDiff has patch(1) as the judge.
func TestDiff(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip("it needs patch")
	}
	for i, c := range [][2]string{{"a\nb\nc\n", "a\nx\nc\n"}, {"", "a\n"}, {"a\n", ""}, {"a", "a\n"}, {strings.Repeat("l\n", 40) + "z\n", "0\n" + strings.Repeat("l\n", 40)},
		{written, written + "# end"}, {"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\n15\n16\n", "1\nB\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n14\nX\n16\n"}} {
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(c[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "-s", file)
		cmd.Stdin = strings.NewReader(Diff("f", "f", c[0], c[1]))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("case %d: %v: %s", i, err, out)
			continue
		}
		got, _ := os.ReadFile(file)
		if string(got) != c[1] {
			t.Errorf("case %d: patch makes %q of it, want %q", i, got, c[1])
		}
	}
	if Diff("a", "b", "x", "x") != "" {
		t.Error("equal files differ")
	}
}

func clone(t *testing.T, e *inventory.Estate) *inventory.Estate {
	t.Helper()
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	c := &inventory.Estate{}
	if err := json.Unmarshal(b, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestDrift(t *testing.T) {
	a := estate()
	a.Entries[0].Server.Packages = []inventory.Package{{Name: "nginx", Version: "1"}, {Name: "old", Version: "1"}}
	a.Entries[0].Server.Users = []inventory.User{{Name: "root"}}
	a.Entries[1].Server.Packages = []inventory.Package{{Name: "java", Version: "8"}}
	b := clone(t, a)
	if d := Drift(a, b); len(d) != 0 {
		t.Errorf("nothing changed: %+v", d)
	}
	s := b.Entries[0].Server
	s.Packages = []inventory.Package{{Name: "nginx", Version: "2"}, {Name: "new", Version: "1"}}
	s.Connections = append(s.Connections, out("10.10.0.13", 5432, 1, "psql"))
	b.Entries[1].Server.Packages = nil
	b.Entries[1].Server.Unknown = []inventory.Unknown{{What: "packages", Why: "locked"}}
	b.Entries[3] = inventory.Entry{Name: "mon1", Host: "mon1", Err: "no route to host"}
	var got []string
	for _, c := range Drift(a, b) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", c.Server, c.Area, c.What, strings.Fields(c.Item)[0])))
	}
	want := []string{"app1 package unknown java:", "mon1 server unknown mon1", "web1 package added new:", "web1 package changed nginx:", "web1 package removed old:", "web1 dependency added db1:5432"}
	if !slices.Equal(got, want) {
		t.Errorf("drift:\n got %q\nwant %q", got, want)
	}
}

func TestKeep(t *testing.T) {
	store := t.TempDir()
	if k, err := Kept(store); err != nil || len(k) != 0 {
		t.Fatal(k, err)
	}
	e := estate()
	path, err := Keep(store, e)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Load(path)
	if err != nil || !reflect.DeepEqual(back, clone(t, e)) {
		t.Errorf("%v", err)
	}
	if k, err := Kept(store); err != nil || !slices.Equal(k, []string{path}) {
		t.Error(k, err)
	}
	for i := range maxKept {
		e.At = e.At.Add(time.Minute)
		if _, err := Keep(store, e); err != nil {
			t.Fatal(i, err)
		}
	}
	if k, err := Kept(store); err != nil || len(k) != maxKept || slices.Contains(k, path) {
		t.Errorf("%d are kept, %v", len(k), err)
	}
	if err := os.WriteFile(path, []byte(`{"version": 9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "form 9") {
		t.Errorf("a later form: %v", err)
	}
}

func TestCheck(t *testing.T) {
	now := time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC)
	e := estate()
	s := e.Entries[1].Server
	s.System.Kernel = "5.1"
	s.System.Kernels = []inventory.Kernel{{Version: "5.1", Builtin: []string{"virtio_net"}}, {Version: "4.9"}}
	s.Certs = []inventory.Certificate{{File: "/c", Addresses: []string{"10.10.0.12"}, Until: now.Add(10 * 24 * time.Hour)}, {File: "/d", Until: now.Add(-time.Hour)}}
	s.Cron = []inventory.CronJob{{File: "/etc/cron.d/x", Line: 2, When: "0 1 * * *", Command: "rsync a b:", Own: true}, {File: "/etc/cron.d/packaged", Command: "ssh"}}
	s.Licences = []inventory.Licence{{File: "/opt/flexlm", Why: "FlexLM"}}
	s.Storage.Mounts = []inventory.Mount{{At: "/home", Device: "nas:/home", Type: "nfs4"}}
	m := Move{Now: now, Address: func(a netip.Addr) (netip.Addr, bool) {
		b := a.As4()
		return netip.AddrFrom4([4]byte{10, 20, b[2], b[3]}), b[1] == 10
	}}
	var got []string
	for _, f := range Check(e, Build(e), m)["app1"] {
		got = append(got, string(f.Level)+": "+f.Text)
	}
	for _, want := range []string{"blocker: kernel 5.1 has no driver for a virtual machine's disk", "names the address 10.10.0.12, which is 10.20.0.12", "/c of  ends on 2017-09-16", "/d of  ended on",
		"warning: jobs that reach out of the host, and must not run at both sides: /etc/cron.d/x:2", "FlexLM", "/home from nas",
		"files name addresses that move: 10.10.0.13 (10.20.0.13 at the target) in /etc/orders.conf:3", "it needs 10.10.0.40:1433, which is not protected"} {
		if !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("no finding says %q:\n%s", want, strings.Join(got, "\n"))
		}
	}
	for _, never := range []string{"4.9", "packaged", "network card"} {
		if strings.Contains(strings.Join(got, "\n"), never) {
			t.Errorf("a finding speaks of %s:\n%s", never, strings.Join(got, "\n"))
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{"Web-01": "web-01", "db.example.com": "db.example.com", "-x-": "x", "ü": "server", "a b": "a-b"} {
		if got := fitName(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	e := &inventory.Estate{Entries: []inventory.Entry{{Host: "10.0.0.1"}, {Host: "x", Name: "web"}, server("web", "10.0.0.2", nil), server("web", "10.0.0.3", nil)}}
	e.Entries[2].Name, e.Entries[3].Name = "", ""
	nameAll(e)
	if e.Entries[0].Name != "10.0.0.1" || e.Entries[2].Name != "web-2" || e.Entries[3].Name != "web-3" {
		t.Errorf("%+v", e.Entries)
	}
}

// FuzzMerge has any file for an old configuration: what comes out reads as YAML, or nothing
// comes out.
func FuzzMerge(f *testing.F) {
	f.Add(written)
	f.Add("servers:\n- {name: a}\n- name: b\n")
	f.Add("servers: [{name: a}]")
	f.Add("servers:\n  - name: app1\n    host: |\n      x\n      y\n  - {name: db1, after: [x]}")
	e := estate()
	g := Build(e)
	f.Fuzz(func(t *testing.T, old string) {
		_, _ = Merge(old, e, g)
		Diff("a", "b", old, written)
	})
}
