package mariadb

import (
	"context"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// A few small rows go as literals in one statement: a staging table costs four. Many
// or large ones go through that, where a value may be larger than a packet.
const (
	fewRows  = 100
	fewBytes = 64 << 10
)

// fewEnough tells whether rows may go as literals.
func (x *apply) fewEnough(t *engine.Table, rows []engine.Row) bool {
	if len(rows) > fewRows {
		return false
	}
	if len(x.uniques(t)) > 0 && (x.checks || len(x.shape(t.Name.Name).children) > 0) {
		return false // it would delete rows that others depend on
	}
	cols := carried(t)
	size := 0
	for _, r := range rows {
		if len(r) != len(cols) {
			return false // stage says what is wrong
		}
		for i, v := range r {
			size += len(v)
			// A strict session takes no enum that is none of its members.
			if cols[i].kind == enum && v != nil && len(v) == 0 {
				return false
			}
		}
	}
	return size <= fewBytes
}

// upsertFew is upsert for a few rows.
func (x *apply) upsertFew(ctx context.Context, t *engine.Table, rows []engine.Row) error {
	cols, key, name := carried(t), keyed(t), ident(t.Name.Name)
	var q strings.Builder
	q.WriteString("INSERT INTO " + name + " (" + idents("", cols) + ") VALUES ")
	for i, r := range rows {
		if i > 0 {
			q.WriteByte(',')
		}
		for j, c := range cols {
			q.WriteByte("(,"[min(j, 1)])
			q.WriteString(c.literal(r[j]))
		}
		q.WriteByte(')')
	}
	uniques := x.uniques(t)
	switch {
	case len(key) == 0:
	case len(uniques) == 0:
		q.WriteString(" ON DUPLICATE KEY UPDATE ")
		for i, c := range cols {
			if i > 0 {
				q.WriteByte(',')
			}
			q.WriteString(ident(c.Name) + "=VALUES(" + ident(c.Name) + ")")
		}
	default:
		// An update that collides would change another row in silence; an insert that
		// does is refused. Foreign keys are off, so the delete sets nothing off.
		if err := x.displaceFew(ctx, t, uniques, rows); err != nil {
			return err
		}
		places := keyPlaces(t)
		keys := make([]engine.Row, len(rows))
		for i, r := range rows {
			keys[i] = keyOf(places, r)
		}
		if _, err := x.deleteKeys(ctx, t, keys); err != nil {
			return err
		}
	}
	return x.exec(ctx, q.String())
}

// displaceFew is displace for literals.
func (x *apply) displaceFew(ctx context.Context, t *engine.Table, uniques []unique, rows []engine.Row) error {
	cols, key, places := carried(t), keyed(t), keyPlaces(t)
	at := map[string]int{}
	for i, c := range cols {
		at[c.Name] = i
	}
	var conds []string
	for _, u := range uniques {
		for _, r := range rows {
			if c := u.claims(cols, at, r); c != "" {
				conds = append(conds, "("+c+" AND NOT "+equal("", key, keyOf(places, r))+")")
			}
		}
	}
	if len(conds) == 0 {
		return nil
	}
	var keys []engine.Row
	err := scan(ctx, x.a.conn, "SELECT "+exprs("", key)+" FROM "+ident(t.Name.Name)+" WHERE "+strings.Join(conds, " OR "), func(v engine.Row) error {
		keys = append(keys, clone(v))
		return nil
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	keys = distinct(keys)
	if _, err := x.deleteKeys(ctx, t, keys); err != nil {
		return err
	}
	x.displaced[t.Name] = append(x.displaced[t.Name], keys...)
	return nil
}

// claims is the condition that another row holds what r has in the index; "" where r
// has NULL in it, which collides with nothing, and where the server computes a value.
func (u unique) claims(cols []column, at map[string]int, r engine.Row) string {
	parts := make([]string, 0, len(u.parts))
	for _, p := range u.parts {
		i, ok := at[p.column]
		if !ok || r[i] == nil {
			return ""
		}
		c := cols[i]
		if p.prefix > 0 {
			n := strconv.Itoa(p.prefix)
			parts = append(parts, "LEFT("+ident(c.Name)+", "+n+") = LEFT("+c.literal(r[i])+", "+n+")")
			continue
		}
		parts = append(parts, ident(c.Name)+" = "+c.literal(r[i]))
	}
	return strings.Join(parts, " AND ")
}
