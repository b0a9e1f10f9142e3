package rowsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// mostTries bounds how often a part of the seed is put behind the others.
const mostTries = 5

// seeding brings tables of the target to what the source holds, whatever they held.
type seeding struct {
	r    *Replicator
	from engine.Reader // the source, or a state of it
	dst  engine.Target

	mu       sync.Mutex
	progress map[engine.Name]engine.Progress
	jobs     []job
	open     int // jobs that run or wait
	wake     chan struct{}
}

// job is a piece of work for any hand.
type job struct {
	run func(ctx context.Context, h *hand) error
	// tries is how often it may fail before that counts, while there is other work:
	// where an engine cannot hold foreign keys off, tables wait for one another.
	tries int
}

// hand is one worker, with a stream row of its own at the target, so that several can
// have transactions at once and a second replicator is found out.
type hand struct {
	s     *seeding
	state engine.State
}

// seed brings the tables up to the reader's state. What was settled before, by the
// progress stored at the target, is left alone.
func (r *Replicator) seed(ctx context.Context, ps []pair, from engine.Reader) error {
	_, dst, err := r.ends(ctx)
	if err != nil {
		return err
	}
	done, err := dst.Progress(ctx, r.cfg.Stream)
	if err != nil {
		return fmt.Errorf("read how far the seed is: %w", err)
	}
	s := &seeding{r: r, from: from, dst: dst, progress: done, wake: make(chan struct{})}
	if s.progress == nil {
		s.progress = map[engine.Name]engine.Progress{}
	}
	// Those that others refer to first; of these the largest, so that no long one is
	// left alone at the end.
	deep := depths(ps)
	ps = slices.SortedStableFunc(slices.Values(ps), func(a, b pair) int {
		return cmp.Or(cmp.Compare(deep[a.dst.Name], deep[b.dst.Name]), cmp.Compare(b.src.Bytes, a.src.Bytes))
	})
	for _, p := range ps {
		r.meter.table(p.src.Name, func(t *TableStats) { t.Rows = p.src.Rows })
		if done[p.dst.Name].Done {
			r.meter.table(p.src.Name, func(t *TableStats) { t.Done = true })
			continue
		}
		s.push(job{tries: mostTries, run: func(ctx context.Context, h *hand) error { return s.table(ctx, h, p) }})
	}
	return s.work(ctx)
}

func (s *seeding) push(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, j)
	s.open++
	close(s.wake)
	s.wake = make(chan struct{})
}

