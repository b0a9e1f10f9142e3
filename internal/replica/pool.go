package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	poolFile     = "pool.xfs"
	poolMount    = "pool"
	poolLock     = "pool.lock"
	minPool      = 1 << 30   // less is of no use to any server
	smallestPool = 300 << 20 // mkfs.xfs makes nothing smaller
	mebibyte     = 1 << 20
)

// PoolOptions say how a pool file is made where a store needs one.
type PoolOptions struct {
	Size int64 // bytes; 0 is nine tenths of what is free beneath the store
}

// EnsurePool makes the directory dir usable as a store. On a filesystem that can
// share blocks between files (XFS with reflink, btrfs) nothing is needed.
// Elsewhere EnsurePool makes the sparse file pool.xfs in dir, once, and mounts it
// at dir/pool in the mount namespace of the caller, so it is called before the
// process enters a private one. It is idempotent, and safe to call from several
// processes at once: one pool file never has two loop devices.
func EnsurePool(ctx context.Context, dir string, o PoolOptions) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("make store: %w", err)
	}
	unlock, err := waitLock(ctx, filepath.Join(dir, poolLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	needed, err := needsPool(dir)
	if err != nil || !needed {
		return err
	}
	if err := makePool(ctx, dir, o.Size); err != nil {
		return err
	}
	return mountPool(dir)
}

// ReleasePool unmounts the pool of the store dir from the caller's mount
// namespace, if it is mounted there. The data stays.
func ReleasePool(ctx context.Context, dir string) (err error) {
	dir, err = filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("release pool: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("release pool: %w", err)
	}
	unlock, err := waitLock(ctx, filepath.Join(dir, poolLock))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for {
		m, err := mountAt(filepath.Join(dir, poolMount))
		if err != nil || m == nil {
			return err
		}
		if err := unix.Unmount(m.point, 0); err != nil {
			return fmt.Errorf("release pool: unmount %s: %w", m.point, err)
		}
	}
}

// needsPool reports whether the store cannot do without a pool file.
func needsPool(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, poolFile))
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("find pool: %w", err)
	}
	ok, err := reflinks(dir)
	return !ok, err
}

// makePool creates the pool file unless it is there.
func makePool(ctx context.Context, dir string, size int64) error {
	path := filepath.Join(dir, poolFile)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	size, err := poolSize(dir, size)
	if err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make pool: %w", err)
	}
	f, err := os.OpenFile(fresh, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make pool: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return fmt.Errorf("make pool of %d MiB: %w", size/mebibyte, err)
	}
	mkfs := tool{name: "mkfs.xfs", args: []string{"-q", "-f", "-m", "crc=1,reflink=1", "-L", "leeward-pool", fresh}}
	if _, err := mkfs.run(ctx); err != nil {
		return fmt.Errorf("make pool: %w", err)
	}
	if err := syncFile(fresh); err != nil {
		return fmt.Errorf("make pool: %w", err)
	}
	if err := atomicfile.Rename(fresh, path); err != nil {
		return fmt.Errorf("make pool: %w", err)
	}
	return nil
}

func poolSize(dir string, want int64) (int64, error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, err
	}
	size, least := want, int64(smallestPool)
	if size == 0 {
		size, least = free/10*9, minPool
	}
	size -= size % mebibyte
	if size < least {
		err := fmt.Errorf("make pool in %s: %d MiB are too small, want at least %d MiB (%d MiB are free)",
			dir, size/mebibyte, least/mebibyte, free/mebibyte)
		return 0, dr.WithHint(err, "free space there, or name a store on a larger filesystem")
	}
	if size > free {
		err := fmt.Errorf("make pool in %s: %d MiB wanted, %d MiB are free", dir, size/mebibyte, free/mebibyte)
		return 0, dr.WithHint(err, "free space there, ask for a smaller pool, or name a store on a larger filesystem")
	}
	return size, nil
}

// mountPool mounts the pool file at its place unless it is mounted there.
func mountPool(dir string) error {
	path, at := filepath.Join(dir, poolFile), filepath.Join(dir, poolMount)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return fmt.Errorf("mount pool: %w", err)
	}
	dev, err := findLoop(path)
	if err != nil {
		return err
	}
	m, err := mountAt(at)
	if err != nil {
		return err
	}
	if m != nil {
		if dev != "" && m.source == dev {
			return nil
		}
		err := fmt.Errorf("mount pool: %s is mounted on %s, which is not the pool file", m.source, at)
		return dr.WithHint(err, "unmount "+at)
	}
	if dev == "" {
		d, err := attachPool(path)
		if err != nil {
			return err
		}
		defer d.Close() // the mount keeps the device
		dev = d.path
	}
	const flags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount(dev, at, "xfs", flags, "discard"); err != nil {
		return fmt.Errorf("mount pool %s: %w", path, err)
	}
	return nil
}

func attachPool(path string) (*loopDevice, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("mount pool: %w", err)
	}
	defer f.Close()
	return attachLoop(f, loopOptions{direct: true})
}

// waitLock takes the lock at path, waiting while another process holds it, and
// returns what releases it.
func waitLock(ctx context.Context, path string) (func() error, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	for {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, context.Cause(ctx)), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// mount is one line of mountinfo.
type mount struct {
	point, root, source, fstype string
}

// mountAt returns the mount that covers path, or nil if path is no mount point.
func mountAt(path string) (*mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	var found *mount
	for line := range strings.Lines(string(b)) {
		if m := parseMount(line); m != nil && m.point == path {
			found = m // the last one is on top
		}
	}
	return found, nil
}

// parseMount reads a line of mountinfo, nil if it is none.
func parseMount(line string) *mount {
	left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
	a, b := strings.Fields(left), strings.Fields(right)
	if !ok || len(a) < 5 || len(b) < 2 {
		return nil
	}
	return &mount{point: unescapeMount(a[4]), root: unescapeMount(a[3]), source: unescapeMount(b[1]), fstype: b[0]}
}

// unescapeMount undoes the kernel's \ooo for blanks and backslashes.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1:i+4]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) bool {
	return s[0] >= '0' && s[0] <= '3' && s[1] >= '0' && s[1] <= '7' && s[2] >= '0' && s[2] <= '7'
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// freeBytes returns what an ordinary writer may still use beneath path.
func freeBytes(path string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("measure free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}
