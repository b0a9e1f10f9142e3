package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var _ engine.Placer = (*target)(nil)

// placeRows is how many rows a sample of pages should hold: those of some hundred pages.
const placeRows = 10_000

// tailRows is how far before its end a table is looked into: there it grows.
const tailRows = 5000

// Places implements engine.Placer by a sample of the table's pages; the last place is near
// the end.
func (t *target) Places(ctx context.Context, x *engine.Table, n int) ([]engine.Row, error) {
	s, err := t.shape(ctx, x)
	if err != nil || s.key == nil {
		return nil, err
	}
	share := min(100, 100*placeRows/float64(max(1, x.Rows)))
	var keys []engine.Row
	sql := fmt.Sprintf("SELECT %s FROM %s TABLESAMPLE SYSTEM (%.6f) ORDER BY %[1]s", s.keyList(), s.from, share)
	err = t.each(ctx, sql, nil, nil, func(v [][]byte) bool {
		keys = append(keys, clone(v))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("look for places in %s: %w", x.Name, err)
	}
	var out []engine.Row
	for i := 1; i < n-1; i++ {
		k := keys[:len(keys)*i/(n-1)]
		if len(k) == 0 || len(out) > 0 && rowID(out[len(out)-1]) == rowID(k[len(k)-1]) {
			continue
		}
		out = append(out, k[len(k)-1])
	}
	down := make([]string, len(s.key))
	for i, k := range s.key {
		down[i] = "t." + s.names[k] + " DESC"
	}
	tail := fmt.Sprintf("SELECT %s FROM %s ORDER BY %s OFFSET %d LIMIT 1", s.keyList(), s.from, strings.Join(down, ", "), tailRows)
	err = t.each(ctx, tail, nil, nil, func(v [][]byte) bool {
		out = append(out, clone(v))
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("look for the end of %s: %w", x.Name, err)
	}
	return out, nil
}
