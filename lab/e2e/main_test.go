package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/lab"
)

const (
	// insideVar marks the run of the tests that is in namespaces of its own.
	insideVar = "LEEWARD_E2E_INSIDE"
	// seedVar repeats a run that printed its seed.
	seedVar = "LEEWARD_E2E_SEED"
	soakVar = "LEEWARD_SOAK"
	// lightVar marks the run of one test in a lab of its own, all of it light.
	lightVar = "LEEWARD_E2E_LIGHT"
	// rate leaves the processors, not the link, as what bounds a pass.
	rate = "0"
)

// servers are those that the tests need: every type of filesystem, a user with
// sudo, both databases and all that is odd in a file tree.
var servers = []string{"web1", "db1", "db2", "files1"}

// guests boot while the other tests run: only they have a device mapper and UEFI.
var guests = []string{"mail1", "mon1"}

// world is what all tests share: the program, the lab, and chance.
type world struct {
	skip string // why there is none
	dir  string
	bin  string
	lab  *lab.Lab
	seed uint64

	first sync.Once
	begun string // why the first pass failed
}

var shared world

func TestMain(m *testing.M) {
	flag.Parse()
	if reason := unfit(); reason != "" {
		shared.skip = reason
		os.Exit(m.Run())
	}
	if os.Getenv(insideVar) == "" {
		fmt.Fprintln(os.Stderr, "e2e: enter namespaces:", enter())
		os.Exit(1)
	}
	os.Exit(inside(m))
}

// unfit says why the tests cannot run here, "" if they can.
func unfit() string {
	if testing.Short() {
		return "raising a lab takes minutes; -short was given"
	}
	if os.Geteuid() != 0 {
		return "raising a lab needs root"
	}
	for _, tool := range []string{"mmdebstrap", "ip", "tc", "nsenter", "unshare", "losetup", "mkfs.xfs", "mkfs.btrfs",
		"sfdisk", "qemu-system-x86_64", "mcopy", "ssh", "ssh-keygen", "rsync", "getfattr", "lsattr", "getcap", "dpkg", "e2fsck", "xfs_repair", "btrfs", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "the tests need " + tool
		}
	}
	return ""
}

// enter starts the tests anew in mount and process namespaces of their own: a lab
// there is no other lab's neighbour, and nothing of it outlives the tests. The
// shell reaps what loses its parent.
func enter() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return err
	}
	argv := append([]string{"unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
		"/bin/bash", "-c", `"$0" "$@"; exit $?`, self}, os.Args[1:]...)
	return syscall.Exec(unshare, argv, append(os.Environ(), insideVar+"=1"))
}

func inside(m *testing.M) int {
	begin := time.Now()
	ctx := context.Background()
	shared.seed = seed()
	fmt.Printf("seed %d; repeat by %s=%d\n", shared.seed, seedVar, shared.seed)
	defer func() {
		if p := recover(); p != nil {
			fmt.Fprintf(os.Stderr, "e2e: %v\n%s", p, debug.Stack())
			os.Exit(1)
		}
	}()
	err := raise(ctx)
	code := 1
	if err == nil {
		fmt.Printf("the lab is up after %.0fs\n", time.Since(begin).Seconds())
		code = m.Run()
	}
	if shared.dir != "" {
		err = errors.Join(err, lower(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return code
}

func seed() uint64 {
	if n, err := strconv.ParseUint(os.Getenv(seedVar), 10, 64); err == nil {
		return n
	}
	return rand.Uint64()
}

// soak reports whether there is time for the long form of the tests.
func soak() bool { return os.Getenv(soakVar) != "" }

// raise builds the program and brings up the lab.
func raise(ctx context.Context) (err error) {
	for _, dir := range []string{"/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("hide other labs: %w", err)
		}
	}
	if shared.dir, err = os.MkdirTemp("", "leeward-e2e-"); err != nil {
		return err
	}
	shared.bin = filepath.Join(shared.dir, "leeward")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=e2e",
		"-o", shared.bin, "github.com/leeward-dr/leeward/cmd/leeward")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, out)
	}
	o := lab.Options{Dir: filepath.Join(shared.dir, "lab"), Cache: os.Getenv("LEEWARD_LAB_CACHE"),
		Rate: rate, Servers: slices.Concat(servers, guests), Guests: guests, NoWait: true, Data: data()}
	if os.Getenv(lightVar) != "" {
		o.Guests, o.Data = nil, nil
	}
	shared.lab, err = lab.Up(ctx, o)
	return err
}

// alone runs the test it is called by once more, in a lab of its own in which all servers
// are light, and reports whether it is done by that.
func alone(t *testing.T) bool {
	if shared.skip != "" {
		t.Skip(shared.skip)
	}
	if os.Getenv(lightVar) != "" {
		return false
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=40m")
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != insideVar {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, lightVar+"=1")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
	return true
}

// data adds a filesystem that holds a million files where there is time for them.
func data() map[string]int64 {
	if soak() {
		return map[string]int64{"web1": 24 << 30}
	}
	return nil
}

// lower removes everything. Mounts below the directory are the stores' pools.
func lower(ctx context.Context) error {
	var err error
	if shared.lab != nil {
		err = shared.lab.Down(ctx)
	}
	return errors.Join(err, releaseStores(ctx, shared.dir), os.RemoveAll(shared.dir))
}

// need returns the shared world, with every server replicated once, or skips.
func need(t *testing.T) *world {
	t.Helper()
	w := &shared
	if w.skip != "" {
		t.Skip(w.skip)
	}
	w.first.Do(func() {
		w.begun = "it did not return"
		r := w.run(t, w.estate(t), "replicate")
		w.begun = ""
		if r.code != 0 {
			w.begun = r.String()
		}
	})
	if w.begun != "" {
		t.Fatalf("the first pass failed: %s", w.begun)
	}
	return w
}

// chance returns random numbers for a test, the same for the same seed.
func (w *world) chance(t *testing.T) *rand.Rand {
	t.Logf("seed %d", w.seed)
	return rand.New(rand.NewPCG(w.seed, uint64(len(t.Name()))))
}
