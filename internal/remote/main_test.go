package remote

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const testVersion = "test-1"

// TestMain lets the test binary be what is installed: with "agent" as its argument
// it answers hello and ping.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "agent" {
		os.Exit(m.Run())
	}
	conn := pipe.New(os.Stdin, os.Stdout, pipe.Options{Handlers: map[string]pipe.Handler{
		"hello": func(_ context.Context, s *pipe.Stream) error {
			if err := s.Recv(&agentpb.Hello{}); err != nil {
				return err
			}
			return s.Send(&agentpb.Hello{
				Protocol: agentpb.Protocol, Version: testVersion, Arch: runtime.GOARCH,
				ClockUnixNano: time.Now().UnixNano(), Root: os.Geteuid() == 0,
			})
		},
		"ping": func(_ context.Context, s *pipe.Stream) error {
			if err := s.Recv(&agentpb.Empty{}); err != nil {
				return err
			}
			return s.Send(&agentpb.Empty{})
		},
		"die": func(context.Context, *pipe.Stream) error {
			fmt.Fprintln(os.Stderr, "panic: something broke")
			os.Exit(2)
			return nil
		},
	}})
	if err := conn.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// host is a stand-in for ssh: a program that gives the command to a login shell,
// as sshd does, in an environment the test chooses.
type host struct {
	ssh   string // path of the stand-in
	cache string // the agent's cache directory
	bin   string // first in PATH
	home  string
	agent *Binary
}

// newHost makes a host whose login shell is the given command line. before is a
// line of shell run first, where login files would be.
func newHost(t *testing.T, shell, before string) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{ssh: filepath.Join(dir, "ssh"), cache: filepath.Join(dir, "cache"),
		bin: filepath.Join(dir, "bin"), home: filepath.Join(dir, "home"), agent: smallBinary(t)}
	for _, d := range []string{h.bin, h.home} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := "#!/bin/sh\nfor last in \"$@\"; do [ \"$last\" = -G ] && exit 0; done\n" +
		"PATH=" + h.bin + ":$PATH HOME=" + h.home + "; export PATH HOME\n" +
		before + "\nexec " + shell + " -c \"$last\"\n"
	if err := os.WriteFile(h.ssh, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return h
}

// program puts a shell script of the given name first in the host's PATH.
func (h *host) program(t *testing.T, name, body string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.bin, name), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (h *host) options() Options {
	return Options{SSH: h.ssh, CacheDirs: []string{h.cache}, Self: self(), Timeout: 20 * time.Second, Binary: h.agent}
}

func (h *host) dial(t *testing.T) (*Client, error) {
	t.Helper()
	return Dial(t.Context(), Target{Name: "web1", Host: "10.9.8.7"}, h.options())
}

func self() *agentpb.Hello {
	return &agentpb.Hello{Protocol: agentpb.Protocol, Version: testVersion}
}

// theBinary is the test binary itself, shared so that it is compressed once.
var theBinary = &Binary{}

// smallBinary is a program that stands in for the test binary: quick to send.
func smallBinary(t *testing.T) *Binary {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	// Built with the race detector, a program waits a second before it ends.
	text := "#!/bin/sh\nGORACE=atexit_sleep_ms=0; export GORACE\nexec " + exe + " \"$@\"\n"
	for i := range 5000 { // gzip and zstd differ on this
		text += fmt.Sprintf("# line %d of many\n", i*i)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return &Binary{Path: path}
}

func mustClose(t *testing.T, c *Client) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if !c.proc.exited(0) {
		t.Error("ssh is still there after Close")
	}
}

// has fails the test unless every word is in s.
func has(t *testing.T, s string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(s, w) {
			t.Errorf("%q is not in %q", w, s)
		}
	}
}
