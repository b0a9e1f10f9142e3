// Package replica keeps what lives at the target: for each server one sparse disk
// image with the source's own filesystems on it, mounted privately while a pass
// writes, and the recovery points, instant clones of that image with a manifest.
//
// A store is a directory on a filesystem that can share blocks between files:
//
//	servers/NAME/disk.raw      the replica: GPT, BIOS boot, ESP, filesystems
//	servers/NAME/layout.json   what lies where on it
//	servers/NAME/trees/N/      partition N where it is vfat: a plain tree
//	servers/NAME/state/        catalogs of the capture, cloned with each point
//	servers/NAME/points/ID/    a recovery point: the same, facts.json, and
//	                           manifest.json, written last
//	servers/NAME/points/ID/keep.json   pin and lock of the point, where it has any
//	servers/NAME/lock          held by who may write; names the holder
//	groups/NAME/points/ID/     a group's recovery point: manifest.json names the
//	                           points of its servers and watermarks of its databases
//	clock.json                 the time the store last saw
//	scratch/NAME/              throwaway clones
//
// A recovery point is complete or absent. Only the replica itself is ever torn.
package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// ErrSpace says that the store is too full to go on.
var ErrSpace = errors.New("store is out of space")

// Store is an open store. Its methods may be called concurrently.
type Store struct {
	dir  string // as configured
	root string // where the data is: dir, or the pool mounted in it
	pool string // the pool file, or ""
	low  int64  // free bytes below which nobody should write
}

// Open opens the store in the directory dir, which EnsurePool has made usable. It
// takes no lock: each replica has its own, see Replica.Lock.
func Open(ctx context.Context, dir string) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{dir: dir, root: dir}
	if err := s.findPool(); err != nil {
		return nil, err
	}
	ok, err := reflinks(s.root)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if !ok {
		err := fmt.Errorf("open store %s: its filesystem cannot share blocks between files", dir)
		return nil, dr.WithHint(err, "use XFS with reflink or btrfs, or let Leeward make a pool file there")
	}
	if err := os.MkdirAll(filepath.Join(s.root, "servers"), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, s.setLowWater()
}

// Close ends the use of the store. Replicas are closed on their own.
func (s *Store) Close() error { return nil }

// Dir returns the directory in which the store's data is: the store itself or
// the pool mounted in it.
func (s *Store) Dir() string { return s.root }

func (s *Store) findPool() error {
	pool := filepath.Join(s.dir, poolFile)
	if _, err := os.Stat(pool); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	at := filepath.Join(s.dir, poolMount)
	m, err := mountAt(at)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	if m == nil || m.fstype != "xfs" {
		return fmt.Errorf("open store: pool %s is not mounted on %s", pool, at)
	}
	s.root, s.pool = at, pool
	return nil
}

// setLowWater keeps a fiftieth of the store free, 1 GiB at most: the filesystems
// in the images flush, and write their journals, after a pass stopped writing.
func (s *Store) setLowWater() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return fmt.Errorf("measure store %s: %w", s.root, err)
	}
	s.low = min(1<<30, max(32*mebibyte, int64(st.Blocks)*st.Bsize/50))
	return nil
}

// Free returns how many bytes the store can still take: what is free in it and,
// where it is a pool file, beneath that file too, which is sparse.
func (s *Store) Free() (int64, error) {
	free, err := freeBytes(s.root)
	if err != nil || s.pool == "" {
		return free, err
	}
	beneath, err := freeBytes(s.dir)
	if err != nil {
		return 0, err
	}
	return min(free, beneath), nil
}

// Room returns how many bytes can be written before the store counts as low.
func (s *Store) Room() (int64, error) {
	free, err := s.Free()
	return max(0, free-s.low), err
}

// SpaceLow reports whether a pass should stop writing now, while the filesystems
// in the images can still be flushed whole. It is cheap enough for once a
// megabyte, but sees only what has reached the store: see Mounted.Reserve.
func (s *Store) SpaceLow() bool {
	free, err := s.Free()
	return err == nil && free < s.low
}

// Forecast tells whether a first pass onto a layout fits the store.
type Forecast struct {
	Need int64 // bytes the pass will add
	Free int64 // bytes the store can take before it counts as low
}

// Fits reports whether there is room.
func (f Forecast) Fits() bool { return f.Need <= f.Free }

// Forecast estimates what a pass onto layout l adds to the store, given what the
// replica of that server already holds.
func (s *Store) Forecast(l *Layout) (Forecast, error) {
	free, err := s.Free()
	if err != nil {
		return Forecast{}, err
	}
	have, err := allocated(filepath.Join(s.root, "servers", string(l.Server), diskFile))
	if err != nil {
		return Forecast{}, err
	}
	return Forecast{Need: max(0, l.need()-have), Free: max(0, free-s.low)}, nil
}

// Scratch makes the empty directory scratch/name for throwaway clones of points
// and returns its path. Remove the directory to be rid of them. A leftover of that
// name is removed first.
func (s *Store) Scratch(name string) (string, error) {
	if !dr.ValidName(name) {
		return "", fmt.Errorf("make scratch directory: %q is no valid name", name)
	}
	path := filepath.Join(s.root, "scratch", name)
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("make scratch directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("make scratch directory: %w", err)
	}
	return path, nil
}

// allocated returns the bytes that stand behind the sparse file path, 0 if it is
// not there.
func allocated(path string) (int64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("measure %s: %w", path, err)
	}
	return st.Blocks * 512, nil
}
