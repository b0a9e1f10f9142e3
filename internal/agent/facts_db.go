package agent

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
)

// process is a running program.
type process struct {
	pid, ppid int
	uid       string
	comm      string
	args      []string
	sockets   []uint64 // inodes
}

// processes reads the table of processes, without kernel threads.
func (c *collector) processes(ctx context.Context) {
	entries, err := os.ReadDir(c.path("proc"))
	if err != nil {
		c.warn("processes: %v", err)
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || ctx.Err() != nil {
			continue
		}
		if p, ok := c.process(pid); ok {
			c.procs = append(c.procs, p)
		}
	}
	slices.SortFunc(c.procs, func(a, b process) int { return cmp.Compare(a.pid, b.pid) })
}

// process reads one. ok is false for kernel threads and for those that just ended.
func (c *collector) process(pid int) (p process, ok bool) {
	dir := filepath.Join("proc", strconv.Itoa(pid))
	cmdline, err := c.read(dir, "cmdline")
	status, err2 := c.read(dir, "status")
	if err != nil || err2 != nil || len(cmdline) == 0 {
		return p, false
	}
	s := procfs.ParseColons(status)
	p = process{pid: pid, comm: c.text(dir, "comm"), args: strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")}
	p.ppid, _ = strconv.Atoi(s["PPid"]) // absent: no parent we know
	if f := strings.Fields(s["Uid"]); len(f) > 0 {
		p.uid = f[0]
	}
	p.sockets = c.socketsOf(dir)
	return p, true
}

// socketsOf lists the sockets a process holds; none where we may not look.
func (c *collector) socketsOf(dir string) []uint64 {
	fds, err := os.ReadDir(c.path(dir, "fd"))
	if err != nil {
		return nil
	}
	var out []uint64
	for _, fd := range fds {
		target, err := os.Readlink(c.path(dir, "fd", fd.Name()))
		if n, ok := procfs.SocketInode(target); ok && err == nil {
			out = append(out, n)
		}
	}
	return out
}

// An engine is a kind of database, found by its running server.
type engine struct {
	name    string
	comms   []string // names of the server's process
	dirFlag []string // arguments that name the data directory
	marker  string   // file the server keeps open in its data directory; empty: it works in the directory
	child   bool     // of a parent and a child of this name, the child is the server
	fill    func(c *collector, d *agentpb.Database, dir string)
}

var engines = []engine{
	{"postgres", []string{"postgres", "postmaster"}, []string{"-D"}, "", false, (*collector).fillPostgres},
	{"mariadb", []string{"mariadbd"}, []string{"--datadir"}, "", false, (*collector).fillMySQL},
	{"mysql", []string{"mysqld"}, []string{"--datadir"}, "", false, (*collector).fillMySQL},
	{"mssql", []string{"sqlservr"}, nil, "master.mdf", true, nil},
	{"mongodb", []string{"mongod"}, []string{"--dbpath"}, "WiredTiger.lock", false, nil},
	{"redis", []string{"redis-server", "valkey-server"}, nil, "", false, nil},
}

// databases finds the servers of databases among the processes. Of a process and
// its children of the same name only one is the server, the others help it.
func (c *collector) databases(context.Context) {
	byPID := map[int]process{}
	for _, p := range c.procs {
		byPID[p.pid] = p
	}
	users := c.users()
	for _, p := range c.procs {
		for _, e := range engines {
			if !slices.Contains(e.comms, p.comm) {
				continue
			}
			if isChild := slices.Contains(e.comms, byPID[p.ppid].comm); isChild == e.child {
				c.database(e, p, cmp.Or(users[p.uid], p.uid))
			}
		}
	}
}

// database describes one server.
func (c *collector) database(e engine, p process, user string) {
	d := &agentpb.Database{Engine: e.name, Pid: int32(p.pid), User: user}
	dir := c.dataDir(e, p)
	proc := filepath.Join("proc", strconv.Itoa(p.pid))
	if dir == "" {
		c.warn("%s (process %d): its data directory is not found", e.name, p.pid)
	} else {
		d.DataDir = dir
		if e.fill != nil {
			e.fill(c, d, filepath.Join(proc, "root", dir))
		}
		c.place(d, proc, dir)
	}
	d.Port = cmp.Or(d.Port, c.portOf(p))
	d.SocketDir = cmp.Or(d.SocketDir, c.socketDirOf(p))
	c.facts.Databases = append(c.facts.Databases, d)
}

// dataDir is where a server keeps its data, as the server sees it: what it was told
// on the command line if that is a full path, the directory of the file it keeps
// open, or the one it works in.
func (c *collector) dataDir(e engine, p process) string {
	for _, flag := range e.dirFlag {
		if dir := argument(p.args, flag); strings.HasPrefix(dir, "/") {
			return filepath.Clean(dir)
		}
	}
	proc := filepath.Join("proc", strconv.Itoa(p.pid))
	if e.marker != "" {
		return c.dirOfOpen(proc, e.marker)
	}
	cwd, err := os.Readlink(c.path(proc, "cwd"))
	if err != nil || cwd == "/" || strings.HasSuffix(cwd, " (deleted)") {
		return ""
	}
	return cwd
}

// argument is the value of a flag on a command line: --flag=x, --flag x or -fx.
func argument(args []string, flag string) string {
	for i, arg := range args {
		value, ok := strings.CutPrefix(arg, flag)
		switch {
		case !ok:
		case value == "" && i+1 < len(args):
			return args[i+1]
		case strings.HasPrefix(value, "="):
			return value[1:]
		case len(flag) == 2:
			return value
		}
	}
	return ""
}

// dirOfOpen is the directory of the file of the given name that a process has open.
func (c *collector) dirOfOpen(proc, name string) string {
	fds, err := os.ReadDir(c.path(proc, "fd"))
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(c.path(proc, "fd", fd.Name()))
		if err == nil && filepath.Base(target) == name {
			return filepath.Dir(target)
		}
	}
	return ""
}

