package replica

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// startSelf runs the named test of this program in another process, with its
// own mounts, and returns its standard output.
func startSelf(t *testing.T, test, env string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), env, privateMark+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd, out
}

// holdReplica is the other process: it mounts the replica, writes, says so, and
// waits to be killed.
func holdReplica(t *testing.T, dir string) {
	s, err := Open(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Replica("web1")
	if err != nil {
		t.Fatal(err)
	}
	m, err := r.Mount(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "held", m.Root("/"), "held")
	if err := m.Sync(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	time.Sleep(time.Hour)
}

// anyLoop reports whether any loop device, of whatever offset, has a backing file
// of that name below this test's directories.
func anyLoop(t *testing.T, base string) bool {
	t.Helper()
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.HasSuffix(strings.TrimSpace(string(b)), "/web1/"+base) && strings.Contains(string(b), "TestKilled") {
			return true
		}
	}
	return false
}
