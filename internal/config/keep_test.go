package config

import (
	"reflect"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

func TestKeep(t *testing.T) {
	e, err := Parse("f", []byte(`estate: a
target: {store: /s}
servers: [{name: web1}, {name: app1, after: [db1]}, {name: db1}, {name: lone}]
groups:
  - {name: shop, order: [db1, app1], keep: {last: 5, daily: 30}}
  - {name: web, order: [web1, app1]}
keep: {last: 3}
`))
	if err != nil {
		t.Fatal(err)
	}
	shop, estate := Keep{Last: 5, Daily: 30, Given: true}, Keep{Last: 3, Given: true}
	for server, want := range map[string][]Keep{"db1": {shop}, "app1": {shop, estate}, "web1": {estate}, "lone": {estate}} {
		if got := e.KeepsOf(dr.ServerName(server)); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", server, got, want)
		}
	}
	e.Keep = Keep{}
	if got := e.KeepOf(&e.Groups[1]); got != (Keep{12, 24, 14, false}) {
		t.Errorf("default %+v", got)
	}
}

// TestGroupOfEverything is the group of an estate that names none.
func TestGroupOfEverything(t *testing.T) {
	for text, want := range map[string]string{
		"servers: [{name: web1, after: [db1]}, {name: db1}]\ndatabases: [{name: erp, engine: postgres, source: {dsn: a}, target: {dsn: b}}]\n": "all erp db1 web1",
		"servers: [{name: all}]\n": "everything all",
	} {
		e, err := Parse("f", []byte("estate: a\ntarget: {store: /s}\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		groups := e.RecoveryGroups()
		if got := groups[0].Name + " " + strings.Join(groups[0].Order, " "); len(groups) != 1 || got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		servers, databases, err := e.Select([]string{groups[0].Name})
		if err != nil || groups[0].Name == "all" && (len(servers) != 2 || len(databases) != 1) {
			t.Errorf("select %s: %v, %v, %v", groups[0].Name, servers, databases, err)
		}
	}
}

func TestKeepRefused(t *testing.T) {
	for text, want := range map[string]string{
		"keep: {}":                   "f:4: keep: no recovery point would stay",
		"keep: {last: 0, hourly: 0}": "no recovery point would stay",
		"keep: {last: 12d}":          `keep: last: "12d": want a whole number`,
		"keep: {last: -1}":           "want a whole number from 0 to 1000",
		"keep: {weekly: 4}":          `keep: unknown key "weekly"; want one of`,
		"keep: {hourl: 4}":           `did you mean "hourly"?`,
		"keep: [1]":                  "want keys and values (last, hourly, daily)",
		"groups: [{name: g, order: [web1], keep: {last: no}}]": `group g: keep: last: "no"`,
	} {
		_, err := Parse("f", []byte(small+text+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
