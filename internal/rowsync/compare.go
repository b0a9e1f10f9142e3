package rowsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	bucketRows  = 192 // rows of a digest: a scattered change costs as many keys
	firstUnit   = 64  // buckets of the first query over a table
	leastUnit   = 8
	mostUnit    = 8192
	unitTime    = 700 * time.Millisecond // what one query should take
	batchRows   = 20_000                 // rows whose keys are compared, or which are copied, at once
	maxKeys     = 2000                   // keys of one selection
	narrowRow   = 60                     // bytes; a narrower row is no longer than its key and hash
	copyShare   = 0.6                    // of rows differing, from which looking does not pay
	leastBlind  = 4 * bucketRows         // rows of a range that may be copied unseen: a short one is scattered change
	probeEvery  = 8                      // batches copied unseen before looking again
	sparseTimes = 4                      // as many rows as expected: a bucket with more is split
)

// unit is what one query covers: buckets cut by keys of the target.
type unit struct {
	from     engine.Row
	bounds   []engine.Row
	end      bool
	src, dst []engine.Digest
}

// bucket is the range of bucket i.
func (u *unit) bucket(i int) engine.Range {
	r := engine.Range{From: u.from}
	if i > 0 {
		r.From = u.bounds[i-1]
	}
	if i < len(u.bounds) {
		r.To = u.bounds[i]
	}
	return r
}

// compareTable finds what differs behind a key, and mends it, unit by unit.
func (s *seeding) compareTable(ctx context.Context, h *hand, p pair, from engine.Row) error {
	c := &comparing{h: h, p: p}
	return walk(ctx, s.from, s.dst, p, from, func(u unit) error {
		if err := c.mend(ctx, u); err != nil {
			return err
		}
		at := engine.Progress{Done: u.end}
		if !u.end {
			at.UpTo = u.bounds[len(u.bounds)-1]
		}
		return s.settled(ctx, p, at)
	})
}

// walk digests a table at both ends, unit by unit, and hands each to see, while the
// next is being digested.
func walk(ctx context.Context, src, dst engine.Reader, p pair, from engine.Row, see func(unit) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	units := make(chan unit)
	scanned := make(chan error, 1)
	go func() {
		err := scan(ctx, src, dst, p, from, units)
		close(units)
		scanned <- err
	}()
	var seen error
	for u := range units {
		if seen == nil {
			if seen = see(u); seen != nil {
				cancel()
			}
		}
	}
	if err := <-scanned; seen == nil {
		return err
	}
	return seen
}

// scan cuts the table by the target's own index, so that the source's rows fall into
// the same buckets, and sizes its queries by the time they take.
func scan(ctx context.Context, src, dst engine.Reader, p pair, from engine.Row, out chan<- unit) error {
	n := firstUnit
	for {
		begun := time.Now()
		bounds, end, err := dst.Bounds(ctx, p.dst, from, bucketRows, n)
		if err != nil {
			return fmt.Errorf("find buckets of %s: %w", p.dst.Name, err)
		}
		if !end && len(bounds) == 0 {
			return fmt.Errorf("find buckets of %s: neither a bound nor the end came back", p.dst.Name)
		}
		u := unit{from: from, bounds: bounds, end: end}
		if u.src, u.dst, err = bothDigests(ctx, src, dst, p, u); err != nil {
			return err
		}
		n = nextUnit(n, time.Since(begun))
		select {
		case out <- u:
		case <-ctx.Done():
			return ctx.Err()
		}
		if end {
			return nil
		}
		from = bounds[len(bounds)-1]
	}
}

// nextUnit moves the size of a query towards the time it should take.
func nextUnit(n int, took time.Duration) int {
	want := float64(n) * float64(unitTime) / float64(max(took, time.Millisecond))
	want = min(max(want, float64(n)/4), float64(n)*2)
	return int(min(max(want, leastUnit), mostUnit))
}

