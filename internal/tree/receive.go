package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const (
	// minIndexed is the shortest chunk worth remembering: finding a shorter one
	// costs more than sending it.
	minIndexed = 512
	// receivers is how many batches of one session are worked on at once.
	receivers = 3
	// maxBatches bounds the batches of one session that are open at once: those a
	// source has in its window, and as many again that are being written.
	maxBatches = 2 * sendWindow / batchCost
)

// copySession is one "copy" call.
type copySession struct {
	p    *Pass
	ctx  context.Context
	st   *pipe.Stream
	done chan struct{} // the source has sent everything
	unp  *chunk.Unpacker
	sem  chan struct{}
	wg   sync.WaitGroup

	outMu sync.Mutex

	mu      sync.Mutex
	jobs    map[uint64]*job
	batches map[uint64]*rxBatch
}

// rxBatch is an offer being settled.
type rxBatch struct {
	offer *agentpb.Offer
	jobs  []*job // of each part

	mu      sync.Mutex
	chunks  []rxChunk
	applied bool
	asked   bool      // to be offered anew, with chunks split
	coarse  []rxChunk // the chunks as they were first offered, where this is the second offer
}

type rxChunk struct {
	digest  chunk.Digest
	offset  int64
	length  int
	data    []byte
	inPlace bool // the replica's file has it at its place
	ready   bool
	wanted  bool          // asked for and not here yet
	twin    int           // index of an earlier equal chunk of the batch, or -1
	flight  *chunk.Flight // ours to land
	others  *chunk.Flight // somebody else's, to wait for
}

func (p *Pass) startCopy(ctx context.Context, conn *pipe.Conn, wg *sync.WaitGroup) (*copySession, error) {
	st, err := conn.Open(ctx, "tree.copy")
	if err != nil {
		return nil, fmt.Errorf("copy from %s: %w", p.Filesystem, err)
	}
	c := &copySession{p: p, ctx: ctx, st: st, done: make(chan struct{}), unp: chunk.NewUnpacker(),
		sem: make(chan struct{}, receivers), jobs: map[uint64]*job{}, batches: map[uint64]*rxBatch{}}
	if err := c.send(&agentpb.CopyRequest{Filesystem: p.Filesystem, Level: int32(p.Level)}); err != nil {
		return nil, fmt.Errorf("copy from %s: %w", p.Filesystem, err)
	}
	wg.Go(func() {
		err := c.receive()
		if err != nil {
			p.fatal(fmt.Errorf("copy from %s: %w", p.Filesystem, err))
		}
		c.wg.Wait()
		c.abandon()
		c.unp.Close()
	})
	return c, nil
}

func (c *copySession) send(m *agentpb.CopyRequest) error {
	c.outMu.Lock()
	defer c.outMu.Unlock()
	return c.st.Send(m)
}

// last tells the source that nothing more will be asked for, and waits for its
// end.
func (c *copySession) last(ctx context.Context) error {
	if err := c.send(&agentpb.CopyRequest{Last: true}); err != nil && err != io.EOF {
		return fmt.Errorf("copy from %s: %w", c.p.Filesystem, err)
	}
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end gives up the call, unless it is over.
func (c *copySession) end() { c.st.Close() }

// abandon lands what others may be waiting for and will not come.
func (c *copySession) abandon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.batches {
		b.mu.Lock()
		for i := range b.chunks {
			if f := b.chunks[i].flight; f != nil {
				f.Land(nil)
				f.Release()
			}
		}
		b.mu.Unlock()
	}
	for _, j := range c.jobs {
		j.mu.Lock()
		j.file.close()
		j.mu.Unlock()
	}
}

// request asks for jobs, spreading them over the sessions.
func (p *Pass) request(_ context.Context, jobs ...*job) error {
	asked := make([]*agentpb.CopyRequest, len(p.copies))
	for _, j := range jobs {
		if p.links.canFollow(j) {
			p.follow(j, j.group)
			continue
		}
		id := p.nextID.Add(1)
		n := int(id/16) % len(p.copies)
		c := p.copies[n]
		c.mu.Lock()
		c.jobs[id] = j
		c.mu.Unlock()
		p.pending.add(1)
		if asked[n] == nil {
			asked[n] = &agentpb.CopyRequest{}
		}
		asked[n].Files = append(asked[n].Files, &agentpb.CopyFile{Id: id, Path: []byte(j.path)})
	}
	for n, req := range asked {
		if req == nil {
			continue
		}
		if err := p.copies[n].send(req); err != nil {
			return fmt.Errorf("copy from %s: %w", p.Filesystem, err)
		}
	}
	return nil
}

