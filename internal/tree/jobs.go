package tree

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// job is one entry to create or change.
type job struct {
	page   *pageJob
	row    int
	path   string
	exists bool // something of its kind is in the replica
	again  bool // second reading, after it changed under the first
	group  *linkGroup

	// Of a file that comes in several parts; guarded by mu.
	mu      sync.Mutex
	file    *largeFile
	meta    *agentpb.Meta
	parts   int // arrived and not yet applied
	tail    *agentpb.Part
	failed  error
	settled bool
	begun   bool // its head has come
	ended   bool // its tail has come
}

// linkKey names an inode of the source.
type linkKey struct{ subvolume, inode uint64 }

// linkGroup is the names of one inode that a pass has met. The first is copied,
// the others are linked to it.
type linkGroup struct {
	key       linkKey
	path      string // of the copied one
	settled   bool
	ok        bool
	row       known
	ino       uint64 // in the replica, once settled
	followers []*job
}

type linkGroups struct {
	mu     sync.Mutex
	groups map[linkKey]*linkGroup
	claims map[uint64]*linkGroup // inode of the replica → who may keep it
	jobs   map[string]bool       // paths that had several names and are being changed
}

// mayKeep reports whether the job may go on with the replica's inode st that is
// at its path. An inode of several names belongs to the first of the source's
// inodes that asks for it: the names of all others must come off it.
func (l *linkGroups) mayKeep(j *job, st *unix.Stat_t) bool {
	if st.Nlink <= 1 {
		return true
	}
	if j.group == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	owner := l.claims[st.Ino]
	if owner == nil {
		owner = j.group
		l.claims[st.Ino] = owner
	}
	return owner == j.group
}

// join adds a job to its inode's group and reports whether it is to be requested:
// as the first of its group, or because the group is settled and it need only be
// linked. The others wait for the first.
// A name that the replica has and that is not to change counts as the first:
// renaming a directory leaves the inodes in it as they are, and so do not all
// names of an inode show up as changed.
func (p *Pass) joinLinks(k linkKey, j *job, e entry) bool {
	l := &p.links
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[k]
	if g == nil {
		g = &linkGroup{key: k, path: j.path}
		l.groups[k] = g
		j.group = g
		for _, t := range p.Catalog.twins(k, j.path, e) {
			if ino, ok := p.inodeAt(t.path); ok && !l.jobs[t.path] {
				g.path, g.row, g.ino, g.settled, g.ok = t.path, t.row, ino, true, true
				l.claims[ino] = g
				break
			}
		}
		return true
	}
	j.group = g
	if g.settled {
		return true
	}
	g.followers = append(g.followers, j)
	return false
}

// touch notes that a name of several is being changed: it is no safe twin.
func (l *linkGroups) touch(path string) {
	l.mu.Lock()
	l.jobs[path] = true
	l.mu.Unlock()
}

// inodeAt returns the replica's inode of what is, or in this pass was, at path.
func (p *Pass) inodeAt(path string) (uint64, bool) {
	for _, at := range p.places(path) {
		dirPath, name := split(at)
		dir, err := p.dirs.get(dirPath)
		if err != nil {
			continue
		}
		var st unix.Stat_t
		err = lstat(dir, name, &st)
		p.dirs.put(dir)
		if err == nil {
			return st.Ino, true
		}
	}
	return 0, false
}

// places returns where what is known as path may lie: there, or put aside.
func (p *Pass) places(path string) []string {
	if to, ok := p.trash.find(path); ok {
		return []string{path, to}
	}
	return []string{path}
}

// canFollow reports whether j's content is in place under another name already.
func (l *linkGroups) canFollow(j *job) bool {
	if j.group == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return j.group.settled && j.group.path != j.path
}

// settle ends a job: its row is as given, or gone.
func (p *Pass) settle(j *job, row *known) {
	j.mu.Lock()
	if j.settled {
		j.mu.Unlock()
		return
	}
	j.settled = true
	j.mu.Unlock()
	p.Progress.Done.Add(1)
	pj := j.page
	p.resMu.Lock()
	if row == nil {
		if pj.drop == nil {
			pj.drop = map[int]bool{}
		}
		pj.drop[j.row] = true
	} else {
		pj.rows[j.row] = *row
	}
	p.resMu.Unlock()
	p.pageStep(pj)
}

// pageStep counts one entry of a page as settled, and stores the page with the
// last.
func (p *Pass) pageStep(pj *pageJob) {
	p.resMu.Lock()
	pj.waiting--
	done := pj.waiting == 0
	hold := done && pj.dir.held == nil
	if hold {
		pj.dir.held = pj
	}
	p.resMu.Unlock()
	if !done {
		return
	}
	if !hold {
		p.store(pj)
	}
	p.doneWith(pj.dir)
}

func (p *Pass) store(pj *pageJob) {
	if p.gone.covers(pj.dir.path) {
		return
	}
	rows := pj.rows
	if len(pj.drop) > 0 {
		rows = nil
		for i, r := range pj.rows {
			if !pj.drop[i] {
				rows = append(rows, r)
			}
		}
	}
	if err := p.Catalog.put(pj.dir, pj.first, pj.next, pj.head, rows); err != nil {
		p.fatal(err)
	}
	pj.rows = nil
}

