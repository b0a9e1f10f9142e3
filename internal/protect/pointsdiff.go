package protect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// mostChanges is how many single changes a comparison of points names.
const mostChanges = 10_000

// PointsDiff is what differs between two recovery points, of each server that has both.
type PointsDiff struct {
	From    dr.PointID   `json:"from"`
	To      dr.PointID   `json:"to"`
	Servers []ServerDiff `json:"servers"`
}

// ServerDiff is what differs between two points of one server. Outcome is Done where
// all filesystems were compared, whatever was found.
type ServerDiff struct {
	Server      dr.ServerName    `json:"server"`
	Outcome     dr.Outcome       `json:"outcome"`
	From        dr.PointID       `json:"from"`
	To          dr.PointID       `json:"to"`
	Filesystems []FilesystemDiff `json:"filesystems"`
	Changes     []FileChange     `json:"changes"`        // the largest first
	More        int              `json:"more,omitempty"` // that are not listed
	Err         string           `json:"error,omitempty"`
	Hint        string           `json:"hint,omitempty"`
}

// FilesystemDiff sums up one filesystem. State is new or gone where only one of the
// points has it; nothing is counted then.
type FilesystemDiff struct {
	MountPoint string `json:"mount_point"`
	State      string `json:"state,omitempty"`
	tree.CatalogChanges
}

// FileChange is one entry that is not the same.
type FileChange struct {
	Path   string          `json:"path"` // as the system knew it, see replica.EscapePath
	Kind   tree.ChangeKind `json:"kind"`
	Dir    bool            `json:"dir,omitempty"`
	Before int64           `json:"before"` // size
	After  int64           `json:"after"`
}

// Size is what the change is of, in bytes.
func (c *FileChange) Size() int64 { return max(c.Before, c.After) }

// DiffPoints compares the points from and to of each named server by their catalogs. No
// disk is read. Either may be NewestPoint. A server without both is passed over, unless
// none has both.
func DiffPoints(ctx context.Context, o Options, from, to dr.PointID) (_ *PointsDiff, err error) {
	store, err := replica.Open(ctx, o.Estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	res := &PointsDiff{From: from, To: to}
	var pairs [][2]*replica.Point
	for _, name := range o.names() {
		rep, err := store.Replica(name)
		if err != nil {
			return nil, err
		}
		points, _ := rep.Points() // a damaged one cannot be compared, and is told where points are listed
		a, b := FindPoint(points, from), FindPoint(points, to)
		if a == nil || b == nil {
			continue
		}
		pairs = append(pairs, [2]*replica.Point{a, b})
		res.Servers = append(res.Servers, ServerDiff{Server: name, From: a.ID, To: b.ID})
	}
	if len(pairs) == 0 {
		return nil, dr.WithHint(fmt.Errorf("compare recovery points: no server has both %s and %s", from, to), "leeward points lists them")
	}
	var wg sync.WaitGroup
	for i, pair := range pairs {
		wg.Go(func() { res.Servers[i].compare(ctx, pair[0], pair[1]) })
	}
	wg.Wait()
	return res, ctx.Err()
}

// FindPoint returns the point of that id, or the first where it is NewestPoint; nil
// where there is none.
func FindPoint(points []*replica.Point, id dr.PointID) *replica.Point {
	for _, p := range points {
		if p.ID == id || id == NewestPoint {
			return p
		}
	}
	return nil
}

func (d *ServerDiff) compare(ctx context.Context, from, to *replica.Point) {
	err := d.filesystems(ctx, from, to)
	d.cut()
	d.Outcome = dr.Done
	if err != nil {
		d.Outcome, d.Err, d.Hint = dr.NotDone, err.Error(), hintOf(err)
	}
}

func (d *ServerDiff) filesystems(ctx context.Context, from, to *replica.Point) error {
	for _, p := range []*replica.Point{from, to} {
		release, err := p.Hold()
		if err != nil {
			return err
		}
		defer release()
	}
	facts, err := to.Facts()
	if err != nil {
		return err
	}
	src := &source{facts: facts}
	for _, f := range to.Manifest.Filesystems {
		sum := FilesystemDiff{MountPoint: f.MountPoint}
		before, after := filepath.Join(from.StateDir(), catalogFile(f.MountPoint)), filepath.Join(to.StateDir(), catalogFile(f.MountPoint))
		_, err := os.Stat(before)
		switch {
		case findFilesystem(from.Manifest, f.MountPoint) == nil:
			sum.State = "new"
		case err != nil:
			return fmt.Errorf("compare %s: %w", f.MountPoint, err)
		default:
			sum.CatalogChanges, err = tree.CatalogDifferences(ctx, before, after, func(c tree.EntryChange) error {
				d.note(FileChange{Path: replica.EscapePath(systemPath(src, f.MountPoint, c.Path)), Kind: c.Kind, Dir: c.Dir, Before: c.Before, After: c.After})
				return nil
			})
			if err != nil {
				return fmt.Errorf("compare %s: %w", f.MountPoint, err)
			}
		}
		d.Filesystems = append(d.Filesystems, sum)
	}
	for _, f := range from.Manifest.Filesystems {
		if findFilesystem(to.Manifest, f.MountPoint) == nil {
			d.Filesystems = append(d.Filesystems, FilesystemDiff{MountPoint: f.MountPoint, State: "gone"})
		}
	}
	return nil
}

// note keeps a change, and lets the smallest go now and then.
func (d *ServerDiff) note(c FileChange) {
	if d.Changes = append(d.Changes, c); len(d.Changes) >= 2*mostChanges {
		d.cut()
	}
}

// cut sorts the changes, the largest first, and leaves as many as are listed.
func (d *ServerDiff) cut() {
	slices.SortFunc(d.Changes, func(a, b FileChange) int {
		return cmp.Or(cmp.Compare(b.Size(), a.Size()), strings.Compare(a.Path, b.Path))
	})
	if n := len(d.Changes) - mostChanges; n > 0 {
		d.More += n
		d.Changes = d.Changes[:mostChanges]
	}
}
