package rowsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	bucketRows  = 96 // rows of a digest: a scattered change costs as many keys and hashes, a bucket one digest
	firstUnit   = 64 // buckets of the first query over a table
	leastUnit   = 8
	mostUnit    = 8192
	unitTime    = 700 * time.Millisecond // what one query should take
	batchRows   = 20_000                 // rows whose keys are compared, or which are copied, at once
	maxKeys     = 10_000                 // keys of one selection
	leastKnown  = 500                    // rows that tell how wide others are
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

// compareTable finds what differs behind a key, and mends it, unit by unit. A unit is
// told of when it and all before it are mended.
func (s *seeding) compareTable(ctx context.Context, h *hand, p pair, from engine.Row) error {
	c := &comparing{s: s, p: p}
	if len(p.dst.Unique) == 0 && s.r.cfg.LostRows == nil {
		// Rows of different parts cannot be in each other's way: others may mend, too.
		c.help = make(chan func(context.Context, *hand))
		defer close(c.help)
		for range s.r.cfg.Streams - 1 {
			s.push(job{run: c.assist})
		}
	}
	var last *mending
	err := walk(ctx, s.from, s.dst, p, from, func(u unit) error {
		m := &mending{unit: u}
		c.mend(ctx, h, m)
		done := last
		last = m
		return s.mended(ctx, p, done)
	})
	if err != nil && last != nil {
		last.wg.Wait() // what lies before it is not mended
		return err
	}
	return errors.Join(err, s.mended(ctx, p, last))
}

// mending is one unit on its way.
type mending struct {
	unit unit
	wg   sync.WaitGroup // those who mend parts of it elsewhere
	mu   sync.Mutex
	err  error
}

func (m *mending) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = errors.Join(m.err, err)
}

// mended waits for the rest of a unit and stores how far the table is.
func (s *seeding) mended(ctx context.Context, p pair, m *mending) error {
	if m == nil {
		return nil
	}
	m.wg.Wait()
	if m.err != nil {
		return m.err
	}
	at := engine.Progress{Done: m.unit.end}
	if !m.unit.end {
		at.UpTo = m.unit.bounds[len(m.unit.bounds)-1]
	}
	return s.settled(ctx, p, at)
}

