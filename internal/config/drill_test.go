package config

import (
	"slices"
	"strings"
	"testing"
)

func drillEstate(server string) string {
	return "estate: acme\nsource: {name: miami}\ntarget: {name: dallas, store: /srv/leeward}\nservers:\n  - {name: web1, host: 10.0.0.1, " + server + "}\n"
}

func TestDrillKeys(t *testing.T) {
	e, err := Parse("x.yaml", []byte(drillEstate(`hold: [billing, sync.timer], probes: [{tcp: ":5432"}, {tcp: 22}, {http: "http://:8080/health", status: 204, text: ok}, {command: "psql -Atc 'select count(*) > 0 from orders'", expect: t}, {sql: "select 1", engine: mariadb, database: shop, expect: "1"}]`)))
	if err != nil {
		t.Fatal(err)
	}
	s := e.Servers[0]
	if !slices.Equal(s.Hold, []string{"billing.service", "sync.timer"}) {
		t.Errorf("hold %q", s.Hold)
	}
	want := []Probe{{TCP: 5432}, {TCP: 22}, {HTTP: "http://:8080/health", Status: 204, Text: "ok"},
		{Command: "psql -Atc 'select count(*) > 0 from orders'", Expect: "t"},
		{SQL: "select 1", Engine: "mariadb", Database: "shop", Expect: "1"}}
	if !slices.Equal(s.Probes, want) {
		t.Errorf("probes %+v", s.Probes)
	}
}

func TestDrillKeysRefused(t *testing.T) {
	for text, want := range map[string]string{
		`hold: ["a b"]`:                                                      "is no unit of systemd",
		`hold: ["x quiet=1"]`:                                                "is no unit of systemd",
		`probes: [{tcp: ":0"}]`:                                              "1 to 65535",
		`probes: [{tcp: ":x"}]`:                                              "web1",
		`probes: [{tcp: 22, text: ok}]`:                                      "are of an answer by http",
		`probes: [{tcp: 22, http: "http://:1"}]`:                             "is one of http, tcp, command and sql",
		`probes: [{tcp: 22, expect: t}]`:                                     "is of what a command prints or sql answers",
		`probes: [{command: a, tcp: 1}]`:                                     "is one of http, tcp, command and sql",
		`probes: [{command: [a, b]}]`:                                        "want one value",
		`probes: [{expect: t}]`:                                              "is one of http, tcp, command and sql",
		`probes: [{http: "http://:1", stat: 1}]`:                             "status",
		`probes: [{sql: "select 1"}]`:                                        "wants engine",
		`probes: [{sql: "select 1", engine: db2}]`:                           "postgres",
		`probes: [{sql: "select 1", engine: postgres, database: "-h evil"}]`: "is no name of a database",
		`probes: [{command: a, engine: postgres}]`:                           "are of a probe by sql",
		`probes: [{sql: "select 1", engine: mariadb, command: a}]`:           "is one of http",
	} {
		if _, err := Parse("x.yaml", []byte(drillEstate(text))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
