package protect

import (
	"context"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
)

// DatabaseVerify compares one database with its copy. Outcome is Done only where every
// row was compared and is equal, NotDone where there are differences.
type DatabaseVerify struct {
	Database    string          `json:"database"`
	Outcome     dr.Outcome      `json:"outcome"`
	Tables      int             `json:"tables"`
	Rows        int64           `json:"rows"` // compared
	Differences []RowDifference `json:"differences"`
	More        int64           `json:"more"`      // differences that are not listed
	Unsettled   int64           `json:"unsettled"` // rows that changed each time they were looked at
	Findings    []Finding       `json:"findings,omitempty"`
	At          time.Time       `json:"at"`
	Duration    time.Duration   `json:"duration_ns"`
	Err         string          `json:"error,omitempty"`
	Hint        string          `json:"hint,omitempty"`
}

// RowDifference is one row that is not equal at both ends.
type RowDifference struct {
	Table   string   `json:"table"`
	Key     []string `json:"key"`
	Columns []string `json:"columns,omitempty"` // that differ
	Only    string   `json:"only,omitempty"`    // the end that alone has it
}

func (d RowDifference) String() string {
	s := d.Table + " (" + strings.Join(d.Key, ", ") + "): "
	if d.Only != "" {
		return s + "at the " + d.Only + " only"
	}
	return s + strings.Join(d.Columns, ", ")
}

// verifyRows compares a database with its copy, while both are written to.
func (o *Options) verifyRows(ctx context.Context, db *config.Database, store string) (res DatabaseVerify) {
	if db.Mode == physical {
		return o.verifyStandby(ctx, db, store)
	}
	res = DatabaseVerify{Database: db.Name, Outcome: dr.Unknown}
	begun := time.Now()
	err := withRows(ctx, db, store, o.Progress, func(r *rowsync.Replicator) error {
		got, err := r.Verify(ctx)
		res.take(got)
		return err
	})
	res.Duration = time.Since(begun)
	if err != nil {
		res.Outcome, res.Err, res.Hint = dr.Unknown, err.Error(), hintOf(err)
	}
	return res
}

func (d *DatabaseVerify) take(v rowsync.Verification) {
	d.Tables, d.More, d.Unsettled, d.At = len(v.Tables), v.More, v.Unsettled, v.At
	d.Findings = findings(v.Findings)
	for _, n := range v.Tables {
		d.Rows += n
	}
	for _, x := range v.Differences {
		d.Differences = append(d.Differences, RowDifference{x.Table.String(), x.Key, x.Columns, x.Only})
	}
	switch {
	case v.Equal:
		d.Outcome = dr.Done
	case len(d.Differences) > 0 || d.More > 0:
		d.Outcome = dr.NotDone
	}
}
