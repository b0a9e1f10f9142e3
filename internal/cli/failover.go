package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
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

// quarantined is the result of failover quarantine.
type quarantined struct {
	Database string     `json:"database"`
	Outcome  dr.Outcome `json:"outcome"`
	Facts    []string   `json:"facts,omitempty"`
	Err      string     `json:"error,omitempty"`
}

// quarantine fences databases at a source that came back after a failover.
func (s *switchCall) quarantine(ctx context.Context) (err error) {
	lease, err := s.lease(runbook.Self(s.Getenv), "quarantine")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	var out []quarantined
	var parts []dr.Outcome
	for _, name := range s.params.Members {
		if s.e.Database(name) == nil {
			continue
		}
		q := quarantined{Database: name, Outcome: dr.NotDone}
		bounded, cancel := context.WithTimeout(ctx, lookTimeout+s.e.Switchover.Grace)
		facts, err := s.world.Quarantine(bounded, name, s.e.Switchover.Grace)
		cancel()
		if q.Facts = facts; err != nil {
			q.Err = err.Error()
		} else {
			q.Outcome = dr.Done
		}
		out, parts = append(out, q), append(parts, q.Outcome)
	}
	return s.done(outcomeCode(parts), out, func(w io.Writer) {
		for _, q := range out {
			fmt.Fprintf(w, "%s: %s\n", q.Database, choose(q.Err == "", "in quarantine: nobody but Leeward can write it at "+s.e.Source.Name, strings.ToUpper(q.Outcome.String())+": "+clean(q.Err)))
			listed(w, q.Facts)
		}
	})
}

// rolesOf tells which site is primary for what was moved. A store without a record of
// that has moved nothing.
func rolesOf(ctx context.Context, e *config.Estate, dir string, names []dr.ServerName) ([]switchover.Role, error) {
	var all []string
	for _, n := range names {
		all = append(all, string(n))
	}
	return switchover.NewWorld(e, dir, filepath.Join(dir, switchDir)).Roles(ctx, all)
}

func renderRoles(w io.Writer, e *config.Estate, roles []switchover.Role) {
	site := map[switchover.Site]string{switchover.Source: e.Source.Name, switchover.Target: e.Target.Name}
	for _, r := range roles {
		switch {
		case r.Moving != "":
			fmt.Fprintf(w, "\n%s: MOVING to %s: run %s is not over; go on with it (resume) or take it back (leeward rollback plan)\n", r.Member, site[r.Moving], r.Run)
		case r.Returned:
			fmt.Fprintf(w, "\n%s: %s RETURNED with a stale token: primary is %s since %s, and both may be written to\n    what to do: leeward failover quarantine %s\n",
				r.Member, site[r.Primary.Other()], site[r.Primary], r.Since.Format(time.RFC3339), r.Member)
		case r.Fenced:
			fmt.Fprintf(w, "\n%s: primary is %s since %s; %s returned and is in quarantine\n", r.Member, site[r.Primary], r.Since.Format(time.RFC3339), site[r.Primary.Other()])
		case r.Lost:
			fmt.Fprintf(w, "\n%s: primary is %s since %s, after a failover; %s does not answer\n", r.Member, site[r.Primary], r.Since.Format(time.RFC3339), site[r.Primary.Other()])
		case r.Primary == switchover.Target:
			fmt.Fprintf(w, "\n%s: primary is %s since %s; leeward rollback takes it back until %s\n", r.Member, site[r.Primary], r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
		}
	}
}
