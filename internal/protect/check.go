package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// Words in place of a point's id.
const (
	AllPoints   = "all"
	NewestPoint = "newest"
)

// PointsResult is what CheckPoints found.
type PointsResult struct {
	Servers  []ServerPoints `json:"servers"`
	Duration time.Duration  `json:"duration_ns"`
}

// ServerPoints are the recovery points of one server that were checked, newest first.
type ServerPoints struct {
	Server  dr.ServerName `json:"server"`
	Outcome dr.Outcome    `json:"outcome"`
	Points  []PointCheck  `json:"points"`
	Err     string        `json:"error,omitempty"`
	Hint    string        `json:"hint,omitempty"`
}

// PointCheck compares a recovery point with what was noted when it was made. Outcome
// is Done only where every entry and every digest is as noted.
type PointCheck struct {
	ID          dr.PointID    `json:"id"`
	Outcome     dr.Outcome    `json:"outcome"`
	Differences []Difference  `json:"differences"`
	Unclear     []string      `json:"unclear"`                 // sparse files whose digest cannot be had here
	Entries     int64         `json:"entries"`                 // compared
	Bytes       int64         `json:"bytes"`                   // of file content digested
	Skipped     int64         `json:"skipped_bytes,omitempty"` // of content that was not: files left out by lot
	Duration    time.Duration `json:"duration_ns"`
	Err         string        `json:"error,omitempty"`
}

// CheckPoints digests recovery points of the named servers anew and compares them with
// their catalogs and manifests. which is the id of a point, AllPoints or NewestPoint. No
// source is asked and nothing is changed. The process must be in a mount namespace of
// its own and the store's pool in place.
func CheckPoints(ctx context.Context, o Options, which string) (_ *PointsResult, err error) {
	started := time.Now()
	store, err := replica.Open(ctx, o.Estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	names := o.names()
	res := &PointsResult{Servers: make([]ServerPoints, len(names))}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			c := &pointChecker{store: store, which: which}
			c.result.Server = name
			c.meter.begin(o.Progress, name)
			err := c.server(ctx)
			if err != nil {
				c.result.Outcome, c.result.Err, c.result.Hint = dr.Unknown, err.Error(), hintOf(err)
			}
			if errors.Is(err, replica.ErrDamagedPoint) {
				c.result.Outcome = dr.NotDone
			}
			c.meter.end(err)
			res.Servers[i] = c.result
		})
	}
	wg.Wait()
	res.Duration = time.Since(started)
	return res, ctx.Err()
}

type pointChecker struct {
	store  *replica.Store
	which  string
	meter  meter
	result ServerPoints
}

// server checks those of a server's points that are asked for. It is done where there
// is at least one, and all of them are as they were.
func (c *pointChecker) server(ctx context.Context) (err error) {
	rep, err := c.store.Replica(c.result.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.Close()) }()
	points, damaged := rep.Points()
	for i, p := range points {
		if c.which != AllPoints && (c.which != NewestPoint || i > 0) && c.which != string(p.ID) {
			continue
		}
		c.meter.phase("checking " + string(p.ID))
		out := PointCheck{ID: p.ID}
		started := time.Now()
		if err := c.point(ctx, p, &out); err != nil {
			out.Outcome, out.Err = dr.Unknown, err.Error()
		}
		out.Duration = time.Since(started)
		c.result.Points = append(c.result.Points, out)
	}
	if damaged != nil {
		return damaged
	}
	if len(c.result.Points) == 0 {
		return dr.WithHint(fmt.Errorf("check recovery points of %s: there is none that %s names", c.result.Server, c.which),
			"leeward points lists them")
	}
	c.result.Outcome = dr.Done
	for _, p := range c.result.Points {
		if p.Outcome == dr.NotDone || c.result.Outcome == dr.Done {
			c.result.Outcome = p.Outcome
		}
	}
	return nil
}

// point mounts a clone of a recovery point and checks each of its filesystems.
func (c *pointChecker) point(ctx context.Context, p *replica.Point, out *PointCheck) (err error) {
	scratch, err := c.store.Scratch("check-" + string(c.result.Server))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	img, err := p.Clone(ctx, filepath.Join(scratch, "clone"))
	if err != nil {
		return err
	}
	w := &wholeness{point: p, check: out, meter: &c.meter}
	return w.image(ctx, img)
}
