package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// fewest is how many of the newest points stay of each server and group when the
// default gives way for want of space.
const fewest = 3

func keepOf(k config.Keep) replica.Keep {
	return replica.Keep{Last: k.Last, Hourly: k.Hourly, Daily: k.Daily}
}

// RetentionOf says which points of a server stay. It gives is true where only the
// default says so, which gives way where space is short.
func RetentionOf(e *config.Estate, server dr.ServerName) (o replica.Retention, gives bool) {
	gives = true
	for _, k := range e.KeepsOf(server) {
		o.Keeps = append(o.Keeps, keepOf(k))
		gives = gives && !k.Given
	}
	return o, gives
}

// RetentionOfGroup is RetentionOf for the points of a group.
func RetentionOfGroup(e *config.Estate, g *config.Group) (o replica.Retention, gives bool) {
	k := e.KeepOf(g)
	return replica.Retention{Keeps: []replica.Keep{keepOf(k)}}, !k.Given
}

// retain removes the points that keep: does not keep, of what the run was of: groups
// first, for they need those of their members. What could not be removed is a warning:
// no point is worse for it.
func (r *run) retain(ctx context.Context, res *RunResult, spare dr.PointID) {
	for i := range res.Groups {
		g := &res.Groups[i]
		group := r.group(g.Group)
		o, _ := RetentionOfGroup(r.Estate, group)
		o.Spare = spare
		removed, err := r.store.RetainGroup(ctx, g.Group, o)
		g.Removed = append(g.Removed, removed...)
		res.warn(err)
	}
	res.warn(r.retainFormer(ctx))
	for i := range res.Servers {
		if s := &res.Servers[i]; s.Outcome == dr.Done && !s.unpinned {
			o, _ := RetentionOf(r.Estate, s.Server)
			o.Spare = spare
			res.warn(r.retainServer(s, o))
		}
	}
	res.warn(r.makeRoom(ctx, res, spare))
}

// retainFormer removes points of groups that the estate names no more: they stay no
// longer than the points of their servers would without them.
func (r *run) retainFormer(ctx context.Context) error {
	names, err := FormerGroups(r.store, r.Estate)
	if err != nil || len(names) == 0 {
		return err
	}
	stay := map[string]bool{} // by server/id
	for _, s := range r.Estate.Servers {
		rep, err := r.store.Replica(s.Name)
		if err != nil {
			return err
		}
		points, _ := rep.Points() // damaged ones are told where points are listed
		var ids []dr.PointID
		for _, p := range points {
			ids = append(ids, p.ID)
		}
		o, _ := RetentionOf(r.Estate, s.Name)
		for id := range o.Chosen(ids) {
			stay[string(s.Name)+"/"+string(id)] = true
		}
	}
	for _, name := range names {
		o := replica.Retention{Only: map[dr.PointID]bool{}}
		points, _ := r.store.GroupPoints(name)
		for _, g := range points {
			for i := range g.Manifest.Servers {
				if stay[r.store.MemberPlace(&g.Manifest.Servers[i]).String()] {
					o.Only[g.ID] = true
				}
			}
		}
		_, groupErr := r.store.RetainGroup(ctx, name, o)
		err = errors.Join(err, groupErr)
	}
	return err
}

// FormerGroups returns the groups that the store has points of and the estate does not
// name.
func FormerGroups(store *replica.Store, e *config.Estate) (out []string, err error) {
	names, err := store.GroupNames()
	for _, name := range names {
		if !slices.ContainsFunc(e.RecoveryGroups(), func(g config.Group) bool { return g.Name == name }) {
			out = append(out, name)
		}
	}
	return out, err
}

// warn adds an error that left everything as good as before.
func (r *RunResult) warn(err error) {
	if err != nil {
		r.Findings = append(r.Findings, Finding{Warning, err.Error(), hintOf(err)})
	}
}

func (r *run) group(name string) *config.Group {
	groups := r.Estate.RecoveryGroups()
	i := slices.IndexFunc(groups, func(g config.Group) bool { return g.Name == name })
	if i < 0 {
		return &config.Group{Name: name}
	}
	return &groups[i]
}

