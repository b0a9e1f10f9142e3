package tree

import (
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMemoryOfManyEntries carries a million entries and watches the memory of both
// sides together. It takes minutes and runs where LEEWARD_SOAK is set.
func TestMemoryOfManyEntries(t *testing.T) {
	if os.Getenv("LEEWARD_SOAK") == "" {
		t.Skip("LEEWARD_SOAK is not set")
	}
	const dirs, files, limit = 1000, 1000, 600 << 20 // 300 MB a side
	w := newWorld(t)
	for _, dir := range []string{w.src, w.dst} {
		if err := unix.Mount("none", dir, "tmpfs", 0, "size=4g,nr_inodes=2000000"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	}
	for d := range dirs {
		dir := fmt.Sprintf("%s/d%04d", w.src, d)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range files {
			if err := os.WriteFile(fmt.Sprintf("%s/file-%06d", dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	defer debug.SetGCPercent(debug.SetGCPercent(50))
	for _, pass := range []string{"first", "unchanged"} {
		debug.FreeOSMemory()
		peak, stop := watchMemory()
		start := time.Now()
		w.sync()
		took := time.Since(start)
		stop()
		t.Logf("%s pass: %v, %d MiB at most", pass, took.Round(time.Millisecond), peak.Load()>>20)
		if peak.Load() > limit {
			t.Errorf("%s pass: %d MiB in use, at most %d allowed", pass, peak.Load()>>20, limit>>20)
		}
	}
}

// watchMemory follows what the Go runtime has of the system's memory.
func watchMemory() (peak *atomic.Uint64, stop func()) {
	peak = &atomic.Uint64{}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
				metrics.Read(s)
				peak.Store(max(peak.Load(), s[0].Value.Uint64()-s[1].Value.Uint64()))
			}
		}
	}()
	return peak, func() { close(quit); <-done }
}
