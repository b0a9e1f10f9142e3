package drill

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
)

const (
	// qemuMemory is what QEMU takes beside its guest's memory, most of it for translated
	// code.
	qemuMemory = 192 << 20
	memoryLook = time.Second
	mib        = 1 << 20
)

// awaitMemory waits until this host has room for the machine of t, as long as others
// may still end and give theirs back, and counts it until giveMemory.
func (t *turn) awaitMemory(ctx context.Context) *failure {
	need := t.r.Memory + qemuMemory
	for told := false; ; {
		free, err := t.d.o.freeMemory()
		if err != nil {
			return failed(hostFailure("look for memory", err))
		}
		if t.d.takeMemory(need, free) {
			t.counted = true
			return nil
		}
		if !t.d.othersRun() {
			return failed(failure{host: true,
				cause: fmt.Sprintf("this host has %d MiB of memory free, and the machine needs %d MiB", free/mib, need/mib),
				hint:  "end what else runs here, or drill on a larger host"})
		}
		if !told {
			told = true
			t.r.Notes = append(t.r.Notes, fmt.Sprintf("waited for memory: %d MiB were free, %d MiB needed", free/mib, need/mib))
		}
		if err := retry.Sleep(ctx, memoryLook); err != nil {
			return failed(hostFailure("wait for memory", err))
		}
	}
}

// takeMemory counts a machine, if there is room for what it needs now.
func (d *drills) takeMemory(need, free int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if need > free {
		return false
	}
	d.running++
	return true
}

func (d *drills) othersRun() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running > 0
}

func (t *turn) giveMemory() {
	if !t.counted {
		return
	}
	t.counted = false
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.d.running--
}

// availableMemory is what the kernel believes new programs can have.
func availableMemory() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo does not say what is available")
}
