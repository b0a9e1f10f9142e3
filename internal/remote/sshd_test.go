package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// sshd is a real server on a port of loopback, with keys and configuration of its
// own, and a client configuration that reaches it as "box".
type sshd struct {
	dir, config string // config is the client's
	port        int
	agent       *Binary
	cmd         *exec.Cmd
	log         bytes.Buffer
}

func startSSHD(t *testing.T, lines ...string) *sshd {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: sshd starts sessions of other users")
	}
	server, err := exec.LookPath("/usr/sbin/sshd")
	if err != nil {
		t.Skip("no sshd here")
	}
	for _, p := range []string{"ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip("no", p, "here")
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &sshd{dir: t.TempDir(), port: freePort(t), agent: smallBinary(t)}
	s.keygen(t, "host")
	s.keygen(t, "user")
	s.write(t, "authorized", s.read(t, "user.pub"), 0o600)
	conf := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\n"+
		"PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n%s\n",
		s.port, s.dir, s.dir, strings.Join(lines, "\n"))
	s.write(t, "sshd_config", conf, 0o600)
	s.config = filepath.Join(s.dir, "ssh_config")
	s.write(t, "ssh_config", fmt.Sprintf("Host box\n HostName 127.0.0.1\n Port %d\n User root\n IdentityFile %s/user\n IdentitiesOnly yes\n"+
		" UserKnownHostsFile %s/known\n GlobalKnownHostsFile none\n", s.port, s.dir, s.dir), 0o600)
	s.know(t, s.read(t, "host.pub"))
	s.cmd = exec.Command(server, "-D", "-e", "-f", filepath.Join(s.dir, "sshd_config"))
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	s.wait(t)
	return s
}

func (s *sshd) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

func (s *sshd) wait(t *testing.T) {
	t.Helper()
	for range 100 {
		c, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(s.port))
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("sshd does not listen")
}

func (s *sshd) keygen(t *testing.T, name string) {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(s.dir, name)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func (s *sshd) read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func (s *sshd) write(t *testing.T, name, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

// know makes key the one the client expects.
func (s *sshd) know(t *testing.T, key string) {
	t.Helper()
	s.write(t, "known", fmt.Sprintf("[127.0.0.1]:%d %s", s.port, key), 0o600)
}

func (s *sshd) target() Target { return Target{Name: "web1", Host: "box", SSHConfig: s.config} }

func (s *sshd) options() Options {
	return Options{CacheDirs: []string{filepath.Join(s.dir, "cache")}, Self: self(), Binary: s.agent}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestSSHFreshThenCached(t *testing.T) {
	s := startSSHD(t)
	s.agent = theBinary
	for _, fresh := range []bool{true, false} {
		begun := time.Now()
		c, err := Dial(t.Context(), s.target(), s.options())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("dial %v, %d bytes sent, round trip %v, clock %v", time.Since(begun), c.Installed(), c.RTT(), c.ClockSkew())
		if (c.Installed() > 0) != fresh {
			t.Errorf("fresh %v, but %d bytes were sent", fresh, c.Installed())
		}
		if c.RTT() <= 0 || c.RTT() > time.Second || c.ClockSkew().Abs() > time.Second {
			t.Errorf("round trip %v, clock %v", c.RTT(), c.ClockSkew())
		}
		if c.Hello().Version != testVersion || !c.Hello().Root {
			t.Errorf("hello %v", c.Hello())
		}
		mustClose(t, c)
	}
}

func TestSSHCorruptedCache(t *testing.T) {
	s := startSSHD(t)
	c, err := Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	if err := os.Truncate(c.AgentPath(), 5000); err != nil {
		t.Fatal(err)
	}
	c, err = Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	if c.Installed() == 0 {
		t.Error("a damaged agent was not sent anew")
	}
}

func TestSSHNoexecDirectory(t *testing.T) {
	s := startSSHD(t)
	bad := filepath.Join(s.dir, "noexec")
	if err := os.Mkdir(bad, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", bad, "tmpfs", unix.MS_NOEXEC, "size=64m"); err != nil {
		t.Skip("cannot mount:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bad, 0); err != nil {
			t.Error(err)
		}
	})
	o := s.options()
	o.CacheDirs = []string{bad}
	_, err := Dial(t.Context(), s.target(), o)
	if err == nil {
		t.Fatal("an agent ran from a noexec mount")
	}
	has(t, err.Error(), bad+" does not let programs run (noexec)")
	o.CacheDirs = append(o.CacheDirs, s.options().CacheDirs...)
	c, err := Dial(t.Context(), s.target(), o)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	if left, err := os.ReadDir(bad); err != nil || len(left) != 0 {
		t.Errorf("left in the unfit directory: %v, %v", left, err)
	}
}

func TestSSHBanner(t *testing.T) {
	dir := t.TempDir()
	banner := filepath.Join(dir, "banner")
	text := strings.Repeat("Authorised use only! Connection closed by policy; REMOTE users beware.\n", 20)
	if err := os.WriteFile(banner, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s := startSSHD(t, "Banner "+banner, "PrintMotd yes", "PrintLastLog yes")
	c, err := Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
}

func TestSSHHostKey(t *testing.T) {
	s := startSSHD(t)
	s.know(t, s.read(t, "user.pub"))
	_, err := Dial(t.Context(), s.target(), s.options())
	var hinted *dr.Hinted
	if !errors.As(err, &hinted) || errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %#v: want a lasting one with a hint", err)
	}
	has(t, err.Error(), "web1 (box)", "host key has changed")
	has(t, hinted.Hint, "ssh-keygen", "-R", fmt.Sprintf("[127.0.0.1]:%d", s.port), filepath.Join(s.dir, "known"))

	s.write(t, "known", "", 0o600)
	_, err = Dial(t.Context(), s.target(), s.options())
	if !errors.As(err, &hinted) || errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %#v: want a lasting one with a hint", err)
	}
	has(t, err.Error(), "host key is unknown")
	has(t, hinted.Hint, "ssh -F "+s.config+" box")
}

func TestSSHLoginRefused(t *testing.T) {
	s := startSSHD(t)
	s.write(t, "authorized", "", 0o600)
	_, err := Dial(t.Context(), s.target(), s.options())
	if err == nil || errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %v: want a lasting one", err)
	}
	has(t, err.Error(), "refuses the login (it takes: publickey)")
}

