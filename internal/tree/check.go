package tree

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/chunk"
)

// Check compares a tree at the target with the catalog that was kept of it: every
// entry, and by its digest every file's content. The source is not asked.
type Check struct {
	Catalog string   // path of the catalog, which is only read
	Root    int      // open descriptor of the tree's root
	Ours    []string // paths that a pass has added and the catalog does not know
	// Whole says whose content is digested; nil: that of every file. All else of an entry
	// is compared always. Several goroutines call it.
	Whole    func(path string, size int64) bool
	Progress func(entries, bytes int64)

	cat     *Catalog
	mu      sync.Mutex // guards result
	result  CheckResult
	entries atomic.Int64
	bytes   atomic.Int64
	skipped atomic.Int64
}

// CheckResult is what a Check found.
type CheckResult struct {
	Sum         CatalogSum // of the catalog
	Differences []Difference
	// Unclear are sparse files whose digest is another: it covers where the source
	// had holes, which need not be where the tree has them.
	Unclear []string
	Entries int64
	Bytes   int64 // of content digested
	Skipped int64 // bytes of content that Whole left out
}

// Run checks.
func (c *Check) Run(ctx context.Context) (_ *CheckResult, err error) {
	if c.cat, err = readCatalog(c.Catalog); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.cat.Close()) }()
	if c.result.Sum, err = c.cat.count(); err != nil {
		return nil, err
	}
	if err := walkTree(ctx, func(path string) ([]string, error) { return c.directory(ctx, path) }); err != nil {
		return nil, err
	}
	c.result.Entries, c.result.Bytes, c.result.Skipped = c.entries.Load(), c.bytes.Load(), c.skipped.Load()
	slices.SortFunc(c.result.Differences, func(a, b Difference) int { return strings.Compare(a.Path, b.Path) })
	slices.Sort(c.result.Unclear)
	return &c.result, nil
}

// readCatalog opens a catalog that nobody may write.
func readCatalog(path string) (c *Catalog, err error) {
	defer guardDamage(&err)()
	db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: 5 * time.Second, ReadOnly: true})
	if err != nil {
		return nil, fmt.Errorf("open catalog %s: %w", path, err)
	}
	return &Catalog{db: db}, nil
}

func (c *Check) differ(path string, kinds ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.result.Differences) < maxListed {
		c.result.Differences = append(c.result.Differences, Difference{Path: path, Kinds: kinds})
	}
}

// directory checks the entries of one directory and returns those that are
// directories.
func (c *Check) directory(ctx context.Context, path string) (children []string, err error) {
	rows, err := c.cat.between(keyOf(path), nil, nil, true)
	if err != nil {
		return nil, err
	}
	fd, err := openDir(c.Root, path)
	if err != nil {
		return nil, fmt.Errorf("open directory %q: %w", path, err)
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		return nil, fmt.Errorf("read directory %q: %w", path, err)
	}
	for _, name := range names {
		_, known := rows[name]
		mkfs := path == "" && name == "lost+found"
		if !known && name != stage && !mkfs && !slices.Contains(c.Ours, join(path, name)) {
			c.differ(join(path, name), "extra")
		}
	}
	for name, row := range rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		isDir, err := c.entry(ctx, fd, path, name, &row)
		if err != nil {
			return nil, err
		}
		if isDir && name != "" {
			children = append(children, join(path, name))
		}
	}
	if c.Progress != nil {
		c.Progress(c.entries.Load(), c.bytes.Load())
	}
	return children, nil
}

