package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// treeName names a server's filesystem in the chunk index.
func treeName(server dr.ServerName, mountPoint string) string {
	return string(server) + ":" + mountPoint
}

// fileName makes a mount point part of a file's name, and back.
func fileName(mountPoint string) string {
	if mountPoint == "/" {
		return "root"
	}
	return "root" + strings.ReplaceAll(strings.ReplaceAll(mountPoint, "%", "%25"), "/", "%2F")
}

func catalogPath(r *replica.Replica, mountPoint string) string {
	return filepath.Join(r.StateDir(), catalogFile(mountPoint))
}

// catalogFile is the name of a filesystem's catalog in the state.
func catalogFile(mountPoint string) string { return "catalog-" + fileName(mountPoint) + ".db" }

// indexDir lies beside the state, not in it: points need no index.
func indexDir(r *replica.Replica, mountPoint string) string {
	return filepath.Join(r.Dir(), "index", fileName(mountPoint))
}

// filesystem brings one filesystem up to date; only limits it to some directories.
func (p *serverPass) filesystem(ctx context.Context, src *source, mountPoint string, only []string) (err error) {
	dir := p.mounted.Root(mountPoint)
	if dir == "" {
		return fmt.Errorf("replica of %s has no filesystem %s", p.server.Name, mountPoint)
	}
	root, err := tree.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	f := src.filesystem(mountPoint)
	pass := tree.Pass{Conns: src.usable(mountPoint), Filesystem: mountPoint, Root: root, Btrfs: f.Type == "btrfs",
		Index: p.index, Tree: treeName(p.server.Name, mountPoint), Sources: p.sources, Only: only,
		Space: p.mounted.Reserve, Progress: p.meter.filesystem("copying", mountPoint)}
	if pass.Btrfs {
		if err := tree.UnlockSubvolumes(root); err != nil {
			return err
		}
	}
	res, sum, err := p.passTwice(ctx, &pass, catalogPath(p.replica, mountPoint))
	p.count(mountPoint, pass.Progress)
	if lost := src.settle(ctx, mountPoint, err); lost != nil {
		return lost
	}
	if errors.Is(err, tree.ErrNoSpace) || errors.Is(err, replica.ErrSpace) {
		return dr.WithHint(fmt.Errorf("carry %s of %s: %w", mountPoint, p.server.Name, err),
			"make room at the target and run replicate again: it goes on where it stopped, and no recovery point is harmed")
	}
	if err == nil && pass.Btrfs {
		err = tree.MarkSubvolumes(root, f.Subvolumes)
	}
	if err != nil {
		return err
	}
	return p.record(src, mountPoint, pass.Only, sum, res)
}

// count adds what crossed the wire of a filesystem, also in an attempt that failed.
func (p *serverPass) count(mountPoint string, done *tree.Progress) {
	if p.content == nil {
		p.content = map[string]content{}
	}
	c := p.content[mountPoint]
	p.content[mountPoint] = content{c.sent + done.Sent.Load(), c.stiff + done.Stiff.Load()}
}

// passTwice runs a pass as described, and once more where what it failed of is gone
// with its end: a full stage, a damaged catalog.
func (p *serverPass) passTwice(ctx context.Context, pass *tree.Pass, path string) (res *tree.Result, sum tree.CatalogSum, err error) {
	for try := range 2 {
		res, sum, err = p.passOnce(ctx, pass, path)
		if err == nil || try > 0 || ctx.Err() != nil {
			break
		}
		switch {
		case errors.Is(err, tree.ErrDamaged):
			if asideErr := tree.SetAside(path); asideErr != nil {
				return res, sum, errors.Join(err, asideErr)
			}
			p.warnDamaged(pass.Filesystem)
			pass.Only = nil
		case errors.Is(err, tree.ErrNoSpace) && hasRoom(pass.Root):
			p.meter.note(pass.Filesystem + " was full of replaced content, which is gone now: once more")
		default:
			return res, sum, err
		}
	}
	return res, sum, err
}

func (p *serverPass) warnDamaged(mountPoint string) {
	p.warn(fmt.Sprintf("the catalog of %s was damaged and is made anew: this pass compared everything", mountPoint))
}

