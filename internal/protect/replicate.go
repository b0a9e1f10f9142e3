package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/tree"
)

// Patience is how long a pass waits for a source or a link that went away before
// it gives up; what it has carried by then is kept.
const Patience = 15 * time.Minute

// run is one call of Replicate: what its servers share.
type run struct {
	Options
	store   *replica.Store
	bin     *remote.Binary
	index   *chunk.Index
	sources *tree.Sources
	seeds   *seeds
	ended   map[string]time.Time // when the pass of each database was over
}

// Replicate makes one pass over each named server and database, all at once, and
// leaves a recovery point of each server and of each group that is done whole. All
// bear the time at which the run began. Points that keep: does not keep are removed at
// the end. The process must be in a mount namespace of its own and the store's pool in
// place. Errors of single servers are in the result; an error
// returned means that nothing was begun.
func Replicate(ctx context.Context, o Options) (_ *RunResult, err error) {
	started := time.Now()
	store, err := replica.Open(ctx, o.Estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	r := &run{Options: o, store: store, bin: &remote.Binary{}, index: chunk.NewIndex(), sources: tree.NewSources()}
	defer r.index.Close()
	names := o.names()
	if r.seeds, err = r.openSeeds(ctx); err != nil {
		return nil, err
	}
	defer r.seeds.close()
	databases := o.databases()
	res := &RunResult{Servers: make([]ServerRun, len(names)), Databases: make([]DatabaseRun, len(databases))}
	var wg sync.WaitGroup
	ended := make([]time.Time, len(databases))
	for i, db := range databases {
		wg.Go(func() {
			res.Databases[i] = o.replicateRows(ctx, db, store.Dir())
			ended[i] = time.Now()
		})
	}
	for i, name := range names {
		wg.Go(func() {
			p := &serverPass{run: r, server: o.Estate.Server(name), started: started}
			res.Servers[i] = p.do(ctx)
		})
	}
	wg.Wait()
	r.ended = map[string]time.Time{}
	for i, db := range databases {
		r.ended[db.Name] = ended[i]
	}
	if ctx.Err() == nil {
		res.Groups = r.groupPoints(ctx, started, res)
		r.retain(ctx, res, dr.NewPointID(started))
	}
	res.Duration = time.Since(started)
	return res, ctx.Err()
}

// names returns the servers to work on.
func (o *Options) names() []dr.ServerName {
	if len(o.Names)+len(o.Databases) > 0 {
		return o.Names
	}
	var out []dr.ServerName
	for _, s := range o.Estate.Servers {
		out = append(out, s.Name)
	}
	return out
}

// databases returns the databases to work on.
func (o *Options) databases() (out []*config.Database) {
	for i := range o.Estate.Databases {
		db := &o.Estate.Databases[i]
		if len(o.Names)+len(o.Databases) == 0 || slices.Contains(o.Databases, db.Name) {
			out = append(out, db)
		}
	}
	return out
}

// serverPass is the pass of one server.
type serverPass struct {
	*run
	server  *config.Server
	started time.Time
	replica *replica.Replica
	mounted *replica.Mounted
	live    map[string]string // filesystems whose snapshots did not last, and why
	first   bool              // the replica is new
	result  ServerRun
	states  map[string]*replica.FilesystemState
	content map[string]content // of each filesystem, over all attempts

	meter meter
}

func (p *serverPass) do(ctx context.Context) ServerRun {
	p.result.Server = p.server.Name
	p.meter.begin(p.Options.Progress, p.server.Name)
	err := p.pass(ctx)
	p.result.Duration = time.Since(p.started)
	p.result.Traffic = p.meter.traffic()
	if err != nil {
		p.result.Outcome = dr.NotDone
		p.result.full = errors.Is(err, replica.ErrSpace)
		p.result.Err = err.Error()
		p.result.Hint = hintOf(err)
	} else {
		p.result.Outcome = dr.Done
	}
	p.meter.end(err)
	return p.result
}

func hintOf(err error) string {
	var h *dr.Hinted
	if errors.As(err, &h) {
		return h.Hint
	}
	return ""
}

func (p *serverPass) pass(ctx context.Context) (err error) {
	if p.replica, err = p.store.Replica(p.server.Name); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.replica.Close()) }()
	if err := p.replica.Lock(); err != nil {
		return err
	}
	var src *source
	lastDone := time.Now()
	policy := retry.Policy{First: 2 * time.Second, Max: 30 * time.Second,
		Temporary: func(err error) bool {
			return errors.Is(err, dr.ErrTemporary) && time.Since(lastDone) < Patience && (p.mounted != nil || time.Since(p.started) < time.Minute)
		},
		Notify: func(err error, in time.Duration) {
			p.meter.note(fmt.Sprintf("waiting: %v; next try in %v", err, in.Round(time.Second)))
		}}
	err = policy.Do(ctx, func(ctx context.Context) error {
		if src != nil {
			src.close()
		}
		before := p.meter.moved()
		src, err = p.attempt(ctx)
		if p.meter.moved() > before {
			lastDone = time.Now()
		}
		return err
	})
	if src != nil {
		defer src.close()
	}
	if p.mounted != nil {
		defer func() {
			for _, part := range p.mounted.Layout().Partitions {
				p.sources.Remove(treeName(p.server.Name, part.MountPoint)) // or it could not be unmounted
			}
			err = errors.Join(err, p.mounted.Close())
		}()
	}
	if err != nil {
		return err
	}
	return p.point(ctx, src)
}

