package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// run executes a command and returns its standard output. The error holds what
// it said on standard error. The command ends with the caller, also when that
// is killed.
func run(ctx context.Context, name string, args ...string) (string, error) {
	// The parent-death signal goes out when the forking thread ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return out.String(), commandError(name, args, err, errb.String())
	}
	return out.String(), nil
}

func commandError(name string, args []string, err error, stderr string) error {
	const most = 2000
	stderr = strings.TrimSpace(stderr)
	if len(stderr) > most {
		stderr = "…" + stderr[len(stderr)-most:]
	}
	if stderr != "" {
		return fmt.Errorf("run %s %s: %w: %s", name, strings.Join(args, " "), err, stderr)
	}
	return fmt.Errorf("run %s %s: %w", name, strings.Join(args, " "), err)
}

// runContained executes a script in mount and pid namespaces of its own, so
// that its mounts and all its processes end with it, and ends it with the
// caller, also when that is killed.
func runContained(ctx context.Context, script string, log io.Writer, args ...string) error {
	// The parent-death signal goes out when the forking thread ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/bin/bash", append([]string{script}, args...)...)
	var errb bytes.Buffer
	cmd.Stdout = log
	cmd.Stderr = io.MultiWriter(log, &errb)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		return commandError(script, args, err, errb.String())
	}
	return nil
}

// process names a running process beyond doubt: a pid alone may have been
// given to another one since.
type process struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot, from /proc/PID/stat
}

// processOf looks up a live process.
func processOf(pid int) (process, error) {
	start, state, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	if state == 'Z' {
		return process{}, fmt.Errorf("look up process %d: it has ended", pid)
	}
	return process{Pid: pid, Start: start}, nil
}

func readStat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("look up process %d: %w", pid, err)
	}
	return parseStat(string(b))
}

// parseStat takes the state and the start time from a line of /proc/PID/stat.
// The command name in it may hold spaces and parentheses.
func parseStat(line string) (start uint64, state byte, err error) {
	_, rest, ok := cutLast(line, ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || len(f[0]) != 1 {
		return 0, 0, fmt.Errorf("read process status: unexpected form %q", line)
	}
	start, err = strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("read process status: %w", err)
	}
	return start, f[0][0], nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// alive tells whether that very process still runs.
func (p process) alive() bool {
	if p.Pid <= 0 {
		return false
	}
	start, state, err := readStat(p.Pid)
	return err == nil && start == p.Start && state != 'Z'
}

// kill ends the process at once and waits until it is gone.
func (p process) kill(ctx context.Context) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d: %w", p.Pid, err)
	}
	return waitFor(ctx, 20*time.Second, fmt.Sprintf("process %d to end", p.Pid), func() bool { return !p.alive() })
}

// gate holds a started process back until it is on record.
type gate struct {
	process
	w *os.File
}

// startGated starts a command that must read a line from its standard input
// before it does anything and end when there is none. Its output goes to log.
// The caller records the process and then calls open; when the caller dies in
// between, so does the command.
func startGated(log string, flags uintptr, argv ...string) (*gate, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = r, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	// Reaped here while this process lives; by init afterwards.
	go func() { _ = cmd.Wait() }()
	p, err := processOf(cmd.Process.Pid)
	if err != nil {
		w.Close()
		return nil, err
	}
	return &gate{process: p, w: w}, nil
}

func (g *gate) open() error {
	defer g.w.Close()
	if _, err := g.w.WriteString("go\n"); err != nil {
		return fmt.Errorf("release process %d: %w", g.Pid, err)
	}
	return nil
}

// waitFor polls until ok holds.
func waitFor(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}
