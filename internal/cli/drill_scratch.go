package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/replica"
)

// scratchLock, in a drill's scratch directory, is locked while the drill runs. A number of
// a process would not do: another may have it.
const scratchLock = "lock"

// lockScratch locks the directory until the file is closed, or the process ends in any way.
func lockScratch(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, scratchLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock drill: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock drill: %w", err), f.Close())
	}
	return f, nil
}

// drillRuns reports whether the drill that has the scratch directory still runs.
func drillRuns(dir string) bool {
	f, err := os.Open(filepath.Join(dir, scratchLock))
	if errors.Is(err, os.ErrNotExist) {
		// Being made, being removed, or left by an older version, which has no locks.
		_, err := os.Stat(filepath.Join(dir, "machines"))
		return err != nil
	}
	if err != nil {
		return true
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

// removeDeadScratch removes what drills that were killed left behind, kept ones among
// them: their machines and network ended with them. What cannot be removed now is tried
// again by the next drill.
func removeDeadScratch(s *replica.Store) {
	dirs, _ := filepath.Glob(filepath.Join(s.Dir(), "scratch", "drill-*")) // the pattern is well formed
	for _, d := range dirs {
		if !drillRuns(d) {
			_ = os.RemoveAll(d)
		}
	}
}
