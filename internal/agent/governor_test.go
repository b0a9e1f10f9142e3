package agent

import (
	"context"
	"math"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// TestCPUShareOnPaper runs workers of coarse pieces against a clock of paper.
func TestCPUShareOnPaper(t *testing.T) {
	for _, tt := range []struct {
		cores   float64
		workers int
		piece   time.Duration
	}{{0.5, 1, 10 * time.Millisecond}, {0.5, 4, 40 * time.Millisecond}, {1, 2, 5 * time.Millisecond}, {0.05, 1, 100 * time.Millisecond}, {2, 8, time.Millisecond}} {
		start := time.Unix(0, 0)
		now, used := start, time.Duration(0)
		c := cpuShare{now: func() time.Time { return now }, used: func() time.Duration { return used }}
		c.mu.Lock()
		c.cores, c.lastTime = tt.cores, now
		c.mu.Unlock()
		for now.Sub(start) < 20*time.Second {
			if d := c.pause(); d > 0 {
				now = now.Add(d)
				continue
			}
			used += tt.piece * time.Duration(tt.workers) // all of them go when one may
			now = now.Add(tt.piece)
		}
		share := used.Seconds() / now.Sub(start).Seconds()
		if share > tt.cores*1.02 || share < tt.cores*0.9 {
			t.Errorf("%+v: used %.3f cores", tt, share)
		}
	}
}

// TestCPUShareForReal burns CPU in two goroutines and looks at the process's clock.
func TestCPUShareForReal(t *testing.T) {
	g := NewGovernor()
	if err := g.Apply(&agentpb.Limits{Cores: 0.4}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Apply(&agentpb.Limits{}); err != nil {
			t.Error(err)
		}
		if n := runtime.GOMAXPROCS(0); n < 1 || runtime.NumCPU() > 1 && n == 1 {
			t.Errorf("GOMAXPROCS is %d after the limit was lifted", n)
		}
	}()
	if n := runtime.GOMAXPROCS(0); n != 1 {
		t.Errorf("GOMAXPROCS is %d, want 1", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	before, begun := cpuUsed(), time.Now()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for g.Wait(ctx, 1<<20) == nil {
				for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
				}
			}
		})
	}
	wg.Wait()
	if share := (cpuUsed() - before).Seconds() / time.Since(begun).Seconds(); share > 0.5 {
		t.Errorf("used %.2f cores, limit 0.4", share)
	}
}

func TestCPUWithoutLimitDoesNotPause(t *testing.T) {
	g := NewGovernor()
	if err := g.Wait(t.Context(), 1<<30); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Wait(ctx, 1); err != context.Canceled {
		t.Errorf("err %v from an ended context", err)
	}
}

func TestDiskShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGovernor()
		if err := g.Apply(&agentpb.Limits{DiskBytesPerSecond: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if err := g.Disk(t.Context(), 10<<20); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(begun); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("10 MiB at 1 MiB/s took %v", d)
		}
		// Lifted while somebody waits.
		done := make(chan time.Duration)
		go func() {
			begun := time.Now()
			if err := g.Disk(t.Context(), 100<<20); err != nil {
				t.Error(err)
			}
			done <- time.Since(begun)
		}()
		time.Sleep(time.Second)
		if err := g.Apply(&agentpb.Limits{}); err != nil {
			t.Fatal(err)
		}
		if d := <-done; d > 3*time.Second {
			t.Errorf("a lifted limit was noticed after %v", d)
		}
	})
}

func TestDiskEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGovernor()
		if err := g.Apply(&agentpb.Limits{DiskBytesPerSecond: 1000}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); cancel() }()
		if err := g.Disk(ctx, 1<<30); err != context.Canceled {
			t.Errorf("err %v", err)
		}
	})
}

func TestWireShare(t *testing.T) {
	g := NewGovernor()
	var got []float64
	if err := g.Apply(&agentpb.Limits{WireBytesPerSecond: 5}); err != nil {
		t.Fatal(err)
	}
	g.setWire(func(r float64) { got = append(got, r) })
	if err := g.Apply(&agentpb.Limits{WireBytesPerSecond: 7}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != 5 || got[1] != 7 {
		t.Errorf("rates %v, want 5 and 7", got)
	}
}

func TestLimitsRefused(t *testing.T) {
	g := NewGovernor()
	for _, l := range []*agentpb.Limits{{Cores: -1}, {Cores: math.NaN()}, {Cores: math.Inf(1)}, {Cores: 1e-9}, {Nice: 20}, {Nice: -21},
		{DiskBytesPerSecond: math.MaxUint64}, {WireBytesPerSecond: 1 << 63}} {
		if err := g.Apply(l); err == nil {
			t.Errorf("%v was accepted", l)
		}
	}
	if g.disk.Limit() != rate.Inf {
		t.Error("a refused limit is in force")
	}
}

// niceRole tells the test binary to be made nice, which a plain user cannot undo.
const niceRole = "AGENT_TEST_NICE"

func TestNiceReachesEveryThread(t *testing.T) {
	if os.Getenv(niceRole) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNiceReachesEveryThread$")
		cmd.Env = append(os.Environ(), niceRole+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	hold := make(chan struct{})
	for range 4 { // threads that sit in a system call
		go func() { runtime.LockOSThread(); <-hold }()
	}
	time.Sleep(10 * time.Millisecond)
	if err := NewGovernor().Apply(&agentpb.Limits{Nice: 19}); err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid := 0
		for _, c := range task.Name() {
			tid = 10*tid + int(c-'0')
		}
		p, err := unix.Getpriority(unix.PRIO_PROCESS, tid) // the call gives 20 - nice
		if err != nil || p != 1 {
			t.Errorf("thread %d: priority %d, %v", tid, p, err)
		}
		io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
		if errno != 0 || io>>ioprioShift != ioprioIdle {
			t.Errorf("thread %d: disk priority %#x, %v", tid, io, errno)
		}
	}
	close(hold)
}

func TestIoprio(t *testing.T) {
	for nice, want := range map[int]int{-20: 2 << 13, 0: 2<<13 | 4, 10: 2<<13 | 6, 18: 2<<13 | 7, 19: 3 << 13} {
		if got := ioprio(nice); got != want {
			t.Errorf("ioprio(%d) = %#x, want %#x", nice, got, want)
		}
	}
}
