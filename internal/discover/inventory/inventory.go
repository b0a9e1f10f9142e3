// Package inventory is what discovery knows of a server and of a whole estate, as
// values. They travel from the agent and lie in the store as JSON; docs/formats.md has
// the form. Strings come from servers that are not trusted: whoever writes them into
// YAML, HTML or a terminal escapes them.
package inventory

import "time"

// Version is the form of both Server and Estate.
const Version = 1

// Estate is one look at a whole estate.
type Estate struct {
	Version int       `json:"version"`
	Estate  string    `json:"estate"`
	At      time.Time `json:"at"`
	Leeward string    `json:"leeward"` // the program's version
	Entries []Entry   `json:"servers"`
}

// Entry is one server of the estate: what was found, or why nothing was.
type Entry struct {
	Name   string  `json:"name"` // in leeward.yaml
	Host   string  `json:"host"` // as ssh was given it
	User   string  `json:"user,omitempty"`
	Server *Server `json:"inventory,omitempty"`
	Err    string  `json:"error,omitempty"`
	Hint   string  `json:"hint,omitempty"`
}

// Server is what one look at one host found.
type Server struct {
	Version     int           `json:"version"`
	At          time.Time     `json:"at"`
	Took        time.Duration `json:"took_ns"`
	Watched     time.Duration `json:"watched_ns"` // how long connections and disks were watched
	System      System        `json:"system"`
	Storage     Storage       `json:"storage"`
	Network     Network       `json:"network"`
	Users       []User        `json:"users,omitempty"` // who can log in
	Sudo        []SudoRule    `json:"sudo,omitempty"`
	Packages    []Package     `json:"packages,omitempty"`
	Units       []Unit        `json:"units,omitempty"` // enabled, running or failed
	Timers      []Timer       `json:"timers,omitempty"`
	Cron        []CronJob     `json:"cron,omitempty"`
	Containers  []Container   `json:"containers,omitempty"`
	Listening   []Listener    `json:"listening,omitempty"`
	Connections []Connection  `json:"connections,omitempty"`
	Databases   []Database    `json:"databases,omitempty"`
	Sites       []Site        `json:"sites,omitempty"`
	Certs       []Certificate `json:"certificates,omitempty"`
	Mail        []MailQueue   `json:"mail,omitempty"`
	Mentions    []Mention     `json:"mentions,omitempty"`
	Licences    []Licence     `json:"licences,omitempty"`
	Unknown     []Unknown     `json:"unknown,omitempty"`
}

// Unknown is something that could not be had, and why. What is listed here is not said to
// be absent.
type Unknown struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// System is the machine and what runs it.
type System struct {
	Hostname   string    `json:"hostname"`
	Domain     string    `json:"domain,omitempty"`
	OS         string    `json:"os"` // pretty name
	OSID       string    `json:"os_id"`
	OSVersion  string    `json:"os_version"`
	Kernel     string    `json:"kernel"`
	Cmdline    string    `json:"cmdline,omitempty"`
	Arch       string    `json:"arch"`
	Init       string    `json:"init"`     // systemd, openrc, busybox, sysvinit …
	Firmware   string    `json:"firmware"` // BIOS or UEFI
	SecureBoot bool      `json:"secure_boot,omitempty"`
	Vendor     string    `json:"vendor,omitempty"` // of the machine, by DMI
	Product    string    `json:"product,omitempty"`
	ProductID  string    `json:"product_uuid,omitempty"`
	MachineID  string    `json:"machine_id,omitempty"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	CPULevel   int       `json:"cpu_level,omitempty"` // x86-64 level, 1 to 4
	Memory     int64     `json:"memory"`
	TimeZone   string    `json:"time_zone,omitempty"`
	Booted     time.Time `json:"booted,omitzero"`
	Kernels    []Kernel  `json:"kernels,omitempty"`
}

// Kernel is an installed kernel, with the drivers of a virtual machine's devices that it
// has.
type Kernel struct {
	Version   string   `json:"version"`
	Initramfs string   `json:"initramfs,omitempty"` // its path
	Read      bool     `json:"read"`                // Drivers is known
	Drivers   []string `json:"drivers,omitempty"`   // in the initramfs
	Builtin   []string `json:"builtin,omitempty"`   // in the kernel itself
	Loadable  []string `json:"loadable,omitempty"`  // among its modules
}

// Storage is disks and what lies on them.
type Storage struct {
	Disks       []Disk        `json:"disks,omitempty"`
	Groups      []VolumeGroup `json:"volume_groups,omitempty"`
	Filesystems []Filesystem  `json:"filesystems,omitempty"` // those a pass carries
	Mounts      []Mount       `json:"mounts,omitempty"`      // all that have a device or a server behind them
	Swaps       []Swap        `json:"swaps,omitempty"`
	Fstab       []FstabLine   `json:"fstab,omitempty"`
	// WrittenPerHour is what was written to the disks of the filesystems while they were
	// watched, an hour: never less than what changed, for a block written twice counts
	// twice. -1 is unknown.
	WrittenPerHour int64 `json:"written_per_hour"`
}

// Disk is a block device: a disk, a partition or what is built of them.
type Disk struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"` // disk, part, lvm, crypt, raid, loop, multipath, dm
	Size   int64    `json:"size"`
	On     []string `json:"on,omitempty"` // the devices it lies on
	Table  string   `json:"table,omitempty"`
	Model  string   `json:"model,omitempty"`
	Detail string   `json:"detail,omitempty"` // volume's name; level and state of an array
}

