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

// early is what is made before the rows: schemas, types, sequences, tables, and every
// unique index, as rows that come at different times may claim one value, which is to
// be seen then. Other indexes are late: they are quicker made when the rows are there.
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
		for _, x := range t.indexes {
			if x.unique && x.typ <= 2 {
				out = append(out, indexObject(t, x, false))
			}
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
			if !x.unique && x.typ <= 2 || x.columnstore() {
				out = append(out, indexObject(t, x, true))
			}
		}
		for _, k := range t.checks {
			out = append(out, engine.Object{Kind: "constraint", Name: engine.Name{Schema: t.name.Schema, Name: k.name}, Table: t.name, Definition: ddlCheck(t, k), Late: true})
		}
	}
	for _, f := range c.foreign {
		if chosen[f.table] && chosen[f.refTable] {
			out = append(out, engine.Object{Kind: "constraint", Name: engine.Name{Schema: f.table.Schema, Name: f.name}, Table: f.table, Definition: ddlForeignKey(f), Late: true})
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

// asBefore makes constraints that a standby holds off, which nobody trusts meanwhile, as
// trusted as they were and will be again.
func (c *catalog) asBefore(off []held) {
	was := map[string]held{}
	for _, h := range off {
		if h.what == heldConstraint {
			was[heldKey("", h.table, h.name)] = h
		}
	}
	for _, t := range c.tables {
		for _, k := range t.checks {
			if h, ok := was[heldKey("", t.name, k.name)]; ok {
				k.untrusted = h.untrusted
			}
		}
	}
	for _, f := range c.foreign {
		if h, ok := was[heldKey("", f.table, f.name)]; ok {
			f.untrusted = h.untrusted
		}
	}
}

// Schema implements engine.Catalog.
func (r *reader) Schema(ctx context.Context) (*engine.Schema, error) {
	return r.schema(ctx, nil)
}

// Schema implements engine.Catalog. Foreign keys that Execute made without a look at the
// rows are told as they were ordered.
func (t *target) Schema(ctx context.Context) (*engine.Schema, error) {
	return t.schema(ctx, t.unchecked())
}

// schema reads all definitions. Foreign keys that Standby took away are among them.
func (r *reader) schema(ctx context.Context, young map[string]bool) (*engine.Schema, error) {
	s, err := r.d.session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	c, err := s.catalog(ctx)
	if err != nil {
		return nil, err
	}
	off, err := s.held(ctx, sqlAllHeld())
	if err != nil {
		return nil, err
	}
	c.asBefore(off)
	for _, f := range c.foreign {
		if young[unchecked(ddlForeignKey(f))] {
			f.untrusted = false
		}
	}
	out := c.schema(r.d.o.Tables)
	for _, h := range off {
		if h.what != heldDropped {
			continue
		}
		out.Objects = append(out.Objects, engine.Object{Kind: "constraint", Name: engine.Name{Schema: h.table.Schema, Name: h.name}, Table: h.table, Definition: h.definition, Late: true})
	}
	return out, nil
}
