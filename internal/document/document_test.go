package document

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/runbook"
)

var (
	update = flag.Bool("update", false, "write the golden edition anew")
	show   = flag.String("show", "", "write the editions of six and of sixty servers below `DIR`, to look at")
)

func at(day int) time.Time { return time.Date(2017, 9, day, 12, 0, 0, 0, time.UTC) }

func listener(process string, port int) inventory.Listener {
	return inventory.Listener{Protocol: "tcp", Address: "0.0.0.0", Port: port, Process: process, Unit: process + ".service", Package: process}
}

// estate makes an edition of n servers: a web, an application and a database to every
// shop, a monitor, a name server, and a database that nobody protects.
func estate(n int, name func(kind string, i int) string) *Edition {
	e := &Edition{Estate: "harbour", Source: "miami", Target: "dallas", Store: "/srv/leeward", File: "leeward.yaml", Version: "1.0", At: at(8), Looked: at(7),
		Networks: [][2]string{{"10.10.0.0/24", "10.20.0.0/24"}}, Previous: at(1), NotCopied: []string{"/var/cache/leeward/**"},
		Contacts:    []Contact{{"Ada", "on call", "+1 305 555 0100", "ada@example.com"}},
		Credentials: []Credential{{"ssh to the servers", "~/.ssh/config, and the keys it names"}},
		Groups:      []Group{{Name: "shop", Order: []string{name("db", 1), name("app", 1), name("web", 1)}, RPO: time.Minute, RTO: 10 * time.Minute}},
		Redirects:   []string{"www: the record www.example.com. at 192.0.2.1:53, from [10.10.0.11] to [10.20.0.11]"},
		Databases:   []Database{{Name: "erp", Engine: "mssql", Mode: "logical", Source: "sqlserver://leeward@10.10.0.14", Target: "sqlserver://leeward@10.20.0.14", Secrets: []string{"file /etc/leeward/erp.pass"}}},
		Changes:     []discover.Change{{Server: name("web", 1), Area: "package", What: "changed", Item: "nginx", Before: "1.1", After: "1.2"}}}
	inv := &inventory.Estate{Version: inventory.Version, At: at(7)}
	for i := 0; len(e.Servers) < n-2; i++ {
		kind := []string{"db", "app", "web"}[i%3]
		e.Servers = append(e.Servers, shopServer(kind, i/3+1, i, name))
	}
	e.Servers = append(e.Servers, shopServer("dns", 1, n-2, name), shopServer("mon", 1, n-1, name))
	for _, s := range e.Servers {
		s.Inventory.Network.Resolvers = []string{address(n - 2)}
	}
	monitor := e.Servers[n-1].Inventory
	for _, s := range e.Servers[:n-2] {
		monitor.Connections = append(monitor.Connections, inventory.Connection{Out: true, Protocol: "tcp", Remote: strings.TrimSuffix(s.Inventory.Network.Interfaces[0].Addresses[0], "/24"), Port: 9100, Process: "poll", Count: 3})
	}
	for _, s := range e.Servers {
		inv.Entries = append(inv.Entries, inventory.Entry{Name: s.Name, Host: s.Host, Server: s.Inventory})
	}
	e.Graph = discover.Build(inv)
	e.Needs = e.Graph.Order()
	e.Servers[1].Drift = []discover.Change{{Server: e.Servers[1].Name, Area: "package", What: "changed", Item: "java", Before: "8", After: "11"}}
	e.Alarms = []string{"Servers that changed since their copy was last proven, and how often: " + e.Servers[1].Name + " (1)."}
	e.Procedures = []Procedure{{Kind: "cutover", Last: []Measured{{Step: "quiesce", Took: 4 * time.Second, At: at(6)}}, Plan: &runbook.Plan{Steps: []runbook.Step{
		{ID: "quiesce", Phase: "quiesce", Title: "Stop what writes", Action: "quiesce", Commands: []string{"systemctl stop orders | cat"}},
		{ID: "boot", Phase: "boot", Title: "Boot " + e.Servers[0].Name, Action: "boot", Object: e.Servers[0].Name, Look: "its console"}}}},
		{Kind: "failover", Err: "there is no recovery point of " + e.Servers[2].Name}}
	return e
}

