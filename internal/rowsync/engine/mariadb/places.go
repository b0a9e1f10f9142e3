package mariadb

import (
	"context"
	"fmt"
	"math/big"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var _ engine.Placer = (*Target)(nil)

// tailRows is how far before its end a table is looked into: there it grows.
const tailRows = 5000

// Places implements engine.Placer: at even distances between the least and the greatest
// number that a key begins with, and near the end. Of keys that begin with anything else
// only the end is told.
func (t *Target) Places(ctx context.Context, x *engine.Table, n int) ([]engine.Row, error) {
	key := keyed(x)
	if len(key) == 0 {
		return nil, nil
	}
	from := ident(x.Name.Name) + force(x)
	tail, err := t.place(ctx, x, fmt.Sprintf("SELECT %s FROM %s ORDER BY %s LIMIT %d, 1", exprs("", key), from, descending(key), tailRows))
	if err != nil || key[0].kind != number_ {
		return tail, err
	}
	first := ident(key[0].Name)
	ends, err := t.place(ctx, x, fmt.Sprintf("SELECT MIN(%s), MAX(%[1]s) FROM %s", first, from))
	if err != nil || len(ends) == 0 || ends[0][0] == nil {
		return nil, err
	}
	low, ok := new(big.Int).SetString(string(ends[0][0]), 10)
	high, both := new(big.Int).SetString(string(ends[0][1]), 10)
	if !ok || !both {
		return nil, fmt.Errorf("look for places in %s: its keys go from %q to %q", x.Name, ends[0][0], ends[0][1])
	}
	var out []engine.Row
	for i := 1; i < n-1; i++ {
		at := new(big.Int).Sub(high, low)
		at.Div(at.Mul(at, big.NewInt(int64(i))), big.NewInt(int64(n-1))).Add(at, low)
		got, err := t.place(ctx, x, fmt.Sprintf("SELECT %s FROM %s WHERE %s >= %s ORDER BY %s LIMIT 1", exprs("", key), from, first, at, idents("", key)))
		if err != nil {
			return nil, err
		}
		if len(got) > 0 && (len(out) == 0 || rowKey(out[len(out)-1]) != rowKey(got[0])) {
			out = append(out, got[0])
		}
	}
	return append(out, tail...), nil
}

func descending(key []column) string {
	s := ""
	for i, c := range key {
		if i > 0 {
			s += ", "
		}
		s += ident(c.Name) + " DESC"
	}
	return s
}

func (t *Target) place(ctx context.Context, x *engine.Table, q string) (out []engine.Row, err error) {
	err = t.each(ctx, q, func(v engine.Row) error {
		out = append(out, clone(v))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for places in %s: %w", x.Name, err)
	}
	return out, nil
}