func (c *copySession) receive() error {
	for {
		m := &agentpb.CopyReply{}
		raw, err := c.st.RecvRaw(m)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		for _, o := range m.Offers {
			if err := c.offer(o); err != nil {
				return err
			}
		}
		if len(m.Data) > 1 {
			return fmt.Errorf("%w: %d batches in one frame", errOffer, len(m.Data))
		}
		for _, d := range m.Data {
			c.mu.Lock()
			b := c.batches[d.Batch]
			c.mu.Unlock()
			if b == nil {
				return fmt.Errorf("data of batch %d, which is not open", d.Batch)
			}
			content, err := c.unpack(b, d, raw)
			if err != nil {
				return err
			}
			if err := c.work(func() error { return c.data(b, d, content) }); err != nil {
				return err
			}
		}
		if m.Done {
			c.wg.Wait()
			c.mu.Lock()
			open := len(c.batches) + len(c.jobs)
			c.mu.Unlock()
			if open > 0 {
				return fmt.Errorf("the source ended with %d files open", open)
			}
			close(c.done)
			return nil
		}
	}
}

// work runs f beside the receiving, a few at a time. It waits for its turn, so that
// what a source sends ahead stays in the stream's window.
func (c *copySession) work(f func() error) error {
	select {
	case c.sem <- struct{}{}:
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	c.wg.Go(func() {
		defer func() { <-c.sem }()
		if err := f(); err != nil {
			c.p.fatal(err)
		}
	})
	return nil
}

// maxOffset is where the largest file that Linux knows ends, about.
const maxOffset = 1 << 62

var errOffer = errors.New("malformed offer")

// offer checks an offer, opens what large files it begins, and has it settled.
func (c *copySession) offer(o *agentpb.Offer) error {
	b := &rxBatch{offer: o}
	if err := b.parse(); err != nil {
		return err
	}
	old, err := c.admit(b)
	if err != nil {
		return err
	}
	for i, part := range o.Parts {
		if old == nil {
			if err := c.p.beginPart(b.jobs[i], part); err != nil {
				return err
			}
		}
	}
	if len(b.chunks) == 0 { // nothing to settle, no answer to wait for
		return c.work(func() error {
			if err := c.send(&agentpb.CopyRequest{Answers: []*agentpb.Answer{{Batch: o.Batch}}}); err != nil {
				return err
			}
			return c.apply(b)
		})
	}
	return c.work(func() error { return c.judge(b) })
}

// admit enters a batch and finds its jobs. It returns the batch that this one is a
// recut of, if it is.
func (c *copySession) admit(b *rxBatch) (old *rxBatch, err error) {
	o := b.offer
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, part := range o.Parts {
		j := c.jobs[part.Id]
		if j == nil {
			return nil, fmt.Errorf("%w: part of file %d, which was not asked for", errOffer, part.Id)
		}
		b.jobs = append(b.jobs, j)
	}
	old = c.batches[o.Batch]
	if old != nil && !old.mayBecome(b) {
		return nil, fmt.Errorf("%w: batch %d is open already", errOffer, o.Batch)
	}
	if len(c.batches) >= maxBatches {
		return nil, fmt.Errorf("%w: more than %d batches open", errOffer, maxBatches)
	}
	if old != nil {
		b.carryOver(old)
	}
	c.batches[o.Batch] = b
	return old, nil
}

// mayBecome reports whether b was asked to be offered anew and the offer is of the
// same stretch of the same file.
func (b *rxBatch) mayBecome(anew *rxBatch) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.asked || len(b.offer.Parts) != 1 || len(anew.offer.Parts) != 1 {
		return false
	}
	p, q := b.offer.Parts[0], anew.offer.Parts[0]
	return p.Id == q.Id && p.Head == q.Head && p.Tail == q.Tail && p.Offset == q.Offset && p.End == q.End
}

// carryOver takes what is known of the chunks that are in the second offer as they
// were in the first.
func (b *rxBatch) carryOver(old *rxBatch) {
	b.coarse = old.chunks
	k := 0
	for i := range b.chunks {
		ch := &b.chunks[i]
		for k < len(b.coarse) && b.coarse[k].offset < ch.offset {
			k++
		}
		if k < len(b.coarse) && b.coarse[k].offset == ch.offset && b.coarse[k].digest == ch.digest {
			ch.ready, ch.inPlace, ch.data = b.coarse[k].ready, b.coarse[k].inPlace, b.coarse[k].data
		}
	}
}

