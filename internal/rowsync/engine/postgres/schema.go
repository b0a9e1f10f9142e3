package postgres

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Schema reads the tables that the filter lets through, and the definitions of
// everything but the tables it keeps out.
func (d *database) schema(ctx context.Context) (*engine.Schema, error) {
	rels, err := d.known.list(ctx)
	if err != nil {
		return nil, err
	}
	out := &engine.Schema{}
	hidden := map[string]bool{} // by OID
	for _, r := range rels {
		if !d.known.wanted(r.Name) {
			hidden[r.oid] = true
			continue
		}
		t := r.Table
		out.Tables = append(out.Tables, &t)
	}
	out.Objects, err = d.objects(ctx, hidden)
	if err != nil {
		return nil, fmt.Errorf("read definitions: %w", err)
	}
	return out, nil
}

func (s *source) Schema(ctx context.Context) (*engine.Schema, error) { return s.schema(ctx) }

// Schema of a target refuses no table: what is wanting is needed at a source alone.
func (t *target) Schema(ctx context.Context) (*engine.Schema, error) {
	s, err := t.schema(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range s.Tables {
		x.Refused = ""
	}
	return s, nil
}
