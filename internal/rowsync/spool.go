package rowsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	segmentSize  = 64 << 20 // a segment ends with the first transaction that ends behind this
	defaultLimit = 16 << 30 // bytes of a spool
	writeSize    = 1 << 20  // what is gathered before it is written without a sync
)

// place is where a record begins.
type place struct {
	segment uint64
	offset  int64
}

// spool is what has landed of a stream and is not applied yet: a queue on disk. One
// goroutine appends, one syncs, one reads; each may be another.
type spool struct {
	dir     string
	limit   int64
	segSize int64
	head    segmentHeader
	enc     *zstd.Encoder
	dec     *zstd.Decoder

	syncing sync.Mutex // held while a file is synced or changed for another

	mu      sync.Mutex
	file    *os.File
	buf     []byte // encoded, not written yet
	at      place  // behind all that was appended
	whole   place  // behind the last transaction that was appended whole
	wholeAt landing
	durable place // behind the last transaction that was synced whole
	landed  landing
	used    int64         // bytes of all segments
	ended   error         // why nothing more will land; nil while it may
	changed chan struct{} // closed when something of the above changed
}

// landing is the newest commit, or heartbeat, of a spool.
type landing struct {
	Pos  engine.Pos
	Time time.Time
}

// openSpool opens the spool in a directory, dropping what a crash left unfinished. ok
// is false where there is none yet, or none of this stream and epoch: call reset.
func openSpool(dir string, limit int64, stream, epoch string) (sp *spool, ok bool, err error) {
	if limit <= 0 {
		limit = defaultLimit
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("make the spool: %w", err)
	}
	sp = &spool{dir: dir, limit: limit, segSize: min(segmentSize, limit/4), changed: make(chan struct{})}
	sp.head = segmentHeader{Stream: stream, Epoch: epoch}
	if sp.enc, sp.dec, err = newCodec(); err != nil {
		return nil, false, err
	}
	ns, err := segments(dir)
	if err != nil {
		return nil, false, err
	}
	// The newest segment may have been cut while it was made.
	for len(ns) > 0 {
		last := ns[len(ns)-1]
		h, err := sp.recover(last)
		if err == nil {
			ok = h.Stream == stream && h.Epoch == epoch
			break
		}
		if !errors.Is(err, errRecord) || len(ns) == 1 {
			return sp, false, ignoreDamage(err)
		}
		if err := os.Remove(segmentPath(dir, last)); err != nil {
			return nil, false, fmt.Errorf("remove an unfinished segment: %w", err)
		}
		ns = ns[:len(ns)-1]
	}
	for _, n := range ns {
		if fi, err := os.Stat(segmentPath(dir, n)); err == nil {
			sp.used += fi.Size()
		}
	}
	return sp, ok, nil
}

func ignoreDamage(err error) error {
	if errors.Is(err, errRecord) {
		return nil
	}
	return err
}

// recover opens the last segment behind its last whole transaction.
func (sp *spool) recover(n uint64) (segmentHeader, error) {
	path := segmentPath(sp.dir, n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return segmentHeader{}, fmt.Errorf("open the spool: %w", err)
	}
	h, end, last, err := lastWhole(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return h, errors.Join(err, f.Close())
	}
	sp.file = f
	sp.at = place{n, end}
	sp.whole, sp.durable = sp.at, sp.at
	sp.wholeAt, sp.landed = last, last
	return h, nil
}

// lastWhole finds where the last whole transaction of a segment ends.
func lastWhole(f *os.File) (h segmentHeader, end int64, last landing, err error) {
	fi, err := f.Stat()
	if err != nil {
		return h, 0, last, err
	}
	h, at, err := readSegmentHeader(f)
	if err != nil {
		return h, 0, last, err
	}
	end, last.Pos = at, h.After
	for {
		fr, err := readFrame(f, at, fi.Size())
		if err != nil {
			// What follows was never synced whole.
			return h, end, last, ignoreEnd(err)
		}
		at = fr.next
		if fr.marks&frameComplete != 0 {
			end, last.Pos = at, fr.pos
		}
	}
}

func ignoreEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return ignoreDamage(err)
}

// reset empties the spool; what is appended next follows a position.
func (sp *spool) reset(after engine.Pos) error {
	sp.syncing.Lock()
	defer sp.syncing.Unlock()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.file != nil {
		if err := sp.file.Close(); err != nil {
			return fmt.Errorf("close the spool: %w", err)
		}
		sp.file = nil
	}
	ns, err := segments(sp.dir)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if err := os.Remove(segmentPath(sp.dir, n)); err != nil {
			return fmt.Errorf("empty the spool: %w", err)
		}
	}
	sp.used, sp.buf = 0, nil
	last := landing{Pos: after}
	next := sp.at.segment + 1
	if len(ns) > 0 {
		next = max(next, ns[len(ns)-1]+1)
	}
	sp.wholeAt, sp.landed = last, last
	if err := sp.begin(next); err != nil {
		return err
	}
	sp.signal()
	return nil
}