// bothDigests digests a unit at both ends at once.
func bothDigests(ctx context.Context, src, dst engine.Reader, p pair, u unit) (a, b []engine.Digest, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	got := make(chan error, 1)
	go func() {
		var err error
		if a, err = src.Digests(ctx, p.src, u.from, u.bounds, u.end); err != nil {
			cancel()
		}
		got <- err
	}()
	b, err = dst.Digests(ctx, p.dst, u.from, u.bounds, u.end)
	if err != nil {
		cancel()
	}
	srcErr := <-got
	if srcErr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil, nil, fmt.Errorf("digest %s at the source: %w", p.src.Name, srcErr)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("digest %s at the target: %w", p.dst.Name, err)
	}
	want := len(u.bounds)
	if u.end {
		want++
	}
	if len(a) != want || len(b) != want {
		return nil, nil, fmt.Errorf("digest %s: got %d and %d digests of %d buckets", p.src.Name, len(a), len(b), want)
	}
	return a, b, nil
}

// comparing mends what differs in one table.
type comparing struct {
	h       *hand
	p       pair
	rows    int64 // sent so far
	bytes   int64 // of them
	most    bool  // of the rows looked at last, most differed
	skipped int   // batches copied unseen since then
}

// batch is neighbouring and other buckets that differ.
type batch struct {
	ranges   []engine.Range
	rows     []int64 // of each range, at the source
	src, dst int64   // rows
}

// mend makes the buckets of a unit equal.
func (c *comparing) mend(ctx context.Context, u unit) error {
	var b batch
	var compared int64
	for i := range u.src {
		compared += u.src[i].Rows
		if u.src[i] == u.dst[i] {
			continue
		}
		r := u.bucket(i)
		if u.src[i].Rows > sparseTimes*bucketRows+u.dst[i].Rows*sparseTimes {
			if err := c.fill(ctx, r, u.src[i].Rows, u.dst[i].Rows); err != nil {
				return err
			}
			continue
		}
		b.add(r, u.src[i].Rows, u.dst[i].Rows)
		if b.src+b.dst >= batchRows {
			if err := c.settle(ctx, b); err != nil {
				return err
			}
			b = batch{}
		}
	}
	c.h.s.r.meter.table(c.p.src.Name, func(t *TableStats) { t.Compared += compared })
	if len(b.ranges) == 0 {
		return nil
	}
	return c.settle(ctx, b)
}

// add joins a bucket to its neighbour where it has one.
func (b *batch) add(r engine.Range, src, dst int64) {
	b.src, b.dst = b.src+src, b.dst+dst
	if n := len(b.ranges); n > 0 && r.From != nil && b.ranges[n-1].To != nil && rowText(b.ranges[n-1].To) == rowText(r.From) {
		b.ranges[n-1].To = r.To
		b.rows[n-1] += src
		return
	}
	b.ranges, b.rows = append(b.ranges, r), append(b.rows, src)
}

// fill copies a bucket in which the source has far more rows than the target, in
// parts. Rows may come and go meanwhile, so that a part may reach behind the bucket:
// what is copied there is right as well.
func (c *comparing) fill(ctx context.Context, r engine.Range, src, dst int64) error {
	from := r.From
	if c.h.s.r.cfg.LostRows != nil && dst > 0 {
		if err := c.keys(ctx, batch{ranges: []engine.Range{r}, src: src, dst: dst}); err != nil {
			return err
		}
		return nil
	}
	step := int64(rangeRows(c.p.src))
	for left := src; left > step; left -= step {
		bounds, end, err := c.h.s.from.Bounds(ctx, c.p.src, from, int(step), 1)
		if err != nil {
			return fmt.Errorf("find ranges of %s: %w", c.p.src.Name, err)
		}
		if len(bounds) == 0 || end {
			break
		}
		if _, err := c.h.copyRange(ctx, c.p, engine.Range{From: from, To: bounds[0]}, false); err != nil {
			return err
		}
		from = bounds[0]
	}
	_, err := c.h.copyRange(ctx, c.p, engine.Range{From: from, To: r.To}, false)
	return err
}

