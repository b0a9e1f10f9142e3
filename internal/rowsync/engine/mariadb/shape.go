package mariadb

import (
	"context"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// shape is what applying must know of a table at the target.
type shape struct {
	uniques  []unique
	children []reference // foreign keys of others that change them by themselves
	parents  []reference // such foreign keys of this table
	refers   []string    // tables this one refers to
}

// unique is a unique index.
type unique struct {
	name  string
	parts []part
}

// derived tells whether the index has a column that does not travel.
func (u unique) derived(cols []column) bool {
	for _, p := range u.parts {
		if !slices.ContainsFunc(cols, func(c column) bool { return c.Name == p.column }) {
			return true
		}
	}
	return false
}

type part struct {
	column string
	prefix int // 0: the whole column
}

// reference is a foreign key.
type reference struct {
	child, parent      string
	columns, refers    []string
	onDelete, onUpdate bool // it acts: CASCADE, SET NULL or SET DEFAULT
}

// loadShapes reads the shapes of all tables, once until a definition changes.
func (t *Target) loadShapes(ctx context.Context) (map[string]*shape, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shapes != nil {
		return t.shapes, nil
	}
	out := map[string]*shape{}
	of := func(n string) *shape {
		if out[n] == nil {
			out[n] = &shape{}
		}
		return out[n]
	}
	if err := t.loadUniques(ctx, of); err != nil {
		return nil, fmt.Errorf("read indexes: %w", explain(err))
	}
	if err := t.loadReferences(ctx, of); err != nil {
		return nil, fmt.Errorf("read foreign keys: %w", explain(err))
	}
	t.shapes = out
	return out, nil
}

func (t *Target) loadUniques(ctx context.Context, of func(string) *shape) error {
	rows, err := t.text.QueryContext(ctx, `SELECT table_name, index_name, column_name, IFNULL(sub_part, 0)
		FROM information_schema.statistics WHERE table_schema = ? AND non_unique = 0 AND column_name IS NOT NULL
		ORDER BY table_name, index_name, seq_in_index`, t.db)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var table, name string
		var p part
		if err := rows.Scan(&table, &name, &p.column, &p.prefix); err != nil {
			return err
		}
		s := of(table)
		if n := len(s.uniques); n == 0 || s.uniques[n-1].name != name {
			s.uniques = append(s.uniques, unique{name: name})
		}
		u := &s.uniques[len(s.uniques)-1]
		u.parts = append(u.parts, p)
	}
	return rows.Err()
}

func (t *Target) loadReferences(ctx context.Context, of func(string) *shape) error {
	rows, err := t.text.QueryContext(ctx, `SELECT r.constraint_name, r.table_name, r.referenced_table_name, r.delete_rule, r.update_rule,
		k.column_name, k.referenced_column_name
		FROM information_schema.referential_constraints r JOIN information_schema.key_column_usage k
		ON k.constraint_schema = r.constraint_schema AND k.constraint_name = r.constraint_name AND k.table_name = r.table_name
		WHERE r.constraint_schema = ? AND r.unique_constraint_schema = ?
		ORDER BY r.table_name, r.constraint_name, k.ordinal_position`, t.db, t.db)
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []reference
	last := ""
	for rows.Next() {
		var name, onDelete, onUpdate, col, ref string
		var r reference
		if err := rows.Scan(&name, &r.child, &r.parent, &onDelete, &onUpdate, &col, &ref); err != nil {
			return err
		}
		if id := r.child + "\x00" + name; id != last {
			last = id
			r.onDelete, r.onUpdate = acts(onDelete), acts(onUpdate)
			all = append(all, r)
		}
		x := &all[len(all)-1]
		x.columns, x.refers = append(x.columns, col), append(x.refers, ref)
	}
	for _, r := range all {
		of(r.child).refers = append(of(r.child).refers, r.parent)
		if r.onDelete || r.onUpdate {
			of(r.parent).children = append(of(r.parent).children, r)
			of(r.child).parents = append(of(r.child).parents, r)
		}
	}
	return rows.Err()
}

func acts(rule string) bool { return rule != "RESTRICT" && rule != "NO ACTION" }

// shape returns what is known of a table at the target.
func (x *apply) shape(name string) *shape {
	if s := x.shapes[name]; s != nil {
		return s
	}
	return &shape{}
}

// uniques returns the unique indexes of a table other than its key.
func (x *apply) uniques(t *engine.Table) []unique {
	var out []unique
	for _, u := range x.shape(t.Name.Name).uniques {
		if u.name != t.KeyName {
			out = append(out, u)
		}
	}
	return out
}
