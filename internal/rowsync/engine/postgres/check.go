package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checker collects findings; after the first error its queries return nothing.
type checker struct {
	ctx  context.Context
	db   *database
	user string
	out  []engine.Finding
	err  error
}

func (c *checker) add(s engine.Severity, object, text, remedy string) {
	c.out = append(c.out, engine.Finding{Severity: s, Object: object, Text: text, Remedy: remedy})
}

func (c *checker) query(sql string, args ...string) [][][]byte {
	if c.err != nil {
		return nil
	}
	rows, err := c.db.catalog.query(c.ctx, sql, args...)
	if err != nil {
		c.err = fmt.Errorf("check database %s: %w", c.db.name, err)
	}
	return rows
}

// one returns a single value.
func (c *checker) one(sql string, args ...string) string {
	rows := c.query(sql, args...)
	if len(rows) == 0 {
		return ""
	}
	return string(rows[0][0])
}

func (d *database) checker(ctx context.Context) *checker {
	c := &checker{ctx: ctx, db: d}
	c.user = c.one("SELECT current_user")
	return c
}

// Check tells what prevents or weakens replication from here.
func (s *source) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	c := s.checker(ctx)
	c.logging()
	c.roleOfSource()
	c.tables(tables, "SELECT", "GRANT SELECT ON")
	for _, t := range tables {
		rel, err := s.known.of(ctx, t.Name)
		if err != nil {
			return nil, err
		}
		if rel.Refused != "" {
			c.add(engine.Blocker, t.Name.String(), rel.Refused, after(rel.Refused, ": "))
		}
		if t.Key == nil && rel.Refused == "" {
			c.add(engine.Warning, t.Name.String(), "it has no key: its rows are compared whole, and each update or delete searches the table at the target", "add a primary key")
		}
	}
	c.collations()
	c.unreplicated(tables)
	return c.out, c.err
}

func after(s, sep string) string {
	_, rest, ok := strings.Cut(s, sep)
	if !ok {
		return s
	}
	return rest
}

func (c *checker) logging() {
	if c.one("SELECT pg_is_in_recovery()") == "t" {
		c.add(engine.Blocker, "server", "it is a standby: publications cannot be made there", "name its primary as the source")
	}
	if v := c.one("SELECT current_setting('wal_level')"); v != "logical" {
		c.add(engine.Blocker, "wal_level", "it is "+v+": row changes cannot be decoded", "ALTER SYSTEM SET wal_level = 'logical', then restart the server")
	}
	if c.one("SELECT (SELECT count(*) FROM pg_replication_slots) + 1 < current_setting('max_replication_slots')::int") != "t" {
		c.add(engine.Blocker, "max_replication_slots", "fewer than two slots are free, one for the stream and one for snapshots", "ALTER SYSTEM SET max_replication_slots = 20, then restart the server")
	}
	if c.one("SELECT (SELECT count(*) FROM pg_stat_replication) + 1 < current_setting('max_wal_senders')::int") != "t" {
		c.add(engine.Blocker, "max_wal_senders", "fewer than two WAL senders are free", "ALTER SYSTEM SET max_wal_senders = 20, then restart the server")
	}
	if c.db.version >= 130000 && c.one("SELECT current_setting('max_slot_wal_keep_size')") == "-1" {
		c.add(engine.Warning, "max_slot_wal_keep_size", "it is unlimited: while the target cannot be reached, WAL is kept until the source's disk is full",
			"ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()")
	}
}