func TestSSHHostDown(t *testing.T) {
	s := startSSHD(t)
	s.stop()
	_, err := Dial(t.Context(), s.target(), s.options())
	if !errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %v: want a temporary one", err)
	}
	has(t, err.Error(), "refuses connections")
	target := s.target()
	target.Host = "no-such-host.invalid"
	if _, err = Dial(t.Context(), target, s.options()); err == nil {
		t.Fatal("no error")
	}
	if !strings.Contains(err.Error(), "no such host") && !strings.Contains(err.Error(), "name service") {
		t.Errorf("err %v", err)
	}
}

func TestSSHForcedCommand(t *testing.T) {
	s := startSSHD(t, `ForceCommand echo "Welcome to the menu"`)
	_, err := Dial(t.Context(), s.target(), s.options())
	if !errors.Is(err, errNoSign) {
		t.Fatalf("err %v", err)
	}
	has(t, err.Error(), "Welcome to the menu")
}

func TestSSHBadConfiguration(t *testing.T) {
	s := startSSHD(t)
	s.write(t, "ssh_config", "Host box\n NoSuchOption yes\n", 0o600)
	_, err := Dial(t.Context(), s.target(), s.options())
	if err == nil || errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %v: want a lasting one", err)
	}
	has(t, err.Error(), "read ssh configuration", "ssh_config", "line 2")
}

// TestSSHCut kills the server's end of a session in the middle of it.
func TestSSHCut(t *testing.T) {
	s := startSSHD(t)
	c, err := Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	for _, pid := range children(t, s.cmd.Process.Pid) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	<-c.Done()
	err = c.Explain(c.Conn().Call(t.Context(), "ping", &agentpb.Empty{}, &agentpb.Empty{}))
	if !errors.Is(err, dr.ErrTemporary) {
		t.Errorf("err %v: want a temporary one", err)
	}
	has(t, err.Error(), "connection was cut")
}

// TestSSHAgentGoesWithUs checks that nothing stays at the host when ssh is killed.
func TestSSHAgentGoesWithUs(t *testing.T) {
	s := startSSHD(t)
	s.agent = theBinary
	c, err := Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	agents := running(t, c.AgentPath())
	if len(agents) != 1 {
		t.Fatalf("agents %v, want one", agents)
	}
	c.proc.signal(syscall.SIGKILL)
	deadline := time.Now().Add(10 * time.Second)
	for len(running(t, c.AgentPath())) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the agent is still there")
		}
		time.Sleep(20 * time.Millisecond)
	}
	mustClose(t, c)
}

func TestSSHDialEndsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a server that never says a word
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("no ssh here")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	target := Target{Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port, SSHConfig: "none"}
	begun := time.Now()
	_, err = Dial(ctx, target, Options{Binary: theBinary})
	if err == nil || time.Since(begun) > 5*time.Second {
		t.Errorf("err %v after %v", err, time.Since(begun))
	}
}

func TestSSHRemove(t *testing.T) {
	s := startSSHD(t)
	c, err := Dial(t.Context(), s.target(), s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	if err := Remove(t.Context(), s.target(), s.options()); err != nil { // while it runs
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Dir(c.AgentPath())); err == nil {
		t.Error("the cache directory is still there")
	}
	if _, err := c.Measure(t.Context(), 1); err != nil {
		t.Errorf("the running agent was harmed: %v", err)
	}
}

// children lists the processes whose parent is pid.
func children(t *testing.T, pid int) []int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Skip("the kernel does not list children:", err)
	}
	var out []int
	for _, f := range strings.Fields(string(b)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, n)
	}
	return out
}

// running lists the processes that execute the file.
func running(t *testing.T, file string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && target == file {
			out = append(out, l)
		}
	}
	return out
}
