package remote

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// shells are login shells a host may have, and sh as those that run our script.
var shells = []string{"sh", "dash", "bash", "busybox sh", "zsh", "ksh", "mksh", "fish", "tcsh", "csh"}

func TestDialThroughEveryLoginShell(t *testing.T) {
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			name, _, _ := strings.Cut(shell, " ")
			if _, err := exec.LookPath(name); err != nil {
				t.Skip("no", name, "here")
			}
			h := newHost(t, shell, "")
			fresh, err := h.dial(t)
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, fresh)
			cached, err := h.dial(t)
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, cached)
			if fresh.Installed() == 0 || cached.Installed() != 0 {
				t.Errorf("sent %d bytes, then %d; want some, then none", fresh.Installed(), cached.Installed())
			}
			if dir := filepath.Dir(cached.AgentPath()); dir != h.cache {
				t.Errorf("agent is in %s, want %s", dir, h.cache)
			}
		})
	}
}

// TestScriptUnderEveryShell runs the second script itself in other shells than sh.
func TestScriptUnderEveryShell(t *testing.T) {
	for _, shell := range []string{"dash", "bash --posix", "busybox sh", "ksh", "mksh", "zsh --emulate sh"} {
		t.Run(shell, func(t *testing.T) {
			name, _, _ := strings.Cut(shell, " ")
			if _, err := exec.LookPath(name); err != nil {
				t.Skip("no", name, "here")
			}
			h := newHost(t, "sh", "")
			h.program(t, "sh", `exec `+shell+` "$@"`)
			for range 2 {
				c, err := h.dial(t)
				if err != nil {
					t.Fatal(err)
				}
				mustClose(t, c)
			}
		})
	}
}

func TestDialReadsOverNoise(t *testing.T) {
	h := newHost(t, "sh", `echo "Welcome"; printf "no newline here: "; head -c 300000 /dev/zero | tr "\0" x; echo oops >&2`)
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
}

func TestDialGivesUpOnAFlood(t *testing.T) {
	h := newHost(t, "sh", "yes")
	_, err := h.dial(t)
	if !errors.Is(err, errNoise) {
		t.Errorf("err %v, want %v", err, errNoise)
	}
}

func TestDialReplacesAChangedAgent(t *testing.T) {
	h := newHost(t, "sh", "")
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	f, err := os.OpenFile(c.AgentPath(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("evil"), 4096); err != nil {
		t.Fatal(err)
	}
	f.Close()
	again, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, again)
	if again.Installed() == 0 {
		t.Error("a changed agent was started")
	}
}