// fencing checks what a switch needs: the fence is settings of the database.
func (c *checker) fencing() {
	if c.one("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") == "t" {
		return
	}
	u := ident(c.user)
	if c.one("SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database()") != "t" {
		c.add(engine.Warning, engine.FenceObject, c.user+" does not own the database and cannot fence it: it cannot be moved as planned",
			"ALTER DATABASE "+ident(c.db.name)+" OWNER TO "+u+", or make it a member of the owner")
	}
	// Before 15 an owner may keep a setting of any name.
	if c.db.version >= 150000 && c.one("SELECT has_parameter_privilege("+literal(fenceSetting)+", 'SET')") != "t" {
		c.add(engine.Warning, engine.FenceObject, c.user+" may not keep "+fenceSetting+" and cannot fence the database: it cannot be moved as planned",
			"GRANT SET ON PARAMETER "+fenceSetting+" TO "+u)
	}
}

func (c *checker) roleOfSource() {
	u := ident(c.user)
	if c.one("SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user") != "t" {
		c.add(engine.Blocker, "role "+c.user, "it may not replicate", "ALTER ROLE "+u+" REPLICATION")
	}
	if c.one("SELECT has_database_privilege(current_database(), 'CREATE')") != "t" {
		c.add(engine.Blocker, "role "+c.user, "it may not make a publication", "GRANT CREATE ON DATABASE "+ident(c.db.name)+" TO "+u)
	}
	c.fencing()
}

// tables checks what may be done with each table. Publishing one takes its owner.
func (c *checker) tables(tables []*engine.Table, privileges, grant string) {
	for _, t := range tables {
		q := qualified(t.Name)
		rows := c.query(`SELECT (SELECT bool_and(has_table_privilege(c.oid, p)) FROM unnest(string_to_array($2, ', ')) p), pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner),
			c.relrowsecurity AND (NOT pg_has_role(c.relowner, 'USAGE') OR c.relforcerowsecurity)
			AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user), has_schema_privilege(c.relnamespace, 'USAGE')
			FROM pg_class c WHERE c.oid = to_regclass($1)`, q, privileges)
		if len(rows) == 0 {
			continue // a target may not have it yet
		}
		v := rows[0]
		if !truth(v[4]) {
			c.add(engine.Blocker, t.Name.String(), c.user+" may not use its schema", "GRANT USAGE ON SCHEMA "+ident(t.Name.Schema)+" TO "+ident(c.user))
		}
		if !truth(v[0]) {
			c.add(engine.Blocker, t.Name.String(), c.user+" lacks "+privileges, grant+" "+q+" TO "+ident(c.user))
		}
		if !truth(v[1]) {
			c.add(engine.Blocker, t.Name.String(), c.user+" does not own it, as publications and triggers require", "GRANT "+ident(string(v[2]))+" TO "+ident(c.user))
		}
		if truth(v[3]) {
			c.add(engine.Blocker, t.Name.String(), "row-level security hides rows from "+c.user, "ALTER ROLE "+ident(c.user)+" BYPASSRLS")
		}
	}
}

// collations tells of indexes that may be in an order which the library has changed
// since.
func (c *checker) collations() {
	if c.db.version >= 150000 {
		rows := c.query("SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid)")
		for _, v := range rows {
			c.add(engine.Warning, "database "+c.db.name, fmt.Sprintf("its collation was made with version %s, the system has %s: indexes on text may be out of order", v[0], v[1]),
				"REINDEX DATABASE "+ident(c.db.name)+"; ALTER DATABASE "+ident(c.db.name)+" REFRESH COLLATION VERSION")
		}
	}
	rows := c.query("SELECT collname, collversion, pg_collation_actual_version(oid) FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid) AND oid >= 16384")
	for _, v := range rows {
		c.add(engine.Warning, "collation "+string(v[0]), fmt.Sprintf("it was made with version %s, the system has %s", v[1], v[2]),
			"REINDEX what uses it; ALTER COLLATION "+ident(string(v[0]))+" REFRESH VERSION")
	}
}

