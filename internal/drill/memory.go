package drill

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/vm"
)

const (
	memoryLook = time.Second
	mib        = 1 << 20
)

// awaitMemory waits until this host has room for the machine of t, as long as others
// are still to be decided and may then give theirs back, and counts it until giveMemory.
// Those that are proven and stay up for t never would.
func (t *turn) awaitMemory(ctx context.Context) *failure {
	need := t.r.Memory + vm.Overhead
	for told := false; ; {
		free, err := t.d.o.freeMemory()
		if err != nil {
			return failed(hostFailure("look for memory", err))
		}
		free, up, taken := t.takeMemory(need, free)
		if taken {
			return nil
		}
		if !t.othersUndecided() {
			cause := fmt.Sprintf("this host has %d MiB of memory free, and the machine needs %d MiB", max(0, free)/mib, need/mib)
			if up > 0 {
				cause += fmt.Sprintf("; machines that stay up for those after them have %d MiB", up/mib)
			}
			return failed(failure{host: true, cause: cause, hint: "end what else runs here, or drill on a larger host"})
		}
		if !told {
			told = true
			t.note(fmt.Sprintf("waited for memory: %d MiB were free, %d MiB needed", max(0, free)/mib, need/mib))
		}
		if err := retry.Sleep(ctx, memoryLook); err != nil {
			return failed(hostFailure("wait for memory", err))
		}
	}
}

func (t *turn) note(text string) {
	if !slices.Contains(t.r.Notes, text) {
		t.r.Notes = append(t.r.Notes, text)
	}
}

// takeMemory counts a machine, if there is room for what it needs now beside what is
// promised to others: they touch theirs bit by bit, so what the kernel counts as free
// holds for the first of them alone. left is what could be had, up what others have.
func (t *turn) takeMemory(need, free int64) (left, up int64, taken bool) {
	d := t.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.promised == 0 {
		d.budget = free
	}
	left = min(free, d.budget-d.promised)
	if need > left {
		return left, d.promised, false
	}
	d.promised += need
	t.counted = need
	if !t.undecided {
		t.undecided = true
		d.undecided++
	}
	return left, d.promised, true
}

func (t *turn) othersUndecided() bool {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.undecided {
		return t.d.undecided > 1
	}
	return t.d.undecided > 0
}

// decide notes that the turn is over, and with it whatever it let others end.
func (t *turn) decide() {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.undecided {
		t.undecided = false
		t.d.undecided--
	}
}

func (t *turn) giveMemory() {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	t.d.promised -= t.counted
	t.counted = 0
}
