// Package vm runs machines under QEMU that lead nowhere: no network card has a
// way out, the disk is the caller's to throw away, and a machine never outlives
// this process. QEMU is driven over QMP.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is a running QEMU. All methods may be called concurrently.
type Machine struct {
	spec    Spec
	process *os.Process
	qmp     *QMP
	console *Console
	serial  net.Conn   // the machine's end of the first serial port
	report  net.Conn   // and of the second
	wires   []net.Conn // and of each card's wire
	log     *os.File
	files   []string // to remove with the machine
	readers sync.WaitGroup
	exited  chan struct{}
	stderr  *tailBuffer

	closeOnce sync.Once
	exitErr   error // set before exited is closed
}

const (
	binary       = "qemu-system-x86_64"
	startTimeout = 30 * time.Second
)

// Start runs the machine. It lives until Close, until it powers itself off or
// until this process dies; ctx bounds the start only.
func Start(ctx context.Context, spec Spec) (*Machine, error) {
	spec, err := spec.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start machine %s: %w", spec.Name, err)
	}
	m := &Machine{spec: spec, exited: make(chan struct{}), stderr: &tailBuffer{}}
	if err := m.start(ctx); err != nil {
		m.Close()
		return nil, fmt.Errorf("start machine %s: %w", spec.Name, m.explain(err))
	}
	return m, nil
}

// explain adds what QEMU said to err.
func (m *Machine) explain(err error) error {
	if said := m.stderr.String(); said != "" {
		return fmt.Errorf("%w (qemu: %s)", err, said)
	}
	return err
}

func (m *Machine) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var code, vars string
	var err error
	if m.spec.Firmware == UEFI {
		if code, vars, err = prepareUEFI(m.spec.Dir); err != nil {
			close(m.exited)
			return err
		}
		m.files = append(m.files, vars)
	}
	ours, theirs, err := socketPairs(fdNIC - fdMonitor + len(m.spec.NICs))
	if err != nil {
		close(m.exited)
		return err
	}
	m.serial, m.report, m.wires = ours[1], ours[2], ours[3:]
	err = m.launch(m.spec.args(code, vars), theirs)
	closeAll(theirs) // so that our ends notice when QEMU ends
	if err != nil {
		closeAll(ours)
		close(m.exited)
		return err
	}
	for i, w := range m.wires {
		wire := m.spec.NICs[i].Wire
		if wire == nil {
			wire = func(c net.Conn) { io.Copy(io.Discard, c) }
		}
		m.readers.Go(func() { wire(w) })
	}
	if err := m.openConsole(); err != nil {
		ours[0].Close()
		return err
	}
	m.qmp, err = NewQMP(ctx, ours[0])
	return err
}

func (m *Machine) openConsole() error {
	var log io.Writer
	if m.spec.SerialLog != "" {
		f, err := os.OpenFile(m.spec.SerialLog, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		m.log, log = f, f
	}
	m.console = NewConsole(log)
	m.readers.Go(func() { io.Copy(m.console, m.serial) })
	return nil
}

// launch starts QEMU. The kernel kills it when the thread that forked it ends,
// so that thread waits for it and does nothing else.
func (m *Machine) launch(args []string, files []*os.File) error {
	path, err := exec.LookPath(binary)
	if err != nil {
		return err
	}
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = files
	cmd.Stderr = m.stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+m.spec.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			m.exitErr = cmd.Wait()
			close(m.exited)
		}
		runtime.UnlockOSThread()
	}()
	if err := <-started; err != nil {
		return err
	}
	m.process = cmd.Process
	return nil
}

// Console is the first serial port.
func (m *Machine) Console() *Console { return m.console }

// Report is what the guest writes to its second serial port; one reader at a
// time. It ends with the machine.
func (m *Machine) Report() io.Reader { return m.report }

// QMP is the machine's monitor.
func (m *Machine) QMP() *QMP { return m.qmp }

// Exited is closed when QEMU has ended.
func (m *Machine) Exited() <-chan struct{} { return m.exited }

// Screenshot writes what the machine's screen shows to path as PNG.
func (m *Machine) Screenshot(ctx context.Context, path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	args := map[string]any{"filename": path, "format": "png"}
	return m.qmp.Run(ctx, "screendump", args, nil)
}

// Close ends the machine at once and removes its files. It may be called again.
func (m *Machine) Close() error {
	var err error
	m.closeOnce.Do(func() { err = m.close() })
	return err
}

func (m *Machine) close() error {
	if m.process != nil {
		m.process.Kill()
	}
	<-m.exited
	if m.qmp != nil {
		m.qmp.Close()
	}
	m.readers.Wait() // QEMU's end is closed: what it wrote has been read
	var errs []error
	for _, c := range append([]net.Conn{m.serial, m.report}, m.wires...) {
		if c != nil {
			c.Close()
		}
	}
	if m.log != nil {
		errs = append(errs, m.log.Close())
	}
	for _, f := range m.files {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}

// socketPairs returns n connected pairs: our ends, and those to hand to QEMU.
// They need no names in the file system, so none can be too long or left over.
func socketPairs(n int) (ours []net.Conn, theirs []*os.File, err error) {
	for range n {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(ours)
			closeAll(theirs)
			return nil, nil, fmt.Errorf("make socket pair: %w", err)
		}
		theirs = append(theirs, os.NewFile(uintptr(fds[1]), "qemu"))
		own := os.NewFile(uintptr(fds[0]), "leeward")
		conn, err := net.FileConn(own)
		own.Close()
		if err != nil {
			closeAll(ours)
			closeAll(theirs)
			return nil, nil, fmt.Errorf("make socket pair: %w", err)
		}
		ours = append(ours, conn)
	}
	return ours, theirs, nil
}

func closeAll[C io.Closer](cs []C) {
	for _, c := range cs {
		c.Close()
	}
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct {
	mu sync.Mutex // guards b
	b  []byte
}

const stderrKept = 2048

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - stderrKept; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
