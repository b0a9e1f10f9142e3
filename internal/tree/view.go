package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/lvm"
)

// snapPrefix begins the names of the snapshots a pass takes, at the top of a btrfs
// filesystem. Nothing of that name is ever carried.
const snapPrefix = ".leeward-snap-"

// isOurs reports whether a name at a filesystem's root is Leeward's own.
func isOurs(name string) bool { return strings.HasPrefix(name, snapPrefix) }

// view shows one filesystem of the source whole: what is hidden under mounts is
// seen, what is mounted on it is not, and bind mounts do not double it.
type view struct {
	root        int // open descriptor of the filesystem's root
	btrfs       bool
	excludes    *Excludes
	consistency dr.Consistency
	how         string
	at          time.Time

	volume       *lvm.Snapshot // what it shows, where that is one
	removeVolume func(group, name string) error

	undo []func()
}

func (v *view) close() {
	for i := len(v.undo) - 1; i >= 0; i-- {
		v.undo[i]()
	}
	v.undo = nil
}

// subvolume returns the number that scans give the subvolume of the directory at
// path; 0 where there are none.
func (v *view) subvolume(path string) uint64 {
	for v.btrfs {
		fd, err := openDir(v.root, path)
		if err != nil {
			return 0
		}
		var st unix.Stat_t
		err = unix.Fstat(fd, &st)
		unix.Close(fd)
		if err == nil && st.Ino == btrfsRootInode {
			return pageKey(keyOf(path), nil)
		}
		if path == "" {
			return 0
		}
		path, _ = split(path)
	}
	return 0
}

// openView prepares the filesystem mounted at f.MountPoint. The mounts it makes
// are in this process's own mount namespace and read-only. t is what was taken of
// it beforehand, and is the view's from here on.
func openView(f *agentpb.OpenFilesystem, snapshot bool, scratch string, t taken) (v *view, err error) {
	v = &view{consistency: dr.Fuzzy, how: "live", at: time.Now()}
	t.handTo(v)
	defer func() {
		if err != nil {
			v.close()
			v = nil
		}
	}()
	m, err := findMount(f.MountPoint)
	if err != nil {
		return v, err
	}
	v.btrfs = m.fsType == "btrfs"
	if v.excludes, err = NewExcludes(f.Excludes); err != nil {
		return v, err
	}
	dir, err := v.mountPoint(scratch)
	if err != nil {
		return v, err
	}
	switch {
	case v.btrfs:
		err = v.mountBtrfs(m, dir)
		if err == nil && snapshot && f.Live == "" {
			v.snapshotBtrfs(m, dir)
		}
	case v.volume != nil && v.mountVolume(m, dir):
	default:
		err = v.bind(m, dir)
	}
	if err != nil {
		return v, err
	}
	v.root, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return v, fmt.Errorf("open view of %s: %w", f.MountPoint, err)
	}
	v.undo = append(v.undo, func() { unix.Close(v.root) })
	return v, nil
}

// viewPrefix begins the names of the directories that views are mounted on.
const viewPrefix = "view"

// removeStaleViews removes the directories of agents that were killed. Removing one
// that is in use would take its mounts away.
func removeStaleViews(scratch string, self lvm.Owner) {
	dirs, _ := filepath.Glob(filepath.Join(scratch, viewPrefix+"-*")) // the pattern is well-formed
	for _, d := range dirs {
		if lvm.Abandoned(viewPrefix, filepath.Base(d), self) {
			os.Remove(d) // empty: what was mounted there went with the agent
		}
	}
}

// mountPoint makes a directory to mount on. It lies on a tmpfs of ours, so that
// nothing is written to the source's disks.
func (v *view) mountPoint(scratch string) (string, error) {
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return "", fmt.Errorf("make view: %w", err)
	}
	self, err := lvm.Self()
	if err != nil {
		return "", err
	}
	removeStaleViews(scratch, self)
	base := filepath.Join(scratch, self.Name(viewPrefix, int(time.Now().UnixNano())))
	if err := os.Mkdir(base, 0o700); err != nil {
		return "", fmt.Errorf("make view: %w", err)
	}
	v.undo = append(v.undo, func() { os.Remove(base) })
	if err := unix.Mount("leeward", base, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,size=64k"); err != nil {
		return "", fmt.Errorf("mount view: %w", err)
	}
	v.undo = append(v.undo, func() { unix.Unmount(base, unix.MNT_DETACH) })
	dir := filepath.Join(base, "root")
	return dir, os.Mkdir(dir, 0o700)
}

func (v *view) bind(m *mount, dir string) error {
	if err := unix.Mount(m.mountPoint, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", m.mountPoint, err)
	}
	v.undo = append(v.undo, func() { unix.Unmount(dir, unix.MNT_DETACH) })
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOATIME | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("make view of %s read-only: %w", m.mountPoint, err)
	}
	return nil
}

