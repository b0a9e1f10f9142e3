package lab

import (
	"crypto/sha256"
	"fmt"
	"slices"
)

// Subvolume is a btrfs subvolume and where it is mounted.
type Subvolume struct {
	Name  string
	Mount string
}

// Filesystem is one filesystem of a server, on a partition of its own.
type Filesystem struct {
	Mount      string // the primary mount point
	Type       string // ext4, xfs or btrfs
	Label      string
	SizeMiB    int
	Subvolumes []Subvolume // btrfs only; the first one is mounted at Mount
	Options    string      // fstab options; "defaults" where empty
	Volume     string      // the logical volume of group vg0 that it lies on, alone on its partition
	RoomMiB    int         // with Volume: what that partition leaves free in the group
}

// Spec says what a server of the lab is. It holds no state of a running one.
type Spec struct {
	Name        string
	Suite       string // Debian release
	Host        int    // last byte of its address
	Packages    []string
	Filesystems []Filesystem // in mount order, "/" first
	User        string       // who the lab's key opens: root, or a user with sudo
	DevNames    bool         // fstab names /dev/sdX, as hand-made servers do
	SCSI        bool         // as a guest, its disk is /dev/sda
	UEFI        bool         // as a guest, it boots by UEFI, from an ESP at /boot/efi
	Networkd    bool         // systemd-networkd instead of ifupdown
	Fstab       []string     // further lines of fstab
	Writer      []string     // services that StopWriters stops beside churn
}

const (
	networkPrefix = "10.10.0."
	miamiGateway  = networkPrefix + "1"
	dallasAddress = "10.99.0.2"
	wanRoute      = "10.99.0.0/30"
	guestNIC      = "ens3"
)

// Address is the server's address in Miami.
func (s Spec) Address() string { return fmt.Sprintf("%s%d", networkPrefix, s.Host) }

// MAC is the hardware address of the server's one network card.
func (s Spec) MAC() string { return fmt.Sprintf("52:54:00:10:10:%02d", s.Host) }

// NetNS is the network namespace of the server in its light form.
func (s Spec) NetNS() string { return netnsPrefix + s.Name }

// uuid derives a stable UUID for one of the server's filesystems, so that a
// rebuilt image of one cache is the same server.
func (s Spec) uuid(seed, role string) string {
	h := sha256.Sum256([]byte(seed + "\x00" + s.Name + "\x00" + role))
	h[6] = h[6]&0x0f | 0x40
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

func root(fsType string, sizeMiB int) Filesystem {
	return Filesystem{Mount: "/", Type: fsType, Label: "root", SizeMiB: sizeMiB}
}

// Servers describes the six servers and the two minions of Miami.
func Servers() []Spec {
	return append([]Spec{
		{
			Name: "web1", Suite: "bookworm", Host: 11, User: "root",
			Packages:    []string{"nginx-light"},
			Filesystems: []Filesystem{root("ext4", 2560)},
			Fstab:       []string{"/swapfile none swap sw 0 0"},
		},
		{
			Name: "app1", Suite: "bookworm", Host: 12, User: "root",
			Packages:    []string{"python3-psycopg2", "tcsh"},
			Filesystems: []Filesystem{root("xfs", 2560)},
			Writer:      []string{"shopper"},
		},
		{
			Name: "db1", Suite: "bookworm", Host: 13, User: "root",
			Packages: []string{"postgresql"},
			Filesystems: []Filesystem{
				root("ext4", 2560),
				{Mount: "/boot", Type: "ext4", Label: "boot", SizeMiB: 256},
				{Mount: "/var", Type: "xfs", Label: "var", SizeMiB: 2048, Options: "defaults,nosuid"},
			},
			Writer: []string{"ticker"},
		},
		{
			Name: "db2", Suite: "bookworm", Host: 14, User: "ops",
			Packages: []string{"mariadb-server", "sudo"},
			Filesystems: []Filesystem{{Mount: "/", Type: "btrfs", Label: "pool", SizeMiB: 3072,
				Subvolumes: []Subvolume{{"@", "/"}, {"@home", "/home"}}}},
			Fstab:  []string{"tmpfs /tmp tmpfs rw,nosuid,nodev,noexec,mode=1777,size=128m 0 0"},
			Writer: []string{"meter"},
		},
		{
			Name: "mail1", Suite: "bullseye", Host: 15, User: "root", DevNames: true, SCSI: true,
			Packages: []string{"postfix", "lvm2"},
			Filesystems: []Filesystem{
				root("ext4", 2560),
				{Mount: "/home", Type: "ext4", Label: "home", SizeMiB: 512, Volume: "home", RoomMiB: 256},
				{Mount: "/var/spool", Type: "xfs", Label: "spool", SizeMiB: 320, Volume: "spool", RoomMiB: 96},
			},
			Writer: []string{"deliver"},
		},
		{
			Name: "files1", Suite: "trixie", Host: 16, User: "root",
			Packages: []string{"acl", "attr", "libcap2-bin", "e2fsprogs"},
			Filesystems: []Filesystem{
				root("ext4", 2560),
				{Mount: "/srv", Type: "xfs", Label: "srv", SizeMiB: 2048},
			},
		},
	}, minions()...)
}

func minions() []Spec {
	return []Spec{
		{
			Name: "dns1", Suite: "bullseye", Host: 21, User: "root",
			Packages:    []string{"dnsmasq"},
			Filesystems: []Filesystem{root("ext4", 2048)},
		},
		{
			Name: "mon1", Suite: "trixie", Host: 22, User: "ops", Networkd: true, UEFI: true,
			Packages:    []string{"curl", "sudo"},
			Filesystems: []Filesystem{root("ext4", 2048)},
			Writer:      []string{"poll"},
		},
	}
}

// basePackages makes a tree a server that boots on its own and is reached by ssh.
func basePackages() []string {
	return []string{
		"systemd", "systemd-sysv", "udev", "dbus", "kmod", "procps",
		"linux-image-cloud-amd64", "initramfs-tools", "zstd", "grub-pc",
		"openssh-server", "iproute2", "ifupdown", "ca-certificates",
	}
}

// selectServers returns the named servers in the order of Servers; all of
// them for no names.
func selectServers(names []string) ([]Spec, error) {
	all := Servers()
	if len(names) == 0 {
		return all, nil
	}
	known := make([]string, len(all))
	for i, s := range all {
		known[i] = s.Name
	}
	for _, n := range names {
		if !slices.Contains(known, n) {
			return nil, fmt.Errorf("find server %q in the lab: it has %v", n, known)
		}
	}
	return slices.DeleteFunc(all, func(s Spec) bool { return !slices.Contains(names, s.Name) }), nil
}
