package mssql

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// ourPrefix begins the names of all triggers that Leeward makes in schemas of users.
const ourPrefix = "leeward_"

// catalog reads all definitions of the database, in the session's transaction where
// there is one.
func (s *session) catalog(ctx context.Context) (*catalog, error) {
	c := &catalog{byID: map[int64]*tableInfo{}, depends: map[int64][]int64{}}
	for _, step := range []struct {
		what string
		read func(context.Context, *session) error
	}{
		{"schemas", c.readSchemas}, {"types", c.readTypes}, {"tables", c.readTables}, {"columns", c.readColumns}, {"indexes", c.readIndexes},
		{"check constraints", c.readChecks}, {"foreign keys", c.readForeignKeys}, {"views and routines", c.readModules},
		{"triggers", c.readTriggers}, {"sequences", c.readSequences},
	} {
		if err := step.read(ctx, s); err != nil {
			return nil, wrap(err, "read %s of the catalogue", step.what)
		}
	}
	c.readOptional(ctx, s)
	return c, nil
}

// readOptional reads what not every server has; its lack is no error.
func (c *catalog) readOptional(ctx context.Context, s *session) {
	_ = s.each(ctx, sqlGraphTables(), func(scan func(...any) error) error {
		var id int64
		if err := scan(&id); err != nil {
			return err
		}
		if t := c.byID[id]; t != nil {
			t.graph = true
		}
		return nil
	})
	_ = s.each(ctx, sqlModuleDependencies(), func(scan func(...any) error) error {
		var from, to int64
		if err := scan(&from, &to); err != nil {
			return err
		}
		c.depends[from] = append(c.depends[from], to)
		return nil
	})
	_ = s.each(ctx, sqlSynonyms(), func(scan func(...any) error) error {
		var n engine.Name
		var base string
		if err := scan(&n.Schema, &n.Name, &base); err != nil {
			return err
		}
		c.synonyms = append(c.synonyms, synonym{n, base})
		return nil
	})
	if err := c.readSizes(ctx, s, sqlSizes()); err != nil {
		// The rows of partitions are the fallback; without either, sizes stay unknown.
		_ = c.readSizes(ctx, s, sqlRowCounts())
	}
}

func (c *catalog) readSchemas(ctx context.Context, s *session) error {
	return s.each(ctx, sqlSchemas(), func(scan func(...any) error) error {
		var n string
		if err := scan(&n); err != nil {
			return err
		}
		c.schemas = append(c.schemas, n)
		return nil
	})
}

func (c *catalog) readTypes(ctx context.Context, s *session) error {
	return s.each(ctx, sqlUserTypes(), func(scan func(...any) error) error {
		u := &typeInfo{}
		var base *string
		var nullable flag
		var table *int64
		var length, prec, scale num
		if err := scan(&u.name.Schema, &u.name.Name, &base, &length, &prec, &scale, &nullable, &table); err != nil {
			return err
		}
		u.maxLength, u.prec, u.scale = int(length), int(prec), int(scale)
		u.base, u.nullable = value(base), bool(nullable)
		if table != nil {
			u.table = *table
			c.byID[u.table] = &tableInfo{id: u.table, name: u.name, collate: s.d.Collate}
		}
		c.types = append(c.types, u)
		return nil
	})
}

func (c *catalog) readTables(ctx context.Context, s *session) error {
	return s.each(ctx, sqlTables(), func(scan func(...any) error) error {
		t := &tableInfo{rows: -1, collate: s.d.Collate}
		var temporal num
		var memory, external, file flag
		if err := scan(&t.id, &t.name.Schema, &t.name.Name, &temporal, &memory, &external, &file); err != nil {
			return err
		}
		t.temporal = int(temporal)
		t.memory, t.external, t.file = bool(memory), bool(external), bool(file)
		c.tables = append(c.tables, t)
		c.byID[t.id] = t
		return nil
	})
}

// flag is a bit of the catalogue, which may be NULL.
type flag bool

// Scan takes what the TDS driver gives for an int or a bit.
func (f *flag) Scan(v any) error {
	switch v := v.(type) {
	case int64:
		*f = v != 0
	case bool:
		*f = flag(v)
	default:
		*f = false
	}
	return nil
}

// text is a string of the catalogue, which may be NULL.
type text string

// Scan takes strings and nothing.
func (t *text) Scan(v any) error {
	switch v := v.(type) {
	case string:
		*t = text(v)
	case []byte:
		*t = text(v)
	default:
		*t = ""
	}
	return nil
}

