package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

const mountFlags = unix.MS_NOATIME | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC

// Mounted is a disk whose filesystems are mounted, each on its own and whole, in
// the private mount namespace of this process. Its methods may be called
// concurrently, but for Freeze, Thaw and Close.
type Mounted struct {
	replica *Replica // nil for a clone
	layout  *Layout
	trees   string
	parts   []*mountedPart

	mu     sync.Mutex // guards budget
	budget int64      // bytes that may be written before free space is measured again
}

// mountedPart is one mounted filesystem.
type mountedPart struct {
	part    *Partition
	dev     string
	dir     string
	fstype  string
	options string
}

// Mount mounts the filesystems of the replica's disk for writing.
func (r *Replica) Mount(ctx context.Context) (*Mounted, error) {
	if err := r.Lock(); err != nil {
		return nil, err
	}
	l, err := r.Layout()
	if err != nil {
		return nil, fmt.Errorf("mount replica of %s: %w", r.name, err)
	}
	m, err := mountDisk(ctx, r.Disk(), l, r.path(treesDir), r.path(mountsDir), false)
	if err != nil {
		return nil, fmt.Errorf("mount replica of %s: %w", r.name, err)
	}
	m.replica = r
	return m, nil
}

// mountDisk mounts the filesystems of the image disk in directories below at.
func mountDisk(ctx context.Context, disk string, l *Layout, trees, at string, readOnly bool) (*Mounted, error) {
	if err := refuseShared(at); err != nil {
		return nil, err
	}
	m := &Mounted{layout: l, trees: trees}
	for i := range l.Partitions {
		p := &l.Partitions[i]
		if p.Kind == BIOSBoot || p.Kind == Swap || p.Tree || p.Gone || p.MountPoint == "" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		part, err := mountPart(disk, p, filepath.Join(at, strconv.Itoa(p.Number)), readOnly)
		if err != nil {
			return nil, errors.Join(err, m.Close())
		}
		m.parts = append(m.parts, part)
	}
	return m, nil
}

// mountPart mounts the filesystem of p at dir. The superblock on the device is
// compared with p first: nothing is ever written into another filesystem.
func mountPart(disk string, p *Partition, dir string, readOnly bool) (*mountedPart, error) {
	k, err := makerOf(p.Type)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	image, err := os.OpenFile(disk, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", p.name(), err)
	}
	defer image.Close()
	dev, err := attachLoop(image, loopOptions{offset: p.Offset, size: p.Size, readOnly: readOnly, direct: bypasses(image), sector: 512})
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", p.name(), err)
	}
	defer dev.Close() // the mount keeps the device
	if err := checkSuperblock(dev.file, p); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("mount %s: %w", p.name(), err)
	}
	m := &mountedPart{part: p, dev: dev.path, dir: dir, fstype: k.mount, options: k.options}
	var how uintptr = mountFlags
	if readOnly {
		how |= unix.MS_RDONLY
	}
	if err := unix.Mount(m.dev, dir, m.fstype, how, m.options); err != nil {
		return nil, mountError(p, err)
	}
	return m, m.verify()
}

// bypasses reports whether a loop device over the image may go past the page cache of
// the store, which saves a copy of every byte. On btrfs it may not: what changes in
// memory while it is on its way to the disk would not have the checksum it is stored with.
func bypasses(image *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(image.Fd()), &st) == nil && st.Type == unix.XFS_SUPER_MAGIC
}

// verify makes sure that what is at the directory is what was just mounted.
func (m *mountedPart) verify() error {
	got, err := mountAt(m.dir)
	if err == nil && (got == nil || got.source != m.dev) {
		err = fmt.Errorf("check mount of %s: %s is not at %s", m.part.name(), m.dev, m.dir)
	}
	if err != nil {
		return errors.Join(err, m.unmount())
	}
	return nil
}

func mountError(p *Partition, cause error) error {
	err := fmt.Errorf("mount %s (%s, features %s): %w", p.name(), p.Type, strings.Join(p.Features, ","), cause)
	switch {
	case errors.Is(cause, unix.ENODEV):
		return dr.WithHint(err, "this host's kernel has no driver for "+p.Type)
	case errors.Is(cause, unix.EINVAL) || errors.Is(cause, unix.EOPNOTSUPP):
		return dr.WithHint(err, "the kernel log tells more (dmesg); a feature of the source may be too new or too old for this host's kernel")
	case errors.Is(cause, unix.EEXIST) && p.Type == "btrfs":
		return dr.WithHint(err, "a btrfs of this id is mounted here and this kernel cannot have two (Linux 6.7 can)")
	}
	return err
}

// refuseShared refuses to mount where the mount would appear in other mount
// namespaces, and so outlive this process.
func refuseShared(dir string) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	best, shared := "", false
	for line := range strings.Lines(string(b)) {
		m := parseMount(line)
		if m == nil || len(m.point) < len(best) || !within(dir, m.point) {
			continue
		}
		left, _, _ := strings.Cut(line, " - ")
		best, shared = m.point, strings.Contains(left, " shared:")
	}
	if shared {
		return fmt.Errorf("mount in %s: %s is shared with other mount namespaces; enter a private one first", dir, best)
	}
	return nil
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

