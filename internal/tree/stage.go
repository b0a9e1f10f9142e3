package tree

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/btrfs"
)

// trash keeps what a pass removes from the replica until the pass ends, for a file
// that is gone here may turn up elsewhere under another name, and its bytes need
// not cross the wire again.
type trash struct {
	root  int
	btrfs bool

	mu    sync.Mutex
	n     int
	moved map[string]string // original path → path in a stage
	used  map[string]bool   // directories that hold a stage
}

func newTrash(root int, onBtrfs bool) (*trash, error) {
	t := &trash{root: root, btrfs: onBtrfs, moved: map[string]string{}, used: map[string]bool{}}
	bases := []string{""}
	if onBtrfs {
		subs, err := btrfs.Paths(fmt.Sprintf("/proc/self/fd/%d", root))
		if err != nil {
			return nil, fmt.Errorf("list subvolumes of the replica: %w", err)
		}
		bases = append(bases, subs...)
	}
	for _, base := range bases { // what a killed pass left
		if err := t.clean(base); err != nil {
			return nil, fmt.Errorf("empty %s: %w", join(base, stage), err)
		}
	}
	return t, nil
}

// clean removes the stage of an earlier pass from base, and counts base as used if
// there was one: its times have suffered.
func (t *trash) clean(base string) error {
	fd, err := openDir(t.root, base)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if lstat(fd, stage, &st) == unix.ENOENT {
		return nil
	}
	if err := removeTree(fd, stage); err != nil {
		return err
	}
	if err := unlocked(fd, "", func() error { return unix.Mkdirat(fd, stage, 0o700) }); err != nil {
		return err
	}
	t.used[base] = true
	return nil
}

// take moves the entry name of the directory at path, open as dir, out of the way.
func (t *trash) take(dir int, path, name string) error {
	full := join(path, name)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	to := strconv.Itoa(t.n)
	base := ""
	err := t.move(dir, name, base, to)
	if err == unix.EXDEV && t.btrfs {
		base = t.subvolumeOf(path)
		err = t.move(dir, name, base, to)
	}
	if err == unix.ENOENT {
		return nil
	}
	if err == unix.EXDEV {
		return removeTree(dir, name)
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", full, err)
	}
	t.moved[full] = join(join(base, stage), to)
	return nil
}

func (t *trash) move(dir int, name, base, to string) error {
	st, err := t.stageIn(base)
	if err != nil {
		return err
	}
	defer unix.Close(st)
	return unlocked(dir, name, func() error { return unix.Renameat(dir, name, st, to) })
}

// stageIn opens the stage directory in base, making it where there is none.
func (t *trash) stageIn(base string) (int, error) {
	b, err := openDir(t.root, base)
	if err != nil {
		return -1, err
	}
	defer unix.Close(b)
	if !t.used[base] {
		if err := unlocked(b, "", func() error { return unix.Mkdirat(b, stage, 0o700) }); err != nil {
			return -1, err
		}
		t.used[base] = true
	}
	return openDir(b, stage)
}

// subvolumeOf returns the path of the btrfs subvolume that holds the directory.
func (t *trash) subvolumeOf(path string) string {
	for path != "" {
		var st unix.Stat_t
		fd, err := openDir(t.root, path)
		if err == nil {
			err = unix.Fstat(fd, &st)
			unix.Close(fd)
		}
		if err == nil && st.Ino == btrfsRootInode {
			return path
		}
		path, _ = split(path)
	}
	return ""
}

// find returns where the file that was at path lies now, if it was moved.
func (t *trash) find(path string) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, rest := path, ""; ; {
		if to, ok := t.moved[p]; ok {
			return join(to, rest), true
		}
		dir, name := split(p)
		if p == "" || name == "" {
			return "", false
		}
		p, rest = dir, join(name, rest)
		if p == "" {
			return "", false
		}
	}
}

// empty removes all stages for good. Only the times of the directories that held
// one suffer; their paths are returned to be mended.
func (t *trash) empty() (touched []string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for base := range t.used {
		fd, openErr := openDir(t.root, base)
		if openErr == unix.ENOENT {
			continue // the subvolume itself was removed
		}
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		err = errors.Join(err, removeTree(fd, stage))
		unix.Close(fd)
		touched = append(touched, base)
	}
	clear(t.moved)
	clear(t.used)
	return touched, err
}

// unlocked calls f, and where it is not permitted clears the flags of dir and its
// entry that would be the reason, and calls it again. The flags a pass clears it
// sets again when it finishes the entry and the directory.
func unlocked(dir int, name string, f func() error) error {
	err := f()
	if err != unix.EPERM {
		return err
	}
	any := unlock(dir)
	if name != "" {
		if fd, openErr := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); openErr == nil {
			any = unlock(fd) || any
			unix.Close(fd)
		}
	}
	if !any {
		return err
	}
	return f()
}

// removeTree removes dir's entry name with all below it, of any depth, following
// nothing. It is no error if it is not there.
func removeTree(dir int, name string) error {
	err := unlocked(dir, name, func() error { return unix.Unlinkat(dir, name, 0) })
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if err != unix.EISDIR && err != unix.EPERM {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	// A tree deeper than the descriptors a process may have is flattened: a
	// directory in the way is moved up beside its parent first.
	for round := 0; ; round++ {
		err := removeLevel(dir, name, 0)
		if err == nil {
			return nil
		}
		if err != errDeep || round > 1<<20 {
			return fmt.Errorf("remove %q: %w", name, err)
		}
	}
}

var errDeep = errors.New("tree too deep")

// maxRemoveDepth bounds how many directories removal holds open at once.
const maxRemoveDepth = 200

func removeLevel(dir int, name string, depth int) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unlock(fd)
	names, err := readNames(fd)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unlocked(fd, n, func() error { return unix.Unlinkat(fd, n, 0) })
		if err == unix.EISDIR || err == unix.EPERM {
			if depth >= maxRemoveDepth {
				// Hang it up at the top and let a later round take it.
				var st unix.Stat_t
				if err := lstat(fd, n, &st); err != nil {
					return err
				}
				up := ".deep-" + strconv.FormatUint(st.Ino, 10)
				top, upErr := climb(fd, depth)
				if upErr != nil {
					return upErr
				}
				err = unix.Renameat(fd, n, top, up)
				unix.Close(top)
				if err == nil {
					err = errDeep
				}
				return err
			}
			err = removeLevel(fd, n, depth+1)
		}
		if err != nil && err != unix.ENOENT {
			return err
		}
	}
	err = unlocked(dir, name, func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
	if err == unix.ENOTEMPTY || err == unix.EPERM || err == unix.EINVAL {
		err = btrfs.DeleteAt(dir, name) // an emptied subvolume on older kernels
	}
	if err == unix.ENOENT {
		err = nil
	}
	return err
}

// climb opens the directory depth levels above fd, which is below the tree being
// removed.
func climb(fd, depth int) (int, error) {
	return unix.Openat(fd, strings.TrimSuffix(strings.Repeat("../", depth), "/"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
