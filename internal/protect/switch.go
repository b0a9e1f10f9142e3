package protect

import (
	"context"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/rowsync"
)

// RowsConfig is how a database is replicated, for those who switch it. store is where
// the data of the target's store is.
func RowsConfig(ctx context.Context, db *config.Database, store string) (rowsync.Config, error) {
	return rowsConfig(ctx, db, store)
}

// Password fetches a secret from its place; "" where none is named.
func Password(ctx context.Context, e config.Endpoint) (string, error) { return password(ctx, e) }
