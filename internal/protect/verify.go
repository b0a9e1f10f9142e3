package protect

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// Volatile are the paths that a running system changes all the time: where source
// and replica differ there, verify says so, but not that the replica is wrong.
// Patterns are as those of exclude:.
var Volatile = []string{
	"/var/log/**",
	"/var/lib/systemd/timers/**",
	"/var/lib/systemd/timesync/**",
	"/var/lib/systemd/catalog/**",
	"/var/lib/logrotate/**",
	"/var/lib/dhcp/**",
	"/var/cache/**",
	"/var/tmp/**",
	"/tmp/**",
	"/run/**",
	"/etc/adjtime",
	"/root/.bash_history",
}

// Verify compares each named server with its replica and each named database with its
// copy, whole. Like Replicate it
// needs a mount namespace of its own.
func Verify(ctx context.Context, o Options) (_ *VerifyResult, err error) {
	started := time.Now()
	store, err := replica.Open(ctx, o.Estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	res := &VerifyResult{Patterns: slices.Concat(Volatile, o.Estate.Volatile)}
	volatile, err := newPatterns(res.Patterns)
	if err != nil {
		return nil, err
	}
	names := o.names()
	res.Servers = make([]ServerVerify, len(names))
	bin := &remote.Binary{}
	databases := o.databases()
	res.Databases = make([]DatabaseVerify, len(databases))
	var wg sync.WaitGroup
	for i, db := range databases {
		wg.Go(func() { res.Databases[i] = o.verifyRows(ctx, db, store.Dir()) })
	}
	for i, name := range names {
		wg.Go(func() {
			v := &verification{server: o.Estate.Server(name), store: store, bin: bin, volatile: volatile}
			res.Servers[i] = v.do(ctx, o.Progress)
		})
	}
	wg.Wait()
	res.Duration = time.Since(started)
	return res, ctx.Err()
}

type verification struct {
	server   *config.Server
	store    *replica.Store
	bin      *remote.Binary
	volatile *patterns
	meter    meter
	result   ServerVerify
}

func (v *verification) do(ctx context.Context, show func(Progress)) ServerVerify {
	started := time.Now()
	v.result.Server = v.server.Name
	v.meter.begin(show, v.server.Name)
	err := v.compare(ctx)
	v.result.Duration = time.Since(started)
	switch {
	case err != nil:
		v.result.Outcome = dr.Unknown // what was not compared is not known
		v.result.Err, v.result.Hint = err.Error(), hintOf(err)
	case len(v.result.Differences) > 0:
		v.result.Outcome = dr.NotDone
	default:
		v.result.Outcome = dr.Done
	}
	v.meter.end(err)
	return v.result
}

func (v *verification) compare(ctx context.Context) (err error) {
	rep, err := v.store.Replica(v.server.Name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rep.Close()) }()
	points, _ := rep.Points() // damaged points are the business of points
	if len(points) == 0 {
		return dr.WithHint(fmt.Errorf("verify %s: it has no recovery point yet", v.server.Name), "run leeward replicate first")
	}
	v.meter.phase("connecting")
	src, err := reach(ctx, v.server, v.bin)
	if err != nil {
		return err
	}
	defer src.close()
	v.meter.watch(src)
	m, err := rep.Mount(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := v.open(ctx, src); err != nil {
		return err
	}
	ours, err := readAdded(rep)
	if err != nil {
		return err
	}
	since := points[0].Manifest.Started.Add(src.client.ClockSkew())
	for _, f := range src.facts.Filesystems {
		if err := v.filesystem(ctx, src, rep, m, f.MountPoint, since, ours); err != nil {
			return src.explain(ctx, err)
		}
	}
	return nil
}

// open shows the source as the passes see it: without what they leave out.
func (v *verification) open(ctx context.Context, src *source) error {
	if err := src.open(ctx, nil); err != nil {
		return err
	}
	var exclude []string
	for _, d := range src.facts.Databases {
		if o := src.opened[d.Filesystem]; o != nil {
			exclude = append(exclude, treat(d, dr.Consistency(o.Consistency)).exclude...)
		}
	}
	if len(exclude) == 0 {
		return nil
	}
	return src.open(ctx, exclude)
}

func (v *verification) filesystem(ctx context.Context, src *source, rep *replica.Replica, m *replica.Mounted, mountPoint string, since time.Time, ours []added) (err error) {
	dir := m.Root(mountPoint)
	if dir == "" {
		return fmt.Errorf("replica of %s has no filesystem %s: it is new at the source; run leeward replicate", v.server.Name, mountPoint)
	}
	root, err := tree.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	cat, err := tree.OpenCatalog(catalogPath(rep, mountPoint))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cat.Close()) }()
	shown := v.meter.filesystem("comparing", mountPoint)
	c := &tree.Comparison{Conn: src.client.Conn(), Filesystem: mountPoint, Root: root, Catalog: cat, Excludes: src.exclude[mountPoint], Since: since,
		Progress: func(entries, bytes int64) { shown.Examined.Store(entries); shown.Settled.Store(bytes) }}
	res, err := c.Run(ctx)
	if err != nil {
		return err
	}
	if len(res.Problems) > 0 {
		return fmt.Errorf("compare %s of %s: %d entries could not be read, the first is %q: %s", mountPoint, v.server.Name, len(res.Problems), res.Problems[0].Path, res.Problems[0].Text)
	}
	if f := src.filesystem(mountPoint); f.Type == "btrfs" {
		marks, err := tree.CompareSubvolumes(root, f.Subvolumes)
		if err != nil {
			return err
		}
		res.Differences = append(res.Differences, marks...)
	}
	v.result.Entries += res.Entries
	v.result.Bytes += res.Bytes
	for _, d := range res.Differences {
		v.sort(src, mountPoint, d, ours)
	}
	return nil
}

