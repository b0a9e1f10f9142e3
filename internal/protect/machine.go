package protect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/mountns"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// machine is where one end of a database has its server: this machine, or one reached
// by ssh.
type machine struct {
	at    *remote.Target // nil: this machine
	owner string         // account of the server's files; empty: as we are
}

// machineOf is where a server of a database is.
func machineOf(s *config.DatabaseServer) machine {
	m := machine{owner: s.Owner}
	if s.Host != "" {
		at := SSHTarget("", s.Host, s.SSH)
		m.at = &at
	}
	return m
}

// end is what the engine's driver is told of an end.
func (m machine) end(o engine.Options, s *config.DatabaseServer) engine.PhysicalEnd {
	e := engine.PhysicalEnd{Options: o, Address: s.Address, Data: s.Data, Tools: s.Tools, Run: m.asOwner}
	e.Keep = func(ctx context.Context, path string, content []byte) error {
		if content == nil {
			return m.run(ctx, nil, io.Discard, "rm", "-f", path)
		}
		return m.run(ctx, bytes.NewReader(content), io.Discard, append(m.install("-m", "600"), "/dev/stdin", path)...)
	}
	e.MakeData = func(ctx context.Context) error {
		return m.run(ctx, nil, io.Discard, append(m.install("-d", "-m", "700"), s.Data)...)
	}
	if len(s.Start) > 0 {
		e.Start = func(ctx context.Context) error { return m.service(ctx, s.Start) }
		e.Stop = func(ctx context.Context) error { return m.service(ctx, s.Stop) }
	}
	return e
}

// install is a command that makes files and directories for the owner.
func (m machine) install(options ...string) []string {
	argv := append([]string{"install"}, options...)
	if m.owner != "" {
		argv = append(argv, "-o", m.owner)
	}
	return argv
}

// become runs the rest of its words as the account of the first. What it runs ends with
// us: a base backup that went on alone would write into what is made anew.
const become = `u=$1; shift; cd /; if [ "$(id -un)" = "$u" ]; then exec "$@"; fi; exec setpriv --pdeathsig TERM --reuid="$(id -u "$u")" --regid="$(id -g "$u")" --init-groups -- "$@"`

func (m machine) asOwner(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	if m.owner != "" {
		argv = append([]string{"sh", "-c", become, "sh", m.owner}, argv...)
	}
	return m.run(ctx, stdin, stdout, argv...)
}

// service runs a command that may leave a server running, which must not hold on to our
// pipes.
func (m machine) service(ctx context.Context, argv []string) error {
	said, err := m.quiet(ctx, argv)
	if err != nil {
		return fmt.Errorf("%s: %w%s", strings.Join(argv, " "), err, said)
	}
	return nil
}

// quiet runs a command with a file as its output, and returns the end of that.
func (m machine) quiet(ctx context.Context, argv []string) (string, error) {
	const script = `f=$(mktemp) || exit 1; "$@" >"$f" 2>&1 </dev/null; r=$?; test $r = 0 || tail -c 500 "$f"; rm -f "$f"; exit $r`
	var out bytes.Buffer
	err := m.run(ctx, nil, &out, append([]string{"sh", "-c", script, "sh"}, argv...)...)
	if said := strings.TrimSpace(out.String()); said != "" {
		return ": " + said, err
	}
	return "", err
}

// run runs a command as we are there: root, as a rule.
func (m machine) run(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	if m.at != nil {
		return remote.Stream(ctx, *m.at, remote.Options{}, line(argv), stdin, stdout)
	}
	// Out of the mount namespace of a pass: a server that is started stays when it goes.
	if mountns.Entered() {
		argv = append([]string{"nsenter", "--mount=/proc/" + strconv.Itoa(max(1, os.Getppid())) + "/ns/mnt", "--"}, argv...)
	}
	// The kernel takes the end of the starting thread for the death of the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", cleanEnvironment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	var said lastBytes
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &said
	err := cmd.Run()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		text := strings.TrimSpace(string(said))
		if text == "" {
			return err
		}
		return fmt.Errorf("%w: %s", err, text)
	}
	return nil
}

// cleanEnvironment is that of a daemon: nothing of ours.
func cleanEnvironment() []string {
	home := "/"
	if u, err := user.Current(); err == nil {
		home = u.HomeDir
	}
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=" + home}
}

// line spells words for a POSIX shell.
func line(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(out, " ")
}

// lastBytes keeps the end of what is written to it.
type lastBytes []byte

const saidMost = 600

func (l *lastBytes) Write(b []byte) (int, error) {
	*l = append(*l, b...)
	if over := len(*l) - saidMost; over > 0 {
		*l = (*l)[over:]
	}
	return len(b), nil
}
