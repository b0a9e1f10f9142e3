package protect

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// physical is the mode: in which an engine replicates whole servers by itself.
const physical = "physical"

// StandbyConfig is how a database of mode: physical is replicated, for those who switch
// it. store is where the data of the target's store is.
func StandbyConfig(ctx context.Context, db *config.Database, store string) (rowsync.StandbyConfig, error) {
	rows, err := baseConfig(ctx, db, store)
	c := rowsync.StandbyConfig{Name: rows.Name, Rows: rows.Driver, Spool: rows.Spool, Log: rows.Log}
	if err != nil {
		return c, err
	}
	drv, ok := rows.Driver.(engine.PhysicalDriver)
	if !ok {
		return c, dr.WithHint(fmt.Errorf("database %s: mode: physical is not driven for %s", db.Name, db.Engine), "leave mode out: rows are replicated then")
	}
	c.Physical = drv
	rows.Source.Tables, rows.Target.Tables = engine.Filter{}, engine.Filter{}
	c.Options.Source, c.Options.Target = physicalEnd(db.Source, rows.Source), physicalEnd(db.Target, rows.Target)
	return c, nil
}

func physicalEnd(p config.Endpoint, o engine.Options) engine.PhysicalEnd {
	if p.Server == nil {
		return engine.PhysicalEnd{Options: o}
	}
	return machineOf(p.Server).end(o, p.Server)
}

// withStandby does work on a physical copy and tells of its progress.
func (o *Options) withStandby(ctx context.Context, db *config.Database, store string, work func(*rowsync.Standby) error) error {
	var m meter
	m.begin(o.Progress, dr.ServerName(db.Name))
	c, err := StandbyConfig(ctx, db, store)
	if err == nil {
		var s *rowsync.Standby
		if s, err = rowsync.NewStandby(c); errors.Is(err, rowsync.ErrBusy) {
			err = dr.WithHint(err, "wait until the other Leeward is done, or stop it")
		}
		if err == nil {
			m.follow(func(p *Progress) {
				now := s.Progress()
				rowProgress(now, p)
				if now.Doing != "" && !p.Finished {
					p.Phase = now.Doing
				}
			})
			err = errors.Join(work(s), s.Close())
		}
	}
	m.end(err)
	return err
}

// replicateStandby makes one pass over a physical copy: after it the servers go on by
// themselves.
func (o *Options) replicateStandby(ctx context.Context, db *config.Database, store string) (res DatabaseRun) {
	res = DatabaseRun{Database: db.Name, Engine: db.Engine, Mode: physical, Outcome: dr.NotDone}
	begun := time.Now()
	err := o.withStandby(ctx, db, store, func(s *rowsync.Standby) error {
		got, err := s.Pass(ctx)
		res.Did, res.Position, res.Lag = got.Did, string(got.Position), got.Lag
		return err
	})
	res.Duration = time.Since(begun)
	if err != nil {
		res.Err, res.Hint = err.Error(), standbyHint(err)
		return res
	}
	res.Outcome = dr.Done
	return res
}

// standbyHint says what to do about an error, where more is known than its text says.
func standbyHint(err error) string {
	var p *rowsync.PrimaryError
	if errors.As(err, &p) {
		return "leave it; the way back is a failback"
	}
	return hintOf(err)
}

// statusOfStandby reads how a physical copy stands, without the source.
func statusOfStandby(ctx context.Context, db *config.Database, store string, rpo time.Duration, now time.Time) RowsStatus {
	res := RowsStatus{Database: db.Name, Mode: physical, Outcome: dr.Unknown, RPO: rpo}
	c, err := StandbyConfig(ctx, db, store)
	if err == nil {
		var s rowsync.Status
		if s, err = rowsync.StandbyStatusOf(ctx, c, now); err == nil {
			res.takeStatus(s, now)
			if s.Pending != "" {
				res.Stopped = append(res.Stopped, s.Pending)
			}
			return res
		}
	}
	res.Err = err.Error()
	return res
}

// verifyStandby compares the rows of a physical copy with its source.
func (o *Options) verifyStandby(ctx context.Context, db *config.Database, store string) (res DatabaseVerify) {
	res = DatabaseVerify{Database: db.Name, Outcome: dr.Unknown}
	begun := time.Now()
	err := o.withStandby(ctx, db, store, func(s *rowsync.Standby) error {
		got, err := s.Verify(ctx)
		res.take(got)
		return err
	})
	res.Duration = time.Since(begun)
	if err != nil {
		res.Outcome, res.Err, res.Hint = dr.Unknown, err.Error(), hintOf(err)
	}
	return res
}
