package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	showVersion = 1
	showPrefix  = "mount-"
	showFile    = "mount.json"
	showClone   = "clone"
)

// Shown is a recovery point that is mounted for copying files out. It is recorded
// beside the clone that is mounted.
type Shown struct {
	Version int           `json:"version"`
	Server  dr.ServerName `json:"server"`
	Point   dr.PointID    `json:"point"`
	Dir     string        `json:"dir"`
	Made    bool          `json:"made,omitempty"` // the directory was made for it
	At      time.Time     `json:"at"`
	Mounts  []ShownMount  `json:"mounts"`
	// Missing are mounts of the source that cannot be shown in their place, and why.
	Missing []string `json:"missing,omitempty"`

	work string // directory of the record and the clone
}

// ShownMount is one of its mounts.
type ShownMount struct {
	Path       string `json:"path"`       // below Dir
	Filesystem string `json:"filesystem"` // as the layout names it
	Root       string `json:"root"`       // what of it
}

// Show mounts a clone of the point at the directory dir, each filesystem where the
// source had it, for reading only. The mounts are made in the mount namespace of the
// caller and outlive it; Unshow ends them. dir is made where it is not there, and must
// be empty. The point can be removed meanwhile without harm to what is shown.
func (s *Store) Show(ctx context.Context, p *Point, dir string) (_ *Shown, err error) {
	v := &Shown{Version: showVersion, Server: p.Manifest.Server, Point: p.ID, At: time.Now().UTC()}
	defer func() {
		if err != nil {
			err = fmt.Errorf("mount recovery point %s of %s: %w", p.ID, p.Manifest.Server, err)
		}
	}()
	s.sweepShown()
	if v.Dir, err = s.freeDir(dir); err != nil {
		return nil, err
	}
	scratch := filepath.Join(s.root, "scratch")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	if v.work, err = os.MkdirTemp(scratch, showPrefix); err != nil {
		return nil, err
	}
	lock, err := lockFile(filepath.Join(v.work, "lock"), "mount of "+v.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lock.release()) }()
	if err := os.Mkdir(v.Dir, 0o700); err == nil {
		v.Made = true
	} else if !errors.Is(err, os.ErrExist) {
		return nil, errors.Join(err, os.RemoveAll(v.work))
	}
	if err := v.mount(ctx, p); err != nil {
		return nil, errors.Join(err, v.undo())
	}
	return v, v.record()
}

// freeDir returns the absolute path of an empty directory, or of one that can be made.
func (s *Store) freeDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", err
	} else if up, err := filepath.EvalSymlinks(filepath.Dir(abs)); err != nil {
		return "", err
	} else {
		abs = filepath.Join(up, filepath.Base(abs))
	}
	if within(abs, s.dir) || within(abs, s.root) || abs == "/" {
		return "", dr.WithHint(fmt.Errorf("%s is in the store", abs), "name a directory elsewhere, such as /mnt/point")
	}
	if m, err := mountAt(abs); err != nil || m != nil {
		return "", errors.Join(err, dr.WithHint(fmt.Errorf("something is mounted on %s already", abs), "name another directory, or: leeward points umount "+abs))
	}
	entries, err := os.ReadDir(abs)
	if errors.Is(err, os.ErrNotExist) {
		return abs, nil
	}
	if err != nil {
		return "", err
	}
	if len(entries) > 0 {
		return "", dr.WithHint(fmt.Errorf("%s is not empty", abs), "name an empty directory, or one that is not there yet")
	}
	return abs, nil
}

// mount clones the point and mounts all of it. What it will mount is recorded before.
func (v *Shown) mount(ctx context.Context, p *Point) error {
	img, err := p.Clone(ctx, filepath.Join(v.work, showClone))
	if err != nil {
		return err
	}
	facts, err := p.Facts()
	if err != nil {
		return err
	}
	v.Mounts = plannedMounts(img.Layout, facts, v.Dir)
	if len(v.Mounts) == 0 || v.Mounts[0].Path != v.Dir {
		return errors.New("its layout has no root filesystem")
	}
	if err := v.record(); err != nil {
		return err
	}
	dirs, release, err := img.mountHidden(ctx, filepath.Join(v.work, "fs"))
	if err != nil {
		return err
	}
	var done []ShownMount
	for _, m := range v.Mounts {
		if err = v.bind(m, dirs[m.Filesystem]); err == nil {
			done = append(done, m)
			continue
		}
		if m.Path == v.Dir || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) {
			break
		}
		// The point has no directory to mount it on, or a link where there was one.
		v.Missing = append(v.Missing, fmt.Sprintf("%s: %v", strings.TrimPrefix(m.Path, v.Dir), err))
		err = nil
	}
	if err == nil {
		v.Mounts = done
	}
	return errors.Join(err, release())
}

