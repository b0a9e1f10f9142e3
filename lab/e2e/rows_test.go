package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/lab"
)

// TestDatabases brings stale clones of both databases up to date while they are
// written to, by the commands a user has, and compares by the engines' own tools.
func TestDatabases(t *testing.T) {
	w := need(t)
	config := filepath.Join(w.lab.Dir(), "leeward.yaml")
	names := []string{"shop", "plant"}
	var plan protect.PlanResult
	result(t, w.must(t, config, append([]string{"plan"}, names...)...), &plan)
	for _, d := range plan.Rows {
		if !d.Reachable || d.Capture == "" || len(d.Tables) == 0 {
			t.Errorf("plan of %s: %+v", d.Database, d)
		}
		if d.Link == 0 || d.Recommended != "logical" || len(d.Modes) != 2 || d.Around == nil || len(d.Around.Items) == 0 {
			t.Errorf("plan of %s: link %d, %q of %+v, outside of it %+v", d.Database, d.Link, d.Recommended, d.Modes, d.Around)
		}
	}
	var run protect.RunResult
	result(t, w.must(t, config, append([]string{"replicate"}, names...)...), &run)
	for _, d := range run.Databases {
		var compared, sent int64
		for _, x := range d.Tables {
			compared, sent = compared+x.Compared, sent+x.Sent
		}
		if d.Outcome != dr.Done || !d.Seeded || compared < 10000 || sent < 1000 || sent > compared/2 {
			t.Errorf("first pass of %s: %+v", d.Database, d)
		}
	}
	result(t, w.must(t, config, append([]string{"replicate"}, names...)...), &run)
	for _, d := range run.Databases {
		if d.Outcome != dr.Done || d.Seeded {
			t.Errorf("second pass of %s: %+v", d.Database, d)
		}
	}
	var verify protect.VerifyResult
	result(t, w.must(t, config, append([]string{"verify"}, names...)...), &verify)
	for _, d := range verify.Databases {
		if d.Outcome != dr.Done || d.Rows < 10000 {
			t.Errorf("verify of %s: %+v", d.Database, d)
		}
	}
	const orders = "SELECT count(*), md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o"
	const readings = "SELECT count(*), sum(crc32(concat_ws(0x2c, id, at, sensor, value))) FROM readings WHERE id <= 10000 OR id >= 900000"
	for _, c := range []struct {
		server, there string
		here          []string
	}{
		{"db1", "runuser -u postgres -- psql -Atc \"SET timezone = 'UTC'; " + orders + "\" shop",
			[]string{"env", "PGPASSWORD=harbour", "psql", "-h", "127.0.0.1", "-U", "leeward", "-Atc", "SET timezone = 'UTC'; " + orders, "shop"}},
		{"db2", "mariadb -Ne '" + readings + "' plant",
			[]string{"mariadb", "--no-defaults", "-h", "127.0.0.1", "-u", "leeward", "-pharbour", "-Ne", readings, "plant"}},
	} {
		argv := lab.InDallas(c.here...)
		source, target := strings.TrimSpace(w.in(t, c.server, c.there)), strings.TrimSpace(command(t, "", nil, argv[0], argv[1:]...))
		if source == "" || source != target {
			t.Errorf("%s: the source says %q, the target %q", c.server, source, target)
		}
	}
}

