package tree

import (
	"bytes"
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// digestBatch is how many directories go into one message.
const digestBatch = 512

// digestHandler serves the "digest" call: a digest of each directory, or the
// entries of those asked for.
func (s *Service) digestHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.DigestRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	v, err := s.view(req.Filesystem)
	if err != nil {
		return err
	}
	d := &digester{root: v.root, btrfs: v.btrfs, excludes: v.excludes, gov: s.gov}
	var mu sync.Mutex
	out := &agentpb.DigestReply{}
	send := func(m *agentpb.DigestReply) error {
		m.BytesSoFar = uint64(d.bytes.Load())
		return st.Send(m)
	}
	if len(req.List) > 0 {
		for _, path := range req.List {
			if err := checkPath(string(path)); err != nil {
				return err
			}
			entries, _ := d.entries(ctx, string(path))
			for len(entries) > 0 {
				n := min(len(entries), digestBatch)
				if err := send(&agentpb.DigestReply{Entries: entries[:n]}); err != nil {
					return err
				}
				entries = entries[n:]
			}
		}
	} else {
		err = d.walk(ctx, func(path string, digest []byte) error {
			mu.Lock()
			defer mu.Unlock()
			out.Directories = append(out.Directories, &agentpb.DirDigest{Path: []byte(path), Digest: digest})
			if len(out.Directories) < digestBatch {
				return nil
			}
			m := out
			out = &agentpb.DigestReply{}
			return send(m)
		})
		if err != nil {
			return err
		}
	}
	out.Last, out.Problems = true, d.problems
	return send(out)
}

// digester computes what verification compares: of every entry all that a copy
// carries, content included.
type digester struct {
	root     int
	btrfs    bool
	excludes *Excludes
	gov      Governor // may be nil
	bytes    atomic.Int64
	count    atomic.Int64

	mu       sync.Mutex
	problems []*agentpb.Problem
}

// walk calls emit with each directory's digest, from several goroutines.
func (d *digester) walk(ctx context.Context, emit func(path string, digest []byte) error) error {
	return walkTree(ctx, func(path string) ([]string, error) {
		entries, children := d.entries(ctx, path)
		return children, emit(path, sumEntries(entries))
	})
}

// walkTree calls visit with the path of each directory, from several goroutines;
// visit returns the paths of those in it.
func walkTree(ctx context.Context, visit func(path string) (children []string, err error)) error {
	var mu sync.Mutex
	cond := sync.NewCond(&mu)
	stack := []string{""}
	busy := 0
	var failed error
	stop := context.AfterFunc(ctx, func() { mu.Lock(); failed = context.Cause(ctx); cond.Broadcast(); mu.Unlock() })
	defer stop()
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0)+1, 8) {
		wg.Go(func() {
			mu.Lock()
			defer mu.Unlock()
			for {
				for len(stack) == 0 && busy > 0 && failed == nil {
					cond.Wait()
				}
				if len(stack) == 0 || failed != nil {
					cond.Broadcast()
					return
				}
				path := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				busy++
				mu.Unlock()
				children, err := visit(path)
				mu.Lock()
				busy--
				stack = append(stack, children...)
				if err != nil && failed == nil {
					failed = err
				}
				cond.Broadcast()
			}
		})
	}
	wg.Wait()
	mu.Lock() // the end of ctx may still be recording itself
	defer mu.Unlock()
	return failed
}

func (d *digester) problem(path, what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.problems) < maxProblems {
		d.problems = append(d.problems, &agentpb.Problem{Path: []byte(path), Text: what + ": " + err.Error(), Vanished: isVanished(err)})
	}
}

// entries returns the entries of one directory, sorted, and its subdirectories.
func (d *digester) entries(ctx context.Context, path string) (out []*agentpb.EntryDigest, children []string) {
	fd, err := openDir(d.root, path)
	if err != nil {
		d.problem(path, "open directory", err)
		return nil, nil
	}
	defer unix.Close(fd)
	names, err := readNames(fd)
	if err != nil {
		d.problem(path, "read directory", err)
		return nil, nil
	}
	if path == "" {
		names = append(names, "")
	}
	sort.Strings(names)
	excluded := d.excludes.in(path)
	for _, name := range names {
		if name == stage || (path == "" && isOurs(name)) || (excluded != nil && excluded(name)) {
			continue
		}
		if d.gov != nil && d.gov.CPU(ctx) != nil {
			return out, nil
		}
		e := d.entry(ctx, fd, path, name)
		if e == nil {
			continue
		}
		out = append(out, e)
		if kindOf(e.Meta.Mode) == unix.S_IFDIR && name != "" {
			children = append(children, join(path, name))
		}
	}
	d.count.Add(int64(len(out)))
	return out, children
}