func TestDialWithEachCodec(t *testing.T) {
	h := newHost(t, "sh", "")
	// A PATH without any decompressor: links to what the script needs.
	tools := t.TempDir()
	for _, name := range []string{"sh", "id", "uname", "sha256sum", "mkdir", "chmod", "rm", "rmdir", "df", "head", "wc", "mv", "find", "touch"} {
		p, err := exec.LookPath(name)
		if err != nil {
			t.Skip("no", name, "here")
		}
		if err := os.Symlink(p, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	sizes := map[string]int{}
	for _, codec := range []string{"none", "gzip", "zstd"} {
		p, err := exec.LookPath(codec)
		if err != nil && codec != "none" {
			t.Log("no", codec, "here")
			continue
		}
		if err == nil {
			if err := os.Symlink(p, filepath.Join(tools, codec)); err != nil {
				t.Fatal(err)
			}
		}
		o := h.options()
		o.CacheDirs = []string{filepath.Join(h.cache, codec)}
		sizes[codec] = dialWithPath(t, o, tools)
	}
	if sizes["gzip"] >= sizes["none"] || sizes["zstd"] >= sizes["gzip"] && sizes["zstd"] > 0 {
		t.Errorf("sizes %v: the codec does not follow what the host has", sizes)
	}
}

// dialWithPath runs the script with path as its whole PATH.
func dialWithPath(t *testing.T, o Options, path string) int {
	t.Helper()
	h := newHost(t, "sh", "")
	script, err := os.ReadFile(h.ssh)
	if err != nil {
		t.Fatal(err)
	}
	// The script appends the usual places; a read-only PATH stays as it is.
	s := strings.Replace(string(script), "\nexec sh -c \"$last\"",
		"\nlast=$(printf %s \"$last\" | sed \"s,PATH=.[$]PATH:[^ ]*,PATH="+path+",\")\nPATH="+path+"\nexec sh -c \"$last\"", 1)
	if err := os.WriteFile(h.ssh, []byte(s), 0o755); err != nil {
		t.Fatal(err)
	}
	o.SSH = h.ssh
	c, err := Dial(t.Context(), Target{Host: "h"}, o)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	return c.Installed()
}

func TestDialRefusals(t *testing.T) {
	notRoot := func(t *testing.T, h *host) { h.program(t, "id", "echo 1000") }
	tests := []struct {
		name  string
		setup func(t *testing.T, h *host)
		want  []string
		hint  string
	}{
		{"wrong machine", func(t *testing.T, h *host) { h.program(t, "uname", `[ "$1" = -s ] && echo Linux || echo sparc64`) },
			[]string{"Linux on sparc64"}, "built for that system"},
		{"wrong system", func(t *testing.T, h *host) { h.program(t, "uname", `[ "$1" = -s ] && echo SunOS || echo x86_64`) },
			[]string{"SunOS on x86_64"}, "built for that system"},
		{"sudo asks", func(t *testing.T, h *host) {
			notRoot(t, h)
			h.program(t, "sudo", `echo "sudo: a password is required" >&2; exit 1`)
		}, []string{"sudo asks for a password"}, "NOPASSWD"},
		{"sudo wants a tty", func(t *testing.T, h *host) {
			notRoot(t, h)
			h.program(t, "sudo", `echo "sudo: sorry, you must have a tty to run sudo" >&2; exit 1`)
		}, []string{"tty"}, "requiretty"},
		{"not a sudoer", func(t *testing.T, h *host) {
			notRoot(t, h)
			h.program(t, "sudo", `echo "joe is not in the sudoers file." >&2; echo "second line" >&2; exit 1`)
		}, []string{"joe is not in the sudoers file. second line"}, "log in as root"},
		{"full disk", func(t *testing.T, h *host) {
			h.program(t, "df", `echo "Filesystem 1024-blocks Used Available Capacity Mounted on"; echo "/dev/sda1 1000 999 1 99% /"`)
		}, []string{"KiB free"}, "free some space"},
		{"broken upload", func(t *testing.T, h *host) { h.program(t, "head", `exit 0`) },
			[]string{"0 bytes arrived"}, ""},
		{"disk fills", func(t *testing.T, h *host) {
			h.program(t, "head", `echo "head: write error: No space left on device" >&2; exit 1`)
		}, []string{"disk at the host is full"}, "free some space"},
		{"policy", func(t *testing.T, h *host) {
			h.program(t, "chmod", `case "$2" in */new-*) exec /bin/chmod 600 "$2";; *) exec /bin/chmod "$@";; esac`)
		}, []string{"does not let the agent run", "Permission denied"}, "SELinux"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, "sh", "")
			tt.setup(t, h)
			c, err := h.dial(t)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			has(t, err.Error(), append(tt.want, "connect to web1 (10.9.8.7): ")...)
			var hinted *dr.Hinted
			if tt.hint != "" && (!errors.As(err, &hinted) || !strings.Contains(hinted.Hint, tt.hint)) {
				t.Errorf("no hint with %q in %#v", tt.hint, err)
			}
			if temp := errors.Is(err, dr.ErrTemporary); temp != (tt.name == "broken upload") {
				t.Errorf("temporary: %v", temp)
			}
		})
	}
}

func TestDialThroughSudo(t *testing.T) {
	h := newHost(t, "sh", "")
	h.program(t, "id", `[ -e `+h.home+`/root ] && echo 0 || echo 1000`)
	h.program(t, "sudo", `[ "$1" = -n ] || exit 1; shift; [ "$3" = "exit 0" ] || touch `+h.home+`/root; exec "$@"`)
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	if _, err := os.Stat(h.home + "/root"); err != nil {
		t.Error("the script did not run through sudo")
	}
}

func TestDialPlainNeedsNoSudo(t *testing.T) {
	h := newHost(t, "sh", "")
	h.program(t, "id", "echo 1000")
	h.program(t, "sudo", "exit 1")
	c, err := Dial(t.Context(), Target{Host: "h", Plain: true}, h.options())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
}

