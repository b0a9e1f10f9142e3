// Package tree keeps a faithful copy of a live file tree: it scans the source,
// carries what changed, and compares the two sides. It works one filesystem at a
// time and never crosses a mount. At the source it is a service of the agent; at
// the target it is driven by Pass.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// stage is the directory at the root of a replica's filesystem that a pass uses
// for what it has removed or not finished. It is never carried or compared.
const stage = ".leeward-stage"

const (
	maxName = 255
	// pathStep bounds how much of a path goes into one system call: the kernel
	// takes 4,095 bytes (PATH_MAX), and real trees are deeper.
	pathStep = 3800
)

// errName is returned for entry names that no directory can hold, which only a
// hostile or broken peer sends.
var errName = errors.New("not a file name")

// checkName accepts what a directory entry may be called.
func checkName(name []byte) error {
	if len(name) == 0 || len(name) > maxName || bytes.IndexByte(name, '/') >= 0 || bytes.IndexByte(name, 0) >= 0 ||
		string(name) == "." || string(name) == ".." {
		return fmt.Errorf("%q: %w", name, errName)
	}
	return nil
}

// checkPath accepts relative paths of such names, and "" for the root.
func checkPath(path string) error {
	for rest := []byte(path); len(rest) > 0; {
		name, tail, more := bytes.Cut(rest, []byte{'/'})
		if err := checkName(name); err != nil {
			return err
		}
		if more && len(tail) == 0 {
			return fmt.Errorf("%q: %w", path, errName)
		}
		rest = tail
	}
	return nil
}

// errStage is returned for names that only Leeward gives, in a replica.
var errStage = errors.New("the name of a directory of Leeward's own")

// checkCarried accepts the paths that a source may send.
func checkCarried(path string) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if path == stage || strings.HasPrefix(path, stage+"/") || strings.HasSuffix(path, "/"+stage) || strings.Contains(path, "/"+stage+"/") {
		return fmt.Errorf("%q: %w", path, errStage)
	}
	return nil
}

// join puts a name behind a directory's path.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	if name == "" {
		return dir
	}
	return dir + "/" + name
}

// split undoes join.
func split(path string) (dir, name string) {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[:i], path[i+1:]
		}
	}
	return "", path
}

// openAt opens path below root with flags, following no symbolic link on the way
// or at the end and never leaving root, whatever changes meanwhile. Paths may be
// of any length. The empty path opens root itself anew.
func openAt(root int, path string, flags int) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	step := how
	step.Flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
	dir := root
	defer func() {
		if dir != root {
			unix.Close(dir)
		}
	}()
	for len(path) > pathStep {
		cut := bytes.LastIndexByte([]byte(path[:pathStep]), '/')
		if cut <= 0 {
			return -1, unix.ENAMETOOLONG
		}
		next, err := openat2(dir, path[:cut], &step)
		if err != nil {
			return -1, err
		}
		if dir != root {
			unix.Close(dir)
		}
		dir, path = next, path[cut+1:]
	}
	if path == "" {
		path = "."
	}
	return openat2(dir, path, &how)
}

// openat2 falls back to opening name by name on kernels before 5.6.
func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(dir, path, how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue // EAGAIN: a rename raced with the walk
		}
		if err == unix.ENOSYS {
			return openByNames(dir, path, int(how.Flags))
		}
		return fd, err
	}
}

func openByNames(dir int, path string, flags int) (int, error) {
	at := dir
	rest := []byte(path)
	for {
		name, tail, more := bytes.Cut(rest, []byte{'/'})
		f := flags | unix.O_NOFOLLOW | unix.O_CLOEXEC
		if more {
			f = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		}
		fd, err := unix.Openat(at, string(name), f, 0)
		if at != dir {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, rest = fd, tail
	}
}

// openDir opens the directory at path for reading its entries and as the base of
// further calls.
func openDir(root int, path string) (int, error) {
	return openAt(root, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// lstat returns the state of dir's entry name; the empty name is dir itself.
func lstat(dir int, name string, st *unix.Stat_t) error {
	for {
		err := unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
		if err != unix.EINTR {
			return err
		}
	}
}

// readNames returns the names in the directory, in no order.
func readNames(dir int) ([]string, error) {
	buf := make([]byte, 64<<10)
	var names []string
	for {
		n, err := unix.ReadDirent(dir, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// dirCache keeps the directories in use open, so that a thousand files of one
// directory cost one walk of its path.
type dirCache struct {
	root int
	path string
	fd   int
	ok   bool
}

// get returns an open descriptor of the directory at path, valid until the next
// call of get or close.
func (c *dirCache) get(path string) (int, error) {
	if c.ok && c.path == path {
		return c.fd, nil
	}
	fd, err := openDir(c.root, path)
	if err != nil {
		return -1, err
	}
	c.close()
	c.path, c.fd, c.ok = path, fd, true
	return fd, nil
}

func (c *dirCache) close() {
	if c.ok {
		unix.Close(c.fd)
		c.ok = false
	}
}
