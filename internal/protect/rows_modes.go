package protect

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// logical is the mode: in which rows are replicated.
const logical = "logical"

// ModePlan is what one of the two modes would take until the target is up to date.
type ModePlan struct {
	Mode     string        `json:"mode"` // logical or physical
	Possible bool          `json:"possible"`
	Why      []string      `json:"why,omitempty"` // it is not
	Bytes    int64         `json:"bytes"`         // over the wire, before compression; an estimate
	ETA      time.Duration `json:"eta_ns"`
}

// judge compares the modes and recommends the faster one, where both are possible and
// one is clearly faster.
func (p *RowsPlan) judge(modes ...ModePlan) {
	p.Modes = modes
	var best *ModePlan
	possible := 0
	for i := range p.Modes {
		m := &p.Modes[i]
		if !m.Possible {
			continue
		}
		possible++
		if best == nil || m.ETA < best.ETA || m.ETA == best.ETA && m.Mode == p.Mode {
			best = m
		}
	}
	if best == nil {
		return
	}
	p.Recommended = best.Mode
	for _, m := range p.Modes {
		// What is configured stays unless another is clearly faster.
		if m.Mode == p.Mode && m.Possible && float64(m.ETA) <= 1.2*float64(best.ETA) {
			p.Recommended = p.Mode
		}
	}
	if p.Recommended == p.Mode || possible == 0 {
		return
	}
	text, hint := fmt.Sprintf("mode: %s would be faster now than %s", p.Recommended, p.Mode), "write mode: "+p.Recommended+" if what it carries and what not suits you; see docs/databases.md"
	if possible == 1 {
		text = fmt.Sprintf("mode: %s is not possible, %s is", p.Mode, p.Recommended)
	}
	p.Findings = append(p.Findings, Finding{Note, text, hint})
}

// physicalMode looks whether a physical copy is possible and what it takes.
func physicalMode(ctx context.Context, db *config.Database, store string) (m ModePlan, a rowsync.StandbyAssessment, err error) {
	m = ModePlan{Mode: physical}
	c, err := StandbyConfig(ctx, db, store)
	if err != nil {
		m.Why = []string{err.Error()}
		return m, a, err
	}
	if a, err = rowsync.AssessStandby(ctx, c); err != nil {
		m.Why = []string{err.Error()}
		return m, a, err
	}
	m.Why = a.Blocked()
	if a.State.Phase == engine.Leader && len(m.Why) == 0 {
		m.Why = []string{"there is a server at the target that takes writes: a physical copy would replace it, with all its databases; it needs a data directory that is empty"}
	}
	m.Possible = len(m.Why) == 0
	e := a.PhysicalEffort(a.Pace)
	m.Bytes, m.ETA = e.Bytes, e.Time
	return m, a, nil
}

// logicalMode is what replicating rows would take.
func logicalMode(a *rowsync.Assessment, pace int64) ModePlan {
	e := a.RowsEffort(pace)
	m := ModePlan{Mode: logical, Bytes: e.Bytes, ETA: e.Time}
	for _, f := range a.Findings {
		if f.Severity == engine.Blocker {
			m.Why = append(m.Why, f.Object+": "+f.Text)
		}
	}
	m.Possible = len(m.Why) == 0
	return m
}

// planStandby looks at both ends of a physical copy.
func (o *Options) planStandby(ctx context.Context, db *config.Database, store string) (res RowsPlan) {
	res = RowsPlan{Database: db.Name, Engine: db.Engine, Mode: physical, priority: db.Priority}
	begun := time.Now()
	var m meter
	m.begin(o.Progress, dr.ServerName(db.Name))
	m.phase("looking at both ends")
	mode, a, err := physicalMode(ctx, db, store)
	m.end(err)
	if err == nil {
		res.takeStandby(db, a)
		// A running standby cannot be the target of rows; that is no reason to tell.
		if a.State.Phase == engine.Replica {
			res.judge(mode)
		} else {
			res.judge(o.otherMode(ctx, db, store), mode)
		}
	}
	res.Duration = time.Since(begun)
	if err != nil {
		res.Err, res.Hint = err.Error(), hintOf(err)
		res.Findings = append(res.Findings, Finding{Blocker, res.Err, res.Hint})
	}
	return res
}

