package tree

import (
	"context"
	"fmt"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
)

// planner turns the directories a scan reports into jobs. What changes the shape
// of the tree it does itself, in the order of the scan: a parent is in place
// before its children are looked at.
type planner struct {
	*Pass
	open  map[string]*dirJob // directories of which more messages follow
	queue []*job
}

// maxOpen bounds the directories of which more messages follow: more than any
// scanner has workers.
const maxOpen = 64

// maxPending bounds the jobs under way.
const maxPending = 16 << 10

// dirJob is a directory some of whose pages changed. Its own times are set after
// all its entries are settled; only then is its last page stored, so that a cut
// before cannot leave the directory looking finished.
type dirJob struct {
	path    string
	key     dirKey
	self    *agentpb.Meta
	names   []string // in the replica, sorted
	sub     uint64
	waiting int // pages not settled, plus one until the last message is in
	held    *pageJob
}

// pageJob is one changed page.
type pageJob struct {
	dir         *dirJob
	first, next []byte
	head        bool
	rows        []known
	drop        map[int]bool // rows that vanished
	waiting     int
}

func (pl *planner) directory(ctx context.Context, d *agentpb.Directory) error {
	path := string(d.Path)
	if err := checkCarried(path); err != nil {
		return fmt.Errorf("scan of %s: %w", pl.Filesystem, err)
	}
	if pl.gone.covers(path) {
		delete(pl.open, path)
		return nil
	}
	dj := pl.open[path]
	if dj == nil {
		if len(pl.open) >= maxOpen {
			return fmt.Errorf("scan of %s: more than %d directories open at once", pl.Filesystem, maxOpen)
		}
		if d.Self == nil {
			return fmt.Errorf("scan of %s: directory %q without its own state", pl.Filesystem, path)
		}
		dj = &dirJob{path: path, key: keyOf(path), self: d.Self, sub: d.Subvolume, waiting: 1}
		if err := pl.begin(dj); err != nil {
			return pl.unlessGone(path, err)
		}
		pl.open[path] = dj
	}
	for _, pg := range d.Pages {
		if err := pl.page(ctx, dj, pg); err != nil {
			return pl.unlessGone(path, err)
		}
	}
	if d.Last {
		delete(pl.open, path)
		dj.names = nil
		pl.doneWith(dj)
	}
	return nil
}

// unlessGone drops an error that comes of the directory having been moved away
// since.
func (pl *planner) unlessGone(path string, err error) error {
	if isVanished(err) && pl.gone.covers(path) {
		delete(pl.open, path)
		return nil
	}
	return err
}

// begin makes sure the directory exists in the replica and reads its names.
func (pl *planner) begin(dj *dirJob) error {
	fd, err := pl.makeDirs(dj.path)
	if err != nil {
		return fmt.Errorf("make directory %q in the replica: %w", dj.path, err)
	}
	defer unix.Close(fd)
	if dj.names, err = readNames(fd); err != nil {
		return fmt.Errorf("read directory %q of the replica: %w", dj.path, err)
	}
	sort.Strings(dj.names)
	return nil
}

// makeDirs opens the directory at path, making it and its parents where they are
// missing and moving aside what is in the way.
func (pl *planner) makeDirs(path string) (int, error) {
	fd, err := openDir(pl.Root, path)
	if err == nil || path == "" {
		return fd, err
	}
	dir, name := split(path)
	parent, err := pl.makeDirs(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	if err := pl.clearWay(parent, dir, name, unix.S_IFDIR); err != nil {
		return -1, err
	}
	if err := unlocked(parent, "", func() error { return unix.Mkdirat(parent, name, 0o700) }); err != nil && err != unix.EEXIST {
		return -1, err
	}
	if err := pl.missed(path); err != nil {
		return -1, err
	}
	// Its own state is the parent's to tell.
	if _, err := pl.Catalog.drop(dir, pl.subvolume(dir)); err != nil {
		return -1, err
	}
	pl.lost = append(pl.lost, dir)
	return openDir(parent, name)
}

// clearWay moves aside an entry that is of another kind than wanted.
func (pl *planner) clearWay(dir int, path, name string, kind uint32) error {
	var st unix.Stat_t
	if err := lstat(dir, name, &st); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return err
	}
	if kindOf(st.Mode) == kind {
		return nil
	}
	return pl.remove(dir, path, name, st.Mode)
}

// remove takes an entry out of the replica and its pages out of the catalog.
func (pl *planner) remove(dir int, path, name string, mode uint32) error {
	if err := pl.trash.take(dir, path, name); err != nil {
		return err
	}
	pl.Progress.Deleted.Add(1)
	if kindOf(mode) != unix.S_IFDIR {
		return pl.Catalog.dropContent(join(path, name))
	}
	pl.dirs.forget()
	return pl.forgetPages(join(path, name))
}