// begin makes a segment. Both locks are held.
func (sp *spool) begin(n uint64) error {
	sp.head.After = sp.wholeAt.Pos
	b, err := appendSegmentHeader(nil, sp.head)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(segmentPath(sp.dir, n), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return sp.full(err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = atomicfile.SyncDir(sp.dir)
	}
	if err != nil {
		return errors.Join(sp.full(err), f.Close(), os.Remove(f.Name()))
	}
	sp.file, sp.at = f, place{n, int64(len(b))}
	sp.whole, sp.durable = sp.at, sp.at
	sp.used += int64(len(b))
	return nil
}

// full says what a full disk means.
func (sp *spool) full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("write the spool %s: %w; make room there: the source keeps what has not landed, and nothing is lost", sp.dir, err)
	}
	return fmt.Errorf("write the spool: %w", err)
}

// finish lets what has landed be read to its end, and then tells why there is no more.
// nil takes that back.
func (sp *spool) finish(err error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.ended = err
	sp.signal()
}

func (sp *spool) signal() {
	close(sp.changed)
	sp.changed = make(chan struct{})
}

// append adds a piece. It waits while the spool is full of what is not applied yet,
// but not in the midst of a transaction, which alone could make room never.
func (sp *spool) append(ctx context.Context, p *engine.Piece) error {
	for {
		sp.mu.Lock()
		between := sp.at == sp.whole
		if sp.used < sp.limit || !between && sp.used < 2*sp.limit {
			break
		}
		wait := sp.changed
		sp.mu.Unlock()
		if !between {
			return fmt.Errorf("a transaction of the source is larger than the spool %s may be (%d bytes): raise the limit", sp.dir, sp.limit)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer sp.mu.Unlock()
	before := len(sp.buf)
	sp.buf = appendFrame(sp.buf, sp.enc, p)
	n := int64(len(sp.buf) - before)
	sp.at.offset += n
	sp.used += n
	if c := commitOf(p); c != nil {
		sp.whole, sp.wholeAt = sp.at, landing{c.Pos, c.Time}
		sp.signal()
	}
	if len(sp.buf) >= writeSize {
		return sp.write()
	}
	return nil
}

// write hands what was gathered to the file. mu is held.
func (sp *spool) write() error {
	if len(sp.buf) == 0 {
		return nil
	}
	n, err := sp.file.Write(sp.buf)
	if err != nil {
		sp.buf = sp.buf[n:]
		return sp.full(err)
	}
	sp.buf = sp.buf[:0]
	return nil
}

// unsynced waits until there is a whole transaction that is not durable.
func (sp *spool) unsynced(ctx context.Context) error {
	for {
		sp.mu.Lock()
		wait, have := sp.changed, sp.whole != sp.durable
		sp.mu.Unlock()
		if have {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sync makes durable what was appended, and returns the newest commit of it. Those
// appended meanwhile are for the next call: a sync serves all who wait for it.
func (sp *spool) sync() (landing, error) {
	sp.syncing.Lock()
	defer sp.syncing.Unlock()
	sp.mu.Lock()
	err := sp.write()
	f, upTo, last := sp.file, sp.whole, sp.wholeAt
	sp.mu.Unlock()
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return landing{}, sp.full(err)
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.durable, sp.landed = upTo, last
	sp.signal()
	if sp.at == sp.whole && sp.whole == sp.durable && sp.at.offset >= sp.segSize {
		if err := sp.file.Close(); err != nil {
			return last, fmt.Errorf("close a segment: %w", err)
		}
		return last, sp.begin(sp.at.segment + 1)
	}
	return last, nil
}

// rewind drops what was appended of a transaction that did not end.
func (sp *spool) rewind() (landing, error) {
	if _, err := sp.sync(); err != nil {
		return landing{}, err
	}
	sp.syncing.Lock()
	defer sp.syncing.Unlock()
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.at != sp.whole {
		if err := sp.file.Truncate(sp.whole.offset); err != nil {
			return landing{}, fmt.Errorf("shorten the spool: %w", err)
		}
		if _, err := sp.file.Seek(sp.whole.offset, io.SeekStart); err != nil {
			return landing{}, fmt.Errorf("shorten the spool: %w", err)
		}
		sp.used -= sp.at.offset - sp.whole.offset
		sp.at = sp.whole
	}
	return sp.landed, nil
}

// newest is what has landed, and how many bytes wait in all.
func (sp *spool) newest() (landing, int64) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.landed, sp.used
}

// drop removes the segments before a place: all of them is applied.
func (sp *spool) drop(before place) error {
	ns, err := segments(sp.dir)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if n >= before.segment {
			break
		}
		path := segmentPath(sp.dir, n)
		fi, err := os.Stat(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil {
			return fmt.Errorf("remove what is applied: %w", err)
		}
		sp.mu.Lock()
		sp.used -= fi.Size()
		sp.signal()
		sp.mu.Unlock()
	}
	return nil
}

func (sp *spool) close() error {
	sp.syncing.Lock()
	defer sp.syncing.Unlock()
	if sp.file == nil {
		return nil
	}
	err := sp.file.Close()
	sp.file = nil
	return err
}