// num is a number of the catalogue, which may be NULL.
type num int

// Scan takes numbers of any spelling, and nothing.
func (n *num) Scan(v any) error {
	*n = 0
	switch v := v.(type) {
	case int64:
		*n = num(v)
	case bool:
		if v {
			*n = 1
		}
	case []byte:
		i, err := strconv.Atoi(plain(string(v)))
		*n = num(i)
		return err
	}
	return nil
}

func (c *catalog) readColumns(ctx context.Context, s *session) error {
	return s.each(ctx, sqlColumns(), func(scan func(...any) error) error {
		var object int64
		var x columnInfo
		var base, us, un, coll, dn, dd, formula, seed, increment text
		var generated, length, prec, scale num
		var nullable, identity, computed, sparse, guid, unnamed, persisted flag
		err := scan(&object, &x.id, &x.name, &base, &us, &un, &length, &prec, &scale, &coll, &nullable, &identity, &computed,
			&generated, &sparse, &guid, &dn, &dd, &unnamed, &formula, &persisted, &seed, &increment)
		if err != nil {
			return err
		}
		x.maxLength, x.prec, x.scale = int(length), int(prec), int(scale)
		x.base, x.aliasSchema, x.alias, x.collation = strings.ToLower(string(base)), string(us), string(un), string(coll)
		x.defaultName, x.defaultText, x.defaultUnnamed = string(dn), string(dd), bool(unnamed)
		x.formula, x.persisted, x.seed, x.increment = string(formula), bool(persisted), string(seed), string(increment)
		x.nullable, x.identity, x.computed = bool(nullable), bool(identity), bool(computed)
		x.generated, x.sparse, x.rowguid = generated != 0, bool(sparse), bool(guid)
		if t := c.byID[object]; t != nil {
			x.defaultUnnamed = x.defaultUnnamed || numbered(x.defaultName, t.name.Name)
			t.columns = append(t.columns, x)
		}
		return nil
	})
}

func (c *catalog) readIndexes(ctx context.Context, s *session) error {
	return s.each(ctx, sqlIndexes(), func(scan func(...any) error) error {
		var object int64
		var x indexInfo
		var k indexKey
		var name, filter text
		var kind, fill num
		var unique, primary, constraint, disabled, ignore, desc, included flag
		err := scan(&object, &x.id, &name, &kind, &unique, &primary, &constraint, &disabled, &ignore, &fill, &filter, &k.column, &desc, &included)
		if err != nil {
			return err
		}
		t := c.byID[object]
		if t == nil {
			return nil
		}
		last := len(t.indexes) - 1
		if last < 0 || t.indexes[last].id != x.id {
			x.typ, x.fill = int(kind), int(fill)
			x.name, x.filter = unmangled(string(name), t.name.Name), string(filter)
			x.unique, x.primary, x.constraint = bool(unique), bool(primary), bool(constraint)
			x.disabled, x.ignoreDup = bool(disabled), bool(ignore)
			t.indexes = append(t.indexes, &x)
			last++
		}
		k.descending = bool(desc)
		if included {
			t.indexes[last].included = append(t.indexes[last].included, k)
		} else {
			t.indexes[last].keys = append(t.indexes[last].keys, k)
		}
		return nil
	})
}

// unmangled undoes what a server of T-SQL over another engine does to the names of
// indexes, which there are of the schema and not of the table: it appends the table's
// name and the MD5 of the index's own.
func unmangled(name, table string) string {
	const sum = 2 * md5.Size
	if len(name) <= sum {
		return name
	}
	head, tail := name[:len(name)-sum], name[len(name)-sum:]
	own, ok := strings.CutSuffix(head, strings.ToLower(table))
	if h := md5.Sum([]byte(own)); !ok || hex.EncodeToString(h[:]) != tail {
		return name
	}
	return own
}

// numbered reports whether a default's name is one that a server made of the table
// and a number, other at each end.
func numbered(name, table string) bool {
	rest, ok := strings.CutPrefix(strings.ToLower(name), "df_"+strings.ToLower(table)+"_")
	_, err := strconv.ParseUint(rest, 10, 64)
	return ok && err == nil
}

