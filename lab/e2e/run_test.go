package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// patience bounds every run of the program.
const patience = 15 * time.Minute

// envelope is the result object, as docs/json.md has it.
type envelope struct {
	Outcome  string `json:"outcome"`
	ExitCode int    `json:"exit_code"`
	Error    struct {
		Text     string `json:"text"`
		Hint     string `json:"hint"`
		Problems []struct {
			Line int    `json:"line"`
			Text string `json:"text"`
		} `json:"problems"`
	} `json:"error"`
	Result json.RawMessage `json:"result"`
}

// ran is how one run of the program ended.
type ran struct {
	args []string
	code int
	out  []byte
	err  string
	took time.Duration
	envelope
}

func (r ran) String() string {
	return fmt.Sprintf("leeward %s: exit code %d after %v\n%s%s", strings.Join(r.args, " "), r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

// servers reads the result of replicate.
func (r ran) servers(t *testing.T) []protect.ServerRun {
	t.Helper()
	var res protect.RunResult
	if err := json.Unmarshal(r.Result, &res); err != nil {
		t.Fatalf("read the result: %v\n%s", err, r)
	}
	return res.Servers
}

// started is a run that goes on.
type started struct {
	cmd      *exec.Cmd
	args     []string
	out, err bytes.Buffer
	begin    time.Time
	done     chan struct{}
	result   ran
}

// start runs the program at the target site, which the lab's namespace is.
func (w *world) start(t *testing.T, config string, args ...string) *started {
	t.Helper()
	args = append([]string{args[0], "--json", "-c", config}, args[1:]...)
	s := &started{args: args, begin: time.Now(), done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	s.cmd = exec.CommandContext(ctx, "nsenter", append([]string{"--net=/run/netns/lw-dallas", w.bin}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	s.cmd.WaitDelay = 10 * time.Second
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.done)
		defer cancel()
		err := s.cmd.Wait()
		s.result = ran{args: args, code: s.cmd.ProcessState.ExitCode(), out: s.out.Bytes(), err: s.err.String(), took: time.Since(s.begin)}
		if err != nil && s.result.code < 0 {
			s.result.err += err.Error()
		}
		_ = json.Unmarshal(s.result.out, &s.result.envelope) // who needs it sees what is missing
	}()
	t.Cleanup(func() { <-s.done })
	return s
}

// wait returns how the run ended.
func (s *started) wait() ran {
	<-s.done
	return s.result
}

// kill ends the program as a power cut would.
func (s *started) kill() { _ = s.cmd.Process.Signal(syscall.SIGKILL) }

// running reports whether it has not ended yet.
func (s *started) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

func (w *world) run(t *testing.T, config string, args ...string) ran {
	t.Helper()
	return w.start(t, config, args...).wait()
}

// must runs the program and insists on success.
func (w *world) must(t *testing.T, config string, args ...string) ran {
	t.Helper()
	r := w.run(t, config, args...)
	if r.code != 0 {
		t.Fatal(r)
	}
	return r
}

// option changes an estate.
type option func(*estateText)

type estateText struct {
	store, sshConfig string
	servers          []string // one line of YAML each
	more             string   // further lines
}

func inStore(dir string) option    { return func(e *estateText) { e.store = dir } }
func withSSH(config string) option { return func(e *estateText) { e.sshConfig = config } }
func only(lines ...string) option  { return func(e *estateText) { e.servers = lines } }
func plus(lines string) option     { return func(e *estateText) { e.more = lines } }
func line(name string) string      { return fmt.Sprintf("{name: %s, host: %s}", name, name) }
func small(name, plus string) string {
	// Enough is left out that a pass takes no time.
	return fmt.Sprintf("{name: %s, host: %s, exclude: [/usr/**, /boot/**, /var/lib/dpkg/**, /var/lib/apt/**, /var/cache/**, /swapfile, /lib/**%s]}", name, name, plus)
}

// estate writes a configuration and returns its path. Without options it is that
// of all servers and the store that the tests share.
func (w *world) estate(t *testing.T, options ...option) string {
	t.Helper()
	e := estateText{store: w.store(), sshConfig: w.lab.SSHConfig()}
	for _, s := range servers {
		e.servers = append(e.servers, line(s))
	}
	for _, o := range options {
		o(&e)
	}
	text := fmt.Sprintf("estate: e2e\nsource:\n  name: miami\n  ssh: {config: %s}\ntarget:\n  name: dallas\n  store: %s\n  hypervisor: qemu\n  accelerator: tcg\nservers:\n",
		e.sshConfig, e.store)
	for _, s := range e.servers {
		text += "  - " + s + "\n"
	}
	text += e.more
	path := filepath.Join(t.TempDir(), "leeward.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (w *world) store() string { return filepath.Join(w.lab.Dir(), "dallas", "store") }

// newStore returns the path of a store of the test's own, not there yet.
func (w *world) newStore(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(w.dir, "store-")
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	t.Cleanup(func() {
		if err := errors.Join(releaseStores(context.Background(), dir), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return store
}

// releaseStores unmounts the pools of all stores below dir.
func releaseStores(ctx context.Context, dir string) error {
	pools, err := filepath.Glob(filepath.Join(dir, "*", "pool.xfs"))
	for _, p := range pools {
		err = errors.Join(err, replica.ReleasePool(ctx, filepath.Dir(p)))
	}
	return err
}

// points returns the recovery points of a server, newest first, and insists that
// none is damaged.
func (w *world) points(t *testing.T, store string, server string) []*replica.Point {
	t.Helper()
	r := w.replica(t, store, server)
	points, err := r.Points()
	if err != nil {
		t.Fatalf("recovery points of %s: %v", server, err)
	}
	return points
}

func (w *world) replica(t *testing.T, store, server string) *replica.Replica {
	t.Helper()
	s, err := replica.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Replica(dr.ServerName(server))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// clone mounts a throwaway clone of a point until the test ends.
func (w *world) clone(t *testing.T, store string, p *replica.Point, readOnly bool) *replica.Mounted {
	t.Helper()
	m, release := w.mount(t, store, p, readOnly)
	t.Cleanup(release)
	return m
}

// mount is clone, with what ends it.
func (w *world) mount(t *testing.T, store string, p *replica.Point, readOnly bool) (*replica.Mounted, func()) {
	t.Helper()
	s, err := replica.Open(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := s.Scratch("e2e-" + string(p.Manifest.Server))
	if err != nil {
		t.Fatal(err)
	}
	img, err := p.Clone(t.Context(), filepath.Join(dir, "clone"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := img.Mount(t.Context(), readOnly)
	if err != nil {
		t.Fatal(err)
	}
	return m, func() {
		if err := errors.Join(m.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	}
}

// equal insists that verify finds nothing different.
func (w *world) equal(t *testing.T, config string, names ...string) {
	t.Helper()
	r := w.run(t, config, append([]string{"verify"}, names...)...)
	var res protect.VerifyResult
	if err := json.Unmarshal(r.Result, &res); err != nil {
		t.Fatalf("read the result: %v\n%s", err, r)
	}
	for _, s := range res.Servers {
		if s.Outcome != dr.Done || len(s.Differences) > 0 || s.Entries == 0 {
			t.Errorf("%s: %s, %d entries, differences %+v, error %s", s.Server, s.Outcome, s.Entries, s.Differences, s.Err)
		}
		for _, d := range s.Newer {
			t.Logf("%s: newer at the source: %+v", s.Server, d)
		}
	}
	if r.code != 0 {
		t.Fatal(r)
	}
}

// command runs a tool and returns what it wrote; codes are the exit codes that
// are no failure.
func command(t *testing.T, dir string, codes []int, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil && (cmd.ProcessState == nil || !slices.Contains(codes, cmd.ProcessState.ExitCode())) {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, errb.String(), out.String())
	}
	return out.String()
}

// in runs a shell script as root in a server.
func (w *world) in(t *testing.T, server, script string) string {
	t.Helper()
	out, err := w.lab.Run(context.WithoutCancel(t.Context()), server, "/bin/sh", "-ec", script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}