// place finds the filesystem that holds dir, which the process sees through mounts
// of its own, and turns DataDir into the path at which the host itself has it.
func (c *collector) place(d *agentpb.Database, proc, dir string) {
	data, err := c.read(proc, "mountinfo")
	if err != nil {
		data = nil // not ours to read: the host's own mounts are the best guess
	}
	mounts, _ := procfs.ParseMountinfo(data)
	if len(mounts) == 0 {
		d.Filesystem = c.holder(dir)
		return
	}
	m, rest := covering(mounts, c.resolved(proc, dir))
	for _, f := range c.facts.Filesystems {
		if groupOf(m) != groupOf(procfs.Mount{Type: f.Type, Source: f.Device, Major: f.DevMajor, Minor: f.DevMinor}) {
			continue
		}
		d.Filesystem = f.MountPoint
		d.DataDir = hostPath(f, m, rest, dir)
		return
	}
	c.warn("%s: its data directory %s is on %s, which is not carried", d.Engine, dir, cmp.Or(m.Type, "an unknown filesystem"))
}

// resolved is dir with symbolic links followed, as seen by the process.
func (c *collector) resolved(proc, dir string) string {
	root := c.path(proc, "root")
	real, err := filepath.EvalSymlinks(filepath.Join(root, dir))
	if err != nil {
		return dir
	}
	base, err := filepath.EvalSymlinks(root)
	if err != nil {
		return dir
	}
	// An absolute link is followed from our root, not the process's: then the
	// plain name is as good as what we would get.
	for _, prefix := range []string{root, base} {
		if rest, ok := strings.CutPrefix(real, strings.TrimSuffix(prefix, "/")+"/"); ok {
			return "/" + rest
		}
	}
	return dir
}

