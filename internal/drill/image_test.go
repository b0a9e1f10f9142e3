package drill

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/mountns"
)

const (
	cacheDir = "/var/cache/leeward-lab"
	packages = "linux-image-cloud-amd64,systemd-sysv,udev,ifupdown,openssh-server,iproute2,e2fsprogs,dbus,kmod,initramfs-tools"
)

// machine says what a test's server looks like.
type machine struct {
	suite    string
	fs       string // of the root filesystem
	boot     bool   // a /boot of its own
	varFS    string // a /var of its own, of this type
	subvol   string // btrfs: root lies in this subvolume
	uefi     bool   // the source has an EFI system partition
	devNames bool   // fstab names /dev/sdX
	stale    bool   // fstab names a swap, a disk and a server that did not come along
	spoil    func(t *testing.T, root string)
}

func needRoot(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("boots machines: not in short mode")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to mount images")
	}
	for _, tool := range []string{"qemu-system-x86_64", "mmdebstrap", "grub-mkimage", "mformat", "sfdisk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

var treeLock sync.Mutex // one test makes a tree, others use it

// debianTree returns a tar of a Debian system, made once a machine.
func debianTree(t *testing.T, suite string) string {
	t.Helper()
	treeLock.Lock()
	defer treeLock.Unlock()
	file := filepath.Join(cacheDir, "drill-"+suite+"-1.tar") // count up with the recipe
	if _, err := os.Stat(file); err == nil {
		return file
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		t.Fatal(err)
	}
	part := fmt.Sprintf("%s.%d", strings.TrimSuffix(file, ".tar"), os.Getpid())
	args := []string{"--format=tar", "--variant=minbase", "--include=" + packages, suite, part}
	if suite == "bullseye" { // its security archive has lost packages
		args = append(args, "deb http://deb.debian.org/debian bullseye main")
	}
	t.Logf("building a %s tree", suite)
	run(t, "mmdebstrap", args...)
	if err := os.Rename(part, file); err != nil {
		t.Fatal(err)
	}
	return file
}

// server builds the disk and the facts of a source server.
func server(t *testing.T, name dr.ServerName, m machine) Subject {
	t.Helper()
	needRoot(t)
	tree := debianTree(t, m.suite)
	dir := t.TempDir()
	s := Subject{Server: name, Disk: filepath.Join(dir, "disk.raw"), Facts: &agentpb.Facts{
		Kernel: "0", Systemd: true, SystemState: "running", Uefi: m.uefi, MemoryBytes: 512 * mib,
		Interfaces: []*agentpb.Interface{
			{Name: "lo", Virtual: true, Up: true},
			{Name: "lan0", Mac: "52:54:00:11:22:33", Addresses: []string{"10.10.0.11/24"}, Up: true, Mtu: 1500},
			{Name: "eno2", Mac: "52:54:00:11:22:34", Addresses: []string{"10.20.0.11/24"}, Up: true, Mtu: 1500},
		},
		Listening: []*agentpb.Socket{
			{Protocol: "tcp", Address: "0.0.0.0", Port: 22, Process: "sshd"},
			{Protocol: "tcp6", Address: "::", Port: 22, Process: "sshd"},
		},
	}}
	s.Partitions = partitions(m)
	makeTable(t, s.Disk, s.Partitions)
	root := filepath.Join(dir, "root")
	unmount := mountAll(t, &s, m, root)
	run(t, "tar", "-C", root, "-xf", tree)
	configure(t, root, &s, m)
	if m.spoil != nil {
		m.spoil(t, root)
	}
	unmount()
	if m.uefi {
		esp := filepath.Join(dir, "esp")
		writeFile(t, filepath.Join(esp, "EFI/debian/grub.cfg"), "search.fs_uuid 0000 root\n")
		s.Partitions[1].MountPoint, s.Partitions[1].Tree = "/boot/efi", esp
		s.Facts.Filesystems = append(s.Facts.Filesystems, &agentpb.Filesystem{MountPoint: "/boot/efi", Type: "vfat", Uuid: s.Partitions[1].UUID})
	}
	return s
}

func partitions(m machine) []adapt.Partition {
	list := []adapt.Partition{
		{Kind: adapt.KindBIOSBoot, Size: mib},
		{Kind: adapt.KindESP, Type: "vfat", UUID: "1234-ABCD", Size: 64 * mib},
		{Kind: adapt.KindFilesystem, MountPoint: "/", Type: m.fs, Size: 1800 * mib,
			UUID: "aaaaaaaa-1111-4222-8333-000000000001", PartUUID: "aaaaaaaa-1111-4222-8333-00000000000a"},
	}
	if m.boot {
		list = append(list, adapt.Partition{Kind: adapt.KindFilesystem, MountPoint: "/boot", Type: "ext4", Size: 256 * mib,
			UUID: "aaaaaaaa-1111-4222-8333-000000000002"})
	}
	if m.varFS != "" {
		list = append(list, adapt.Partition{Kind: adapt.KindFilesystem, MountPoint: "/var", Type: m.varFS, Size: 600 * mib,
			UUID: "aaaaaaaa-1111-4222-8333-000000000003"})
	}
	at := int64(mib)
	for i := range list {
		list[i].Offset = at
		at += list[i].Size
	}
	return list
}

func makeTable(t *testing.T, disk string, list []adapt.Partition) {
	t.Helper()
	types := map[adapt.Kind]string{adapt.KindBIOSBoot: "21686148-6449-6E6F-744E-656564454649",
		adapt.KindESP: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", adapt.KindFilesystem: "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
	script := "label: gpt\n"
	end := int64(0)
	for _, p := range list {
		script += fmt.Sprintf("start=%d, size=%d, type=%s", p.Offset/512, p.Size/512, types[p.Kind])
		if p.PartUUID != "" {
			script += ", uuid=" + p.PartUUID
		}
		script += "\n"
		end = p.Offset + p.Size
	}
	f, err := os.Create(disk)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(end + mib)
	f.Close()
	cmd := exec.Command("sfdisk", "-q", disk)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
}

// mountAll makes the filesystems and mounts them as the source would.
func mountAll(t *testing.T, s *Subject, m machine, root string) (unmount func()) {
	t.Helper()
	var mounted []string
	done := false
	unmount = func() {
		for !done && len(mounted) > 0 {
			last := len(mounted) - 1
			run(t, "umount", mounted[last])
			mounted = mounted[:last]
		}
		done = true
	}
	t.Cleanup(unmount)
	for i, p := range s.Partitions {
		if p.Kind != adapt.KindFilesystem {
			continue
		}
		part := filepath.Join(filepath.Dir(s.Disk), fmt.Sprint("part", i))
		f, _ := os.Create(part)
		f.Truncate(p.Size)
		f.Close()
		switch p.Type {
		case "ext4":
			run(t, "mkfs.ext4", "-q", "-U", p.UUID, part)
		case "xfs":
			run(t, "mkfs.xfs", "-q", "-m", "uuid="+p.UUID, part)
		case "btrfs":
			run(t, "mkfs.btrfs", "-q", "-U", p.UUID, part)
		}
		run(t, "dd", "if="+part, "of="+s.Disk, "bs=1M", "conv=notrunc,sparse", fmt.Sprint("seek=", p.Offset/mib), "status=none")
		os.Remove(part)
		at := filepath.Join(root, p.MountPoint)
		os.MkdirAll(at, 0o755)
		options := fmt.Sprintf("loop,offset=%d,sizelimit=%d", p.Offset, p.Size)
		mount := &agentpb.Mount{MountPoint: p.MountPoint, Root: "/"}
		run(t, "mount", "-t", p.Type, "-o", options, s.Disk, at)
		if p.MountPoint == "/" && m.subvol != "" {
			run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(at, m.subvol))
			run(t, "umount", at)
			run(t, "mount", "-t", p.Type, "-o", options+",subvol="+m.subvol, s.Disk, at)
			mount.Root = "/" + m.subvol
		}
		mounted = append(mounted, at)
		s.Facts.Filesystems = append(s.Facts.Filesystems, &agentpb.Filesystem{MountPoint: p.MountPoint, Type: p.Type, Uuid: p.UUID,
			Device: fmt.Sprint("/dev/sda", i+1), Mounts: []*agentpb.Mount{mount}})
	}
	return unmount
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configure makes the tree the server's own.
func configure(t *testing.T, root string, s *Subject, m machine) {
	t.Helper()
	writeFile(t, filepath.Join(root, "etc/hostname"), "web1\n")
	writeFile(t, filepath.Join(root, "etc/machine-id"), "0123456789abcdef0123456789abcdef\n")
	writeFile(t, filepath.Join(root, "etc/network/interfaces"), "auto lo lan0 eno2\niface lo inet loopback\n"+
		"iface lan0 inet static\n    address 10.10.0.11/24\niface eno2 inet dhcp\n")
	fstab := "# <file system> <mount point> <type> <options>\n"
	for i, fs := range s.Facts.Filesystems {
		spec := "UUID=" + fs.Uuid
		if m.devNames {
			spec = fmt.Sprint("/dev/sda", i+1)
		}
		options := "defaults"
		if m.subvol != "" && fs.MountPoint == "/" {
			options = "subvol=" + m.subvol
		}
		fstab += fmt.Sprintf("%s\t%s %s  %s 0 1\n", spec, fs.MountPoint, fs.Type, options)
	}
	if m.uefi {
		fstab += "UUID=1234-ABCD /boot/efi vfat umask=0077 0 1\n"
	}
	if m.stale {
		fstab += "/dev/sdb1 none swap sw 0 0\nUUID=dead-beef /data ext4 defaults 0 2\nnas:/export /mnt nfs defaults 0 0\n"
	}
	writeFile(t, filepath.Join(root, "etc/fstab"), fstab)
	keys, _ := filepath.Glob(filepath.Join(root, "etc/ssh/ssh_host_*_key.pub"))
	for _, k := range keys {
		f := strings.Fields(run(t, "ssh-keygen", "-lf", k))
		s.Facts.HostKeys = append(s.Facts.HostKeys, &agentpb.HostKey{Fingerprint: f[1],
			Type: strings.ToLower(strings.Trim(f[len(f)-1], "()"))})
	}
}

var probeFile string // set once built, for TestMain to remove

var probe = sync.OnceValues(func() (string, error) {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("leeward-probe-%d", os.Getpid()))
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", file, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build probe: %w: %s", err, out)
	}
	probeFile = file
	return file, nil
})

// TestMain keeps what tests mount to themselves. A child that a test starts to
// kill it drills instead.
func TestMain(m *testing.M) {
	if os.Getuid() == 0 {
		if err := mountns.Enter(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if spec := os.Getenv(childVariable); spec != "" {
		os.Exit(drillAsChild(spec))
	}
	code := m.Run()
	if probeFile != "" {
		os.Remove(probeFile)
	}
	os.Exit(code)
}
