package look

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/procfs"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

func mapKeys[K comparable, V any](m map[K]V) func(func(K) bool) { return maps.Keys(m) }

// tables are the kernel's tables of IP sockets.
var tables = []string{"tcp", "tcp6", "udp", "udp6"}

// socketTable reads one; false where it cannot be read.
func (l *looker) socketTable(name string) ([]procfs.Socket, bool) {
	b, err := read(l.path("proc/net", name), maxCatalog)
	if err != nil {
		return nil, false
	}
	sockets, _ := procfs.ParseSockets(b)
	return sockets, true
}

// listening lists the sockets that wait, with process, unit and package.
func (l *looker) listening(ctx context.Context) {
	seen := map[string]bool{}
	var programs []string
	for _, table := range tables {
		sockets, ok := l.socketTable(table)
		if !ok && table == "tcp" {
			l.unknown("listening sockets", "/proc/net/tcp cannot be read")
		}
		protocol := strings.TrimSuffix(table, "6")
		for _, s := range sockets {
			if waits := s.State == procfs.StateListen || protocol == "udp" && s.State == procfs.StateClose && s.Remote.Port() == 0; !waits {
				continue
			}
			x := inventory.Listener{Protocol: protocol, Address: s.Local.Addr().Unmap().String(), Port: int(s.Local.Port())}
			if key := x.Protocol + x.Address + "#" + strconv.Itoa(x.Port); seen[key] {
				continue
			} else {
				seen[key] = true
			}
			if i, ok := l.byInode[s.Inode]; ok {
				p := l.procs[i]
				x.Process, x.Program = p.comm, p.exe
				x.Unit, x.UnitBy = l.unitOfProcess(p)
				programs = append(programs, p.exe)
			}
			l.inv.Listening = append(l.inv.Listening, x)
		}
	}
	slices.Sort(programs)
	owners := l.owners(ctx, slices.Compact(programs))
	for i := range l.inv.Listening {
		l.inv.Listening[i].Package = owners[l.inv.Listening[i].Program]
	}
	slices.SortFunc(l.inv.Listening, func(a, b inventory.Listener) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), strings.Compare(a.Protocol, b.Protocol), strings.Compare(a.Address, b.Address))
	})
}

// unitOfProcess tells which unit a process is of: its control group says so, or, where
// no systemd has made one, its command line is that of one enabled unit alone.
func (l *looker) unitOfProcess(p process) (unit, by string) {
	if p.unit != "" {
		return p.unit, "cgroup"
	}
	if l.inv.System.Init == "systemd" && l.exists("run/systemd/system") {
		return "", ""
	}
	var found []string
	for _, u := range l.inv.Units {
		if sameCommand(u.Command, p) {
			found = append(found, u.Name)
		}
	}
	if len(found) == 1 {
		return found[0], "command"
	}
	return "", ""
}

// interpreters are programs whose name does not tell what runs.
var interpreters = []string{"sh", "bash", "dash", "python", "python2", "python3", "perl", "ruby", "node", "java", "php", "busybox", "env"}

// sameCommand reports whether a unit's command is what the process was started with: the
// same program, and for interpreters and shells all that follows as well.
func sameCommand(command string, p process) bool {
	f := strings.Fields(command)
	if len(f) == 0 {
		return false
	}
	base := filepath.Base(f[0])
	if slices.Contains(interpreters, strings.TrimRight(base, "0123456789.")) || slices.Contains(interpreters, base) {
		return slices.Equal(f[1:], p.args[1:])
	}
	if len(p.args) > 1 && filepath.Base(p.args[1]) == base && p.args[1] == f[0] {
		return true // a script, run by its interpreter
	}
	return f[0] == p.exe || "/usr"+f[0] == p.exe || f[0] == "/usr"+p.exe
}

// connections sums up what a watch sees.
type connections struct {
	strangers bool                                             // sockets were seen whose process is not known
	by        map[inventory.Connection]map[netip.AddrPort]bool // the caller's ends
	listen    map[string]bool                                  // protocol and port
	ours      map[string]bool                                  // local port and remote address of Leeward's own
}

// States of sockets that tell of a connection (include/net/tcp_states.h).
const (
	established = 1
	synSent     = 2
	finWait1    = 4
	finWait2    = 5
	timeWait    = 6
	closeWait   = 8
	lastAck     = 9
)

// sample takes in what there is now. Connections that just ended are still listed for a
// minute by the side that closed them, so that short ones are seen too.
func (l *looker) sample(c *connections) {
	c.strangers = false
	for _, table := range tables {
		sockets, _ := l.socketTable(table)
		protocol := strings.TrimSuffix(table, "6")
		for _, s := range sockets {
			switch s.State {
			case established, synSent, finWait1, finWait2, timeWait, closeWait, lastAck:
				c.add(l, protocol, s)
			}
		}
	}
}