// sort puts a difference where it belongs.
func (v *verification) sort(src *source, mountPoint string, d tree.Difference, ours []added) {
	full := path.Join(mountPoint, d.Path)
	out := Difference{Path: quote(full), Kind: d.Kinds[0], Detail: strings.Join(d.Kinds, ", ")}
	switch {
	case slices.Contains(ours, added{mountPoint, d.Path}):
		return // the pass put it there, on record
	case d.Newer:
		v.result.Newer = append(v.result.Newer, out)
	case v.volatile.match(systemPath(src, mountPoint, d.Path)):
		v.result.Volatile = append(v.result.Volatile, out)
	default:
		v.result.Differences = append(v.result.Differences, out)
	}
}

// systemPath returns the path that the system itself knows an entry by.
func systemPath(src *source, mountPoint, rel string) string {
	for _, f := range src.facts.Filesystems {
		if f.MountPoint != mountPoint {
			continue
		}
		for _, m := range f.Mounts {
			if rest, ok := strings.CutPrefix("/"+rel, strings.TrimSuffix(m.Root, "/")); ok && (rest == "" || rest[0] == '/') {
				return path.Join(m.MountPoint, rest)
			}
		}
	}
	return path.Join(mountPoint, rel)
}

// quote makes a path of any bytes safe to show.
func quote(p string) string {
	if q := strconv.Quote(p); q != `"`+p+`"` {
		return q
	}
	return p
}

// patterns matches paths of the whole system.
type patterns struct{ ex *tree.Excludes }

func newPatterns(list []string) (*patterns, error) {
	ex, err := tree.NewExcludes(list)
	if err != nil {
		return nil, fmt.Errorf("volatile: %w", err)
	}
	return &patterns{ex}, nil
}

// match reports whether the path or a directory above it is covered.
func (p *patterns) match(full string) bool { return p.ex.Covers(strings.TrimPrefix(full, "/")) }
