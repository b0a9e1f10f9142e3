// Package agent is what runs at a source: it answers on its standard input and
// output, tells facts of its host, keeps within the limits it is given, and is
// gone when the connection is. Services, such as reading a file tree, are handed
// in by the caller.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/mountns"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// A Service is a set of calls the agent answers.
type Service interface {
	Handlers() map[string]pipe.Handler
}

// Silence is how long an agent hears nothing before it takes the other end for
// dead. The client pings far more often.
const Silence = 5 * time.Minute

// ErrSilent ends an agent whose other end has not been heard of for Silence.
var ErrSilent = errors.New("nothing heard from the other end")

// grace is how long handlers may take to end once the connection is over.
const grace = 3 * time.Second

// Main is the agent as a program: it moves into a private mount namespace where
// it may, and serves until standard input ends. As a user who may not have such a
// namespace it serves all the same; its facts then say what they lack.
//
// Main starts the program anew (see mountns.Enter), so nothing may have been read
// from stdin before.
func Main(ctx context.Context, stdin io.Reader, stdout io.Writer, services ...Service) error {
	if err := mountns.Enter(); err != nil && !errors.Is(err, mountns.ErrNotPermitted) {
		return fmt.Errorf("agent: %w", err)
	}
	return Serve(ctx, stdin, stdout, services...)
}

// Serve answers hello, ping, facts, limits and the calls of services on r and w
// until r ends, ctx ends or the other end is silent for too long. If a service is
// a *Governor the limits set over the wire are its limits; otherwise Serve makes
// one. When Serve returns before r has ended, one goroutine still waits for r.
func Serve(ctx context.Context, r io.Reader, w io.Writer, services ...Service) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	gov := governorOf(services)
	if gov == nil {
		gov = NewGovernor()
		services = append(services, gov)
	}
	handlers, err := merge(append(services, basics{}))
	if err != nil {
		return err
	}
	conn := pipe.New(r, w, pipe.Options{Handlers: handlers})
	gov.setWire(conn.SetRate)
	done := make(chan error, 1)
	go func() { done <- conn.Run(ctx) }()
	wg.Go(func() { watch(ctx, conn, Silence, func() { cancel(ErrSilent) }) })
	return ended(ctx, conn, done)
}

// ended waits for the end of conn, but not for a read that nothing can interrupt.
func ended(ctx context.Context, conn *pipe.Conn, done <-chan error) error {
	select {
	case err := <-done:
		return err
	case <-conn.Done():
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case err := <-done:
		if ctx.Err() == nil {
			return err
		}
	case <-t.C:
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return conn.Err()
}

// watch calls silent once conn has received nothing for limit.
func watch(ctx context.Context, conn *pipe.Conn, limit time.Duration, silent func()) {
	t := time.NewTicker(limit / 10)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if now.Sub(conn.LastReceived()) > limit {
				silent()
				return
			}
		}
	}
}

func governorOf(services []Service) *Governor {
	for _, s := range services {
		if g, ok := s.(*Governor); ok {
			return g
		}
	}
	return nil
}

func merge(services []Service) (map[string]pipe.Handler, error) {
	all := map[string]pipe.Handler{}
	for _, s := range services {
		for name, h := range s.Handlers() {
			if all[name] != nil {
				return nil, fmt.Errorf("serve: two services answer %q", name)
			}
			all[name] = h
		}
	}
	return all, nil
}

// basics are the calls every agent answers.
type basics struct{}

func (basics) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{"hello": hello, "ping": ping, "facts": facts}
}

func hello(_ context.Context, s *pipe.Stream) error {
	if err := s.Recv(&agentpb.Hello{}); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	return s.Send(Self())
}

func ping(_ context.Context, s *pipe.Stream) error {
	if err := s.Recv(&agentpb.Empty{}); err != nil {
		return fmt.Errorf("read ping: %w", err)
	}
	return s.Send(&agentpb.Empty{})
}

func facts(ctx context.Context, s *pipe.Stream) error {
	if err := s.Recv(&agentpb.Empty{}); err != nil {
		return fmt.Errorf("read request for facts: %w", err)
	}
	f, err := CollectFacts(ctx)
	if err != nil {
		return err
	}
	return s.Send(f)
}

// Self describes this process and host, as the first message either way does.
func Self() *agentpb.Hello {
	host, _ := os.Hostname() // without one it is empty, which the reader sees
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return &agentpb.Hello{
		Protocol: agentpb.Protocol, Version: Version(),
		Hostname: strings.ToValidUTF8(host, "?"), BootId: strings.TrimSpace(string(boot)),
		ClockUnixNano: time.Now().UnixNano(), Root: os.Geteuid() == 0, Arch: runtime.GOARCH,
	}
}

// Version names the build of this binary: the module's version or the revision it
// was built from; both ends of a connection must agree on it.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version, revision, modified := info.Main.Version, "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = "-" + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+changed"
		}
	}
	if version != "" && version != "(devel)" {
		return version
	}
	return "devel" + revision + modified
}
