package mssql

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// schema makes of the catalogue what the port speaks of.
func (c *catalog) schema(f engine.Filter) *engine.Schema {
	s := &engine.Schema{}
	chosen := map[engine.Name]bool{}
	for _, t := range c.tables {
		if chooses(f, t.name) {
			chosen[t.name] = true
			s.Tables = append(s.Tables, c.engineTable(t))
		}
	}
	s.Objects = append(s.Objects, c.early(chosen)...)
	s.Objects = append(s.Objects, c.late(chosen)...)
	return s
}

// chooses applies a filter. Names are compared without regard to case, as the usual
// collations of databases do.
func chooses(f engine.Filter, n engine.Name) bool {
	name := strings.ToLower(n.String())
	matches := func(patterns []string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool {
			ok, err := path.Match(strings.ToLower(p), name)
			return err == nil && ok
		})
	}
	return (len(f.Include) == 0 || matches(f.Include)) && !matches(f.Exclude)
}

func (c *catalog) engineTable(t *tableInfo) *engine.Table {
	out := &engine.Table{Name: t.name, Refused: t.refused(), Rows: t.rows, Bytes: t.bytes}
	for i := range t.columns {
		x := &t.columns[i]
		out.Columns = append(out.Columns, engine.Column{
			Name: x.name, Type: x.typeText(), Collation: x.collation, Nullable: x.nullable, Identity: x.identity, Derived: x.derived(),
		})
	}
	key := t.key()
	if key != nil {
		out.Key, out.KeyName = t.indices(key.keys), key.name
	}
	for _, x := range t.indexes {
		if x.unique && x != key && !x.disabled && !x.columnstore() {
			out.Unique = append(out.Unique, t.indices(x.keys))
		}
	}
	for _, f := range c.foreign {
		if f.table == t.name && !slices.Contains(out.References, f.refTable) {
			out.References = append(out.References, f.refTable)
		}
	}
	return out
}

// early is what is made before the rows: schemas, types, sequences, tables, keys and
// what views and routines need. Indexes of tables are late: they are quicker made when
// the rows are there, all but those that rows are told apart by.
func (c *catalog) early(chosen map[engine.Name]bool) []engine.Object {
	var out []engine.Object
	for _, n := range c.schemas {
		out = append(out, engine.Object{Kind: "schema", Name: engine.Name{Name: n}, Definition: ddlSchema(n)})
	}
	for _, u := range c.types {
		o := engine.Object{Kind: "type", Name: u.name, Definition: ddlAlias(u)}
		if u.table != 0 {
			o.Definition = ddlTableType(u, c.byID[u.table])
		}
		out = append(out, o)
	}
	for _, q := range c.sequences {
		out = append(out, engine.Object{Kind: "sequence", Name: q.name, Definition: ddlSequence(q)})
	}
	for _, m := range c.ordered("FN") {
		// A default or a formula may call a scalar function.
		out = append(out, moduleObject(m, "routine"))
	}
	for _, t := range c.tables {
		if !chosen[t.name] {
			continue
		}
		out = append(out, engine.Object{Kind: "table", Name: t.name, Table: t.name, Definition: ddlTable(t)})
		if k := t.key(); k != nil {
			out = append(out, indexObject(t, k, false))
		}
	}
	return out
}

func (c *catalog) late(chosen map[engine.Name]bool) []engine.Object {
	var out []engine.Object
	for _, t := range c.tables {
		if !chosen[t.name] {
			continue
		}
		for _, x := range t.indexes {
			if x != t.key() && x.typ <= 2 || x.columnstore() {
				out = append(out, indexObject(t, x, true))
			}
		}
		for _, k := range t.checks {
			out = append(out, engine.Object{Kind: "constraint", Name: engine.Name{Schema: t.name.Schema, Name: k.name}, Table: t.name, Definition: ddlCheck(t, k), Late: true})
		}
	}
	for _, f := range c.foreign {
		if chosen[f.table] && chosen[f.refTable] {
			out = append(out, engine.Object{Kind: "constraint", Name: engine.Name{Schema: f.table.Schema, Name: f.name}, Table: f.table, Definition: ddlForeignKey(f, true), Late: true})
		}
	}
	for _, y := range c.synonyms {
		out = append(out, engine.Object{Kind: "synonym", Name: y.name, Definition: ddlSynonym(y.name, y.base), Late: true})
	}
	for _, m := range c.ordered("V", "IF", "TF", "P") {
		kind := "routine"
		if m.typ == "V" {
			kind = "view"
		}
		o := moduleObject(m, kind)
		o.Late = true
		out = append(out, o)
	}
	for _, m := range c.ordered("TR") {
		o := moduleObject(m, "trigger")
		o.Late = true
		if t := c.byID[m.parent]; t != nil {
			if !chosen[t.name] {
				continue
			}
			o.Table = t.name
		}
		out = append(out, o)
	}
	return out
}

func indexObject(t *tableInfo, x *indexInfo, late bool) engine.Object {
	kind := "index"
	if x.primary || x.constraint {
		kind = "constraint"
	}
	return engine.Object{Kind: kind, Name: engine.Name{Schema: t.name.Schema, Name: x.name}, Table: t.name, Definition: ddlIndex(t, x), Late: late}
}

// moduleObject leaves the definition empty where the server does not give it: it is
// encrypted, or VIEW DEFINITION is missing.
func moduleObject(m *moduleInfo, kind string) engine.Object {
	return engine.Object{Kind: kind, Name: m.name, Definition: m.text}
}

// ordered returns the modules of some types, those that others name first.
func (c *catalog) ordered(types ...string) []*moduleInfo {
	byID := map[int64]*moduleInfo{}
	var all []*moduleInfo
	for _, m := range c.modules {
		if slices.Contains(types, m.typ) {
			byID[m.id] = m
			all = append(all, m)
		}
	}
	var out []*moduleInfo
	seen := map[int64]bool{}
	var visit func(m *moduleInfo)
	visit = func(m *moduleInfo) {
		if seen[m.id] {
			return
		}
		seen[m.id] = true
		for _, to := range c.depends[m.id] {
			if n := byID[to]; n != nil {
				visit(n)
			}
		}
		out = append(out, m)
	}
	for _, m := range all {
		visit(m)
	}
	return out
}

// Schema reads all definitions. Foreign keys that Standby took away are among them.
func (r *reader) Schema(ctx context.Context) (*engine.Schema, error) {
	s, err := r.d.session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	out := c.schema(r.d.o.Tables)
	dropped, err := s.droppedKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, h := range dropped {
		out.Objects = append(out.Objects, engine.Object{Kind: "constraint", Name: engine.Name{Schema: h.table.Schema, Name: h.name}, Table: h.table, Definition: h.definition, Late: true})
	}
	return out, nil
}
