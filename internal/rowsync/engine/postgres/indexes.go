package postgres

import (
	"context"
	"slices"
	"strconv"
	"strings"
)

const indexesQuery = `SELECT i.indrelid, x.relname, i.indisprimary, i.indimmediate, i.indisreplident, i.indnkeyatts, i.indkey::text,
	COALESCE(pg_get_expr(i.indpred, i.indrelid), ''), i.indexprs IS NULL, i.indisexclusion,
	ARRAY(SELECT pg_get_indexdef(i.indexrelid, g, false) FROM generate_series(1, i.indnkeyatts) g)::text,
	ARRAY(SELECT 'OPERATOR(' || quote_ident(on_.nspname) || '.' || o.oprname || ')' FROM unnest(k.conexclop) WITH ORDINALITY u(op, pos)
		JOIN pg_operator o ON o.oid = u.op JOIN pg_namespace on_ ON on_.oid = o.oprnamespace ORDER BY pos)::text,
	COALESCE(to_jsonb(i) ->> 'indnullsnotdistinct', 'false'), i.indexrelid
	FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
	JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'x'
	WHERE c.relkind = 'r' AND (i.indisunique OR i.indisexclusion) AND i.indisvalid AND ` + userObject + `
	ORDER BY i.indrelid, i.indisprimary DESC, x.relname`

const attnumsQuery = `SELECT a.attrelid, a.attnum, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
	WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2`

// index is one unique index or exclusion constraint.
type index struct {
	name, oid                    string
	primary, immediate, identity bool
	columns                      []int // nil where it has expressions
	plain                        bool  // neither partial, nor over expressions, nor an exclusion
	conflict                     conflict
}

func (l *loader) indexes(ctx context.Context) error {
	if err := l.attnums(ctx); err != nil {
		return err
	}
	rows, err := l.c.query(ctx, indexesQuery)
	if err != nil {
		return err
	}
	found := map[string][]index{}
	for _, v := range rows {
		oid := string(v[0])
		if l.byOID[oid] == nil {
			continue
		}
		found[oid] = append(found[oid], l.index(oid, v))
	}
	for oid, xs := range found {
		l.byOID[oid].choose(xs)
	}
	return nil
}

func (l *loader) attnums(ctx context.Context) error {
	rows, err := l.c.query(ctx, attnumsQuery)
	l.nums = map[string]map[string]int{}
	for _, v := range rows {
		oid := string(v[0])
		if l.nums[oid] == nil {
			l.nums[oid] = map[string]int{}
		}
		l.nums[oid][string(v[1])] = len(l.nums[oid])
	}
	return err
}

func (l *loader) index(oid string, v [][]byte) index {
	x := index{name: string(v[1]), oid: string(v[13]), primary: truth(v[2]), immediate: truth(v[3]), identity: truth(v[4])}
	exclusion := truth(v[9])
	x.plain = len(v[7]) == 0 && truth(v[8]) && !exclusion
	if truth(v[8]) {
		for _, n := range strings.Fields(string(v[6]))[:number(v[5])] {
			if i, ok := l.nums[oid][n]; ok {
				x.columns = append(x.columns, i)
			} else {
				x.plain = false // a system column
			}
		}
	}
	x.conflict = conflict{name: x.name, exprs: parseArray(string(v[10])), operators: parseArray(string(v[11])), where: string(v[7])}
	for len(x.conflict.operators) < len(x.conflict.exprs) {
		op := "="
		if string(v[12]) == "true" {
			op = "IS NOT DISTINCT FROM"
		}
		x.conflict.operators = append(x.conflict.operators, op)
	}
	return x
}

// choose takes the key of a table from its indexes, and what is left as conflicts.
// Changes of a table carry the key that its replica identity names, so that one is
// preferred; with a full identity any will do.
func (t *relation) choose(xs []index) {
	usable := func(x index) bool {
		if !x.plain || !x.immediate {
			return false
		}
		return !slices.ContainsFunc(x.columns, func(c int) bool { return t.Columns[c].Nullable || t.Columns[c].Derived })
	}
	best := -1
	for i, x := range xs {
		switch {
		case !usable(x):
		case t.identity == 'i':
			if x.identity {
				best = i
			}
		case best < 0:
			best = i
		}
	}
	for i, x := range xs {
		if i == best {
			t.Key, t.KeyName, t.primary, t.keyOID = x.columns, x.name, x.primary, x.oid
			continue
		}
		t.conflicts = append(t.conflicts, x.conflict)
		if x.plain {
			t.Unique = append(t.Unique, x.columns)
		}
	}
}

// kind is a type as pg_type has it.
type kind struct {
	sort     byte // typtype
	category byte
	base     uint32
	baseText string
	elem     uint32
	sends    bool
	registry bool // reg…: its binary form is an OID of this cluster
}

const typesQuery = `SELECT oid, typtype, typcategory, typbasetype, format_type(typbasetype, typtypmod), typelem, typsend <> 0,
	typname ~ '^_?reg[a-z]+$' AND typnamespace = 'pg_catalog'::regnamespace FROM pg_type`

func (l *loader) types(ctx context.Context) error {
	rows, err := l.c.query(ctx, typesQuery)
	l.kinds = make(map[uint32]kind, len(rows))
	for _, v := range rows {
		l.kinds[uint32(count(v[0]))] = kind{
			sort: v[1][0], category: v[2][0], base: uint32(count(v[3])), baseText: string(v[4]),
			elem: uint32(count(v[5])), sends: truth(v[6]), registry: truth(v[7]),
		}
	}
	return err
}

// OIDs below stable are the same in every cluster; the others are some of them.
const (
	stable      = 10000
	xmlOID      = 142
	xmlArray    = 143
	regclassOID = 2205
)

// direct reports whether the binary form of a type is the same at every cluster and
// tells all values apart.
func (l *loader) direct(typ uint32) bool {
	k, ok := l.kinds[typ]
	if !ok || typ >= stable || !k.sends || k.registry || typ == xmlOID || typ == xmlArray {
		return false
	}
	if k.category == 'A' && k.elem != 0 {
		return l.direct(k.elem)
	}
	return true
}

// image tells how a value of a type goes into the image of a row, where record_send
// writes the OID of each column's type before its value, and whether COPY may write
// it in binary. A type made by the user is hashed as text: its OIDs, and those of an
// enum's values, differ from cluster to cluster.
func (l *loader) image(typ uint32) (image string, binary bool) {
	k := l.kinds[typ]
	switch {
	case l.direct(typ):
		return "%s", true
	case k.sort == 'e':
		return "%s::text", true
	case k.sort == 'd':
		inner, binary := l.image(k.base)
		if inner == "%s" {
			return "%s::" + k.baseText, binary
		}
		return "%s::text", binary
	}
	return "%s::text", false
}

// parseArray reads a one-dimensional array in the text form of the server.
func parseArray(s string) []string {
	s = strings.TrimSuffix(strings.TrimPrefix(s, "{"), "}")
	var out []string
	for i := 0; i < len(s); i++ {
		var b strings.Builder
		quoted := s[i] == '"'
		if quoted {
			i++
		}
		for ; i < len(s) && (quoted && s[i] != '"' || !quoted && s[i] != ','); i++ {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			b.WriteByte(s[i])
		}
		if quoted {
			i++ // the closing quote; the comma is skipped by the loop
		}
		out = append(out, b.String())
	}
	return out
}

// fieldName names the n-th value of a list that SQL unpacks.
func fieldName(n int) string { return "f" + strconv.Itoa(n) }
