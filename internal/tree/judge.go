package tree

import (
	"context"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/chunk"
)

// judge decides for each chunk whether it is here, wanted, or on its way for
// another file, and answers.
func (c *copySession) judge(b *rxBatch) error {
	local := &localReader{sources: c.p.Sources}
	defer local.close()
	c.comparePlaces(b)
	if split := c.refine(b); split != nil {
		b.mu.Lock()
		b.asked = true
		b.mu.Unlock()
		return c.send(&agentpb.CopyRequest{Answers: []*agentpb.Answer{{Batch: b.offer.Batch, Verdicts: split, Recut: true}}})
	}
	verdicts := make([]byte, len(b.chunks))
	seen := map[chunk.Digest]int{}
	var waits []int
	var sent, reused int64
	for i := range b.chunks {
		ch := &b.chunks[i]
		if ch.ready {
			reused += int64(ch.length)
			continue
		}
		if first, ok := seen[ch.digest]; ok {
			ch.twin = first
			reused += int64(ch.length)
			continue
		}
		seen[ch.digest] = i
		verdicts[i] = c.locate(local, ch)
		switch verdicts[i] {
		case have:
			reused += int64(ch.length)
		case want:
			sent += int64(ch.length)
		case later:
			waits = append(waits, i)
		}
	}
	c.count(sent, reused)
	b.mu.Lock() // from the answer on, data may come
	for i, v := range verdicts {
		b.chunks[i].wanted = v == want && !b.chunks[i].ready
	}
	b.mu.Unlock()
	if err := c.send(&agentpb.CopyRequest{Answers: []*agentpb.Answer{{Batch: b.offer.Batch, Verdicts: verdicts}}}); err != nil {
		return err
	}
	if len(waits) > 0 {
		c.wg.Go(func() {
			if err := c.await(b, verdicts, waits); err != nil {
				c.p.fatal(err)
			}
		})
	}
	return c.progress(b)
}

func (c *copySession) count(sent, reused int64) {
	pr := c.p.Progress
	pr.Bytes.Add(sent + reused)
	pr.Sent.Add(sent)
	pr.Reused.Add(reused)
}

// refine returns which chunks of a large file the source should split, or nil:
// those of which the replica has an older version in the same place, and that are
// nowhere else. A file of which nothing turned up that way is not asked about
// further.
func (c *copySession) refine(b *rxBatch) []byte {
	if b.coarse != nil || len(b.offer.Parts) != 1 {
		return nil
	}
	f := b.jobs[0].file
	if !f.comparable() || f.hopeless() {
		return nil
	}
	var split []byte
	for i := range b.chunks {
		ch := &b.chunks[i]
		if ch.ready || ch.length <= fineBlock || ch.offset >= f.oldSize || len(c.p.Index.Lookup(ch.digest, c.p.Tree)) > 0 {
			continue
		}
		if split == nil {
			split = make([]byte, len(b.chunks))
		}
		split[i] = want
	}
	return split
}

// comparePlaces looks for each chunk where it should be in the replica's file.
func (c *copySession) comparePlaces(b *rxBatch) {
	k := 0
	for i, part := range b.offer.Parts {
		chunks := b.chunks[k : k+int(part.Chunks)]
		k += int(part.Chunks)
		if !b.jobs[i].exists || len(chunks) == 0 {
			continue
		}
		fd, done := c.p.oldFile(b.jobs[i], part)
		if fd < 0 {
			continue
		}
		f := b.jobs[i].file
		whole := part.Head && part.Tail
		blocks, found := 0, 0
		for n := range chunks {
			ch := &chunks[n]
			if ch.ready {
				continue
			}
			blocks++
			var data []byte
			known, equal := f.knows(ch, b.coarse != nil)
			if !known {
				data = readIfEqual(fd, ch.offset, ch.digest, ch.length)
				equal = data != nil
			}
			if !equal {
				continue
			}
			found++
			ch.ready, ch.inPlace = true, true
			if whole {
				ch.data = data // may have to be written all the same
			}
		}
		if b.coarse != nil {
			f.refined(blocks, found)
		}
		done()
	}
}

// locate finds a chunk in the index or on its way; otherwise it is wanted.
func (c *copySession) locate(local *localReader, ch *rxChunk) byte {
	if ch.length >= minIndexed {
		for _, at := range c.p.Index.Lookup(ch.digest, c.p.Tree) {
			if ch.data = local.read(at, ch.digest, ch.length); ch.data != nil {
				ch.ready = true
				return have
			}
		}
	}
	if ch.length < minIndexed {
		return want
	}
	f, owner := c.p.Index.Begin(ch.digest)
	if owner {
		ch.flight = f
		return want
	}
	if !c.takeLanded(ch, f) {
		ch.others = f
		return later
	}
	return have
}

// takeLanded takes the bytes of a flight that has ended well.
func (c *copySession) takeLanded(ch *rxChunk, f *chunk.Flight) bool {
	select {
	case <-f.Done():
		if data := f.Data(); len(data) == ch.length {
			ch.data, ch.ready = data, true
			return true
		}
	default:
	}
	return false
}

// await waits for chunks that other files have asked for, and answers again.
func (c *copySession) await(b *rxBatch, verdicts []byte, waits []int) error {
	final := make([]byte, len(verdicts))
	for _, i := range waits {
		ch := &b.chunks[i]
		for f := ch.others; f != nil; {
			select {
			case <-f.Done():
			case <-c.ctx.Done():
				return context.Cause(c.ctx)
			}
			b.mu.Lock()
			if c.takeLanded(ch, f) {
				f = nil
			} else if again, owner := c.p.Index.Begin(ch.digest); owner { // whoever had it in flight has failed
				ch.flight, ch.wanted, f, final[i] = again, true, nil, want
			} else {
				f = again
			}
			b.mu.Unlock()
		}
		n := int64(ch.length)
		if final[i] == want {
			c.count(n, 0)
		} else {
			c.count(0, n)
		}
	}
	if err := c.send(&agentpb.CopyRequest{Answers: []*agentpb.Answer{{Batch: b.offer.Batch, Verdicts: final}}}); err != nil {
		return err
	}
	return c.progress(b)
}

// progress applies the batch once every chunk is here.
func (c *copySession) progress(b *rxBatch) error {
	b.mu.Lock()
	for i := range b.chunks {
		ch := &b.chunks[i]
		if !ch.ready && ch.twin >= 0 && b.chunks[ch.twin].ready {
			ch.data, ch.ready = b.chunks[ch.twin].data, true
		}
	}
	ready := true
	for i := range b.chunks {
		ready = ready && b.chunks[i].ready
	}
	if !ready || b.applied {
		b.mu.Unlock()
		return nil
	}
	b.applied = true
	b.mu.Unlock()
	return c.apply(b)
}