// address is that of server i.
func address(i int) string { return fmt.Sprintf("10.10.0.%d", 11+i) }

func shopServer(kind string, number, i int, name func(string, int) string) Server {
	s := &inventory.Server{Version: inventory.Version, At: at(7), Storage: inventory.Storage{WrittenPerHour: 12e6,
		Filesystems: []inventory.Filesystem{{Mount: "/", Device: "/dev/vda1", Type: "ext4", UUID: "0000-" + kind, Size: 20e9, Used: 5e9}}}}
	s.System = inventory.System{Hostname: name(kind, number), OS: "Debian 12", Kernel: "6.1", Arch: "amd64", Firmware: "BIOS", CPUs: 2, Memory: 4e9}
	s.Network.Interfaces = []inventory.Interface{{Name: "ens3", Addresses: []string{address(i) + "/24"}, Up: true}}
	x := Server{Name: name(kind, number), Host: name(kind, number), Inventory: s, Point: "20170907T120000.000Z", PointAt: at(7), Consistent: "crash",
		Drilled: true, Proven: i != 2, DrillPoint: "20170906T120000.000Z", DrillAt: at(6), Proof: 31 * time.Second, Address: []string{fmt.Sprintf("10.20.0.%d", 11+i)}}
	call := func(address string, port int) {
		s.Connections = append(s.Connections, inventory.Connection{Out: true, Protocol: "tcp", Remote: address, Port: port, Process: kind, Count: 2})
	}
	switch kind {
	case "db":
		s.Listening = []inventory.Listener{listener("postgres", 5432), listener("node", 9100)}
		s.Databases = []inventory.Database{{Engine: "postgres", Version: "15", Dir: "/var/lib/postgresql", Size: 3e9, Databases: []string{"shop"}}}
		s.Cron = []inventory.CronJob{{File: "/etc/cron.d/dump", When: "0 3 * * *", User: "postgres", Command: "pg_dump shop | ssh vault cat", Own: true}}
	case "app":
		s.Listening = []inventory.Listener{listener("orders", 8080), listener("node", 9100)}
		s.Mentions = []inventory.Mention{{File: "/etc/orders.conf", Line: 3, What: address(i - 1)}}
		x.After = []string{name("db", number)}
		call(address(i-1), 5432)
		if number == 1 {
			call("10.10.0.240", 1433)
		}
	case "web":
		s.Listening = []inventory.Listener{listener("nginx", 443), listener("node", 9100)}
		s.Certs = []inventory.Certificate{{File: "/etc/ssl/shop.pem", Subject: "CN=shop", Names: []string{"shop.example.com"}, Until: at(30), UsedBy: []string{"nginx"}}}
		x.After, x.Cause = []string{name("app", number)}, "no console: it stopped before the kernel"
		call(address(i-1), 8080)
	case "dns":
		s.Listening = []inventory.Listener{{Protocol: "udp", Address: "0.0.0.0", Port: 53, Process: "dnsmasq"}}
		x.Drilled = false
	}
	return x
}

func plainName(kind string, i int) string { return fmt.Sprintf("%s%d", kind, i) }

