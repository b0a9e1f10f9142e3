package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/mountns"
)

// insideEnv tells the program that it is in its namespaces, and a name for cgroups.
const insideEnv = "LEEWARD_BENCH_DB_INSIDE"

// marker is a file that tells working directories of this program from others.
const marker = ".leeward-bench-db"

// The two ends of the link. The program itself is at the target.
const (
	sourceHost = "10.77.7.1"
	targetHost = "10.77.7.2"
	link       = "wire" // at either end
	sourceNet  = "/run/netns/source"
)

// enclose runs the program again in namespaces: when it ends, for whatever reason,
// all that it started ends with it, and its network is gone.
func enclose(ctx context.Context, s *settings) error {
	if os.Getuid() != 0 {
		return errors.New("make namespaces: this needs root")
	}
	if err := mountns.Enter(); err != nil {
		return err
	}
	if err := workIn(s.dir); err != nil {
		return err
	}
	groups, name := filepath.Join(s.dir, "cgroup"), fmt.Sprintf("leeward-bench-db-%d", os.Getpid())
	if err := os.Mkdir(groups, 0o755); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	if err := syscall.Mount("none", groups, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	// The parent's death is told by the thread that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"="+name)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	err := cmd.Run()
	removeGroups(filepath.Join(groups, name))
	if e := syscall.Unmount(groups, syscall.MNT_DETACH); e != nil {
		err = errors.Join(err, fmt.Errorf("unmount cgroups: %w", e))
	} else if e := os.RemoveAll(s.dir); e != nil {
		err = errors.Join(err, fmt.Errorf("clear working directory: %w", e))
	}
	return err
}

// workIn makes an empty directory, and removes only one that is this program's.
func workIn(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look into working directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, marker)); err != nil && len(names) > 0 {
		return fmt.Errorf("clear working directory %s: it holds what is not of this program; name another with -dir", dir)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear working directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, marker), nil, 0o644); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	return nil
}

// furnish makes the inside of the namespaces: processes, both networks and the link.
func (b *bench) furnish(ctx context.Context) error {
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return fmt.Errorf("make /run/netns: %w", err)
	}
	// Named networks are files there; our own hide those of others.
	if err := syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("hide other networks: %w", err)
	}
	for _, argv := range [][]string{
		{"ip", "netns", "add", filepath.Base(sourceNet)},
		{"ip", "link", "set", "lo", "up"},
		{"ip", "link", "add", link, "type", "veth", "peer", "name", link, "netns", filepath.Base(sourceNet)},
		{"ip", "addr", "add", targetHost + "/30", "dev", link},
		{"ip", "link", "set", link, "up"},
		atSource("ip", "link", "set", "lo", "up"),
		atSource("ip", "addr", "add", sourceHost+"/30", "dev", link),
		atSource("ip", "link", "set", link, "up"),
	} {
		if _, err := command(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// atSource makes a command run in the source's network, with the process ID of the
// one that is started.
func atSource(argv ...string) []string {
	return append([]string{"nsenter", "--net=" + sourceNet}, argv...)
}

// shape limits the link at both ends; "" lifts that.
func shape(ctx context.Context, rate string) error {
	argv := []string{"tc", "qdisc", "replace", "dev", link, "root", "pfifo_fast"}
	if rate != "" {
		argv = []string{"tc", "qdisc", "replace", "dev", link, "root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms"}
	}
	for _, a := range [][]string{argv, atSource(argv...)} {
		if _, err := command(ctx, a...); err != nil {
			return err
		}
	}
	return nil
}

// command runs a tool that is no part of a measurement and returns what it prints.
func command(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%.120s: %w: %s", strings.Join(argv, " "), err, tail(errs.String()))
	}
	return out.String(), nil
}

// tail is the end of a tool's complaint.
func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-1500):]
}
