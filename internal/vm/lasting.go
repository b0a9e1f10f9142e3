package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/retry"
)

// A lasting machine is production: it outlives this process, its writes are kept and
// its cards lead to a network. It is known by its directory alone.

// Files of a lasting machine, in its directory.
const (
	pidFile     = "qemu.pid"
	monitorFile = "qmp.sock"
	consoleFile = "console.sock"
	serialFile  = "serial.log"
	outputFile  = "qemu.log"
)

// Lasting is a machine's directory. The zero value is none.
type Lasting struct{ Dir string }

// Tap is a card of a lasting machine, with the tap device of this host that is its
// other end. Somebody else has made that device.
type Tap struct {
	NIC
	Device string
}

// SerialLog is the file that receives all of the machine's first serial port.
func (l Lasting) SerialLog() string { return filepath.Join(l.Dir, serialFile) }

// Launch starts the machine and returns when it runs. spec.NICs is not looked at.
func (l Lasting) Launch(ctx context.Context, spec Spec, taps []Tap) error {
	spec.Dir, spec.NICs = l.Dir, nil
	spec, err := spec.withDefaults()
	if err != nil {
		return fmt.Errorf("start machine %s: %w", spec.Name, err)
	}
	pid, err := l.PID()
	if err != nil || pid != 0 {
		return fmt.Errorf("start machine %s: process %d runs it already: %w", spec.Name, pid, errors.Join(err, os.ErrExist))
	}
	var code, vars string
	if spec.Firmware == UEFI {
		if code, vars, err = l.firmware(); err != nil {
			return fmt.Errorf("start machine %s: %w", spec.Name, err)
		}
	}
	path, err := exec.LookPath(binary)
	if err != nil {
		return fmt.Errorf("start machine %s: %w", spec.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// QEMU goes into the background by itself, once it has opened everything: what
	// this command says and how it ends is about the start.
	cmd := exec.CommandContext(ctx, path, l.args(spec, taps, code, vars)...)
	cmd.Dir = l.Dir
	cmd.Env = append(os.Environ(), "TMPDIR="+l.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("start machine %s: %w (qemu: %s)", spec.Name, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// firmware keeps the machine's own UEFI variables from one start to the next.
func (l Lasting) firmware() (code, vars string, err error) {
	kept, readErr := os.ReadFile(filepath.Join(l.Dir, "uefi-vars.fd"))
	code, vars, err = prepareUEFI(l.Dir)
	if err == nil && readErr == nil {
		err = os.WriteFile(vars, kept, 0o600)
	}
	return code, vars, err
}

func (l Lasting) args(s Spec, taps []Tap, code, vars string) []string {
	file := func(name string) string { return escape(filepath.Join(l.Dir, name)) }
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
		"-name", escape(s.Name), "-machine", s.Machine, "-accel", s.accelArg(), "-cpu", s.CPU,
		"-m", strconv.FormatInt(s.Memory>>20, 10) + "M", "-smp", strconv.Itoa(s.CPUs), "-rtc", "base=utc",
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
		"-chardev", "socket,id=monitor,server=on,wait=off,path=" + file(monitorFile), "-mon", "chardev=monitor,mode=control",
		"-chardev", "socket,id=console,server=on,wait=off,logappend=on,path=" + file(consoleFile) + ",logfile=" + file(serialFile),
		"-serial", "chardev:console",
		"-drive", "if=none,id=disk0,cache=writeback,discard=unmap,format=" + s.Format + ",file=" + escape(s.Disk),
		"-device", "virtio-blk-pci,drive=disk0,bootindex=0",
		"-pidfile", filepath.Join(l.Dir, pidFile), "-D", filepath.Join(l.Dir, outputFile), "-daemonize",
	}
	if s.Firmware == UEFI {
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+escape(code),
			"-drive", "if=pflash,format=raw,unit=1,file="+escape(vars))
	}
	for i, t := range taps {
		a = append(a, "-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, escape(t.Device)),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, t.MAC))
	}
	return a
}

// PID is the process that runs the machine; 0 where none does. A number that another
// process has got since is told apart by what that process was started with.
func (l Lasting) PID() (int, error) {
	b, err := os.ReadFile(filepath.Join(l.Dir, pidFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the machine's process: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 0 {
		return 0, nil // it was cut before it had started
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("find the machine's process: %w", err)
	}
	if !bytes.Contains(line, []byte(filepath.Join(l.Dir, pidFile))) {
		return 0, nil
	}
	return pid, nil
}

// Monitor connects to the machine's monitor. Close it; one connection at a time.
func (l Lasting) Monitor(ctx context.Context) (*QMP, error) {
	var d net.Dialer
	// A path longer than a socket's name may be is reached through the directory.
	dir, err := os.Open(l.Dir)
	if err != nil {
		return nil, fmt.Errorf("reach the machine's monitor: %w", err)
	}
	defer dir.Close()
	conn, err := d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), monitorFile))
	if err != nil {
		return nil, fmt.Errorf("reach the machine's monitor: %w", err)
	}
	q, err := NewQMP(ctx, conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return q, nil
}

// PowerDown asks the system in the machine to shut down and waits until it has; when
// patience ends it is switched off, as by its power cord. orderly is false then.
func (l Lasting) PowerDown(ctx context.Context, patience time.Duration) (orderly bool, err error) {
	pid, err := l.PID()
	if err != nil || pid == 0 {
		return true, err
	}
	q, err := l.Monitor(ctx)
	if err != nil {
		return false, err
	}
	defer q.Close()
	if err := q.Run(ctx, "system_powerdown", nil, nil); err != nil {
		return false, fmt.Errorf("ask the machine to shut down: %w", err)
	}
	begun := time.Now()
	for time.Since(begun) < patience {
		if pid, err = l.PID(); err != nil || pid == 0 {
			return true, err
		}
		if err := retry.Sleep(ctx, 200*time.Millisecond); err != nil {
			return false, err
		}
	}
	_ = q.Run(ctx, "quit", nil, nil) // the answer may be cut by the end itself
	for range 50 {
		if pid, err = l.PID(); err != nil || pid == 0 {
			return false, err
		}
		if err := retry.Sleep(ctx, 100*time.Millisecond); err != nil {
			return false, err
		}
	}
	return false, fmt.Errorf("switch the machine off: process %d still runs", pid)
}
