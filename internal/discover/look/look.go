// Package look finds out what a host is, at the host: the agent runs it. It reads files
// and asks tools of the system that have a form made for machines; it writes nothing,
// stops nothing and takes seconds. What cannot be had is listed as unknown, with the
// reason, and never guessed.
package look

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// maxWatch bounds how long a host is watched.
const maxWatch = time.Hour

// Host describes this host, watching it for the given time. It calls pace before each piece
// of work, so that somebody can hold it back. The only error is ctx's.
func Host(ctx context.Context, watch time.Duration, pace func(context.Context)) (*inventory.Server, error) {
	l := &looker{root: "/", pace: pace, run: run, facts: agent.CollectFacts, watch: min(max(watch, 0), maxWatch)}
	return l.look(ctx)
}

// looker looks at the host below root, which is / but for tests.
type looker struct {
	pace  func(context.Context) // nil: as fast as it goes
	root  string
	run   func(ctx context.Context, name string, args ...string) ([]byte, error)
	facts func(ctx context.Context) (*agentpb.Facts, error)
	watch time.Duration

	inv      *inventory.Server
	f        *agentpb.Facts
	procs    []process
	byInode  map[uint64]int // index of procs
	owned    map[string]string
	disks    func() (int64, bool) // bytes written so far
	scanned  time.Time            // when processes were last listed
	scanning time.Duration        // how long that took
}

// look takes its steps in the order in which they depend on each other.
func (l *looker) look(ctx context.Context) (*inventory.Server, error) {
	begin := time.Now()
	l.inv = &inventory.Server{Version: inventory.Version, At: begin.UTC()}
	l.inv.Storage.WrittenPerHour = -1
	if l.root == "/" && os.Geteuid() != 0 {
		l.unknown("other users' processes and files that only root reads", "the agent is not root")
	}
	f, err := l.facts(ctx)
	if err != nil {
		return nil, err
	}
	l.f = f
	l.fromFacts()
	for _, step := range []func(context.Context){
		l.system, l.initramfs, l.storage, l.network, l.users, l.packages, l.processes, l.units, l.timers, l.cron,
		l.containers, l.listening, l.watching, l.databases, l.sites, l.certificates, l.mail, l.licences,
	} {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l.rest(ctx)
		step(ctx)
	}
	l.inv.Took = time.Since(begin)
	return l.inv, ctx.Err()
}

// rest waits where this host has given enough for now.
func (l *looker) rest(ctx context.Context) {
	if l.pace != nil {
		l.pace(ctx)
	}
}

func (l *looker) unknown(what string, why any) {
	l.inv.Unknown = append(l.inv.Unknown, inventory.Unknown{What: what, Why: fmt.Sprint(why)})
}

func (l *looker) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}

const (
	maxConfig  = 1 << 20  // of a configuration file
	maxCatalog = 64 << 20 // of a catalog of packages
)

// errNotPlain is of what is neither a file nor a link to one.
var errNotPlain = errors.New("it is no plain file")

// read returns what a plain file holds, up to limit bytes; a pipe in its place keeps
// nobody waiting.
func read(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, errNotPlain
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// text is what a small file holds, empty where it cannot be read.
func (l *looker) text(elem ...string) string {
	b, err := read(l.path(elem...), maxConfig)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// config reads a file that may be missing; anything else that keeps it from being read
// is told.
func (l *looker) config(what, path string) ([]byte, bool) {
	b, err := read(l.path(path), maxConfig)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, errNotPlain) {
		l.unknown(what, err)
	}
	return b, err == nil
}

func (l *looker) exists(elem ...string) bool {
	_, err := os.Lstat(l.path(elem...))
	return err == nil
}

// glob lists what matches below root, as paths of the host, sorted.
func (l *looker) glob(patterns ...string) (out []string) {
	for _, p := range patterns {
		found, _ := filepath.Glob(l.path(p)) // the patterns are well-formed, or match nothing
		for _, f := range found {
			out = append(out, l.host(f))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// host turns a path below root into the host's own.
func (l *looker) host(path string) string {
	if l.root == "/" {
		return path
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(path, l.root), "/")
}

// lines are the lines of b without blanks around them and without comments that fill a
// whole line; the number is that in the file, from 1.
func lines(b []byte, yield func(n int, line string)) {
	n := 0
	for line := range strings.SplitSeq(string(b), "\n") {
		n++
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			yield(n, line)
		}
	}
}

// have reports whether a program can be asked.
func have(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// toolTime bounds how long a tool may take to answer.
const toolTime = time.Minute

// run returns what a program writes. sbin is where ssh users often do not look.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	path, err := find(name)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_PAGER=", "HOME=/nonexistent"}
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("run %s: %w", name, err)
	}
	return out, nil
}

// find looks for a program where the system has its own.
func find(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/bin"} {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("find %s: it is not installed", name)
}
