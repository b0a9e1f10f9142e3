package postgres

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// relation is a table as the catalogue of this end has it.
type relation struct {
	engine.Table
	oid       string
	identity  byte // relreplident: d, i, f or n
	logged    bool
	partition bool
	primary   bool     // the key is the primary key
	keyOID    string   // of the key's index
	columns   []column // beside Table.Columns
	conflicts []conflict
}

// column is what a driver must know of a column's type beyond its spelling.
type column struct {
	typ     uint32
	mod     string
	always  bool   // GENERATED ALWAYS AS IDENTITY
	image   string // how its value goes into the image of a row, with %s for the column
	library string // version of what sorts its text; empty where the order never changes
	binary  bool   // its binary form means the same at another cluster
	filled  bool   // it has a default, or may be NULL
}

// conflict is a rule besides the key by which two rows cannot both be.
type conflict struct {
	name      string
	exprs     []string // over the columns of the table, unqualified
	operators []string
	where     string // of a partial index
}

// relations reads the tables of a database and keeps them until reset.
type relations struct {
	catalog *pool
	filter  engine.Filter

	mu    sync.Mutex
	all   map[engine.Name]*relation
	order []*relation
}

func (r *relations) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = nil
}

// of returns one table, which the catalogue is read again for where it is not known.
func (r *relations) of(ctx context.Context, n engine.Name) (*relation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.all[n]; t != nil {
		return t, nil
	}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	if t := r.all[n]; t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("find table %s: %w: it is not in the database", n, engine.ErrSchema)
}

// list reads all tables anew.
func (r *relations) list(ctx context.Context) ([]*relation, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	return r.order, nil
}

// wanted reports whether the filter lets a table through.
func (r *relations) wanted(n engine.Name) bool {
	in := len(r.filter.Include) == 0
	for _, p := range r.filter.Include {
		if ok, _ := path.Match(p, n.String()); ok {
			in = true
		}
	}
	for _, p := range r.filter.Exclude {
		if ok, _ := path.Match(p, n.String()); ok {
			return false
		}
	}
	return in
}

// userObject is the condition on a pg_class row c in namespace n that it is the
// user's: not the system's, not ours, not an extension's.
const userObject = `n.nspname NOT IN ('pg_catalog', 'information_schema', '` + ownSchema + `') AND n.nspname !~ '^pg_'
	AND NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')`

const tablesQuery = `SELECT c.oid, n.nspname, c.relname, c.relreplident, c.relpersistence = 'p', c.relispartition,
	c.reltuples::int8
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND ` + userObject + ` ORDER BY 2, 3`

const columnsQuery = `SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
	a.atttypid, a.atttypmod, a.atthasdef, COALESCE(l.collname, ''), COALESCE(l.collprovider, ''),
	CASE WHEN l.collname = 'default' THEN d.datcollate ELSE COALESCE(l.collcollate, '') END,
	COALESCE(CASE WHEN l.collname <> 'default' THEN pg_collation_actual_version(l.oid) ELSE %s END, ''),
	EXISTS (SELECT 1 FROM pg_depend s JOIN pg_class q ON q.oid = s.objid AND q.relkind = 'S' WHERE s.classid = 'pg_class'::regclass
		AND s.refclassid = 'pg_class'::regclass AND s.refobjid = a.attrelid AND s.refobjsubid = a.attnum AND s.deptype IN ('a', 'i'))
	FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_collation l ON l.oid = a.attcollation
	JOIN pg_database d ON d.datname = current_database()
	WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped AND ` + userObject + `
	ORDER BY a.attrelid, a.attnum`

// load reads tables, columns, indexes and references in one state of the catalogue.
func (r *relations) load(ctx context.Context) error {
	c, err := r.catalog.get(ctx)
	if err != nil {
		return err
	}
	defer r.catalog.give(c)
	if err := c.exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return err
	}
	l := loader{c: c, byOID: map[string]*relation{}}
	for _, step := range []func(context.Context) error{l.tables, l.types, l.fields, l.indexes, l.references} {
		if err = step(ctx); err != nil {
			break
		}
	}
	if end := c.exec(ctx, "COMMIT"); err == nil {
		err = end
	}
	if err == nil {
		err = l.sizes(ctx)
	}
	if err != nil {
		return fmt.Errorf("read catalogue: %w", err)
	}
	r.all, r.order = map[engine.Name]*relation{}, l.order
	for _, t := range l.order {
		t.Refused = refusal(t)
		// Ranges of keys mean the same at both ends only where both sort alike: the
		// version of the library is part of a key's order, and of no other column's.
		for _, k := range t.Key {
			if v := t.columns[k].library; v != "" {
				t.Columns[k].Collation += " " + v
			}
		}
		r.all[t.Name] = t
	}
	return nil
}

