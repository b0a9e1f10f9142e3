package mssql

import (
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// orderPlan is the order in which rows of tables can be written while foreign keys are
// enforced.
type orderPlan struct {
	// parents holds every table after those that it refers to.
	parents []engine.Name
	// later names columns, by table, that are set when all rows are there.
	later map[engine.Name]map[string]bool
	// null names those of them that are NULL until then.
	null map[engine.Name]map[string]bool
}

// planOrder orders tables by the foreign keys among them. A ring of tables is cut at a
// key with a nullable column, which is left NULL at first; one without is refused.
func planOrder(tables []engine.Name, keys []*foreignKey) (*orderPlan, error) {
	p := &orderPlan{later: map[engine.Name]map[string]bool{}, null: map[engine.Name]map[string]bool{}}
	var open []*foreignKey
	for _, f := range keys {
		if !slices.Contains(tables, f.table) || !slices.Contains(tables, f.refTable) {
			continue
		}
		if f.table == f.refTable {
			// Rows inserted by one statement may refer to one another; rows that are
			// there must not refer to them before.
			mark(p.later, f.table, f.columns)
			continue
		}
		open = append(open, f)
	}
	left := slices.Clone(tables)
	slices.SortFunc(left, func(a, b engine.Name) int { return strings.Compare(a.String(), b.String()) })
	left = slices.Compact(left)
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(n engine.Name) bool { return !refers(open, n, left) })
		if i < 0 {
			cut, err := cutRing(open, left)
			if err != nil {
				return nil, err
			}
			mark(p.later, cut.table, cut.columns)
			mark(p.null, cut.table, cut.nullable)
			open = slices.DeleteFunc(open, func(f *foreignKey) bool { return f == cut })
			continue
		}
		p.parents = append(p.parents, left[i])
		left = slices.Delete(left, i, i+1)
	}
	return p, nil
}

func mark(m map[engine.Name]map[string]bool, n engine.Name, columns []string) {
	if m[n] == nil {
		m[n] = map[string]bool{}
	}
	for _, c := range columns {
		m[n][c] = true
	}
}

// refers reports whether a table refers to one of those left.
func refers(keys []*foreignKey, n engine.Name, left []engine.Name) bool {
	return slices.ContainsFunc(keys, func(f *foreignKey) bool { return f.table == n && slices.Contains(left, f.refTable) })
}

// cutRing chooses a key of a ring among the tables that are left.
func cutRing(keys []*foreignKey, left []engine.Name) (*foreignKey, error) {
	var names []string
	for _, f := range keys {
		if !slices.Contains(left, f.table) || !slices.Contains(left, f.refTable) || !reaches(keys, f.refTable, f.table) {
			continue
		}
		if len(f.nullable) > 0 {
			return f, nil
		}
		names = append(names, f.table.String()+"."+f.name)
	}
	return nil, fmt.Errorf("the foreign keys %s make a ring in which no column can be NULL, and this server cannot hold them off: drop one of them at the target while it stands by, or take their tables out", strings.Join(names, ", "))
}

// reaches reports whether from refers to to, directly or by others.
func reaches(keys []*foreignKey, from, to engine.Name) bool {
	seen := map[engine.Name]bool{}
	var visit func(n engine.Name) bool
	visit = func(n engine.Name) bool {
		if n == to {
			return true
		}
		if seen[n] {
			return false
		}
		seen[n] = true
		return slices.ContainsFunc(keys, func(f *foreignKey) bool { return f.table == n && visit(f.refTable) })
	}
	return visit(from)
}

// children returns the keys by which other tables refer to one.
func children(keys []*foreignKey, n engine.Name) []*foreignKey {
	var out []*foreignKey
	for _, f := range keys {
		if f.refTable == n && f.table != n {
			out = append(out, f)
		}
	}
	return out
}