// TestWholeServer keeps a standby of db1's whole PostgreSQL, whose configuration is where
// Debian has it, while it is written to.
func TestWholeServer(t *testing.T) {
	w := need(t)
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_ctl")
	if len(bins) == 0 {
		t.Skip("no PostgreSQL server in /usr/lib/postgresql")
	}
	const psql = "runuser -u postgres -- psql -XAtqc "
	w.in(t, "db1", psql+`"CREATE ROLE keeper SUPERUSER REPLICATION LOGIN PASSWORD 'harbour'"
conf=$(`+psql+`"SHOW hba_file"); cp -p "$conf" /root/hba; for db in all replication; do echo "host $db keeper 10.99.0.2/32 scram-sha-256" >> "$conf"; done
`+psql+`"SELECT pg_reload_conf()"`)
	dir, err := os.MkdirTemp("", "lwwhole")
	if err != nil {
		t.Fatal(err)
	}
	ctl := filepath.Join(filepath.Dir(bins[len(bins)-1]), "pg_ctl")
	t.Cleanup(func() {
		command(t, "/", nil, "sh", "-c", "cd /; setpriv --reuid=postgres --regid=postgres --init-groups -- "+ctl+" stop -s -m immediate -D "+dir+"/data || true; rm -rf "+dir)
		w.in(t, "db1", psql+`"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'leeward_whole%'" || true
`+psql+`"DROP ROLE keeper"; cp -p /root/hba "$(`+psql+`"SHOW hba_file")"; `+psql+`"SELECT pg_reload_conf()"`)
	})
	for name, text := range map[string]string{
		"pass": "harbour\n", "conf": "shared_buffers = '64MB'\nmax_connections = 200\n", "hba": "host all all 127.0.0.1/32 scram-sha-256\n",
		"start": "#!/bin/sh\ncd /; exec setpriv --reuid=postgres --regid=postgres --init-groups -- " + ctl + " start -w -s -t 60 -D " + dir + "/data -l " + dir + "/log/log -o '-c config_file=" + dir +
			"/conf -c hba_file=" + dir + "/hba -c port=5499 -c listen_addresses=127.0.0.1 -c unix_socket_directories='\n",
		"stop": "#!/bin/sh\ncd /; exec setpriv --reuid=postgres --regid=postgres --init-groups -- " + ctl + " stop -w -s -m fast -D " + dir + "/data\n",
	} {
		w.write(t, filepath.Join(dir, name), text)
	}
	command(t, "/", nil, "sh", "-ec", "chmod 755 "+dir+" "+dir+"/start "+dir+"/stop; chmod 644 "+dir+"/conf "+dir+"/hba; install -d -o postgres "+dir+"/log")
	config := w.estate(t, func(e *estateText) {
		e.more = "databases:\n  - name: whole\n    engine: postgres\n    mode: physical\n" +
			"    source: {dsn: \"postgres://keeper@10.10.0.13:5432/shop?sslmode=disable\", password_file: " + dir + "/pass}\n" +
			"    target: {dsn: \"postgres://keeper@127.0.0.1:5499/shop?sslmode=disable\", password_file: " + dir + "/pass, server: {data: " + dir + "/data, owner: postgres, start: [" +
			dir + "/start], stop: [" + dir + "/stop]}}\n"
	})
	var run protect.RunResult
	for range 2 {
		result(t, w.must(t, config, "replicate", "whole"), &run)
		if d := run.Databases[0]; d.Outcome != dr.Done || d.Mode != "physical" {
			t.Fatalf("%+v", d)
		}
	}
	var verify protect.VerifyResult
	result(t, w.must(t, config, "verify", "whole"), &verify)
	if d := verify.Databases[0]; d.Outcome != dr.Done || d.Rows < 20000 {
		t.Errorf("verify: %+v", d)
	}
	argv := lab.InDallas("env", "PGPASSWORD=harbour", "psql", "-h", "127.0.0.1", "-p", "5499", "-U", "keeper", "-XAtc", "SELECT pg_is_in_recovery(), count(*) FROM orders", "shop")
	if got, want := strings.TrimSpace(command(t, "", nil, argv[0], argv[1:]...)), "t|"+w.in(t, "db1", psql+`"SELECT count(*) FROM orders" shop`); got != want {
		t.Errorf("the standby says %s, want %s", got, want)
	}
	w.must(t, config, "status", "whole")
}

// result reads the result object of a run.
func result(t *testing.T, r ran, into any) {
	t.Helper()
	if err := json.Unmarshal(r.Result, into); err != nil {
		t.Fatalf("read the result: %v\n%s", err, r)
	}
}

// TestWatermarks makes a point of a group of databases alone, after their first pass.
func TestWatermarks(t *testing.T) {
	w := need(t)
	config := filepath.Join(w.lab.Dir(), "watermarks.yaml") // beside the secrets it names
	w.write(t, config, w.read(t, filepath.Join(w.lab.Dir(), "leeward.yaml"))+"groups: [{name: data, order: [shop, plant]}]\n")
	begun := time.Now()
	var res protect.RunResult
	result(t, w.must(t, config, "replicate", "data"), &res)
	if len(res.Groups) != 1 || res.Groups[0].Outcome != dr.Done {
		t.Fatalf("groups %+v", res.Groups)
	}
	points, err := w.openStore(t, config).GroupPoints("data")
	if err != nil || len(points) != 1 {
		t.Fatalf("%d points, %v", len(points), err)
	}
	m := points[0].Manifest
	if m.Consistency != dr.Application || len(m.Servers) > 0 || len(m.Databases) != 2 || m.Skew <= 0 || m.Skew > time.Minute {
		t.Errorf("manifest %+v", m)
	}
	for _, d := range m.Databases {
		if d.Position == "" || d.Source == "" || strings.Contains(d.Source, "@") || d.Committed.Before(begun.Add(-time.Minute)) || d.Heard.Before(begun) || d.Heard.After(m.Finished) {
			t.Errorf("watermark %+v; the pass began at %v, the point was made at %v", d, begun, m.Finished)
		}
	}
}
