package mariadb

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checker collects findings; the first error ends it.
type checker struct {
	s   *server
	out []engine.Finding
	err error
}

func (c *checker) add(sev engine.Severity, object, remedy, format string, args ...any) {
	c.out = append(c.out, engine.Finding{Severity: sev, Object: object, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// variable reads a variable in capitals.
func (c *checker) variable(ctx context.Context, name string) string {
	if c.err != nil {
		return ""
	}
	var v string
	v, c.err = c.s.variable(ctx, name)
	return strings.ToUpper(v)
}

// Check implements engine.Catalog.
func (s *Source) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	c := &checker{s: s.server}
	if !s.atLeast(10, 5) {
		c.add(engine.Blocker, "version", "use MariaDB 10.5 or newer as the source", "only MariaDB from 10.5 on is supported as a source, as MySQL tells no snapshot's position without a lock")
		return c.out, nil
	}
	c.binlog(ctx)
	c.sourceGrants(ctx)
	c.tables(tables)
	return c.out, c.err
}

func (c *checker) binlog(ctx context.Context) {
	if v := c.variable(ctx, "log_bin"); v != "ON" && c.err == nil {
		c.add(engine.Blocker, "log_bin", "set log_bin=binlog in the section [mariadb] of the server's configuration and restart it", "the server writes no binlog")
		return
	}
	for _, w := range []struct{ name, want, why string }{
		{"binlog_format", "ROW", "statements are logged that may mean something else at the target"},
		{"binlog_row_image", "FULL", "rows are logged only in part"},
		{"binlog_row_metadata", "FULL", "rows are logged without the names of their columns, so a changed definition would go unseen"},
	} {
		if v := c.variable(ctx, w.name); v != w.want && c.err == nil {
			c.add(engine.Blocker, w.name, fmt.Sprintf("SET GLOBAL %s = %s; and in the configuration; sessions that are open keep the former value", w.name, w.want), "it is %s: %s", v, w.why)
		}
	}
	if v := c.variable(ctx, "gtid_strict_mode"); v != "ON" {
		c.add(engine.Warning, "gtid_strict_mode", "SET GLOBAL gtid_strict_mode = 1", "positions may be out of order after a switch between masters")
	}
	if v := c.variable(ctx, "binlog_expire_logs_seconds"); v != "" {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 0 && n < 86400 {
			c.add(engine.Warning, "binlog_expire_logs_seconds", "SET GLOBAL binlog_expire_logs_seconds = 259200", "binlogs are dropped after %d s: a stop of that length means comparing the tables anew", n)
		}
	}
	if v := c.variable(ctx, "sync_binlog"); v == "0" {
		c.add(engine.Note, "sync_binlog", "SET GLOBAL sync_binlog = 1", "after a crash the binlog may lack transactions that the source has")
	}
	c.binlogFilter(ctx)
	rows, err := c.s.strings(ctx, "SELECT variable_value FROM information_schema.global_status WHERE variable_name = 'COM_XA_PREPARE' AND variable_value <> '0'")
	if err == nil && len(rows) > 0 {
		c.add(engine.Warning, "XA", "avoid XA on replicated tables", "%s transactions were prepared by XA since the server started: one that touches a replicated table means comparing that table anew when it is committed", rows[0])
	}
}

// binlogFilter looks for databases kept out of the binlog, and for a replica that does
// not log what it applies.
func (c *checker) binlogFilter(ctx context.Context) {
	if c.err != nil {
		return
	}
	conn, err := c.s.text.Conn(ctx)
	if err != nil {
		c.err = explain(err)
		return
	}
	defer conn.Close()
	m, err := showAll(ctx, conn, "SHOW MASTER STATUS")
	if err != nil {
		return // sourceGrants tells of what is missing
	}
	list := func(s string) bool {
		for _, d := range strings.Split(s, ",") {
			if d == c.s.db {
				return true
			}
		}
		return false
	}
	if m["Binlog_Do_DB"] != "" && !list(m["Binlog_Do_DB"]) || list(m["Binlog_Ignore_DB"]) {
		c.add(engine.Blocker, "binlog_do_db", "take "+c.s.db+" out of binlog_ignore_db, or into binlog_do_db", "the database is kept out of the binlog")
	}
	m, err = showAll(ctx, conn, "SHOW ALL SLAVES STATUS")
	if err == nil && len(m) > 0 && c.variable(ctx, "log_slave_updates") != "ON" {
		c.add(engine.Blocker, "log_slave_updates", "set log_slave_updates=1 in the configuration and restart", "the server is itself a replica and does not log what it applies")
	}
}

// grants returns what SHOW GRANTS says, in capitals, and the account.
func (c *checker) grants(ctx context.Context) (all []string, account string) {
	if c.err != nil {
		return nil, ""
	}
	all, err := c.s.strings(ctx, "SHOW GRANTS")
	if err != nil {
		c.err = fmt.Errorf("read grants: %w", err)
		return nil, ""
	}
	for i, g := range all {
		all[i] = strings.ToUpper(g)
	}
	if err := c.s.text.QueryRowContext(ctx, "SELECT CURRENT_USER()").Scan(&account); err != nil {
		c.err = fmt.Errorf("read account: %w", explain(err))
		return nil, ""
	}
	if at := strings.LastIndexByte(account, '@'); at >= 0 {
		account = "'" + account[:at] + "'@'" + account[at+1:] + "'"
	}
	return all, account
}

// granted tells whether a privilege is among the grants, on everything or on one of
// the databases.
func granted(all []string, privilege string, dbs ...string) bool {
	for _, g := range all {
		what, rest, ok := strings.Cut(strings.TrimPrefix(g, "GRANT "), " ON ")
		if !ok {
			continue
		}
		on := strings.HasPrefix(rest, "*.*")
		for _, d := range dbs {
			pattern := strings.ToUpper("`" + d + "`.*")
			on = on || strings.HasPrefix(strings.ReplaceAll(rest, `\_`, "_"), pattern)
		}
		if !on {
			continue
		}
		for _, p := range strings.Split(what, ",") {
			if p = strings.TrimSpace(p); p == privilege || p == "ALL PRIVILEGES" {
				return true
			}
		}
	}
	return false
}

func (c *checker) sourceGrants(ctx context.Context) {
	all, account := c.grants(ctx)
	if c.err != nil {
		return
	}
	if !granted(all, "REPLICATION SLAVE") && !granted(all, "REPLICATION REPLICA") {
		c.add(engine.Blocker, "grants", "GRANT REPLICATION SLAVE ON *.* TO "+account, "the account may not read the binlog")
	}
	if !granted(all, "BINLOG MONITOR") && !granted(all, "REPLICATION CLIENT") {
		c.add(engine.Warning, "grants", "GRANT BINLOG MONITOR ON *.* TO "+account, "the account may not see whether the binlog leaves databases out")
	}
	if !granted(all, "SELECT", c.s.db) {
		c.add(engine.Blocker, "grants", "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT ON "+ident(c.s.db)+".* TO "+account, "the account may not read the database")
	}
	for _, p := range []string{"SHOW VIEW", "TRIGGER", "EVENT"} {
		if !granted(all, p, c.s.db) {
			c.add(engine.Warning, "grants", "GRANT SHOW VIEW, TRIGGER, EVENT ON "+ident(c.s.db)+".* TO "+account, "the account may not read all definitions: %s is missing", p)
			break
		}
	}
	if !granted(all, "READ_ONLY ADMIN") && !granted(all, "READ ONLY ADMIN") {
		c.add(engine.Warning, engine.FenceObject, "GRANT READ_ONLY ADMIN, CONNECTION ADMIN, PROCESS ON *.* TO "+account, "the account may not make the server read-only: the database cannot be moved as planned")
	}
	if !granted(all, "RELOAD") {
		c.add(engine.Note, "grants", "GRANT RELOAD ON *.* TO "+account, "where commits are too dense for several readers to see one state, only one will read")
	}
}

func (c *checker) tables(tables []*engine.Table) {
	for _, t := range tables {
		switch {
		case t.Refused != "":
			c.add(engine.Blocker, t.Name.String(), "leave it out by tables.exclude", "%s", t.Refused)
		case len(t.Key) == 0:
			c.add(engine.Warning, t.Name.String(), "ALTER TABLE "+ident(t.Name.Name)+" ADD PRIMARY KEY (…)", "it has neither a primary key nor a unique index of whole columns that cannot be NULL: rows are told apart by all their values, and each change reads the whole table at the target")
		}
	}
}

// Check implements engine.Catalog.
func (t *Target) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	c := &checker{s: t.server}
	if !t.atLeast(10, 5) {
		c.add(engine.Warning, "version", "use MariaDB 10.5 or newer", "the driver is proven with MariaDB only")
	}
	if v := c.variable(ctx, "local_infile"); v != "ON" && c.err == nil {
		c.add(engine.Blocker, "local_infile", "SET GLOBAL local_infile = 1; and in the configuration", "rows are loaded by LOAD DATA LOCAL, which the server refuses")
	}
	all, account := c.grants(ctx)
	if c.err != nil {
		return c.out, c.err
	}
	if v := c.variable(ctx, "read_only"); v == "ON" && !granted(all, "READ_ONLY ADMIN") && !granted(all, "READ ONLY ADMIN") {
		c.add(engine.Blocker, "read_only", "GRANT READ_ONLY ADMIN ON *.* TO "+account, "the server is read-only and the account is bound by it")
	}
	if v := c.variable(ctx, "log_bin"); v != "ON" && c.err == nil {
		c.add(engine.Warning, "log_bin", "set log_bin=binlog in the configuration and restart", "without a binlog writes of others cannot be told, and the way back needs it")
	} else if v := c.variable(ctx, "binlog_format"); v == "STATEMENT" {
		c.add(engine.Warning, "binlog_format", "SET GLOBAL binlog_format = ROW", "what is applied would be logged as statements on temporary tables")
	}
	c.targetGrants(all, account)
	c.tables(tables)
	shapes, err := t.loadShapes(ctx)
	if err != nil {
		return c.out, err
	}
	for _, tab := range tables {
		for _, r := range tab.References {
			if s := shapes[tab.Name.Name]; s == nil || !slices.Contains(s.refers, r.Name) {
				c.add(engine.Blocker, tab.Name.String(), "make the foreign key at the target as it is at the source", "it has no foreign key to %s here: what that cascades at the source is not in the binlog, so the target must cascade it too", r)
			}
		}
	}
	return c.out, c.err
}

func (c *checker) targetGrants(all []string, account string) {
	for _, d := range []string{c.s.db, own} {
		for _, p := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER", "INDEX", "REFERENCES", "TRIGGER", "EVENT", "CREATE VIEW", "SHOW VIEW", "CREATE ROUTINE", "ALTER ROUTINE", "CREATE TEMPORARY TABLES"} {
			if !granted(all, p, d) {
				c.add(engine.Blocker, "grants", "GRANT ALL PRIVILEGES ON "+ident(d)+".* TO "+account, "the account lacks %s on the database %s", p, d)
				break
			}
		}
	}
	if !granted(all, "SET USER") && !granted(all, "SUPER") {
		c.add(engine.Warning, "grants", "GRANT SET USER ON *.* TO "+account, "triggers, events, views and routines of other definers cannot be made again")
	}
}
