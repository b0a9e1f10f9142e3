package tree

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Comparison compares a filesystem of the source with its replica, whole: both
// sides digest everything they have, and where a directory's digests differ its
// entries are compared one by one.
type Comparison struct {
	Conn       *pipe.Conn // to the agent that has the filesystem open
	Filesystem string
	Root       int // the replica's
	Catalog    *Catalog
	Excludes   []string  // as the filesystem was opened with
	Since      time.Time // when the last pass began, by the source's clock
	Progress   func(entries, bytes int64)
}

// Difference is an entry that is not the same on both sides.
type Difference struct {
	Path  string
	Kinds []string // missing, extra, or what of it differs
	// Newer means that the source's entry has changed since the pass that
	// carried it: the replica is behind, not wrong.
	Newer bool
}

// CompareResult is what a Comparison found.
type CompareResult struct {
	Differences []Difference
	Problems    []Problem
	Entries     int64
	Bytes       int64
}

// Run compares.
func (c *Comparison) Run(ctx context.Context) (*CompareResult, error) {
	ex, err := NewExcludes(c.Excludes)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	local := &digester{root: c.Root, excludes: ex}
	here := map[string][16]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var walkErr error
	wg.Go(func() {
		walkErr = local.walk(ctx, func(path string, digest []byte) error {
			mu.Lock()
			here[path] = [16]byte(digest)
			mu.Unlock()
			c.show(local)
			return nil
		})
	})
	there, res, err := c.remote(ctx)
	if err != nil {
		cancel() // or a lost source would be told of only when all is read here
	}
	wg.Wait()
	if err != nil {
		return nil, err
	}
	if walkErr != nil {
		return nil, fmt.Errorf("digest replica of %s: %w", c.Filesystem, walkErr)
	}
	for _, p := range local.problems {
		res.Problems = append(res.Problems, Problem{string(p.Path), "in the replica: " + p.Text})
	}
	res.Entries, res.Bytes = local.count.Load(), local.bytes.Load()
	var differ []string
	for path, d := range there {
		if h, ok := here[path]; ok && h != d {
			differ = append(differ, path)
		} // a directory that only one side has shows in its parent
	}
	sort.Strings(differ)
	return res, c.details(ctx, local, differ, res)
}

func (c *Comparison) show(d *digester) {
	if c.Progress != nil {
		c.Progress(d.count.Load(), d.bytes.Load())
	}
}

func (c *Comparison) remote(ctx context.Context) (map[string][16]byte, *CompareResult, error) {
	there := map[string][16]byte{}
	res := &CompareResult{}
	err := c.call(ctx, &agentpb.DigestRequest{Filesystem: c.Filesystem}, func(m *agentpb.DigestReply) error {
		for _, d := range m.Directories {
			if len(d.Digest) != 16 {
				return fmt.Errorf("digest of %d bytes", len(d.Digest))
			}
			there[string(d.Path)] = [16]byte(d.Digest)
		}
		for _, p := range m.Problems {
			if !p.Vanished {
				res.Problems = append(res.Problems, Problem{string(p.Path), "at the source: " + p.Text})
			}
		}
		return nil
	})
	return there, res, err
}

func (c *Comparison) call(ctx context.Context, req *agentpb.DigestRequest, each func(*agentpb.DigestReply) error) error {
	st, err := c.Conn.Open(ctx, "tree.digest")
	if err == nil {
		defer st.Close()
		err = st.Send(req)
	}
	for last := false; err == nil && !last; {
		var m agentpb.DigestReply
		if err = st.Recv(&m); err == nil {
			last = m.Last
			err = each(&m)
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("digest %s: %w", c.Filesystem, err)
	}
	return nil
}

// listStep is how many differing directories are asked for at once.
const listStep = 64

func (c *Comparison) details(ctx context.Context, local *digester, dirs []string, res *CompareResult) error {
	for len(dirs) > 0 {
		n := min(len(dirs), listStep)
		req := &agentpb.DigestRequest{Filesystem: c.Filesystem}
		for _, d := range dirs[:n] {
			req.List = append(req.List, []byte(d))
		}
		source := map[string]map[string]*agentpb.EntryDigest{}
		err := c.call(ctx, req, func(m *agentpb.DigestReply) error {
			for _, e := range m.Entries {
				dir, name := split(string(e.Path))
				if e.Meta == nil {
					return fmt.Errorf("entry %q without its state", e.Path)
				}
				if source[dir] == nil {
					source[dir] = map[string]*agentpb.EntryDigest{}
				}
				source[dir][name] = e
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, dir := range dirs[:n] {
			if err := c.directory(ctx, local, dir, source[dir], res); err != nil {
				return err
			}
		}
		dirs = dirs[n:]
	}
	return nil
}

func (c *Comparison) directory(ctx context.Context, local *digester, dir string, source map[string]*agentpb.EntryDigest, res *CompareResult) error {
	known, err := c.Catalog.between(keyOf(dir), nil, nil, true)
	if err != nil {
		return err
	}
	entries, _ := local.entries(ctx, dir)
	seen := map[string]bool{}
	add := func(name string, kinds []string, newer bool) {
		if len(kinds) > 0 && len(res.Differences) < maxListed {
			res.Differences = append(res.Differences, Difference{join(dir, name), kinds, newer})
		}
	}
	for _, e := range entries {
		_, name := split(string(e.Path))
		seen[name] = true
		s := source[name]
		if s == nil {
			add(name, []string{"extra"}, c.dirChanged(source, known))
			continue
		}
		add(name, differences(s, e), c.changedSince(s, known, name))
	}
	for name, s := range source {
		if !seen[name] {
			add(name, []string{"missing"}, c.changedSince(s, known, name))
		}
	}
	return nil
}

// changedSince reports whether the source's entry is another than the one that was
// carried.
func (c *Comparison) changedSince(s *agentpb.EntryDigest, known map[string]known, name string) bool {
	k, ok := known[name]
	if !ok {
		return !time.Unix(s.Meta.CtimeSec, int64(s.Meta.CtimeNsec)).Before(c.Since)
	}
	e := entryOfMeta(name, s.Meta)
	return k.entry != e
}

// dirChanged reports whether an entry that the replica has and the source has not
// can be one that went after the pass.
func (c *Comparison) dirChanged(source map[string]*agentpb.EntryDigest, known map[string]known) bool {
	for name := range known {
		if source[name] == nil {
			return true // it was carried, and is gone at the source since
		}
	}
	return false
}

// String names the difference for people.
func (d Difference) String() string {
	return fmt.Sprintf("%q: %s", d.Path, strings.Join(d.Kinds, ", "))
}

// Digest returns the digest of all directories below root: of what verification
// compares. Two trees with equal digests are equal.
func Digest(ctx context.Context, root int, excludes []string) (string, error) {
	ex, err := NewExcludes(excludes)
	if err != nil {
		return "", err
	}
	d := &digester{root: root, excludes: ex}
	var mu sync.Mutex
	var lines []string
	err = d.walk(ctx, func(path string, digest []byte) error {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, fmt.Sprintf("%x %q", digest, path))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("digest tree: %w", err)
	}
	if len(d.problems) > 0 {
		return "", fmt.Errorf("digest tree: %q: %s", d.problems[0].Path, d.problems[0].Text)
	}
	sort.Strings(lines)
	return keyString(strings.Join(lines, "\n")), nil
}

func keyString(s string) string {
	k := keyOf(s)
	return fmt.Sprintf("%x", k[:])
}

// OpenRoot opens a directory as the root of a replica.
func OpenRoot(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}