// loader fills relations; each step is one query.
type loader struct {
	c     *conn
	byOID map[string]*relation
	order []*relation
	kinds map[uint32]kind
	nums  map[string]map[string]int // relation → attnum → index of the column
}

func (l *loader) tables(ctx context.Context) error {
	rows, err := l.c.query(ctx, tablesQuery)
	for _, v := range rows {
		t := &relation{oid: string(v[0]), identity: v[3][0], logged: truth(v[4]), partition: truth(v[5])}
		t.Name = engine.Name{Schema: string(v[1]), Name: string(v[2])}
		t.Rows = count(v[6])
		l.byOID[t.oid] = t
		l.order = append(l.order, t)
	}
	return err
}

// sizes estimates how large tables are. It alone needs a lock on each, which may be
// denied for long, by ourselves even while a table is emptied: without it the size
// that the catalogue remembers must do.
func (l *loader) sizes(ctx context.Context) error {
	const of = "SELECT c.oid, %s FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.relkind = 'r'"
	var rows [][][]byte
	err := l.c.exec(ctx, "BEGIN; SET LOCAL lock_timeout = '500ms'")
	if err == nil {
		rows, err = l.c.query(ctx, fmt.Sprintf(of, "pg_table_size(c.oid)"))
	}
	if end := l.c.exec(ctx, "ROLLBACK"); end != nil {
		return end
	}
	if err != nil {
		rows, err = l.c.query(ctx, fmt.Sprintf(of, "(c.relpages + COALESCE(t.relpages, 0)) * current_setting('block_size')::int8"))
	}
	for _, v := range rows {
		if t := l.byOID[string(v[0])]; t != nil {
			t.Bytes = count(v[1])
			if t.Rows < 0 || t.Rows == 0 && t.Bytes > 8192 {
				t.Rows = -1
			}
		}
	}
	return err
}

func (l *loader) fields(ctx context.Context) error {
	rows, err := l.c.query(ctx, fmt.Sprintf(columnsQuery, l.defaultVersion()))
	for _, v := range rows {
		t := l.byOID[string(v[0])]
		if t == nil {
			continue
		}
		typ := uint32(count(v[6]))
		image, binary := l.image(typ)
		c := engine.Column{
			Name: string(v[1]), Type: string(v[2]), Nullable: !truth(v[3]), Identity: truth(v[13]),
			Derived: len(v[5]) > 0, Collation: collation(v[9], v[11]),
		}
		t.Columns = append(t.Columns, c)
		t.columns = append(t.columns, column{
			typ: typ, mod: string(v[7]), always: string(v[4]) == "a", image: image, binary: binary,
			library: string(v[12]), filled: c.Nullable || truth(v[8]) || len(v[4]) > 0,
		})
	}
	return err
}

// defaultVersion spells the version of the library that the default collation of the
// database sorts with.
func (l *loader) defaultVersion() string {
	major, _, _ := strings.Cut(l.c.ParameterStatus("server_version"), ".")
	if n, _ := strconv.Atoi(major); n >= 15 {
		return "pg_database_collation_actual_version(d.oid)"
	}
	return "(SELECT max(pg_collation_actual_version(x.oid)) FROM pg_collation x WHERE x.collprovider = 'c' AND x.collcollate = d.datcollate)"
}

// collation names an order of text.
func collation(name, locale []byte) string {
	if string(name) == "default" {
		return string(locale)
	}
	return string(name)
}

func (l *loader) references(ctx context.Context) error {
	rows, err := l.c.query(ctx, `SELECT DISTINCT k.conrelid, n.nspname, c.relname FROM pg_constraint k
		JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE k.contype = 'f' ORDER BY 1, 2, 3`)
	for _, v := range rows {
		if t := l.byOID[string(v[0])]; t != nil {
			t.References = append(t.References, engine.Name{Schema: string(v[1]), Name: string(v[2])})
		}
	}
	return err
}

// refusal says why the changes of a table cannot be had, and the statement that
// mends it.
func refusal(t *relation) string {
	q := qualified(t.Name)
	switch {
	case !t.logged:
		return "its rows are not logged: ALTER TABLE " + q + " SET LOGGED"
	case t.identity == 'n' || t.identity == 'i' && t.Key == nil:
		return "updates and deletes carry no key: ALTER TABLE " + q + " REPLICA IDENTITY DEFAULT where it has a primary key, else FULL"
	case t.identity == 'd' && t.Key == nil:
		return "it has no key: ALTER TABLE " + q + " REPLICA IDENTITY FULL"
	case t.identity == 'd' && !t.primary:
		return "it has no primary key: ALTER TABLE " + q + " REPLICA IDENTITY USING INDEX " + ident(t.KeyName)
	}
	return ""
}
