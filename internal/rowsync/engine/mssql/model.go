package mssql

import (
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// tableInfo is a table as the catalogue has it.
type tableInfo struct {
	id       int64
	name     engine.Name
	temporal int // 1 history, 2 current
	memory   bool
	external bool
	file     bool
	graph    bool
	columns  []columnInfo
	collate  bool // DDL of this server takes the names of collations it gives
	indexes  []*indexInfo
	checks   []*checkInfo
	rows     int64 // -1 unknown
	bytes    int64
}

type columnInfo struct {
	id                  int
	name                string
	base                string
	aliasSchema, alias  string // of a user-defined type
	maxLength           int
	prec, scale         int
	collation           string
	nullable, identity  bool
	computed, persisted bool
	generated           bool
	sparse, rowguid     bool
	defaultName         string
	defaultText         string
	defaultUnnamed      bool
	formula             string
	seed, increment     string
}

type indexInfo struct {
	id         int64
	name       string
	typ        int // 1 clustered, 2 nonclustered, 3 XML, 4 spatial, 5 and 6 columnstore, 7 hash
	unique     bool
	primary    bool
	constraint bool
	disabled   bool
	ignoreDup  bool
	fill       int
	filter     string
	keys       []indexKey
	included   []indexKey
}

type indexKey struct {
	column     int
	descending bool
}

type checkInfo struct {
	name, definition    string
	disabled, untrusted bool
	notForReplication   bool
}

type foreignKey struct {
	name                string
	table, refTable     engine.Name
	columns, refColumns []string
	onDelete, onUpdate  string // "" is NO ACTION
	disabled, untrusted bool
	notForReplication   bool
	nullable            []string // of its columns: with one of them NULL, it does not hold
}

type sequenceInfo struct {
	name                       engine.Name
	typ                        string
	start, increment, min, max string
	cycle, cached              bool
	cache                      int64
	current                    string
}

type typeInfo struct {
	name        engine.Name
	base        string
	maxLength   int
	prec, scale int
	nullable    bool
	table       int64 // object of a table type; 0 for an alias
}

type moduleInfo struct {
	id       int64
	name     engine.Name
	typ      string // V, P, FN, IF, TF, TR
	text     string // "" where it is encrypted or may not be read
	parent   int64
	disabled bool
	instead  bool
}

type synonym struct {
	name engine.Name
	base string // quoted as it was made
}

// catalog is all of a database that this package speaks of.
type catalog struct {
	schemas   []string
	tables    []*tableInfo
	byID      map[int64]*tableInfo
	foreign   []*foreignKey
	modules   []*moduleInfo
	sequences []*sequenceInfo
	types     []*typeInfo
	synonyms  []synonym
	depends   map[int64][]int64
}

func (c *catalog) table(n engine.Name) *tableInfo {
	for _, t := range c.tables {
		if strings.EqualFold(t.name.Schema, n.Schema) && strings.EqualFold(t.name.Name, n.Name) {
			return t
		}
	}
	return nil
}

func (x *indexInfo) clustered() bool   { return x.typ == 1 || x.typ == 5 }
func (x *indexInfo) columnstore() bool { return x.typ == 5 || x.typ == 6 }

func (t *tableInfo) column(id int) *columnInfo {
	for i := range t.columns {
		if t.columns[i].id == id {
			return &t.columns[i]
		}
	}
	return nil
}

func (t *tableInfo) columnByID(id int) string {
	if c := t.column(id); c != nil {
		return c.name
	}
	return ""
}

// indices turns column ids into indices of the table's columns.
func (t *tableInfo) indices(keys []indexKey) []int {
	var out []int
	for _, k := range keys {
		for i := range t.columns {
			if t.columns[i].id == k.column {
				out = append(out, i)
			}
		}
	}
	return out
}

func (c *columnInfo) typeText() string { return spellType(c.base, c.maxLength, c.prec, c.scale) }

// derived reports whether the engine makes the values.
func (c *columnInfo) derived() bool {
	return c.computed || c.generated || c.base == "timestamp"
}

// key returns the index that identifies rows: the primary key, else a unique index
// without a filter, of columns that are neither nullable nor derived.
func (t *tableInfo) key() *indexInfo {
	var best *indexInfo
	for _, x := range t.indexes {
		switch {
		case x.disabled || !x.unique || len(x.keys) == 0 || x.columnstore():
		case x.primary && t.identifies(x):
			return x
		case best == nil && x.filter == "" && t.identifies(x):
			best = x
		}
	}
	return best
}

func (t *tableInfo) identifies(x *indexInfo) bool {
	for _, k := range x.keys {
		if c := t.column(k.column); c == nil || c.nullable || c.derived() {
			return false
		}
	}
	return true
}

// refused says why a table cannot be replicated and what to do; "" where it can.
func (t *tableInfo) refused() string {
	switch {
	case t.temporal == 2:
		return "it is system-versioned: its periods are the server's own. Exclude it, or set SYSTEM_VERSIONING = OFF on it"
	case t.temporal == 1:
		return "it holds the history of a system-versioned table: exclude it"
	case t.memory:
		return "it is memory-optimised: neither snapshot reads beside other tables nor triggers as needed can be had. Exclude it, or use mode: physical"
	case t.external, t.file:
		return "its rows are outside of the database (external table or FileTable): exclude it"
	case t.graph:
		return "it is a table of a graph, whose ids are the server's own: exclude it, or use mode: physical"
	}
	for i := range t.columns {
		c := &t.columns[i]
		if _, err := parseType(c.typeText()); err != nil && !c.derived() {
			return "column " + c.name + " is of type " + c.base + ", whose values cannot be carried exactly: exclude the table, change the type, or use mode: physical"
		}
	}
	if t.key() == nil {
		return "it has neither a primary key nor a unique index of columns that are neither nullable nor computed, so a changed row cannot be told: add one (ALTER TABLE " + obj(t.name) + " ADD CONSTRAINT … PRIMARY KEY (…)), or exclude it"
	}
	return ""
}
