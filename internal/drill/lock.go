package drill

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	workPrefix = ".drill-"
	lockName   = "lock"
	// A directory this young may not have got its lock yet.
	youngest = time.Minute
)

// makeWorkDir makes a directory for one subject that no other drill sweeps away
// until the returned lock is closed.
func makeWorkDir(in, name string) (dir string, lock *os.File, err error) {
	dir, err = os.MkdirTemp(in, workPrefix+name+"-")
	if err != nil {
		return "", nil, err
	}
	lock, err = os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, err
	}
	return dir, lock, nil
}

// sweep removes what killed drills left in the directory: their clones can be
// large. Those whose drill still runs hold their lock.
func sweep(in string, now time.Time) error {
	dirs, err := filepath.Glob(filepath.Join(in, workPrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			continue
		}
		lock, err := os.Open(filepath.Join(dir, lockName))
		if err == nil {
			err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			lock.Close()
			if err != nil {
				continue
			}
		} else if now.Sub(st.ModTime()) < youngest {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove what a killed drill left: %w", err)
		}
	}
	return nil
}