// plannedMounts returns what was mounted where at the source, below dir, parents first.
func plannedMounts(l *Layout, f *agentpb.Facts, dir string) (out []ShownMount) {
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.MountPoint == "" || p.Gone || p.Kind == Swap || p.Kind == BIOSBoot {
			continue
		}
		mounts := []*agentpb.Mount{{MountPoint: p.MountPoint, Root: "/"}}
		for _, fs := range f.GetFilesystems() {
			if fs.GetMountPoint() == p.MountPoint && len(fs.GetMounts()) > 0 {
				mounts = fs.GetMounts()
			}
		}
		for _, m := range mounts {
			// Facts come from the source: what is no clean path becomes one.
			out = append(out, ShownMount{filepath.Join(dir, path.Clean("/"+m.GetMountPoint())), p.MountPoint, path.Clean("/" + m.GetRoot())})
		}
	}
	slices.SortStableFunc(out, func(a, b ShownMount) int {
		return strings.Count(a.Path, "/") - strings.Count(b.Path, "/")
	})
	// At the top the root directory itself is the only one that counts.
	slices.SortStableFunc(out, func(a, b ShownMount) int { return boolOrder(a.Path == dir) - boolOrder(b.Path == dir) })
	return out
}

func boolOrder(first bool) int {
	if first {
		return 0
	}
	return 1
}

// mountHidden mounts each filesystem of the image below at, which nobody else can
// enter, and returns their directories. release unmounts them; what was bound from
// them stays.
func (i *Image) mountHidden(ctx context.Context, at string) (dirs map[string]string, release func() error, err error) {
	var parts []*mountedPart
	release = func() error {
		var errs []error
		for _, m := range parts {
			errs = append(errs, m.unmount())
		}
		return errors.Join(errs...)
	}
	dirs = map[string]string{}
	for n := range i.Layout.Partitions {
		p := &i.Layout.Partitions[n]
		switch {
		case p.MountPoint == "" || p.Gone || p.Kind == Swap || p.Kind == BIOSBoot:
			continue
		case p.Tree:
			dirs[p.MountPoint], err = i.Tree(p)
		default:
			var m *mountedPart
			if m, err = mountPart(i.Disk, p, filepath.Join(at, strconv.Itoa(p.Number)), true); err == nil {
				parts = append(parts, m)
				dirs[p.MountPoint] = m.dir
				// Otherwise what is mounted on the place it is bound to is mounted here, too.
				err = unix.Mount("none", m.dir, "", unix.MS_PRIVATE, "")
			}
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return nil, nil, errors.Join(err, release())
		}
	}
	return dirs, release, nil
}

// bind shows a part of the filesystem in from at its place. Neither path may lead
// through a link: it could lead out of the point.
func (v *Shown) bind(m ShownMount, from string) error {
	src, err := openBeneath(from, m.Root)
	if err != nil {
		return fmt.Errorf("open %s of %s: %w", m.Root, m.Filesystem, err)
	}
	defer unix.Close(src)
	at, err := openBeneath(v.Dir, strings.TrimPrefix(m.Path, v.Dir))
	if err != nil {
		return fmt.Errorf("open the directory it was mounted on: %w", err)
	}
	defer unix.Close(at)
	place := fmt.Sprintf("/proc/self/fd/%d", at)
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", src), place, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s: %w", m.Path, err)
	}
	// By its path, for the descriptor is of what is beneath.
	if err := unix.Mount("none", m.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|mountFlags, ""); err != nil {
		return fmt.Errorf("mount %s for reading only: %w", m.Path, err)
	}
	return nil
}

