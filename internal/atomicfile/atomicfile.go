// Package atomicfile writes files so that, whatever happens, a reader finds the
// old content or the new and never a part: written aside, synced, renamed over,
// and the directory synced.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces the content of path with data. The new content is durable when
// Write returns nil; on an error the old content, if any, is untouched. Callers
// that write one path concurrently each win or lose whole.
func Write(path string, data []byte, perm os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), remove(f.Name()))
		}
	}()
	if err := fill(f, data, perm); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return Rename(f.Name(), path)
}

// Rename moves oldPath to newPath, replacing what is there, and makes that
// durable. The content of oldPath must have been synced before. Both must lie on
// one filesystem.
func Rename(oldPath, newPath string) error {
	if err := os.Rename(oldPath, newPath); err != nil {
		return err
	}
	dir := filepath.Dir(newPath)
	if from := filepath.Dir(oldPath); from != dir {
		if err := SyncDir(from); err != nil {
			return err
		}
	}
	return SyncDir(dir)
}

// SyncDir makes the names in the directory path durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(fmt.Errorf("sync directory %s: %w", path, err), d.Close())
	}
	return d.Close()
}

func fill(f *os.File, data []byte, perm os.FileMode) error {
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