// passOnce runs one pass of its own as described, with the catalog at path.
func (p *serverPass) passOnce(ctx context.Context, described *tree.Pass, path string) (res *tree.Result, sum tree.CatalogSum, err error) {
	cat, replaced, err := tree.OpenOrReplaceCatalog(path)
	if err != nil {
		return nil, sum, err
	}
	defer func() { err = errors.Join(err, cat.Close()) }()
	if replaced {
		p.warnDamaged(described.Filesystem)
	}
	d := described
	pass := &tree.Pass{Conns: d.Conns, Filesystem: d.Filesystem, Root: d.Root, Btrfs: d.Btrfs, Catalog: cat, Index: d.Index,
		Tree: d.Tree, Sources: d.Sources, Only: d.Only, Space: d.Space, Progress: d.Progress}
	if res, err = pass.Run(ctx); err == nil {
		sum, err = cat.Sum()
	}
	return res, sum, err
}

// enoughRoom is how much of a full filesystem must be free again, in bytes, for
// another attempt to be worth it.
const enoughRoom = 16 << 20

func hasRoom(root int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(root, &st) == nil && int64(st.Bavail)*st.Bsize >= enoughRoom
}

// record notes what the manifest tells of a filesystem.
func (p *serverPass) record(src *source, mountPoint string, only []string, sum tree.CatalogSum, res *tree.Result) error {
	if p.states[mountPoint] == nil || only == nil {
		p.states[mountPoint] = &replica.FilesystemState{MountPoint: mountPoint}
	}
	o := src.opened[mountPoint]
	st := p.states[mountPoint]
	st.Digest, st.Entries, st.Bytes = sum.Digest, sum.Entries, sum.Bytes
	st.Consistency, st.How, st.At = dr.Consistency(o.Consistency), o.How, time.Unix(0, o.AtUnixNano).UTC()
	f := src.filesystem(mountPoint)
	st.Type, st.UUID = f.Type, f.Uuid
	for _, f := range res.Fuzzy {
		path := replica.EscapePath(filepath.Join(mountPoint, f))
		st.Fuzzy = append(st.Fuzzy, path)
		p.result.Fuzzy = append(p.result.Fuzzy, path)
	}
	if n := len(res.Problems); n > 0 {
		first := res.Problems[0]
		return fmt.Errorf("carry %s of %s: %d entries could not be copied, the first is %q: %s", mountPoint, p.server.Name, n, first.Path, first.Text)
	}
	return nil
}

// point leaves a recovery point of what was carried.
func (p *serverPass) point(ctx context.Context, src *source) error {
	p.meter.phase("making the recovery point")
	m := &replica.Manifest{ID: dr.NewPointID(p.started), Started: p.started.UTC(), Finished: time.Now().UTC(),
		Consistency: dr.Application, Traffic: p.meter.traffic(), Leeward: version(), Facts: src.facts}
	for _, f := range src.facts.Filesystems {
		st := p.states[f.MountPoint]
		m.Filesystems = append(m.Filesystems, *st)
		if st.Consistency.Weaker(m.Consistency) {
			m.Consistency = st.Consistency
		}
	}
	points, _ := p.replica.Points() // damaged ones are the business of points
	p.compareWith(ctx, points, m)
	point, err := p.replica.MakePoint(ctx, p.mounted, m)
	if point != nil {
		p.result.Point, p.result.made = point.ID, point
	}
	return err
}

// compareWith has m tell how the pass differs from those before it. Where that is
// unusual, the last good points are pinned before anything else is done. What goes
// wrong here spoils no point.
func (p *serverPass) compareWith(ctx context.Context, points []*replica.Point, m *replica.Manifest) {
	if len(points) == 0 {
		return
	}
	m.Server = p.server.Name
	if err := p.changes(ctx, points[0], m); err != nil {
		p.warn(fmt.Sprintf("whether the changes of this pass are usual is not known: %v", err))
		return
	}
	if len(m.Anomalies) == 0 {
		return
	}
	p.result.Anomalies = m.Anomalies
	pinned, err := p.pinLastGood(ctx, m, points)
	for _, place := range pinned {
		p.result.Pinned = append(p.result.Pinned, place.String())
	}
	if err != nil {
		p.result.unpinned = true
		p.warn(fmt.Sprintf("the last good recovery points could not be pinned, so none is removed: %v", err))
	}
}

// removeAll is os.RemoveAll for directories of ours that may be gone already.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}
