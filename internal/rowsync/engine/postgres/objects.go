package postgres

import (
	"context"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func (d *database) objects(ctx context.Context, hidden map[string]bool) ([]engine.Object, error) {
	return nil, nil
}
