package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// commitEvery is how often a pass makes what it has done durable, so that a cut
// costs no more than that much work.
const commitEvery = 10 * time.Second

// Pass brings the replica of one filesystem up to the source's state. Fill in the
// fields, then call Run once.
type Pass struct {
	Conns      []*pipe.Conn // to the agent that has the filesystem open; the first also scans
	Filesystem string       // mount point at the source
	Root       int          // open descriptor of the replica's root
	Btrfs      bool         // the replica is btrfs
	Catalog    *Catalog
	Index      *chunk.Index
	Tree       string // name of this replica in Index and Sources
	Sources    *Sources
	Level      int                 // compression: 0 finds it itself
	Space      func(n int64) error // says why n more bytes may not be written, or nil
	Only       []string            // carry these directories alone; none means all
	Progress   *Progress           // may be nil

	dirs    *openDirs
	trash   *trash
	writer  *chunk.Writer
	links   linkGroups
	result  Result
	resMu   sync.Mutex
	fatal   context.CancelCauseFunc
	copies  []*copySession
	nextID  atomic.Uint64
	settled struct {
		sync.Mutex
		metas map[dirKey]*agentpb.Meta // directories whose own entry was copied
	}
	gone    gonePaths
	lost    []string // directories to scan again; the planner's alone
	retryMu sync.Mutex
	retries []*job
	pending pendingCount
}

// Progress counts what a pass does, for showing. All fields may be read at any
// time.
type Progress struct {
	Examined atomic.Int64 // entries seen by the scan
	Known    atomic.Int64 // entries expected, from the catalog; 0 unknown
	Files    atomic.Int64 // entries to create or change, so far
	Done     atomic.Int64 // of those, settled
	Bytes    atomic.Int64 // content of those
	Settled  atomic.Int64 // of that, in place
	Sent     atomic.Int64 // of that, what crossed the wire, uncompressed
	Reused   atomic.Int64 // of that, what was here already
	Stiff    atomic.Int64 // of what crossed the wire, what did not compress
	Deleted  atomic.Int64
	Scanning atomic.Bool
}

// Result says what a pass did.
type Result struct {
	Scan     *agentpb.ScanSummary
	Fuzzy    []string  // files that changed each time they were read
	Problems []Problem // what could not be carried: the replica lacks it
	Files    int64
	Deleted  int64
	Read     int64
	Sent     int64
	Reused   int64
}

// Problem is one entry that could not be carried.
type Problem struct {
	Path string
	Text string
}

const maxListed = 10000

// Run scans, copies and removes until the replica is as the source was. It
// returns what it did, also when it is cut short; the catalog then holds what was
// finished.
func (p *Pass) Run(ctx context.Context) (*Result, error) {
	if p.Progress == nil {
		p.Progress = &Progress{}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.fatal = cancel
	p.settled.metas = map[dirKey]*agentpb.Meta{}
	p.links.groups = map[linkKey]*linkGroup{}
	p.links.claims, p.links.jobs = map[uint64]*linkGroup{}, map[string]bool{}
	p.dirs = newOpenDirs(p.Root)
	defer p.dirs.forget()
	var err error
	if p.trash, err = newTrash(p.Root, p.Btrfs); err != nil {
		return nil, err
	}
	if p.writer, err = p.Index.NewWriter(p.Tree); err != nil {
		return nil, err
	}
	p.Sources.add(p.Tree, p.openOwn)
	err = p.run(ctx)
	err = errors.Join(err, p.Sources.Add(p.Tree, p.Root))
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = cause
	}
	err = errors.Join(err, p.finish(), p.writer.Close())
	pr := p.Progress
	r := &p.result
	r.Files, r.Deleted, r.Read, r.Sent, r.Reused = pr.Done.Load(), pr.Deleted.Load(), pr.Bytes.Load(), pr.Sent.Load(), pr.Reused.Load()
	return r, err
}

// openOwn opens a file of this replica wherever the pass may have put it.
func (p *Pass) openOwn(path string) (int, error) {
	fd, err := openRegular(p.Root, path)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		if to, ok := p.trash.find(path); ok {
			return openRegular(p.Root, to)
		}
	}
	return fd, err
}