// attempt reaches the source and carries everything once. The source is returned
// also with an error, where it was reached.
func (p *serverPass) attempt(ctx context.Context) (*source, error) {
	p.meter.phase("connecting")
	src, err := reach(ctx, p.server, p.bin)
	if err != nil {
		return nil, err
	}
	p.meter.watch(src)
	p.result.Warnings = src.warnings()
	if err := p.prepare(ctx, src); err != nil {
		return src, err
	}
	if err := src.widen(ctx, p.bin, p.first); err != nil {
		return src, err
	}
	return src, src.explain(ctx, p.carryAll(ctx, src))
}

// carryAll carries the source's filesystems. Where a snapshot does not last until it
// is read, all is carried once more with that filesystem live: what is in place by
// then costs next to nothing, and databases are treated anew.
func (p *serverPass) carryAll(ctx context.Context, src *source) error {
	for {
		for at, why := range p.live {
			p.warn(fmt.Sprintf("%s: %s: this pass takes it live", at, why))
		}
		src.live = p.live
		err := p.carry(ctx, src)
		var lost *snapshotLost
		if !errors.As(err, &lost) || p.live[lost.mountPoint] != "" || ctx.Err() != nil {
			return err
		}
		if p.live == nil {
			p.live = map[string]string{}
		}
		p.live[lost.mountPoint] = lost.why
	}
}

// prepare has the replica's disk ready and mounted.
func (p *serverPass) prepare(ctx context.Context, src *source) error {
	if p.mounted != nil {
		return nil
	}
	p.meter.phase("preparing")
	layout, err := replica.PlanLayout(src.facts, replica.LayoutOptions{Server: p.server.Name})
	if err != nil {
		return err
	}
	if fc, err := p.store.Forecast(layout); err != nil {
		return err
	} else if _, err := p.replica.Layout(); err != nil && !fc.Fits() {
		return dr.WithHint(fmt.Errorf("prepare replica of %s: it needs about %d MiB, the store has %d MiB free", p.server.Name, fc.Need>>20, fc.Free>>20),
			"make room in the store, or exclude what need not be carried")
	}
	change, err := p.replica.Prepare(ctx, layout)
	if err != nil {
		return err
	}
	p.result.Warnings = append(p.result.Warnings, change.Notes...)
	p.first = change.Created
	if p.mounted, err = p.replica.Mount(ctx); err != nil || change.Empty() {
		return err
	}
	return attach(p.index, p.replica, p.mounted.Layout())
}

// carry opens the source's filesystems and brings each replica up to them.
func (p *serverPass) carry(ctx context.Context, src *source) error {
	p.meter.phase("opening")
	if err := src.open(ctx, nil); err != nil {
		return err
	}
	backups, err := p.quiesce(ctx, src)
	if err != nil {
		return err
	}
	defer func() {
		for _, b := range backups {
			b.abort()
		}
	}()
	if err := p.dropAdded(); err != nil {
		return err
	}
	p.states = map[string]*replica.FilesystemState{}
	p.result.Fuzzy = nil
	for _, at := range src.order() {
		if err := p.filesystem(ctx, src, at, nil); err != nil {
			return err
		}
	}
	for _, b := range backups {
		if err := b.finish(ctx, p, src); err != nil {
			return err
		}
	}
	return nil
}

// quiesce decides about each running database, leaves out what must not be copied
// and starts backup modes.
func (p *serverPass) quiesce(ctx context.Context, src *source) ([]*pgBackup, error) {
	var exclude []string
	var backups []*pgBackup
	for _, d := range src.facts.Databases {
		consistency := dr.Fuzzy
		if o := src.opened[d.Filesystem]; o != nil {
			consistency = dr.Consistency(o.Consistency)
		}
		t := treat(d, consistency)
		exclude = append(exclude, t.exclude...)
		if len(t.exclude) > 0 || t.plan.Advice != "" {
			p.warn(fmt.Sprintf("%s: %s", d.Engine, t.plan.Decision))
		}
		if t.backup {
			backups = append(backups, &pgBackup{db: d})
		}
	}
	if len(exclude) > 0 {
		if err := src.open(ctx, exclude); err != nil {
			return nil, err
		}
	}
	for i, b := range backups {
		p.meter.phase("starting backup mode")
		if err := b.begin(ctx, src); err != nil {
			for _, b := range backups[:i] {
				b.abort()
			}
			return nil, err
		}
	}
	return backups, nil
}

func (p *serverPass) warn(text string) {
	if !slices.Contains(p.result.Warnings, text) {
		p.result.Warnings = append(p.result.Warnings, text)
	}
}

// version is what manifests name as their maker.
func version() string { return agent.Version() }