func (c *catalog) readChecks(ctx context.Context, s *session) error {
	return s.each(ctx, sqlChecks(), func(scan func(...any) error) error {
		var parent int64
		var k checkInfo
		var definition text
		var disabled, untrusted, not flag
		if err := scan(&k.name, &parent, &definition, &disabled, &untrusted, &not); err != nil {
			return err
		}
		k.definition, k.disabled, k.untrusted, k.notForReplication = string(definition), bool(disabled), bool(untrusted), bool(not)
		if t := c.byID[parent]; t != nil {
			t.checks = append(t.checks, &k)
		}
		return nil
	})
}

func (c *catalog) readForeignKeys(ctx context.Context, s *session) error {
	var last int64
	var f *foreignKey
	return s.each(ctx, sqlForeignKeys(), func(scan func(...any) error) error {
		var object, parent, ref int64
		var name, schema string
		var onDelete, onUpdate text
		var from, to int
		var disabled, untrusted, not flag
		if err := scan(&object, &name, &schema, &parent, &ref, &onDelete, &onUpdate, &disabled, &untrusted, &not, &from, &to); err != nil {
			return err
		}
		pt, rt := c.byID[parent], c.byID[ref]
		if pt == nil || rt == nil {
			return nil
		}
		if object != last {
			last = object
			f = &foreignKey{name: name, table: pt.name, refTable: rt.name, onDelete: action(onDelete), onUpdate: action(onUpdate),
				disabled: bool(disabled), untrusted: bool(untrusted), notForReplication: bool(not)}
			c.foreign = append(c.foreign, f)
		}
		f.columns, f.refColumns = append(f.columns, pt.columnByID(from)), append(f.refColumns, rt.columnByID(to))
		if x := pt.column(from); x != nil && x.nullable {
			f.nullable = append(f.nullable, x.name)
		}
		return nil
	})
}

// action spells a referential action as DDL does; NO ACTION is the default.
func action(s text) string {
	if a := strings.ReplaceAll(string(s), "_", " "); a != "NO ACTION" {
		return a
	}
	return ""
}

func (c *catalog) readModules(ctx context.Context, s *session) error {
	return s.each(ctx, sqlModules(), func(scan func(...any) error) error {
		var m moduleInfo
		var definition text
		if err := scan(&m.id, &m.name.Schema, &m.name.Name, &m.typ, &definition, &m.parent); err != nil {
			return err
		}
		m.typ, m.text = strings.TrimSpace(m.typ), strings.TrimSpace(string(definition))
		if !strings.HasPrefix(strings.ToLower(m.name.Name), ourPrefix) {
			c.modules = append(c.modules, &m)
		}
		return nil
	})
}

func (c *catalog) readTriggers(ctx context.Context, s *session) error {
	byID := map[int64]*moduleInfo{}
	for _, m := range c.modules {
		byID[m.id] = m
	}
	return s.each(ctx, sqlTriggers(), func(scan func(...any) error) error {
		var id, parent int64
		var name string
		var disabled, instead flag
		if err := scan(&id, &name, &parent, &disabled, &instead); err != nil {
			return err
		}
		if m := byID[id]; m != nil {
			m.typ, m.parent, m.disabled, m.instead = "TR", parent, bool(disabled), bool(instead)
		}
		return nil
	})
}

func (c *catalog) readSequences(ctx context.Context, s *session) error {
	return s.each(ctx, sqlSequences(), func(scan func(...any) error) error {
		q := &sequenceInfo{}
		var prec num
		var start, increment, low, high, current text
		var cycle, cached flag
		var cache *int64
		if err := scan(&q.name.Schema, &q.name.Name, &q.typ, &prec, &start, &increment, &low, &high, &cycle, &cached, &cache, &current); err != nil {
			return err
		}
		if q.typ == "decimal" || q.typ == "numeric" {
			q.typ = spellType(q.typ, 0, int(prec), 0)
		}
		q.start, q.increment, q.min, q.max = string(start), string(increment), string(low), string(high)
		q.cycle, q.cached, q.current = bool(cycle), bool(cached), string(current)
		if cache != nil {
			q.cache = *cache
		}
		c.sequences = append(c.sequences, q)
		return nil
	})
}

func (c *catalog) readSizes(ctx context.Context, s *session, query string) error {
	return s.each(ctx, query, func(scan func(...any) error) error {
		var object, rows, size int64
		if err := scan(&object, &rows, &size); err != nil {
			return err
		}
		// Where there is no size, no rows may as well mean that nobody has counted.
		if t := c.byID[object]; t != nil && (rows > 0 || size > 0) {
			t.rows, t.bytes = rows, max(size, rows*int64(16*len(t.columns)))
		}
		return nil
	})
}
