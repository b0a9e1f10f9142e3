// Package retry repeats what failed for a passing reason, with growing pauses.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Policy says what is tried again and how patiently. The zero value never
// tries again.
type Policy struct {
	Temporary func(error) bool                  // whether an error passes by itself; nil: none does
	First     time.Duration                     // pause after the first failure; doubled each time
	Max       time.Duration                     // longest pause; 0: First
	Attempts  int                               // how often it is tried in all; 0: until ctx ends
	Notify    func(err error, in time.Duration) // called before each pause; may be nil
}

// Do calls f until it returns nil or an error that is not temporary, attempts
// run out or ctx ends. It returns the last error of f, so that the reader learns
// the cause and not that somebody waited for it. An f that ran for longer than
// Max before it failed begins again at the shortest pause.
func (p Policy) Do(ctx context.Context, f func(context.Context) error) error {
	pause := p.First
	for n := 1; ; n++ {
		begun := time.Now()
		err := f(ctx)
		if err == nil || p.Temporary == nil || !p.Temporary(err) || n == p.Attempts || ctx.Err() != nil {
			return err
		}
		if p.Max > 0 && time.Since(begun) > p.Max {
			pause = p.First
		}
		wait := jitter(pause)
		if p.Notify != nil {
			p.Notify(err, wait)
		}
		if Sleep(ctx, wait) != nil {
			return err
		}
		pause = min(2*pause, max(p.Max, p.First))
	}
}

// jitter is d within a quarter either way, so that many who failed together do
// not come back together.
func jitter(d time.Duration) time.Duration {
	return d - d/4 + rand.N(d/2+1)
}

// Sleep waits for d or until ctx ends, and returns ctx.Err() in that case.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
