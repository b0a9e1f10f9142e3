package protect

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// GroupRun is what a run left of a group. Outcome is Done where the group has a new
// recovery point.
type GroupRun struct {
	Group       string         `json:"group"`
	Outcome     dr.Outcome     `json:"outcome"`
	Point       dr.PointID     `json:"point,omitempty"`
	Consistency dr.Consistency `json:"consistency,omitempty"`
	Skew        time.Duration  `json:"skew_ns,omitempty"`
	Partial     bool           `json:"partial,omitempty"` // the run was not of all members: no point was to be expected
	Missing     []string       `json:"missing,omitempty"` // members that have no part in the run, or failed
	Removed     []dr.PointID   `json:"removed,omitempty"` // points that keep: does not keep
	Err         string         `json:"error,omitempty"`
	Hint        string         `json:"hint,omitempty"`
}

// groupPoints leaves a recovery point of each group all of whose members are done. It
// tells of every group that has a member in the run.
func (r *run) groupPoints(ctx context.Context, started time.Time, res *RunResult) (out []GroupRun) {
	for _, g := range r.Estate.RecoveryGroups() {
		run := GroupRun{Group: g.Name, Outcome: dr.NotDone}
		man := &replica.GroupManifest{Group: g.Name, ID: dr.NewPointID(started), Started: started.UTC(), Order: g.Order, Leeward: version()}
		var absent, failed []string
		for _, name := range g.Order {
			there, err := r.member(ctx, man, name, res)
			switch {
			case !there:
				absent = append(absent, name)
			case err != nil:
				failed = append(failed, name)
				run.Err = err.Error()
			}
		}
		switch {
		case len(absent) == len(g.Order):
			continue
		case len(failed) > 0:
			run.Missing = failed
			run.Err = "no recovery point of the group: " + failedWords(failed, run.Err)
		case len(absent) > 0:
			run.Partial, run.Missing = true, absent
			run.Err = "no recovery point of the group: this pass was not of " + strings.Join(absent, ", ")
		default:
			r.groupPoint(ctx, man, &run)
		}
		out = append(out, run)
	}
	return out
}

func failedWords(failed []string, last string) string {
	if len(failed) == 1 {
		return last
	}
	return strings.Join(failed, ", ") + " are not done"
}

// groupPoint makes the point.
func (r *run) groupPoint(ctx context.Context, man *replica.GroupManifest, run *GroupRun) {
	man.Finished = time.Now().UTC()
	point, err := r.store.MakeGroupPoint(ctx, man)
	if err != nil {
		run.Err, run.Hint = err.Error(), hintOf(err)
	}
	if point != nil {
		run.Outcome, run.Point, run.Skew, run.Consistency = dr.Done, point.ID, point.Manifest.Skew, point.Manifest.Consistency
	}
}

// member adds what the run left of a server or a database to man. There is false where
// it had no part in the run.
func (r *run) member(ctx context.Context, man *replica.GroupManifest, name string, res *RunResult) (there bool, err error) {
	if db := r.Estate.Database(name); db != nil {
		i := slices.IndexFunc(res.Databases, func(d DatabaseRun) bool { return d.Database == name })
		if i < 0 {
			return false, nil
		}
		return true, r.addDatabase(ctx, man, db, &res.Databases[i])
	}
	i := slices.IndexFunc(res.Servers, func(s ServerRun) bool { return string(s.Server) == name })
	if i < 0 {
		return false, nil
	}
	s := &res.Servers[i]
	if s.Outcome != dr.Done || s.made == nil {
		return true, fmt.Errorf("%s is %s", name, s.Outcome)
	}
	man.Servers = append(man.Servers, replica.ServerMember(s.made))
	man.Anomalies = append(man.Anomalies, s.made.Manifest.Anomalies...)
	return true, nil
}

// addDatabase adds the watermark of a database's copy, as it stands in the copy now
// that the pass is over. A copy that leaves tables out is no part of a recovery point.
func (r *run) addDatabase(ctx context.Context, man *replica.GroupManifest, db *config.Database, d *DatabaseRun) error {
	switch {
	case d.Outcome != dr.Done && len(d.Stopped) > 0:
		return fmt.Errorf("%s is %s: %s", d.Database, d.Outcome, d.Stopped[0])
	case d.Outcome != dr.Done:
		return fmt.Errorf("%s is %s", d.Database, d.Outcome)
	}
	s := StatusOfRows(ctx, db, r.store.Dir(), 0, time.Now())
	switch {
	case s.Err != "":
		return fmt.Errorf("read where %s stands: %s", d.Database, s.Err)
	case s.Outcome != dr.Done || s.Position == "":
		return fmt.Errorf("%s has no position in the history of its source", d.Database)
	}
	// When the pass ended, everything of Lag before was applied.
	heard := r.ended[d.Database].Add(-d.Lag).UTC()
	man.Databases = append(man.Databases, replica.GroupDatabase{Database: d.Database, Engine: d.Engine, Position: s.Position,
		Committed: s.SourceTime.UTC(), Heard: heard, Consistency: dr.Application, Source: db.Source.Host()})
	return nil
}
