package agent

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// TestMain lets the test binary be an agent.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "agent" {
		os.Exit(m.Run())
	}
	if err := Main(context.Background(), os.Stdin, os.Stdout, NewGovernor()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestMainServesInANamespaceOfItsOwn(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "agent")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn := pipe.New(out, in, pipe.Options{Dialer: true})
	ran := make(chan error, 1)
	go func() { ran <- conn.Run(context.WithoutCancel(t.Context())) }()
	hello := &agentpb.Hello{}
	if err := conn.Call(t.Context(), "hello", Self(), hello); err != nil {
		t.Error(err)
	}
	if hello.Root != (os.Geteuid() == 0) {
		t.Errorf("hello %v", hello)
	}
	ours, err1 := os.Readlink("/proc/self/ns/mnt")
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", cmd.Process.Pid))
	if os.Geteuid() == 0 && (err1 != nil || err2 != nil || ours == theirs) {
		t.Errorf("mount namespaces %s and %s, %v, %v", ours, theirs, err1, err2)
	}
	conn.Close() // closes its input, which ends it
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
