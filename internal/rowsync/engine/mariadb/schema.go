package mariadb

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Schema implements engine.Catalog. Tables left out by the filter are not in it.
func (s *server) Schema(ctx context.Context) (*engine.Schema, error) {
	tables, err := s.tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("read schema of %s: %w", s.db, explain(err))
	}
	objects, err := s.objects(ctx, tables)
	if err != nil {
		return nil, fmt.Errorf("read definitions of %s: %w", s.db, explain(err))
	}
	return &engine.Schema{Tables: tables, Objects: objects}, nil
}

// tables reads all base tables, in the order of their names.
func (s *server) tables(ctx context.Context) ([]*engine.Table, error) {
	rows, err := s.text.QueryContext(ctx, `SELECT table_name, table_type, IFNULL(engine, ''), IFNULL(table_rows, -1), IFNULL(data_length, 0)
		FROM information_schema.tables WHERE table_schema = ? AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED') ORDER BY table_name`, s.db)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []*engine.Table
	byName := map[string]*engine.Table{}
	for rows.Next() {
		var name, typ, eng string
		t := &engine.Table{}
		if err := rows.Scan(&name, &typ, &eng, &t.Rows, &t.Bytes); err != nil {
			return nil, err
		}
		if !s.wanted(name) {
			continue
		}
		t.Name = engine.Name{Name: name}
		switch {
		case typ != "BASE TABLE":
			t.Refused = "it keeps the history of its rows (WITH SYSTEM VERSIONING), which rows alone do not carry: leave it out, or use the physical mode"
		case eng != "InnoDB":
			t.Refused = "its engine " + eng + " has no transactions, so no state of it belongs to a position: run ALTER TABLE " + ident(name) + " ENGINE=InnoDB, or leave it out"
		}
		out, byName[name] = append(out, t), t
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for _, read := range []func(context.Context, map[string]*engine.Table) error{s.columns, s.indexes, s.references} {
		if err := read(ctx, byName); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *server) columns(ctx context.Context, byName map[string]*engine.Table) error {
	rows, err := s.text.QueryContext(ctx, `SELECT table_name, column_name, column_type, IFNULL(character_set_name, ''),
		IFNULL(collation_name, ''), is_nullable, extra, IFNULL(generation_expression, '')
		FROM information_schema.columns WHERE table_schema = ? ORDER BY table_name, ordinal_position`, s.db)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var table, charset, nullable, extra, expression string
		var c engine.Column
		if err := rows.Scan(&table, &c.Name, &c.Type, &charset, &c.Collation, &nullable, &extra, &expression); err != nil {
			return err
		}
		t := byName[table]
		if t == nil {
			continue
		}
		if charset != "" {
			c.Type += charsetWord + charset
		}
		c.Nullable = nullable == "YES"
		c.Identity = strings.Contains(extra, "auto_increment")
		c.Derived = expression != ""
		t.Columns = append(t.Columns, c)
		switch x := typed(c); {
		case t.Refused != "" || c.Derived:
		case x.packed:
			t.Refused = "column " + c.Name + " is COMPRESSED, which the binlog does not tell apart: run ALTER TABLE " + ident(table) + " MODIFY it without, or leave the table out"
		case x.kind == other || x.kind == document:
			t.Refused = "the type " + c.Type + " of column " + c.Name + " is not known: leave the table out"
		}
	}
	return rows.Err()
}

// index is one index with its columns in order.
type index struct {
	name  string
	cols  []int
	whole bool // of whole columns that are stored and cannot be NULL
	parts bool // it holds a prefix of a column only
}

func (s *server) indexes(ctx context.Context, byName map[string]*engine.Table) error {
	rows, err := s.text.QueryContext(ctx, `SELECT table_name, index_name, column_name, sub_part
		FROM information_schema.statistics WHERE table_schema = ? AND non_unique = 0 AND column_name IS NOT NULL
		ORDER BY table_name, index_name, seq_in_index`, s.db)
	if err != nil {
		return err
	}
	defer rows.Close()
	all := map[string][]*index{}
	for rows.Next() {
		var table, name, col string
		var part *int64
		if err := rows.Scan(&table, &name, &col, &part); err != nil {
			return err
		}
		t := byName[table]
		if t == nil {
			continue
		}
		at := slices.IndexFunc(t.Columns, func(c engine.Column) bool { return c.Name == col })
		if at < 0 {
			continue
		}
		list := all[table]
		if len(list) == 0 || list[len(list)-1].name != name {
			list = append(list, &index{name: name, whole: true})
			all[table] = list
		}
		x := list[len(list)-1]
		x.cols = append(x.cols, at)
		x.parts = x.parts || part != nil
		x.whole = x.whole && part == nil && usableKey(t.Columns[at])
	}
	for name, list := range all {
		identify(byName[name], list)
	}
	return rows.Err()
}

// usableKey tells whether a column may be a part of what identifies a row.
func usableKey(c engine.Column) bool {
	k := typed(c).kind
	return !c.Nullable && !c.Derived && k != set && k != geometry && k != other
}

// identify chooses the key of a table: the primary one, else the unique index with
// the fewest columns.
func identify(t *engine.Table, list []*index) {
	slices.SortStableFunc(list, func(a, b *index) int {
		if (a.name == "PRIMARY") != (b.name == "PRIMARY") {
			if a.name == "PRIMARY" {
				return -1
			}
			return 1
		}
		return cmp.Compare(len(a.cols), len(b.cols))
	})
	for _, x := range list {
		if x.whole && t.Key == nil {
			t.Key, t.KeyName = x.cols, x.name
			continue
		}
		t.Unique = append(t.Unique, x.cols)
	}
}

func (s *server) references(ctx context.Context, byName map[string]*engine.Table) error {
	rows, err := s.text.QueryContext(ctx, `SELECT DISTINCT table_name, referenced_table_name
		FROM information_schema.referential_constraints WHERE constraint_schema = ? AND unique_constraint_schema = ? ORDER BY 1, 2`, s.db, s.db)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var from, to string
		if err := rows.Scan(&from, &to); err != nil {
			return err
		}
		if t := byName[from]; t != nil {
			t.References = append(t.References, engine.Name{Name: to})
		}
	}
	return rows.Err()
}