// parse fills in the chunks, checking all that a hostile source could say.
func (b *rxBatch) parse() error {
	o := b.offer
	if len(o.Digests) != 32*len(o.Lengths) {
		return fmt.Errorf("%w: %d digests for %d chunks", errOffer, len(o.Digests)/32, len(o.Lengths))
	}
	total, k := 0, 0
	for _, part := range o.Parts {
		pos := part.Offset
		holes := part.Holes
		skip := func() error {
			for len(holes) > 0 && holes[0].Offset == pos {
				if holes[0].Length > maxOffset || pos+holes[0].Length > maxOffset {
					return fmt.Errorf("%w: hole of %d bytes", errOffer, holes[0].Length)
				}
				pos += holes[0].Length
				holes = holes[1:]
			}
			return nil
		}
		for range part.Chunks {
			if err := skip(); err != nil {
				return err
			}
			if pos > maxOffset || k >= len(o.Lengths) || o.Lengths[k] > chunk.MaxLen || o.Lengths[k] == 0 {
				return fmt.Errorf("%w: chunk %d", errOffer, k)
			}
			ch := rxChunk{digest: chunk.Digest(o.Digests[32*k:]), offset: int64(pos), length: int(o.Lengths[k]), twin: -1}
			b.chunks = append(b.chunks, ch)
			pos += uint64(o.Lengths[k])
			total += ch.length
			k++
		}
		if err := skip(); err != nil {
			return err
		}
		if len(holes) > 0 || pos != part.End || pos > maxOffset || total > chunk.MaxFrame {
			return fmt.Errorf("%w: part ends at %d, says %d", errOffer, pos, part.End)
		}
		if !complete(part) {
			return fmt.Errorf("%w: part without what it should tell", errOffer)
		}
	}
	if k != len(o.Lengths) {
		return fmt.Errorf("%w: %d chunks, %d in parts", errOffer, len(o.Lengths), k)
	}
	return nil
}

// complete reports whether a part tells what its place in the entry calls for. Only
// an entry that could not be read comes without its state.
func complete(p *agentpb.Part) bool {
	if p.Tail != (p.Outcome != nil) {
		return false
	}
	if !p.Head || p.Meta != nil {
		return true
	}
	return p.Outcome != nil && p.Chunks == 0 && len(p.Holes) == 0 &&
		(p.Outcome.Kind == agentpb.Outcome_VANISHED || p.Outcome.Kind == agentpb.Outcome_FAILED)
}

// unpack returns the bytes of wanted chunks. Frames are unpacked in the order they
// come in, for each builds on those before it.
func (c *copySession) unpack(b *rxBatch, d *agentpb.Data, frame []byte) ([]byte, error) {
	total := 0
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range d.Chunks {
		if int(i) >= len(b.chunks) || !b.chunks[i].wanted {
			return nil, fmt.Errorf("%w: data of chunk %d of %d, which was not asked for", errOffer, i, len(b.chunks))
		}
		b.chunks[i].wanted = false
		total += b.chunks[i].length
	}
	if len(frame) > total-total/30 { // see chunk.Packer.Pack
		c.p.Progress.Stiff.Add(int64(total))
	}
	return c.unp.Unpack(frame, d.Zstd, total)
}

// data takes the bytes of wanted chunks.
func (c *copySession) data(b *rxBatch, d *agentpb.Data, raw []byte) error {
	for _, i := range d.Chunks {
		ch := &b.chunks[i]
		data := raw[:ch.length:ch.length]
		raw = raw[ch.length:]
		if chunk.Sum(data) != ch.digest {
			return fmt.Errorf("a chunk of %q does not have the digest it was offered with", b.pathOf(int(i)))
		}
		b.mu.Lock()
		ch.data, ch.ready = data, true
		f := ch.flight
		b.mu.Unlock()
		if f != nil {
			f.Land(data)
		}
	}
	return c.progress(b)
}

// pathOf names the file that chunk i belongs to.
func (b *rxBatch) pathOf(i int) string {
	for n, part := range b.offer.Parts {
		if i -= int(part.Chunks); i < 0 {
			return b.jobs[n].path
		}
	}
	return ""
}

// room asks whether the batch may be written.
func (c *copySession) room(b *rxBatch) error {
	if c.p.Space == nil {
		return nil
	}
	n := int64(4096 * len(b.offer.Parts))
	for i := range b.chunks {
		if !b.chunks[i].inPlace {
			n += int64(b.chunks[i].length)
		}
	}
	if err := c.p.Space(n); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return nil
}

// apply writes a complete batch into the replica.
func (c *copySession) apply(b *rxBatch) error {
	if err := c.room(b); err != nil {
		return err
	}
	k := 0
	for i, part := range b.offer.Parts {
		j := b.jobs[i]
		chunks := b.chunks[k : k+int(part.Chunks)]
		k += int(part.Chunks)
		done, err := true, error(nil)
		if part.Head && part.Tail {
			err = c.p.applyWhole(j, part, chunks)
		} else {
			told := chunks
			if b.coarse != nil { // of a batch with one part
				told = b.coarse
			}
			done, err = c.p.applyPart(j, part, chunks, told)
		}
		if err != nil {
			return err
		}
		if done {
			c.mu.Lock()
			delete(c.jobs, part.Id)
			c.mu.Unlock()
		}
		for n := range chunks {
			c.p.Progress.Settled.Add(int64(chunks[n].length))
			if f := chunks[n].flight; f != nil {
				f.Release() // the index has it now, or the file could not be written
			}
		}
	}
	c.mu.Lock()
	delete(c.batches, b.offer.Batch)
	c.mu.Unlock()
	return nil
}
