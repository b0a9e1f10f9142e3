package agent

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const socketHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// socketLine is a line of /proc/net/tcp and the like.
func socketLine(local string, state, inode int) string {
	return fmt.Sprintf("   0: %s 00000000:0000 %02X 00000000:00000000 00:00000000 00000000     0        0 %d 1 0 100 0\n", local, state, inode)
}

// proc is the files of one process.
func proc(pid, ppid, uid int, comm, cmdline string, more map[string]string) map[string]string {
	dir := fmt.Sprintf("proc/%d/", pid)
	files := map[string]string{
		dir + "comm": comm + "\n", dir + "cmdline": cmdline,
		dir + "status": fmt.Sprintf("Name:\t%s\nPPid:\t%d\nUid:\t%d\t%d\t%d\t%d\n", comm, ppid, uid, uid, uid, uid),
	}
	for name, content := range more {
		files[dir+name] = content
	}
	return files
}

const hostMounts = `1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 8:2 / /var rw - xfs /dev/sda2 rw
`

// databaseHost runs one of each engine, in the ways they are found.
func databaseHost(t *testing.T) *agentpb.Facts {
	t.Helper()
	root := t.TempDir()
	files := map[string]string{
		"proc/self/mountinfo": hostMounts,
		"etc/passwd":          "postgres:x:105:110::/var/lib/postgresql:/bin/bash\nmysql:x:106:1::/x:/y\n",
		"proc/net/tcp": socketHeader + socketLine("0100007F:1538", 10, 1001) + socketLine("00000000:0CEA", 10, 1002) +
			socketLine("00000000:0CEA", 10, 1003) + socketLine("0100007F:9999", 1, 1004) + socketLine("00000000:1F90", 10, 4001),
		"proc/net/udp6":                             socketHeader + "   1: 00000000000000000000000000000000:0222 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 1005 2 0 0\n",
		"proc/net/unix":                             "Num RefCount Protocol Flags Type St Inode Path\n0: 2 0 00010000 0001 01 1010 /run/mysqld/mysqld.sock\n",
		"var/lib/postgresql/15/main/PG_VERSION":     "15\n",
		"var/lib/postgresql/15/main/standby.signal": "",
		"var/lib/postgresql/15/main/postmaster.pid": "100\n/var/lib/postgresql/15/main\n1700000000\n5433\n/var/run/postgresql\nlocalhost\n",
		"var/lib/mysql/mysql_upgrade_info":          "10.11.6-MariaDB",
		"srv/volumes/pg/_data/PG_VERSION":           "16\n",
	}
	for _, p := range []map[string]string{
		proc(100, 1, 105, "postgres", "/usr/lib/postgresql/15/bin/postgres\x00-D\x00/var/lib/postgresql/15/main\x00-c\x00x=y\x00",
			map[string]string{"mountinfo": hostMounts, "root": "-> " + root, "fd/3": "-> socket:[1001]"}),
		proc(101, 100, 105, "postgres", "postgres: 15/main: walwriter \x00", nil),
		proc(200, 1, 106, "mysqld", "/usr/sbin/mysqld\x00",
			map[string]string{"mountinfo": hostMounts, "root": "-> " + root, "cwd": "-> /var/lib/mysql", "fd/9": "-> socket:[1002]", "fd/10": "-> socket:[1010]"}),
		proc(300, 1, 10001, "sqlservr", "/opt/mssql/bin/sqlservr\x00", nil),
		proc(301, 300, 10001, "sqlservr", "/opt/mssql/bin/sqlservr\x00",
			map[string]string{"mountinfo": hostMounts, "root": "-> " + root, "fd/44": "-> /var/opt/mssql/data/master.mdf"}),
		// In a container, its data on a volume of the host.
		proc(400, 1, 999, "postgres", "postgres\x00", map[string]string{
			"mountinfo": "1 0 0:77 / / rw - overlay overlay rw\n2 1 8:1 /srv/volumes/pg/_data /var/lib/postgresql/data rw - ext4 /dev/sda1 rw\n",
			"cwd":       "-> /var/lib/postgresql/data", "fd/3": "-> socket:[4001]",
			"root/var/lib/postgresql/data/PG_VERSION": "16\n",
		}),
		// In a container, its data in the container's own layer.
		proc(500, 1, 999, "redis-server", "redis-server *:6379\x00", map[string]string{
			"mountinfo": "1 0 0:78 / / rw - overlay overlay rw\n", "cwd": "-> /data", "root/data/": "",
		}),
		proc(600, 1, 0, "nginx", "nginx: master\x00", map[string]string{"fd/6": "-> socket:[1003]", "fd/7": "-> /dev/null"}),
		proc(601, 2, 0, "kthreadd", "", nil),
	} {
		maps.Copy(files, p)
	}
	grow(t, root, files)
	c := &collector{root: root, sys: world(nil, nil)}
	f, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFactsDatabases(t *testing.T) {
	f := databaseHost(t)
	want := []*agentpb.Database{
		{Engine: "postgres", Version: "15", DataDir: "/var/lib/postgresql/15/main", Pid: 100, User: "postgres", Port: 5433,
			SocketDir: "/var/run/postgresql", Filesystem: "/var", Recovering: true},
		{Engine: "mariadb", Version: "10.11.6-MariaDB", DataDir: "/var/lib/mysql", Pid: 200, User: "mysql", Port: 3306,
			SocketDir: "/run/mysqld", Filesystem: "/var"},
		{Engine: "mssql", DataDir: "/var/opt/mssql/data", Pid: 301, User: "10001", Filesystem: "/var"},
		{Engine: "postgres", Version: "16", DataDir: "/srv/volumes/pg/_data", Pid: 400, User: "999", Port: 8080, Filesystem: "/"},
		{Engine: "redis", DataDir: "/data", Pid: 500, User: "999"},
	}
	if len(f.Databases) != len(want) {
		t.Fatalf("%d databases, want %d: %v", len(f.Databases), len(want), f.Databases)
	}
	for i, w := range want {
		if got := f.Databases[i]; got.String() != w.String() {
			t.Errorf("got  %v\nwant %v", got, w)
		}
	}
	if !warned(f, "redis: its data directory /data is on overlay, which is not carried") {
		t.Errorf("no warning of data in a container: %q", f.Warnings)
	}
}

func TestFactsListening(t *testing.T) {
	f := databaseHost(t)
	var got []string
	for _, s := range f.Listening {
		got = append(got, fmt.Sprintf("%s %s %d %s", s.Protocol, s.Address, s.Port, s.Process))
	}
	want := []string{"tcp 127.0.0.1 5432 postgres", "tcp 0.0.0.0 3306 mysqld", "tcp 0.0.0.0 8080 postgres", "udp6 :: 546 "}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestArgument(t *testing.T) {
	for _, tt := range []struct {
		args []string
		flag string
		want string
	}{
		{[]string{"x", "-D", "/a"}, "-D", "/a"}, {[]string{"x", "-D/a"}, "-D", "/a"}, {[]string{"x", "-D"}, "-D", ""},
		{[]string{"x", "--datadir=/a"}, "--datadir", "/a"}, {[]string{"x", "--datadirectory=/a"}, "--datadir", ""},
		{[]string{"/bin/x"}, "--datadir", ""}, {nil, "-D", ""},
	} {
		if got := argument(tt.args, tt.flag); got != tt.want {
			t.Errorf("%q in %q: %q, want %q", tt.flag, tt.args, got, tt.want)
		}
	}
}