// VolumeGroup is one of LVM's.
type VolumeGroup struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Free int64  `json:"free"`
}

// Filesystem is one that a pass carries.
type Filesystem struct {
	Mount  string `json:"mount"`
	Device string `json:"device"`
	Type   string `json:"type"`
	UUID   string `json:"uuid,omitempty"`
	Label  string `json:"label,omitempty"`
	Size   int64  `json:"size"`
	Used   int64  `json:"used"`
}

// Mount is a line of the table of mounts.
type Mount struct {
	At      string `json:"at"`
	Device  string `json:"device"`
	Type    string `json:"type"`
	Options string `json:"options"`
}

// Swap is a swap device or file.
type Swap struct {
	Path string `json:"path"`
	File bool   `json:"file,omitempty"`
	Size int64  `json:"size"`
}

// FstabLine is an entry of /etc/fstab.
type FstabLine struct {
	Device  string `json:"device"`
	Mount   string `json:"mount"`
	Type    string `json:"type"`
	Options string `json:"options"`
}

// Network is how the host is connected.
type Network struct {
	Interfaces []Interface `json:"interfaces,omitempty"`
	Routes     []Route     `json:"routes,omitempty"`
	Resolvers  []string    `json:"resolvers,omitempty"`
	Search     []string    `json:"search,omitempty"`
	Hosts      []HostsLine `json:"hosts,omitempty"`
	Firewall   []Firewall  `json:"firewall,omitempty"`
}

// Interface is a network interface with its addresses.
type Interface struct {
	Name      string   `json:"name"`
	MAC       string   `json:"mac,omitempty"`
	Addresses []string `json:"addresses,omitempty"` // with prefix length
	Up        bool     `json:"up"`
	Virtual   bool     `json:"virtual,omitempty"`
	MTU       int      `json:"mtu,omitempty"`
}

// Route is a way packets take.
type Route struct {
	To  string `json:"to"`
	Via string `json:"via,omitempty"`
	Dev string `json:"dev"`
}

// HostsLine is an entry of /etc/hosts.
type HostsLine struct {
	Address string   `json:"address"`
	Names   []string `json:"names"`
}

// Firewall is one set of packet filter rules.
type Firewall struct {
	Kind   string `json:"kind"` // nftables, iptables, ip6tables, firewalld, ufw
	Rules  int    `json:"rules"`
	Digest string `json:"digest,omitempty"` // of the rules, counters left out: it changes when they do
}

// User is an account that can log in.
type User struct {
	Name  string `json:"name"`
	UID   int    `json:"uid"`
	Shell string `json:"shell"`
	Home  string `json:"home"`
	Keys  int    `json:"ssh_keys"`           // in authorized_keys; -1 unknown
	Lock  string `json:"password,omitempty"` // set, locked or none; empty: unknown
}

// SudoRule is a line of sudoers.
type SudoRule struct {
	Who  string `json:"who"`
	What string `json:"what"`
	File string `json:"file"`
}

// Package is an installed package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch,omitempty"`
}

// Unit is a service of the init system.
type Unit struct {
	Name    string   `json:"name"`
	Enabled bool     `json:"enabled"`
	State   string   `json:"state,omitempty"` // active, failed …; empty: unknown
	Command string   `json:"command,omitempty"`
	File    string   `json:"file,omitempty"`
	After   []string `json:"after,omitempty"` // units it names
	Own     bool     `json:"own,omitempty"`   // its file belongs to no package: somebody here wrote it
}