func (d *digester) entry(ctx context.Context, dir int, path, name string) *agentpb.EntryDigest {
	full := join(path, name)
	var st unix.Stat_t
	if err := lstat(dir, name, &st); err != nil {
		if !isVanished(err) {
			d.problem(full, "stat", err)
		}
		return nil
	}
	e := &agentpb.EntryDigest{Path: []byte(full)}
	fd, err := -1, error(nil)
	switch kindOf(st.Mode) {
	case unix.S_IFREG:
		fd, err = openFile(dir, name)
	case unix.S_IFDIR:
		fd, err = openDir(dir, name)
	}
	if err != nil {
		if !isVanished(err) {
			d.problem(full, "open", err)
		}
		return nil
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if e.Meta, err = readMeta(dir, name, fd, &st); err != nil {
		if !isVanished(err) {
			d.problem(full, "read", err)
		}
		return nil
	}
	if kindOf(st.Mode) == unix.S_IFREG {
		sum, err := d.content(ctx, fd, st.Size, st.Blocks*512 < st.Size)
		if err != nil {
			d.problem(full, "read", err)
			return nil
		}
		e.Digest = sum[:]
	}
	return e
}

var readBuffers = sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}

// content returns the content digest of an open file of size bytes.
func (d *digester) content(ctx context.Context, fd int, size int64, sparse bool) (chunk.Digest, error) {
	var h chunk.Hasher
	bp := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(bp)
	at := int64(0)
	err := segments(fd, size, sparse, func(pos, end int64) (bool, error) {
		for pos < end {
			b := (*bp)[:min(int64(len(*bp)), end-pos)]
			if d.gov != nil {
				if err := d.gov.Disk(ctx, len(b)); err != nil {
					return false, err
				}
			}
			n, err := readFull(fd, b, pos)
			if err != nil || n == 0 { // at 0 it has become shorter
				return false, err
			}
			h.Write(b[:n])
			pos += int64(n)
			d.bytes.Add(int64(n))
		}
		at = end
		return true, nil
	}, func(end int64) { h.Zeros(end - at); at = end })
	return h.Sum(), err
}

// sumEntries digests what is compared of a directory's entries. Change times,
// inode numbers and the sizes of directories belong to one side alone.
func sumEntries(entries []*agentpb.EntryDigest) []byte {
	h := blake3.New()
	var b []byte
	for _, e := range entries {
		_, name := split(string(e.Path))
		b = append(b[:0], name...)
		b = append(b, 0)
		b = comparable(e, b)
		h.Write(b)
	}
	return h.Sum(nil)[:16]
}

// comparable appends everything of an entry that both sides must agree on.
func comparable(e *agentpb.EntryDigest, b []byte) []byte {
	m := e.Meta
	for _, v := range []uint32{m.Mode, m.Uid, m.Gid, m.MtimeNsec, m.Flags, m.Project} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	size, links, device := m.Size, m.Links, uint64(0)
	switch kindOf(m.Mode) {
	case unix.S_IFDIR:
		size, links = 0, 0
	case unix.S_IFCHR, unix.S_IFBLK:
		device = m.Device
	}
	for _, v := range []uint64{size, uint64(links), device, uint64(m.MtimeSec)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, m.Target...)
	for _, x := range m.Xattrs {
		b = append(append(append(append(b, 0), x.Name...), 0), x.Value...)
	}
	return append(b, e.Digest...)
}

// differences names in what two versions of an entry differ.
func differences(a, b *agentpb.EntryDigest) (kinds []string) {
	m, n := a.Meta, b.Meta
	add := func(kind string, differ bool) {
		if differ {
			kinds = append(kinds, kind)
		}
	}
	if kindOf(m.Mode) != kindOf(n.Mode) {
		return []string{"type"}
	}
	dir := kindOf(m.Mode) == unix.S_IFDIR
	add("mode", m.Mode != n.Mode)
	add("owner", m.Uid != n.Uid || m.Gid != n.Gid)
	add("time", m.MtimeSec != n.MtimeSec || m.MtimeNsec != n.MtimeNsec)
	add("size", !dir && m.Size != n.Size)
	add("content", !bytes.Equal(a.Digest, b.Digest))
	add("target", !bytes.Equal(m.Target, n.Target))
	add("links", !dir && m.Links != n.Links)
	add("flags", m.Flags != n.Flags)
	add("project", m.Project != n.Project)
	kind := kindOf(m.Mode)
	add("device", (kind == unix.S_IFCHR || kind == unix.S_IFBLK) && m.Device != n.Device)
	add("xattrs", !slices.EqualFunc(m.Xattrs, n.Xattrs, func(x, y *agentpb.Xattr) bool {
		return bytes.Equal(x.Name, y.Name) && bytes.Equal(x.Value, y.Value)
	}))
	return kinds
}
