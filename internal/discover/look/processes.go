package look

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/procfs"
)

// process is a running program.
type process struct {
	pid     int
	comm    string
	exe     string
	args    []string
	unit    string // by its control group; empty: unknown
	sockets []uint64
}

// maxProcesses bounds how many are looked at.
const maxProcesses = 50_000

// processes reads the table of processes, without kernel threads and without this one.
func (l *looker) processes(ctx context.Context) {
	begin := time.Now()
	defer func() { l.scanned, l.scanning = time.Now(), time.Since(begin) }()
	l.procs, l.byInode = nil, map[uint64]int{}
	entries, err := os.ReadDir(l.path("proc"))
	if err != nil {
		l.unknown("processes", err)
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() && l.root == "/" {
			continue
		}
		if ctx.Err() != nil || len(l.procs) >= maxProcesses {
			break
		}
		l.rest(ctx)
		if p, ok := l.process(pid); ok {
			l.procs = append(l.procs, p)
		}
	}
	for i, p := range l.procs {
		for _, inode := range p.sockets {
			if _, seen := l.byInode[inode]; !seen { // a parent has a lower number than its children, mostly
				l.byInode[inode] = i
			}
		}
	}
}

func (l *looker) process(pid int) (p process, ok bool) {
	dir := filepath.Join("proc", strconv.Itoa(pid))
	cmdline, err := read(l.path(dir, "cmdline"), maxConfig)
	if err != nil || len(cmdline) == 0 {
		return p, false
	}
	p = process{pid: pid, comm: l.text(dir, "comm"), args: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")}
	if exe, err := os.Readlink(l.path(dir, "exe")); err == nil {
		p.exe = strings.TrimSuffix(exe, " (deleted)")
	}
	p.unit = unitOf(l.text(dir, "cgroup"))
	p.sockets = l.socketsOf(dir)
	return p, true
}

func (l *looker) socketsOf(dir string) (out []uint64) {
	fds, err := os.ReadDir(l.path(dir, "fd"))
	if err != nil {
		return nil // not ours to see: told once, as not being root
	}
	for _, fd := range fds {
		target, err := os.Readlink(l.path(dir, "fd", fd.Name()))
		if n, ok := procfs.SocketInode(target); ok && err == nil {
			out = append(out, n)
		}
	}
	return out
}

// unitOf finds the systemd unit in the text of /proc/PID/cgroup: the innermost service,
// or the container's scope.
func unitOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 || f[1] != "name=systemd" && f[1] != "" {
			continue
		}
		parts := strings.Split(f[2], "/")
		for i := len(parts) - 1; i >= 0; i-- {
			if strings.HasSuffix(parts[i], ".service") && !strings.HasPrefix(parts[i], "user@") {
				return parts[i]
			}
			if strings.HasPrefix(parts[i], "docker-") || strings.HasPrefix(parts[i], "libpod-") {
				return parts[i]
			}
		}
	}
	return ""
}
