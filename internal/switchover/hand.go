package switchover

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
)

// hand is what a person would type for a step if Leeward were not there.
func (b *builder) hand(action, name string, way Way) []string {
	if db := b.e.Database(name); db != nil {
		return b.handDatabase(action, db, way)
	}
	s := b.e.Server(dr.ServerName(name))
	if f := b.e.Switchover.Failback; way == Back && f != nil && (action == actionPass || action == actionBoot || action == actionProbe) {
		there := map[string]string{actionPass: "replicate", actionBoot: "machine boot", actionProbe: "machine probe"}[action]
		return []string{fmt.Sprintf("ssh %s leeward %s %s -c %s", f.Host, there, name, homeFile(f))}
	}
	disk := fmt.Sprintf("%s/servers/%s/points/POINT/disk.raw", b.e.Target.Store, name)
	switch action {
	case actionPreflight:
		return []string{fmt.Sprintf("ls %s/servers/%s/points", b.e.Target.Store, name), "df -h " + b.e.Target.Store}
	case actionPass:
		return []string{fmt.Sprintf("rsync -aHAXS --numeric-ids --delete --one-file-system %s:/ ./%s/", s.Host, name)}
	case actionToken:
		return []string{fmt.Sprintf("ssh %s 'mkdir -p %s && echo %d > %s'", s.Host, path.Dir(tokenFile), b.token, tokenFile)}
	case actionBoot:
		if s.Machine != nil {
			return []string{fmt.Sprintf("cp --reflink=auto %s ./%s.raw", disk, name), "LEEWARD_DISK=$PWD/" + name + ".raw; " + s.Machine.Start}
		}
		return []string{fmt.Sprintf("cp --reflink=auto %s ./%s.raw", disk, name), b.qemu(name)}
	case actionProbe:
		return probeCommands(s)
	case actionStop:
		if s.Machine != nil {
			return []string{s.Machine.Stop}
		}
		return []string{"# in the machine: poweroff"}
	}
	return nil
}

func (b *builder) qemu(name string) string {
	net := ""
	if b.e.Target.Bridge != "" {
		net = " -netdev bridge,id=n0,br=" + b.e.Target.Bridge + " -device virtio-net-pci,netdev=n0"
	}
	return fmt.Sprintf("qemu-system-x86_64 -machine q35 -m 1G -drive file=%s.raw,format=raw,if=virtio%s -daemonize", name, net)
}

func probeCommands(s *config.Server) (out []string) {
	for _, p := range s.Probes {
		if p.SQL != "" {
			out = append(out, fmt.Sprintf("ssh ADDRESS %s # %s: %s", map[string]string{"postgres": "psql", "mariadb": "mariadb"}[p.Engine], p.Database, p.SQL))
		} else if p.Command != "" {
			out = append(out, "ssh ADDRESS "+quote(p.Command))
		} else if p.HTTP != "" {
			out = append(out, "curl -fsS "+quote(p.HTTP))
		} else {
			out = append(out, fmt.Sprintf("nc -z ADDRESS %d", p.TCP))
		}
	}
	if len(out) == 0 {
		out = []string{"# wait for its login prompt"}
	}
	return out
}

// handDatabase gives the engine's own tools what a step does.
func (b *builder) handDatabase(action string, db *config.Database, way Way) []string {
	if db.Mode == modePhysical {
		if out, ok := b.handPhysical(action, db, way); ok {
			return out
		}
	}
	from, to := client{db, db.Source.DSN}, client{db, db.Target.DSN}
	if way == Back {
		from, to = to, from
	}
	switch action {
	case actionPreflight:
		return []string{from.sql("SELECT 1"), to.sql("SELECT 1")}
	case actionToken:
		return []string{fmt.Sprintf("# write down: token %d, %s is about to be fenced at %s", b.token, db.Name, b.site(way.from()))}
	case actionFence:
		return from.fence()
	case actionCompare:
		return []string{from.dump("at-" + b.site(way.from())), to.dump("at-" + b.site(way.from().Other())),
			fmt.Sprintf("cmp %s-at-%s.sql %s-at-%s.sql", db.Name, b.e.Source.Name, db.Name, b.e.Target.Name)}
	case actionCatchUp, actionDrain, actionReverse:
		return []string{from.dump("rest"), to.restore("rest")}
	case actionPromote, actionFailover:
		return to.promote()
	case actionUnfence:
		return from.unfence()
	}
	return nil
}

