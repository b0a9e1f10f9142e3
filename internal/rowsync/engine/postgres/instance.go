package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// InstanceObjects lists what a copy of the database needs around it: roles with the
// hashes of their passwords, where we may read them, memberships, who owns what and
// who may do what, and settings of the database and of roles.
func (d *database) InstanceObjects(ctx context.Context) ([]engine.Object, []engine.Finding, error) {
	c, err := d.catalog.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer d.catalog.give(c)
	i := instance{c: c, db: d.name}
	for _, step := range []func(context.Context) error{i.roles, i.members, i.settings, i.owners, i.grants, i.parameters, i.manual} {
		if err := step(ctx); err != nil {
			return nil, nil, fmt.Errorf("list what is around the database: %w", err)
		}
	}
	return i.objects, i.findings, nil
}

// instance collects objects and findings.
type instance struct {
	c        *conn
	db       string
	objects  []engine.Object
	findings []engine.Finding
}

// list runs a query that yields schema, name and definition.
func (i *instance) list(ctx context.Context, kind, sql string) error {
	rows, err := i.c.query(ctx, sql)
	for _, v := range rows {
		i.objects = append(i.objects, engine.Object{Kind: kind, Name: engine.Name{Schema: string(v[0]), Name: string(v[1])}, Definition: string(v[2])})
	}
	return err
}

func (i *instance) note(s engine.Severity, object, text, remedy string) {
	i.findings = append(i.findings, engine.Finding{Severity: s, Object: object, Text: text, Remedy: remedy})
}

// roles makes a role where it is not there, and gives it what it has here.
func (i *instance) roles(ctx context.Context) error {
	password, from := "''", "pg_roles"
	rows, err := i.c.query(ctx, "SELECT has_table_privilege('pg_authid', 'SELECT')")
	if err != nil {
		return err
	}
	if truth(rows[0][0]) {
		password, from = "COALESCE(' PASSWORD ' || quote_literal(r.rolpassword), '')", "pg_authid"
	} else {
		i.note(engine.Warning, "roles", "their passwords cannot be read", "read them as a superuser, or set new ones at the target")
	}
	return i.list(ctx, "role", `SELECT '', r.rolname, format(
		'DO $leeward$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %L) THEN CREATE ROLE %I; END IF; END $leeward$;'
		|| E'\nALTER ROLE %I WITH %s %s %s %s %s %s %s CONNECTION LIMIT %s', r.rolname, r.rolname, r.rolname,
		CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
		CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
		CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
		CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, rolconnlimit) || `+password+`
		|| COALESCE(' VALID UNTIL ' || quote_literal(rolvaliduntil), '') FROM `+from+` r WHERE r.rolname !~ '^pg_' ORDER BY 2`)
}

func (i *instance) members(ctx context.Context) error {
	return i.list(ctx, "membership", `SELECT '', r.rolname || ' to ' || u.rolname, format('GRANT %I TO %I%s', r.rolname, u.rolname,
		CASE WHEN m.admin_option THEN ' WITH ADMIN OPTION' ELSE '' END)
		FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member WHERE u.rolname !~ '^pg_' ORDER BY 2`)
}

func (i *instance) settings(ctx context.Context) error {
	return i.list(ctx, "setting", `SELECT COALESCE(d.datname, ''), COALESCE(r.rolname, 'all') || ' ' || split_part(c, '=', 1), format('ALTER %s SET %s = %s',
		CASE WHEN r.oid IS NULL THEN format('DATABASE %I', d.datname) WHEN d.oid IS NULL THEN format('ROLE %I', r.rolname)
			ELSE format('ROLE %I IN DATABASE %I', r.rolname, d.datname) END,
		split_part(c, '=', 1), quote_literal(substr(c, strpos(c, '=') + 1)))
		FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
		WHERE (d.datname = current_database() OR s.setdatabase = 0) AND c NOT LIKE '`+fenceSetting+`=%' ORDER BY 1, 2`)
}

// owners gives each object the owner it has here.
func (i *instance) owners(ctx context.Context) error {
	return i.list(ctx, "owner", `SELECT n.nspname, c.relname, format('ALTER %s %I.%I OWNER TO %I', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
		WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, n.nspname, c.relname, pg_get_userbyid(c.relowner))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND c.relpersistence <> 't'
		AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S' AND d.deptype IN ('a', 'i'))
		AND `+own("pg_class", "c.oid")+`
		UNION ALL SELECT '', n.nspname, format('ALTER SCHEMA %I OWNER TO %I', n.nspname, pg_get_userbyid(n.nspowner)) FROM pg_namespace n WHERE `+own("pg_namespace", "n.oid")+`
		UNION ALL SELECT n.nspname, p.proname, format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, pg_get_userbyid(p.proowner))
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.prokind <> 'a' AND `+own("pg_proc", "p.oid")+`
		UNION ALL SELECT n.nspname, t.typname, format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname, pg_get_userbyid(t.typowner))
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') AND `+own("pg_type", "t.oid")+` ORDER BY 1, 2`)
}

