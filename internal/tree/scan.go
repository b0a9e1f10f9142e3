package tree

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const (
	// scanBatch is how many entries go into one message, about.
	scanBatch = 4096
	// pathCost is how many bytes of a directory's path count as an entry.
	pathCost = 256
	// scanEvery is how often a scan that finds nothing new says that it is alive.
	scanEvery = time.Second
	// maxProblems bounds how many single problems are told; the rest are counted.
	maxProblems = 1000
)

// scanHandler serves the "scan" call: baseline in, changed directories out.
func (s *Service) scanHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.ScanRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	v, err := s.view(req.Filesystem)
	if err != nil {
		return err
	}
	base, err := receiveBaseline(st)
	if err != nil {
		return err
	}
	sc := &scanner{view: v, base: base, out: st, gov: s.gov}
	for _, path := range req.Only {
		if err := checkPath(string(path)); err != nil {
			return err
		}
		sc.stack = append(sc.stack, dirTask{string(path), v.subvolume(string(path))})
	}
	if len(req.Only) == 0 {
		sc.stack = []dirTask{{}}
	}
	return sc.run(ctx)
}

func receiveBaseline(st *pipe.Stream) (map[uint64]uint64, error) {
	base := map[uint64]uint64{}
	for {
		var b agentpb.Baseline
		if err := st.Recv(&b); err == io.EOF {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
		if len(b.Keys) != len(b.Digests) || len(b.Keys)%8 != 0 {
			return nil, fmt.Errorf("baseline of %d bytes of keys and %d of digests", len(b.Keys), len(b.Digests))
		}
		for i := 0; i < len(b.Keys); i += 8 {
			base[binary.BigEndian.Uint64(b.Keys[i:])] = binary.BigEndian.Uint64(b.Digests[i:])
		}
		if b.Last {
			return base, nil
		}
	}
}

// scanner walks one view with several workers and tells of each directory that is
// not as in the baseline.
type scanner struct {
	view *view
	base map[uint64]uint64
	out  *pipe.Stream
	gov  Governor

	mu       sync.Mutex // guards the stack
	cond     *sync.Cond
	stack    []dirTask
	busy     int
	stopped  error
	entries  atomic.Uint64
	problems []*agentpb.Problem // guarded by outMu
	// visit, where it is set, is told of each entry, by several goroutines at once, and
	// nothing goes out.
	visit func(dir, name string, st *unix.Stat_t)

	outMu   sync.Mutex
	pending agentpb.ScanReply
	pendN   int
	summary agentpb.ScanSummary
	sum     uint64
}

type dirTask struct {
	path      string
	subvolume uint64
}

func (s *scanner) run(ctx context.Context) error {
	alive := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() { s.heartbeat(alive) })
	err := s.walk(ctx)
	close(alive)
	ticker.Wait()
	if err != nil {
		return err
	}
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if err := s.flush(); err != nil {
		return err
	}
	s.summary.Sum = binary.BigEndian.AppendUint64(nil, s.sum)
	s.summary.Problems = s.problems
	return s.out.Send(&agentpb.ScanReply{Summary: &s.summary, EntriesSoFar: s.entries.Load()})
}

// walk goes through the directories on the stack and all below them.
func (s *scanner) walk(ctx context.Context) error {
	s.cond = sync.NewCond(&s.mu)
	stop := context.AfterFunc(ctx, func() { s.stop(ctx.Err()) })
	defer stop()
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0)+1, 8) {
		wg.Go(func() { s.worker(ctx) })
	}
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// heartbeat lets the target show progress while nothing new is found.
func (s *scanner) heartbeat(stop chan struct{}) {
	t := time.NewTicker(scanEvery)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			s.outMu.Lock()
			if err := s.flush(); err == nil {
				err = s.out.Send(&agentpb.ScanReply{EntriesSoFar: s.entries.Load()})
				if err != nil {
					s.stop(err)
				}
			}
			s.outMu.Unlock()
		}
	}
}

func (s *scanner) stop(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped == nil {
		s.stopped = err
	}
	s.cond.Broadcast()
}

func (s *scanner) worker(ctx context.Context) {
	var buf []byte
	for {
		s.mu.Lock()
		for len(s.stack) == 0 && s.busy > 0 && s.stopped == nil {
			s.cond.Wait()
		}
		if len(s.stack) == 0 || s.stopped != nil {
			s.cond.Broadcast()
			s.mu.Unlock()
			return
		}
		task := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		s.busy++
		s.mu.Unlock()
		err := s.gov.CPU(ctx)
		var children []dirTask
		if err == nil {
			children, buf, err = s.directory(task, buf)
		}
		if err != nil {
			s.stop(err)
		}
		s.mu.Lock()
		s.stack = append(s.stack, children...)
		s.busy--
		s.cond.Broadcast()
		s.mu.Unlock()
	}
}

