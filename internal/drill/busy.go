package drill

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// busyFactor is how much more than a drill's own machines has to wait for processors before
// that may be why one failed: guests have time limits of their own.
const busyFactor = 3

// busyNote tells that this host had much else to do when a machine failed, or returns "".
func busyNote(load float64, machines int) string {
	if load <= float64(busyFactor*machines) {
		return ""
	}
	return fmt.Sprintf("this host was very busy when it failed (load %.0f, of which this drill is %d at the most): what failed may have been too slow; drill it again when the host is quiet", load, machines)
}

// loadAverage is of the last minute; 0 where it is not known.
func loadAverage() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}
