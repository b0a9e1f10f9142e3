package tree

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// gonePaths are directories that turned out to be gone from the source, or to be
// no directories any more, after the scan had listed them. What the scan still
// tells of them is out of date: following it would make them again.
type gonePaths struct {
	mu    sync.Mutex
	paths map[string]bool
}

func (g *gonePaths) add(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.paths == nil {
		g.paths = map[string]bool{}
	}
	g.paths[path] = true
}

// covers reports whether the directory at path, or one above it, is gone.
func (g *gonePaths) covers(path string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.paths) == 0 {
		return false
	}
	for ; path != ""; path, _ = split(path) {
		if g.paths[path] {
			return true
		}
	}
	return false
}

// putAside moves an entry of the replica out of the way while the scan may still
// be going on.
func (p *Pass) putAside(dir int, dirPath, name string) error {
	var st unix.Stat_t
	if lstat(dir, name, &st) != nil || kindOf(st.Mode) != unix.S_IFDIR {
		return p.trash.take(dir, dirPath, name)
	}
	full := join(dirPath, name)
	p.gone.add(full)
	if err := p.trash.take(dir, dirPath, name); err != nil {
		return err
	}
	p.dirs.forget()
	return p.forgetPages(full)
}

// forgetPages drops a directory and all below it from the catalog.
func (p *Pass) forgetPages(path string) error {
	work := []dirTask{{path, p.subvolume(path)}}
	for len(work) > 0 {
		task := work[len(work)-1]
		work = work[:len(work)-1]
		entries, err := p.Catalog.drop(task.path, task.subvolume)
		if err != nil {
			return err
		}
		for name, e := range entries {
			if kindOf(e.mode) != unix.S_IFDIR || name == "" {
				continue
			}
			child := dirTask{join(task.path, name), task.subvolume}
			if p.Btrfs && e.inode == btrfsRootInode {
				child.subvolume = pageKey(keyOf(child.path), nil)
			}
			work = append(work, child)
		}
	}
	return nil
}

// subvolume returns the number that scans give the subvolume of the directory at
// path, which need not be there any more; 0 where there are none.
func (p *Pass) subvolume(path string) uint64 {
	if !p.Btrfs {
		return 0
	}
	return pageKey(keyOf(p.trash.subvolumeOf(path)), nil)
}

// isVanished reports whether an error means that an entry is not there any more,
// or is another than the one that was listed.
func isVanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}
