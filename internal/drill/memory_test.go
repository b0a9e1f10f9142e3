package drill

import (
	"strings"
	"testing"
	"time"
)

func TestMemoryIsWaitedForOrRefused(t *testing.T) {
	free := int64(100 << 20)
	d := &drills{o: Options{freeMemory: func() (int64, error) { return free, nil }}}
	turnOf := func() *turn { return &turn{d: d, r: &Result{Memory: 512 << 20}} }
	f := turnOf().awaitMemory(t.Context())
	if f == nil || !f.host || !strings.Contains(f.cause, "100 MiB") || !strings.Contains(f.cause, "704 MiB") {
		t.Fatalf("a machine without memory: %+v", f)
	}
	free = 1 << 30
	first, second := turnOf(), turnOf()
	if f := first.awaitMemory(t.Context()); f != nil {
		t.Fatal(f)
	}
	looks := 0
	d.o.freeMemory = func() (int64, error) {
		if looks++; looks == 1 {
			return 100 << 20, nil
		}
		return 1 << 30, nil
	}
	began := time.Now()
	if f := second.awaitMemory(t.Context()); f != nil || time.Since(began) < memoryLook || len(second.r.Notes) != 1 {
		t.Errorf("%+v after %s, notes %q; want it to wait", f, time.Since(began), second.r.Notes)
	}
	first.giveMemory()
	first.giveMemory()
	second.giveMemory()
	if d.running != 0 {
		t.Errorf("%d machines count as running", d.running)
	}
	if n, err := availableMemory(); err != nil || n < 1<<20 {
		t.Errorf("memory of this host: %d, %v", n, err)
	}
}
