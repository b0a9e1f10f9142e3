package remote

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// process is one running ssh client. It is in a process group of its own, so that
// an interrupt at the terminal reaches us alone and we end it in order, and so
// that the proxies it started end with it.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	stderr *tail
	done   chan struct{}
	err    error // of Wait; valid after done
}

// startSSH runs ssh. The child is told to end when we do, however that is.
func startSSH(ssh string, args []string) (*process, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	widen(inW)
	widen(outR)
	p := &process{stdin: inW, stdout: outR, stderr: &tail{}, done: make(chan struct{})}
	p.cmd = exec.Command(ssh, args...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = inR, outW, p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p.cmd.WaitDelay = 2 * time.Second
	started := make(chan error)
	go p.run(started)
	err = <-started
	inR.Close()
	outW.Close()
	if err != nil {
		inW.Close()
		outR.Close()
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			return nil, dr.WithHint(errors.New("start ssh: there is no ssh client here"),
				"install OpenSSH's client, on Debian: apt install openssh-client")
		}
		return nil, fmt.Errorf("start ssh: %w", err)
	}
	return p, nil
}

// run starts the child and waits for it on one thread: the kernel takes the end of
// the starting thread, not of the process, for the death of the parent.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	close(p.done)
}

// exited waits up to d for the child and reports whether it is gone.
func (p *process) exited(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return true
	case <-t.C:
	}
	select { // both may have been ready
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop ends the child: first by closing its input, which ends the agent and with
// it the session; then by force. It returns when the child is gone.
func (p *process) stop(patience time.Duration) {
	p.stdin.Close()
	if !p.exited(patience) {
		p.signal(syscall.SIGTERM)
	}
	if !p.exited(2 * time.Second) {
		p.signal(syscall.SIGKILL)
		<-p.done
	}
	p.stdout.Close()
}

// signal reaches the child and the proxies it started.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s) // it may just have ended
	}
}

// code is the exit status of ssh: 255 is ssh's own, others are of the remote
// command; -1 is a signal.
func (p *process) code() int {
	if p.cmd.ProcessState == nil {
		return -1
	}
	return p.cmd.ProcessState.ExitCode()
}

// widen asks for a larger pipe; without it the bytes only go in smaller steps.
func widen(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
}

// tail keeps the beginning and the end of what was written to it.
type tail struct {
	mu   sync.Mutex
	head []byte
	last []byte
	cut  bool
}

const tailSize = 16 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	room := min(tailSize-len(t.head), n)
	t.head = append(t.head, b[:room]...)
	t.last = append(t.last, b[room:]...)
	if over := len(t.last) - tailSize; over > 0 {
		t.last = append(t.last[:0], t.last[over:]...)
		t.cut = true
	}
	return n, nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	middle := ""
	if t.cut {
		middle = "\n[…]\n"
	}
	return strings.ToValidUTF8(string(t.head)+middle+string(t.last), "?")
}
