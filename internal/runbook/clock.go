package runbook

import (
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clock reads the time three ways: as people have it, which start of the machine this
// is, and how long ago that was. The last never jumps; the first may.
type Clock func() (wall time.Time, boot string, up time.Duration)

// SystemClock is the machine's.
func SystemClock() (time.Time, string, time.Duration) {
	wall := time.Now().UTC()
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var ts unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return wall, "", 0 // durations across runs are then by the wall clock
	}
	return wall, strings.TrimSpace(string(id)), time.Duration(ts.Nano())
}

// between is how long it was from a to b, two records of one journal in that order.
func between(a, b Record) time.Duration {
	if a.Boot != "" && a.Boot == b.Boot {
		return max(0, b.Up-a.Up)
	}
	return max(0, b.At.Sub(a.At))
}
