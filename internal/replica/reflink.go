package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/atomicfile"
)

// cloneFile makes dst, which must not exist, share all data of src, and syncs it.
// Both lie on one filesystem that can share blocks between files.
func cloneFile(src, dst string) (err error) {
	from, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer from.Close()
	st, err := from.Stat()
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	to, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, st.Mode().Perm())
	if err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err != nil {
		return fmt.Errorf("clone %s to %s: %w", src, dst, err)
	}
	if err := to.Sync(); err != nil {
		return fmt.Errorf("clone %s to %s: %w", src, dst, err)
	}
	return nil
}

// reflinks reports whether the filesystem of directory dir can clone files, by
// cloning one.
func reflinks(dir string) (bool, error) {
	probe, err := os.MkdirTemp(dir, ".probe-")
	if err != nil {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	defer os.RemoveAll(probe)
	a := filepath.Join(probe, "a")
	if err := os.WriteFile(a, make([]byte, 64<<10), 0o600); err != nil {
		return false, fmt.Errorf("probe %s: %w", dir, err)
	}
	err = cloneFile(a, filepath.Join(probe, "b"))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTTY):
		return false, nil
	}
	return false, fmt.Errorf("probe %s: %w", dir, err)
}

// cloneTree makes dst, which must not exist, a copy of the tree src that shares
// its file data. It carries names, modes, owners and modification times of
// directories, regular files and symbolic links, and refuses anything else. The
// copy is durable when cloneTree returns nil.
func cloneTree(ctx context.Context, src, dst string) error {
	if err := os.Mkdir(dst, 0o700); err != nil {
		return fmt.Errorf("clone tree: %w", err)
	}
	entries, err := os.ReadDir(src)
	if err != nil {
		return fmt.Errorf("clone tree: %w", err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		from, to := filepath.Join(src, e.Name()), filepath.Join(dst, e.Name())
		if e.IsDir() {
			err = cloneTree(ctx, from, to)
		} else {
			err = cloneEntry(from, to)
		}
		if err != nil {
			return err
		}
	}
	// Last, because adding entries would move the directory's times.
	if err := copyAttributes(src, dst); err != nil {
		return err
	}
	return atomicfile.SyncDir(dst)
}

func cloneEntry(src, dst string) error {
	st, err := os.Lstat(src)
	if err != nil {
		return fmt.Errorf("clone tree: %w", err)
	}
	switch {
	case st.Mode().IsRegular():
		if err := cloneFile(src, dst); err != nil {
			return err
		}
	case st.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(src)
		if err != nil {
			return fmt.Errorf("clone tree: %w", err)
		}
		if err := os.Symlink(to, dst); err != nil {
			return fmt.Errorf("clone tree: %w", err)
		}
	default:
		return fmt.Errorf("clone tree: %s is a %v, want a file, directory or symbolic link", src, st.Mode().Type())
	}
	return copyAttributes(src, dst)
}

func copyAttributes(src, dst string) error {
	var st unix.Stat_t
	if err := unix.Lstat(src, &st); err != nil {
		return fmt.Errorf("clone tree: stat %s: %w", src, err)
	}
	if err := unix.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return fmt.Errorf("clone tree: chown %s: %w", dst, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(dst, st.Mode&0o7777); err != nil {
			return fmt.Errorf("clone tree: chmod %s: %w", dst, err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dst, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("clone tree: set times of %s: %w", dst, err)
	}
	return nil
}
