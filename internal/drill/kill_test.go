package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/vm"
)

const childVariable = "LEEWARD_TEST_DRILL"

// childSpec is what a child process drills.
type childSpec struct {
	Subject Subject
	Dir     string
	Probe   string
}

func drillAsChild(spec string) int {
	var c childSpec
	if err := json.Unmarshal([]byte(spec), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	_, err := Run(context.Background(), []Subject{c.Subject}, Options{WorkDir: c.Dir, ResultDir: filepath.Join(c.Dir, "results"),
		Probe: c.Probe, Accelerator: vm.TCG, Progress: func(u Update) { fmt.Println(u.Step) }})
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// loopsOver returns the loop devices whose backing file lies in dir.
func loopsOver(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir) {
			found = append(found, f)
		}
	}
	return found
}

// machinesIn returns the processes of QEMU whose arguments name dir.
func machinesIn(dir string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.HasPrefix(b, []byte("/usr/bin/qemu")) && bytes.Contains(b, []byte(dir)) {
			found = append(found, f)
		}
	}
	return found
}

// TestBootKilledLeavesNothing kills a drill while it has the clone mounted, and
// another while its machine runs.
func TestBootKilledLeavesNothing(t *testing.T) {
	s := server(t, "killed", machine{suite: "bookworm", fs: "ext4", varFS: "ext4"})
	program, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	for name, there := range map[string]func(dir string) []string{"mounted": loopsOver, "running": machinesIn} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			spec, err := json.Marshal(childSpec{s, dir, program})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			// Without the marker of our own mount namespace the child makes itself one.
			for _, e := range os.Environ() {
				if !strings.HasPrefix(e, "LEEWARD_MOUNT_NAMESPACE=") {
					cmd.Env = append(cmd.Env, e)
				}
			}
			cmd.Env = append(cmd.Env, childVariable+"="+string(spec))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := waitUntil(time.Minute, func() bool { return len(there(dir)) > 0 })
			cmd.Process.Kill()
			cmd.Wait()
			if !seen {
				t.Fatalf("never came so far: %s", out.String())
			}
			gone := waitUntil(20*time.Second, func() bool { return len(loopsOver(dir)) == 0 && len(machinesIn(dir)) == 0 })
			if !gone {
				t.Errorf("left behind: %v %v", loopsOver(dir), machinesIn(dir))
			}
		})
	}
}

func waitUntil(limit time.Duration, done func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if done() {
			return true
		}
	}
	return done()
}
