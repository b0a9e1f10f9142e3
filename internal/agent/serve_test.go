package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// serving returns a connection to an agent with the given services, and its end.
func serving(t *testing.T, services ...Service) (*pipe.Conn, <-chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Serve(t.Context(), theirs, theirs, services...) }()
	conn := pipe.New(ours, ours, pipe.Options{Dialer: true})
	go func() { _ = conn.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() { conn.Close() })
	return conn, ended
}

func TestServeBasics(t *testing.T) {
	g := NewGovernor()
	conn, ended := serving(t, g)
	hello := &agentpb.Hello{}
	if err := conn.Call(t.Context(), "hello", Self(), hello); err != nil {
		t.Fatal(err)
	}
	if hello.Protocol != agentpb.Protocol || hello.Version != Version() || hello.Arch == "" || hello.BootId == "" {
		t.Errorf("hello %v", hello)
	}
	if err := conn.Call(t.Context(), "ping", &agentpb.Empty{}, &agentpb.Empty{}); err != nil {
		t.Error(err)
	}
	f := &agentpb.Facts{}
	if err := conn.Call(t.Context(), "facts", &agentpb.Empty{}, f); err != nil || f.Kernel == "" {
		t.Errorf("facts %v, %v", f, err)
	}
	if err := conn.Call(t.Context(), "limits", &agentpb.Limits{DiskBytesPerSecond: 123456}, &agentpb.Empty{}); err != nil {
		t.Error(err)
	}
	if g.Limits().DiskBytesPerSecond != 123456 {
		t.Errorf("limits %v", g.Limits())
	}
	if err := conn.Call(t.Context(), "limits", &agentpb.Limits{Cores: -1}, &agentpb.Empty{}); err == nil || !strings.Contains(err.Error(), "cores") {
		t.Errorf("a senseless limit: %v", err)
	}
	conn.Close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the agent outlives its connection")
	}
}

type oneCall string

func (o oneCall) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{string(o): func(context.Context, *pipe.Stream) error { return nil }}
}

func TestServeRefusesTwoAnswersToOneCall(t *testing.T) {
	if err := Serve(t.Context(), strings.NewReader(""), io.Discard, oneCall("x"), oneCall("x")); err == nil {
		t.Error("no error")
	}
	if err := Serve(t.Context(), strings.NewReader(""), io.Discard, oneCall("hello")); err == nil {
		t.Error("a service took the place of hello")
	}
}

func TestServeEndsWithItsInput(t *testing.T) {
	if err := Serve(t.Context(), strings.NewReader(""), io.Discard); err != nil {
		t.Error(err)
	}
}

// stuck is an input that neither ends nor can be interrupted, as a terminal.
type stuck struct{ ch chan struct{} }

func (s stuck) Read([]byte) (int, error) { <-s.ch; return 0, io.EOF }

func TestServeEndsWithContextAndWhenNobodyTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stuck{make(chan struct{})}
		defer close(s.ch)
		begun := time.Now()
		err := Serve(t.Context(), s, io.Discard)
		if !errors.Is(err, ErrSilent) {
			t.Errorf("err %v, want %v", err, ErrSilent)
		}
		if d := time.Since(begun); d < Silence || d > 2*Silence {
			t.Errorf("after %v", d)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := stuck{make(chan struct{})}
		defer close(s.ch)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := Serve(ctx, s, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("err %v", err)
		}
	})
}
