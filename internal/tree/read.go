package tree

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/dr"
)

// rereads is how often a small file that changes under the reader is read again
// at once.
const rereads = 3

// reader takes files from the queue and gathers them into batches. When the queue
// runs dry it offers what it has, for the target may be waiting for just that.
func (s *sender) reader(ctx context.Context) error {
	r := &fileReader{sender: s, ctx: ctx, dirs: dirCache{root: s.view.root}}
	defer r.dirs.close()
	for {
		var f *agentpb.CopyFile
		var ok bool
		select {
		case f, ok = <-s.queue:
		default:
			if err := r.flush(); err != nil {
				return err
			}
			select {
			case f, ok = <-s.queue:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if !ok {
			return r.flush()
		}
		if err := s.gov.CPU(ctx); err != nil {
			return err
		}
		if err := r.file(f); err != nil {
			return err
		}
	}
}

// fileReader builds batches out of files.
type fileReader struct {
	*sender
	ctx     context.Context
	dirs    dirCache
	parts   []*agentpb.Part
	buf     []byte   // where the next chunks of this batch will lie
	bufs    [][]byte // pooled buffers the cuts lie in
	cuts    [][]byte
	digests []byte // 32 bytes of each cut
	bytes   int    // in cuts
	told    int    // what the parts take in the offer beside digests, where it is much
}

func (r *fileReader) flush() error {
	if len(r.parts) == 0 {
		return nil
	}
	offer := &agentpb.Offer{Parts: r.parts, Digests: r.digests}
	cuts, bufs := r.cuts, r.bufs
	r.parts, r.cuts, r.digests, r.buf, r.bufs, r.bytes, r.told = nil, nil, nil, nil, nil, 0, 0
	return r.offer(offer, cuts, bufs)
}

func (r *fileReader) flushIfFull() error {
	if len(r.parts) >= batchParts || r.bytes >= smallBatch || r.told >= smallBatch {
		return r.flush()
	}
	return nil
}

// metaSize is what an entry's state takes on the wire, where it is not small.
func metaSize(m *agentpb.Meta) int {
	n := len(m.Target)
	for _, x := range m.Xattrs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

// gone reports how an entry that could not be read ended. Errors of single files
// never end the call.
func (r *fileReader) gone(id uint64, what string, err error) error {
	o := &agentpb.Outcome{Kind: agentpb.Outcome_FAILED, Error: fmt.Sprintf("%s: %v", what, err)}
	if isVanished(err) {
		o.Kind = agentpb.Outcome_VANISHED
	}
	r.parts = append(r.parts, &agentpb.Part{Id: id, Head: true, Tail: true, Outcome: o})
	return r.flushIfFull()
}

func (r *fileReader) file(f *agentpb.CopyFile) error {
	dirPath, name := split(string(f.Path))
	dir, err := r.dirs.get(dirPath)
	if err != nil {
		return r.gone(f.Id, "open directory", err)
	}
	var st unix.Stat_t
	err = lstat(dir, name, &st)
	if err == nil && r.quiet(&st) {
		err = lstat(dir, name, &st)
	}
	if err != nil {
		return r.gone(f.Id, "stat", err)
	}
	fd := -1
	switch kindOf(st.Mode) {
	case unix.S_IFREG:
		fd, err = openFile(dir, name)
	case unix.S_IFDIR:
		fd, err = openDir(dir, name)
	}
	if err != nil {
		return r.gone(f.Id, "open", err)
	}
	if fd >= 0 {
		defer unix.Close(fd)
		// What is open counts; it may be another than the one just looked at.
		if err := unix.Fstat(fd, &st); err != nil {
			return r.gone(f.Id, "stat", err)
		}
	}
	if kindOf(st.Mode) == unix.S_IFREG {
		return r.regular(f, dir, name, fd, &st)
	}
	m, err := readMeta(dir, name, fd, &st)
	if err != nil {
		return r.gone(f.Id, "read", err)
	}
	if r.view.btrfs && kindOf(st.Mode) == unix.S_IFDIR && st.Ino == btrfsRootInode && len(f.Path) > 0 {
		m.Subvolume = true
	}
	r.parts = append(r.parts, &agentpb.Part{Id: f.Id, Head: true, Tail: true, Meta: m, Outcome: &agentpb.Outcome{}})
	r.told += metaSize(m)
	return r.flushIfFull()
}

// tick is longer than the steps in which kernels before 6.13 stamp changes (10 ms
// at 100 Hz).
const tick = 20 * time.Millisecond

// untilQuiet returns how long a further change of the entry may still carry the
// same change time: it would never be seen.
func (r *fileReader) untilQuiet(st *unix.Stat_t) time.Duration {
	if r.view.consistency == dr.Crash {
		return 0 // a snapshot does not change
	}
	d := time.Until(time.Unix(st.Ctim.Unix()).Add(tick))
	if d > tick {
		return 0 // the clock was set back
	}
	return d
}

// quiet waits that long and reports whether it had to.
func (r *fileReader) quiet(st *unix.Stat_t) bool {
	d := r.untilQuiet(st)
	if d <= 0 {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.ctx.Done():
	}
	return true
}

// openFile opens for reading without touching the access time, and without
// waiting for whoever might hold a lease or be the other end of a FIFO.
func openFile(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags|unix.O_NOATIME, 0)
	if err == unix.EPERM {
		fd, err = unix.Openat(dir, name, flags, 0)
	}
	return fd, err
}

func (r *fileReader) regular(f *agentpb.CopyFile, dir int, name string, fd int, st *unix.Stat_t) error {
	if st.Size > smallBatch {
		if err := r.flush(); err != nil {
			return err
		}
	}
	mark := r.mark()
	for try := 0; ; try++ {
		m, err := readMeta(dir, name, fd, st)
		if err != nil {
			return r.gone(f.Id, "read", err)
		}
		c := &contentReader{fileReader: r, fd: fd, size: st.Size, params: chunk.ParamsFor(st.Size)}
		c.part = &agentpb.Part{Id: f.Id, Head: true, Meta: m}
		sparse := st.Blocks*512 < st.Size
		early := r.untilQuiet(st) > 0
		if err := c.read(sparse); err != nil {
			if c.ioErr != nil {
				return r.failPart(mark, c, f.Id)
			}
			return err
		}
		var after unix.Stat_t
		if err := unix.Fstat(fd, &after); err != nil {
			return r.gone(f.Id, "stat", err)
		}
		stable := sameStat(st, &after) && !c.short && !early
		if !stable && c.part.Head && try < rereads {
			r.reset(mark) // all of it is still in this batch: take it back
			*st = after
			continue
		}
		return c.finish(stable, &after)
	}
}

// readerMark remembers the state of a batch to return to.
type readerMark struct{ parts, cuts, bytes int }

func (r *fileReader) mark() readerMark { return readerMark{len(r.parts), len(r.cuts), r.bytes} }

func (r *fileReader) reset(m readerMark) {
	r.parts, r.cuts, r.digests, r.bytes = r.parts[:m.parts], r.cuts[:m.cuts], r.digests[:32*m.cuts], m.bytes
}

func (r *fileReader) failPart(m readerMark, c *contentReader, id uint64) error {
	if c.part.Head { // nothing of it has left yet
		r.reset(m)
		return r.gone(id, "read", c.ioErr)
	}
	c.part.Tail = true
	c.part.End = uint64(c.pos)
	c.part.Outcome = &agentpb.Outcome{Kind: agentpb.Outcome_FAILED, Error: "read: " + c.ioErr.Error()}
	r.parts = append(r.parts, c.part)
	return r.flush()
}
