package cli

import (
	"context"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/switchover"
)

// lookTimeout bounds how long a plan waits for one end.
const lookTimeout = 30 * time.Second

// look sees what plans depend on: how databases stand at the target, which recovery
// points there are. None of it needs the source.
func (s *switchCall) look(ctx context.Context) (switchover.Seen, error) {
	seen := switchover.Seen{Databases: map[string]switchover.Standing{}, Points: map[string][]switchover.Point{}, Machines: map[string]bool{}}
	for _, name := range s.params.Members {
		if s.e.Database(name) != nil {
			standing, err := s.standing(ctx, name)
			if err != nil {
				return seen, err
			}
			seen.Databases[name] = standing
			continue
		}
		if err := s.lookServer(ctx, name, &seen); err != nil {
			return seen, err
		}
	}
	return seen, nil
}

func (s *switchCall) standing(ctx context.Context, name string) (switchover.Standing, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return s.world.Databases.Standing(ctx, name, switchover.Forward)
}

func (s *switchCall) lookServer(ctx context.Context, name string, seen *switchover.Seen) error {
	stored, dir, err := readStore(ctx, s.e, []dr.ServerName{dr.ServerName(name)})
	if err != nil {
		return err
	}
	drills := lastDrills(dir)
	for _, p := range stored[0].points {
		d, drilled := drills[dr.ServerName(name)]
		seen.Points[name] = append(seen.Points[name], switchover.Point{ID: p.ID, At: summarize(p).Started,
			Proven: drilled && d.Outcome == dr.Done && d.Point == p.ID})
	}
	running, err := s.world.Machines.Running(ctx, name)
	seen.Machines[name] = running
	return err
}
