package protect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// Plan looks at each named server and at the store, and says what a pass would do
// and what stands in its way. It changes nothing but that the agent is installed.
func Plan(ctx context.Context, o Options) (_ *PlanResult, err error) {
	store, err := replica.Open(ctx, o.Estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	names := o.names()
	res := &PlanResult{Servers: make([]ServerPlan, len(names)), Target: TargetSpace{Store: o.Estate.Target.Store}, Deadline: o.Estate.Deadline}
	if res.Target.Free, err = store.Free(); err != nil {
		return nil, err
	}
	planners := make([]*planner, len(names))
	defer func() {
		for _, p := range planners {
			p.close()
		}
	}()
	databases := o.databases()
	res.Rows = make([]RowsPlan, len(databases))
	bin := &remote.Binary{}
	var wg sync.WaitGroup
	for i, db := range databases {
		wg.Go(func() { res.Rows[i] = o.planRows(ctx, db, store.Dir()) })
	}
	for i, name := range names {
		p := &planner{server: o.Estate.Server(name), store: store, bin: bin, plan: &res.Servers[i]}
		planners[i] = p
		wg.Go(func() { p.do(ctx, o.Estate, o.Progress) })
	}
	wg.Wait()
	for _, p := range planners {
		res.Bytes += p.plan.Bytes
		res.Target.Need += p.need
	}
	if res.Target.Need > res.Target.Free {
		res.Findings = append(res.Findings, Finding{Blocker,
			fmt.Sprintf("the store %s has %d MiB free and needs about %d MiB", res.Target.Store, res.Target.Free>>20, res.Target.Need>>20),
			"make room there, or leave out servers or directories"})
	}
	res.foresee(o.Estate, planners)
	if err := res.addPoints(store, o.Estate, names); err != nil {
		return nil, err
	}
	if err := res.outlook(ctx, o.Estate, store, planners); err != nil {
		return nil, err
	}
	return res, ctx.Err()
}

// addPoints tells what recovery points take, and will take.
func (r *PlanResult) addPoints(store *replica.Store, e *config.Estate, names []dr.ServerName) (err error) {
	if len(names) == 0 {
		return nil
	}
	if r.Points, err = measureSpace(store, e, names); err != nil {
		return err
	}
	if f, short := spaceFinding(e, r.Points); short {
		r.Findings = append(r.Findings, f)
	}
	return nil
}

type planner struct {
	server *config.Server
	store  *replica.Store
	bin    *remote.Binary
	plan   *ServerPlan
	need   int64
	meter  meter

	src     *source // nil where it is not reached
	past    []int64 // bytes on the wire of passes after the first, the newest last
	known   bool    // it has a replica
	samples []*tree.Sample
	entry   inventory.Entry // what it is; without an inventory where that is not known
}

func (p *planner) do(ctx context.Context, e *config.Estate, show func(Progress)) {
	p.plan.Server = p.server.Name
	p.meter.begin(show, p.server.Name)
	p.meter.phase("connecting")
	err := p.look(ctx)
	if err != nil {
		p.plan.Err, p.plan.Hint = err.Error(), hintOf(err)
		p.plan.Findings = append(p.plan.Findings, Finding{Blocker, p.plan.Err, p.plan.Hint})
		p.close()
		p.meter.end(err)
		return
	}
	p.discovered(ctx, e)
	p.meter.phase("looked at")
}

func (p *planner) close() {
	if p != nil && p.src != nil {
		p.src.close()
		p.src = nil
	}
}

func (p *planner) look(ctx context.Context) error {
	src, err := reach(ctx, p.server, p.bin)
	if err != nil {
		return err
	}
	p.src, p.plan.Reachable = src, true
	f := src.facts
	p.plan.System = systemOf(f)
	for _, fs := range f.Filesystems {
		p.plan.Filesystems = append(p.plan.Filesystems, FilesystemPlan{MountPoint: fs.MountPoint, Type: fs.Type,
			Size: int64(fs.SizeBytes), Used: int64(fs.UsedBytes), Inodes: int64(fs.InodesUsed), Capture: captureOf(fs)})
		p.plan.Bytes += int64(fs.UsedBytes)
	}
	for _, s := range f.Skipped {
		p.plan.Excluded = append(p.plan.Excluded, Exclusion{s.MountPoint, s.Reason})
		if s.Stored {
			p.plan.Findings = append(p.plan.Findings, Finding{Warning, fmt.Sprintf("%s is not carried: %s", s.MountPoint, s.Reason),
				"protect it by other means, zfs send for ZFS, or move it to ext4, XFS or btrfs"})
		}
	}
	for _, x := range src.patterns(nil) {
		p.plan.Excluded = append(p.plan.Excluded, Exclusion{x, p.reasonOf(x)})
	}
	for _, fs := range f.Filesystems {
		for _, path := range src.keptSnapshots(fs) {
			p.plan.Excluded = append(p.plan.Excluded, Exclusion{quote(systemPath(src, fs.MountPoint, path)),
				"a snapshot kept of another subvolume; include_excluded: with its path carries it, at its full size"})
		}
	}
	p.plan.Excluded = append(p.plan.Excluded, Exclusion{"lost+found at the top of each filesystem", "made by mkfs at the target"})
	p.databases(f)
	for _, w := range src.warnings() {
		p.plan.Findings = append(p.plan.Findings, Finding{Warning, w, ""})
	}
	if !f.Host.Root {
		p.plan.Findings = append(p.plan.Findings, Finding{Blocker, "the agent is not root there: it cannot read all files", "use user: root, or let the user use sudo without a password"})
	}
	return p.target(f)
}

// reasonOf says who leaves a pattern out.
func (p *planner) reasonOf(pattern string) string {
	if slices.Contains(p.server.Exclude, pattern) {
		return "exclude: says so"
	}
	return "never carried: of use to one running system only"
}

func systemOf(f *agentpb.Facts) string {
	firmware := "BIOS"
	if f.Uefi {
		firmware = "UEFI"
	}
	name := f.Os.GetPrettyName()
	if name == "" {
		name = "Linux"
	}
	return fmt.Sprintf("%s, kernel %s, %s, %d CPUs, %d MiB", name, f.Kernel, firmware, f.Cpus, f.MemoryBytes>>20)
}

func (p *planner) databases(f *agentpb.Facts) {
	for _, d := range f.Databases {
		t := treat(d, snapshotExpected(f, d))
		p.plan.Databases = append(p.plan.Databases, t.plan)
		if len(t.exclude) > 0 {
			p.plan.Findings = append(p.plan.Findings, Finding{Warning, fmt.Sprintf("%s in %s is %s", d.Engine, d.DataDir, t.plan.Decision), t.plan.Advice})
		}
	}
}

// target checks what the replica needs here.
func (p *planner) target(f *agentpb.Facts) error {
	layout, err := replica.PlanLayout(f, replica.LayoutOptions{Server: p.server.Name})
	if err != nil {
		return err
	}
	rep, err := p.store.Replica(p.server.Name)
	if err != nil {
		return err
	}
	if _, err := rep.Layout(); err == nil {
		p.known = true
		return p.history(rep)
	}
	fc, err := p.store.Forecast(layout)
	if err != nil {
		return err
	}
	p.need = fc.Need
	return nil
}