func TestDialSkipsUnfitDirectories(t *testing.T) {
	h := newHost(t, "sh", "")
	base := t.TempDir()
	good := filepath.Join(base, "good")
	link := filepath.Join(base, "link")
	file := filepath.Join(base, "file")
	if err := os.Symlink(base, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dirs := []string{"/proc/leeward", link, file + "/x"}
	if os.Getuid() == 0 {
		alien := filepath.Join(base, "alien")
		if err := os.Mkdir(alien, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(alien, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, alien)
	}
	o := h.options()
	o.CacheDirs = dirs
	_, err := Dial(t.Context(), Target{Host: "h"}, o)
	if err == nil {
		t.Fatal("an unfit directory was used")
	}
	has(t, err.Error(), "/proc/leeward cannot be made", link+" is a symbolic link")
	if os.Getuid() == 0 {
		has(t, err.Error(), "alien belongs to somebody else")
	}
	o.CacheDirs = append(dirs, good)
	c, err := Dial(t.Context(), Target{Host: "h"}, o)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	if filepath.Dir(c.AgentPath()) != good {
		t.Errorf("agent is at %s, want it in %s", c.AgentPath(), good)
	}
}

func TestDialRefusesAnotherVersion(t *testing.T) {
	h := newHost(t, "sh", "")
	for _, other := range []*agentpb.Hello{
		{Protocol: agentpb.Protocol, Version: "another"},
		{Protocol: agentpb.Protocol + 1, Version: testVersion},
	} {
		o := h.options()
		o.Self = other
		c, err := Dial(t.Context(), Target{Host: "h"}, o)
		if err == nil {
			c.Close()
			t.Fatalf("%v was accepted", other)
		}
		var hinted *dr.Hinted
		if !errors.As(err, &hinted) || errors.Is(err, dr.ErrTemporary) {
			t.Errorf("err %#v: want a lasting one with a hint", err)
		}
	}
}

func TestDialSaysWhatANoLoginSays(t *testing.T) {
	h := newHost(t, "sh", `echo "This account is currently not available."; exit 1`)
	_, err := h.dial(t)
	if !errors.Is(err, errNoSign) {
		t.Fatalf("err %v", err)
	}
	has(t, err.Error(), "This account is currently not available.")
}

func TestDialTimesOut(t *testing.T) {
	h := newHost(t, "sh", "exec sleep 60")
	o := h.options()
	o.Timeout = 200 * time.Millisecond
	begun := time.Now()
	_, err := Dial(t.Context(), Target{Host: "h"}, o)
	if !errors.Is(err, dr.ErrTemporary) || time.Since(begun) > 10*time.Second {
		t.Errorf("err %v after %v", err, time.Since(begun))
	}
}

func TestExplainAgentsDeath(t *testing.T) {
	h := newHost(t, "sh", "")
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	err = c.Explain(c.Conn().Call(t.Context(), "die", &agentpb.Empty{}, &agentpb.Empty{}))
	if !errors.Is(err, dr.ErrTemporary) {
		t.Fatalf("err %v is not temporary", err)
	}
	has(t, err.Error(), "status 2", "panic: something broke")
}

func TestExplainLeavesOtherErrors(t *testing.T) {
	h := newHost(t, "sh", "")
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, c)
	call := c.Conn().Call(t.Context(), "nonsense", &agentpb.Empty{}, &agentpb.Empty{})
	if got := c.Explain(call); got != call || got == nil {
		t.Errorf("got %v, want %v as it is", got, call)
	}
}

func TestRemoveLeavesNoTrace(t *testing.T) {
	h := newHost(t, "sh", "")
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	for range 2 { // the second finds nothing and is content
		if err := Remove(t.Context(), Target{Host: "h"}, h.options()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(h.cache); err == nil {
			t.Error("the cache directory is still there")
		}
	}
	if err := os.MkdirAll(h.cache+"/mine", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(t.Context(), Target{Host: "h"}, h.options()); err == nil {
		t.Error("no error though something else is in the directory")
	}
	if _, err := os.Lstat(h.cache + "/mine"); err != nil {
		t.Error("what is not ours was removed")
	}
}

func TestInstallLeavesNoOtherFiles(t *testing.T) {
	h := newHost(t, "sh", "")
	c, err := h.dial(t)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	left, err := os.ReadDir(h.cache)
	if err != nil || len(left) != 1 || left[0].Name() != filepath.Base(c.AgentPath()) {
		t.Errorf("in the cache: %v, %v", left, err)
	}
	if info, err := os.Stat(h.cache); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the cache: %v, %v", info.Mode(), err)
	}
}