// unreplicated tells of what the stream does not carry.
func (c *checker) unreplicated(tables []*engine.Table) {
	if n := c.one("SELECT count(*) FROM pg_largeobject_metadata"); n != "0" && n != "" {
		c.add(engine.Warning, "large objects", n+" large objects do not travel: their changes are not in the log", "store them as bytea, or use mode: physical")
	}
	ours := map[engine.Name]bool{}
	for _, t := range tables {
		ours[t.Name] = true
	}
	rows := c.query(`SELECT n.nspname, c.relname, c.relkind, c.relpersistence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE (c.relkind IN ('m', 'f') OR c.relkind = 'r' AND c.relpersistence = 'u') AND ` + userObject + ` ORDER BY 1, 2`)
	for _, v := range rows {
		name := engine.Name{Schema: string(v[0]), Name: string(v[1])}
		switch string(v[2]) {
		case "m":
			c.add(engine.Note, name.String(), "a materialized view: it is refreshed when the target is promoted", "")
		case "f":
			c.add(engine.Note, name.String(), "a foreign table: its rows live elsewhere", "")
		default:
			if !ours[name] {
				c.add(engine.Warning, name.String(), "an unlogged table: its changes are not in the log", "ALTER TABLE "+qualified(name)+" SET LOGGED")
			}
		}
	}
	rows = c.query("SELECT e.extname, string_agg(x.c::regclass::text, ', ') FROM pg_extension e, unnest(e.extconfig) x(c) GROUP BY 1 ORDER BY 1")
	for _, v := range rows {
		c.add(engine.Note, "extension "+string(v[0]), fmt.Sprintf("its own tables do not travel: %s", v[1]), "")
	}
}

// Check tells what prevents or weakens replication to here.
func (t *target) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	c := t.checker(ctx)
	u := ident(c.user)
	if c.one("SELECT pg_is_in_recovery()") == "t" {
		c.add(engine.Blocker, "server", "it is a standby and takes no writes", "SELECT pg_promote(), or name another target")
	}
	may := "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
	remedy := "connect as a superuser"
	if t.version >= 150000 {
		may = "SELECT (" + may + ") OR has_parameter_privilege('session_replication_role', 'SET')"
		remedy = "GRANT SET ON PARAMETER session_replication_role TO " + u
	}
	if c.one(may) != "t" {
		c.add(engine.Blocker, "session_replication_role", c.user+" may not set it: foreign keys and triggers could not be held off", remedy)
	}
	if c.one("SELECT has_database_privilege(current_database(), 'TEMP')") != "t" {
		c.add(engine.Blocker, "role "+c.user, "it may not make temporary tables, in which rows are staged", "GRANT TEMPORARY ON DATABASE "+ident(t.name)+" TO "+u)
	}
	if c.one("SELECT to_regnamespace('leeward') IS NOT NULL OR has_database_privilege(current_database(), 'CREATE')") != "t" {
		c.add(engine.Blocker, "role "+c.user, "it may not make the schema leeward", "GRANT CREATE ON DATABASE "+ident(t.name)+" TO "+u)
	}
	c.tables(tables, "SELECT, INSERT, UPDATE, DELETE", "GRANT SELECT, INSERT, UPDATE, DELETE ON")
	c.triggers(tables)
	c.collations()
	return c.out, c.err
}

// triggers tells of those that fire even for replicated rows.
func (c *checker) triggers(tables []*engine.Table) {
	ours := map[engine.Name]bool{}
	for _, t := range tables {
		ours[t.Name] = true
	}
	rows := c.query(`SELECT n.nspname, c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT g.tgisinternal AND g.tgenabled IN ('A', 'R') ORDER BY 1, 2, 3`)
	for _, v := range rows {
		name := engine.Name{Schema: string(v[0]), Name: string(v[1])}
		if ours[name] {
			c.add(engine.Warning, name.String(), fmt.Sprintf("trigger %s is ENABLE ALWAYS or REPLICA: it fires for replicated rows, which then may differ", v[2]),
				"ALTER TABLE "+qualified(name)+" ENABLE TRIGGER "+ident(string(v[2]))+" at the target")
		}
	}
}
