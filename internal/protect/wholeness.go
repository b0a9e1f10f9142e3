package protect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// wholeness compares a clone of a point with the point's catalogs and manifest.
type wholeness struct {
	point  *replica.Point
	check  *PointCheck
	meter  *meter                             // nil: nobody watches
	sample func(path string, size int64) bool // see tree.Check.Whole
	look   func(*replica.Mounted) error       // at what is mounted, once all is compared; may be nil
}

// SampleOver is how much content of a point CheckImage digests whole. Of a larger one it
// takes what a boot needs, and of the rest as many files by lot.
const SampleOver = 4 << 30

// bootPaths are those whose content is digested however large a point is.
var bootPaths = [...]string{"/boot/", "/etc/", "/usr/bin/", "/usr/sbin/", "/usr/lib/", "/lib/", "/bin/", "/sbin/"}

// CheckImage compares img, a clone of p that nobody has mounted, with what was noted when
// p was made: the catalogs by their digests, every entry, and the content of files, all
// of it where that is not more than SampleOver. look, which may be nil, is shown the mounted
// filesystems, read-only, when they are as noted. What cannot be told is Unknown, with an
// error; a filesystem that cannot be read as one is NotDone.
func CheckImage(ctx context.Context, p *replica.Point, img *replica.Image, look func(*replica.Mounted) error) PointCheck {
	started := time.Now()
	out := PointCheck{ID: p.ID}
	w := &wholeness{point: p, check: &out, look: look, sample: lot(p)}
	if err := w.image(ctx, img); err != nil {
		out.Outcome, out.Err = dr.Unknown, err.Error()
		if damaging(err) {
			out.Outcome = dr.NotDone
		}
	}
	out.Duration = time.Since(started)
	return out
}

// damaging reports whether err is of what the disk or a catalog holds.
func damaging(err error) bool {
	return tree.IsDamaged(err) || errors.Is(err, replica.ErrForeign) || errors.Is(err, unix.EUCLEAN) ||
		errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBADMSG)
}

// lot returns what picks the files whose content is digested, nil for all.
func lot(p *replica.Point) func(string, int64) bool {
	var all int64
	for _, f := range p.Manifest.Filesystems {
		all += f.Bytes
	}
	if all <= SampleOver {
		return nil
	}
	share := float64(SampleOver) / float64(all)
	var mu sync.Mutex // guards left
	left := int64(SampleOver)
	return func(path string, size int64) bool {
		for _, b := range bootPaths {
			if strings.HasPrefix(path, b) {
				return true
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if size > left || rand.Float64() > share {
			return false
		}
		left -= size
		return true
	}
}

func (w *wholeness) image(ctx context.Context, img *replica.Image) (err error) {
	m, err := img.Mount(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	ours, err := readAddedIn(w.point.StateDir())
	if err != nil {
		return err
	}
	for _, f := range w.point.Manifest.Filesystems {
		if err := w.filesystem(ctx, m, f, ours); err != nil {
			return fmt.Errorf("check %s: %w", f.MountPoint, err)
		}
	}
	switch {
	case len(w.check.Differences) > 0:
		w.check.Outcome = dr.NotDone
	case len(w.check.Unclear) > 0:
		w.check.Outcome = dr.Unknown
	default:
		w.check.Outcome = dr.Done
	}
	if w.look != nil && w.check.Outcome != dr.NotDone {
		return w.look(m)
	}
	return nil
}

func (w *wholeness) filesystem(ctx context.Context, m *replica.Mounted, f replica.FilesystemState, ours []added) error {
	root, err := tree.OpenRoot(m.Root(f.MountPoint))
	if err != nil {
		return err
	}
	defer unix.Close(root)
	check := &tree.Check{Catalog: filepath.Join(w.point.StateDir(), catalogFile(f.MountPoint)), Root: root}
	if w.sample != nil {
		check.Whole = func(name string, size int64) bool { return w.sample(path.Join(f.MountPoint, name), size) }
	}
	if w.meter != nil {
		shown := w.meter.filesystem("checking", f.MountPoint)
		check.Progress = func(entries, bytes int64) { shown.Examined.Store(entries); shown.Settled.Store(bytes) }
	}
	for _, a := range ours {
		if a.Filesystem == f.MountPoint {
			check.Ours = append(check.Ours, a.Path)
		}
	}
	res, err := check.Run(ctx)
	if err != nil {
		return err
	}
	out := w.check
	out.Entries += res.Entries
	out.Bytes += res.Bytes
	out.Skipped += res.Skipped
	if res.Sum.Digest != f.Digest {
		out.Differences = append(out.Differences, Difference{Path: f.MountPoint, Kind: "catalog", Detail: "its digest is not the one in the manifest"})
	}
	for _, d := range res.Differences {
		out.Differences = append(out.Differences, Difference{Path: quote(path.Join(f.MountPoint, d.Path)), Kind: d.Kinds[0], Detail: strings.Join(d.Kinds, ", ")})
	}
	for _, u := range res.Unclear {
		out.Unclear = append(out.Unclear, quote(path.Join(f.MountPoint, u)))
	}
	return nil
}
