package protect

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
)

// physicalHome is a directory that other accounts can reach, and free ports.
func physicalHome(t *testing.T) (dir string, ports [2]int) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root, to run servers as their own accounts")
	}
	dir, err := os.MkdirTemp("", "lwprotect")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return dir, ports
}

// scripted runs a script that ends at its first error.
func scripted(t *testing.T, env []string, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir, cmd.Env = "/", append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		var said []byte
		if e, ok := err.(*exec.ExitError); ok {
			said = e.Stderr
		}
		t.Fatalf("%s: %v: %s%s", script, err, out, said)
	}
	return strings.TrimSpace(string(out))
}

// physicalWays runs plan, replicate, status and verify of a database as the commands do.
func physicalWays(t *testing.T, text string, write func()) {
	e, err := config.Parse("leeward.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	o, db, store := &Options{Estate: e}, &e.Databases[0], t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if s := StatusOfRows(ctx, db, store, 0, time.Now()); s.Outcome == dr.Done || s.Phase != "" {
		t.Errorf("before: %+v", s)
	}
	p := o.planRows(ctx, db, store)
	if !p.Reachable || p.Recommended != physical || p.Link == 0 || p.Differing == 0 || len(p.Modes) != 2 || p.Modes[0].Possible || len(p.Modes[0].Why) == 0 {
		t.Errorf("plan: %+v", p)
	}
	r := o.replicateRows(ctx, db, store)
	if r.Outcome != dr.Done || len(r.Did) == 0 || r.Position == "" {
		t.Fatalf("replicate: %+v", r)
	}
	write()
	r = o.replicateRows(ctx, db, store)
	if r.Outcome != dr.Done || len(r.Did) != 0 {
		t.Fatalf("replicate again: %+v", r)
	}
	v := o.verifyRows(ctx, db, store)
	if v.Outcome != dr.Done || v.Rows < 1001 || v.Tables == 0 {
		t.Fatalf("verify: %+v", v)
	}
	s := StatusOfRows(ctx, db, store, time.Minute, time.Now())
	if s.Outcome != dr.Done || s.Phase != "following" || s.LastVerified.IsZero() || s.Mode != physical {
		t.Errorf("status: %+v", s)
	}
	if p := o.planRows(ctx, db, store); p.Phase != "standby" || p.Differing != 0 || len(p.Modes) != 1 {
		t.Errorf("plan of what follows: %+v", p)
	}
	if _, err := rowsConfig(ctx, db, store); err == nil {
		t.Error("a physical copy may be replicated by rows")
	}
}

func TestPhysicalPostgres(t *testing.T) {
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pg_basebackup")
	if len(bins) == 0 {
		t.Skip("no PostgreSQL server in /usr/lib/postgresql")
	}
	dir, ports := physicalHome(t)
	env := []string{"H=" + dir, "B=" + filepath.Dir(bins[len(bins)-1]), fmt.Sprintf("P=%d", ports[0]), fmt.Sprintf("Q=%d", ports[1]), "PGPASSWORD=hush hush"}
	const as = `as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }; sql() { psql -XAtq -h 127.0.0.1 -p $P -U boss "$@"; }; `
	t.Cleanup(func() {
		scripted(t, env, as+`for d in src dst; do as $B/pg_ctl stop -s -m immediate -D $H/pg/$d 2>/dev/null || true; done`)
	})
	scripted(t, env, as+`install -d -o postgres $H/pg; echo "hush hush" > $H/pw; chmod 644 $H/pw
as $B/initdb -D $H/pg/src -U boss -A scram-sha-256 --pwfile=$H/pw -N --locale=C.UTF-8 -E UTF8 >/dev/null
printf "listen_addresses='127.0.0.1'\nunix_socket_directories=''\nwal_log_hints=on\nwal_keep_size='64MB'\nfsync=off\n" >> $H/pg/src/postgresql.conf
as $B/pg_ctl start -w -s -D $H/pg/src -l $H/pg/log -o "-c port=$P"
sql -d postgres -c "CREATE DATABASE shop"; sql -d shop -c "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 1000) g"`)
	physicalWays(t, fmt.Sprintf(`estate: a
target: {store: /s}
databases:
  - name: shop
    engine: postgres
    mode: physical
    source: {dsn: "postgres://boss@127.0.0.1:%d/shop?sslmode=disable", password_file: %s/pw}
    target: {dsn: "postgres://boss@127.0.0.1:%d/shop?sslmode=disable", password_file: %[2]s/pw, server: {data: %[2]s/pg/dst, owner: postgres}}
`, ports[0], dir, ports[1]), func() { scripted(t, env, as+`sql -d shop -c "INSERT INTO t VALUES (5000, 'y')"`) })
	if got := scripted(t, env, as+`psql -XAtq -h 127.0.0.1 -p $Q -U boss -d shop -c "SELECT count(*), pg_is_in_recovery() FROM t"`); got != "1001|t" {
		t.Errorf("the standby says %s", got)
	}
	if got := scripted(t, env, `stat -c '%U %a' $H/pg/dst.pgpass $H/pg/dst | paste -sd,`); got != "postgres 600,postgres 700" {
		t.Errorf("the password and the data are of %s", got)
	}
}

