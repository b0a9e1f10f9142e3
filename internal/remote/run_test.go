package remote

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	s := startSSHD(t)
	box := Target{Host: "box", SSHConfig: s.config}
	run := func(line string) (Ran, error) { return Run(t.Context(), box, Options{}, line) }
	ran, err := run("echo \"it's $((6*7))\"; printf '%s\\n' 'a\\b!' >&2; cat; exit 3")
	if err != nil || !ran.Started || !ran.Exited || ran.Code != 3 || ran.Output != "it's 42\na\\b!" {
		t.Errorf("%+v, %v", ran, err)
	}
	if ran, err := run("printf no-end"); err != nil || ran.Code != 0 || ran.Output != "no-end" {
		t.Errorf("%+v, %v", ran, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if ran, err := Run(ctx, box, Options{}, "sleep 60"); err == nil || !ran.Started || ran.Exited {
		t.Errorf("a command that was cut: %+v, %v", ran, err)
	}
	// One that ends the session is not known to have ended.
	if ran, err := run("kill -9 $PPID; sleep 1"); err == nil || !ran.Started || ran.Exited {
		t.Errorf("a session that died: %+v, %v", ran, err)
	}
	s.stop()
	if ran, err := run("true"); err == nil || ran.Started || !strings.Contains(err.Error(), "refuses connections") {
		t.Errorf("nobody there: %+v, %v", ran, err)
	}
}
