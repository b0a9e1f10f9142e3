// Package config is leeward.yaml as values: it parses the file and refuses
// what it does not understand, naming every problem at once with its line. It
// opens nothing but that file and reaches nobody.
package config

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// DefaultFile is read where no other file is named.
const DefaultFile = "leeward.yaml"

// maxFile bounds what is read; no estate written by hand is near it.
const maxFile = 4 << 20

// Estate is a whole leeward.yaml. Paths in it are absolute or relative to the
// working directory, never to the file. Nothing changes it after Load.
type Estate struct {
	File      string // where it was read
	Name      string
	Source    Source
	Target    Target
	Seeds     []string  // directories, disk images, old trees that may hold the same bytes
	Deadline  time.Time // zero if there is none
	Servers   []Server  // as in the file; there is a server or a database at least
	Databases []Database
	Groups    []Group
	Keep      Keep     // of recovery points, where a group does not say it
	Volatile  []string // patterns of what may differ at verify, beside those built in
	// Switchover is how to move to the target, and back.
	Switchover Switchover
	Contacts   []Contact // whom the documentation names
}

// Source is the site that is protected.
type Source struct {
	Name   string
	SSH    SSH
	Limits Limits
}

// SSH says how to reach a host where ssh_config does not say it.
type SSH struct {
	User    string
	Port    int      // 0: as ssh_config has it
	Config  string   // file in place of ~/.ssh/config
	Options []string // further arguments of ssh, each one word
	// Moved is the address that the host has now, where that is not the one ssh finds.
	Moved   netip.Addr
	Streams int // connections a pass may use at once; 0: Leeward decides
	Sudo    Sudo
}

// Arguments are the further arguments of ssh for a host. What ssh knows of it by its name,
// user and keys, holds where it has moved as well.
func (s SSH) Arguments(host string) []string {
	if !s.Moved.IsValid() {
		return s.Options
	}
	return append([]string{"-o", "HostName=" + s.Moved.String(), "-o", "HostKeyAlias=" + host}, s.Options...)
}

// Sudo says whether the agent becomes root where the user is not.
type Sudo string

// Auto uses sudo where it is needed. Never stays the user, who then reads only
// what that user may read.
const (
	SudoAuto  Sudo = "auto"
	SudoNever Sudo = "never"
)

// Target is the site that keeps the replicas.
type Target struct {
	Name        string
	Store       string
	Hypervisor  string // qemu or libvirt:URI
	Accelerator string // auto, kvm or tcg
	Network     []NetworkMap
	Bridge      string // that machines are attached to when they are primary here
}

// NetworkMap says which network at the target stands for one of the source.
type NetworkMap struct {
	From netip.Prefix
	To   netip.Prefix // as long as From
}

// Capture says what a server is read as.
type Capture string

// Files reads the mounted filesystems over ssh, QEMU the disks at the
// hypervisor.
const (
	Files Capture = "files"
	QEMU  Capture = "qemu"
)

// Server is one protected machine. SSH and Limits are complete: what the
// server does not say is taken from the source.
type Server struct {
	Name            dr.ServerName
	Host            string
	Capture         Capture
	After           []dr.ServerName // started before this one
	Probes          []Probe
	Hold            []string // units that a drill does not start
	Exclude         []string // patterns to leave out beside the built-in ones
	IncludeExcluded []string // built-in patterns to carry all the same
	SSH             SSH
	Limits          Limits
	Priority        int      // what has the lower number is carried first where not all is in time
	Machine         *Machine // how it is run at the target; nil: by QEMU
	Home            *Machine // how it is run on the failback host; nil: by QEMU
	Quiesce         *Quiesce // how its applications stand still; nil: nothing is to be done
	Fence           *Work    // makes it unable to write, from without; nil: its units are masked
	Line            int      // in the file
}

// Machine is how the user's own hypervisor runs a server from a disk that Leeward makes:
// lines for sh on the host of that disk.
type Machine struct {
	// Start finds in its environment LEEWARD_DISK, a raw image, LEEWARD_NAME,
	// LEEWARD_MEMORY in MiB, LEEWARD_FIRMWARE (bios or uefi), LEEWARD_BRIDGE and
	// LEEWARD_MACS, the addresses of its cards, between blanks.
	Start string
	Stop  string // shuts it down; it may return before that is done
	Check string // ends with 0 if it runs, with 1 if it does not
}

