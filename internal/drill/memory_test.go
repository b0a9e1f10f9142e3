package drill

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leeward-dr/leeward/internal/vm"
)

func TestMemoryIsWaitedForOrRefused(t *testing.T) {
	free := int64(100 << 20)
	d := &drills{o: Options{freeMemory: func() (int64, error) { return free, nil }}}
	turnOf := func() *turn { return &turn{d: d, r: &Result{Memory: 512 << 20}} }
	f := turnOf().awaitMemory(t.Context())
	if f == nil || !f.host || !strings.Contains(f.cause, "100 MiB") || !strings.Contains(f.cause, "704 MiB") {
		t.Fatalf("a machine without memory: %+v", f)
	}
	if n, err := vm.AvailableMemory(); err != nil || n < 1<<20 {
		t.Errorf("memory of this host: %d, %v", n, err)
	}
}

func TestMemoryPromisedIsNotFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &drills{o: Options{freeMemory: func() (int64, error) { return 1 << 30, nil }}} // nobody touches any yet
		turnOf := func() *turn { return &turn{d: d, r: &Result{Memory: 512 << 20}} }
		first, second := turnOf(), turnOf()
		if f := first.awaitMemory(t.Context()); f != nil {
			t.Fatal(f)
		}
		began := time.Now()
		time.AfterFunc(time.Minute, func() { first.giveMemory(); first.decide() })
		if f := second.awaitMemory(t.Context()); f != nil || time.Since(began) < time.Minute || len(second.r.Notes) != 1 {
			t.Errorf("%+v after %s, notes %q; want it to wait", f, time.Since(began), second.r.Notes)
		}
		second.giveMemory()
		second.giveMemory()
		second.decide()
		second.decide()
		if d.promised != 0 || d.undecided != 0 {
			t.Errorf("%d bytes promised, %d undecided", d.promised, d.undecided)
		}
	})
}

// TestMemoryOfAPredecessorIsNotWaitedFor has a machine stay up for one that has no room
// beside it: neither would ever end.
func TestMemoryOfAPredecessorIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &drills{o: Options{freeMemory: func() (int64, error) { return 1 << 30, nil }}}
		db, app := &turn{d: d, r: &Result{Memory: 512 << 20}}, &turn{d: d, r: &Result{Memory: 512 << 20}}
		if f := db.awaitMemory(t.Context()); f != nil {
			t.Fatal(f)
		}
		db.decide()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if f := app.awaitMemory(ctx); f == nil || !f.host || !strings.Contains(f.cause, "320 MiB of memory free") || !strings.Contains(f.cause, "stay up for those after them have 704 MiB") {
			t.Errorf("told %+v", f)
		}
	})
}
