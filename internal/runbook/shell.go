package runbook

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Local is a Shell of this machine alone.
type Local struct{}

// outputKept is how much of a command's output is kept, from its end.
const outputKept = 2 << 10

// Run implements Shell. When ctx ends the command and all it started in its process
// group are ended.
func (Local) Run(ctx context.Context, host, line string) (Ran, error) {
	if host != "" {
		return Ran{}, fmt.Errorf("run a command on %s: only this machine can be reached", host)
	}
	return Execute(ctx, exec.Command("/bin/sh", "-c", line))
}

// Execute runs a command in a process group of its own until it ends or ctx does.
func Execute(ctx context.Context, cmd *exec.Cmd) (Ran, error) {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 2 * time.Second // what it left behind may hold its output open
	if err := ctx.Err(); err != nil {
		return Ran{}, err
	}
	if err := cmd.Start(); err != nil {
		return Ran{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		return Ran{Started: true, Output: out.String()}, errors.Join(ctx.Err(), gone(kill), ignoreExit(<-ended))
	}
	ran := Ran{Started: true, Exited: cmd.ProcessState.Exited(), Code: cmd.ProcessState.ExitCode(), Output: out.String()}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return ran, ignoreExit(err)
}

// ignoreExit drops an error that only repeats how a process ended by itself.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func gone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte // guarded by mu
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - outputKept; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.b), ""))
}