// Timer starts a unit at times.
type Timer struct {
	Name    string   `json:"name"`
	When    []string `json:"when"`
	Starts  string   `json:"starts"`
	Enabled bool     `json:"enabled"`
	Own     bool     `json:"own,omitempty"`
}

// CronJob is a line of a crontab, or a script of /etc/cron.daily and its like.
type CronJob struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	When    string `json:"when"`
	User    string `json:"user"`
	Command string `json:"command"`       // without what looks like a password
	Own     bool   `json:"own,omitempty"` // its file belongs to no package
}

// Container is a container with its state, whatever runs it.
type Container struct {
	Name    string   `json:"name"`
	ID      string   `json:"id"`
	Engine  string   `json:"engine"` // docker or podman
	Image   string   `json:"image"`
	State   string   `json:"state,omitempty"`
	Ports   []string `json:"ports,omitempty"`
	Volumes []string `json:"volumes,omitempty"`
	Restart string   `json:"restart,omitempty"`
}

// Listener is a socket that waits for others.
type Listener struct {
	Protocol string `json:"protocol"` // tcp or udp
	Address  string `json:"address"`
	Port     int    `json:"port"`
	Process  string `json:"process,omitempty"`
	Program  string `json:"program,omitempty"`
	Unit     string `json:"unit,omitempty"`
	UnitBy   string `json:"unit_by,omitempty"` // cgroup, or command where only its command line says so
	Package  string `json:"package,omitempty"`
}

// Loopback reports whether only the host itself reaches it.
func (l Listener) Loopback() bool {
	return l.Address == "::1" || len(l.Address) > 4 && l.Address[:4] == "127."
}

// Connection is traffic seen between this host and another, summed over a watch.
type Connection struct {
	Out      bool   `json:"out"` // this host called
	Protocol string `json:"protocol"`
	Local    string `json:"local"` // this host's address
	Remote   string `json:"remote"`
	Port     int    `json:"port"` // of the side that was called
	Process  string `json:"process,omitempty"`
	Unit     string `json:"unit,omitempty"`
	Count    int    `json:"count"`              // different connections
	Inferred bool   `json:"inferred,omitempty"` // who called is told by the ports alone
}

// Database is a database server with what it holds.
type Database struct {
	Engine      string            `json:"engine"`
	Version     string            `json:"version,omitempty"`
	Dir         string            `json:"dir"`
	Port        int               `json:"port,omitempty"`
	User        string            `json:"user,omitempty"`
	Filesystem  string            `json:"filesystem,omitempty"`
	Size        int64             `json:"size"`               // of its directory; -1 unknown
	Settings    map[string]string `json:"settings,omitempty"` // of recovery, binlog and replication; as its files have them
	Standby     bool              `json:"standby,omitempty"`
	Databases   []string          `json:"databases,omitempty"`
	Replication []string          `json:"replication,omitempty"` // who copies from whom
}

// Site is a web site or a service a proxy hands on.
type Site struct {
	Server string   `json:"server"` // nginx, apache, haproxy
	Names  []string `json:"names,omitempty"`
	Listen []string `json:"listen,omitempty"`
	Root   string   `json:"root,omitempty"`
	Passes []string `json:"passes,omitempty"` // hosts it hands requests to
	Cert   string   `json:"certificate,omitempty"`
	File   string   `json:"file"`
}

// Certificate is one that a service shows.
type Certificate struct {
	File      string    `json:"file"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	Names     []string  `json:"names,omitempty"`
	Addresses []string  `json:"addresses,omitempty"`
	From      time.Time `json:"from"`
	Until     time.Time `json:"until"`
	UsedBy    []string  `json:"used_by,omitempty"`
}

// MailQueue is mail that waits.
type MailQueue struct {
	Server   string `json:"server"`
	Messages int    `json:"messages"`
	Deferred int    `json:"deferred"`
}

// Mention is a place where a configuration file names an address or a host.
type Mention struct {
	File string `json:"file"`
	Line int    `json:"line"`
	What string `json:"what"` // the address or name
	Port int    `json:"port,omitempty"`
}

// Licence is a sign of software whose licence asks for this very hardware.
type Licence struct {
	File string `json:"file"`
	Why  string `json:"why"`
}
