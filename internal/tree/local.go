package tree

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
)

// Sources opens files of the trees that a chunk.Index names, for reading chunks
// that are at the target already. It may be used by several passes at once.
type Sources struct {
	mu    sync.RWMutex
	trees map[string]sourceTree
	// Missing, when set, is asked once for a tree nobody has added. It returns
	// how to open its files, or nil.
	Missing func(tree string) func(path string) (int, error)
}

// sourceTree is how to open the files of a tree, and the descriptor of its root
// where the set owns one, else -1.
type sourceTree struct {
	open func(path string) (int, error)
	root int
}

// NewSources returns an empty set.
func NewSources() *Sources { return &Sources{trees: map[string]sourceTree{}} }

// Add makes the files below the open directory root available as tree, until
// Remove. The caller may close root before: the set has its own descriptor, which
// keeps the filesystem busy.
func (s *Sources) Add(tree string, root int) error {
	own, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("add tree %s: %w", tree, err)
	}
	s.set(tree, sourceTree{Opener(own), own})
	return nil
}

func (s *Sources) add(tree string, open func(path string) (int, error)) {
	s.set(tree, sourceTree{open, -1})
}

func (s *Sources) set(tree string, t sourceTree) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(tree)
	s.trees[tree] = t
}

// Remove takes a tree out again.
func (s *Sources) Remove(tree string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(tree)
}

// drop forgets a tree. s.mu is held.
func (s *Sources) drop(tree string) {
	if t, ok := s.trees[tree]; ok && t.root >= 0 {
		unix.Close(t.root)
	}
	delete(s.trees, tree)
}

func (s *Sources) open(tree, path string) (int, error) {
	s.ask(tree)
	s.mu.RLock()
	defer s.mu.RUnlock() // not before it is open: Remove closes the root
	t := s.trees[tree]
	if t.open == nil {
		return -1, unix.ENOENT
	}
	return t.open(path)
}

// ask has Missing say how to open a tree that nobody has added.
func (s *Sources) ask(tree string) {
	s.mu.RLock()
	_, ok := s.trees[tree]
	s.mu.RUnlock()
	if ok || s.Missing == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.trees[tree]; !ok {
		s.trees[tree] = sourceTree{s.Missing(tree), -1}
	}
}

func openRegular(root int, path string) (int, error) {
	fd, err := openAt(root, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOATIME)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || kindOf(st.Mode) != unix.S_IFREG {
		unix.Close(fd)
		return -1, unix.ENOENT
	}
	return fd, nil
}

// localReader reads chunks, keeping the file of the last one open: neighbours in
// the index are neighbours in a file.
type localReader struct {
	sources    *Sources
	tree, path string
	fd         int
	open       bool
}

// read returns the chunk d from the location, or nil if it is not there any more.
func (r *localReader) read(at chunk.Location, d chunk.Digest, length int) []byte {
	if at.Length != length {
		return nil
	}
	if !r.open || r.tree != at.Tree || r.path != at.Path {
		r.close()
		fd, err := r.sources.open(at.Tree, at.Path)
		if err != nil {
			return nil
		}
		r.fd, r.open, r.tree, r.path = fd, true, at.Tree, at.Path
	}
	return readIfEqual(r.fd, at.Offset, d, length)
}

func (r *localReader) close() {
	if r.open {
		unix.Close(r.fd)
		r.open = false
	}
}

// readIfEqual returns the bytes at off if they are the chunk d.
func readIfEqual(fd int, off int64, d chunk.Digest, length int) []byte {
	b := make([]byte, length)
	if n, err := readFull(fd, b, off); err != nil || n < length || chunk.Sum(b) != d {
		return nil
	}
	return b
}