func (pl *planner) page(ctx context.Context, dj *dirJob, pg *agentpb.Page) error {
	entries, err := unpack(pg, dj.path == "")
	if err != nil {
		return fmt.Errorf("scan of %s, directory %q: %w", pl.Filesystem, dj.path, err)
	}
	for _, e := range entries {
		if e.name == stage {
			return fmt.Errorf("scan of %s, directory %q: %w", pl.Filesystem, dj.path, errStage)
		}
	}
	old, err := pl.Catalog.between(dj.key, pg.First, pg.Next, pg.Head)
	if err != nil {
		return err
	}
	dir, err := pl.dirs.get(dj.path)
	if err != nil {
		return fmt.Errorf("open directory %q of the replica: %w", dj.path, err)
	}
	defer pl.dirs.put(dir)
	if err := pl.removeExtra(dir, dj, pg, entries); err != nil {
		return err
	}
	pj := &pageJob{dir: dj, first: pg.First, next: pg.Next, head: pg.Head, rows: make([]known, len(entries)), waiting: 1}
	pl.await(&dj.waiting) // earlier pages of the directory may be under way
	for i, e := range entries {
		k, ok := old[e.name]
		exists := e.name == "" || contains(dj.names, e.name)
		pj.rows[i] = known{entry: e, digest: k.digest}
		if ok && exists && k.entry == e {
			continue
		}
		if err := pl.shape(dir, dj, e, &exists); err != nil {
			return err
		}
		pl.await(&pj.waiting) // a name that follows another may be settled at any time
		if ok && k.links > 1 {
			pl.links.touch(join(dj.path, e.name))
		}
		j := &job{page: pj, row: i, path: join(dj.path, e.name), exists: exists}
		pl.Progress.Files.Add(1)
		if e.mode&unix.S_IFMT != unix.S_IFDIR && e.links > 1 {
			if !pl.joinLinks(linkKey{dj.sub, e.inode}, j, e) {
				continue // waits for the first name of the same inode
			}
		}
		pl.queue = append(pl.queue, j)
	}
	pl.pageStep(pj)
	if len(pl.queue) >= batchParts {
		return pl.flush(ctx)
	}
	return nil
}

// await counts one more thing that a page or a directory waits for.
func (p *Pass) await(n *int) {
	p.resMu.Lock()
	*n++
	p.resMu.Unlock()
}

func contains(sorted []string, name string) bool {
	i := sort.SearchStrings(sorted, name)
	return i < len(sorted) && sorted[i] == name
}

// removeExtra removes what the replica has in the page's range and the source has
// not.
func (pl *planner) removeExtra(dir int, dj *dirJob, pg *agentpb.Page, entries []entry) error {
	from := sort.SearchStrings(dj.names, string(pg.First))
	if pg.Head {
		from = 0
	}
	k := 0
	for _, name := range dj.names[from:] {
		if len(pg.Next) > 0 && name >= string(pg.Next) {
			break
		}
		for k < len(entries) && entries[k].name < name {
			k++
		}
		if (k < len(entries) && entries[k].name == name) || name == stage {
			continue
		}
		var st unix.Stat_t
		if err := lstat(dir, name, &st); err == unix.ENOENT {
			continue
		} else if err != nil {
			return fmt.Errorf("stat %q in the replica: %w", join(dj.path, name), err)
		}
		if dj.path == "" && name == "lost+found" && kindOf(st.Mode) == unix.S_IFDIR {
			continue // mkfs made it
		}
		if err := pl.remove(dir, dj.path, name, st.Mode); err != nil {
			return err
		}
	}
	return nil
}

// shape makes way for an entry and, if it is a directory, the directory.
func (pl *planner) shape(dir int, dj *dirJob, e entry, exists *bool) error {
	if e.name == "" {
		return nil
	}
	if *exists {
		if err := pl.clearWay(dir, dj.path, e.name, kindOf(e.mode)); err != nil {
			return err
		}
		var st unix.Stat_t
		*exists = lstat(dir, e.name, &st) == nil
		if *exists && pl.Btrfs && kindOf(e.mode) == unix.S_IFDIR && (st.Ino == btrfsRootInode) != (e.inode == btrfsRootInode) {
			// A subvolume is mounted by its name: a plain directory is no stand-in.
			if err := pl.remove(dir, dj.path, e.name, st.Mode); err != nil {
				return err
			}
			*exists = false
		}
	}
	if kindOf(e.mode) != unix.S_IFDIR || *exists {
		return nil
	}
	err := unlocked(dir, "", func() error {
		if pl.Btrfs && e.inode == btrfsRootInode {
			return btrfs.Create(dir, e.name)
		}
		return unix.Mkdirat(dir, e.name, 0o700)
	})
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("make directory %q in the replica: %w", join(dj.path, e.name), err)
	}
	return pl.missed(join(dj.path, e.name))
}

// missed is told of each directory that is made in the replica. Where the catalog
// has pages of it, they are of one that was moved away, by a pass that was killed
// or while the source moved it about: the scan has taken them for true, so the
// directory has to be scanned again.
func (pl *planner) missed(path string) error {
	has, err := pl.Catalog.has(keyOf(path))
	if err != nil || !has {
		return err
	}
	pl.lost = append(pl.lost, path)
	return pl.forgetPages(path)
}

// flush hands the queued jobs to the copy sessions.
func (pl *planner) flush(ctx context.Context) error {
	for len(pl.queue) > 0 {
		if err := pl.pending.below(ctx, maxPending); err != nil {
			return err
		}
		n := min(len(pl.queue), batchParts)
		if err := pl.request(ctx, pl.queue[:n]...); err != nil {
			return err
		}
		pl.queue = pl.queue[n:]
	}
	pl.queue = nil
	return nil
}
