package agent

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Governor keeps the process within the limits it was given, which may change at
// any time. Whoever reads files or burns CPU asks it between small pieces of work:
// it can pause work, not interrupt it. It is a Service that answers "limits".
// All methods may be called concurrently.
type Governor struct {
	disk *rate.Limiter
	cpu  cpuShare

	mu   sync.Mutex
	wire func(bytesPerSecond float64)
	set  *agentpb.Limits
}

// NewGovernor returns a governor without limits.
func NewGovernor() *Governor {
	return &Governor{
		disk: rate.NewLimiter(rate.Inf, maxDiskBurst),
		cpu:  cpuShare{now: time.Now, used: cpuUsed},
		set:  &agentpb.Limits{},
	}
}

// A burst of a quarter second keeps a changed limit from being noticed late: a
// reader that already waits is not woken by the change.
const (
	minDiskBurst = 64 << 10
	maxDiskBurst = 4 << 20
)

// Disk waits until n more bytes may be read from or written to disk.
func (g *Governor) Disk(ctx context.Context, n int) error {
	for n > 0 && g.disk.Limit() != rate.Inf {
		step := min(n, g.disk.Burst())
		if err := g.disk.WaitN(ctx, step); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// The burst shrank meanwhile, or the wait would outlast ctx.
			if step <= g.disk.Burst() {
				return fmt.Errorf("wait for disk share: %w", err)
			}
			continue
		}
		n -= step
	}
	return ctx.Err()
}

// CPU waits while the process has used more than its share of cores.
func (g *Governor) CPU(ctx context.Context) error {
	for {
		d := g.cpu.pause()
		if d == 0 {
			return ctx.Err()
		}
		t := time.NewTimer(min(d, longestPause))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Wait is CPU and Disk in one: what a worker calls for each piece of n bytes.
func (g *Governor) Wait(ctx context.Context, n int) error {
	if err := g.CPU(ctx); err != nil {
		return err
	}
	return g.Disk(ctx, n)
}

// Limits returns what is in force.
func (g *Governor) Limits() *agentpb.Limits {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.set
}

// Apply puts l in force in place of what was. An error names what the system
// refused; the rest is in force.
func (g *Governor) Apply(l *agentpb.Limits) error {
	if err := validLimits(l); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.set
	g.set = l
	if l.DiskBytesPerSecond == 0 {
		g.disk.SetLimit(rate.Inf)
	} else {
		burst := min(max(l.DiskBytesPerSecond/4, minDiskBurst), maxDiskBurst)
		g.disk.SetBurst(int(burst))
		g.disk.SetLimit(rate.Limit(l.DiskBytesPerSecond))
	}
	if g.wire != nil {
		g.wire(float64(l.WireBytesPerSecond))
	}
	g.cpu.set(l.Cores)
	if l.Nice != old.GetNice() {
		return setNice(int(l.Nice))
	}
	return nil
}

// setWire hands over the switch for the rate of the connection.
func (g *Governor) setWire(set func(float64)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wire = set
	set(float64(g.set.WireBytesPerSecond))
}

// Handlers answers "limits".
func (g *Governor) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{"limits": func(_ context.Context, s *pipe.Stream) error {
		l := &agentpb.Limits{}
		if err := s.Recv(l); err != nil {
			return fmt.Errorf("read limits: %w", err)
		}
		if err := g.Apply(l); err != nil {
			return err
		}
		return s.Send(&agentpb.Empty{})
	}}
}

func validLimits(l *agentpb.Limits) error {
	switch {
	case math.IsNaN(l.Cores) || math.IsInf(l.Cores, 0) || l.Cores < 0:
		return fmt.Errorf("limit cores to %v: want 0 or more", l.Cores)
	case l.Cores > 0 && l.Cores < 0.01:
		return fmt.Errorf("limit cores to %v: less than 0.01 makes no headway", l.Cores)
	case l.Nice < -20 || l.Nice > 19:
		return fmt.Errorf("set nice %d: want -20 to 19", l.Nice)
	case l.DiskBytesPerSecond > math.MaxInt64 || l.WireBytesPerSecond > math.MaxInt64:
		return fmt.Errorf("limit of disk or wire: too large")
	}
	return nil
}

// longestPause bounds how late a worker learns that a limit was lifted.
const longestPause = 100 * time.Millisecond

// cpuBurst is the idle time a process may save up and use at once.
const cpuBurst = 100 * time.Millisecond

// cpuShare meters the CPU time of the process against a share of cores. It keeps
// an account of CPU time: credited as time passes, debited by what was used. The
// account below zero means pause. What a piece of work used beyond its share is
// so paid back later, and the average holds however coarse the pieces are.
type cpuShare struct {
	now  func() time.Time
	used func() time.Duration

	mu       sync.Mutex
	cores    float64
	account  time.Duration
	lastTime time.Time
	lastUsed time.Duration
}

func (c *cpuShare) set(cores float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cores == c.cores {
		return
	}
	c.cores, c.account = cores, 0
	c.lastTime, c.lastUsed = c.now(), c.used()
	if cores == 0 {
		runtime.SetDefaultGOMAXPROCS()
		return
	}
	runtime.GOMAXPROCS(min(int(math.Ceil(cores)), runtime.NumCPU()))
}

// pause returns how long to pause before more work; 0 means go on.
func (c *cpuShare) pause() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cores == 0 {
		return 0
	}
	now, used := c.now(), c.used()
	c.account += time.Duration(float64(now.Sub(c.lastTime))*c.cores) - (used - c.lastUsed)
	c.account = min(c.account, time.Duration(float64(cpuBurst)*c.cores))
	c.lastTime, c.lastUsed = now, used
	if c.account >= 0 {
		return 0
	}
	return max(time.Duration(float64(-c.account)/c.cores), time.Millisecond)
}

// cpuUsed is the CPU time of all threads of the process, in user and kernel mode.
func cpuUsed() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