// settle makes a batch equal, looking closer where that spares more than it costs.
func (c *comparing) settle(ctx context.Context, b batch) error {
	// What was sent so far tells how wide rows are; an engine's estimate may not.
	narrow := c.rows >= maxKeys/4 && c.bytes/c.rows < narrowRow
	if c.h.s.r.cfg.LostRows == nil && (narrow || c.most && c.skipped < probeEvery) {
		c.skipped++
		var few batch
		for i, r := range b.ranges {
			if !narrow && b.rows[i] < leastBlind {
				few.add(r, b.rows[i], 0)
				continue
			}
			if _, err := c.h.copyRange(ctx, c.p, r, false); err != nil {
				return err
			}
		}
		if len(few.ranges) == 0 {
			return nil
		}
		was := c.most
		err := c.keys(ctx, few)
		c.most = was // they say nothing of long ranges
		return err
	}
	c.skipped = 0
	return c.keys(ctx, b)
}

// keys lists the rows of a batch at both ends and moves only those that differ.
func (c *comparing) keys(ctx context.Context, b batch) error {
	send, gone, err := differing(ctx, c.h.s.from, c.h.s.dst, c.p, b.ranges)
	if err != nil {
		return err
	}
	c.most = float64(len(send)) >= copyShare*float64(max(b.src, 1))
	if len(send)+len(gone) == 0 {
		return nil // they became equal meanwhile
	}
	if lost := c.h.s.r.cfg.LostRows; lost != nil {
		for _, k := range gone {
			lost(c.p.dst.Name, k)
		}
	}
	var m moved
	err = c.h.transaction(ctx, c.p, func(a engine.Apply) (err error) {
		if m, err = move(ctx, c.h.s.from, a, c.p, send, gone); err != nil {
			return err
		}
		return refetch(ctx, c.h.s.from, a, c.p)
	})
	if err != nil {
		return err
	}
	c.rows, c.bytes = c.rows+m.rows, c.bytes+m.bytes
	c.h.s.r.meter.sent(c.p.src.Name, m)
	return nil
}

// move deletes rows and sends others, by key.
func move(ctx context.Context, from engine.Reader, a engine.Apply, p pair, send, gone []engine.Row) (m moved, err error) {
	for part := range slices.Chunk(gone, maxKeys) {
		n, err := a.Delete(ctx, p.dst, part)
		if err != nil {
			return m, fmt.Errorf("delete rows of %s: %w", p.dst.Name, err)
		}
		m.deleted += n
	}
	for part := range slices.Chunk(send, maxKeys) {
		n, err := transfer(ctx, from, a, p, engine.Selection{Keys: part}, false)
		if err != nil {
			return m, err
		}
		m.add(n)
	}
	return m, nil
}

// differing lists the keys of ranges whose rows the target lacks or has otherwise,
// and those that it alone has.
func differing(ctx context.Context, src, dst engine.Reader, p pair, rs []engine.Range) (send, gone []engine.Row, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type listing struct {
		m   map[string]engine.KeyHash
		err error
	}
	have := make(chan listing, 1)
	go func() {
		m := map[string]engine.KeyHash{}
		for k, err := range dst.Keys(ctx, p.dst, rs) {
			if err != nil {
				have <- listing{nil, fmt.Errorf("list keys of %s at the target: %w", p.dst.Name, err)}
				return
			}
			m[rowText(k.Key)] = k
		}
		have <- listing{m, nil}
	}()
	var want []engine.KeyHash
	for k, err := range src.Keys(ctx, p.src, rs) {
		if err != nil {
			cancel()
			<-have
			return nil, nil, fmt.Errorf("list keys of %s at the source: %w", p.src.Name, err)
		}
		want = append(want, k)
	}
	there := <-have
	if there.err != nil {
		return nil, nil, there.err
	}
	for _, k := range want {
		id := rowText(k.Key)
		if d, ok := there.m[id]; !ok || d.Hash != k.Hash {
			send = append(send, k.Key)
		}
		delete(there.m, id)
	}
	for _, d := range there.m {
		gone = append(gone, d.Key)
	}
	return send, gone, nil
}