func TestPhysicalMariaDB(t *testing.T) {
	for _, tool := range []string{"mariadbd", "mariadb-backup", "mbstream"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("MariaDB's tools are not installed: %v", err)
		}
	}
	dir, ports := physicalHome(t)
	env := []string{"H=" + dir}
	for i, n := range []string{"src", "dst"} {
		script := fmt.Sprintf(`#!/bin/sh
cd /; setsid setpriv --reuid=mysql --regid=mysql --init-groups -- mariadbd --no-defaults --datadir=%[1]s/my/%[2]s --tmpdir=%[1]s/my --socket=%[1]s/my/%[2]s.sock --port=%[3]d --bind-address=127.0.0.1 \
--pid-file=%[1]s/my/%[2]s.pid --server-id=%[4]d --log-bin=binlog --binlog-format=ROW --gtid-strict-mode=1 --log-slave-updates=1 --innodb-buffer-pool-size=64M --performance-schema=0 >>%[1]s/my.log 2>&1 </dev/null &
`, dir, n, ports[i], i+1)
		stop := fmt.Sprintf("#!/bin/sh\np=$(cat %s/my/%s.pid 2>/dev/null) || exit 0; kill $p; while kill -0 $p 2>/dev/null; do sleep 0.1; done\n", dir, n)
		for name, text := range map[string]string{n + ".start": script, n + ".stop": stop} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { scripted(t, env, "$H/src.stop; $H/dst.stop") })
	const sql = `sql() { mariadb --no-defaults -uroot -S $H/my/src.sock -Ne "$1"; }; `
	scripted(t, env, sql+`install -d -o mysql $H/my; echo "it's" > $H/pw
setpriv --reuid=mysql --regid=mysql --init-groups -- mariadb-install-db --no-defaults --datadir=$H/my/src --tmpdir=$H/my --auth-root-authentication-method=normal --skip-test-db >/dev/null
$H/src.start; for n in $(seq 200); do if sql "SELECT 1" >/dev/null 2>&1; then break; fi; sleep 0.1; done
sql "CREATE DATABASE plant; CREATE TABLE plant.t (id INT PRIMARY KEY, v VARCHAR(40)); INSERT INTO plant.t SELECT seq, 'x' FROM plant.seq_1_to_1000; CREATE USER boss@'127.0.0.1' IDENTIFIED BY 'it''s'; GRANT ALL ON *.* TO boss@'127.0.0.1'"`)
	physicalWays(t, fmt.Sprintf(`estate: a
target: {store: /s}
databases:
  - name: plant
    engine: mariadb
    mode: physical
    source: {dsn: "boss@tcp(127.0.0.1:%d)/plant", password_file: %s/pw, server: {data: %[2]s/my/src, owner: mysql, start: [%[2]s/src.start], stop: [%[2]s/src.stop]}}
    target: {dsn: "boss@tcp(127.0.0.1:%[3]d)/plant", password_file: %[2]s/pw, server: {data: %[2]s/my/dst, owner: mysql, start: [%[2]s/dst.start], stop: [%[2]s/dst.stop]}}
`, ports[0], dir, ports[1]), func() { scripted(t, env, sql+`sql "INSERT INTO plant.t VALUES (5000, 'y')"`) })
	if got := scripted(t, env, `mariadb --no-defaults -uroot -S $H/my/dst.sock -Ne "SELECT COUNT(*) FROM plant.t; SELECT @@read_only"`); got != "1001\n1" {
		t.Errorf("the replica says %q", got)
	}
	if left, _ := filepath.Glob(dir + "/my/*.cnf"); len(left) > 0 {
		t.Errorf("left at the source: %q", left)
	}
}
