package vm

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Overhead is what QEMU takes beside its guest's memory, most of it for translated code.
const Overhead = 192 << 20

// leastRoom is what the disk of a machine that runs must be able to grow by.
const leastRoom = 1 << 30

// AvailableMemory is what the kernel believes new programs can have, in bytes.
func AvailableMemory() (int64, error) {
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

// Fit is what machines that run at the same time need of this host.
type Fit struct {
	Bridge   string // the network they are attached to
	Memory   int64  // bytes; 0 is unknown
	Room     int64  // bytes free where their disks are
	Machines int
}

// Check tells what of it there is. An error names what is missing.
func (f Fit) Check() ([]string, error) {
	path, err := exec.LookPath(binary)
	if err != nil {
		return nil, dr.WithHint(fmt.Errorf("find the hypervisor: %w", err), "install QEMU, on Debian: apt install qemu-system-x86")
	}
	facts := []string{path + " is there"}
	if _, err := net.InterfaceByName(f.Bridge); err != nil {
		return facts, dr.WithHint(fmt.Errorf("find bridge %s of the production network: %w", f.Bridge, err), "make it, or name another one")
	}
	free, err := AvailableMemory()
	if err != nil {
		return facts, fmt.Errorf("look for memory: %w", err)
	}
	if f.Memory > free {
		return facts, dr.WithHint(fmt.Errorf("%d MiB of memory are free, and %d machines need %d MiB", free>>20, f.Machines, f.Memory>>20),
			"end what else runs there, or move fewer servers")
	}
	if least := int64(f.Machines) * leastRoom; f.Room < least {
		return facts, dr.WithHint(fmt.Errorf("%d MiB of the store are free, and the disks of %d machines should have %d MiB to grow", f.Room>>20, f.Machines, least>>20),
			"make room in the store")
	}
	return append(facts, fmt.Sprintf("bridge %s is there", f.Bridge), fmt.Sprintf("memory: %d MiB of %d MiB free are needed", f.Memory>>20, free>>20),
		fmt.Sprintf("the store has %d MiB free", f.Room>>20)), nil
}
