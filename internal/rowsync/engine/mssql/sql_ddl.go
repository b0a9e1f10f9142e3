package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Definitions, spelled from the catalogue in one way, so that equal objects have equal
// text at both ends. Views, routines and triggers keep the text they were made with.

// ddlSchema makes a schema. CREATE SCHEMA must stand alone in its batch.
func ddlSchema(name string) string { return "CREATE SCHEMA " + id(name) }

// ddlTable makes a table with its columns and defaults and nothing else.
func ddlTable(t *tableInfo) string {
	return "CREATE TABLE " + obj(t.name) + " (\n    " + strings.Join(ddlColumns(t), ",\n    ") + "\n)"
}

func ddlColumns(t *tableInfo) []string {
	parts := make([]string, 0, len(t.columns))
	for i := range t.columns {
		parts = append(parts, ddlColumn(&t.columns[i], t.collate))
	}
	return parts
}

// ddlColumn spells one column.
func ddlColumn(c *columnInfo, collate bool) string {
	if c.formula != "" {
		s := id(c.name) + " AS " + c.formula
		if c.persisted {
			s += " PERSISTED"
			if !c.nullable {
				s += " NOT NULL"
			}
		}
		return s
	}
	s := id(c.name) + " " + c.ddlType()
	if collate && c.collation != "" && c.alias == "" && c.base != "sysname" {
		s += " COLLATE " + c.collation
	}
	if c.sparse {
		s += " SPARSE"
	}
	if c.identity {
		s += fmt.Sprintf(" IDENTITY(%s,%s)", c.seed, c.increment)
	}
	if c.nullable {
		s += " NULL"
	} else {
		s += " NOT NULL"
	}
	if c.rowguid {
		s += " ROWGUIDCOL"
	}
	if c.defaultText != "" {
		if !c.defaultUnnamed {
			s += " CONSTRAINT " + id(c.defaultName)
		}
		s += " DEFAULT " + c.defaultText
	}
	return s
}

func (c *columnInfo) ddlType() string {
	if c.alias != "" {
		return id(c.aliasSchema) + "." + id(c.alias)
	}
	if c.base == "timestamp" {
		return "rowversion"
	}
	return c.typeText()
}

// ddlIndex makes an index, a primary key or a unique constraint.
func ddlIndex(t *tableInfo, x *indexInfo) string {
	columns := ddlIndexColumns(t, x.keys)
	kind := "NONCLUSTERED"
	if x.clustered() {
		kind = "CLUSTERED"
	}
	switch {
	case x.primary:
		return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s PRIMARY KEY %s (%s)%s", obj(t.name), id(x.name), kind, columns, ddlIndexOptions(x))
	case x.constraint:
		return fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s UNIQUE %s (%s)%s", obj(t.name), id(x.name), kind, columns, ddlIndexOptions(x))
	case x.columnstore() && x.clustered():
		return fmt.Sprintf("CREATE CLUSTERED COLUMNSTORE INDEX %s ON %s", id(x.name), obj(t.name))
	case x.columnstore():
		return fmt.Sprintf("CREATE NONCLUSTERED COLUMNSTORE INDEX %s ON %s (%s)", id(x.name), obj(t.name), ddlIndexColumns(t, append(plainKeys(x.keys), plainKeys(x.included)...)))
	}
	unique := ""
	if x.unique {
		unique = "UNIQUE "
	}
	s := fmt.Sprintf("CREATE %s%s INDEX %s ON %s (%s)", unique, kind, id(x.name), obj(t.name), columns)
	if len(x.included) > 0 {
		s += " INCLUDE (" + ddlIndexColumns(t, plainKeys(x.included)) + ")"
	}
	if x.filter != "" {
		s += " WHERE " + x.filter
	}
	return s + ddlIndexOptions(x)
}

func plainKeys(keys []indexKey) []indexKey {
	out := make([]indexKey, len(keys))
	for i, k := range keys {
		out[i] = indexKey{column: k.column}
	}
	return out
}

func ddlIndexOptions(x *indexInfo) string {
	var o []string
	if x.fill > 0 && x.fill < 100 {
		o = append(o, fmt.Sprintf("FILLFACTOR = %d", x.fill))
	}
	if x.ignoreDup {
		o = append(o, "IGNORE_DUP_KEY = ON")
	}
	if len(o) == 0 {
		return ""
	}
	return " WITH (" + strings.Join(o, ", ") + ")"
}

