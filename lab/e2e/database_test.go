package e2e

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// chrooted runs a shell script in a copied system, in namespaces of its own: no
// network leads out, and all it starts ends with it.
func chrooted(t *testing.T, root, script string) string {
	t.Helper()
	const prepare = `set -e
for m in "$0" "$0"/var; do if mountpoint -q "$m"; then mount -o remount,bind,exec,dev,suid "$m"; fi; done
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/dev"
mkdir -m 1777 "$0/dev/shm"
mknod -m 666 "$0/dev/null" c 1 3
mknod -m 666 "$0/dev/zero" c 1 5
mknod -m 666 "$0/dev/urandom" c 1 9
mount -t tmpfs tmpfs "$0/run"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
exec chroot "$0" /bin/sh -ec "$1"`
	return command(t, "/", nil, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts",
		"/bin/bash", "-c", prepare, root, "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root; "+script)
}

// TestPostgresRecovers replicates a PostgreSQL that is written to and starts the
// copy.
func TestPostgresRecovers(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	const count = `runuser -u postgres -- psql -Atc 'SELECT count(*) FROM ticks' shop`
	before := number(t, w.in(t, "db1", count))
	r := w.must(t, config, "replicate", "db1")
	after := number(t, w.in(t, "db1", count))
	if got := r.servers(t)[0].Point; string(got) == "" {
		t.Fatal(r)
	}
	points := w.points(t, w.store(), "db1")
	m := w.clone(t, w.store(), points[0], false)
	root := m.Root("/")
	command(t, "", nil, "mount", "--bind", m.Root("/var"), filepath.Join(root, "var"))
	defer command(t, "", nil, "umount", filepath.Join(root, "var"))
	out := chrooted(t, root, `
v=$(ls /etc/postgresql); bin=/usr/lib/postgresql/$v/bin
test -e /var/lib/postgresql/$v/main/backup_label
install -d -o postgres -g postgres /run/postgresql /tmp/pg
runuser -u postgres -- $bin/pg_ctl -s -w -t 60 -D /var/lib/postgresql/$v/main -l /tmp/pg/log -o "-c config_file=/etc/postgresql/$v/main/postgresql.conf -c listen_addresses= -c unix_socket_directories=/tmp/pg" start || { cat /tmp/pg/log; exit 1; }
q() { runuser -u postgres -- psql -h /tmp/pg -v ON_ERROR_STOP=1 -At "$@"; }
echo recovering $(q -c 'SELECT pg_is_in_recovery()')
echo orders $(q -c 'SELECT count(*), min(id), max(id) FROM orders' shop)
echo ticks $(q -c 'SELECT count(*), max(id) - min(id) + 1 FROM ticks' shop)
q -c 'CREATE EXTENSION amcheck' shop
runuser -u postgres -- $bin/pg_amcheck -h /tmp/pg --heapallindexed shop
q -c 'INSERT INTO ticks (load) VALUES (1)' shop
runuser -u postgres -- $bin/pg_ctl -s -w -D /var/lib/postgresql/$v/main stop
grep -c 'redo done\|redo is not required\|consistent recovery state reached' /tmp/pg/log`)
	t.Log(out)
	for _, want := range []string{"recovering f\n", "orders 20000|1|20000\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the copy says\n%swant %q in it", out, want)
		}
	}
	var n, span int
	if i := strings.Index(out, "ticks "); i < 0 {
		t.Errorf("no count of ticks in\n%s", out)
	} else if _, err := fmt.Sscanf(out[i:], "ticks %d|%d", &n, &span); err != nil || n < before || n > after || n != span {
		t.Errorf("%d ticks over a span of %d, %v; want between %d and %d, and none missing", n, span, err, before, after)
	}
}

// TestMariaDBRecovers starts the copy of a MariaDB that was read from a snapshot.
func TestMariaDBRecovers(t *testing.T) {
	w := need(t)
	config := w.estate(t)
	const count = `mariadb -Ne 'SELECT count(*) FROM plant.readings'`
	before := number(t, w.in(t, "db2", count))
	w.must(t, config, "replicate", "db2")
	after := number(t, w.in(t, "db2", count))
	m := w.clone(t, w.store(), w.points(t, w.store(), "db2")[0], false)
	top := m.Root("/")
	command(t, "", nil, "mount", "-o", "remount,bind,exec,dev,suid", top)
	at := w.mountDir(t, "--bind", filepath.Join(top, "@"))
	out := chrooted(t, at, `
install -d -o mysql -g mysql /run/mysqld
mariadbd --user=mysql --skip-networking --socket=/run/mysqld/mysqld.sock > /tmp/log 2>&1 &
for n in $(seq 300); do if mariadb-admin ping > /dev/null 2>&1; then break; fi; sleep 0.2; done
mariadb -Ne 'SELECT 1' > /dev/null || { cat /tmp/log; exit 1; }
echo readings $(mariadb -Ne 'SELECT count(*), max(id) - min(id) + 1 FROM plant.readings')
mariadb-check --all-databases --extended > /tmp/check || true
if grep -i 'error\|corrupt' /tmp/check; then exit 1; fi
grep -c OK /tmp/check
mariadb-admin shutdown`)
	t.Log(out)
	var n, span int
	if _, err := fmt.Sscanf(out, "readings %d %d", &n, &span); err != nil || n < before || n > after {
		t.Errorf("%d readings over a span of %d, %v; want between %d and %d", n, span, err, before, after)
	}
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