// client is the command-line client of one end.
type client struct {
	db  *config.Database
	dsn string
}

// database is the name of the database at that end.
func (c client) database() string {
	if c.db.Engine == "mariadb" {
		_, rest, _ := strings.Cut(c.dsn, "/")
		name, _, _ := strings.Cut(rest, "?")
		return name
	}
	if u, err := url.Parse(c.dsn); err == nil && c.db.Engine == "mssql" {
		return u.Query().Get("database")
	} else if err == nil {
		return strings.Trim(u.Path, "/")
	}
	return c.db.Name
}

// connect is the client with the arguments that lead to the database.
func (c client) connect(program string) string {
	switch c.db.Engine {
	case "mariadb":
		user, rest, _ := strings.Cut(c.dsn, "@")
		_, rest, _ = strings.Cut(rest, "(")
		address, _, _ := strings.Cut(rest, ")")
		host, port, found := strings.Cut(address, ":")
		s := fmt.Sprintf("%s -h %s -u %s -p", program, quote(host), quote(user))
		if found {
			s += " -P " + quote(port)
		}
		return s
	case "mssql":
		u, err := url.Parse(c.dsn)
		if err != nil {
			return "sqlcmd"
		}
		return fmt.Sprintf("sqlcmd -S %s -U %s -d %s", quote(strings.Replace(u.Host, ":", ",", 1)), quote(u.User.Username()), quote(c.database()))
	}
	return fmt.Sprintf("%s %s", program, quote(c.dsn))
}

// sql runs one statement.
func (c client) sql(statement string) string {
	switch c.db.Engine {
	case "mariadb":
		return c.connect("mariadb") + " " + quote(c.database()) + " -e " + quote(statement)
	case "mssql":
		return c.connect("sqlcmd") + " -Q " + quote(statement)
	}
	return c.connect("psql") + " -c " + quote(statement)
}

func (c client) fence() []string {
	name := c.database()
	switch c.db.Engine {
	case "mariadb":
		return []string{c.sql("SET GLOBAL read_only = 1"), c.sql("SHOW PROCESSLIST") + "  # then KILL who still writes"}
	case "mssql":
		return []string{c.sql(fmt.Sprintf("ALTER DATABASE [%s] SET READ_ONLY WITH ROLLBACK IMMEDIATE", name))}
	}
	return []string{
		c.sql(fmt.Sprintf(`ALTER DATABASE "%s" SET default_transaction_read_only = on`, name)),
		c.sql(fmt.Sprintf(`REVOKE CONNECT ON DATABASE "%s" FROM PUBLIC`, name)),
		c.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"),
	}
}

func (c client) unfence() []string {
	name := c.database()
	switch c.db.Engine {
	case "mariadb":
		return []string{c.sql("SET GLOBAL read_only = 0")}
	case "mssql":
		return []string{c.sql(fmt.Sprintf("ALTER DATABASE [%s] SET READ_WRITE WITH ROLLBACK IMMEDIATE", name))}
	}
	return []string{
		c.sql(fmt.Sprintf(`ALTER DATABASE "%s" RESET default_transaction_read_only`, name)),
		c.sql(fmt.Sprintf(`GRANT CONNECT ON DATABASE "%s" TO PUBLIC`, name)),
	}
}

