package look

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// databases adds to the servers that the facts name: size, settings and, where the server
// answers at its socket without a password, what it holds.
func (l *looker) databases(ctx context.Context) {
	for _, f := range l.f.Databases {
		d := inventory.Database{Engine: f.Engine, Version: f.Version, Dir: f.DataDir, Port: int(f.Port), User: f.User,
			Filesystem: f.Filesystem, Standby: f.Recovering, Settings: map[string]string{}}
		d.Size = l.sizeOf(ctx, d.Dir)
		switch d.Engine {
		case "postgres":
			l.postgres(ctx, &d, f.SocketDir, int(f.Pid))
		case "mariadb", "mysql":
			l.mysql(ctx, &d)
		case "mssql":
			l.settings(&d, "var/opt/mssql/mssql.conf")
		case "redis":
			l.redis(&d)
		case "mongodb":
			l.settings(&d, "etc/mongod.conf")
		}
		l.inv.Databases = append(l.inv.Databases, d)
	}
}

const (
	maxEntries = 300_000 // of a database's directory that are counted
	sizeTime   = 5 * time.Second
)

// sizeOf adds up the files below dir; -1 where they are too many or may not be read.
func (l *looker) sizeOf(ctx context.Context, dir string) int64 {
	if dir == "" {
		return -1
	}
	var sum int64
	n, until := 0, time.Now().Add(sizeTime)
	err := filepath.WalkDir(l.path(dir), func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil // files of a live database go
			}
			return err
		}
		if n++; n > maxEntries || ctx.Err() != nil || time.Now().After(until) {
			return fmt.Errorf("it holds more than is counted")
		}
		if st, err := e.Info(); err == nil && st.Mode().IsRegular() {
			if sys, ok := st.Sys().(*syscall.Stat_t); ok {
				sum += sys.Blocks * 512
			}
		}
		return nil
	})
	if err != nil {
		l.unknown("size of "+dir, err)
		return -1
	}
	return sum
}

// postgresKeys are the settings that matter for recovery and replication.
var postgresKeys = []string{"port", "listen_addresses", "wal_level", "archive_mode", "archive_command", "archive_library", "hot_standby", "max_wal_senders",
	"max_replication_slots", "synchronous_standby_names", "primary_conninfo", "primary_slot_name", "restore_command", "recovery_target_timeline", "ssl_cert_file", "shared_preload_libraries"}

// postgres reads the configuration as PostgreSQL does, and asks the server by its own
// psql, as the user it runs as.
func (l *looker) postgres(ctx context.Context, d *inventory.Database, socketDir string, pid int) {
	conf := filepath.Join(d.Dir, "postgresql.conf")
	for _, p := range l.glob("etc/postgresql/*/*/postgresql.conf") { // Debian keeps them apart from the data
		if b, err := read(l.path(p), maxConfig); err == nil && strings.Contains(string(b), "'"+d.Dir+"'") {
			conf = p
		}
	}
	l.postgresConf(d, conf, 0)
	l.postgresConf(d, filepath.Join(d.Dir, "postgresql.auto.conf"), 0)
	if l.root != "/" || !have("psql") && len(l.glob("usr/lib/postgresql/*/bin/psql", "usr/pgsql-*/bin/psql")) == 0 {
		return
	}
	answer, err := l.psql(ctx, d, socketDir, pid, `SELECT 'db', datname, pg_database_size(oid) FROM pg_database WHERE NOT datistemplate
		UNION ALL SELECT 'to', application_name || ' at ' || coalesce(client_addr::text, 'this host') || ', ' || state, 0 FROM pg_stat_replication
		UNION ALL SELECT 'slot', slot_name || ', ' || slot_type || CASE WHEN active THEN '' ELSE ', not in use' END, 0 FROM pg_replication_slots`)
	if err != nil {
		l.unknown("databases of PostgreSQL in "+d.Dir, err)
		return
	}
	for line := range strings.Lines(answer) {
		f := strings.Split(strings.TrimSpace(line), "\x1f")
		switch {
		case len(f) < 3:
		case f[0] == "db":
			d.Databases = append(d.Databases, f[1])
		case f[0] == "to":
			d.Replication = append(d.Replication, "sends to "+f[1])
		case f[0] == "slot":
			d.Replication = append(d.Replication, "slot "+f[1])
		}
	}
	slices.Sort(d.Databases)
	slices.Sort(d.Replication)
}

