package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	stateDir  = "state"
	treesDir  = "trees"
	pointsDir = "points"
	mountsDir = "mnt"
	newSuffix = ".new"

	loopPatience = 15 * time.Second
)

// Replica is the copy of one server in a store, with its recovery points. Points
// may be read without a lock. What writes (Prepare, Mount, MakePoint) takes the
// replica's lock first, which Close releases.
type Replica struct {
	store *Store
	name  dr.ServerName
	dir   string

	mu   sync.Mutex // guards lock
	lock *fileLock
}

// Replica returns the replica of the server name, which may be new.
func (s *Store) Replica(name dr.ServerName) (*Replica, error) {
	if !dr.ValidName(string(name)) {
		return nil, fmt.Errorf("open replica: %q is no valid server name", name)
	}
	r := &Replica{store: s, name: name, dir: filepath.Join(s.root, "servers", string(name))}
	for _, d := range []string{r.dir, r.path(stateDir), r.path(treesDir), r.path(pointsDir), r.path(mountsDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open replica of %s: %w", name, err)
		}
	}
	return r, nil
}

// Name returns the server's name.
func (r *Replica) Name() dr.ServerName { return r.name }

// Dir returns the replica's directory in the store.
func (r *Replica) Dir() string { return r.dir }

// StateDir returns the directory for the catalogs that the capture keeps beside
// the disk. It is cloned with each point: what is in it must be closed, or at
// rest, while MakePoint runs. It holds directories, regular files and symbolic
// links only.
func (r *Replica) StateDir() string { return r.path(stateDir) }

// Disk returns the path of the replica's disk image.
func (r *Replica) Disk() string { return r.path(diskFile) }

// Layout returns what lies where on the replica's disk; an error that is
// os.ErrNotExist means that Prepare never ran.
func (r *Replica) Layout() (*Layout, error) { return readLayout(r.path(layoutFile)) }

// Lock takes the sole right to write this replica, at once or not at all: an error
// that is ErrLocked names the process that has it. It ends with Close or with the
// process. Lock then clears what an earlier process left half done. Calling it
// again does nothing.
func (r *Replica) Lock() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lock != nil {
		return nil
	}
	l, err := lockFile(r.path("lock"), "replica of "+string(r.name))
	if err != nil {
		return err
	}
	if err := waitLoopGone(r.Disk(), loopPatience); err != nil {
		return errors.Join(fmt.Errorf("lock replica of %s: %w", r.name, err), l.release())
	}
	if err := r.recover(); err != nil {
		return errors.Join(fmt.Errorf("recover replica of %s: %w", r.name, err), l.release())
	}
	r.lock = l
	return nil
}

// Close releases the lock if it is held.
func (r *Replica) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lock == nil {
		return nil
	}
	err := r.lock.release()
	r.lock = nil
	return err
}

// recover ends what a process that was cut short had begun. Points count under
// their own names only.
func (r *Replica) recover() error {
	if err := r.recoverDisk(); err != nil {
		return err
	}
	return sweepDir(r.path(pointsDir))
}

// recoverDisk ends a change of the disk, which counts once layout.json.new is
// there, see commit.
func (r *Replica) recoverDisk() error {
	pending, err := exists(r.path(layoutFile + newSuffix))
	if err != nil {
		return err
	}
	if pending {
		if err := r.rollForward(); err != nil {
			return err
		}
	}
	return removeFile(r.path(diskFile + newSuffix))
}

// commit makes disk.raw.new, complete and synced, the replica's disk with layout
// l. Writing layout.json.new is the point of no return.
func (r *Replica) commit(l *Layout) error {
	if err := l.write(r.path(layoutFile + newSuffix)); err != nil {
		return err
	}
	return r.rollForward()
}

func (r *Replica) rollForward() error {
	fresh, err := exists(r.path(diskFile + newSuffix))
	if err != nil {
		return err
	}
	if fresh {
		if err := atomicfile.Rename(r.path(diskFile+newSuffix), r.path(diskFile)); err != nil {
			return err
		}
	}
	return atomicfile.Rename(r.path(layoutFile+newSuffix), r.path(layoutFile))
}

// Prepare makes the replica's disk as want says, or checks that the one it has
// still fits the source. Nothing is mounted meanwhile. The disk is changed on a
// clone, so a cut leaves it as it was or as it shall be.
func (r *Replica) Prepare(ctx context.Context, want *Layout) (Change, error) {
	if err := r.Lock(); err != nil {
		return Change{}, err
	}
	if err := r.recoverDisk(); err != nil { // an attempt of this process that failed
		return Change{}, fmt.Errorf("recover replica of %s: %w", r.name, err)
	}
	have, err := r.Layout()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return r.create(ctx, want)
	case err != nil:
		return Change{}, fmt.Errorf("prepare replica of %s: %w", r.name, err)
	}
	c, err := r.change(ctx, have, want)
	if err != nil {
		return c, fmt.Errorf("prepare replica of %s: %w", r.name, err)
	}
	return c, nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
