package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
	"github.com/leeward-dr/leeward/internal/btrfs"
)

// grow makes a tree of files below dir. Content that begins with "-> " is a
// symbolic link, names that end in a slash are directories.
func grow(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		target, link := strings.CutPrefix(content, "-> ")
		switch {
		case link:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// world is a system of paper: block devices by number, mount ids by path.
func world(devices map[device][]byte, ids map[string]int) system {
	return system{
		statfs: func(path string) (unix.Statfs_t, error) {
			return unix.Statfs_t{Bsize: 4096, Frsize: 4096, Blocks: 1000, Bfree: 400, Files: 500, Ffree: 100}, nil
		},
		mountID: func(path string) (int, error) {
			for suffix, id := range ids {
				if strings.HasSuffix(path, suffix) {
					return id, nil
				}
			}
			return 0, errors.New("not known")
		},
		openBlock: func(d device, path string) (blockReader, error) {
			b, ok := devices[d]
			if !ok {
				return nil, os.ErrPermission
			}
			return memory{bytes.NewReader(b)}, nil
		},
		subvolumes: func(string) ([]btrfs.Subvolume, error) {
			return []btrfs.Subvolume{{ID: 256, Path: "@", Default: true}, {ID: 257, Path: "@/old", ReadOnly: true, Snapshot: true}}, nil
		},
		links: func() ([]link, error) {
			return []link{
				{name: "lo", loopback: true, up: true, mtu: 65536, addresses: []string{"127.0.0.1/8"}},
				{name: "ens3", mac: "52:54:00:00:00:01", up: true, mtu: 1500, addresses: []string{"10.10.0.11/24"}},
				{name: "eth0", kind: "veth"}, {name: "docker0", kind: "bridge"}, {name: "wg0", kind: "wireguard"}, {name: "d0", kind: "dummy"},
			}, nil
		},
		run: func(_ context.Context, name string, args ...string) (string, error) {
			if args[0] == "is-system-running" {
				return "degraded\n", nil
			}
			return "bad.service loaded failed failed A bad one\nworse.mount loaded failed failed /x\n", nil
		},
	}
}

// ext4Image is a superblock with just what is looked at.
func ext4Image(uuid byte, label string) []byte {
	b := make([]byte, 8192)
	s := b[1024:]
	binary.LittleEndian.PutUint32(s[0:], 64000)   // inodes
	binary.LittleEndian.PutUint32(s[4:], 256000)  // blocks
	binary.LittleEndian.PutUint32(s[24:], 2)      // 4 KiB blocks
	binary.LittleEndian.PutUint32(s[28:], 2)      // clusters alike
	binary.LittleEndian.PutUint32(s[32:], 32768)  // blocks in a group
	binary.LittleEndian.PutUint32(s[36:], 32768)  // clusters in a group
	binary.LittleEndian.PutUint32(s[40:], 8000)   // inodes in a group
	binary.LittleEndian.PutUint16(s[56:], 0xef53) // magic
	binary.LittleEndian.PutUint32(s[76:], 1)      // dynamic revision
	binary.LittleEndian.PutUint16(s[88:], 256)    // inode size
	binary.LittleEndian.PutUint32(s[92:], 0x4)    // has_journal
	binary.LittleEndian.PutUint32(s[96:], 0x42)   // extent, filetype
	for i := range 16 {
		s[104+i] = uuid
	}
	copy(s[120:], label)
	return b
}

func swapImage() []byte {
	b := make([]byte, 8192)
	copy(b[4086:], "SWAPSPACE2")
	binary.LittleEndian.PutUint32(b[1024:], 1)
	binary.LittleEndian.PutUint32(b[1028:], 1)
	for i := range 16 {
		b[1036+i] = 0x77
	}
	return b
}

// gptImage is a disk with one partition, the second.
func gptImage() []byte {
	b := make([]byte, 64<<10)
	b[450], b[510], b[511] = 0xee, 0x55, 0xaa
	h := b[512:]
	copy(h, "EFI PART")
	for i := range 16 {
		h[56+i] = byte(i)
	}
	binary.LittleEndian.PutUint64(h[72:], 2)
	binary.LittleEndian.PutUint32(h[80:], 128)
	binary.LittleEndian.PutUint32(h[84:], 128)
	e := b[1024+128:]
	e[0] = 1
	for i := range 16 {
		e[16+i] = byte(0xf0 + i)
	}
	return b
}

const mountinfo = `22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 252:2 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro
28 27 252:16 / /boot rw - ext4 /dev/vdb ro
29 27 252:2 /srv/web /var/www rw - ext4 /dev/root rw
30 27 0:40 /@home /home rw - btrfs /dev/vdc rw,subvol=/@home
31 27 0:41 /@snap /home/.snapshots rw - btrfs /dev/vdc rw,subvol=/@snap
32 27 254:0 / /data rw - xfs /dev/mapper/vg-data rw
33 27 252:48 / /hidden rw - ext4 /dev/vdd rw
34 27 0:50 / /hidden rw - tmpfs tmpfs rw
35 27 0:51 / /mnt/nfs rw - nfs4 filer:/x rw
36 27 0:52 / /tank rw - zfs tank rw
37 27 7:0 / /snap/core/1 ro - squashfs /dev/loop0 ro
38 27 7:1 / /mnt/img rw - ext4 /dev/loop1 rw
39 27 0:60 / /boot/efi rw - autofs systemd-1 rw
40 27 0:61 / /mnt/odd\012name rw - fuse.sshfs u@h: rw
broken line
`

const fstabFile = `# comment
UUID=1 / ext4 errors=remount-ro 0 1
UUID=2 /boot ext4 defaults 0 2
UUID=ABCD-1234 /boot/efi vfat umask=0077,x-systemd.automount 0 1
/dev/sdx1 /mnt/with\040blank xfs noauto
/srv/web /var/www none bind
UUID=9 none swap sw
filer:/x /mnt/away nfs ro
tank /pool zfs defaults
short
`

// server is the fixture most tests look at.
func server(t *testing.T) (*collector, *agentpb.Facts) {
	t.Helper()
	root := t.TempDir()
	grow(t, root, map[string]string{
		"proc/self/mountinfo":               "1 1 9:9 / / rw - ext4 /dev/wrong rw\n",
		"proc/1/mountinfo":                  mountinfo,
		"proc/1/root":                       "-> " + root,
		"proc/swaps":                        "Filename Type Size Used Priority\n/swap\\040file file 1024 0 -2\n/dev/vde partition 2048 0 -3\n/old\\040(deleted) file 1 0 -1\n",
		"proc/cmdline":                      "root=UUID=1 ro quiet\n",
		"proc/sys/kernel/osrelease":         "6.1.0-13-amd64\n",
		"proc/meminfo":                      "MemTotal:        2048000 kB\nMemFree: 1 kB\n",
		"proc/cpuinfo":                      "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu lm cmov cx8 fxsr mmx syscall sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3\n\nprocessor\t: 1\n",
		"swap file":                         string(swapImage()),
		"etc/os-release":                    "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\n",
		"etc/machine-id":                    "0123456789abcdef0123456789abcdef\n",
		"etc/fstab":                         fstabFile,
		"etc/passwd":                        "root:x:0:0::/root:/bin/sh\npostgres:x:105:110::/var/lib/postgresql:/bin/bash\n",
		"etc/ssh/ssh_host_rsa_key.pub":      "not a key\n",
		"sys/firmware/efi/":                 "",
		"sys/block/vda/size":                "2048\n",
		"sys/block/vda/device":              "-> ../../../devices/virtio",
		"sys/block/vda/dev":                 "252:0\n",
		"sys/block/loop1/size":              "10\n",
		"sys/block/loop1/dev":               "7:1\n",
		"sys/block/dm-0/dm/name":            "vg-data\n",
		"sys/block/dm-0/dev":                "254:0\n",
		"sys/block/loop1/loop/backing_file": "/srv/disk.img\n",
		"srv/disk.img":                      "",
		"sys/class/block/vdc/dev":           "252:32\n",
		"sys/class/block/vde/dev":           "252:64\n",
		"sys/devices/vda/vda2/partition":    "2\n",
		"sys/devices/vda/vda2/uevent":       "MAJOR=252\nDEVNAME=vda2\n",
		"sys/dev/block/252:2":               "-> ../../devices/vda/vda2",
		"run/systemd/system/":               "",
		"run/udev/data/b252:32":             "E:ID_FS_UUID=btrfs-uuid\nE:ID_FS_LABEL=my_home\nE:ID_FS_LABEL_ENC=my\\x20home\n",
	})
	grow(t, root, map[string]string{secureBootVariable: "\x06\x00\x00\x00\x01"})
	c := &collector{root: root, sys: world(map[device][]byte{
		{252, 0}: gptImage(), {252, 2}: ext4Image(0x11, "root"), {252, 16}: ext4Image(0x22, ""), {252, 64}: swapImage(),
		{7, 1}: ext4Image(0x33, ""),
	}, map[string]int{"/hidden": 34})}
	f, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c, f
}

func warned(f *agentpb.Facts, text string) bool {
	return slices.ContainsFunc(f.Warnings, func(w string) bool { return strings.Contains(w, text) })
}

func TestFactsFilesystems(t *testing.T) {
	_, f := server(t)
	var points []string
	for _, fs := range f.Filesystems {
		points = append(points, fs.MountPoint)
	}
	if want := []string{"/", "/boot", "/data", "/home"}; !slices.Equal(points, want) {
		t.Fatalf("filesystems %v, want %v", points, want)
	}
	root, boot, data, home := f.Filesystems[0], f.Filesystems[1], f.Filesystems[2], f.Filesystems[3]
	if root.Device != "/dev/vda2" || root.Uuid != "11111111-1111-1111-1111-111111111111" || root.Label != "root" ||
		root.PartUuid != "f3f2f1f0-f5f4-f7f6-f8f9-fafbfcfdfeff" || root.BlockSize != 4096 || root.InodeSize != 256 {
		t.Errorf("root: %v", root)
	}
	if len(root.Mounts) != 2 || root.Mounts[1].Root != "/srv/web" || root.UsedBytes != 600*4096 || root.Inodes != 500 || root.InodesUsed != 400 {
		t.Errorf("root: %v", root)
	}
	if root.Options != "rw,relatime,errors=remount-ro" || boot.Options != "ro" {
		t.Errorf("options %q and %q", root.Options, boot.Options)
	}
	if data.Device != "/dev/mapper/vg-data" || !warned(f, "/data: superblock of /dev/mapper/vg-data") {
		t.Errorf("data: %v", data)
	}
	if len(home.Mounts) != 2 || home.Device != "/dev/vdc" || home.Uuid != "btrfs-uuid" || home.Label != "my home" || home.Inodes != 0 {
		t.Errorf("home: %v", home)
	}
	if s := home.Subvolumes; len(s) != 2 || string(s[0].Path) != "@" || !s[0].Default || s[0].Snapshot || !s[1].ReadOnly || !s[1].Snapshot || len(root.Subvolumes) > 0 {
		t.Errorf("subvolumes: %v, of the root %v", s, root.Subvolumes)
	}
}

func TestFactsSkipped(t *testing.T) {
	_, f := server(t)
	want := map[string]string{
		"/proc": whyKernel, "/mnt/nfs": whyNetwork, "/snap/core/1": whyImage, "/boot/efi": whyAuto,
		"/tank": whyZFS, "/mnt/img": "is the content of the file /srv/disk.img", "/mnt/odd\nname": whyNetwork,
	}
	for _, s := range f.Skipped {
		if s.MountPoint == "/hidden" && s.Type == "ext4" && !strings.HasPrefix(s.Reason, "hidden under") {
			t.Errorf("%v", s)
		}
		if w, ok := want[s.MountPoint]; ok {
			if !strings.HasPrefix(s.Reason, w) || s.Stored != (s.Type == "zfs") {
				t.Errorf("%v, want %q", s, w)
			}
			delete(want, s.MountPoint)
		}
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
	if !warned(f, "/proc/1/mountinfo: 1 lines") {
		t.Error("no word of the broken line")
	}
}

func TestFactsFstabWarnings(t *testing.T) {
	_, f := server(t)
	for _, w := range []string{"/boot/efi (vfat, UUID=ABCD-1234) is in fstab but not mounted", "/mnt/with blank (xfs", "/pool (zfs", "/etc/fstab: 1 lines"} {
		if !warned(f, w) {
			t.Errorf("no warning with %q in %q", w, f.Warnings)
		}
	}
	for _, w := range []string{"/mnt/away", "/var/www (", "none (", "/boot (ext4"} {
		if warned(f, w) {
			t.Errorf("a warning with %q in %q", w, f.Warnings)
		}
	}
	if string(f.Fstab) != fstabFile {
		t.Error("fstab is not as it was")
	}
}

func TestFactsMachine(t *testing.T) {
	_, f := server(t)
	if f.Os.Id != "debian" || f.Os.Codename != "bookworm" || f.Kernel != "6.1.0-13-amd64" || f.Cmdline != "root=UUID=1 ro quiet" ||
		!f.Uefi || !f.SecureBoot || f.MemoryBytes != 2048000<<10 || f.Cpus != 2 || f.CpuModel != "A CPU" ||
		f.MachineId != "0123456789abcdef0123456789abcdef" {
		t.Errorf("%v", f)
	}
	if !f.Systemd || f.SystemState != "degraded" || !slices.Equal(f.FailedUnits, []string{"bad.service", "worse.mount"}) {
		t.Errorf("systemd %v %q %q", f.Systemd, f.SystemState, f.FailedUnits)
	}
	if len(f.Disks) != 1 || f.Disks[0].Table != "gpt" || f.Disks[0].TableId != "03020100-0504-0706-0809-0a0b0c0d0e0f" || f.Disks[0].SizeBytes != 1<<20 {
		t.Errorf("disks %v", f.Disks)
	}
	if len(f.Swaps) != 2 || f.Swaps[0].Path != "/swap file" || !f.Swaps[0].File || f.Swaps[0].Uuid != "77777777-7777-7777-7777-777777777777" ||
		f.Swaps[1].Path != "/dev/vde" || f.Swaps[1].Uuid == "" {
		t.Errorf("swaps %v", f.Swaps)
	}
	if !warned(f, "ssh_host_rsa_key.pub") {
		t.Error("no word of a broken host key")
	}
	virtual := map[string]bool{}
	for _, i := range f.Interfaces {
		virtual[i.Name] = i.Virtual
	}
	for name, want := range map[string]bool{"lo": true, "ens3": false, "eth0": false, "docker0": true, "wg0": true, "d0": true} {
		if virtual[name] != want {
			t.Errorf("%s: virtual is not %v", name, want)
		}
	}
}

func TestFactsOfAnEmptyHost(t *testing.T) {
	c := &collector{root: t.TempDir(), sys: world(nil, nil)}
	c.sys.links = func() ([]link, error) { return nil, errors.New("no netlink") }
	f, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []string{"mounts:", "no netlink", "fstab:", "root filesystem is not among"} {
		if !warned(f, w) {
			t.Errorf("no warning with %q in %q", w, f.Warnings)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err %v", err)
	}
}

// TestFactsFromAContainer has a process 1 with another root, which is none of ours.
func TestFactsFromAContainer(t *testing.T) {
	root := t.TempDir()
	grow(t, root, map[string]string{
		"proc/1/mountinfo":    "1 1 9:9 / / rw - ext4 /dev/wrong rw\n",
		"proc/1/root":         "-> " + t.TempDir(),
		"proc/self/mountinfo": "1 1 7:3 / / rw - ext4 /dev/loop3 rw\n",
	})
	c := &collector{root: root, sys: world(map[device][]byte{{7, 3}: ext4Image(1, "x")}, nil)}
	f, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Filesystems) != 1 || f.Filesystems[0].Device != "/dev/loop3" || f.Filesystems[0].Label != "x" {
		t.Errorf("filesystems %v", f.Filesystems)
	}
}

func TestFactsCanAlwaysBeEncoded(t *testing.T) {
	root := t.TempDir()
	grow(t, root, map[string]string{
		"etc/os-release":      "ID=\xff\n",
		"proc/self/mountinfo": "1 1 8:1 / / rw - ext4 /dev/\xff rw\n2 1 8:2 / /\xfe rw - ext4 /dev/x rw\n3 1 0:9 / /\xfd rw - tmpfs t\xff rw\n",
		"proc/cmdline":        "a\xffb",
	})
	c := &collector{root: root, sys: world(nil, nil)}
	f, err := c.collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proto.Marshal(f); err != nil {
		t.Error(err)
	}
	f.Filesystems[0].Params = map[string]string{"k\xff": "v\xff"}
	scrub(f.ProtoReflect())
	if f.Os.Id != "\uFFFD" || len(f.Filesystems) != 1 || f.Filesystems[0].Params["k\uFFFD"] != "v\uFFFD" {
		t.Errorf("%v", f)
	}
}

func TestPrimaryMount(t *testing.T) {
	m := func(point, root, typ string) procfs.Mount { return procfs.Mount{Point: point, Root: root, Type: typ} }
	for _, tt := range []struct {
		mounts []procfs.Mount
		want   string
	}{
		{[]procfs.Mount{m("/b", "/sub", "ext4"), m("/longer", "/", "ext4")}, "/longer"},
		{[]procfs.Mount{m("/a", "/", "ext4"), m("/", "/sub", "ext4")}, "/"},
		{[]procfs.Mount{m("/mnt/top", "/", "btrfs"), m("/home", "/@home", "btrfs")}, "/home"},
		{[]procfs.Mount{m("/b", "/", "xfs"), m("/a", "/", "xfs")}, "/a"},
	} {
		if got := primary(tt.mounts); got.Point != tt.want {
			t.Errorf("%v: %s, want %s", tt.mounts, got.Point, tt.want)
		}
	}
}

func TestPartitionTables(t *testing.T) {
	dos := make([]byte, 4096)
	dos[440], dos[443], dos[450], dos[510], dos[511] = 0x78, 0x12, 0x83, 0x55, 0xaa
	fat := slices.Clone(dos)
	copy(fat[446:], "a text in the boot sector, no table")
	cut := gptImage()[:600]
	for _, tt := range []struct {
		name, kind, id, part string
		disk                 []byte
		ok                   bool
	}{
		{"gpt", "gpt", "03020100-0504-0706-0809-0a0b0c0d0e0f", "f3f2f1f0-f5f4-f7f6-f8f9-fafbfcfdfeff", gptImage(), true},
		{"dos", "dos", "12000078", "12000078-02", dos, true},
		{"boot sector", "none", "", "", fat, true},
		{"zeros", "none", "", "", make([]byte, 4096), true},
		{"tiny", "none", "", "", make([]byte, 10), true},
		{"cut", "gpt", "", "", cut, false},
	} {
		got, err := parsePartitionTable(bytes.NewReader(tt.disk), 512)
		if (err == nil) != tt.ok || got.kind != tt.kind || tt.ok && (got.id != tt.id || got.partUUID(2) != tt.part) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

func FuzzPartitionTable(f *testing.F) {
	f.Add(gptImage())
	f.Fuzz(func(t *testing.T, disk []byte) {
		if table, err := parsePartitionTable(bytes.NewReader(disk), 512); err == nil && table.kind == "" {
			t.Error("a table of no kind")
		}
	})
}

func TestLinkKinds(t *testing.T) {
	attr := func(typ uint16, b []byte) []byte {
		out := binary.NativeEndian.AppendUint16(nil, uint16(4+len(b)))
		out = binary.NativeEndian.AppendUint16(out, typ)
		out = append(out, b...)
		return append(out, make([]byte, (4-len(b)%4)%4)...)
	}
	body := make([]byte, 16)
	binary.NativeEndian.PutUint32(body[4:], 7)
	body = append(body, attr(3, []byte("eth0\x00"))...)
	body = append(body, attr(iflaLinkInfo|0x8000, attr(iflaInfoKind, []byte("veth\x00")))...)
	msg := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, unix.RTM_NEWLINK)
	msg = append(msg, make([]byte, 10)...)
	msg = append(msg, body...)
	kinds, err := linkKinds(msg)
	if err != nil || kinds[7] != "veth" {
		t.Errorf("%v, %v", kinds, err)
	}
	for n := range body { // cut anywhere, it must not break
		attribute(body[16:max(16, n)], iflaLinkInfo)
	}
}

func TestReasons(t *testing.T) {
	for typ, want := range map[string]string{
		"cgroup2": whyKernel, "tmpfs": whyMemory, "fuse.sshfs": whyNetwork, "fuse.gvfsd-fuse": whyProgram,
		"overlay": whyOverlay, "f2fs": "unknown filesystem type f2fs", "fuseblk": "unknown filesystem type fuseblk",
	} {
		got, stored := reasonFor(typ)
		if !strings.HasPrefix(got, want) || stored != strings.HasPrefix(got, "unknown") {
			t.Errorf("%s: %q, stored %v, want %q", typ, got, stored, want)
		}
	}
}