// covering is the mount that shows path, and the rest of path below it. Of two at
// one place the later is on top.
func covering(mounts []procfs.Mount, path string) (best procfs.Mount, rest string) {
	for _, m := range mounts {
		point := strings.TrimSuffix(m.Point, "/")
		if (path == m.Point || strings.HasPrefix(path, point+"/")) && len(m.Point) >= len(best.Point) {
			best, rest = m, strings.TrimPrefix(path, point)
		}
	}
	return best, rest
}

// hostPath is where the host shows what m, a mount of filesystem f, shows as rest.
func hostPath(f *agentpb.Filesystem, m procfs.Mount, rest, fallback string) string {
	inside := filepath.Join(m.Root, rest)
	for _, hm := range f.Mounts {
		below, ok := strings.CutPrefix(inside, strings.TrimSuffix(hm.Root, "/"))
		if ok && (below == "" || below[0] == '/') {
			return filepath.Join(hm.MountPoint, below)
		}
	}
	return fallback
}

// holder is the carried filesystem whose mount point is the longest prefix of path.
func (c *collector) holder(path string) string {
	best, name := -1, ""
	for _, f := range c.facts.Filesystems {
		for _, m := range f.Mounts {
			point := strings.TrimSuffix(m.MountPoint, "/")
			if (path == m.MountPoint || strings.HasPrefix(path, point+"/")) && len(m.MountPoint) > best {
				best, name = len(m.MountPoint), f.MountPoint
			}
		}
	}
	return name
}

// fillPostgres reads what a cluster tells in its data directory.
func (c *collector) fillPostgres(d *agentpb.Database, dir string) {
	d.Version = c.text(dir, "PG_VERSION")
	d.Recovering = c.exists(dir, "standby.signal") || c.exists(dir, "recovery.signal") || c.exists(dir, "recovery.conf")
	pidFile, err := c.read(dir, "postmaster.pid")
	if err != nil {
		return
	}
	// Lines: process, data directory, start time, port, socket directory, address.
	lines := strings.Split(string(pidFile), "\n")
	if len(lines) < 5 {
		return
	}
	port, _ := strconv.ParseUint(strings.TrimSpace(lines[3]), 10, 16) // absent: found by the sockets
	d.Port, d.SocketDir = uint32(port), strings.TrimSpace(lines[4])
}

// fillMySQL reads the version that was last upgraded to; it also tells a MariaDB
// that still calls its program mysqld.
func (c *collector) fillMySQL(d *agentpb.Database, dir string) {
	for _, name := range []string{"mariadb_upgrade_info", "mysql_upgrade_info"} {
		if v := c.text(dir, name); v != "" {
			d.Version, _, _ = strings.Cut(v, "\n")
			if strings.Contains(v, "MariaDB") {
				d.Engine = "mariadb"
			}
			return
		}
	}
}

// portOf is the lowest TCP port a process listens at.
func (c *collector) portOf(p process) (port uint32) {
	for _, l := range c.listeners() {
		n := uint32(l.local.Port())
		if strings.HasPrefix(l.protocol, "tcp") && slices.Contains(p.sockets, l.inode) && (port == 0 || n < port) {
			port = n
		}
	}
	return port
}

// socketDirOf is the directory of the first unix socket a process listens at.
func (c *collector) socketDirOf(p process) string {
	data, err := c.read("proc/net/unix")
	if err != nil {
		return ""
	}
	sockets, _ := procfs.ParseUnix(data)
	for _, s := range sockets {
		if slices.Contains(p.sockets, s.Inode) {
			return filepath.Dir(s.Path)
		}
	}
	return ""
}

// users maps numbers to names of the local users.
func (c *collector) users() map[string]string {
	names := map[string]string{}
	data, err := c.read("etc/passwd")
	if err != nil {
		c.warn("users: %v", err)
		return names
	}
	s := bufio.NewScanner(bytes.NewReader(data))
	for s.Scan() {
		if f := strings.Split(s.Text(), ":"); len(f) > 2 && names[f[2]] == "" {
			names[f[2]] = f[0]
		}
	}
	return names
}
