package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/mountns"
	"github.com/leeward-dr/leeward/internal/replica"
)

// enterStore makes the store of e usable and moves the process into a mount
// namespace of its own, so that what a pass mounts vanishes with it. That starts
// the program anew: a command calls it before it has shown or read anything.
func enterStore(ctx context.Context, e *config.Estate) error {
	if mountns.Entered() {
		return nil
	}
	if err := ensureStore(ctx, e); err != nil {
		return err
	}
	return mountns.Enter()
}

func ensureStore(ctx context.Context, e *config.Estate) error {
	err := replica.EnsurePool(ctx, e.Target.Store, replica.PoolOptions{})
	var hinted *dr.Hinted
	if errors.Is(err, os.ErrPermission) && !errors.As(err, &hinted) {
		err = dr.WithHint(err, "run Leeward as root: it mounts the replicas' filesystems")
	}
	return err
}

// storedServer is what the store holds of one server.
type storedServer struct {
	name   dr.ServerName
	points []*replica.Point // newest first
	err    error            // of points that are damaged or cannot be read
}

// readStore lists the recovery points of the named servers, and tells where the
// store's data is. A store that is not there yet has none.
func readStore(ctx context.Context, e *config.Estate, names []dr.ServerName) (_ []storedServer, dir string, _ error) {
	out := make([]storedServer, len(names))
	for i, n := range names {
		out[i].name = n
	}
	if _, err := os.Stat(e.Target.Store); errors.Is(err, os.ErrNotExist) {
		return out, e.Target.Store, nil
	}
	if err := ensureStore(ctx, e); err != nil {
		return nil, "", err
	}
	s, err := replica.Open(ctx, e.Target.Store)
	if err != nil {
		return nil, "", err
	}
	defer s.Close()
	for i, n := range names {
		r, err := s.Replica(n)
		if err != nil {
			return nil, "", fmt.Errorf("list recovery points: %w", err)
		}
		out[i].points, out[i].err = r.Points()
	}
	return out, s.Dir(), nil
}