// directory lists one directory, emits what is new of it and returns its children.
// Only an error of the connection is returned; all else is a problem to report.
func (s *scanner) directory(task dirTask, buf []byte) ([]dirTask, []byte, error) {
	fd, err := openDir(s.view.root, task.path)
	if err != nil {
		s.problem(task.path, "open directory", err)
		return nil, buf, nil
	}
	defer unix.Close(fd)
	var self unix.Stat_t
	if err := lstat(fd, "", &self); err != nil {
		s.problem(task.path, "stat", err)
		return nil, buf, nil
	}
	names, err := readNames(fd)
	if err != nil {
		s.problem(task.path, "read directory", err)
		return nil, buf, nil
	}
	l := &lister{scanner: s, task: task, dir: fd, self: &self, key: keyOf(task.path), buf: buf, head: true}
	if s.view.btrfs && self.Ino == btrfsRootInode {
		l.task.subvolume = pageKey(l.key, nil)
	}
	err = l.list(s.keep(task.path, names))
	s.outMu.Lock()
	l.count(&s.summary)
	s.sum += l.sum
	s.outMu.Unlock()
	return l.children, l.buf, err
}

// keep sorts names and drops what is not carried.
func (s *scanner) keep(dir string, names []string) []string {
	excluded := s.view.excludes.in(dir)
	n := 0
	for _, name := range names {
		if name == stage || (dir == "" && isOurs(name)) {
			continue
		}
		if excluded != nil && excluded(name) {
			s.outMu.Lock()
			s.summary.Excluded++
			s.outMu.Unlock()
			continue
		}
		names[n] = name
		n++
	}
	names = names[:n]
	if dir == "" {
		names = append(names, "") // the root's own entry
	}
	slices.Sort(names)
	return names
}

func (s *scanner) problem(path, what string, err error) {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	if len(s.problems) < maxProblems {
		s.problems = append(s.problems, &agentpb.Problem{Path: []byte(path), Text: what + ": " + err.Error(), Vanished: isVanished(err)})
	}
}

// emit queues a directory; s.outMu keeps parents before their children.
func (s *scanner) emit(d *agentpb.Directory, n int) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	s.pending.Directories = append(s.pending.Directories, d)
	s.pendN += n + 1 + len(d.Path)/pathCost
	if s.pendN < scanBatch {
		return nil
	}
	return s.flush()
}

func (s *scanner) flush() error {
	if len(s.pending.Directories) == 0 {
		return nil
	}
	s.pending.EntriesSoFar = s.entries.Load()
	err := s.out.Send(&s.pending)
	s.pending.Directories, s.pendN = nil, 0
	return err
}

// lister goes through the entries of one directory page by page.
type lister struct {
	*scanner
	task     dirTask
	dir      int
	self     *unix.Stat_t
	key      dirKey
	head     bool
	page     []entry
	changed  []*agentpb.Page
	changedN int
	sent     bool
	children []dirTask
	buf      []byte
	sum      uint64
	entriesN uint64
	bytes    uint64
	blocks   uint64
}

func (l *lister) list(names []string) error {
	for i, name := range names {
		var st unix.Stat_t
		if err := lstat(l.dir, name, &st); err != nil {
			if !isVanished(err) {
				l.problem(join(l.task.path, name), "stat", err)
			}
			continue
		}
		l.add(name, &st)
		if l.visit != nil {
			l.visit(l.task.path, name, &st)
			l.page = l.page[:0]
			continue
		}
		if endsPage(name, len(l.page)) && i < len(names)-1 {
			l.finishPage(names[i+1])
			if l.changedN >= scanBatch {
				if err := l.send(false); err != nil {
					return err
				}
			}
		}
	}
	l.entries.Add(l.entriesN)
	if l.visit != nil {
		return nil
	}
	l.finishPage("")
	if len(l.changed) > 0 || l.sent {
		return l.send(true)
	}
	return nil
}

func (l *lister) add(name string, st *unix.Stat_t) {
	l.page = append(l.page, entryOf(name, st))
	l.entriesN++
	switch kindOf(st.Mode) {
	case unix.S_IFREG:
		l.bytes += uint64(st.Size)
		l.blocks += uint64(st.Blocks) * 512
	case unix.S_IFDIR:
		if name != "" && (st.Dev == l.self.Dev || l.view.btrfs) {
			l.children = append(l.children, dirTask{join(l.task.path, name), l.task.subvolume})
		}
	}
}

func (l *lister) finishPage(next string) {
	if len(l.page) == 0 && !l.head {
		return
	}
	var digest uint64
	digest, l.buf = pageDigest(l.page, next, l.buf)
	first := ""
	if len(l.page) > 0 {
		first = l.page[0].name
	}
	l.sum += digest
	if known, ok := l.base[pageKey(l.key, []byte(first))]; !ok || known != digest {
		p := makePage(l.page, next)
		p.Head = l.head
		l.changed = append(l.changed, p)
		l.changedN += len(l.page)
	}
	l.head = false
	l.page = l.page[:0]
}

func (l *lister) send(last bool) error {
	l.sent = true
	d := &agentpb.Directory{Path: []byte(l.task.path), Pages: l.changed, Subvolume: l.task.subvolume, Self: &agentpb.Meta{}, Last: last}
	setStat(d.Self, l.self)
	readFlags(l.dir, d.Self)
	n := l.changedN
	l.changed, l.changedN = nil, 0
	return l.emit(d, n)
}

func (l *lister) count(sum *agentpb.ScanSummary) {
	sum.Directories++
	sum.Entries += l.entriesN
	sum.Bytes += l.bytes
	sum.Allocated += l.blocks
}
