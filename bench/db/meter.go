package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sampleEvery is how often the memory of the tools is looked at.
const sampleEvery = 50 * time.Millisecond

// usage is what one run took. Bytes are those of the link, headers included.
type usage struct {
	Seconds float64 `json:"seconds"`
	In      int64   `json:"bytes_to_target"`
	Out     int64   `json:"bytes_to_source"`
	Tool    float64 `json:"cpu_tool"` // seconds, of all processes of the tool
	Source  float64 `json:"cpu_source_server"`
	Target  float64 `json:"cpu_target_server"`
	RSS     int64   `json:"peak_rss_tool"` // peak of the sum over the tool's processes
}

func (u usage) wire() int64 { return u.In + u.Out }

// role is who uses CPU and memory.
type role string

const (
	roleTool   role = "tool"
	roleSource role = "source"
	roleTarget role = "target"
)

// meter counts through a cgroup for each role: what is started in one stays in it.
type meter struct {
	groups map[role]string
}

// newMeter makes cgroups below a directory of cgroup2.
func newMeter(at string) (*meter, error) {
	m := &meter{groups: map[role]string{}}
	for _, r := range []role{roleTool, roleSource, roleTarget} {
		m.groups[r] = filepath.Join(at, string(r))
		if err := os.MkdirAll(m.groups[r], 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
	}
	return m, nil
}

// removeGroups removes what newMeter made; processes in them have ended.
func removeGroups(at string) {
	for _, r := range []role{roleTool, roleSource, roleTarget} {
		_ = os.Remove(filepath.Join(at, string(r)))
	}
	_ = os.Remove(at)
}

// in makes a command run in a role's cgroup; done is called when it has started.
func (m *meter) in(r role, cmd *exec.Cmd) (done func(), err error) {
	dir, err := os.Open(m.groups[r])
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return func() { dir.Close() }, nil
}

// tool runs a program that is measured, and returns what it prints.
func (m *meter) tool(ctx context.Context, argv ...string) ([]byte, error) {
	out, _, err := m.heard(ctx, argv...)
	return out, err
}

// heard does what tool does and returns what the program complains of as well.
func (m *meter) heard(ctx context.Context, argv ...string) (said []byte, complaint string, err error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	done, err := m.in(roleTool, cmd)
	if err != nil {
		return nil, "", err
	}
	defer done()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), "", fmt.Errorf("%.200s: %w: %s", strings.Join(argv, " "), err, tail(errs.String()))
	}
	return out.Bytes(), errs.String(), nil
}

// measure does work and says what that took.
func (m *meter) measure(work func() error) (usage, error) {
	var u usage
	before, err := m.read()
	if err != nil {
		return u, err
	}
	stop := m.sample()
	begun := time.Now()
	err = work()
	u.Seconds = time.Since(begun).Seconds()
	u.RSS = stop()
	if err != nil {
		return u, err
	}
	after, err := m.read()
	if err != nil {
		return u, err
	}
	u.In, u.Out = after.in-before.in, after.out-before.out
	u.Tool = after.cpu[roleTool] - before.cpu[roleTool]
	u.Source = after.cpu[roleSource] - before.cpu[roleSource]
	u.Target = after.cpu[roleTarget] - before.cpu[roleTarget]
	return u, nil
}

// counters are what only ever grows.
type counters struct {
	cpu     map[role]float64
	in, out int64
}

func (m *meter) read() (counters, error) {
	c := counters{cpu: map[role]float64{}}
	for r, dir := range m.groups {
		text, err := os.ReadFile(filepath.Join(dir, "cpu.stat"))
		if err != nil {
			return c, fmt.Errorf("read CPU time: %w", err)
		}
		if c.cpu[r], err = cpuSeconds(string(text)); err != nil {
			return c, err
		}
	}
	text, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return c, fmt.Errorf("read counters of the link: %w", err)
	}
	c.in, c.out, err = linkBytes(string(text))
	return c, err
}

// cpuSeconds reads a cgroup's cpu.stat.
func cpuSeconds(text string) (float64, error) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time: %w", err)
			}
			return float64(n) / 1e6, nil
		}
	}
	return 0, errors.New("read CPU time: the kernel does not tell it")
}

// linkBytes reads /proc/net/dev at the target's end.
func linkBytes(text string) (in, out int64, err error) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), link+":")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 9 {
			break
		}
		in, err1 := strconv.ParseInt(f[0], 10, 64)
		out, err2 := strconv.ParseInt(f[8], 10, 64)
		return in, out, errors.Join(err1, err2)
	}
	return 0, 0, errors.New("read counters of the link: there is none")
}

// sample watches the tools' memory until the returned function is called, which
// tells the peak.
func (m *meter) sample() func() int64 {
	var peak int64
	look := func() {
		text, err := os.ReadFile(filepath.Join(m.groups[roleTool], "cgroup.procs"))
		if err != nil {
			return
		}
		var sum int64
		for _, pid := range strings.Fields(string(text)) {
			sum += resident(pid)
		}
		peak = max(peak, sum)
	}
	look()
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		t := time.NewTicker(sampleEvery)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				look()
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return peak
	}
}

// resident is a process's memory; zero when it has ended.
func resident(pid string) int64 {
	return statusBytes("/proc/"+pid+"/status", "VmRSS:")
}

// statusBytes reads one figure of a process's status; zero where it has none.
func statusBytes(path, key string) int64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	sc := bufio.NewScanner(bytes.NewReader(text))
	for sc.Scan() {
		if v, ok := strings.CutPrefix(sc.Text(), key); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return n << 10
		}
	}
	return 0
}
