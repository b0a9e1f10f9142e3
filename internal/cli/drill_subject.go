package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// chosen are the points of a drill: those to be booted, each with what its check found,
// and the results of servers and points that do not come so far.
type chosen struct {
	store    *replica.Store
	work     string // where the clones are made
	flags    drillFlags
	progress func(protect.Progress)
	trails   *trails
	slots    chan struct{} // bounds how many points are checked at once

	mu       sync.Mutex // guards what follows
	subjects []drill.Subject
	digests  map[dr.ServerName]*drill.Digests
	replicas map[dr.ServerName]string // digests of the replicas before
	missing  []drill.Result
}

// choose picks the point of each server, clones it and checks the clone against what was
// noted when the point was made. A point that is not as it was is refused; with --fallback
// the one before it takes its place.
func (c *chosen) choose(ctx context.Context, names []dr.ServerName) {
	c.slots = make(chan struct{}, runtime.NumCPU())
	c.digests, c.replicas = map[dr.ServerName]*drill.Digests{}, map[dr.ServerName]string{}
	found := make([]*drill.Subject, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			s, err := c.server(ctx, name)
			if err != nil {
				text, hint := explain(exitFailed, err)
				c.miss(drill.Result{Server: name, Outcome: dr.NotDone, Cause: text, Hint: hint})
				return
			}
			found[i] = s
		})
	}
	wg.Wait()
	for _, s := range found {
		if s != nil {
			c.subjects = append(c.subjects, *s)
		}
	}
}

func (c *chosen) miss(r drill.Result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missing = append(c.missing, r)
}

// server returns the subject of a server; nil where all its points were refused.
func (c *chosen) server(ctx context.Context, name dr.ServerName) (*drill.Subject, error) {
	r, err := c.store.Replica(name)
	if err != nil {
		return nil, err
	}
	all, damaged := r.Points()
	points, err := c.candidates(name, all, damaged)
	if err != nil {
		return nil, err
	}
	if print, err := r.Fingerprint(ctx); err == nil { // else nothing is claimed of it
		c.mu.Lock()
		c.replicas[name] = print
		c.mu.Unlock()
	}
	for i, p := range points {
		s, d, err := c.point(ctx, p)
		if err != nil {
			return nil, err
		}
		if d.Outcome != dr.NotDone {
			c.mu.Lock()
			c.digests[name] = d
			c.mu.Unlock()
			return s, nil
		}
		c.refuse(p, d, points[i+1:])
		if !c.flags.fallback || ctx.Err() != nil {
			break
		}
	}
	return nil, ctx.Err()
}

// candidates are the points to try, the best first. One whose manifest is damaged is
// refused here where it is newer than all others.
func (c *chosen) candidates(name dr.ServerName, all []*replica.Point, damaged error) ([]*replica.Point, error) {
	if id := c.flags.point; id != "" {
		i := slices.IndexFunc(all, func(p *replica.Point) bool { return string(p.ID) == id })
		if i < 0 {
			return nil, errors.Join(dr.WithHint(fmt.Errorf("drill %s: it has no recovery point %s", name, id), "run: leeward points "+string(name)), damaged)
		}
		return all[i:], nil
	}
	for _, e := range replica.PointErrors(damaged) {
		if len(all) > 0 && strings.Compare(string(e.ID), string(all[0].ID)) < 0 {
			continue // an old one: points lists it
		}
		res := drill.Result{Server: name, Point: e.ID, Outcome: dr.NotDone, Refused: true, Cause: "refused: " + e.Error(), Hint: before(name, all)}
		c.miss(res)
		if !c.flags.fallback {
			return nil, nil
		}
	}
	if len(all) == 0 {
		return nil, errors.Join(dr.WithHint(fmt.Errorf("drill %s: it has no recovery point", name), "run: leeward replicate "+string(name)), damaged)
	}
	return all, nil
}

// before offers the newest of the older points.
func before(name dr.ServerName, older []*replica.Point) string {
	if len(older) == 0 {
		return fmt.Sprintf("it is the only point; make another by: leeward replicate %s", name)
	}
	return fmt.Sprintf("the point before it is %s of %s; drill that by: leeward drill %s --fallback", older[0].ID, older[0].Manifest.Finished.Local().Format("2 Jan 15:04"), name)
}