// Probe is a question that a working replica answers. One of HTTP, TCP and Command is
// set.
type Probe struct {
	HTTP   string // URL; without a host it is the server's own address
	Status int    // that HTTP answers; 0: any below 400
	Text   string // that the answer to HTTP contains
	TCP    int    // port
	// Command is for sh inside the server, as root. Only drills run it.
	Command string
	// SQL is a statement for the database server inside, asked by its own client as the
	// user who owns it. Only drills ask it.
	SQL      string
	Engine   string // of SQL: postgres or mariadb
	Database string // of SQL; may be ""
	Expect   string // that what Command prints contains, and what SQL answers whole
}

// Inside reports whether only somebody inside the server can ask the probe.
func (p Probe) Inside() bool { return p.Command != "" || p.SQL != "" }

// Limits bound what a pass may use of a source. The zero value bounds nothing.
type Limits struct {
	Bandwidth Rate
	Disk      Rate
	Nice      int
	Cores     float64 // share of cores: 0.5 is half of one
}

// Rate is in bytes per second; 0 is no limit.
type Rate int64

// Database is a database that is replicated by itself, beside the servers.
type Database struct {
	Name    string
	Engine  string // mssql, postgres or mariadb
	Mode    string // logical: row by row; physical: as the engine itself replicates
	Capture string // auto, change-tracking or triggers: how an mssql source tells what changed
	Source  Endpoint
	Target  Endpoint
	Tables  Tables
	// CopyInstance has accounts, jobs and what else lives outside the database made at
	// the target; they are only listed otherwise.
	CopyInstance bool
	Priority     int   // as of a server
	Fence        *Work // makes the source unable to write at a failover, from without; nil: a person's word is asked
	Line         int
}

// Tables chooses tables of a database by patterns of schema.table, as path.Match
// has them. No Include means all.
type Tables struct{ Include, Exclude []string }

// Endpoint reaches one side of a database. It holds no secret, only the place
// of one, of which at most one is set.
type Endpoint struct {
	DSN             string
	PasswordFile    string
	PasswordEnv     string
	PasswordCommand []string
	Server          *DatabaseServer // its machine; nil where nothing was said of it
}

// Group is a set of things that recover together, in this order.
type Group struct {
	Name      string
	Order     []string // names of servers and databases
	Objective Objective
	Keep      Keep // of its recovery points; see Estate.KeepOf
	Line      int
}

// Objective is what a group is meant to reach; 0 where nothing is demanded.
type Objective struct {
	RPO time.Duration
	RTO time.Duration
}

// Load reads the estate in the file path. An error of type *Problems holds all
// that is wrong with its content.
func Load(path string) (*Estate, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, dr.WithHint(fmt.Errorf("read configuration: %w", err),
			"name the file with -c FILE, or go to the directory that holds "+DefaultFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("read configuration %s: it is larger than %d MiB", path, maxFile>>20)
	}
	return Parse(path, data)
}

// Server returns the server of that name, or nil.
func (e *Estate) Server(name dr.ServerName) *Server {
	for i := range e.Servers {
		if e.Servers[i].Name == name {
			return &e.Servers[i]
		}
	}
	return nil
}

// Database returns the database of that name, or nil.
func (e *Estate) Database(name string) *Database {
	for i := range e.Databases {
		if e.Databases[i].Name == name {
			return &e.Databases[i]
		}
	}
	return nil
}

// Select turns names of servers, databases and groups into names of servers and of
// databases, each once, in the order of the file. No names select all.
func (e *Estate) Select(names []string) (servers []dr.ServerName, databases []string, err error) {
	wanted := map[string]bool{}
	for _, name := range names {
		if g := e.group(name); g != nil {
			for _, member := range g.Order {
				wanted[member] = true
			}
			continue
		}
		if e.Server(dr.ServerName(name)) == nil && e.Database(name) == nil {
			return nil, nil, e.unknown(name)
		}
		wanted[name] = true
	}
	for _, s := range e.Servers {
		if len(names) == 0 || wanted[string(s.Name)] {
			servers = append(servers, s.Name)
		}
	}
	for _, d := range e.Databases {
		if len(names) == 0 || wanted[d.Name] {
			databases = append(databases, d.Name)
		}
	}
	return servers, databases, nil
}

func (e *Estate) group(name string) *Group {
	groups := e.RecoveryGroups()
	i := slices.IndexFunc(groups, func(g Group) bool { return g.Name == name })
	if i < 0 {
		return nil
	}
	return &groups[i]
}

// unknown explains that nothing here has that name.
func (e *Estate) unknown(name string) error {
	var have []string
	for _, s := range e.Servers {
		have = append(have, string(s.Name))
	}
	for _, d := range e.Databases {
		have = append(have, d.Name)
	}
	for _, g := range e.Groups {
		have = append(have, g.Name)
	}
	return dr.WithHint(fmt.Errorf("select %q: %s has no server, database or group of that name", name, e.File), suggest(name, have))
}
