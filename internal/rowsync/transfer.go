package rowsync

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	chunkSize = 128 << 10 // bytes that travel together between an export and its import
	chunks    = 16        // of them may wait: what one end is slower, the other goes ahead
)

// conduit joins an export and an import so that both ends work at the same time.
type conduit struct {
	full  chan []byte
	empty chan []byte // used up, to be filled again
	gone  chan struct{}
	buf   []byte // being filled
	rest  []byte // being read
	used  []byte // the chunk that rest is of
	cause error  // why there is no more; set before full is closed
	bytes int64
}

func newConduit() *conduit {
	return &conduit{full: make(chan []byte, chunks), empty: make(chan []byte, chunks), gone: make(chan struct{})}
}

var errImportEnded = errors.New("the import ended early")

// Write implements io.Writer for the export.
func (c *conduit) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		if c.buf == nil {
			select {
			case c.buf = <-c.empty:
			default:
				c.buf = make([]byte, 0, chunkSize)
			}
		}
		n := min(len(p)-done, cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, p[done:done+n]...)
		done += n
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return done, err
			}
		}
	}
	c.bytes += int64(len(p))
	return len(p), nil
}

func (c *conduit) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	select {
	case c.full <- c.buf:
		c.buf = nil
		return nil
	case <-c.gone:
		return errImportEnded
	}
}

// finish ends what the import reads: with err, or in order.
func (c *conduit) finish(err error) {
	if err == nil {
		err = c.flush()
	}
	c.cause = err
	close(c.full)
}

// Read implements io.Reader for the import.
func (c *conduit) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		b, ok := <-c.full
		if !ok {
			if c.cause != nil {
				return 0, c.cause
			}
			return 0, io.EOF
		}
		c.rest, c.used = b, b[:0]
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		select {
		case c.empty <- c.used:
		default:
		}
	}
	return n, nil
}

// moved is what came of sending rows.
type moved struct{ rows, bytes, deleted int64 }

func (m *moved) add(o moved) {
	m.rows, m.bytes, m.deleted = m.rows+o.rows, m.bytes+o.bytes, m.deleted+o.deleted
}

// transfer exports rows of the source and imports them.
func transfer(ctx context.Context, from engine.Reader, a engine.Apply, p pair, sel engine.Selection, empty bool) (moved, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newConduit()
	type sent struct {
		rows int64
		err  error
	}
	out := make(chan sent, 1)
	go func() {
		n, err := from.Export(ctx, p.src, sel, c)
		c.finish(err)
		out <- sent{n, err}
	}()
	stats, err := a.Import(ctx, p.dst, sel, c, empty)
	close(c.gone)
	if err != nil {
		cancel()
	}
	s := <-out
	switch {
	case s.err != nil && !errors.Is(s.err, errImportEnded) && (err == nil || errors.Is(err, s.err)):
		return moved{}, fmt.Errorf("read %s: %w", p.src.Name, s.err)
	case err != nil:
		return moved{}, fmt.Errorf("write %s: %w", p.dst.Name, err)
	case s.err != nil:
		return moved{}, fmt.Errorf("read %s: %w", p.src.Name, s.err)
	}
	return moved{s.rows, c.bytes, stats.Deleted}, nil
}

// rowText makes of a row something that can be compared and be a map's key.
func rowText(r engine.Row) string { return string(appendRow(nil, r)) }