// point clones p and checks the clone.
func (c *chosen) point(ctx context.Context, p *replica.Point) (*drill.Subject, *drill.Digests, error) {
	c.slots <- struct{}{}
	defer func() { <-c.slots }()
	name := p.Manifest.Server
	c.progress(protect.Progress{Server: name, Phase: "check", Trail: c.trails.mark(name, "check")})
	defer func() { c.progress(protect.Progress{Server: name, Phase: "wait", Trail: c.trails.mark(name, "wait")}) }()
	facts, err := p.Facts()
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(c.work, string(name))
	if err := os.RemoveAll(dir); err != nil {
		return nil, nil, err
	}
	img, err := p.Clone(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	parts, err := adapt.PartitionsOf(img)
	if err != nil {
		return nil, nil, err
	}
	d := &drill.Digests{}
	if d.Point, err = p.Fingerprint(ctx); err != nil {
		return nil, nil, err
	}
	check := protect.CheckImage(ctx, p, img, nil)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	d.Outcome, d.Entries, d.Bytes, d.Skipped, d.Took = check.Outcome, check.Entries, check.Bytes, check.Skipped, check.Duration
	d.Unclear, d.Err = len(check.Unclear), check.Err
	for _, f := range check.Differences {
		d.Differences = append(d.Differences, f.Path+": "+f.Detail)
	}
	return &drill.Subject{Server: name, Point: p.ID, Disk: img.Disk, Partitions: parts, Facts: facts}, d, nil
}

// refuse puts on record, also beside the point, that it is not as it was made.
func (c *chosen) refuse(p *replica.Point, d *drill.Digests, older []*replica.Point) {
	res := drill.Result{Server: p.Manifest.Server, Point: p.ID, Outcome: dr.NotDone, Refused: true, Digests: d, Took: d.Took, Hint: before(p.Manifest.Server, older)}
	switch {
	case len(d.Differences) > 0:
		res.Cause = fmt.Sprintf("refused: the point is not as it was made: %s: %s", count(len(d.Differences), "difference"), few(d.Differences))
	default:
		res.Cause = "refused: the point cannot be read as it was made: " + d.Err
	}
	if err := p.SetProof(replica.Proof{Outcome: dr.NotDone, At: time.Now().UTC(), Cause: res.Cause}); err != nil {
		res.Notes = append(res.Notes, err.Error())
	}
	c.miss(res)
}

// few names the first of many.
func few(all []string) string {
	const most = 3
	text := strings.Join(all[:min(len(all), most)], "; ")
	if len(all) > most {
		text += fmt.Sprintf("; and %d more", len(all)-most)
	}
	return text
}

// settle puts the digests into the results, and whether points and replicas are as they
// were before the drill.
func (c *chosen) settle(ctx context.Context, results []drill.Result) {
	for i := range results {
		r := &results[i]
		d := c.digests[r.Server]
		if d == nil {
			continue
		}
		r.Digests, r.Phases.Check = d, d.Took
		d.Untouched, d.Replica = c.untouched(ctx, r)
	}
}

// untouched compares digests of a point and its replica with those before.
func (c *chosen) untouched(ctx context.Context, r *drill.Result) (point, whole drill.Check) {
	point, whole = drill.Check{Name: "point untouched"}, drill.Check{Name: "replica untouched"}
	rep, err := c.store.Replica(r.Server)
	if err != nil {
		point.Detail, whole.Detail = err.Error(), err.Error()
		return point, whole
	}
	points, _ := rep.Points() // damaged ones are told where points are listed
	p := protect.FindPoint(points, r.Point)
	if p == nil {
		point.Detail = "the point was removed meanwhile"
	} else if now, err := p.Fingerprint(ctx); err != nil {
		point.Detail = err.Error()
	} else if point.Outcome, point.Detail = dr.Done, "digest "+now[:16]+" before and after"; now != r.Digests.Point {
		point.Outcome, point.Detail = dr.NotDone, fmt.Sprintf("its digest was %s and is %s: something wrote to it", r.Digests.Point[:16], now[:16])
	}
	before := c.replicas[r.Server]
	now, err := rep.Fingerprint(ctx)
	switch {
	case err != nil || before == "":
		whole.Detail = "its digest could not be had"
	case now == before:
		whole.Outcome, whole.Detail = dr.Done, "digest "+now[:16]+" before and after"
	case !c.idle(r.Server, points, r.Point):
		whole.Detail = "a pass wrote to it meanwhile, as it may"
	default:
		whole.Outcome, whole.Detail = dr.NotDone, fmt.Sprintf("its digest was %s and is %s, and no pass wrote to it", before[:16], now[:16])
	}
	return point, whole
}

// idle reports whether nothing tells of a pass since the drill began: no newer point, and
// nobody who holds the replica now.
func (c *chosen) idle(name dr.ServerName, points []*replica.Point, drilled dr.PointID) bool {
	if len(points) == 0 || points[0].ID != drilled {
		return false
	}
	rep, err := c.store.Replica(name)
	if err != nil || rep.Lock() != nil {
		return false
	}
	return rep.Close() == nil
}
