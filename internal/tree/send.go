package tree

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const (
	// sendWindow bounds the bytes offered and not yet settled: they stay in
	// memory, so that what was hashed is what is sent and no file is read twice.
	sendWindow = 16 << 20
	// smallBatch closes a batch of small files, largeBatch one of a large file.
	smallBatch = 1 << 20
	largeBatch = 4 << 20
	batchParts = 512
	// batchCost is what a batch takes of the window beside its chunks.
	batchCost = 4096
	// maxQueue bounds the files a target may ask for ahead.
	maxQueue = 1 << 16

	have, want, later = 0, 1, 2 // verdicts of an Answer
)

// copyHandler serves the "copy" call: file names in, offers out, answers in, data
// out.
func (s *Service) copyHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.CopyRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	v, err := s.view(req.Filesystem)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s1 := &sender{view: v, gov: s.gov, out: st, packer: chunk.NewPacker(int(req.Level)),
		queue: make(chan *agentpb.CopyFile, maxQueue), answered: make(chan toSend, 2*sendWindow/batchCost+16),
		batches: map[uint64]*batch{}, fail: cancel}
	s1.room = sync.NewCond(&s1.mu)
	return s1.run(ctx, &req)
}

// sender offers the files it is asked for and sends what the target lacks.
type sender struct {
	view     *view
	gov      Governor
	out      *pipe.Stream
	outMu    sync.Mutex // a Stream takes one sender at a time
	packer   *chunk.Packer
	queue    chan *agentpb.CopyFile
	answered chan toSend
	fail     context.CancelCauseFunc

	mu      sync.Mutex
	room    *sync.Cond
	dead    bool
	used    int // bytes in batches
	next    uint64
	batches map[uint64]*batch
}

// batch is what one Offer describes, held until every chunk is settled.
type batch struct {
	id      uint64
	offer   *agentpb.Offer
	chunks  [][]byte
	pending []bool   // not settled yet
	bufs    [][]byte // pooled buffers that the chunks lie in
	bytes   int
	refs    int // one while it is open, and one for each sending
	recut   bool
}

// toSend is what an answer to a batch demands: some of its chunks, or all of it
// offered anew with some chunks split.
type toSend struct {
	batch  *batch
	chunks []int
	split  []byte // 1 for each chunk to split; nil where chunks are to be sent
}

// largeBuffers are where the content of large files is read into.
var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBatch); return &b }}

func (s *sender) run(ctx context.Context, first *agentpb.CopyRequest) error {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		s.dead = true
		s.room.Broadcast()
		s.mu.Unlock()
	})
	defer stop()
	var readers, writers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0)+1, 4) {
		readers.Go(func() {
			if err := s.reader(ctx); err != nil {
				s.fail(err)
			}
		})
	}
	packed := make(chan frame, 1)
	writers.Go(func() {
		defer close(packed)
		for t := range s.answered {
			if err := s.serve(t, packed); err != nil {
				s.fail(err)
			}
		}
	})
	writers.Go(func() {
		for f := range packed {
			if err := s.sendFrame(f); err != nil {
				s.fail(err)
			}
		}
	})
	err := s.receive(ctx, first, &readers)
	if err != nil {
		s.fail(err)
	}
	readers.Wait()
	close(s.answered)
	writers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return s.send(&agentpb.CopyReply{Done: true})
}

func (s *sender) send(m *agentpb.CopyReply) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	return s.out.Send(m)
}

// receive takes requests until all is asked for and all is settled.
func (s *sender) receive(ctx context.Context, req *agentpb.CopyRequest, readers *sync.WaitGroup) error {
	open := true
	defer func() {
		if open {
			close(s.queue)
		}
	}()
	var over chan struct{}
	msgs := make(chan *agentpb.CopyRequest)
	errs := make(chan error, 1)
	go func() {
		for {
			m := &agentpb.CopyRequest{}
			if err := s.out.Recv(m); err != nil {
				errs <- err
				return
			}
			select {
			case msgs <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		if err := s.request(req); err != nil {
			return err
		}
		if req.Last && open {
			open = false
			close(s.queue)
			over = make(chan struct{})
			go func() { readers.Wait(); close(over) }()
		}
		for done := false; !done; {
			if over == nil && !open && s.settled() {
				return nil
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case err := <-errs:
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			case <-over:
				over = nil
			case req = <-msgs:
				done = true
			}
		}
	}
}

func (s *sender) request(req *agentpb.CopyRequest) error {
	for _, f := range req.Files {
		if err := checkPath(string(f.Path)); err != nil {
			return err
		}
		select {
		case s.queue <- f:
		default:
			return fmt.Errorf("more than %d files asked for at once", maxQueue)
		}
	}
	for _, a := range req.Answers {
		if err := s.answer(a); err != nil {
			return err
		}
	}
	return nil
}

func (s *sender) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.batches) == 0
}

// answer notes a verdict and queues what is to be sent.
func (s *sender) answer(a *agentpb.Answer) error {
	s.mu.Lock()
	b := s.batches[a.Batch]
	if b == nil {
		s.mu.Unlock()
		return fmt.Errorf("answer to batch %d, which is not open", a.Batch)
	}
	if len(a.Verdicts) != len(b.chunks) {
		s.mu.Unlock()
		return fmt.Errorf("answer of %d verdicts to %d chunks", len(a.Verdicts), len(b.chunks))
	}
	if a.Recut && !b.recut {
		b.recut = true
		s.mu.Unlock()
		s.answered <- toSend{batch: b, split: a.Verdicts} // not here: whoever reads the answers must not wait for the wire
		return nil
	}
	var todo []int
	open := false
	for i, v := range a.Verdicts {
		if !b.pending[i] {
			continue
		}
		switch v {
		case want:
			todo = append(todo, i)
			b.pending[i] = false
		case have:
			b.pending[i] = false
		default:
			open = true
		}
	}
	if len(todo) > 0 {
		b.refs++
	}
	if !open {
		delete(s.batches, b.id)
		s.unref(b)
	}
	s.mu.Unlock()
	if len(todo) > 0 {
		s.answered <- toSend{batch: b, chunks: todo} // never full: the window bounds the batches, and each is queued twice at most
	}
	return nil
}

