package mariadb

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Check implements engine.Physical.
func (p *standby) Check(ctx context.Context) (out []engine.Finding, err error) {
	add := func(when bool, s engine.Severity, object, text, remedy string) {
		if when {
			out = append(out, engine.Finding{Severity: s, Object: object, Text: text, Remedy: remedy})
		}
	}
	var version string
	err = at(ctx, p.o.Source.Options, func(s *server) error {
		version = fmt.Sprintf("%d.%d", s.major, s.minor)
		add(!s.maria, engine.Blocker, "server", "it is no MariaDB: mariadb-backup does not read it", "replicate the rows instead: leave mode: out")
		v, err := s.variable(ctx, "log_bin")
		if err != nil {
			return err
		}
		add(v != "ON", engine.Blocker, "log_bin", "it is off: a replica has nothing to follow", "log_bin in the server's configuration, then restart it")
		id, err := s.variable(ctx, "server_id")
		if err != nil {
			return err
		}
		add(true, engine.Note, "server_id", "it is "+id, "the target's configuration must name another")
		grants, err := s.strings(ctx, "SHOW GRANTS")
		if err != nil {
			return err
		}
		for _, g := range []string{"RELOAD", "PROCESS", "LOCK TABLES", "BINLOG MONITOR", "REPLICATION SLAVE"} {
			add(!everywhere(grants, g), engine.Blocker, "grants", "the account lacks "+g, "GRANT RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICATION SLAVE ON *.* TO "+s.cfg.User)
		}
		for _, g := range []string{"REPLICATION SLAVE ADMIN", "READ_ONLY ADMIN"} {
			add(!everywhere(grants, g), engine.Blocker, "grants", "the account lacks "+g+", which it needs at the target, where it comes with the rest", "GRANT REPLICATION SLAVE ADMIN, REPLICA MONITOR, READ_ONLY ADMIN, CONNECTION ADMIN ON *.* TO "+s.cfg.User)
		}
		var others int
		err = s.text.QueryRowContext(ctx, "SELECT COUNT(*) FROM information_schema.tables WHERE engine IN ('MyISAM', 'Aria', 'CSV', 'ARCHIVE') AND table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')").Scan(&others)
		add(others > 0, engine.Warning, "engines", fmt.Sprintf("%d tables are not of InnoDB: they are locked while the backup copies them", others), "ALTER TABLE … ENGINE=InnoDB")
		return explain(err)
	})
	if err != nil {
		return out, fmt.Errorf("check the source: %w", err)
	}
	for _, e := range []struct {
		what string
		end  engine.PhysicalEnd
	}{{"source", p.o.Source}, {"target", p.o.Target}} {
		if e.end.Run == nil || e.end.Data == "" {
			add(true, engine.Blocker, e.what, "it is not known where its data are, nor how to run mariadb-backup there", "say it with server: {data: …, owner: mysql, host: …, start: […], stop: […]} for the "+e.what)
			continue
		}
		have, err := p.toolVersion(ctx, e.end)
		add(err != nil, engine.Blocker, e.what, fmt.Sprint(err), "install mariadb-backup of version "+version+" there")
		add(err == nil && have != version, engine.Blocker, e.what, "its mariadb-backup is of "+have+", the source of "+version, "install the same version at both")
	}
	if p.o.Target.Run != nil && p.o.Target.Data != "" {
		if _, err := p.State(ctx); err != nil {
			add(true, engine.Blocker, "target", err.Error(), "")
		}
	}
	return out, nil
}

var toolRE = regexp.MustCompile(`based on MariaDB server ([0-9]+\.[0-9]+)\.`)

func (p *standby) toolVersion(ctx context.Context, e engine.PhysicalEnd) (string, error) {
	var out bytes.Buffer
	if err := e.Run(ctx, nil, &out, "sh", "-c", `"$1" --version 2>&1`, "sh", tools(e, "mariadb-backup")); err != nil {
		return "", fmt.Errorf("run mariadb-backup: %w", err)
	}
	m := toolRE.FindStringSubmatch(out.String())
	if m == nil {
		return "", fmt.Errorf("run mariadb-backup: it tells no version: %s", strings.TrimSpace(out.String()))
	}
	return m[1], nil
}

// everywhere tells whether a privilege is granted on everything.
func everywhere(grants []string, privilege string) bool {
	for _, g := range grants {
		list, on, ok := strings.Cut(strings.TrimPrefix(strings.ToUpper(g), "GRANT "), " ON ")
		if !ok || !strings.HasPrefix(on, "*.*") {
			continue
		}
		for x := range strings.SplitSeq(list, ", ") {
			if x == privilege || x == "ALL PRIVILEGES" || x == "SUPER" && strings.HasSuffix(privilege, "ADMIN") {
				return true
			}
		}
	}
	return false
}