// doneWith counts down what a directory waits for; at the end its own times are
// set and its last page is stored.
func (p *Pass) doneWith(dj *dirJob) {
	p.resMu.Lock()
	dj.waiting--
	done := dj.waiting == 0
	p.resMu.Unlock()
	if !done {
		return
	}
	if p.gone.covers(dj.path) {
		return
	}
	if err := p.applySelf(dj.path, p.noteMeta(dj.path, dj.self)); err != nil {
		if p.gone.covers(dj.path) {
			return
		}
		p.problem(dj.path, err.Error())
		return
	}
	if dj.held != nil {
		p.store(dj.held)
	}
}

// applySelf sets what working in a directory has changed of it.
func (p *Pass) applySelf(path string, m *agentpb.Meta) error {
	fd, err := p.dirs.get(path)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer p.dirs.put(fd)
	err = unlocked(fd, "", func() error {
		ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.MtimeSec, Nsec: int64(m.MtimeNsec)}}
		return unix.UtimesNanoAt(fd, ".", ts, 0)
	})
	if err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return setFlags(fd, m.Flags)
}

// finishJob ends a copied entry: done when err is nil. m is its state when the
// reading began; o how the reading ended.
func (p *Pass) finishJob(j *job, m *agentpb.Meta, o *agentpb.Outcome, err error) {
	defer p.pending.add(-1)
	row := p.page(j)
	dir, _ := split(j.path)
	switch {
	case err != nil && p.gone.covers(dir):
		p.vanished(j)
	case err != nil:
		p.problem(j.path, err.Error())
		p.unsettled(j, row)
	case o.Kind == agentpb.Outcome_VANISHED:
		p.vanished(j)
	case o.Kind == agentpb.Outcome_FAILED:
		p.problem(j.path, o.Error)
		p.unsettled(j, row)
	default:
		row.entry = entryOfMeta(row.name, m)
		copy(row.digest[:], o.Digest)
		if kindOf(m.Mode) == unix.S_IFDIR {
			p.noteMeta(j.path, m)
		}
		if o.Kind == agentpb.Outcome_CHANGED {
			if !j.again && !j.leads() {
				p.retryMu.Lock()
				p.retries = append(p.retries, j.fresh())
				p.retryMu.Unlock()
				return
			}
			p.fuzzy(j.path)
			row.ctimeSec, row.ctimeNsec = 0, 0
		}
		if j.group != nil {
			p.settleLinks(j, row, m)
		}
		p.settle(j, &row)
	}
}

// leads reports whether other names wait for this job.
func (j *job) leads() bool { return j.group != nil && j.group.path == j.path }

// fresh returns the job for another reading.
func (j *job) fresh() *job {
	return &job{page: j.page, row: j.row, path: j.path, exists: true, group: j.group}
}

func (p *Pass) page(j *job) known {
	p.resMu.Lock()
	defer p.resMu.Unlock()
	return j.page.rows[j.row]
}

func (p *Pass) fuzzy(path string) {
	p.resMu.Lock()
	defer p.resMu.Unlock()
	if len(p.result.Fuzzy) < maxListed {
		p.result.Fuzzy = append(p.result.Fuzzy, path)
	}
}

// unsettled ends a job whose entry is not as at the source: the next pass looks
// at it again.
func (p *Pass) unsettled(j *job, row known) {
	row.ctimeSec, row.ctimeNsec = 0, 0
	row.digest = chunk.Digest{}
	p.failGroup(j)
	p.settle(j, &row)
}

// vanished ends a job whose entry is gone from the source since the scan.
func (p *Pass) vanished(j *job) {
	dirPath, name := split(j.path)
	if name != "" {
		if dir, err := p.dirs.get(dirPath); err == nil {
			if err := p.putAside(dir, dirPath, name); err != nil {
				p.problem(j.path, err.Error())
			}
			p.dirs.put(dir)
		}
	}
	p.failGroup(j)
	p.settle(j, nil)
}

// settleLinks gives a group's other names the leader's content.
func (p *Pass) settleLinks(j *job, row known, m *agentpb.Meta) {
	g := j.group
	p.links.mu.Lock()
	if m.Inode != g.key.inode {
		// The name now stands for another inode than the one it was scanned as.
		p.links.mu.Unlock()
		p.failGroup(j)
		return
	}
	ino, found := p.inodeAt(j.path)
	g.settled, g.ok, g.row, g.path, g.ino = true, found, row, j.path, ino
	followers := g.followers
	g.followers = nil
	p.links.mu.Unlock()
	for _, f := range followers {
		if f != j {
			p.follow(f, g)
		}
	}
}

// follow makes f's name a link to the group's file.
func (p *Pass) follow(f *job, g *linkGroup) {
	row := g.row
	_, row.name = split(f.path)
	if err := p.link(g, f.path); err != nil {
		if dir, _ := split(f.path); p.gone.covers(dir) {
			p.settle(f, nil)
			return
		}
		p.problem(f.path, fmt.Sprintf("link to %q: %v", g.path, err))
		row.ctimeSec, row.ctimeNsec = 0, 0
	}
	p.settle(f, &row)
}

// failGroup lets the next name of an inode lead, after the first could not.
func (p *Pass) failGroup(j *job) {
	if j.group == nil {
		return
	}
	p.links.mu.Lock()
	g := j.group
	var next *job
	switch {
	case g.ok || g.path != j.path:
	case len(g.followers) > 0:
		next = g.followers[0]
		g.followers = g.followers[1:]
		g.path = next.path
	case p.links.groups[g.key] == g:
		delete(p.links.groups, g.key) // a name still to come must not wait for this one
	}
	p.links.mu.Unlock()
	if next != nil {
		p.retryMu.Lock()
		p.retries = append(p.retries, next)
		p.retryMu.Unlock()
	}
}
