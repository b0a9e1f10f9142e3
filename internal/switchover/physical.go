package switchover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// modePhysical is the mode: of a database whose whole server the engine itself copies.
const modePhysical = "physical"

// standbyConfig is how a physical copy is replicated one way.
func (r *Rows) standbyConfig(ctx context.Context, db *config.Database, way Way) (rowsync.StandbyConfig, error) {
	c, err := protect.StandbyConfig(ctx, db, r.Store)
	if err == nil && way == Back {
		c = c.Reversed()
	}
	return c, err
}

// physical is a Database of which the engine copies the whole server.
type physical struct {
	*rowsync.Standby
	config rowsync.StandbyConfig
}

func (r *Rows) openPhysical(ctx context.Context, db *config.Database, way Way) (Database, error) {
	c, err := r.standbyConfig(ctx, db, way)
	if err != nil {
		return nil, err
	}
	s, err := rowsync.NewStandby(c)
	if errors.Is(err, rowsync.ErrBusy) {
		err = hinted("wait until it is done, or stop it", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	return &physical{s, c}, nil
}

// Ready implements Database. Of the way back, before a switch, there is to see only
// what the server that is primary now would need to become the standby.
func (p *physical) Ready(ctx context.Context) (blockers, notes []string, err error) {
	returning, err := p.returning(ctx)
	if err != nil {
		return nil, nil, err
	}
	assess := p.Assess
	if returning {
		assess = p.AssessReturn
	}
	fs, err := assess(ctx)
	if err != nil {
		return nil, nil, err
	}
	blockers, notes = findingTexts(fs)
	return blockers, notes, nil
}

// returning reports whether the end that is replicated from is a standby itself.
func (p *physical) returning(ctx context.Context) (bool, error) {
	st, err := rowsync.StandbyStatusOf(ctx, p.config.Reversed(), time.Now())
	if err != nil {
		return false, err
	}
	return st.Phase == engine.Following, nil
}

// findingTexts tells what must be mended before a switch from what is good to know.
func findingTexts(fs []engine.Finding) (blockers, notes []string) {
	for _, f := range fs {
		text := f.Object + ": " + f.Text
		if f.Remedy != "" {
			text += " (" + f.Remedy + ")"
		}
		if f.Severity == engine.Blocker || f.Object == engine.FenceObject {
			blockers = append(blockers, text)
		} else {
			notes = append(notes, text)
		}
	}
	return blockers, notes
}

// Compare implements Database.
func (p *physical) Compare(ctx context.Context) (differences []string, count int64, err error) {
	v, err := p.Verify(ctx)
	if err != nil {
		return nil, 0, err
	}
	differences, count = comparedTexts(v)
	return differences, count, nil
}

// comparedTexts tells of a comparison. One that could not compare all is no proof.
func comparedTexts(v rowsync.Verification) (differences []string, count int64) {
	for _, n := range v.Tables {
		count += n
	}
	for i, d := range v.Differences {
		if i == differencesShown {
			differences = append(differences, fmt.Sprintf("and %d more", int64(len(v.Differences)-i)+v.More))
			break
		}
		differences = append(differences, d.String())
	}
	if !v.Equal && len(differences) == 0 {
		differences = []string{"what was compared is equal, and not everything could be"}
	}
	return differences, count
}

// SetAside implements Database.
func (p *physical) SetAside(ctx context.Context, dir string) ([]string, error) {
	kept, err := p.Standby.SetAside(ctx, dir)
	return asideTexts(kept, err)
}

func asideTexts(kept []rowsync.Aside, err error) (facts []string, _ error) {
	for _, t := range kept {
		if t.File != "" {
			facts = append(facts, fmt.Sprintf("%s: %d rows are there alone, %d are otherwise: kept in %s", t.Table, t.Only, t.Differs, t.File))
		}
	}
	if err == nil && len(facts) == 0 {
		facts = []string{"every row is at the other end as well"}
	}
	return facts, err
}

// Reset implements Database: the next drain looks by itself what the server is. What it
// alone has is taken from it only once that was set aside.
func (p *physical) Reset(context.Context) error { return nil }

// physicalStanding looks at the end that a whole server is copied to. One that does not
// answer may have been promoted before it went.
func (r *Rows) physicalStanding(ctx context.Context, db *config.Database, way Way) (Standing, error) {
	c, err := r.standbyConfig(ctx, db, way)
	if err != nil {
		return Standing{}, err
	}
	now := time.Now()
	st, err := rowsync.StandbyStatusOf(ctx, c, now)
	if err != nil {
		return Standing{}, err
	}
	if st.Silent {
		return Standing{}, hinted("start that server", "look at %s at the %s: %s", db.Name, way.from().Other(), st.Pending)
	}
	s := Standing{Phase: st.Phase, Lag: st.Lag, Heard: st.Heard, Newest: st.SourceTime}
	switch {
	case st.Phase == engine.Absent:
		s.Trouble = append(s.Trouble, "nothing was ever replicated to it")
	case st.Phase == engine.Primary:
		s.Trouble = append(s.Trouble, "it is primary: applications write to it")
	case !st.Heard.IsZero():
		// What it has not heard of is younger than that. That it does not follow now is no
		// trouble: it is a state that the other end had, and a drain has it follow.
		s.Lag = max(0, now.Sub(st.Heard))
	}
	return s, nil
}

// Fenced looks whether a database at a site is fenced, where its token does not tell: of
// a physical copy the token is part of the data, and nothing may be written to a server
// that was lost and shall come back.
func (r *Rows) Fenced(ctx context.Context, name string, at Site) (fenced, looked bool, err error) {
	db := r.Estate.Database(name)
	if db == nil || db.Mode != modePhysical {
		return false, false, nil
	}
	way := Forward
	if at == Target {
		way = Back
	}
	c, err := r.standbyConfig(ctx, db, way)
	if err != nil {
		return false, true, err
	}
	fenced, err = rowsync.FencedOf(ctx, c)
	return fenced, true, err
}
