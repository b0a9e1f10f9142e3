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
	fds  map[int]*openedDir
	idle []*openedDir // unused ones, oldest first; may name some that are used again
}

type openedDir struct {
	path  string
	fd    int
	refs  int
	stale bool // its path may lead elsewhere by now: closed when its last user is done
}

const maxIdleDirs = 128

func newOpenDirs(root int) *openDirs {
	return &openDirs{root: root, dirs: map[string]*openedDir{}, fds: map[int]*openedDir{}}
}

// get opens the directory at path. put with what it returned must follow.
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
	d := &openedDir{path: path, fd: fd, refs: 1}
	o.dirs[path], o.fds[fd] = d, d
	return fd, nil
}

func (o *openDirs) put(fd int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d := o.fds[fd]
	if d == nil {
		return
	}
	if d.refs--; d.refs > 0 {
		return
	}
	if d.stale {
		o.drop(d)
		return
	}
	o.idle = append(o.idle, d)
	for len(o.idle) > maxIdleDirs {
		o.drop(o.idle[0])
		o.idle = o.idle[1:]
	}
}

// drop closes a directory that nobody uses. o.mu is held.
func (o *openDirs) drop(d *openedDir) {
	if d.refs > 0 || o.fds[d.fd] != d {
		return
	}
	unix.Close(d.fd)
	delete(o.fds, d.fd)
	if o.dirs[d.path] == d {
		delete(o.dirs, d.path)
	}
}

// forget lets no path lead to what it led to before: after a directory was moved
// away. Who uses one goes on with it.
func (o *openDirs) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path, d := range o.dirs {
		d.stale = true
		delete(o.dirs, path)
		o.drop(d)
	}
	o.idle = nil
}