// openBeneath opens the directory that rel names within dir, through no link.
func openBeneath(dir, rel string) (int, error) {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if rel = strings.Trim(rel, "/"); rel == "" {
		return top, nil
	}
	defer unix.Close(top)
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	return unix.Openat2(top, rel, how)
}

func (v *Shown) record() error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("record mount: %w", err)
	}
	return atomicfile.Write(filepath.Join(v.work, showFile), append(b, '\n'), 0o600)
}

// undo unmounts what there is and removes the clone.
func (v *Shown) undo() error {
	var places []string
	for _, m := range slices.Backward(v.Mounts) {
		places = append(places, m.Path)
	}
	hidden, _ := filepath.Glob(filepath.Join(v.work, "fs", "*")) // of a Show that was cut short
	for _, at := range append(places, hidden...) {
		if err := v.unmount(at); err != nil {
			return err
		}
	}
	err := os.RemoveAll(v.work)
	if v.Made {
		if gone := os.Remove(v.Dir); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}

// unmount takes all mounts of this record off a path. Somebody else's are left alone.
func (v *Shown) unmount(at string) error {
	for try := 0; ; try++ {
		m, err := mountAt(at)
		if err != nil || m == nil || !v.owns(m) {
			return err
		}
		err = unix.Unmount(at, unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EBUSY) && try < 10:
			time.Sleep(100 * time.Millisecond)
		case errors.Is(err, unix.EBUSY):
			return dr.WithHint(fmt.Errorf("unmount %s: %w", at, err), "a program or a shell is in there, or something is mounted below it: fuser -vm "+at+" names it; leave or end it and run the same command again")
		case err != nil:
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
}

// owns reports whether a mount is of the record's clone.
func (v *Shown) owns(m *mount) bool {
	if strings.Contains(m.root, "/"+filepath.Base(v.work)+"/"+showClone+"/"+treesDir+"/") {
		return true
	}
	var disk unix.Stat_t
	if err := unix.Stat(filepath.Join(v.work, showClone, diskFile), &disk); err != nil {
		return false
	}
	same, err := loopShows(m.source, &disk)
	return err == nil && same
}

// Shown returns what is mounted by Show, by its directory.
func (s *Store) Shown() (out []*Shown, err error) {
	works, err := filepath.Glob(filepath.Join(s.root, "scratch", showPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, w := range works {
		b, err := os.ReadFile(filepath.Join(w, showFile))
		v := &Shown{work: w}
		if err != nil || json.Unmarshal(b, v) != nil || v.Version != showVersion {
			continue // being made, or cut short
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *Shown) int { return strings.Compare(a.Dir, b.Dir) })
	return out, nil
}

// Unshow ends what Show mounted at dir. It can be repeated where a program kept it from
// ending.
func (s *Store) Unshow(dir string) (*Shown, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("unmount recovery point: %w", err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	all, err := s.Shown()
	if err != nil {
		return nil, fmt.Errorf("unmount recovery point: %w", err)
	}
	for _, v := range all {
		if v.Dir == abs {
			if err := v.undo(); err != nil {
				return nil, fmt.Errorf("unmount recovery point %s of %s: %w", v.Point, v.Server, err)
			}
			return v, nil
		}
	}
	var have []string
	for _, v := range all {
		have = append(have, v.Dir)
	}
	err = fmt.Errorf("unmount recovery point: none is mounted on %s", abs)
	if len(have) == 0 {
		return nil, err
	}
	return nil, dr.WithHint(err, "mounted are: "+strings.Join(have, ", "))
}

// sweepShown removes clones of mounts that are no more, as after a restart of this host.
// What cannot be removed now is tried again the next time.
func (s *Store) sweepShown() {
	works, _ := filepath.Glob(filepath.Join(s.root, "scratch", showPrefix+"*"))
	for _, w := range works {
		f, err := os.Open(filepath.Join(w, "lock"))
		if err != nil {
			continue // it was begun a moment ago
		}
		busy := flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil
		dev, err := findLoop(filepath.Join(w, showClone, diskFile))
		if !busy && err == nil && dev == "" {
			_ = os.RemoveAll(w)
		}
		f.Close()
	}
}
