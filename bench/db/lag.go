package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	lagRate   = 2000 // transactions a second
	beatEvery = 20 * time.Millisecond
	lookEvery = 5 * time.Millisecond
	// patience is how long the last beat may take.
	patience = 2 * time.Minute
)

// lagged puts load on the source while beats are written there and looked for at the
// target. A beat's lag is from the source's answer to its commit until it is seen.
func (p *pair) lagged(ctx context.Context, tool string) (result, error) {
	r := result{Tool: tool}
	ctx, cancel := context.WithTimeout(ctx, p.b.lagFor+patience)
	defer cancel()
	// What follows must be there before the load is.
	if _, err := p.beats(ctx, 500*time.Millisecond); err != nil {
		return r, err
	}
	if err := p.settled(ctx); err != nil {
		return r, err
	}
	var lags []time.Duration
	var err error
	r.usage, err = p.b.meter.measure(func() error {
		var wg sync.WaitGroup
		var errLoad, errBeats error
		wg.Go(func() {
			r.Load, errLoad = p.pgbench(ctx, "-R", strconv.Itoa(lagRate), "-T", strconv.Itoa(int(p.b.lagFor.Seconds())))
		})
		wg.Go(func() { lags, errBeats = p.beats(ctx, p.b.lagFor) })
		wg.Wait()
		return errors.Join(errLoad, errBeats)
	})
	if err != nil {
		return r, err
	}
	slices.Sort(lags)
	r.P50, r.P99 = quantile(lags, 0.5).Seconds(), quantile(lags, 0.99).Seconds()
	p.b.report.say("%s: lag p50 %.3f s, p99 %.3f s of %d beats at %.0f transactions a second", tool, r.P50, r.P99, len(lags), r.Load)
	last, err := p.query(ctx, p.src, appDB, "SELECT count(*) FROM history")
	if err == nil {
		err = p.until(ctx, p.dst, appDB, "SELECT count(*) FROM history", last)
	}
	if err != nil {
		return r, err
	}
	return r, p.equal(ctx, tool, appDB)
}

// quantile is of sorted values.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return ds[min(int(q*float64(len(ds))), len(ds)-1)]
}

// beats writes beats for a time and returns how late each was seen at the target.
func (p *pair) beats(ctx context.Context, d time.Duration) ([]time.Duration, error) {
	src, err := pgconn.Connect(ctx, p.dsn(p.src, appDB))
	if err != nil {
		return nil, fmt.Errorf("write beats: %w", err)
	}
	defer src.Close(context.WithoutCancel(ctx))
	dst, err := pgconn.Connect(ctx, p.dsn(p.dst, appDB))
	if err != nil {
		return nil, fmt.Errorf("look for beats: %w", err)
	}
	defer dst.Close(context.WithoutCancel(ctx))
	first, err := pgValue(ctx, src, "SELECT coalesce(max(id), 0) + 1 FROM beat")
	if err != nil {
		return nil, err
	}
	next, err := strconv.ParseInt(first, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read beats: %w", err)
	}
	h := &heart{waiting: map[int64]time.Time{}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.write(ctx, src, next, d); err != nil {
			cancel(err)
		}
	})
	err = h.watch(ctx, dst)
	if err != nil {
		cancel(err)
	}
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	return h.lags, err
}

// heart is the beats that were written and not yet seen.
type heart struct {
	mu      sync.Mutex
	waiting map[int64]time.Time
	stopped bool // no more are written
	lags    []time.Duration
}

func (h *heart) write(ctx context.Context, c *pgconn.PgConn, next int64, d time.Duration) error {
	defer func() {
		h.mu.Lock()
		h.stopped = true
		h.mu.Unlock()
	}()
	t := time.NewTicker(beatEvery)
	defer t.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); next++ {
		if _, err := pgValue(ctx, c, fmt.Sprintf("INSERT INTO beat VALUES (%d)", next)); err != nil {
			return fmt.Errorf("write beats: %w", err)
		}
		h.mu.Lock()
		h.waiting[next] = time.Now()
		h.mu.Unlock()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// watch looks until all that was written is seen.
func (h *heart) watch(ctx context.Context, c *pgconn.PgConn) error {
	for {
		text, err := pgValue(ctx, c, "SELECT coalesce(max(id), 0) FROM beat")
		if err != nil {
			return fmt.Errorf("look for beats: %w", err)
		}
		seen, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("look for beats: %w", err)
		}
		if h.seen(seen, time.Now()) {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return fmt.Errorf("look for beats: %w", ctx.Err())
		}
	}
}

// seen takes note that all beats up to one are there, and reports whether none will
// come any more.
func (h *heart) seen(id int64, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, t := range h.waiting {
		if k <= id {
			h.lags = append(h.lags, max(0, now.Sub(t)))
			delete(h.waiting, k)
		}
	}
	return h.stopped && len(h.waiting) == 0
}