func (r *run) retainServer(s *ServerRun, o replica.Retention) (err error) {
	rep, err := r.store.Replica(s.Server)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.Close()) }()
	removed, err := rep.Retain(o)
	s.Removed = append(s.Removed, removed...)
	return err
}

// makeRoom removes the oldest points before their time, as long as the next pass may
// not find room, or one has failed for want of it. What the user has asked to keep
// stays.
func (r *run) makeRoom(ctx context.Context, res *RunResult, spare dr.PointID) error {
	space, err := measureSpace(r.store, r.Estate, serversOf(res))
	if err != nil {
		return err
	}
	room, err := r.store.Room()
	want := space.Next
	if slices.ContainsFunc(res.Servers, func(s ServerRun) bool { return s.full }) {
		// How much it lacks nobody knows: more each time, until it is enough.
		want = max(2*space.Next, 2*room, leastRoom)
	}
	if err != nil || room >= want {
		return err
	}
	before := room
	var gone []dr.PointID
	for _, id := range r.thinnable(space) {
		removed, err := r.thin(ctx, res, replica.Retention{Since: id + "~", Least: fewest, Spare: spare})
		if err != nil {
			return err
		}
		if removed == 0 {
			continue
		}
		gone = append(gone, id)
		if room, err = r.settledRoom(ctx, want); err != nil || room >= want {
			break
		}
	}
	text := fmt.Sprintf("space in the store is short: %d MiB can be written, the next pass may want %d MiB", before>>20, want>>20)
	if len(gone) > 0 {
		text = fmt.Sprintf("space in the store was short: recovery points up to %s are removed before their time", gone[len(gone)-1])
	}
	res.Findings = append(res.Findings, Finding{Warning, text, "make the store larger, or say with keep: how many recovery points are to stay"})
	return nil
}

// leastRoom is what a pass that failed for want of space finds at the least.
const leastRoom = 256 << 20

// serversOf returns the servers whose points may be looked at: those of passes that are
// done, or had no room.
func serversOf(res *RunResult) (out []dr.ServerName) {
	for _, s := range res.Servers {
		if s.Outcome == dr.Done || s.full {
			out = append(out, s.Server)
		}
	}
	return out
}

