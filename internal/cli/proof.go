package cli

import (
	"errors"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// drilledPoint is a point that is being drilled and cannot be removed meanwhile.
type drilledPoint struct {
	*replica.Point
	release func() error
}

// holdDrilled holds the points that subjects were cloned from. One that went since is
// not among them: its clone is drilled all the same.
func holdDrilled(s *replica.Store, subjects []drill.Subject) (held []drilledPoint) {
	for _, subject := range subjects {
		rep, err := s.Replica(subject.Server)
		if err != nil {
			continue
		}
		points, _ := rep.Points() // damaged ones are told where points are listed
		if p := protect.FindPoint(points, subject.Point); p != nil {
			if release, err := p.Hold(); err == nil {
				held = append(held, drilledPoint{p, release})
			}
		}
	}
	return held
}

// settleProofs notes beside each point what its drill found, and lets go of it. What
// nobody knows takes nothing away from what an earlier drill found.
func settleProofs(held []drilledPoint, results []drill.Result, name string) error {
	var errs []error
	for _, h := range held {
		for _, r := range results {
			if r.Server == h.Manifest.Server && r.Point == h.ID && r.Outcome != dr.Unknown {
				errs = append(errs, h.SetProof(replica.Proof{Outcome: r.Outcome, At: time.Now().UTC(), Drill: name, TimeToProof: r.TimeToProof, Cause: r.Cause,
					Took: r.Took, Phases: map[string]time.Duration{"clone": r.Phases.Clone, "adapt": r.Phases.Adapt, "boot": r.Phases.Boot, "probe": r.Phases.Probe}}))
			}
		}
		errs = append(errs, h.release())
	}
	return errors.Join(errs...)
}
