package protect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

// seeds are the trees at the target that a run may take chunks from: replicas,
// its own and those of other servers, and what the seeds: entries name.
type seeds struct {
	run *run

	mu     sync.Mutex
	undo   []func() error
	points map[dr.ServerName]*replica.Mounted
}

// openSeeds attaches all indexes, making those of seeds that have changed.
func (r *run) openSeeds(ctx context.Context) (*seeds, error) {
	s := &seeds{run: r, points: map[dr.ServerName]*replica.Mounted{}}
	if err := attachAll(r.index, r.store, r.Estate.Servers); err != nil {
		return nil, err
	}
	r.sources.Missing = func(name string) func(string) (int, error) { return s.missing(ctx, name) }
	for _, path := range r.Estate.Seeds {
		if err := s.add(ctx, path); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// attachAll makes the indexes of all replicas that there are part of index.
func attachAll(index *chunk.Index, store *replica.Store, servers []config.Server) error {
	for _, server := range servers {
		rep, err := store.Replica(server.Name)
		if err != nil {
			return err
		}
		if layout, err := rep.Layout(); err == nil { // else its first pass is still to come
			if err := attach(index, rep, layout); err != nil {
				return err
			}
		}
	}
	return nil
}

// attach makes the indexes of a replica's filesystems part of index.
func attach(index *chunk.Index, rep *replica.Replica, l *replica.Layout) error {
	for _, part := range l.Partitions {
		if part.MountPoint == "" {
			continue
		}
		if err := index.Attach(treeName(rep.Name(), part.MountPoint), indexDir(rep, part.MountPoint)); err != nil {
			return err
		}
	}
	return nil
}

func (s *seeds) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for i := len(s.undo) - 1; i >= 0; i-- {
		err = errors.Join(err, s.undo[i]())
	}
	s.undo = nil
	return err
}

// missing opens the tree of a server that takes no part in this run, from its
// newest recovery point: its replica may be in use by another process.
func (s *seeds) missing(ctx context.Context, name string) func(string) (int, error) {
	server, mountPoint, ok := cutTree(name)
	if !ok {
		return nil
	}
	m, err := s.mountPoint(ctx, server)
	if err != nil || m == nil || m.Root(mountPoint) == "" {
		return nil // without it the bytes cross the wire, which is no harm
	}
	root, err := tree.OpenRoot(m.Root(mountPoint))
	if err != nil {
		return nil
	}
	s.mu.Lock()
	s.undo = append(s.undo, func() error { return unix.Close(root) })
	s.mu.Unlock()
	return tree.Opener(root)
}

func cutTree(name string) (dr.ServerName, string, bool) {
	for i := range name {
		if name[i] == ':' {
			return dr.ServerName(name[:i]), name[i+1:], true
		}
	}
	return "", "", false
}

func (s *seeds) mountPoint(ctx context.Context, server dr.ServerName) (*replica.Mounted, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.points[server]; ok {
		return m, nil
	}
	s.points[server] = nil
	rep, err := s.run.store.Replica(server)
	if err != nil {
		return nil, err
	}
	points, _ := rep.Points() // damaged ones are not in the list
	if len(points) == 0 {
		return nil, nil
	}
	dir, err := s.run.store.Scratch(fmt.Sprintf("seed-%d-%s", os.Getpid(), server))
	if err != nil {
		return nil, err
	}
	s.undo = append(s.undo, func() error { return removeAll(dir) })
	img, err := points[0].Clone(ctx, filepath.Join(dir, "clone"))
	if err != nil {
		return nil, err
	}
	m, err := img.Mount(ctx, true)
	if err != nil {
		return nil, err
	}
	s.undo = append(s.undo, m.Close)
	s.points[server] = m
	return m, nil
}

// add makes a seeds: entry available: a directory as it is, a disk image by the
// filesystems in it.
func (s *seeds) add(ctx context.Context, path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return dr.WithHint(fmt.Errorf("open seed: %w", err), "correct or remove it under seeds:")
	}
	if st.IsDir() {
		return s.tree(ctx, path, path)
	}
	raw, err := s.raw(ctx, path)
	if err != nil {
		return err
	}
	roots, closer, err := replica.MountForeign(ctx, raw)
	if err != nil {
		return dr.WithHint(fmt.Errorf("open seed %s: %w", path, err), "a seed is a directory, or a raw or qcow2 image with filesystems of Linux")
	}
	s.undo = append(s.undo, closer)
	for i, root := range roots {
		if err := s.tree(ctx, fmt.Sprintf("%s#%d", path, i+1), root); err != nil {
			return err
		}
	}
	return nil
}

// raw returns the seed as a raw image, which for qcow2 is a sparse copy.
func (s *seeds) raw(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open seed: %w", err)
	}
	defer f.Close()
	var magic [4]byte
	if _, err := f.ReadAt(magic[:], 0); err != nil || string(magic[:]) != "QFI\xfb" {
		return path, nil
	}
	dir, err := s.run.store.Scratch(fmt.Sprintf("seed-%d-%x", os.Getpid(), sumOf(path)))
	if err != nil {
		return "", err
	}
	s.undo = append(s.undo, func() error { return removeAll(dir) })
	out := filepath.Join(dir, "seed.raw")
	if msg, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, out).CombinedOutput(); err != nil {
		return "", fmt.Errorf("unpack seed %s: %w: %s", path, err, msg)
	}
	return out, nil
}

func sumOf(s string) []byte {
	sum := blake3.Sum256([]byte(s))
	return sum[:8]
}

// tree indexes a tree under the name of a seed, unless the index is up to date.
func (s *seeds) tree(ctx context.Context, name, dir string) error {
	root, err := tree.OpenRoot(dir)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, func() error { return unix.Close(root) })
	tname := "seed " + name
	index := filepath.Join(s.run.store.Dir(), "seeds", fmt.Sprintf("%x", sumOf(name)))
	if err := tree.IndexSeed(ctx, root, s.run.index, tname, index); err != nil {
		return fmt.Errorf("index seed %s: %w", name, err)
	}
	s.undo = append(s.undo, func() error { s.run.sources.Remove(tname); return nil })
	return s.run.sources.Add(tname, root)
}
