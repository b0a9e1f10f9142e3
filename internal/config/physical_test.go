package config

import (
	"reflect"
	"strings"
	"testing"
)

const physicalHead = "estate: a\nsource: {name: m, ssh: {user: ops}}\ntarget: {store: /s}\nservers: [{name: db1, host: 10.10.0.13, ssh: {port: 2222}}]\ndatabases:\n"

func TestPhysical(t *testing.T) {
	e, err := Parse("l.yaml", []byte(physicalHead+`  - name: shop
    engine: postgres
    mode: physical
    source: {dsn: "postgres://l@10.10.0.13/shop", server: {host: db1, data: /var/lib/postgresql/15/main, owner: postgres}}
    target:
      dsn: postgres://l@127.0.0.1:5433/shop
      server: {data: /srv/pg/shop/, owner: postgres, tools: /usr/lib/postgresql/15/bin, address: "10.20.0.1:5433", start: [systemctl, start, pg], stop: [systemctl, stop, pg]}
`))
	if err != nil {
		t.Fatal(err)
	}
	d := e.Databases[0]
	want := &DatabaseServer{Address: "10.20.0.1:5433", Data: "/srv/pg/shop", Owner: "postgres", Tools: "/usr/lib/postgresql/15/bin",
		Start: []string{"systemctl", "start", "pg"}, Stop: []string{"systemctl", "stop", "pg"}}
	if !reflect.DeepEqual(d.Target.Server, want) || d.Source.Server.Host != "10.10.0.13" || d.Source.Server.SSH.Port != 2222 || d.Source.Server.SSH.User != "ops" || d.Mode != "physical" {
		t.Errorf("got %+v, %+v, %+v", d, d.Source.Server, d.Target.Server)
	}
}

func TestPhysicalProblems(t *testing.T) {
	const ends = `source: {dsn: "m@tcp(a:1)/x"%s}, target: {dsn: "m@tcp(b:1)/x"%s}`
	entry := func(head, src, dst string) string {
		return physicalHead + "  - {name: x, " + head + ", " + strings.Replace(strings.Replace(ends, "%s", src, 1), "%s", dst, 1) + "}\n"
	}
	const at, full = ", server: {data: /d}", ", server: {data: /d, start: [a], stop: [b]}"
	for _, c := range []struct{ name, text, want string }{
		{"no place", entry("engine: postgres, mode: physical", "", ""), `wants server: {data: …} for the target`},
		{"no backup", entry("engine: mariadb, mode: physical", "", full), `wants server: {data: …} for the source`},
		{"no start", entry("engine: mariadb, mode: physical", full, at), `target: server: start and stop are missing`},
		{"half", entry("engine: mariadb, mode: physical", full, ", server: {data: /d, start: [a]}"), `want both start and stop`},
		{"mssql", entry("engine: mssql, mode: physical", full, full), `not driven for mssql`},
		{"tables", entry("engine: postgres, mode: physical, tables: {include: [a]}", "", at), `tables: chooses rows`},
		{"instance", entry("engine: postgres, mode: physical, instance: copy", "", at), `has all of that already`},
		{"choice", entry("engine: postgres, instance: copi", "", ""), `unknown value "copi"; did you mean "copy"?`},
		{"relative", entry("engine: postgres, mode: physical", "", ", server: {data: d}"), `"d": want a whole path`},
		{"root", entry("engine: postgres, mode: physical", "", ", server: {data: /}"), `"/": want a whole path`},
		{"up", entry("engine: postgres, mode: physical", "", ", server: {data: /a/..}"), `"/a/..": want a whole path`},
		{"key", entry("engine: postgres, mode: physical", "", ", server: {dat: /d}"), `unknown key "dat"; did you mean "data"?`},
		{"host", entry("engine: postgres, mode: physical", "", ", server: {data: /d, host: -oX}"), `"-oX": want a single word`},
		{"address", entry("engine: postgres, mode: physical", "", ", server: {data: /d, address: h}"), `"h": want host:port`},
	} {
		if _, err := Parse("l.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
}

func TestEndpointHost(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://me:secret@10.0.0.1:5432/shop?sslmode=disable": "10.0.0.1:5432", "sqlserver://sa:secret@db?database=erp": "db",
		"me:se)cret@tcp(10.0.0.2:3306)/plant": "10.0.0.2:3306", "host=10.0.0.3 password=secret": "10.0.0.3", "me@unix(/run/x)/plant": "", "": "", "secret": "",
	} {
		if got := (Endpoint{DSN: dsn}).Host(); got != want {
			t.Errorf("%s: %q, want %q", dsn, got, want)
		}
	}
}
