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
	e, err := Parse("x.yaml", []byte(drillEstate(`hold: [billing, sync.timer], probes: [{tcp: ":5432"}, {tcp: 22}, {http: "http://:8080/health", status: 204, text: ok}]`)))
	if err != nil {
		t.Fatal(err)
	}
	s := e.Servers[0]
	if !slices.Equal(s.Hold, []string{"billing.service", "sync.timer"}) {
		t.Errorf("hold %q", s.Hold)
	}
	want := []Probe{{TCP: 5432}, {TCP: 22}, {HTTP: "http://:8080/health", Status: 204, Text: "ok"}}
	if !slices.Equal(s.Probes, want) {
		t.Errorf("probes %+v", s.Probes)
	}
}

func TestDrillKeysRefused(t *testing.T) {
	for text, want := range map[string]string{
		`hold: ["a b"]`:                          "is no unit of systemd",
		`hold: ["x quiet=1"]`:                    "is no unit of systemd",
		`probes: [{tcp: ":0"}]`:                  "1 to 65535",
		`probes: [{tcp: ":x"}]`:                  "web1",
		`probes: [{tcp: 22, text: ok}]`:          "are of an answer by http",
		`probes: [{tcp: 22, http: "http://:1"}]`: "is one of http and tcp",
		`probes: [{http: "http://:1", stat: 1}]`: "status",
	} {
		if _, err := Parse("x.yaml", []byte(drillEstate(text))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
