package postgres

import (
	"container/heap"
	"context"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// node is a definition with its place in the catalogue.
type node struct {
	engine.Object
	id    string   // class and OID: "pg_class 16390"
	owner string   // OID of the table it belongs to
	rank  rank     // among those that could be made next
	needs []string // ids beyond what pg_depend says
}

// rank is the order of kinds in which objects are made where dependencies leave a
// choice.
type rank int

const (
	rankSchema rank = iota
	rankExtension
	rankCollation
	rankType
	rankSequence
	rankRoutine
	rankTable
	rankColumn
	rankOwner
	rankCheck
	rankPartition
	rankKey
	rankIndex
	rankAttach
	rankView
	rankStatistics
	rankRule
	rankForeign
	rankTrigger
	rankPolicy
	rankEvent
)

// graph is the definitions of a database and what each needs.
type graph struct {
	c     *conn
	nodes []*node
	byID  map[string]*node
	alias map[string]string // of catalogue rows that are part of another object
}

// objects reads all definitions in an order in which they can be made.
func (d *database) objects(ctx context.Context, hidden map[string]bool) ([]engine.Object, error) {
	c, err := d.catalog.get(ctx)
	if err != nil {
		return nil, err
	}
	defer d.catalog.give(c)
	if err := c.exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"); err != nil {
		return nil, err
	}
	g := &graph{c: c, byID: map[string]*node{}, alias: map[string]string{}}
	steps := []func(context.Context) error{
		g.schemas, g.enums, g.domains, g.composites, g.rangeTypes, g.sequences, g.routines, g.aggregates, g.tables,
		g.partitions, g.constraints, g.indexes, g.attachments, g.views, g.rest,
	}
	for _, step := range steps {
		if err = step(ctx); err != nil {
			break
		}
	}
	var edges map[string][]string
	if err == nil {
		edges, err = g.dependencies(ctx)
	}
	if end := c.exec(ctx, "COMMIT"); err == nil {
		err = end
	}
	if err != nil {
		return nil, err
	}
	g.hide(hidden, edges)
	return g.order(edges), nil
}

func (g *graph) add(n node) {
	p := &n
	g.nodes = append(g.nodes, p)
	g.byID[n.id] = p
}

// simple runs a query that yields id, schema, name, definition.
func (g *graph) simple(ctx context.Context, kind string, r rank, sql string) error {
	rows, err := g.c.query(ctx, sql)
	for _, v := range rows {
		g.add(node{id: string(v[0]), rank: r, Object: engine.Object{
			Kind: kind, Name: engine.Name{Schema: string(v[1]), Name: string(v[2])}, Definition: string(v[3])}})
	}
	return err
}

// ofTable runs a query that yields id, the table's OID, its schema and name, the
// object's name, and the definition.
func (g *graph) ofTable(ctx context.Context, kind string, r rank, late bool, sql string) error {
	rows, err := g.c.query(ctx, sql)
	for _, v := range rows {
		t := engine.Name{Schema: string(v[2]), Name: string(v[3])}
		g.add(node{id: string(v[0]), owner: string(v[1]), rank: r, Object: engine.Object{Kind: kind, Table: t, Late: late,
			Name: engine.Name{Schema: t.Schema, Name: string(v[4])}, Definition: string(v[5])}})
	}
	return err
}

// own is the condition that a row of the catalogue is the user's own: in a schema n
// of the user's, and no part of an extension.
func own(class, oid string) string {
	return `n.nspname NOT IN ('pg_catalog', 'information_schema', '` + ownSchema + `') AND n.nspname !~ '^pg_' AND ` + unextended(class, oid)
}

func unextended(class, oid string) string {
	return `NOT EXISTS (SELECT 1 FROM pg_depend e WHERE e.classid = '` + class + `'::regclass AND e.objid = ` + oid + ` AND e.deptype = 'e')`
}

// dependencies reads what objects need, with parts of objects replaced by the whole.
func (g *graph) dependencies(ctx context.Context) (map[string][]string, error) {
	if err := g.aliases(ctx); err != nil {
		return nil, err
	}
	rows, err := g.c.query(ctx, `SELECT DISTINCT classid::regclass || ' ' || objid, refclassid::regclass || ' ' || refobjid
		FROM pg_depend d WHERE deptype IN ('n', 'a', 'i') AND objid >= 16384
		AND NOT (deptype = 'a' AND refobjsubid > 0 AND EXISTS (SELECT 1 FROM pg_class q WHERE q.oid = d.objid AND q.relkind = 'S'))
		ORDER BY 1, 2`) // that a table owns a sequence is an object of its own
	edges := map[string][]string{}
	for _, v := range rows {
		from, to := g.resolve(string(v[0])), g.resolve(string(v[1]))
		if from != to && g.byID[from] != nil {
			edges[from] = append(edges[from], to)
		}
	}
	for _, n := range g.nodes {
		if n.owner != "" {
			edges[n.id] = append(edges[n.id], "pg_class "+n.owner)
		}
		for _, need := range n.needs {
			edges[n.id] = append(edges[n.id], g.resolve(need))
		}
	}
	return edges, err
}