func ddlIndexColumns(t *tableInfo, keys []indexKey) string {
	var parts []string
	for _, k := range keys {
		s := id(t.columnByID(k.column))
		if k.descending {
			s += " DESC"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, ", ")
}

// ddlForeignKey makes a foreign key. One that is not trusted is made without a look at
// the rows, which need not satisfy it.
func ddlForeignKey(f *foreignKey) string {
	s := fmt.Sprintf("ALTER TABLE %s%s ADD CONSTRAINT %s FOREIGN KEY (%s) REFERENCES %s (%s)", obj(f.table), withNoCheck(f.untrusted), id(f.name), idList(f.columns), obj(f.refTable), idList(f.refColumns))
	if f.onDelete != "" {
		s += " ON DELETE " + f.onDelete
	}
	if f.onUpdate != "" {
		s += " ON UPDATE " + f.onUpdate
	}
	if f.notForReplication {
		s += " NOT FOR REPLICATION"
	}
	return s
}

func withNoCheck(untrusted bool) string {
	if untrusted {
		return " WITH NOCHECK"
	}
	return ""
}

// unchecked makes the statement of ddlForeignKey leave the rows unlooked at: those of a
// standby may be of no single state yet. Promotion looks at them.
func unchecked(statement string) string {
	head, rest, ok := strings.Cut(statement, " ADD CONSTRAINT ")
	if !ok || !strings.HasPrefix(head, "ALTER TABLE ") || strings.HasSuffix(head, withNoCheck(true)) || !strings.Contains(rest, " FOREIGN KEY (") {
		return statement
	}
	return head + withNoCheck(true) + " ADD CONSTRAINT " + rest
}

// ddlCheck makes a check constraint.
func ddlCheck(t *tableInfo, k *checkInfo) string {
	not := ""
	if k.notForReplication {
		not = "NOT FOR REPLICATION "
	}
	return fmt.Sprintf("ALTER TABLE %s%s ADD CONSTRAINT %s CHECK %s%s", obj(t.name), withNoCheck(k.untrusted), id(k.name), not, parenthesised(k.definition))
}

func parenthesised(s string) string {
	if strings.HasPrefix(s, "(") {
		return s
	}
	return "(" + s + ")"
}

// ddlSequence makes a sequence that starts where it started at first; where it stands
// travels with every batch.
func ddlSequence(q *sequenceInfo) string {
	s := fmt.Sprintf("CREATE SEQUENCE %s AS %s START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s", obj(q.name), q.typ, q.start, q.increment, q.min, q.max)
	if q.cycle {
		s += " CYCLE"
	} else {
		s += " NO CYCLE"
	}
	switch {
	case !q.cached:
		s += " NO CACHE"
	case q.cache > 0:
		s += fmt.Sprintf(" CACHE %d", q.cache)
	}
	return s
}

// ddlAlias makes an alias type.
func ddlAlias(u *typeInfo) string {
	null := "NOT NULL"
	if u.nullable {
		null = "NULL"
	}
	return fmt.Sprintf("CREATE TYPE %s FROM %s %s", obj(u.name), spellType(u.base, u.maxLength, u.prec, u.scale), null)
}

// ddlTableType makes a table type with its primary key and unique constraints.
func ddlTableType(u *typeInfo, t *tableInfo) string {
	parts := ddlColumns(t)
	for _, x := range t.indexes {
		switch {
		case x.primary:
			parts = append(parts, "PRIMARY KEY ("+ddlIndexColumns(t, x.keys)+")")
		case x.constraint:
			parts = append(parts, "UNIQUE ("+ddlIndexColumns(t, x.keys)+")")
		}
	}
	return "CREATE TYPE " + obj(u.name) + " AS TABLE (\n    " + strings.Join(parts, ",\n    ") + "\n)"
}

// ddlSynonym makes a synonym.
func ddlSynonym(n engine.Name, base string) string {
	return "CREATE SYNONYM " + obj(n) + " FOR " + base
}

func idList(names []string) string {
	parts := make([]string, 0, len(names))
	for _, n := range names {
		parts = append(parts, id(n))
	}
	return strings.Join(parts, ", ")
}