// mountBtrfs shows the top of the filesystem, above all subvolumes.
func (v *view) mountBtrfs(m *mount, dir string) error {
	if err := unix.Mount(m.device, dir, "btrfs", unix.MS_RDONLY|unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "subvolid=5"); err != nil {
		if m.root == "/" {
			return v.bind(m, dir) // its device cannot be named here, but this mount is the top itself
		}
		return fmt.Errorf("mount the top of %s (%s): %w", m.mountPoint, m.device, err)
	}
	v.undo = append(v.undo, func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return nil
}

// snapshotBtrfs puts a snapshot of each subvolume over the live one. Where that
// does not succeed for all of them the view stays live, and says why.
func (v *view) snapshotBtrfs(m *mount, dir string) {
	fail := func(err error) { v.how = "live: " + err.Error() }
	subs, err := btrfs.Paths(dir)
	if err != nil {
		fail(fmt.Errorf("list subvolumes: %w", err))
		return
	}
	rw := dir + "-rw"
	if err := os.Mkdir(rw, 0o700); err != nil {
		fail(err)
		return
	}
	if err := unix.Mount(m.device, rw, "btrfs", unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "subvolid=5"); err != nil {
		fail(fmt.Errorf("mount %s: %w", m.device, err))
		return
	}
	v.undo = append(v.undo, func() { unix.Unmount(rw, unix.MNT_DETACH) })
	removeSnapshots(rw)
	snaps := filepath.Join(rw, snapPrefix+time.Now().UTC().Format("20060102T150405.000"))
	if err := os.Mkdir(snaps, 0o700); err != nil {
		fail(err)
		return
	}
	lock, err := lockSnapshots(snaps)
	if err != nil {
		fail(fmt.Errorf("lock %s: %w", snaps, err))
		return
	}
	v.undo = append(v.undo, func() {
		removeSnapshotsIn(snaps)
		unix.Close(lock)
	})
	v.at = time.Now()
	if err := v.coverWithSnapshots(subs, dir, rw, snaps); err != nil {
		fail(err)
		return
	}
	v.consistency, v.how = dr.Crash, "btrfs snapshot"
}

// coverWithSnapshots takes them all first, close together, and mounts them after.
func (v *view) coverWithSnapshots(subs []string, dir, rw, snaps string) error {
	subs = append([]string{""}, subs...)
	var taken []string
	for i, sub := range subs {
		if strings.HasPrefix(sub, snapPrefix) || v.excludes.Covers(sub) {
			taken = append(taken, "")
			continue
		}
		name := fmt.Sprint(i)
		if err := btrfs.Snapshot(filepath.Join(rw, sub), snaps, name); err != nil {
			return fmt.Errorf("snapshot %q: %w", sub, err)
		}
		taken = append(taken, filepath.Join(snaps, name))
	}
	for i, sub := range subs { // parents come before what is nested in them
		if taken[i] == "" {
			continue
		}
		at := filepath.Join(dir, sub)
		if err := unix.Mount(taken[i], at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("show snapshot of %q: %w", sub, err)
		}
		v.undo = append(v.undo, func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	return nil
}

// lockSnapshots marks a directory of snapshots as in use, until the descriptor it
// returns is closed or this process ends.
func lockSnapshots(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// removeSnapshots removes what earlier, killed passes have taken. Those of a pass
// in progress are locked: without them it would see an empty source.
func removeSnapshots(top string) {
	dirs, _ := filepath.Glob(filepath.Join(top, snapPrefix+"*"))
	for _, d := range dirs {
		lock, err := lockSnapshots(d)
		if err != nil {
			continue
		}
		removeSnapshotsIn(d)
		unix.Close(lock)
	}
}

func removeSnapshotsIn(dir string) {
	snaps, _ := os.ReadDir(dir)
	for _, s := range snaps {
		btrfs.Delete(dir, s.Name())
	}
	os.Remove(dir)
}

// mount is one line of mountinfo, as far as a view needs it.
type mount struct {
	mountPoint, root, fsType, device string
	number                           string // of the device, as in 253:0
}

var errNotMounted = errors.New("not mounted")

// findMount returns the topmost mount at mountPoint.
func findMount(mountPoint string) (*mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return findMountIn(string(b), mountPoint)
}

func findMountIn(mountinfo, mountPoint string) (*mount, error) {
	var found *mount
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 2 {
			continue
		}
		if unescape(l[4]) == mountPoint {
			found = &mount{mountPoint, unescape(l[3]), r[0], unescape(r[1]), l[2]}
		}
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", mountPoint, errNotMounted)
	}
	return found, nil
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			var n int
			if _, err := fmt.Sscanf(s[i+1:i+4], "%3o", &n); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