// walk digests a table at both ends, unit by unit, and hands each to see, while the
// next is being digested.
func walk(ctx context.Context, src, dst engine.Reader, p pair, from engine.Row, see func(unit) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	units := make(chan unit, 1)
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
// the same buckets, and sizes its queries by the time they take. The next bounds are
// looked for while buckets are digested.
func scan(ctx context.Context, src, dst engine.Reader, p pair, from engine.Row, out chan<- unit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n := firstUnit
	next := boundsAhead(ctx, dst, p, from, n)
	for {
		b := <-next
		if b.err != nil {
			return b.err
		}
		u := unit{from: from, bounds: b.bounds, end: b.end}
		if !b.end {
			from = b.bounds[len(b.bounds)-1]
			next = boundsAhead(ctx, dst, p, from, n)
		}
		begun := time.Now()
		var err error
		if u.src, u.dst, err = bothDigests(ctx, src, dst, p, u); err != nil {
			cancel()
			if !b.end {
				<-next
			}
			return err
		}
		n = nextUnit(max(1, len(u.src)), time.Since(begun))
		select {
		case out <- u:
		case <-ctx.Done():
			if !b.end {
				<-next
			}
			return ctx.Err()
		}
		if b.end {
			return nil
		}
	}
}

// found are bounds that were looked for.
type found struct {
	bounds []engine.Row
	end    bool
	err    error
}

// boundsAhead looks for bounds; the answer must be taken.
func boundsAhead(ctx context.Context, dst engine.Reader, p pair, from engine.Row, n int) <-chan found {
	out := make(chan found, 1)
	go func() {
		bounds, end, err := dst.Bounds(ctx, p.dst, from, bucketRows, n)
		if err != nil {
			err = fmt.Errorf("find buckets of %s: %w", p.dst.Name, err)
		} else if !end && len(bounds) == 0 {
			err = fmt.Errorf("find buckets of %s: neither a bound nor the end came back", p.dst.Name)
		}
		out <- found{bounds, end, err}
	}()
	return out
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
	s    *seeding
	p    pair
	help chan func(context.Context, *hand) // nil where one hand must mend all

	mu      sync.Mutex
	rows    int64 // sent so far
	bytes   int64 // of them
	most    bool  // of the rows looked at last, most differed
	skipped int   // batches copied unseen since then
}

// assist mends what the hand that compares has no time for.
func (c *comparing) assist(ctx context.Context, h *hand) error {
	for {
		select {
		case do, ok := <-c.help:
			if !ok {
				return nil
			}
			do(ctx, h)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// share has a free hand do a part of a unit, or does it.
func (c *comparing) share(ctx context.Context, h *hand, m *mending, do func(context.Context, *hand) error) {
	m.wg.Add(1)
	part := func(ctx context.Context, h *hand) {
		defer m.wg.Done()
		if err := do(ctx, h); err != nil {
			m.fail(err)
		}
	}
	select {
	case c.help <- part:
	default:
		part(ctx, h)
	}
}

// batch is neighbouring and other buckets that differ.
type batch struct {
	ranges   []engine.Range
	rows     []int64 // of each range, at the source
	src, dst int64   // rows
}

// mend makes the buckets of a unit equal, or has that begun.
func (c *comparing) mend(ctx context.Context, h *hand, m *mending) {
	var b batch
	var compared int64
	u := m.unit
	flush := func() {
		if len(b.ranges) == 0 {
			return
		}
		now := b
		b = batch{}
		c.share(ctx, h, m, func(ctx context.Context, h *hand) error { return c.settle(ctx, h, now) })
	}
	for i := range u.src {
		compared += u.src[i].Rows
		if u.src[i] == u.dst[i] {
			continue
		}
		r := u.bucket(i)
		if u.src[i].Rows > sparseTimes*bucketRows+u.dst[i].Rows*sparseTimes {
			src, dst := u.src[i].Rows, u.dst[i].Rows
			c.share(ctx, h, m, func(ctx context.Context, h *hand) error { return c.fill(ctx, h, r, src, dst) })
			continue
		}
		if b.add(r, u.src[i].Rows, u.dst[i].Rows); b.src+b.dst >= batchRows {
			flush()
		}
	}
	flush()
	c.s.r.meter.table(c.p.src.Name, func(t *TableStats) { t.Compared += compared })
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
func (c *comparing) fill(ctx context.Context, h *hand, r engine.Range, src, dst int64) error {
	from := r.From
	if c.s.r.cfg.LostRows != nil && dst > 0 {
		return c.keys(ctx, h, batch{ranges: []engine.Range{r}, src: src, dst: dst}, true)
	}
	step := int64(rangeRows(c.p.src))
	for left := src; left > step; left -= step {
		bounds, end, err := c.s.from.Bounds(ctx, c.p.src, from, int(step), 1)
		if err != nil {
			return fmt.Errorf("find ranges of %s: %w", c.p.src.Name, err)
		}
		if len(bounds) == 0 || end {
			break
		}
		if _, err := h.copyRange(ctx, c.p, engine.Range{From: from, To: bounds[0]}, false); err != nil {
			return err
		}
		from = bounds[0]
	}
	_, err := h.copyRange(ctx, c.p, engine.Range{From: from, To: r.To}, false)
	return err
}

// settle makes a batch equal, looking closer where that spares more than it costs.
func (c *comparing) settle(ctx context.Context, h *hand, b batch) error {
	narrow, blind := c.unseen()
	if !blind {
		return c.keys(ctx, h, b, true)
	}
	var few batch
	for i, r := range b.ranges {
		if !narrow && b.rows[i] < leastBlind {
			few.add(r, b.rows[i], 0)
			continue
		}
		if _, err := h.copyRange(ctx, c.p, r, false); err != nil {
			return err
		}
	}
	if len(few.ranges) == 0 {
		return nil
	}
	return c.keys(ctx, h, few, false) // they say nothing of long ranges
}

// unseen decides whether a batch is copied without looking, and whether rows are so
// narrow that looking never pays.
func (c *comparing) unseen() (narrow, blind bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// What was sent so far tells how wide rows are; an engine's estimate may not.
	narrow = c.rows >= leastKnown && c.bytes/c.rows < narrowRow
	if blind = c.s.r.cfg.LostRows == nil && (narrow || c.most && c.skipped < probeEvery); blind {
		c.skipped++
	} else {
		c.skipped = 0
	}
	return narrow, blind
}

// keys lists the rows of a batch at both ends and moves only those that differ. How many
// those are may tell what to do with the next.
func (c *comparing) keys(ctx context.Context, h *hand, b batch, tells bool) error {
	send, gone, err := differing(ctx, c.s.from, c.s.dst, c.p, b.ranges)
	if err != nil {
		return err
	}
	if tells {
		c.mu.Lock()
		c.most = float64(len(send)) >= copyShare*float64(max(b.src, 1))
		c.mu.Unlock()
	}
	if len(send)+len(gone) == 0 {
		return nil // they became equal meanwhile
	}
	if lost := c.s.r.cfg.LostRows; lost != nil {
		for _, k := range gone {
			lost(c.p.dst.Name, k)
		}
	}
	var m moved
	err = h.transaction(ctx, c.p, func(a engine.Apply) (err error) {
		if m, err = move(ctx, c.s.from, a, c.p, send, gone); err != nil {
			return err
		}
		return refetch(ctx, c.s.from, a, c.p)
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.rows, c.bytes = c.rows+m.rows, c.bytes+m.bytes
	c.mu.Unlock()
	c.s.r.meter.sent(c.p.src.Name, m)
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