// unref lets go of a batch; with the last reference its room is free again. s.mu is
// held.
func (s *sender) unref(b *batch) {
	if b.refs--; b.refs > 0 {
		return
	}
	s.used -= b.bytes
	s.room.Broadcast()
	for _, buf := range b.bufs {
		buf = buf[:cap(buf)]
		largeBuffers.Put(&buf)
	}
	b.bufs, b.chunks = nil, nil
}

// frame is wanted chunks of a batch, packed.
type frame struct {
	batch *batch
	data  *agentpb.Data
	parts [][]byte
}

// serve does what an answer demands. It runs beside the sending of frames, which go
// in the order they were packed in.
func (s *sender) serve(t toSend, packed chan<- frame) error {
	if t.split != nil {
		return s.recut(t.batch, t.split)
	}
	f := frame{batch: t.batch, data: &agentpb.Data{Batch: t.batch.id}, parts: make([][]byte, len(t.chunks))}
	s.mu.Lock()
	for n, i := range t.chunks {
		f.parts[n] = t.batch.chunks[i]
		f.data.Chunks = append(f.data.Chunks, uint32(i))
	}
	s.mu.Unlock()
	var err error
	if f.parts, f.data.Zstd, err = s.packer.Pack(f.parts...); err != nil {
		return err
	}
	packed <- f
	return nil
}

// sendFrame sends a frame and lets go of its batch.
func (s *sender) sendFrame(f frame) error {
	start := time.Now()
	s.outMu.Lock()
	err := s.out.SendRaw(&agentpb.CopyReply{Data: []*agentpb.Data{f.data}}, f.parts...)
	s.outMu.Unlock()
	s.packer.Sent(time.Since(start))
	s.mu.Lock()
	s.unref(f.batch)
	s.mu.Unlock()
	return err
}

// offer waits for room and sends what a reader has gathered; the digests of the
// chunks are filled in already.
func (s *sender) offer(offer *agentpb.Offer, chunks, bufs [][]byte) error {
	b := &batch{offer: offer, chunks: chunks, bufs: bufs, bytes: batchCost, refs: 1}
	for _, c := range chunks {
		b.bytes += len(c)
	}
	b.pending = make([]bool, len(chunks))
	for i := range b.pending {
		b.pending[i] = true
	}
	offer.Lengths = lengths(chunks)
	s.mu.Lock()
	for s.used > 0 && s.used+b.bytes > sendWindow && !s.dead {
		s.room.Wait()
	}
	if s.dead {
		s.mu.Unlock()
		return context.Canceled
	}
	s.used += b.bytes
	s.next++
	b.id = s.next
	offer.Batch = b.id
	s.batches[b.id] = b
	s.mu.Unlock()
	return s.send(&agentpb.CopyReply{Offers: []*agentpb.Offer{offer}})
}

func lengths(chunks [][]byte) []uint32 {
	out := make([]uint32, len(chunks))
	for i, c := range chunks {
		out[i] = uint32(len(c))
	}
	return out
}

// fineBlock is what a chunk is split into where the target has an older version of
// it: databases write pages of 4 to 16 KiB.
const fineBlock = 8 << 10

// recut offers a batch again, with some chunks split at multiples of fineBlock in
// their file: of those the target has much in its place.
func (s *sender) recut(b *batch, split []byte) error {
	var chunks [][]byte
	digests := make([]byte, 0, 2*len(b.offer.Digests))
	i := 0
	for _, p := range b.offer.Parts {
		before, end := len(chunks), i+int(p.Chunks)
		walk(p, func(pos uint64) uint64 {
			c := b.chunks[i]
			if split[i] == want {
				chunks, digests = cutFine(chunks, digests, c, pos)
			} else {
				chunks, digests = append(chunks, c), append(digests, b.offer.Digests[32*i:32*i+32]...)
			}
			i++
			return uint64(len(c))
		})
		if i != end {
			return fmt.Errorf("batch %d: its parts do not cover its chunks", b.id)
		}
		p.Chunks = uint32(len(chunks) - before)
	}
	b.offer.Digests, b.offer.Lengths = digests, lengths(chunks)
	s.mu.Lock()
	b.chunks = chunks
	b.pending = make([]bool, len(chunks))
	for i := range b.pending {
		b.pending[i] = true
	}
	s.mu.Unlock()
	return s.send(&agentpb.CopyReply{Offers: []*agentpb.Offer{b.offer}})
}

// walk calls chunk with the offset of each chunk of a part; it returns the chunk's
// length.
func walk(p *agentpb.Part, chunk func(pos uint64) uint64) {
	pos, holes := p.Offset, p.Holes
	for range p.Chunks {
		for len(holes) > 0 && holes[0].Offset == pos {
			pos += holes[0].Length
			holes = holes[1:]
		}
		pos += chunk(pos)
	}
}

// cutFine appends the blocks of the chunk c, which lies at pos.
func cutFine(chunks [][]byte, digests, c []byte, pos uint64) ([][]byte, []byte) {
	for len(c) > 0 {
		n := min(int(fineBlock-pos%fineBlock), len(c))
		d := chunk.Sum(c[:n])
		chunks, digests = append(chunks, c[:n:n]), append(digests, d[:]...)
		c, pos = c[n:], pos+uint64(n)
	}
	return chunks, digests
}