func (p *RowsPlan) takeStandby(db *config.Database, a rowsync.StandbyAssessment) {
	p.Reachable, p.Link, p.Bytes = true, a.Pace, a.Bytes
	p.Capture = map[string]string{
		"postgres": "the whole server: a base backup, then streaming by a replication slot",
		"mariadb":  "the whole server: mariadb-backup, then replication by GTID",
	}[db.Engine]
	p.Findings = findings(a.Findings)
	if p.Phase = string(a.State.Phase); a.State.Phase != engine.Replica {
		p.Differing = a.Bytes
	}
	if a.State.Phase == engine.Leader {
		p.Findings = append(p.Findings, Finding{Blocker, "the target is primary: it takes writes", "after a switch, leave it: the way back is a failback; else stop that server and empty its data directory"})
	}
}

// otherMode is what replicating the rows would take, of a database that is copied
// physically.
func (o *Options) otherMode(ctx context.Context, db *config.Database, store string) ModePlan {
	as := *db
	as.Mode = logical
	var m ModePlan
	err := withRows(ctx, &as, store, nil, func(r *rowsync.Replicator) error {
		a, err := r.Assess(ctx)
		if err != nil {
			return err
		}
		pace, err := r.Pace(ctx)
		m = logicalMode(&a, pace)
		return err
	})
	if err != nil {
		return ModePlan{Mode: logical, Why: []string{err.Error()}}
	}
	return m
}

// InstanceItem is something that lives outside of a database, and how the target stands
// to it. What makes it is not told: it may hold the hash of a password.
type InstanceItem struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	State string `json:"state"` // same, missing, differs, or extra: at the target alone
	Made  bool   `json:"made,omitempty"`
	Why   string `json:"why,omitempty"` // it was not made, though it was to be
}

// Around is what lives outside of a database.
type Around struct {
	Items  []InstanceItem `json:"items"`
	Manual []Finding      `json:"manual"` // what a person must see to
	Err    string         `json:"error,omitempty"`
}

// around compares what lives outside of a database, and copies it if that is wanted. That
// it cannot be read is told, and no failure: the rows do not depend on it.
func around(ctx context.Context, r *rowsync.Replicator, copied bool) *Around {
	got, err := r.Instance(ctx, copied)
	a := &Around{Manual: findings(got.Manual)}
	if err != nil {
		a.Err = err.Error()
	}
	for _, i := range got.Items {
		a.Items = append(a.Items, InstanceItem{i.Kind, i.Name, string(i.State), i.Made, i.Why})
	}
	if len(a.Items)+len(a.Manual) == 0 && a.Err == "" {
		return nil
	}
	return a
}

// Quiet reports whether everything is as at the source, and nothing was made.
func (a *Around) Quiet() bool {
	if a == nil {
		return true
	}
	for _, i := range a.Items {
		if i.Made || i.State == string(rowsync.InstanceMissing) || i.State == string(rowsync.InstanceDiffers) {
			return false
		}
	}
	return a.Err == ""
}

// Summary counts what is there by kind: "3 roles", with what differs.
func (a *Around) Summary() string {
	if a == nil {
		return ""
	}
	type tally struct{ all, missing, differs, made int }
	var kinds []string
	of := map[string]*tally{}
	for _, i := range a.Items {
		t := of[i.Kind]
		if t == nil {
			t = &tally{}
			of[i.Kind] = t
			kinds = append(kinds, i.Kind)
		}
		switch {
		case i.State == string(rowsync.InstanceExtra):
			continue
		case i.Made:
			t.made++
		case i.State == string(rowsync.InstanceMissing):
			t.missing++
		case i.State == string(rowsync.InstanceDiffers):
			t.differs++
		}
		t.all++
	}
	var out []string
	for _, k := range kinds {
		t := of[k]
		if t.all == 0 {
			continue
		}
		s := fmt.Sprintf("%d of kind %s", t.all, k)
		for _, x := range []struct {
			n    int
			what string
		}{{t.missing, "missing"}, {t.differs, "other"}, {t.made, "made"}} {
			if x.n > 0 {
				s += fmt.Sprintf(", %d %s", x.n, x.what)
			}
		}
		out = append(out, s)
	}
	return strings.Join(out, "; ")
}
