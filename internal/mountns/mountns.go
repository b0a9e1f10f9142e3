// Package mountns gives the process a mount namespace of its own, so that what
// it mounts is seen by nobody else and vanishes with it, also after kill -9.
package mountns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// marker names the environment variable that holds the namespace a process was
// given. Its value is compared with the namespace the process is in, so that a
// stale or inherited value cannot pass for a private one.
const marker = "LEEWARD_MOUNT_NAMESPACE"

const current = "/proc/self/ns/mnt"

// ErrNotPermitted says that the process may not have a mount namespace of its
// own: it is neither root nor has CAP_SYS_ADMIN.
var ErrNotPermitted = errors.New("needs root or CAP_SYS_ADMIN")

// Entered reports whether the process is in a namespace made by Enter.
func Entered() bool {
	want := os.Getenv(marker)
	if want == "" {
		return false
	}
	have, err := os.Readlink(current)
	return err == nil && have == want
}

// Enter moves the process into a private mount namespace by executing itself
// again there, with the same arguments and open standard files. It returns nil
// in a process that is already there, so a program calls it once, early, before
// it has read its standard input or started anything. Mounts made outside
// afterwards are not seen inside.
//
// A parent-death signal set by the parent does not survive the second start
// unless Enter is called on the main thread.
func Enter() error {
	if Entered() {
		return nil
	}
	// The thread stays locked if we return an error: its namespace may differ
	// from that of the others by then, and no goroutine may run there.
	runtime.LockOSThread()
	if err := unshare(); err != nil {
		return err
	}
	ns, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		return fmt.Errorf("read mount namespace: %w", err)
	}
	if err := syscall.Exec("/proc/self/exe", os.Args, environ(os.Environ(), ns)); err != nil {
		return fmt.Errorf("start again in private mount namespace: %w", err)
	}
	return nil
}

// unshare gives the calling thread a namespace from which nothing propagates.
func unshare() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		if errors.Is(err, unix.EPERM) {
			err = ErrNotPermitted
		}
		return fmt.Errorf("make private mount namespace: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}

// environ is env with the marker set to ns.
func environ(env []string, ns string) []string {
	out := make([]string, 0, len(env)+1)
	for _, e := range env {
		if !strings.HasPrefix(e, marker+"=") {
			out = append(out, e)
		}
	}
	return append(out, marker+"="+ns)
}