func (p *Pass) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		for _, c := range p.copies {
			c.end()
		}
	}()
	for _, conn := range p.Conns {
		c, err := p.startCopy(ctx, conn, &wg)
		if err != nil {
			return err
		}
		p.copies = append(p.copies, c)
	}
	stop := make(chan struct{})
	wg.Go(func() { p.committer(stop) })
	defer close(stop)
	only := p.Only
	for range maxRounds {
		p.lost = nil
		if err := p.scan(ctx, only); err != nil {
			return err
		}
		if err := p.settleAll(ctx); err != nil {
			return err
		}
		if len(p.lost) == 0 {
			break
		}
		if err := p.Catalog.commit(p.sync); err != nil {
			return err
		}
		only = topmost(p.lost)
	}
	for _, c := range p.copies {
		if err := c.last(ctx); err != nil {
			return err
		}
	}
	return nil
}

// topmost returns the directories that lie in no other of them, each once: a scan goes
// into all that is below, and two jobs for one entry would be in each other's way.
func topmost(dirs []string) (out []string) {
	in := map[string]bool{}
	for _, d := range dirs {
		in[d] = true
	}
	for d := range in {
		covered := false
		for up := d; up != "" && !covered; {
			up, _ = split(up)
			covered = in[up]
		}
		if !covered {
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// maxRounds bounds the scans of one pass: a second one only happens where the
// catalog knew directories that the replica had lost.
const maxRounds = 3

// settleAll waits for all jobs. What changed under the reader gets one more chance
// now that the rush is over.
func (p *Pass) settleAll(ctx context.Context) error {
	for {
		if err := p.pending.wait(ctx); err != nil {
			return err
		}
		p.retryMu.Lock()
		again := p.retries
		p.retries = nil
		p.retryMu.Unlock()
		if len(again) == 0 {
			return nil
		}
		for len(again) > 0 {
			n := min(len(again), batchParts)
			for _, j := range again[:n] {
				j.again = true
			}
			if err := p.pending.below(ctx, maxPending); err != nil {
				return err
			}
			if err := p.request(ctx, again[:n]...); err != nil {
				return err
			}
			again = again[n:]
		}
	}
}

// committer makes finished pages durable every now and then.
func (p *Pass) committer(stop chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			if time.Since(last) < commitEvery && !p.Catalog.full() {
				continue
			}
			if err := p.Catalog.commit(p.sync); err != nil {
				p.fatal(err)
				return
			}
			last = time.Now()
		}
	}
}

func (p *Pass) sync() error { return unix.Syncfs(p.Root) }

// finish removes what the pass has put aside and commits what is complete.
func (p *Pass) finish() error {
	touched, err := p.trash.empty()
	for _, path := range touched {
		err = errors.Join(err, p.mend(path))
	}
	for _, path := range p.Only {
		// Its own state stands in a page of its parent, which was not carried: the two
		// must agree.
		if e := p.asNoted(path); !errors.Is(e, unix.ENOENT) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, p.Catalog.commit(p.sync))
}

// mend gives a directory that held a stage its own times again: those this pass
// has seen, or those the catalog has.
func (p *Pass) mend(path string) error {
	p.settled.Lock()
	m := p.settled.metas[keyOf(path)]
	p.settled.Unlock()
	if m != nil {
		return p.applySelf(path, m)
	}
	return p.asNoted(path)
}

// asNoted gives a directory the times that the catalog has of it, if it has.
func (p *Pass) asNoted(path string) error {
	dir, name := split(path)
	rows, err := p.Catalog.between(keyOf(dir), []byte(name), append([]byte(name), 0), name == "")
	if err != nil {
		return err
	}
	row, ok := rows[name]
	if !ok {
		return nil // not carried yet
	}
	fd, err := p.dirs.get(path)
	if err != nil {
		return fmt.Errorf("open directory %q of the replica: %w", path, err)
	}
	defer p.dirs.put(fd)
	return setTimes(fd, "", &agentpb.Meta{MtimeSec: row.mtimeSec, MtimeNsec: row.mtimeNsec})
}

// noteMeta records a directory's own state and returns the newest known.
func (p *Pass) noteMeta(path string, m *agentpb.Meta) *agentpb.Meta {
	p.settled.Lock()
	defer p.settled.Unlock()
	k := keyOf(path)
	if old := p.settled.metas[k]; old != nil && (old.CtimeSec > m.CtimeSec || old.CtimeSec == m.CtimeSec && old.CtimeNsec > m.CtimeNsec) {
		return old
	}
	p.settled.metas[k] = &agentpb.Meta{MtimeSec: m.MtimeSec, MtimeNsec: m.MtimeNsec, CtimeSec: m.CtimeSec, CtimeNsec: m.CtimeNsec, Flags: m.Flags}
	return p.settled.metas[k]
}

func (p *Pass) problem(path, text string) {
	p.resMu.Lock()
	defer p.resMu.Unlock()
	if len(p.result.Problems) < maxListed {
		p.result.Problems = append(p.result.Problems, Problem{path, text})
	}
}

// scan sends the baseline and works, for the whole or for some directories only, through the directories that come back.
func (p *Pass) scan(ctx context.Context, only []string) error {
	p.Progress.Scanning.Store(true)
	defer p.Progress.Scanning.Store(false)
	st, err := p.Conns[0].Open(ctx, "tree.scan")
	if err != nil {
		return fmt.Errorf("scan %s: %w", p.Filesystem, err)
	}
	defer st.Close()
	req := &agentpb.ScanRequest{Filesystem: p.Filesystem}
	for _, path := range only {
		req.Only = append(req.Only, []byte(path))
	}
	if err := st.Send(req); err != nil {
		return fmt.Errorf("scan %s: %w", p.Filesystem, err)
	}
	if err := p.Catalog.Baseline(func(b *agentpb.Baseline) error { return st.Send(b) }); err != nil {
		return fmt.Errorf("send baseline of %s: %w", p.Filesystem, err)
	}
	if err := st.CloseSend(); err != nil {
		return fmt.Errorf("scan %s: %w", p.Filesystem, err)
	}
	var summary *agentpb.ScanSummary
	pl := &planner{Pass: p, open: map[string]*dirJob{}}
	for {
		var m agentpb.ScanReply
		if err := st.Recv(&m); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("scan %s: %w", p.Filesystem, err)
		}
		p.Progress.Examined.Store(int64(m.EntriesSoFar))
		for _, d := range m.Directories {
			if err := pl.directory(ctx, d); err != nil {
				return err
			}
		}
		if err := pl.flush(ctx); err != nil {
			return err
		}
		if m.Summary != nil {
			summary = m.Summary
		}
	}
	if summary == nil || len(pl.open) > 0 {
		return fmt.Errorf("scan %s: %w", p.Filesystem, io.ErrUnexpectedEOF)
	}
	if p.result.Scan == nil {
		p.result.Scan = summary
	}
	for _, pr := range summary.Problems {
		if !pr.Vanished {
			p.problem(string(pr.Path), pr.Text)
		}
	}
	return nil
}

// pendingCount counts jobs under way and lets one wait until they are few.
type pendingCount struct {
	mu   sync.Mutex
	n    int
	wake chan struct{}
}

func (c *pendingCount) add(n int) {
	c.mu.Lock()
	c.n += n
	if n < 0 && c.wake != nil {
		close(c.wake)
		c.wake = nil
	}
	c.mu.Unlock()
}

// below waits until fewer than limit jobs are under way.
func (c *pendingCount) below(ctx context.Context, limit int) error {
	for {
		c.mu.Lock()
		if c.n < limit {
			c.mu.Unlock()
			return nil
		}
		if c.wake == nil {
			c.wake = make(chan struct{})
		}
		wake := c.wake
		c.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *pendingCount) wait(ctx context.Context) error { return c.below(ctx, 1) }