// entry checks one entry and reports whether it is a directory.
func (c *Check) entry(ctx context.Context, dir int, path, name string, row *known) (isDir bool, err error) {
	full := join(path, name)
	var st unix.Stat_t
	if err := lstat(dir, name, &st); err == unix.ENOENT {
		c.differ(full, "missing")
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("stat %q: %w", full, err)
	}
	c.entries.Add(1)
	kinds := rowDifferences(&row.entry, &st)
	if len(kinds) > 0 && c.touched(full) {
		kinds = slices.DeleteFunc(kinds, func(k string) bool { return k == "time" })
	}
	if kindOf(st.Mode) == unix.S_IFREG && kindOf(row.mode) == unix.S_IFREG && row.ctimeSec != 0 && uint64(st.Size) == row.size {
		same, err := true, error(nil)
		if c.Whole == nil || c.Whole(full, st.Size) {
			same, err = c.content(ctx, dir, name, &st, row.digest)
		} else {
			c.skipped.Add(st.Size)
		}
		switch {
		case err != nil:
			return false, fmt.Errorf("read %q: %w", full, err)
		case !same && st.Blocks*512 < st.Size:
			c.mu.Lock()
			c.result.Unclear = append(c.result.Unclear, full)
			c.mu.Unlock()
		case !same:
			kinds = append(kinds, "content")
		}
	}
	if len(kinds) > 0 {
		c.differ(full, kinds...)
	}
	return kindOf(st.Mode) == unix.S_IFDIR, nil
}

// touched reports whether a directory has another time because of what a pass added.
func (c *Check) touched(path string) bool {
	for _, ours := range c.Ours {
		dir, name := split(ours)
		if dir != path {
			continue
		}
		fd, err := openDir(c.Root, dir)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = lstat(fd, name, &st)
		unix.Close(fd)
		if err == nil {
			return true
		}
	}
	return false
}

// rowDifferences names in what an entry is not as the catalog has it. A row without
// a time of change is of an entry that was never seen quiet.
func rowDifferences(row *entry, st *unix.Stat_t) (kinds []string) {
	e := entryOf(row.name, st)
	if kindOf(e.mode) != kindOf(row.mode) {
		return []string{"type"}
	}
	add := func(kind string, differ bool) {
		if differ {
			kinds = append(kinds, kind)
		}
	}
	add("mode", e.mode != row.mode)
	add("owner", e.uid != row.uid || e.gid != row.gid)
	if row.ctimeSec != 0 {
		add("time", e.mtimeSec != row.mtimeSec || e.mtimeNsec != row.mtimeNsec)
		add("size", kindOf(e.mode) != unix.S_IFLNK && e.size != row.size)
	}
	add("device", e.device != row.device)
	return kinds
}

// content reports whether a file's content has the digest.
func (c *Check) content(ctx context.Context, dir int, name string, st *unix.Stat_t, want chunk.Digest) (bool, error) {
	fd, err := openFile(dir, name)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	h := listHasher{ctx: ctx, fd: fd, params: chunk.ParamsFor(st.Size)}
	err = segments(fd, st.Size, st.Blocks*512 < st.Size, h.data, func(end int64) { h.sum.Hole(end - h.at); h.at = end })
	c.bytes.Add(st.Size)
	return err == nil && h.sum.Sum() == want, err
}

// listHasher cuts a file as the source does, see docs/formats.md, "Chunks".
type listHasher struct {
	ctx    context.Context
	fd     int
	params chunk.Params
	sum    chunk.ListHasher
	at     int64
}

func (h *listHasher) data(pos, end int64) (bool, error) {
	bp := largeBuffers.Get().(*[]byte)
	defer largeBuffers.Put(bp)
	buf := (*bp)[:cap(*bp)]
	have := 0
	for pos < end || have > 0 {
		if err := h.ctx.Err(); err != nil {
			return false, err
		}
		n, err := readFull(h.fd, buf[have:min(int64(len(buf)), int64(have)+end-pos)], pos)
		if err != nil {
			return false, err
		}
		pos, have = pos+int64(n), have+n
		final := pos >= end || n == 0
		used := 0
		for used < have && (final || have-used >= h.params.Max) {
			k := chunk.Cut(buf[used:have], h.params)
			h.sum.Chunk(chunk.Sum(buf[used:used+k]), k)
			used += k
		}
		have = copy(buf, buf[used:have])
		if n == 0 && pos < end {
			break // shorter than it says: the digest will not be equal
		}
	}
	h.at = end
	return true, nil
}