// work runs all jobs with as many hands as the configuration has streams.
func (s *seeding) work(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i := range s.r.cfg.Streams {
		wg.Go(func() {
			if err := s.hand(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// hand works until no job is left.
func (s *seeding) hand(ctx context.Context, i int) error {
	name := s.r.cfg.Stream + "." + strconv.Itoa(i+1)
	var h *hand
	for {
		j, ok := s.take(ctx)
		if !ok {
			break
		}
		if h == nil {
			st, err := s.enlist(ctx, name)
			if err != nil {
				return err
			}
			h = &hand{s: s, state: st}
		}
		if err := s.done(ctx, j, j.run(ctx, h)); err != nil {
			return err
		}
	}
	if h == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.dst.Forget(ctx, name); err != nil {
		return fmt.Errorf("forget a worker of the seed: %w", err)
	}
	return nil
}

// take waits for a job; false means that none is left or ctx ended.
func (s *seeding) take(ctx context.Context) (job, bool) {
	for {
		s.mu.Lock()
		if s.open == 0 || ctx.Err() != nil {
			s.mu.Unlock()
			return job{}, false
		}
		if len(s.jobs) > 0 {
			j := s.jobs[0]
			s.jobs = s.jobs[1:]
			s.mu.Unlock()
			return j, true
		}
		wait := s.wake
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
		}
	}
}

// done takes a job from those that are open, or puts it behind the others where it
// failed for a reason that they may remove.
func (s *seeding) done(ctx context.Context, j job, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.open > 1 && j.tries > 0 && ctx.Err() == nil && !engine.Temporary(err) && !errors.Is(err, engine.ErrConflict) && !errors.Is(err, engine.ErrSchema) {
		s.r.log.Info("a part of the seed waits for others", "error", err)
		j.tries--
		s.jobs = append(s.jobs, j)
		err = nil
	} else {
		s.open--
	}
	close(s.wake)
	s.wake = make(chan struct{})
	return err
}

// depths counts how many foreign keys lead from a table to one that refers to none. In
// a circle, any begins.
func depths(ps []pair) map[engine.Name]int {
	tables := map[engine.Name]*engine.Table{}
	for _, p := range ps {
		tables[p.dst.Name] = p.dst
	}
	deep, open := map[engine.Name]int{}, map[engine.Name]bool{}
	var visit func(n engine.Name) int
	visit = func(n engine.Name) int {
		t := tables[n]
		if d, ok := deep[n]; ok || t == nil || open[n] {
			return d
		}
		open[n] = true
		d := 0
		for _, to := range t.References {
			if to != n && tables[to] != nil {
				d = max(d, visit(to)+1)
			}
		}
		deep[n], open[n] = d, false
		return d
	}
	for n := range tables {
		visit(n)
	}
	return deep
}

// enlist makes, or takes over, the stream row of a worker.
func (s *seeding) enlist(ctx context.Context, name string) (engine.State, error) {
	st, err := s.dst.State(ctx, name)
	if err != nil {
		return st, fmt.Errorf("read the state of a worker: %w", err)
	}
	if st.Phase == engine.Seeding {
		return st, nil
	}
	a, err := s.dst.Begin(ctx, engine.State{Stream: name}, nil)
	if err != nil {
		return st, fmt.Errorf("begin the work of the seed: %w", err)
	}
	st, err = a.Commit(ctx, engine.State{Stream: name, Phase: engine.Seeding})
	if err != nil {
		return st, errors.Join(fmt.Errorf("begin the work of the seed: %w", err), a.Rollback())
	}
	return st, nil
}

// transaction changes tables at the target, whole or not at all.
func (h *hand) transaction(ctx context.Context, p pair, do func(engine.Apply) error) error {
	a, err := h.s.dst.Begin(ctx, h.state, []*engine.Table{p.dst})
	if err != nil {
		return fmt.Errorf("begin a transaction at the target: %w", err)
	}
	if err := do(a); err != nil {
		return errors.Join(err, a.Rollback())
	}
	st, err := a.Commit(ctx, h.state)
	if err != nil {
		return errors.Join(fmt.Errorf("commit at the target: %w", err), a.Rollback())
	}
	h.state = st
	return nil
}

// settled stores how far a table is.
func (s *seeding) settled(ctx context.Context, p pair, to engine.Progress) error {
	if err := s.dst.SetProgress(ctx, s.r.cfg.Stream, p.dst.Name, to); err != nil {
		return fmt.Errorf("store how far %s is: %w", p.dst.Name, err)
	}
	if to.Done {
		s.r.meter.table(p.src.Name, func(t *TableStats) { t.Done = true })
		s.r.log.Info("table is seeded", "table", p.dst.Name.String())
	}
	return nil
}

// table seeds one table the way that suits it.
func (s *seeding) table(ctx context.Context, h *hand, p pair) error {
	s.mu.Lock()
	at := s.progress[p.dst.Name]
	s.mu.Unlock()
	if p.src.Key == nil {
		return s.keyless(ctx, h, p)
	}
	empty := false
	if at.UpTo == nil {
		var err error
		if empty, err = isEmpty(ctx, s.dst, p.dst); err != nil {
			return err
		}
	}
	if empty {
		return s.copyTable(ctx, p)
	}
	return s.compareTable(ctx, h, p, at.UpTo)
}

// isEmpty looks whether a table has any row.
func isEmpty(ctx context.Context, r engine.Reader, t *engine.Table) (bool, error) {
	bounds, end, err := r.Bounds(ctx, t, nil, bucketRows, 1)
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", t.Name, err)
	}
	if !end || len(bounds) > 0 {
		return false, nil
	}
	ds, err := r.Digests(ctx, t, nil, nil, true)
	if err != nil {
		return false, fmt.Errorf("look into %s: %w", t.Name, err)
	}
	return len(ds) == 1 && ds[0].Rows == 0, nil
}

// keyless makes a table equal whole: its rows cannot be told apart.
func (s *seeding) keyless(ctx context.Context, h *hand, p pair) error {
	a, b, err := bothDigests(ctx, s.from, s.dst, p, unit{end: true})
	if err != nil {
		return err
	}
	n := a[0].Rows
	s.r.meter.table(p.src.Name, func(t *TableStats) { t.Compared += n })
	if a[0] != b[0] {
		if _, err := h.copyRange(ctx, p, engine.Range{}, b[0].Rows == 0); err != nil {
			return err
		}
	}
	return s.settled(ctx, p, engine.Progress{Done: true})
}

// ranges are the parts of a table that is copied by several hands; progress is the
// end of the first parts that are all done.
type ranges struct {
	mu   sync.Mutex
	all  []engine.Range
	done []bool
	last bool // all ranges are known
	told int  // of all, how many the stored progress covers
}

// copyTable fills an empty table, range by range.
func (s *seeding) copyTable(ctx context.Context, p pair) error {
	rs := &ranges{}
	rows := rangeRows(p.src)
	var from engine.Row
	for {
		bounds, end, err := s.from.Bounds(ctx, p.src, from, rows, 1)
		if err != nil {
			return fmt.Errorf("find ranges of %s: %w", p.src.Name, err)
		}
		rs.mu.Lock()
		first := len(rs.all)
		for _, b := range bounds {
			rs.all, from = append(rs.all, engine.Range{From: from, To: b}), b
		}
		if end {
			rs.all, rs.last = append(rs.all, engine.Range{From: from}), true
		}
		rs.done = append(rs.done, make([]bool, len(rs.all)-len(rs.done))...)
		n := len(rs.all)
		rs.mu.Unlock()
		for i := first; i < n; i++ {
			s.push(job{tries: mostTries, run: func(ctx context.Context, h *hand) error { return s.copyPart(ctx, h, p, rs, i) }})
		}
		if end {
			return nil
		}
		if len(bounds) == 0 {
			return fmt.Errorf("find ranges of %s: neither a bound nor the end came back", p.src.Name)
		}
	}
}

func (s *seeding) copyPart(ctx context.Context, h *hand, p pair, rs *ranges, i int) error {
	rs.mu.Lock()
	part := rs.all[i]
	rs.mu.Unlock()
	m, err := h.copyRange(ctx, p, part, true)
	if err != nil {
		return err
	}
	s.r.meter.table(p.src.Name, func(t *TableStats) { t.Compared += m.rows })
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.done[i] = true
	was := rs.told
	for rs.told < len(rs.done) && rs.done[rs.told] {
		rs.told++
	}
	if rs.told == was {
		return nil
	}
	if rs.told == len(rs.all) && rs.last {
		return s.settled(ctx, p, engine.Progress{Done: true})
	}
	if to := rs.all[rs.told-1].To; to != nil {
		return s.settled(ctx, p, engine.Progress{UpTo: to})
	}
	return nil
}

// rangeRows is how many rows of a table come to about 32 MB.
func rangeRows(t *engine.Table) int {
	const most, least = 200_000, 1000
	if t.Rows <= 0 || t.Bytes <= 0 {
		return 50_000
	}
	return int(min(most, max(least, 32<<20/max(1, t.Bytes/t.Rows))))
}

// copyRange makes a range equal to the source's without looking. empty promises that
// it was so when the seed began.
func (h *hand) copyRange(ctx context.Context, p pair, r engine.Range, empty bool) (m moved, err error) {
	err = h.transaction(ctx, p, func(a engine.Apply) (err error) {
		if m, err = transfer(ctx, h.s.from, a, p, engine.Selection{Range: r}, empty); err != nil {
			return err
		}
		return refetch(ctx, h.s.from, a, p)
	})
	if err == nil {
		h.s.r.meter.sent(p.src.Name, m)
	}
	return m, err
}

// refetch reads anew the rows that had to make room for others, within the
// transaction, so that no crash can forget them. Rows that were read take room in
// turn; since the source's rows do not collide, that comes to an end.
func refetch(ctx context.Context, from engine.Reader, a engine.Apply, p pair) error {
	if p.src.Key == nil {
		return nil
	}
	done := map[string]bool{}
	for {
		var keys []engine.Row
		for _, k := range a.Displaced()[p.dst.Name] {
			if id := rowText(k); !done[id] {
				done[id] = true
				keys = append(keys, k)
			}
		}
		if len(keys) == 0 {
			return nil
		}
		for part := range slices.Chunk(keys, maxKeys) {
			if _, err := transfer(ctx, from, a, p, engine.Selection{Keys: part}, false); err != nil {
				return fmt.Errorf("fetch rows that made room: %w", err)
			}
		}
	}
}