// grants gives each object the privileges it has here.
func (i *instance) grants(ctx context.Context) error {
	grantee := `CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END`
	return i.list(ctx, "grant", `SELECT n.nspname, c.relname, format('GRANT %s ON %s %I.%I TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
		CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname, `+grantee+`)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND a.grantee <> c.relowner AND `+own("pg_class", "c.oid")+` GROUP BY c.relkind, 1, 2, n.nspname, c.relname, a.grantee, a.is_grantable
		UNION ALL SELECT n.nspname, c.relname || '.' || t.attname, format('GRANT %s (%I) ON %I.%I TO %s%s', a.privilege_type, t.attname, n.nspname, c.relname, `+grantee+`)
		FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a WHERE `+own("pg_class", "c.oid")+`
		UNION ALL SELECT '', n.nspname, format('GRANT %s ON SCHEMA %I TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), n.nspname, `+grantee+`)
		FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND `+own("pg_namespace", "n.oid")+` GROUP BY n.nspname, a.grantee, a.is_grantable
		UNION ALL SELECT n.nspname, p.proname, format('GRANT EXECUTE ON ROUTINE %s TO %s%s', p.oid::regprocedure, `+grantee+`)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a WHERE a.grantee NOT IN (0, p.proowner) AND `+own("pg_proc", "p.oid")+` ORDER BY 1, 2`)
}

// parameters are the server's settings that somebody has made, but for those that are of
// one machine.
func (i *instance) parameters(ctx context.Context) error {
	return i.list(ctx, engine.KindParameter, `SELECT '', name, format('ALTER SYSTEM SET %s = %L', name, current_setting(name)) FROM pg_settings
		WHERE source IN ('configuration file', 'command line', 'environment variable') AND context <> 'internal'
		AND name !~ '^(log_|logging_|ssl|primary_|recovery_|restore_|archive_|unix_socket_|krb_|bonjour|syslog_|event_source)'
		AND name NOT IN ('port', 'listen_addresses', 'data_directory', 'config_file', 'hba_file', 'ident_file', 'external_pid_file', 'cluster_name', 'hot_standby',
			'promote_trigger_file', 'stats_temp_directory', 'dynamic_shared_memory_type', 'TimeZone', 'application_name', 'lc_messages', 'default_transaction_read_only') ORDER BY 2`)
}

// MakeInstanceObject implements engine.InstanceTarget.
func (t *target) MakeInstanceObject(ctx context.Context, o engine.Object, other bool) error {
	if o.Kind == "role" {
		rows, err := t.catalog.query(ctx, "SELECT oid = 10, rolname = current_user FROM pg_roles WHERE rolname = $1", o.Name.Name)
		if err != nil {
			return fmt.Errorf("look for role %s: %w", o.Name.Name, err)
		}
		switch {
		case len(rows) > 0 && truth(rows[0][0]):
			return &engine.KeptError{Why: "it is the superuser that the target was made with"}
		case len(rows) > 0 && truth(rows[0][1]):
			return &engine.KeptError{Why: "Leeward itself logs in by it"}
		}
	}
	// The server's message does not repeat the statement, which may hold a hash.
	if err := t.catalog.exec(ctx, o.Definition); err != nil {
		return fmt.Errorf("make %s %s: %w", o.Kind, o.Name, err)
	}
	return nil
}

// Pace implements engine.Pacer.
func (s *source) Pace(ctx context.Context) (int64, error) {
	c, err := s.catalog.get(ctx)
	if err != nil {
		return 0, fmt.Errorf("measure the link: %w", err)
	}
	defer s.catalog.give(c)
	var first time.Time
	var got int64
	err = c.each(ctx, "SELECT repeat('x', 65536) FROM generate_series(1, 128)", nil, nil, func(v [][]byte) bool {
		if first.IsZero() {
			first = time.Now() // what came until then is latency
			return true
		}
		got += int64(len(v[0]))
		return time.Since(first) < time.Second
	})
	if err != nil {
		return 0, fmt.Errorf("measure the link: %w", err)
	}
	return int64(float64(got) / max(time.Since(first), time.Millisecond).Seconds()), nil
}

// manual tells of what a person must see to.
func (i *instance) manual(ctx context.Context) error {
	rows, err := i.c.query(ctx, `SELECT 'extension ' || extname, 'version ' || extversion || ' is installed', format('install the package of extension %s at the target, same version', extname)
		FROM pg_extension WHERE extname <> 'plpgsql'
		UNION ALL SELECT 'tablespace ' || spcname, pg_tablespace_location(oid), 'tables are made in the default tablespace of the target' FROM pg_tablespace WHERE spcname !~ '^pg_'
		UNION ALL SELECT 'foreign server ' || srvname, 'with its user mappings it is not copied', 'CREATE SERVER ' || quote_ident(srvname) || ' at the target' FROM pg_foreign_server
		UNION ALL SELECT 'subscription ' || subname, 'it is not copied', 'create it at the target after a switch' FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()
		UNION ALL SELECT 'publication ' || pubname, 'it is not copied', 'create it at the target after a switch' FROM pg_publication WHERE pubname !~ '^leeward_'
		UNION ALL SELECT 'database ' || datname, format('encoding %s, collation %s', pg_encoding_to_char(encoding), datcollate), format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
			datname, pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = current_database() ORDER BY 1`)
	if err != nil {
		if !strings.Contains(err.Error(), "42501") { // pg_subscription is for superusers
			return err
		}
		i.note(engine.Note, "subscriptions", "they cannot be listed without superuser", "")
		return nil
	}
	for _, v := range rows {
		i.note(engine.Note, string(v[0]), string(v[1]), string(v[2]))
	}
	return nil
}

var (
	_ engine.Instance       = (*source)(nil)
	_ engine.InstanceTarget = (*target)(nil)
	_ engine.Pacer          = (*source)(nil)
)