// promote opens an end for writing and moves what numbers rows past them.
func (c client) promote() []string {
	switch c.db.Engine {
	case "mariadb":
		return append(c.unfence(), "# AUTO_INCREMENT goes on by itself; enable events: SET GLOBAL event_scheduler = ON")
	case "mssql":
		return append(c.unfence(), c.sql("EXEC sp_MSforeachtable 'DBCC CHECKIDENT (''?'', RESEED)'"))
	}
	return append(c.unfence(), "# for each sequence: "+c.sql("SELECT setval('SEQUENCE', (SELECT max(COLUMN) FROM TABLE))"))
}

func (c client) dump(suffix string) string {
	file := fmt.Sprintf("%s-%s.sql", c.db.Name, suffix)
	switch c.db.Engine {
	case "mariadb":
		return c.connect("mariadb-dump") + " --single-transaction --order-by-primary " + quote(c.database()) + " > " + file
	case "mssql":
		return fmt.Sprintf("sqlpackage /Action:Export /SourceConnectionString:… /TargetFile:%s-%s.bacpac", c.db.Name, suffix)
	}
	return fmt.Sprintf("pg_dump --data-only %s > %s", quote(c.dsn), file)
}

func (c client) restore(suffix string) string {
	file := fmt.Sprintf("%s-%s.sql", c.db.Name, suffix)
	switch c.db.Engine {
	case "mariadb":
		return c.connect("mariadb") + " " + quote(c.database()) + " < " + file
	case "mssql":
		return fmt.Sprintf("sqlpackage /Action:Import /TargetConnectionString:… /SourceFile:%s-%s.bacpac", c.db.Name, suffix)
	}
	return fmt.Sprintf("psql %s -f %s  # after TRUNCATE of its tables", quote(c.dsn), file)
}

func fenceWords(s *config.Server) string {
	switch {
	case s.Fence != nil:
		return s.Fence.Command
	case s.Quiesce != nil && len(s.Quiesce.Stop) > 0:
		return "mask " + strings.Join(s.Quiesce.Stop, ", ")
	}
	return "shut it down"
}

func fenceCommands(s *config.Server) []string {
	switch {
	case s.Fence != nil:
		return []string{workCommand(s.Fence), s.Fence.Check}
	case s.Quiesce != nil && len(s.Quiesce.Stop) > 0:
		return []string{fmt.Sprintf("ssh %s systemctl mask --now %s", s.Host, strings.Join(s.Quiesce.Stop, " "))}
	}
	return []string{fmt.Sprintf("ssh %s poweroff", s.Host)}
}

func redirectWords(r config.Redirect) string {
	if r.DNS != nil {
		return r.DNS.Record
	}
	return r.Name
}

func redirectLook(r config.Redirect) []string {
	if r.DNS == nil {
		return []string{r.To.Check}
	}
	host, port, _ := strings.Cut(r.DNS.Server, ":")
	return []string{fmt.Sprintf("dig @%s -p %s %s A +noall +answer", host, port, r.DNS.Record)}
}

// redirectCommands feed nsupdate what the step sends.
func redirectCommands(r config.Redirect, to Site) []string {
	if r.DNS == nil {
		w := r.To
		if to == Source {
			w = r.Back
		}
		return []string{workCommand(w)}
	}
	d := r.DNS
	as := d.Target
	if to == Source {
		as = d.Source
	}
	host, port, _ := strings.Cut(d.Server, ":")
	lines := []string{fmt.Sprintf("server %s %s", host, port), "zone " + d.Zone, fmt.Sprintf("update delete %s A", d.Record), fmt.Sprintf("update delete %s AAAA", d.Record)}
	for _, a := range as {
		kind := "A"
		if a.Is6() {
			kind = "AAAA"
		}
		lines = append(lines, fmt.Sprintf("update add %s %d %s %s", d.Record, int(d.TTL.Seconds()), kind, a))
	}
	lines = append(lines, "send")
	key := ""
	if d.Key.Name != "" {
		key = fmt.Sprintf(" -y %s:%s:SECRET", d.Key.Algorithm, d.Key.Name)
	}
	return append([]string{fmt.Sprintf("printf '%s\\n' | nsupdate%s", strings.Join(lines, `\n`), key)}, redirectLook(r)...)
}