// postgresConf reads one file of settings and those it includes.
func (l *looker) postgresConf(d *inventory.Database, file string, depth int) {
	b, ok := l.config("settings in "+file, file)
	if !ok || depth > 5 {
		return
	}
	lines(b, func(_ int, line string) {
		key, value := postgresSetting(line)
		at := value
		if !filepath.IsAbs(at) {
			at = filepath.Join(filepath.Dir(file), at)
		}
		switch {
		case key == "include" || key == "include_if_exists":
			l.postgresConf(d, at, depth+1)
		case key == "include_dir":
			for _, f := range l.glob(at + "/*.conf") {
				l.postgresConf(d, f, depth+1)
			}
		case slices.Contains(postgresKeys, key):
			d.Settings[key] = redact(value)
		}
	})
}

// postgresSetting splits a line of postgresql.conf: the equals sign may be missing, values
// may be quoted, comments may follow.
func postgresSetting(line string) (key, value string) {
	i := strings.IndexAny(line, "= \t")
	if i < 0 {
		return "", ""
	}
	key, value = strings.ToLower(line[:i]), strings.TrimLeft(line[i:], "= \t")
	if strings.HasPrefix(value, "'") {
		var out strings.Builder
		for j := 1; j < len(value); j++ {
			if value[j] == '\'' || value[j] == '\\' {
				if j+1 >= len(value) || value[j] == '\'' && value[j+1] != '\'' {
					break
				}
				j++
			}
			out.WriteByte(value[j])
		}
		return key, out.String()
	}
	value, _, _ = strings.Cut(value, "#")
	return key, strings.TrimSpace(value)
}

