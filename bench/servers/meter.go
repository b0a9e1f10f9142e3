package main

import (
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

	"github.com/leeward-dr/leeward/lab"
)

// sampleEvery is how often the memory of all processes is looked at.
const sampleEvery = 50 * time.Millisecond

// side is what one end of the link used. CPU is of the processes alone, not of
// the kernel's own threads. Memory is the peak of the sum over all processes
// that were not there before; where there are several servers, of the largest.
type side struct {
	CPU  float64 `json:"cpu_seconds"`
	RSS  int64   `json:"peak_rss"`  // with mapped files and what processes share counted for each
	Anon int64   `json:"peak_anon"` // of it, without mapped files and shared memory
}

// usage is what one run took.
type usage struct {
	Wall   float64 `json:"seconds"`
	Synced float64 `json:"seconds_until_synced"` // until all of it was on disk
	In     int64   `json:"bytes_to_target"`
	Out    int64   `json:"bytes_to_source"`
	Source side    `json:"source"`
	Target side    `json:"target"`
}

func (u usage) wire() int64 { return u.In + u.Out }

// meter counts through a cgroup for each server and one for the target: what is
// started in one stays in it, however short-lived.
type meter struct {
	base   string // a cgroup2 directory
	lab    *lab.Lab
	groups map[string]string // by server; "" for the target
}

// newMeter moves the processes of the lab's servers into cgroups.
func newMeter(l *lab.Lab, mountAt string, servers []string) (*meter, error) {
	if err := os.MkdirAll(mountAt, 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := syscall.Mount("none", mountAt, "cgroup2", 0, ""); err != nil {
		return nil, fmt.Errorf("mount cgroups: %w", err)
	}
	m := &meter{base: filepath.Join(mountAt, fmt.Sprintf("leeward-bench-%d", os.Getpid())), lab: l, groups: map[string]string{}}
	for _, name := range append([]string{""}, servers...) {
		dir := filepath.Join(m.base, "target")
		if name != "" {
			dir = filepath.Join(m.base, "source-"+name)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make cgroup: %w", err)
		}
		m.groups[name] = dir
		if name == "" {
			continue
		}
		if err := adopt(l, name, dir); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// adopt moves all processes of a server into a cgroup.
func adopt(l *lab.Lab, name, dir string) error {
	s, err := l.Server(name)
	if err != nil {
		return err
	}
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Pid))
	if err != nil {
		return fmt.Errorf("find processes of %s: %w", name, err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		return fmt.Errorf("find processes of %s: %w", name, err)
	}
	for _, link := range links {
		if got, err := os.Readlink(link); err != nil || got != ns {
			continue
		}
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strings.Split(link, "/")[2]), 0)
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("watch processes of %s: %w", name, err)
		}
	}
	return nil
}

// close removes the cgroups; those of processes that still end may stay.
func (m *meter) close() {
	for _, g := range m.groups {
		_ = os.Remove(g)
	}
	_ = os.Remove(m.base)
	_ = syscall.Unmount(filepath.Dir(m.base), syscall.MNT_DETACH)
}

// command prepares a program that runs at the target and is counted there.
func (m *meter) command(ctx context.Context, argv ...string) (*exec.Cmd, func(), error) {
	dir, err := os.Open(m.groups[""])
	if err != nil {
		return nil, nil, fmt.Errorf("open cgroup: %w", err)
	}
	argv = lab.InDallas(argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd, func() { dir.Close() }, nil
}

// measure runs the commands at once and says what they took.
func (m *meter) measure(ctx context.Context, syncAt string, work func() error) (usage, error) {
	var u usage
	cpu := map[string]float64{}
	for name := range m.groups {
		var err error
		if cpu[name], err = m.cpu(name); err != nil {
			return u, err
		}
	}
	in, out, err := m.lab.LinkBytes(ctx)
	if err != nil {
		return u, err
	}
	stop := m.sample()
	begin := time.Now()
	err = work()
	u.Wall = time.Since(begin).Seconds()
	peaks := stop()
	if err != nil {
		return u, err
	}
	after, afterOut, err := m.lab.LinkBytes(ctx)
	if err != nil {
		return u, err
	}
	u.In, u.Out = after-in, afterOut-out
	for name, p := range peaks {
		now, err := m.cpu(name)
		if err != nil {
			return u, err
		}
		s := &u.Source
		if name == "" {
			s = &u.Target
		}
		s.CPU += now - cpu[name]
		s.RSS, s.Anon = max(s.RSS, p.rss), max(s.Anon, p.anon)
	}
	err = syncFilesystem(syncAt)
	u.Synced = time.Since(begin).Seconds()
	return u, err
}

// cpu is what a group has used so far, in seconds.
func (m *meter) cpu(name string) (float64, error) {
	text, err := os.ReadFile(filepath.Join(m.groups[name], "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
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

// peak is the most memory seen.
type peak struct{ rss, anon int64 }

// sample watches memory until the returned function is called, which tells the
// peaks by group.
func (m *meter) sample() func() map[string]peak {
	old := map[string]bool{}
	for name := range m.groups {
		for _, pid := range m.pids(name) {
			old[pid] = true
		}
	}
	peaks := map[string]peak{}
	look := func() {
		for name := range m.groups {
			var now peak
			for _, pid := range m.pids(name) {
				if !old[pid] {
					rss, anon := memory(pid)
					now.rss, now.anon = now.rss+rss, now.anon+anon
				}
			}
			p := peaks[name]
			peaks[name] = peak{max(p.rss, now.rss), max(p.anon, now.anon)}
		}
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
	return func() map[string]peak {
		close(done)
		wg.Wait()
		return peaks
	}
}

func (m *meter) pids(name string) []string {
	text, err := os.ReadFile(filepath.Join(m.groups[name], "cgroup.procs"))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// memory is a process's resident memory; zero when it has ended.
func memory(pid string) (rss, anon int64) {
	text, err := os.ReadFile("/proc/" + pid + "/statm")
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(string(text))
	if len(f) < 3 {
		return 0, 0
	}
	resident, err1 := strconv.ParseInt(f[1], 10, 64)
	shared, err2 := strconv.ParseInt(f[2], 10, 64)
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	page := int64(os.Getpagesize())
	return resident * page, (resident - shared) * page
}
