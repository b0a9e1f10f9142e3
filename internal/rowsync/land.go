package rowsync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	countersEvery = 2 * time.Second // how often identities and sequences are read
	releaseEvery  = time.Second
	beatEvery     = time.Second // heartbeats closer than that are not kept
	pulseEvery    = 10 * time.Second
)

// lander brings the changes of the source into the spool.
type lander struct {
	r      *Replicator
	sp     *spool
	tables []*engine.Table // the source's

	counted, beaten, noted time.Time
	before                 engine.Pos // of the newest that was appended
	commits, bytes         float64    // since noted
}

// land runs until ctx ends, or the stream cannot be followed as it is: then the error
// is engine.Expired, engine.SchemaChanged or one that does not pass.
func (r *Replicator) land(ctx context.Context, sp *spool, tables []*engine.Table) error {
	l := &lander{r: r, sp: sp, tables: tables}
	first := true
	return r.policy("the source", false).Do(ctx, func(ctx context.Context) error {
		if !first {
			if err := r.renewSource(ctx); err != nil {
				return err
			}
		}
		first = false
		return l.session(ctx)
	})
}

// renewSource reaches the source again. The old connection is kept until nobody can
// be using it.
func (r *Replicator) renewSource(ctx context.Context) error {
	s, err := r.cfg.Driver.Source(ctx, r.cfg.Source)
	if err != nil {
		return fmt.Errorf("reach the source of %s: %w", r.cfg.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.src != nil {
		r.retired = append(r.retired, r.src)
	}
	r.src = s
	if len(r.retired) > 4 {
		err := r.retired[0].Close()
		r.retired = r.retired[1:]
		if err != nil {
			r.log.Debug("closing a broken end", "error", err)
		}
	}
	return nil
}

// session lands over one connection.
func (l *lander) session(ctx context.Context) error {
	src, err := l.r.source(ctx)
	if err != nil {
		return err
	}
	epoch, err := src.Epoch(ctx)
	if err != nil {
		return fmt.Errorf("read the epoch of the source: %w", err)
	}
	if epoch != l.sp.head.Epoch {
		return &EpochError{Name: l.r.cfg.Name, Was: l.sp.head.Epoch, Is: epoch}
	}
	at, err := l.sp.rewind()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.syncer(ctx, src); err != nil {
			cancel(err)
		}
	})
	l.before = at.Pos
	err = l.receive(ctx, src, at.Pos)
	cancel(err)
	wg.Wait()
	_, syncErr := l.sp.sync() // what came before an error is kept
	return errors.Join(first(context.Cause(ctx), err), syncErr)
}

// first is the first of errors that is one.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lander) receive(ctx context.Context, src engine.Source, after engine.Pos) error {
	for p, err := range src.Changes(ctx, l.r.cfg.Stream, l.tables, after) {
		if err != nil {
			return fmt.Errorf("read changes of the source: %w", err)
		}
		if p.Heartbeat != nil && p.Heartbeat.Pos == l.before && time.Since(l.beaten) < beatEvery {
			continue
		}
		if c := commitOf(&p); c != nil {
			if err := l.count(ctx, src, c); err != nil {
				return err
			}
			l.before = c.Pos
			if p.Heartbeat != nil {
				l.beaten = time.Now()
			} else {
				l.commits += float64(1 + c.More)
			}
		}
		l.bytes += float64(pieceSize(&p))
		if err := l.sp.append(ctx, &p); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return &engine.TemporaryError{Err: errors.New("read changes of the source: the stream ended")}
}

// count adds where identities and sequences stand, so that they travel with the rows.
func (l *lander) count(ctx context.Context, src engine.Source, c *engine.Commit) error {
	if c.Counters != nil || time.Since(l.counted) < countersEvery {
		return nil
	}
	cs, err := src.Counters(ctx)
	if err != nil {
		return fmt.Errorf("read identities and sequences of the source: %w", err)
	}
	l.counted, c.Counters = time.Now(), cs
	return l.pulse(c.Time)
}

// pulse notes the pace, from which a failover reckons what may be missing.
func (l *lander) pulse(at time.Time) error {
	now := time.Now().UTC()
	if l.noted.IsZero() {
		l.noted = now
		return nil
	}
	took := now.Sub(l.noted)
	if took < pulseEvery {
		return nil
	}
	commits, bytes := l.commits/took.Seconds(), l.bytes/took.Seconds()
	l.noted, l.commits, l.bytes = now, 0, 0
	return l.r.notes.change(func(d *notesData) {
		k := &d.Known
		if k.Heard.IsZero() {
			k.Transactions, k.Bytes = commits, bytes
		}
		const keep = 0.8 // of the old value: the last minute or so counts
		k.Transactions = keep*k.Transactions + (1-keep)*commits
		k.Bytes = keep*k.Bytes + (1-keep)*bytes
		k.Heard = now
		if !at.IsZero() {
			k.SourceTime = at
		}
	})
}

// syncer makes what was appended durable, in groups, and then lets the source forget
// it.
func (l *lander) syncer(ctx context.Context, src engine.Source) error {
	var released time.Time
	for {
		if l.sp.unsynced(ctx) != nil {
			return nil // it was asked to end
		}
		at, err := l.sp.sync()
		if err != nil {
			return err
		}
		if time.Since(released) < releaseEvery {
			continue
		}
		released = time.Now()
		if err := src.Release(ctx, l.r.cfg.Stream, at.Pos); err != nil && ctx.Err() == nil {
			return fmt.Errorf("release %s at the source: %w", at.Pos, err)
		}
	}
}