// psql asks one statement; columns are apart by 0x1f.
func (l *looker) psql(ctx context.Context, d *inventory.Database, socketDir string, pid int, sql string) (string, error) {
	program, err := find("psql")
	if found := l.glob("usr/lib/postgresql/*/bin/psql", "usr/pgsql-*/bin/psql"); err != nil && len(found) > 0 {
		program, err = found[len(found)-1], nil
	}
	if err != nil {
		return "", err
	}
	st, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	if err != nil {
		return "", fmt.Errorf("find its process: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	args := []string{"-X", "-q", "-A", "-t", "-w", "-F", "\x1f", "-d", "postgres", "-c", sql}
	if socketDir != "" {
		args = append(args, "-h", socketDir)
	}
	if d.Port != 0 {
		args = append(args, "-p", strconv.Itoa(d.Port))
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "PGCONNECT_TIMEOUT=5", "PGOPTIONS=-c statement_timeout=5000 -c default_transaction_read_only=on"}
	if owner, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask psql: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return string(out), nil
}

// mysqlKeys are the settings that matter for recovery and replication.
var mysqlKeys = []string{"port", "bind_address", "datadir", "server_id", "log_bin", "binlog_format", "binlog_row_image", "expire_logs_days",
	"binlog_expire_logs_seconds", "gtid_mode", "gtid_strict_mode", "gtid_domain_id", "read_only", "innodb_flush_log_at_trx_commit", "sync_binlog",
	"replicate_do_db", "wsrep_on", "wsrep_cluster_address", "ssl_cert"}

// mysql reads the option files, and asks the server at its socket, where root needs no
// password (unix_socket, auth_socket).
func (l *looker) mysql(ctx context.Context, d *inventory.Database) {
	for _, f := range []string{"/etc/my.cnf", "/etc/mysql/my.cnf"} {
		l.myCnf(d, f, 0)
	}
	if l.root != "/" || os.Geteuid() != 0 {
		return
	}
	client := "mariadb"
	if !have(client) {
		client = "mysql"
	}
	out, err := l.run(ctx, client, "--no-defaults", "--batch", "--skip-column-names", "--connect-timeout=5", "-e", "SHOW DATABASES; SELECT 0x1f, VERSION();")
	if err != nil {
		l.unknown("databases of "+d.Engine+" in "+d.Dir, "root is not let in at its socket without a password: "+err.Error())
		return
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if len(f) == 2 {
			d.Version, _, _ = strings.Cut(f[1], "-")
		} else if !slices.Contains([]string{"information_schema", "performance_schema", "sys", "mysql"}, f[0]) {
			d.Databases = append(d.Databases, f[0])
		}
	}
	if out, err = l.run(ctx, client, "--no-defaults", "--batch", "--skip-column-names", "--connect-timeout=5", "-e",
		"SELECT CONCAT('serves a replica at ', SUBSTRING_INDEX(HOST, ':', 1)) FROM information_schema.PROCESSLIST WHERE COMMAND LIKE 'Binlog Dump%'"); err == nil {
		for line := range strings.Lines(string(out)) {
			d.Replication = append(d.Replication, strings.TrimSpace(line))
		}
	}
	if l.exists(d.Dir, "master.info") || l.exists(d.Dir, "relay-log.info") {
		d.Standby = true
	}
}

// myCnf reads an option file and those it includes. Sections of programs other than
// servers are left out.
func (l *looker) myCnf(d *inventory.Database, file string, depth int) {
	b, ok := l.config("settings in "+file, file)
	if !ok || depth > 5 {
		return
	}
	server := false
	lines(b, func(_ int, line string) {
		switch {
		case line[0] == ';':
		case line[0] == '[':
			s := strings.Trim(line, "[]")
			server = serverSection(s)
		case strings.HasPrefix(line, "!includedir "):
			for _, f := range l.glob(strings.TrimSpace(line[12:]) + "/*.cnf") {
				l.myCnf(d, f, depth+1)
			}
		case strings.HasPrefix(line, "!include "):
			l.myCnf(d, strings.TrimSpace(line[9:]), depth+1)
		case server:
			key, value, _ := strings.Cut(line, "=")
			key = strings.ReplaceAll(strings.ToLower(strings.TrimSpace(key)), "-", "_")
			if slices.Contains(mysqlKeys, key) {
				d.Settings[key] = redact(strings.Trim(strings.TrimSpace(value), `'"`))
			}
		}
	})
}

// serverSection reports whether a section of an option file is read by the server:
// [mysqld], [mariadb-10.11] and the like, but not those of its clients.
func serverSection(name string) bool {
	base, _, _ := strings.Cut(name, "-")
	return slices.Contains([]string{"mysqld", "mariadb", "mariadbd", "server", "galera"}, base) && name != "mariadb-client" && !strings.Contains(name, "dump") && name != "mariadb-admin"
}

// settings takes over the plain key and value lines of a file, without secrets.
func (l *looker) settings(d *inventory.Database, file string) {
	b, _ := l.config("settings in /"+file, file)
	lines(b, func(_ int, line string) {
		if key, value, ok := strings.Cut(line, "="); ok {
			d.Settings[strings.TrimSpace(key)] = redact(strings.TrimSpace(value))
		} else if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(value) != "" {
			d.Settings[strings.TrimSpace(key)] = redact(strings.TrimSpace(value))
		}
	})
	for k := range d.Settings {
		if low := strings.ToLower(k); strings.Contains(low, "password") || strings.Contains(low, "key") {
			d.Settings[k] = redacted
		}
	}
}

// redis reads what its file says of persistence and replication.
func (l *looker) redis(d *inventory.Database) {
	for _, file := range l.glob("etc/redis.conf", "etc/redis/*.conf", "etc/valkey/*.conf") {
		b, _ := l.config("settings in "+file, file)
		lines(b, func(_ int, line string) {
			if f := strings.Fields(line); len(f) > 1 && slices.Contains([]string{"save", "appendonly", "replicaof", "slaveof", "dir", "bind"}, f[0]) {
				d.Settings[f[0]] = strings.Join(f[1:], " ")
			}
		})
	}
}
