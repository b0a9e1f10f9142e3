package mssql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checker gathers findings.
type checker struct {
	s        *session
	tables   []*engine.Table
	catalog  *catalog
	findings []engine.Finding
}

func (c *checker) add(sev engine.Severity, object, remedy, format string, args ...any) {
	c.findings = append(c.findings, engine.Finding{Severity: sev, Object: object, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// checker reads what both ends look at.
func (r *reader) checker(ctx context.Context, tables []*engine.Table, more func(*checker) error) ([]engine.Finding, error) {
	c := &checker{tables: tables}
	s, err := r.d.session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	c.s = s
	if c.catalog, err = s.catalog(ctx); err != nil {
		return nil, err
	}
	d := r.d
	c.add(engine.Note, d.name, "", "%s %s, collation %s, as login %s; rows are hashed as %s", d.edition, d.version, d.collation, d.login, strings.Join(d.DigestForms(), " or "))
	switch strings.ToLower(d.name) {
	case "master", "model", "msdb", "tempdb":
		c.add(engine.Blocker, d.name, "name the database in the DSN: database=…", "is a database of the server itself")
	}
	c.refused(ctx)
	c.hidden(ctx)
	for _, m := range c.catalog.modules {
		if m.text == "" {
			c.add(engine.Warning, m.name.String(), "make it at the target by hand; if it is not encrypted: "+grantDatabase("VIEW DEFINITION", d.login),
				"its text cannot be read: it is encrypted, or VIEW DEFINITION is missing")
		}
	}
	if err := more(c); err != nil {
		return nil, wrap(err, "check %s", d.name)
	}
	return c.findings, nil
}

// refused names tables that cannot be replicated, and columns that will differ.
func (c *checker) refused(ctx context.Context) {
	encrypted := c.names(ctx, sqlEncrypted())
	for _, t := range c.tables {
		if t.Refused != "" {
			c.add(engine.Blocker, t.Name.String(), "exclude it, or do as the text says", "cannot be replicated: %s", t.Refused)
		}
		for _, x := range encrypted {
			if x.Schema+"."+x.Table == t.Name.String() {
				c.add(engine.Blocker, t.Name.String(), "exclude the table, or use mode: physical", "column %s is under Always Encrypted: the server can neither hash nor convert its values", x.Column)
			}
		}
		if i := c.catalog.table(t.Name); i != nil {
			for k := range i.columns {
				if i.columns[k].base == "timestamp" {
					c.add(engine.Warning, t.Name.String(), "", "rowversion column %s gets new values at the target: what applications remember of it is void after a switch", i.columns[k].name)
				}
			}
			for _, x := range i.indexes {
				if x.typ == 3 || x.typ == 4 || x.typ == 7 {
					c.add(engine.Warning, t.Name.String(), "make it at the target by hand", "index %s (XML, spatial or hash) is not carried", x.name)
				}
				if x.unique && x.ignoreDup {
					c.add(engine.Warning, t.Name.String(), "", "unique index %s has IGNORE_DUP_KEY: a row in the way would be dropped without an error; leeward verify finds it", x.name)
				}
			}
		}
	}
}

// column is a column by name.
type column struct{ Schema, Table, Column string }

// names reads columns by name; a server without the view has none.
func (c *checker) names(ctx context.Context, query string) []column {
	var out []column
	_ = c.s.each(ctx, query, func(scan func(...any) error) error {
		var x column
		if err := scan(&x.Schema, &x.Table, &x.Column); err != nil {
			return err
		}
		out = append(out, x)
		return nil
	})
	return out
}

// hidden names what the server keeps from the login without an error, so that the
// standby would silently lack it.
func (c *checker) hidden(ctx context.Context) {
	if masked := c.names(ctx, sqlMasked()); len(masked) > 0 {
		var may *int64
		if err := c.s.QueryRowContext(ctx, sqlUnmask()).Scan(&may); err == nil && may != nil && *may == 0 {
			c.add(engine.Blocker, masked[0].Schema+"."+masked[0].Table, grantDatabase("UNMASK", c.s.d.login),
				"column %s and perhaps others are masked for this login: the standby would hold the masks", masked[0].Column)
		}
	}
	for _, p := range c.names(ctx, sqlPolicies()) {
		c.add(engine.Warning, p.Schema+"."+p.Table, "make sure that its predicates let this login see every row",
			"is a security policy, which hides rows: those that login %s cannot see are not replicated", c.s.d.login)
	}
}

// Check implements engine.Catalog.
func (s *source) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	return s.checker(ctx, tables, func(c *checker) error {
		d := s.d
		if d.readOnly {
			c.add(engine.Blocker, d.name, "replicate from the primary", "cannot be written here: it is read-only, or a secondary, where change tracking is not coherent")
		}
		method, why, err := s.choose()
		if err != nil {
			c.add(engine.Blocker, d.name, "set capture: auto", "%v", err)
			return nil
		}
		c.add(engine.Note, d.name, "", "changes are captured by %s: %s", method, why)
		c.snapshotState(ctx)
		permissions := []string{"SELECT"}
		if method == methodTracking {
			c.tracking(ctx)
			permissions = append(permissions, "VIEW CHANGE TRACKING")
		} else {
			c.triggers(ctx)
		}
		c.databasePermissions(ctx, []string{"ALTER", "CREATE SCHEMA", "CREATE TABLE", "VIEW DEFINITION"})
		c.tablePermissions(ctx, permissions)
		return nil
	})
}

func (c *checker) snapshotState(ctx context.Context) {
	d := c.s.d
	on := "ALTER DATABASE " + id(d.name) + " SET ALLOW_SNAPSHOT_ISOLATION ON"
	switch c.s.snapshotState(ctx) {
	case snapshotIsOn:
	case snapshotComingOn:
		c.add(engine.Warning, d.name, "end the transactions that were open when it was asked for", "snapshot isolation is on its way: it waits for transactions that were open before")
	case snapshotIsOff:
		c.add(engine.Note, d.name, on, "snapshot isolation is off and will be switched on: every changed row then carries 14 bytes more, and tempdb keeps old versions while they are read")
	default:
		c.add(engine.Blocker, d.name, on, "whether snapshot isolation is on cannot be told, and a batch must be one state of the database")
	}
}

func (c *checker) tracking(ctx context.Context) {
	for _, t := range c.tables {
		i := c.catalog.table(t.Name)
		if t.Refused != "" || i == nil {
			continue
		}
		if k := i.key(); k != nil && !k.primary {
			c.add(engine.Blocker, t.Name.String(), "ALTER TABLE "+obj(t.Name)+" ADD CONSTRAINT … PRIMARY KEY (…), or capture: triggers, or exclude it",
				"has no primary key, which change tracking needs")
		}
	}
	var on int
	if err := c.s.QueryRowContext(ctx, sqlTracked()).Scan(&on); err == nil && on == 0 {
		c.add(engine.Note, c.s.d.name, sqlTrackDatabase(), "change tracking is off and will be switched on, with a retention of 7 days: after a longer interruption tables are compared anew")
	}
}

func (c *checker) triggers(ctx context.Context) {
	var nested int
	if err := c.s.QueryRowContext(ctx, sqlNestedTriggers()).Scan(&nested); err == nil && nested == 0 {
		c.add(engine.Blocker, "nested triggers", "EXEC sp_configure 'nested triggers', 1; RECONFIGURE", "the server does not fire triggers for what triggers do: such changes would not be captured")
	}
	c.add(engine.Warning, c.s.d.name, "", "triggers see neither TRUNCATE nor bulk copy without FIRE_TRIGGERS: tables are counted from time to time, and compared anew where the count tells of it")
}

// databasePermissions names the grants that are missing.
func (c *checker) databasePermissions(ctx context.Context, names []string) {
	var have [5]*int64
	if err := c.s.QueryRowContext(ctx, sqlDatabasePermissions()).Scan(&have[0], &have[1], &have[2], &have[3], &have[4]); err != nil {
		c.add(engine.Note, c.s.d.name, "", "what the login may do cannot be asked here: %v", err)
		return
	}
	if have[4] != nil && *have[4] == 1 {
		return
	}
	for i, n := range names {
		if have[i] != nil && *have[i] == 0 {
			c.add(engine.Blocker, c.s.d.name, grantDatabase(n, c.s.d.login), "login %s lacks %s in the database", c.s.d.login, n)
		}
	}
}

func (c *checker) tablePermissions(ctx context.Context, names []string) {
	for _, t := range c.tables {
		for _, n := range names {
			var may *int64
			if err := c.s.QueryRowContext(ctx, sqlTablePermission(), obj(t.Name), n).Scan(&may); err == nil && may != nil && *may == 0 {
				c.add(engine.Blocker, t.Name.String(), grantTable(n, t.Name, c.s.d.login), "login %s lacks %s on it", c.s.d.login, n)
			}
		}
	}
}

// Check implements engine.Catalog.
func (t *target) Check(ctx context.Context, tables []*engine.Table) ([]engine.Finding, error) {
	return t.checker(ctx, tables, func(c *checker) error {
		d := t.d
		if d.readOnly {
			c.add(engine.Blocker, d.name, "ALTER DATABASE "+id(d.name)+" SET READ_WRITE", "cannot be written: it is read-only, or a secondary")
		}
		var have [5]*int64
		err := c.s.QueryRowContext(ctx, sqlDatabasePermissions()).Scan(&have[0], &have[1], &have[2], &have[3], &have[4])
		if err == nil && have[4] != nil && *have[4] == 0 {
			c.add(engine.Blocker, d.name, addOwner(d.login), "login %s does not own the database: rows, identities, triggers and constraints of a standby are its owner's to change", d.login)
		}
		if !d.marks {
			c.add(engine.Warning, d.name, "", "this server cannot tell Leeward's sessions from others: writes of applications to the standby are found by leeward verify only")
		}
		if !d.writePart {
			c.add(engine.Note, d.name, "", "this server cannot write a part of a value: one of %d MB or more is held whole", largeValue>>20)
		}
		enforced, err := t.enforced(ctx, c.s)
		if err != nil {
			return err
		}
		var names []engine.Name
		for _, x := range tables {
			names = append(names, x.Name)
		}
		if _, err := planOrder(names, enforced); err != nil {
			c.add(engine.Note, d.name, "", "foreign keys are held off while the database stands by; were they not: %v", err)
		}
		for _, m := range c.catalog.modules {
			if p := c.catalog.byID[m.parent]; m.typ == "TR" && p != nil && !m.disabled && slices.Contains(names, p.name) {
				c.add(engine.Note, p.name.String(), "", "trigger %s is disabled while the database stands by, and enabled when it is promoted", m.name.Name)
			}
		}
		return nil
	})
}
