package tree

import (
	"bytes"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// contentReader reads one regular file, cuts it and adds the chunks to its
// fileReader's batch, sending the batch off whenever it is full.
type contentReader struct {
	*fileReader
	fd     int
	size   int64
	params chunk.Params
	part   *agentpb.Part // the one being built
	pos    int64         // everything before it is in a part
	sum    chunk.ListHasher
	short  bool  // the file ended before its size
	ioErr  error // reading failed; the batch is still whole
}

// read goes through the file's data and holes. An error is the connection's,
// unless ioErr is set.
func (c *contentReader) read(sparse bool) error {
	return segments(c.fd, c.size, sparse, func(_, end int64) (bool, error) {
		err := c.data(end)
		return !c.short, err
	}, func(end int64) { c.hole(end) })
}

// segments calls data for each stretch of an open file of size bytes that holds
// data, and hole with the end of each that does not, in order. data returns false
// to stop. A file that is not sparse is one stretch. Blocks of zeros at the ends of a
// stretch of a sparse file count as holes: whether the kernel shows such as data
// depends on what has been written back.
func segments(fd int, size int64, sparse bool, data func(pos, end int64) (bool, error), hole func(end int64)) error {
	told := int64(0)
	for pos := int64(0); pos < size; {
		start, end, stillSparse := pos, size, false
		if sparse {
			if start, end, stillSparse = nextData(fd, pos, size); start == size {
				break
			}
		}
		sparse, pos = stillSparse, end
		if sparse {
			if start, end = trimZeros(fd, start, end); start == end {
				continue
			}
		}
		if start > told {
			hole(start)
		}
		more, err := data(start, end)
		if err != nil || !more {
			return err
		}
		told = end
	}
	if told < size {
		hole(size)
	}
	return nil
}

// nextData returns the first stretch of data from pos on; start is size where there is
// none. A filesystem that cannot tell has no holes to show.
func nextData(fd int, pos, size int64) (start, end int64, sparse bool) {
	start, err := unix.Seek(fd, pos, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size, size, true
	case err != nil:
		return pos, size, false
	}
	if start = min(start, size); start == size {
		return size, size, true
	}
	if end, err = unix.Seek(fd, start, unix.SEEK_HOLE); err != nil || end <= start || end > size {
		end = size
	}
	return start, end, true
}

// holeBlock is the size in bytes, and the alignment, of what can be a hole.
const holeBlock = 4096

// trimZeros takes blocks of zeros off the ends of a stretch. What cannot be read is
// left for the reader to meet.
func trimZeros(fd int, start, end int64) (int64, int64) {
	var buf, zeros [holeBlock]byte
	zero := func(from, to int64) bool {
		n, err := readFull(fd, buf[:to-from], from)
		return err == nil && int64(n) == to-from && bytes.Equal(buf[:n], zeros[:n])
	}
	for start < end {
		from := (end - 1) / holeBlock * holeBlock
		if from = max(from, start); !zero(from, end) {
			break
		}
		end = from
	}
	for start < end {
		to := min((start/holeBlock+1)*holeBlock, end)
		if !zero(start, to) {
			break
		}
		start = to
	}
	return start, end
}

// hole adds the stretch up to end.
func (c *contentReader) hole(end int64) {
	if end <= c.pos {
		return
	}
	n := end - c.pos
	c.part.Holes = append(c.part.Holes, &agentpb.Hole{Offset: uint64(c.pos), Length: uint64(n)})
	c.sum.Hole(n)
	c.pos = end
}

// room makes the batch's buffer able to take n more bytes without moving what is
// cut already.
func (c *contentReader) room(n int) {
	if cap(c.buf)-len(c.buf) >= n {
		return
	}
	// Cuts made so far keep the old array alive; the new one starts empty.
	if n > smallBatch {
		c.buf = (*largeBuffers.Get().(*[]byte))[:0]
		c.bufs = append(c.bufs, c.buf)
		return
	}
	c.buf = make([]byte, 0, max(n, min(2*cap(c.buf), smallBatch), chunk.Block))
}

// data reads and cuts up to end.
func (c *contentReader) data(end int64) error {
	for c.pos < end {
		limit := largeBatch
		if c.size <= chunk.Block {
			limit = int(c.size)
		}
		c.room(int(min(int64(limit), end-c.pos)))
		n := int(min(int64(cap(c.buf)-len(c.buf)), end-c.pos, largeBatch))
		if err := c.gov.Disk(c.ctx, n); err != nil {
			return err
		}
		got, err := readFull(c.fd, c.buf[len(c.buf):len(c.buf)+n], c.pos)
		if err != nil {
			c.ioErr = err
			return err
		}
		if got < n {
			c.short = true
			end = c.pos + int64(got)
		}
		raw := c.buf[len(c.buf) : len(c.buf)+got]
		used := c.cut(raw, c.pos+int64(got) >= end)
		c.buf = c.buf[:len(c.buf)+used]
		c.pos += int64(used)
		if c.pos < c.size && (c.bytes >= smallBatch || len(c.cuts) >= 4*batchParts) && c.size > smallBatch {
			if err := c.next(); err != nil {
				return err
			}
		}
	}
	return nil
}

func readFull(fd int, b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) {
		m, err := unix.Pread(fd, b[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// cut adds chunks of raw and returns how many bytes they cover: all when final,
// else up to the last cut that more bytes could not move.
func (c *contentReader) cut(raw []byte, final bool) int {
	used := 0
	for used < len(raw) {
		rest := raw[used:]
		if len(rest) < c.params.Max && !final {
			break
		}
		n := chunk.Cut(rest, c.params)
		d := chunk.Sum(rest[:n])
		c.sum.Chunk(d, n)
		c.digests = append(c.digests, d[:]...)
		c.cuts = append(c.cuts, rest[:n:n])
		c.part.Chunks++
		c.bytes += n
		used += n
	}
	return used
}

// next sends the batch off and goes on in a new one.
func (c *contentReader) next() error {
	c.part.End = uint64(c.pos)
	c.parts = append(c.parts, c.part)
	id := c.part.Id
	if err := c.flush(); err != nil {
		return err
	}
	c.part = &agentpb.Part{Id: id, Offset: uint64(c.pos)}
	return nil
}

// finish adds the last part.
func (c *contentReader) finish(stable bool, after *unix.Stat_t) error {
	sum := c.sum.Sum()
	o := &agentpb.Outcome{Digest: sum[:]}
	if !stable {
		o.Kind = agentpb.Outcome_CHANGED
		o.After = &agentpb.Meta{}
		setStat(o.After, after)
	}
	c.part.Tail, c.part.End, c.part.Outcome = true, uint64(c.pos), o
	c.parts = append(c.parts, c.part)
	if c.part.Meta != nil {
		c.told += metaSize(c.part.Meta)
	}
	if c.size > smallBatch {
		return c.flush()
	}
	return c.flushIfFull()
}
