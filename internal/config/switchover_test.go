package config

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

const moving = `estate: acme
source: {name: miami}
target: {name: dallas, store: /srv/leeward, network: {bridge: br0}}
servers:
  - {name: db1}
  - name: app1
    quiesce: {stop: [shopper, queue.timer]}
    fence: {command: virsh destroy app1, check: "! virsh domstate app1 | grep running", host: db1}
  - name: web1
    quiesce: {run: {command: a2dismod, host: web1, repeat: yes}, undo: {command: a2enmod}}
databases:
  - name: shop
    engine: postgres
    fence: {command: cut, check: look}
    source: {dsn: "postgres://u@10.10.0.13/shop"}
    target: {dsn: "postgres://u@10.20.0.13/shop"}
switchover:
  window: 4h
  grace: 30s
  approval: 15m
  compare: rows
  redirect:
    - name: shop
      dns:
        server: 10.20.0.2:5353
        zone: lab.example
        record: DB.lab.example.
        ttl: 5s
        source: 10.10.0.13
        target: [10.20.0.13, "fd00::13"]
        key: {name: leeward, algorithm: hmac-sha512, secret_file: tsig.key}
    - {name: proxy, to: {command: proxy dallas}, back: {command: proxy miami}}
  steps:
    - {name: call, before: quiesce, manual: call the harbour master}
    - {name: warm, after: promote, of: [cutover], run: {command: warm.sh, host: app1, check: is-warm}, timeout: 1m}
    - {name: page, after: redirect, http: {url: "https://status.example/up", method: POST, expect: 204, check: is-up}}
`

func TestParseSwitchover(t *testing.T) {
	e, err := Parse("/etc/lw/leeward.yaml", []byte(moving))
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	want := Switchover{Window: 4 * time.Hour, Grace: 30 * time.Second, Approval: 15 * time.Minute, Compare: true,
		Redirect: []Redirect{
			{Name: "shop", DNS: &DNS{Server: "10.20.0.2:5353", Zone: "lab.example.", Record: "db.lab.example.", TTL: 5 * time.Second,
				Source: []netip.Addr{addr("10.10.0.13")}, Target: []netip.Addr{addr("10.20.0.13"), addr("fd00::13")},
				Key: TSIG{Name: "leeward.", Algorithm: "hmac-sha512", Secret: Secret{File: "/etc/lw/tsig.key"}}}},
			{Name: "proxy", To: &Work{Command: "proxy dallas"}, Back: &Work{Command: "proxy miami"}},
		},
		Steps: []UserStep{
			{Name: "call", Before: true, Phase: "quiesce", Timeout: defaultStep, Manual: "call the harbour master", Method: "GET"},
			{Name: "warm", Phase: "promote", Of: []string{"cutover"}, Timeout: time.Minute, Method: "GET",
				Work: &Work{Host: "app1", Command: "warm.sh", Check: "is-warm"}},
			{Name: "page", Phase: "redirect", Timeout: defaultStep, Method: "POST", URL: "https://status.example/up", Expect: 204,
				Work: &Work{Check: "is-up"}},
		},
	}
	if !reflect.DeepEqual(e.Switchover, want) {
		t.Errorf("got  %+v\nwant %+v", e.Switchover, want)
	}
	app, web := e.Server("app1"), e.Server("web1")
	if !reflect.DeepEqual(app.Quiesce, &Quiesce{Stop: []string{"shopper.service", "queue.timer"}}) || app.Fence == nil || app.Fence.Host != "db1" {
		t.Errorf("app1: %+v, %+v", app.Quiesce, app.Fence)
	}
	if web.Quiesce.Work == nil || !web.Quiesce.Work.Repeat || web.Quiesce.Undo.Command != "a2enmod" {
		t.Errorf("web1: %+v", web.Quiesce)
	}
	if e.Target.Bridge != "br0" || e.Database("shop").Fence.Check != "look" {
		t.Errorf("%+v, %+v", e.Target, e.Database("shop"))
	}
}

func TestSwitchoverDefaults(t *testing.T) {
	e, err := Parse("f", []byte("estate: a\ntarget: {store: /s}\nservers: [{name: b}]\n"))
	if err != nil || e.Switchover.Window != 24*time.Hour || e.Switchover.Grace != 10*time.Second || e.Switchover.Approval != time.Hour {
		t.Errorf("%+v, %v", e.Switchover, err)
	}
}

func TestSwitchoverRefusals(t *testing.T) {
	for change, want := range map[string]string{
		"window: 4h -> windw: 4h":                           `unknown key "windw"; did you mean "window"?`,
		"grace: 30s -> grace: 30":                           "the unit is missing",
		"compare: rows -> compare: all":                     `unknown value "all"`,
		"record: DB.lab.example. -> record: db.other":       "is not in zone",
		"zone: lab.example -> zone: lab..example":           "is no name of DNS",
		"ttl: 5s -> ttl: 1ms":                               "whole seconds",
		"server: 10.20.0.2:5353 -> server: 10.20.0.2:99999": "want an address or a name",
		"source: 10.10.0.13 -> source: db1":                 "is no IP address",
		", secret_file: tsig.key -> ":                       "want one of secret_file, secret_env and secret_command",
		"secret_file: tsig.key -> secret: aGFyYm91cg==":     `unknown key "secret"`,
		"algorithm: hmac-sha512 -> algorithm: hmac-md5":     "unknown value",
		", back: {command: proxy miami} -> ":                "back is missing",
		"name: proxy -> name: shop":                         "two steps or redirects named shop",
		", check: look} -> }":                               "a fence that cannot be looked at is none",
		", host: db1} -> , host: db9}":                      `there is no server "db9"`,
		"stop: [shopper, queue.timer] -> stop: [../x]":      "is no unit",
		", undo: {command: a2enmod} -> ":                    "undo is missing",
		"before: quiesce -> before: lunch":                  `unknown value "lunch"`,
		"before: quiesce, manual -> manual":                 "want one of before and after",
		"manual: call the harbour master -> timeout: 5m":    "want one of manual, run and http",
		"https://status.example/up -> https://:80/up":       "the host is missing",
		"of: [cutover] -> of: [drill]":                      `unknown value "drill"`,
		"bridge: br0 -> bridge: \"br0; rm\"":                "want a single word",
	} {
		from, to, _ := strings.Cut(change, " -> ")
		if !strings.Contains(moving, from) {
			t.Fatalf("%q is not there to be changed", from)
		}
		_, err := Parse("f", []byte(strings.Replace(moving, from, to, 1)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\nwant %s", change, err, want)
		}
	}
}