// add takes in one socket.
func (c *connections) add(l *looker, protocol string, s procfs.Socket) {
	local, remote := s.Local.Addr().Unmap(), s.Remote.Addr().Unmap()
	if remote.IsLoopback() || remote.IsUnspecified() || remote == local || remote.IsMulticast() {
		return
	}
	k := inventory.Connection{Protocol: protocol, Local: local.String(), Remote: remote.String()}
	in := c.listen[protocol+strconv.Itoa(int(s.Local.Port()))]
	k.Out, k.Port = !in, int(s.Remote.Port())
	caller := s.Local
	if in {
		k.Port, caller = int(s.Local.Port()), s.Remote
		if c.ours[strconv.Itoa(k.Port)+" "+k.Remote] {
			return
		}
	} else if s.Local.Port() < s.Remote.Port() && s.Local.Port() < 1024 {
		// Who called is not known: what listened has gone. The lower port is the service's.
		k.Out, k.Port, caller, k.Inferred = false, int(s.Local.Port()), s.Remote, true
	}
	if i, ok := l.byInode[s.Inode]; ok && s.Inode != 0 {
		k.Process = l.procs[i].comm
		k.Unit, _ = l.unitOfProcess(l.procs[i])
	} else if s.Inode != 0 {
		c.strangers = true
	}
	if c.by[k] == nil {
		if len(c.by) >= maxConnections {
			return
		}
		c.by[k] = map[netip.AddrPort]bool{}
	}
	c.by[k][caller] = true
}

// maxConnections bounds how many kinds of connections are kept apart.
const maxConnections = 20_000

// Connections are sampled as often as these allow: many are over within milliseconds. share
// keeps the watch to a twentieth of a core, however many sockets or processes there are.
const (
	fastest = 50 * time.Millisecond
	slowest = 2 * time.Second
	share   = 20
)

// watching samples connections and disks for the time that was asked for.
func (l *looker) watching(ctx context.Context) {
	c := &connections{by: map[inventory.Connection]map[netip.AddrPort]bool{}, listen: map[string]bool{}, ours: l.ownSessions()}
	for _, x := range l.inv.Listening {
		c.listen[x.Protocol+strconv.Itoa(x.Port)] = true
	}
	begin := time.Now()
	before, ok := int64(0), false
	if l.disks != nil {
		before, ok = l.disks()
	}
	l.sample(c)
	for time.Since(begin) < l.watch {
		t := time.Now()
		l.sample(c)
		if c.strangers && time.Since(l.scanned) > max(fastest, share*l.scanning) {
			l.processes(ctx)
			l.sample(c)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(fastest, share*time.Since(t)), slowest)):
		}
	}
	l.inv.Watched = time.Since(begin)
	l.diskRate(before, ok, l.inv.Watched)
	l.inv.Connections = c.list()
}

// diskRate reckons what is written in an hour. Less than three seconds say nothing.
func (l *looker) diskRate(before int64, ok bool, over time.Duration) {
	switch {
	case !ok:
		l.unknown("rate of writing", "/proc/diskstats does not have the devices of the filesystems")
		return
	case over < 3*time.Second:
		l.unknown("rate of writing", "the host was not watched; give --watch some time")
		return
	}
	after, ok := l.disks()
	if !ok || after < before {
		l.unknown("rate of writing", "the counters of /proc/diskstats went backwards")
		return
	}
	l.inv.Storage.WrittenPerHour = int64(float64(after-before) * float64(time.Hour) / float64(over))
}

// list is everything seen, merged: what once had a process and once had none, because the
// connection was over, is one.
func (c *connections) list() (out []inventory.Connection) {
	named := map[inventory.Connection][]inventory.Connection{}
	bare := func(k inventory.Connection) inventory.Connection {
		k.Process, k.Unit = "", ""
		return k
	}
	for k := range c.by {
		if k.Process != "" {
			named[bare(k)] = append(named[bare(k)], k)
		}
	}
	for k, ends := range c.by {
		if with := named[k]; k.Process == "" && len(with) == 1 {
			maps.Copy(c.by[with[0]], ends)
			delete(c.by, k)
		}
	}
	for k, ends := range c.by {
		k.Count = len(ends)
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b inventory.Connection) int {
		return cmp.Or(strings.Compare(a.Remote, b.Remote), cmp.Compare(a.Port, b.Port), strings.Compare(a.Process, b.Process), strings.Compare(a.Local, b.Local))
	})
	return out
}

// ownSessions tells which connections are Leeward's own: those to the port and from the
// address by which the agent was reached, as SSH_CONNECTION of a parent has it (sudo takes
// it out of the agent's own environment).
func (l *looker) ownSessions() map[string]bool {
	out := map[string]bool{}
	if l.root != "/" {
		return out
	}
	pid := os.Getpid()
	for range 12 {
		dir := filepath.Join("proc", strconv.Itoa(pid))
		env, _ := read(l.path(dir, "environ"), maxConfig) // not ours: the next parent may be
		for v := range strings.SplitSeq(string(env), "\x00") {
			if s, ok := strings.CutPrefix(v, "SSH_CONNECTION="); ok {
				if f := strings.Fields(s); len(f) == 4 {
					out[f[3]+" "+f[0]] = true
					return out
				}
			}
		}
		status, err := read(l.path(dir, "status"), maxConfig)
		if err != nil {
			break
		}
		if pid, _ = strconv.Atoi(procfs.ParseColons(status)["PPid"]); pid <= 1 {
			break
		}
	}
	return out
}