// aliases maps rows of the catalogue to the objects that they are part of: row types
// and rules of views to their relation, arrays to their element, defaults to their
// table.
func (g *graph) aliases(ctx context.Context) error {
	rows, err := g.c.query(ctx, `SELECT 'pg_type ' || oid, 'pg_class ' || typrelid FROM pg_type WHERE typrelid <> 0
		UNION ALL SELECT 'pg_type ' || a.oid, 'pg_type ' || a.typelem FROM pg_type a WHERE a.typcategory = 'A' AND a.typelem <> 0
		UNION ALL SELECT 'pg_rewrite ' || oid, 'pg_class ' || ev_class FROM pg_rewrite WHERE rulename = '_RETURN'
		UNION ALL SELECT 'pg_attrdef ' || oid, 'pg_class ' || adrelid FROM pg_attrdef
		UNION ALL SELECT 'pg_constraint ' || oid, 'pg_type ' || contypid FROM pg_constraint WHERE contypid <> 0
		UNION ALL SELECT 'pg_class ' || conindid, 'pg_constraint ' || oid FROM pg_constraint WHERE conindid <> 0 AND contype IN ('p', 'u', 'x')
		UNION ALL SELECT 'pg_type ' || (to_jsonb(r) ->> 'rngmultitypid'), 'pg_type ' || rngtypid FROM pg_range r WHERE to_jsonb(r) ? 'rngmultitypid'
		UNION ALL SELECT 'pg_class ' || objid, 'pg_class ' || refobjid FROM pg_depend WHERE classid = 'pg_class'::regclass
			AND refclassid = 'pg_class'::regclass AND deptype = 'i' AND refobjsubid > 0`)
	for _, v := range rows {
		g.alias[string(v[0])] = string(v[1])
	}
	return err
}

func (g *graph) resolve(id string) string {
	for range 5 { // an array of the row type of a view is three steps
		next, ok := g.alias[id]
		if !ok {
			return id
		}
		id = next
	}
	return id
}

// hide takes out tables that the filter keeps out, what cannot be without them, and
// the sequences they own.
func (g *graph) hide(hidden map[string]bool, edges map[string][]string) {
	if len(hidden) == 0 {
		return
	}
	gone := map[string]bool{}
	for oid := range hidden {
		gone["pg_class "+oid] = true
	}
	for changed := true; changed; {
		changed = false
		for _, n := range g.nodes {
			if gone[n.id] {
				continue
			}
			for _, need := range edges[n.id] {
				if gone[need] {
					gone[n.id], changed = true, true
					if seq, ok := strings.CutPrefix(n.id, "ownership "); ok {
						gone["pg_class "+seq] = true
					}
					break
				}
			}
		}
	}
	kept := g.nodes[:0]
	for _, n := range g.nodes {
		if !gone[n.id] {
			kept = append(kept, n)
		} else {
			delete(g.byID, n.id)
		}
	}
	g.nodes = kept
}

// queue orders what can be made next.
type queue []*node

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q queue) Less(i, j int) bool {
	a, b := q[i], q[j]
	if a.rank != b.rank {
		return a.rank < b.rank
	}
	if a.Table != b.Table {
		return a.Table.String() < b.Table.String()
	}
	return a.Name.String() < b.Name.String()
}
func (q *queue) Push(x any) { *q = append(*q, x.(*node)) }
func (q *queue) Pop() any {
	old := *q
	n := old[len(old)-1]
	*q = old[:len(old)-1]
	return n
}

// order sorts objects so that each comes after what it needs. Where they need each
// other, as a table's default may need a function of the table's own row type, the
// one of the lowest rank goes first: bodies of routines are not checked when they
// are made. What needs a late object is late itself.
func (g *graph) order(edges map[string][]string) []engine.Object {
	waits, users := map[string]int{}, map[string][]*node{}
	for _, n := range g.nodes {
		seen := map[string]bool{n.id: true}
		for _, need := range edges[n.id] {
			if g.byID[need] != nil && !seen[need] {
				seen[need] = true
				waits[n.id]++
				users[need] = append(users[need], n)
			}
		}
	}
	ready, stuck := &queue{}, &queue{}
	for _, n := range g.nodes {
		if waits[n.id] == 0 {
			heap.Push(ready, n)
		} else {
			heap.Push(stuck, n)
		}
	}
	done := map[string]bool{}
	out := make([]engine.Object, 0, len(g.nodes))
	for len(out) < len(g.nodes) {
		from := ready
		if ready.Len() == 0 {
			from = stuck
		}
		n := heap.Pop(from).(*node)
		if done[n.id] {
			continue
		}
		done[n.id] = true
		out = append(out, n.Object)
		for _, u := range users[n.id] {
			u.Late = u.Late || n.Late
			if waits[u.id]--; waits[u.id] == 0 && !done[u.id] {
				heap.Push(ready, u)
			}
		}
	}
	return out
}