// thinnable returns the ids of points that may go before their time, oldest first.
func (r *run) thinnable(space *PointSpace) (ids []dr.PointID) {
	for _, s := range space.Servers {
		if _, gives := RetentionOf(r.Estate, s.Server); !gives {
			continue
		}
		for i, p := range s.Points {
			if i >= fewest && !slices.Contains(ids, p.ID) {
				ids = append(ids, p.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// thin applies o, which says what is to go, to all that gives way.
func (r *run) thin(ctx context.Context, res *RunResult, o replica.Retention) (removed int, err error) {
	for i := range res.Groups {
		g := &res.Groups[i]
		keep, gives := RetentionOfGroup(r.Estate, r.group(g.Group))
		if !gives {
			continue
		}
		o.Keeps = keep.Keeps
		gone, err := r.store.RetainGroup(ctx, g.Group, o)
		g.Removed = append(g.Removed, gone...)
		if err != nil {
			return removed, err
		}
	}
	for i := range res.Servers {
		s := &res.Servers[i]
		keep, gives := RetentionOf(r.Estate, s.Server)
		if !gives || s.Outcome != dr.Done && !s.full || s.unpinned {
			continue
		}
		o.Keeps = keep.Keeps
		before := len(s.Removed)
		err := r.retainServer(s, o)
		removed += len(s.Removed) - before
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// settledRoom waits a moment for what was removed to be free: filesystems give it back
// by and by.
func (r *run) settledRoom(ctx context.Context, want int64) (room int64, err error) {
	for range 20 {
		if room, err = r.store.Room(); err != nil || room >= want {
			return room, err
		}
		select {
		case <-ctx.Done():
			return room, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
	return room, nil
}

// PointSpace says what recovery points take, and will take.
type PointSpace struct {
	Servers []ServerSpace `json:"servers"`
	Held    int64         `json:"held"`          // by all points together, beside the replicas
	Full    int64         `json:"full"`          // estimate of the same once keep: is in full use; of the servers that are known
	Bound   bool          `json:"full_is_bound"` // Full is rather too much: no points of that age are known
	Next    int64         `json:"next"`          // estimate of what the next pass of all adds
	Room    int64         `json:"room"`          // that can be written
	// Unknown are servers with fewer than two points, of which there is no estimate.
	Unknown []dr.ServerName `json:"unknown,omitempty"`
}

// Short is how many bytes will be missing once keep: is in full use, 0 for none.
func (p *PointSpace) Short() int64 { return max(0, p.Full-p.Held-p.Room) }

// ServerSpace is what the points of one server take.
type ServerSpace struct {
	Server dr.ServerName    `json:"server"`
	Held   int64            `json:"held"`
	Full   int64            `json:"full"`
	Known  bool             `json:"known"` // Full is an estimate, not nothing
	Bound  bool             `json:"full_is_bound"`
	Points []*replica.Point `json:"-"` // newest first
	Costs  []replica.Cost   `json:"-"` // of each
}

// MeasureSpace says what the points of the named servers take.
func MeasureSpace(ctx context.Context, e *config.Estate, names []dr.ServerName) (_ *PointSpace, err error) {
	store, err := replica.Open(ctx, e.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return measureSpace(store, e, names)
}

func measureSpace(store *replica.Store, e *config.Estate, names []dr.ServerName) (_ *PointSpace, err error) {
	p := &PointSpace{Servers: make([]ServerSpace, len(names))}
	if p.Room, err = store.Room(); err != nil {
		return nil, err
	}
	errs := make([]error, len(names))
	next := make([]int64, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { next[i], errs[i] = p.Servers[i].measure(store, e, name) })
	}
	wg.Wait()
	for i, s := range p.Servers {
		p.Held += s.Held
		p.Full += s.Full
		p.Bound = p.Bound || s.Bound
		p.Next += next[i]
		if !s.Known {
			p.Unknown = append(p.Unknown, s.Server)
		}
	}
	return p, errors.Join(errs...)
}

// measure looks at the points of one server. next is what the newest of them let expect
// of the next pass.
func (s *ServerSpace) measure(store *replica.Store, e *config.Estate, name dr.ServerName) (next int64, err error) {
	s.Server = name
	rep, err := store.Replica(name)
	if err != nil {
		return 0, err
	}
	s.Points, _ = rep.Points() // damaged ones are told where points are listed
	if s.Costs, err = rep.Costs(s.Points); err != nil {
		return 0, fmt.Errorf("measure recovery points of %s: %w", name, err)
	}
	for _, c := range s.Costs {
		s.Held += c.Held
	}
	growth, err := rep.GrowthOf(s.Points, s.Costs)
	if err != nil || growth == nil {
		return 0, err
	}
	s.Known = true
	for _, k := range e.KeepsOf(name) {
		if full, bound := growth.Forecast(keepOf(k)); full > s.Full {
			s.Full, s.Bound = full, bound
		}
	}
	for _, x := range growth.Samples[:min(3, len(growth.Samples))] {
		next = max(next, x.Held)
	}
	return next, nil
}

// spaceFinding warns where keep: will need more than there is.
func spaceFinding(e *config.Estate, p *PointSpace) (f Finding, short bool) {
	if p.Short() == 0 {
		return f, false
	}
	about := "about"
	if p.Bound {
		about = "at most"
	}
	text := fmt.Sprintf("recovery points hold %d MiB and will want %s %d MiB once keep: is in full use; %d MiB can be written",
		p.Held>>20, about, p.Full>>20, p.Room>>20)
	var bound []string
	for _, s := range p.Servers {
		if _, gives := RetentionOf(e, s.Server); !gives {
			bound = append(bound, string(s.Server))
		}
	}
	if len(bound) == 0 {
		return Finding{Warning, text + ": older ones may have to go before their time", "make the store larger, or write a smaller keep:"}, true
	}
	return Finding{Warning, text + ": keep: is to the letter for " + strings.Join(bound, ", ") + ", whose passes may then fail for want of space", "make the store larger, or write a smaller keep:"}, true
}
