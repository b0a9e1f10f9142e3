package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errPasses = errors.New("passes")
	errStays  = errors.New("stays")
)

func policy() Policy {
	return Policy{
		Temporary: func(err error) bool { return errors.Is(err, errPasses) },
		First:     time.Second, Max: 8 * time.Second,
	}
}

func TestDoTriesAgainOnlyWhatPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		err := policy().Do(t.Context(), func(context.Context) error {
			if n++; n < 4 {
				return errPasses
			}
			return errStays
		})
		if !errors.Is(err, errStays) || n != 4 {
			t.Errorf("err %v after %d attempts, want %v after 4", err, n, errStays)
		}
	})
}

func TestDoPausesGrowToMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy()
		p.Attempts = 7
		var waits []time.Duration
		p.Notify = func(_ error, in time.Duration) { waits = append(waits, in) }
		err := p.Do(t.Context(), func(context.Context) error { return errPasses })
		if !errors.Is(err, errPasses) || len(waits) != 6 {
			t.Fatalf("err %v, pauses %v", err, waits)
		}
		for i, base := range []time.Duration{1, 2, 4, 8, 8, 8} {
			base *= time.Second
			if w := waits[i]; w < base*3/4 || w > base*5/4 {
				t.Errorf("pause %d is %v, want about %v", i, w, base)
			}
		}
	})
}

func TestDoBeginsAgainAfterALongRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := policy()
		p.Attempts = 6
		n := 0
		var last time.Duration
		p.Notify = func(_ error, in time.Duration) { last = in }
		_ = p.Do(t.Context(), func(context.Context) error {
			if n++; n == 5 {
				time.Sleep(time.Minute)
			}
			return errPasses
		})
		if last > 2*time.Second {
			t.Errorf("after a long run the pause is %v, want about %v", last, p.First)
		}
	})
}

func TestDoEndsWithContextAndKeepsTheCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		err := policy().Do(ctx, func(context.Context) error { return errPasses })
		if !errors.Is(err, errPasses) {
			t.Errorf("err %v, want the cause", err)
		}
	})
}
