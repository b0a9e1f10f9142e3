package rowsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// errNotThere means that the spool does not reach back to a position.
var errNotThere = errors.New("the spool does not hold what follows the target's position")

// spoolReader reads what has landed, in order. It is used by one goroutine.
type spoolReader struct {
	sp   *spool
	file *os.File
	size int64 // of file, as far as it is durable
	at   place
}

// reader reads what follows a position, or fails with errNotThere.
func (sp *spool) reader(after engine.Pos) (*spoolReader, error) {
	ns, err := segments(sp.dir)
	if err != nil {
		return nil, err
	}
	for i, n := range ns {
		r := &spoolReader{sp: sp}
		found, err := r.seek(n, after)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		// A position that ends a segment begins the next.
		if found && (i == len(ns)-1 || r.at.offset < r.size) {
			return r, nil
		}
		if err := r.close(); err != nil {
			return nil, err
		}
	}
	return nil, errNotThere
}

// seek opens a segment behind a position, if that is in it.
func (r *spoolReader) seek(n uint64, after engine.Pos) (found bool, err error) {
	h, err := r.open(n)
	if err != nil {
		return false, err
	}
	begin := r.at.offset
	if found = h.After == after; !found {
		begin = -1
	}
	// The last of several records with one position counts: heartbeats repeat it.
	for {
		f, err := readFrame(r.file, r.at.offset, r.size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return false, r.broken(err)
		}
		r.at.offset = f.next
		if f.marks&frameComplete == 0 {
			continue
		}
		if f.pos == after {
			begin, found = f.next, true
		} else if found {
			break
		}
	}
	if found {
		r.at.offset = begin
	}
	return found, nil
}

// open begins a segment.
func (r *spoolReader) open(n uint64) (segmentHeader, error) {
	if err := r.close(); err != nil {
		return segmentHeader{}, err
	}
	f, err := os.Open(segmentPath(r.sp.dir, n))
	if err != nil {
		return segmentHeader{}, fmt.Errorf("read the spool: %w", err)
	}
	r.file = f
	h, at, err := readSegmentHeader(f)
	if err != nil {
		return h, r.broken(err)
	}
	r.at = place{n, at}
	return h, r.resize()
}

// resize learns how much of the segment may be read.
func (r *spoolReader) resize() error {
	r.sp.mu.Lock()
	durable := r.sp.durable
	r.sp.mu.Unlock()
	if durable.segment == r.at.segment {
		r.size = durable.offset
		return nil
	}
	fi, err := r.file.Stat()
	if err != nil {
		return fmt.Errorf("read the spool: %w", err)
	}
	r.size = fi.Size()
	return nil
}

func (r *spoolReader) broken(err error) error {
	if errors.Is(err, errRecord) {
		return damaged(r.file.Name(), r.at.offset)
	}
	return fmt.Errorf("read the spool: %w", err)
}

// ready reports whether next returns without waiting. Where it cannot tell, next will
// tell why.
func (r *spoolReader) ready() bool {
	for {
		r.sp.mu.Lock()
		durable := r.sp.durable
		r.sp.mu.Unlock()
		if r.at.segment == durable.segment {
			return r.at.offset < durable.offset
		}
		if r.resize() != nil || r.at.offset < r.size {
			return true
		}
		if _, err := r.open(r.at.segment + 1); err != nil {
			return true
		}
	}
}

// next returns the following piece, waiting until it has landed. Where nothing more
// will, it returns why.
func (r *spoolReader) next(ctx context.Context) (engine.Piece, error) {
	for {
		r.sp.mu.Lock()
		wait, have, durable, ended := r.sp.changed, r.at != r.sp.durable, r.sp.durable, r.sp.ended
		r.sp.mu.Unlock()
		if !have {
			if ended != nil {
				return engine.Piece{}, ended
			}
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return engine.Piece{}, ctx.Err()
			}
		}
		if err := r.resize(); err != nil {
			return engine.Piece{}, err
		}
		if r.at.offset < r.size {
			return r.read()
		}
		if durable.segment == r.at.segment {
			continue
		}
		if _, err := r.open(r.at.segment + 1); err != nil {
			return engine.Piece{}, err
		}
	}
}

func (r *spoolReader) read() (engine.Piece, error) {
	f, err := readFrame(r.file, r.at.offset, r.size)
	if err != nil {
		return engine.Piece{}, r.broken(err)
	}
	p, err := f.piece(r.sp.dec)
	if err != nil {
		return p, r.broken(err)
	}
	r.at.offset = f.next
	return p, nil
}

// ahead looks where the transaction that next is within ends, and how many bytes of
// it are still to be read. Only whole transactions have landed, so it does end.
func (r *spoolReader) ahead() (end engine.Pos, bytes int64, err error) {
	for at := r.at.offset; ; {
		f, err := readFrame(r.file, at, r.size)
		if err != nil {
			return "", 0, r.broken(err)
		}
		bytes += f.next - at
		if at = f.next; f.marks&frameComplete != 0 {
			return f.pos, bytes, nil
		}
	}
}

func (r *spoolReader) close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// peekSpool looks at a spool that another process may be writing: the newest whole
// transaction there, and the bytes of all segments.
func peekSpool(dir string) (engine.Pos, int64, error) {
	ns, err := segments(dir)
	if errors.Is(err, os.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, err
	}
	var used int64
	var newest engine.Pos
	for i, n := range ns {
		f, err := os.Open(segmentPath(dir, n))
		if errors.Is(err, os.ErrNotExist) {
			continue // it was applied meanwhile
		}
		if err != nil {
			return newest, used, fmt.Errorf("read the spool: %w", err)
		}
		fi, err := f.Stat()
		if err == nil {
			used += fi.Size()
		}
		if err == nil && i == len(ns)-1 {
			var last landing
			if _, _, last, err = lastWhole(f); err == nil {
				newest = last.Pos
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, errRecord) {
			return newest, used, fmt.Errorf("read the spool: %w", err)
		}
	}
	return newest, used, nil
}
