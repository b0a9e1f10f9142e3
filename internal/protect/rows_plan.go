package protect

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// RowsPlan is the plan for one database that is replicated by itself.
type RowsPlan struct {
	priority  int
	Database  string      `json:"database"`
	Engine    string      `json:"engine"`
	Mode      string      `json:"mode"` // as configured: logical or physical
	Reachable bool        `json:"reachable"`
	Capture   string      `json:"capture"` // how changes are captured, and why
	Phase     string      `json:"phase"`   // of the target; empty before the first pass
	Tables    []TablePlan `json:"tables"`
	Missing   []string    `json:"missing"` // what would be made at the target: kind and name
	Bytes     int64       `json:"bytes"`   // of all rows, as they would be written
	Differing int64       `json:"differing"`
	Link      int64       `json:"link_rate"` // bytes per second from the source, measured; 0 unknown
	Modes     []ModePlan  `json:"modes"`     // what each of the two would take
	// Recommended is the mode that would be done first; empty where none is possible.
	Recommended string        `json:"recommended,omitempty"`
	Around      *Around       `json:"instance,omitempty"` // what lives outside the database
	Findings    []Finding     `json:"findings"`
	Duration    time.Duration `json:"duration_ns"`
	Err         string        `json:"error,omitempty"`
	Hint        string        `json:"hint,omitempty"`
}

// TablePlan is what is to be expected of one table. Numbers are estimates, -1 where
// nothing is known.
type TablePlan struct {
	Table      string  `json:"table"`
	Rows       int64   `json:"rows"`
	TargetRows int64   `json:"target_rows"`
	Share      float64 `json:"share"` // of rows that differ or are missing, from a sample
}

// planRows looks at both ends of a database.
func (o *Options) planRows(ctx context.Context, db *config.Database, store string) (res RowsPlan) {
	if db.Mode == physical {
		return o.planStandby(ctx, db, store)
	}
	res = RowsPlan{Database: db.Name, Engine: db.Engine, Mode: db.Mode, priority: db.Priority}
	begun := time.Now()
	err := withRows(ctx, db, store, o.Progress, func(r *rowsync.Replicator) error {
		got, err := r.Assess(ctx)
		if err != nil {
			return err
		}
		res.take(got)
		if res.Link, err = r.Pace(ctx); err != nil {
			return err
		}
		// Why it is not possible is all that is wanted of an error here.
		other, _, _ := physicalMode(ctx, db, store)
		res.judge(logicalMode(&got, res.Link), other)
		res.Around = around(ctx, r, false)
		return nil
	})
	res.Duration = time.Since(begun)
	if err != nil {
		res.Err, res.Hint = err.Error(), hintOf(err)
		res.Findings = append(res.Findings, Finding{Blocker, res.Err, res.Hint})
	}
	return res
}

func (p *RowsPlan) take(a rowsync.Assessment) {
	p.Reachable, p.Capture, p.Phase = true, a.Capture, string(a.Phase)
	p.Bytes, p.Differing, p.Findings = a.Bytes, a.Differing, findings(a.Findings)
	for _, t := range a.Tables {
		p.Tables = append(p.Tables, TablePlan{t.Name.String(), t.Rows, t.TargetRows, t.Share})
	}
	for _, o := range a.Missing {
		p.Missing = append(p.Missing, fmt.Sprintf("%s %s", o.Kind, o.Name))
	}
}

// RowsStatus says how far a database's copy is. Outcome is Done where the copy is a
// state its source had and was heard of within the objective, or is primary.
type RowsStatus struct {
	Database     string        `json:"database"`
	Mode         string        `json:"mode"` // logical or physical
	Outcome      dr.Outcome    `json:"outcome"`
	Phase        string        `json:"phase"` // empty before the first pass
	Position     string        `json:"position"`
	SourceTime   time.Time     `json:"source_time"`   // of the newest change applied
	Age          time.Duration `json:"age_ns"`        // since the source was last heard of: what a failover now would lose at most
	RPO          time.Duration `json:"rpo_ns"`        // objective; 0 where there is none
	Spooled      int64         `json:"spooled_bytes"` // landed at the target
	LastVerified time.Time     `json:"last_verified"` // zero: never
	Stopped      []string      `json:"stopped,omitempty"`
	Err          string        `json:"error,omitempty"`
}

// StatusOfRows reads how the copy of a database stands, without the source. store is
// where the data of the target's store is.
func StatusOfRows(ctx context.Context, db *config.Database, store string, rpo time.Duration, now time.Time) RowsStatus {
	if db.Mode == physical {
		return statusOfStandby(ctx, db, store, rpo, now)
	}
	res := RowsStatus{Database: db.Name, Mode: db.Mode, Outcome: dr.Unknown, RPO: rpo}
	c, err := rowsConfig(ctx, db, store)
	if err != nil {
		res.Err = err.Error()
		return res
	}
	s, err := rowsync.StatusOf(ctx, c, now)
	if err != nil {
		res.Err = err.Error()
		return res
	}
	res.takeStatus(s, now)
	return res
}

func (r *RowsStatus) takeStatus(s rowsync.Status, now time.Time) {
	r.Phase, r.Position, r.SourceTime = string(s.Phase), string(s.Position), s.SourceTime
	r.Spooled, r.LastVerified, r.Stopped = s.SpoolBytes, s.LastVerified, stops(s.Stopped)
	if !s.Heard.IsZero() {
		r.Age = max(0, now.Sub(s.Heard)) // it may have been heard since
	}
	r.Outcome = dr.NotDone
	if s.Phase == engine.Primary || s.Phase == engine.Following && s.Pending == "" && len(s.Stopped) == 0 && (r.RPO == 0 || r.Age <= r.RPO) {
		r.Outcome = dr.Done
	}
}
