package tree

import (
	"sync"

	"golang.org/x/sys/unix"
)

// openDirs keeps directories of the replica open while they are in use, and some
// longer. It may be used by several goroutines.
type openDirs struct {
	root int

	mu   sync.Mutex
	dirs map[string]*openedDir
	idle []string // unused ones, oldest first; may name some that are used again
}

type openedDir struct {
	fd   int
	refs int
}

const maxIdleDirs = 128

func newOpenDirs(root int) *openDirs { return &openDirs{root: root, dirs: map[string]*openedDir{}} }

// get opens the directory at path. put must follow.
func (o *openDirs) get(path string) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if d := o.dirs[path]; d != nil {
		d.refs++
		return d.fd, nil
	}
	fd, err := openDir(o.root, path)
	if err != nil {
		return -1, err
	}
	o.dirs[path] = &openedDir{fd, 1}
	return fd, nil
}

func (o *openDirs) put(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.dirs[path]
	if d == nil {
		return
	}
	if d.refs--; d.refs > 0 {
		return
	}
	o.idle = append(o.idle, path)
	for len(o.idle) > maxIdleDirs {
		o.drop(o.idle[0])
		o.idle = o.idle[1:]
	}
}

func (o *openDirs) drop(path string) {
	if d := o.dirs[path]; d != nil && d.refs <= 0 {
		unix.Close(d.fd)
		delete(o.dirs, path)
	}
}

// forget drops all that nobody uses: after a directory was moved away its path
// must not lead to it any more.
func (o *openDirs) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path, d := range o.dirs {
		if d.refs <= 0 {
			unix.Close(d.fd)
			delete(o.dirs, path)
		}
	}
	o.idle = nil
}