// TestGolden holds an edition against the one in testdata: what changes is seen in review.
func TestGolden(t *testing.T) {
	files := Write(estate(6, plainName))
	for name, got := range files {
		file := filepath.Join("testdata", "golden", name)
		if *update {
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, got, 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Errorf("%v; go test ./internal/document -update writes it", err)
		} else if d := discover.Diff(file, name, string(want), string(got)); d != "" {
			t.Errorf("the edition is not as it was; if that is meant: go test ./internal/document -update\n%s", d)
		}
	}
	if *show != "" {
		for n, e := range map[string]*Edition{"six": estate(6, plainName), "sixty": estate(60, plainName)} {
			for name, b := range Write(e) {
				file := filepath.Join(*show, n, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

var (
	htmlHref = regexp.MustCompile(`href="([^"]*)"`)
	htmlID   = regexp.MustCompile(` id="([^"]*)"`)
	mdLink   = regexp.MustCompile(`[^\\]\]\(([^)]*)\)`)
	mdAnchor = regexp.MustCompile(`<a id="([^"]*)"></a>`)
)

// TestLinks follows every link of both forms.
func TestLinks(t *testing.T) {
	files := Write(estate(60, plainName))
	page := string(files["runbook.html"])
	ids := map[string]int{}
	for _, m := range htmlID.FindAllStringSubmatch(page, -1) {
		if ids[m[1]]++; ids[m[1]] > 1 && m[1] != "tip" {
			t.Errorf("the id %q is there twice", m[1])
		}
	}
	links := 0
	for _, m := range htmlHref.FindAllStringSubmatch(page, -1) {
		links++
		if id, inside := strings.CutPrefix(m[1], "#"); inside && ids[id] == 0 || !inside && !isOutside(m[1]) {
			t.Errorf("the link %q leads nowhere", m[1])
		}
	}
	for name, b := range files {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, m := range mdLink.FindAllStringSubmatch(string(b), -1) {
			links++
			followMarkdown(t, files, name, m[1])
		}
	}
	if links < 500 {
		t.Errorf("there are only %d links", links)
	}
}

func followMarkdown(t *testing.T, files map[string][]byte, from, link string) {
	t.Helper()
	if isOutside(link) {
		return
	}
	file, id, _ := strings.Cut(link, "#")
	if file = path.Join(path.Dir(from), file); strings.HasPrefix(link, "#") {
		file = from
	}
	b, ok := files[file]
	if !ok {
		t.Errorf("%s links to %s, which is not there", from, link)
		return
	}
	if id == "" {
		return
	}
	for _, m := range mdAnchor.FindAllSubmatch(b, -1) {
		if string(m[1]) == id {
			return
		}
	}
	t.Errorf("%s links to %s: there is no such anchor", from, link)
}

// TestDrawing looks for servers that cover each other, and leave the frame.
func TestDrawing(t *testing.T) {
	for _, n := range []int{5, 6, 20, 60, 200} {
		e := estate(n, plainName)
		p := &topology{nodes: map[string]*node{}}
		p.collect(e)
		p.place()
		if len(p.nodes) != n+1 {
			t.Errorf("%d servers: %d are drawn, want them all and the one that is not protected", n, len(p.nodes))
		}
		for a, x := range p.nodes {
			if x.x < 0 || x.y < titleH || x.x+nodeW > p.w || x.y+nodeH > p.h {
				t.Errorf("%d servers: %s leaves the frame", n, a)
			}
			for b, y := range p.nodes {
				if a < b && x.x < y.x+nodeW && y.x < x.x+nodeW && x.y < y.y+nodeH && y.y < x.y+nodeH {
					t.Errorf("%d servers: %s covers %s", n, a, b)
				}
			}
		}
		svg, left := drawTopology(e)
		if err := wellFormed([]byte(svg), nil); err != nil {
			t.Errorf("%d servers: %v", n, err)
		}
		if n >= 60 && !slices.ContainsFunc(left, func(s string) bool { return strings.Contains(s, "mon1 asks") }) {
			t.Errorf("%d servers: nothing is said of what is not drawn: %q", n, left)
		}
	}
}

// wellFormed reads XML, or HTML as it is written here, and counts elements.
func wellFormed(b []byte, count map[string]int) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	d.AutoClose, d.Entity = []string{"meta"}, xml.HTMLEntity
	d.Strict = count == nil
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if start, ok := token.(xml.StartElement); ok && count != nil {
			count[start.Name.Local]++
			for _, a := range start.Attr {
				if strings.HasPrefix(strings.ToLower(a.Name.Local), "on") {
					return fmt.Errorf("the attribute %s", a.Name.Local)
				}
			}
		}
	}
}

var nasty = []string{`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, "`|]( javascript:alert(1) )", "a | b", "**x**", "</svg></style>", "\x1b[2J\u202etxt", "&lt;&amp;", "]]>", "<!--", "\xff\xfe", "line\n# heading", "{{.}}", strings.Repeat("w", 400)}

// TestHostileNames puts names that mean something to browsers, terminals and Markdown into
// every text of an inventory. A server's own name is leeward.yaml's, which refuses such.
func TestHostileNames(t *testing.T) {
	clean := map[string]int{}
	if err := wellFormed(Write(estate(6, plainName))["runbook.html"], clean); err != nil {
		t.Fatal(err)
	}
	for _, evil := range nasty {
		e := estate(6, plainName)
		for i := range e.Servers {
			s := e.Servers[i].Inventory
			s.System.OS, s.System.Hostname, s.System.CPU = evil, evil, evil
			s.Databases = []inventory.Database{{Engine: evil, Databases: []string{evil}, Replication: []string{evil}}}
			s.Cron = []inventory.CronJob{{When: evil, Command: evil, File: evil, Own: true}}
			s.Units = []inventory.Unit{{Name: evil, Command: evil, Own: true}}
			s.Sites = []inventory.Site{{Names: []string{evil}, Passes: []string{evil}}}
			s.Containers = []inventory.Container{{Name: evil, Image: evil}}
			s.Certs = []inventory.Certificate{{Subject: evil, Names: []string{evil}}}
			s.Listening = []inventory.Listener{{Protocol: "tcp", Address: "0.0.0.0", Port: 80, Process: evil, Unit: evil}}
			s.Unknown = []inventory.Unknown{{What: evil, Why: evil}}
			e.Servers[i].Cause = evil
		}
		for i := range e.Graph.Edges {
			e.Graph.Edges[i].Evidence, e.Graph.Edges[i].Service = []string{evil}, evil
		}
		files := Write(e)
		count := map[string]int{}
		if err := wellFormed(files["runbook.html"], count); err != nil {
			t.Errorf("%q: %v", evil, err)
		}
		for tag := range count {
			if clean[tag] == 0 {
				t.Errorf("%q: the page holds an element %s", evil, tag)
			}
		}
		if err := wellFormed(files[topologyFile], nil); err != nil {
			t.Errorf("%q: the drawing: %v", evil, err)
		}
		for name, b := range files {
			if path.Ext(name) == ".md" && (bytes.Contains(b, []byte("<script")) || bytes.Contains(b, []byte("<img")) || bytes.Contains(b, []byte("\n# heading")) || bytes.ContainsAny(b, "\x1b\u202e")) {
				t.Errorf("%q is itself in %s", evil, name)
			}
			for line := range strings.Lines(string(b)) {
				if path.Ext(name) == ".md" && strings.HasPrefix(line, "| ") && strings.Count(line, " | ") > 8 {
					t.Errorf("%q breaks a table of %s: %s", evil, name, line)
				}
			}
		}
	}
}

// TestNoInventory is the first edition of somebody who has only a leeward.yaml.
func TestNoInventory(t *testing.T) {
	e := &Edition{Estate: "x", Source: "a", Target: "b", File: "leeward.yaml", At: at(8), Servers: []Server{{Name: "web1", Host: "web1", After: []string{"db1"}}, {Name: "db1", Host: "db1"}}}
	text := string(Write(e)["runbook.md"])
	for _, want := range []string{"leeward discover makes one", "Nobody is named", "first edition", "never drilled"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if got := startOrder(e.Servers); !slices.Equal(got, []string{"db1", "web1"}) {
		t.Errorf("start order %q", got)
	}
}