// Root returns the directory that holds the root of the filesystem named
// mountPoint, "" if the disk has no such filesystem.
func (m *Mounted) Root(mountPoint string) string {
	p := m.layout.Find(mountPoint)
	if p == nil || p.Gone {
		return ""
	}
	if p.Tree {
		return filepath.Join(m.trees, strconv.Itoa(p.Number))
	}
	for _, part := range m.parts {
		if part.part.Number == p.Number {
			return part.dir
		}
	}
	return ""
}

// Filesystems names the filesystems that Root knows, as the layout orders them.
func (m *Mounted) Filesystems() []string {
	var out []string
	for _, p := range m.layout.Partitions {
		if m.Root(p.MountPoint) != "" {
			out = append(out, p.MountPoint)
		}
	}
	return out
}

// Layout returns what lies where on the disk.
func (m *Mounted) Layout() *Layout { return m.layout }

// Sync brings all that was written so far to the image.
func (m *Mounted) Sync() error {
	for _, p := range m.parts {
		if err := syncFilesystem(p.dir); err != nil {
			return fmt.Errorf("sync %s: %w", p.part.name(), err)
		}
	}
	return nil
}

// Freeze brings the filesystems to rest in the image, clean, without journals to
// replay, by making them read-only. (FIFREEZE would do as well but for one thing:
// killed in between, this process would leave a frozen filesystem and its loop
// device behind for ever.) No file may be open for writing; Freeze waits five
// seconds for the last. Thaw ends it.
func (m *Mounted) Freeze(ctx context.Context) error {
	if err := m.Sync(); err != nil {
		return err
	}
	for _, p := range m.parts {
		if err := p.freeze(ctx); err != nil {
			return errors.Join(fmt.Errorf("freeze %s: %w", p.part.name(), err), m.Thaw())
		}
	}
	return nil
}

// Thaw makes the filesystems writable again.
func (m *Mounted) Thaw() error {
	var errs []error
	for _, p := range m.parts {
		if err := p.remount(0); err != nil {
			errs = append(errs, fmt.Errorf("thaw %s: %w", p.part.name(), err))
		}
	}
	return errors.Join(errs...)
}

func (m *mountedPart) freeze(ctx context.Context) error {
	for try := 0; ; try++ {
		err := m.remount(unix.MS_RDONLY)
		if !errors.Is(err, unix.EBUSY) || try == 50 {
			if errors.Is(err, unix.EBUSY) {
				err = fmt.Errorf("a file there is open for writing: %w", err)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (m *mountedPart) remount(how uintptr) error {
	return unix.Mount("none", m.dir, "", unix.MS_REMOUNT|mountFlags|how, "")
}

// Close unmounts all. Their loop devices go with them.
func (m *Mounted) Close() error {
	var errs []error
	for i := len(m.parts) - 1; i >= 0; i-- {
		errs = append(errs, m.parts[i].unmount())
	}
	m.parts = nil
	return errors.Join(errs...)
}

// unmount waits a little for users of the mount that are about to end. One that
// stays keeps its filesystem, but no name leads there any more, which is an error
// all the same: the caller believes that the image is at rest.
func (m *mountedPart) unmount() error {
	var err error
	for range 20 {
		if err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("unmount %s: %w", m.part.name(), err),
		unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH))
}

// Reserve says that n bytes are about to be written, and returns ErrSpace when the
// store is too full for them. A writer that asks before each write never makes the
// store run full, which would show as input/output errors in the filesystems.
func (m *Mounted) Reserve(n int64) error {
	if m.replica == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n <= m.budget {
		m.budget -= n
		return nil
	}
	s := m.replica.store
	free, err := m.measure()
	// What was removed is given back by and by: a full store may be so no longer.
	for try := 0; err == nil && n > free-s.low && try < 10; try++ {
		time.Sleep(100 * time.Millisecond)
		free, err = m.measure()
	}
	if err != nil {
		return err
	}
	if left := free - s.low; n > left {
		m.budget = 0
		err := fmt.Errorf("write %d bytes to the replica of %s: %w: %d MiB free, %d MiB are kept",
			n, m.replica.name, ErrSpace, free/mebibyte, s.low/mebibyte)
		return dr.WithHint(err, "free space beneath the store or make it larger, then run again: the pass goes on where it was")
	}
	// Other replicas write to this store, too: take a part.
	m.budget = max(0, (free-s.low)/8-n)
	return nil
}

// measure returns the store's free bytes with all that was written so far on the
// disk: what is still in memory counts as free.
func (m *Mounted) measure() (int64, error) {
	if err := m.Sync(); err != nil {
		return 0, err
	}
	if err := syncFilesystem(m.replica.store.root); err != nil {
		return 0, err
	}
	return m.replica.store.Free()
}

func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}
