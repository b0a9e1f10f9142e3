package adapt

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const debianGrub = `
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
else
   set default="1>2"
fi
function savedefault { if [ -z "${boot_once}" ]; then saved_entry="${chosen}"; fi }
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-1111' {
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; fi
	search --no-floppy --fs-uuid --set=root 1111
	linux	/boot/vmlinuz-6.1.0-30-amd64 root=UUID=1111 ro  quiet "dyndbg=file x +p"
	initrd	/boot/initrd.img-6.1.0-30-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1111' {
	menuentry 'Debian, with Linux 6.1.0-30-amd64' --id=a { linux /boot/vmlinuz-6.1.0-30-amd64 ro
	}
	menuentry 'Debian, with Linux 6.1.0-30-amd64 (recovery mode)' --id rec {
		linux /boot/vmlinuz-6.1.0-30-amd64 ro single
	}
	menuentry 'Debian, with Linux 5.10.0-28-amd64' {
		linux /boot/vmlinuz-5.10.0-28-amd64 ro old=1
		initrd /boot/ucode.img /boot/initrd.img-5.10.0-28-amd64
	}
}
menuentry "UEFI Firmware Settings" { fwsetup }
`

func TestGrubConfig(t *testing.T) {
	m := parseGrubConfig(debianGrub)
	if n := len(m.entries); n != 3 {
		t.Fatalf("%d entries", n)
	}
	if n := len(m.all()); n != 4 {
		t.Fatalf("%d kernels", n)
	}
	if m.fallback != "1>2" {
		t.Fatalf("default %q", m.fallback)
	}
	for name, linux := range map[string]string{
		"0": "/boot/vmlinuz-6.1.0-30-amd64", "1>2": "/boot/vmlinuz-5.10.0-28-amd64", "1": "/boot/vmlinuz-6.1.0-30-amd64",
		"gnulinux-advanced-1111>rec": "/boot/vmlinuz-6.1.0-30-amd64",
		"Advanced options for Debian GNU/Linux>Debian, with Linux 5.10.0-28-amd64": "/boot/vmlinuz-5.10.0-28-amd64",
	} {
		if e := m.find(name); e == nil || e.linux != linux {
			t.Errorf("%s: got %+v, want %s", name, e, linux)
		}
	}
	for _, name := range []string{"9", "", "1>9", "nothing"} {
		if e := m.find(name); e != nil {
			t.Errorf("%s: got %+v", name, e)
		}
	}
	if got := m.entries[0].args; got != `root=UUID=1111 ro quiet dyndbg="file x +p"` {
		t.Errorf("arguments %q", got)
	}
	if got := m.find("1>2").initrds; !slices.Equal(got, []string{"/boot/ucode.img", "/boot/initrd.img-5.10.0-28-amd64"}) {
		t.Errorf("initrds %q", got)
	}
}

func FuzzGrubConfig(f *testing.F) {
	f.Add(debianGrub)
	f.Add("menuentry 'a' { { } submenu { ; } } } \\")
	f.Fuzz(func(t *testing.T, text string) {
		m := parseGrubConfig(text)
		for _, e := range m.all() {
			if e.linux == "" {
				t.Fatal("an entry without a kernel")
			}
		}
		m.find(m.fallback)
	})
}

func TestCleanArgs(t *testing.T) {
	ext4 := &Filesystem{Partition: Partition{UUID: "U", Type: "ext4"}}
	btrfs := &Filesystem{Partition: Partition{UUID: "U", Type: "btrfs"}}
	const tail = " root=UUID=U noresume multipath=off rd.multipath=0 console=tty0 console=ttyS0,115200"
	for _, test := range []struct {
		old, sub, want string
		root           *Filesystem
	}{
		{"BOOT_IMAGE=/boot/v root=/dev/sda1 ro quiet splash resume=UUID=x console=ttyS1", ".", "ro" + tail, ext4},
		{"rw net.ifnames=0 audit=1 rd.lvm.lv=vg/root rd.luks.uuid=x $tuned_params crashkernel=auto", ".", "rw net.ifnames=0 audit=1" + tail, ext4},
		{`dyndbg="file a +p" mitigations=off mitigations=off`, ".", `dyndbg="file a +p" mitigations=off ro` + tail, ext4},
		{"ro rootflags=subvol=@old,compress=zstd,subvolid=5", "@", "ro root=UUID=U rootflags=compress=zstd,subvol=@" +
			" noresume multipath=off rd.multipath=0 console=tty0 console=ttyS0,115200", btrfs},
		{"ro -- single", ".", "ro" + tail, ext4},
	} {
		got := cleanArgs(test.old, test.root, test.sub)
		if got != test.want {
			t.Errorf("%q\n got %q\nwant %q", test.old, got, test.want)
		}
		if again := cleanArgs(got, test.root, test.sub); again != got {
			t.Errorf("%q a second time: %q", got, again)
		}
	}
}

func TestCompareVersions(t *testing.T) {
	sorted := []string{"4.9.0", "5.10.0-8", "5.10.0-28-amd64", "6.1.0~rc1-amd64", "6.1.0-9-amd64", "6.1.0-30-amd64", "6.12.9"}
	for i := range sorted {
		for k := range sorted {
			want := 0
			if i < k {
				want = -1
			} else if i > k {
				want = 1
			}
			if got := compareVersions(sorted[i], sorted[k]); got != want {
				t.Errorf("%s against %s: %d, want %d", sorted[i], sorted[k], got, want)
			}
		}
	}
}

func TestBzImageVersion(t *testing.T) {
	head := make([]byte, 0x4000)
	copy(head[bzMagicAt:], bzImageMagic)
	binary.LittleEndian.PutUint16(head[bzVersionAt:], 0x3000)
	copy(head[0x3200:], "6.1.0-30-amd64 (debian@x) #1\x00")
	if got := bzImageVersion(head); got != "6.1.0-30-amd64" {
		t.Errorf("got %q", got)
	}
	for _, n := range []int{0, 0x202, 0x210, 0x3200} {
		if got := bzImageVersion(head[:n]); got != "" {
			t.Errorf("of %d bytes: %q", n, got)
		}
	}
	copy(head[0x3200:], "../../etc\x00")
	if got := bzImageVersion(head); got != "" {
		t.Errorf("a path: %q", got)
	}
}

func TestBLS(t *testing.T) {
	e := parseBLS("id-5.14.conf", "title Alma\nversion 5.14\nlinux /vmlinuz-5.14\ninitrd /initramfs-5.14.img $tuned_initrd\n"+
		"options $kernelopts  audit=1\noptions\textra ${x}\n", map[string]string{"kernelopts": "root=/dev/a ro", "x": "y"})
	if e.id != "id-5.14" || e.linux != "/vmlinuz-5.14" || e.args != "root=/dev/a ro  audit=1 extra y" ||
		!slices.Equal(e.initrds, []string{"/initramfs-5.14.img"}) {
		t.Errorf("got %+v", e)
	}
}

func TestInstallBIOSKeepsTheTable(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	old := bytes.Repeat([]byte{0xee}, 3<<20)
	if err := os.WriteFile(disk, old, 0o600); err != nil {
		t.Fatal(err)
	}
	boot, core := bytes.Repeat([]byte{1}, 512), bytes.Repeat([]byte{2}, 5000)
	const at = 1 << 20
	if err := installBIOS(disk, boot, core, at, 1<<20); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(disk)
	if !bytes.Equal(b[bootCodeSize:at], old[bootCodeSize:at]) || !bytes.Equal(b[at+5000:], old[at+5000:]) {
		t.Error("wrote where it must not")
	}
	if got := binary.LittleEndian.Uint64(b[bootKernelSector:]); got != at/512 {
		t.Errorf("first sector of the core: %d", got)
	}
	if got := binary.LittleEndian.Uint64(b[at+blocklistStart:]); got != at/512+1 {
		t.Errorf("blocklist begins at %d", got)
	}
	if got := binary.LittleEndian.Uint16(b[at+blocklistLength:]); got != 9 { // 5000 bytes are 9 sectors and a bit; one is the first
		t.Errorf("blocklist of %d sectors", got)
	}
	if err := installBIOS(disk, boot, core, at, 4096); err == nil {
		t.Error("a core larger than its partition was accepted")
	}
}

func TestFATHoldsTheTree(t *testing.T) {
	for _, tool := range []string{"mformat", "mcopy", "mdir"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs ", tool)
		}
	}
	dir := t.TempDir()
	disk, tree := filepath.Join(dir, "disk"), filepath.Join(dir, "tree")
	os.MkdirAll(filepath.Join(tree, "EFI/debian"), 0o755)
	os.WriteFile(filepath.Join(tree, "EFI/debian/A long Name.cfg"), []byte("content"), 0o644)
	for _, size := range []int64{16 << 20, 64 << 20} {
		os.WriteFile(disk, nil, 0o600)
		os.Truncate(disk, 1<<20+size)
		p := Partition{MountPoint: "/boot/efi", Offset: 1 << 20, Size: size, UUID: "1A2B-3C4D", Label: "ESP"}
		if err := writeFAT(disk, p, tree); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("mtype", "-i", disk+"@@1M", "::/EFI/debian/A long Name.cfg").Output()
		if err != nil || string(out) != "content" {
			t.Errorf("%d bytes: %q, %v", size, out, err)
		}
		if out, _ := exec.Command("mdir", "-i", disk+"@@1M", "::/").Output(); !strings.Contains(string(out), "1A2B-3C4D") {
			t.Errorf("%d bytes: serial number: %s", size, out)
		}
	}
}

func TestAddLoader(t *testing.T) {
	core := filepath.Join(t.TempDir(), "core")
	os.WriteFile(core, []byte("loader"), 0o600)
	for name, mountPoint := range map[string]string{"mounted": "/boot/efi", "of our own": ""} {
		g, dirs := testImage(t, rootPartition)
		esp := t.TempDir()
		os.MkdirAll(filepath.Join(esp, "efi/Boot"), 0o755)
		os.WriteFile(filepath.Join(esp, "efi/Boot/bootx64.efi"), []byte("the source's"), 0o644)
		root, err := os.OpenRoot(esp)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		j := &job{img: g, report: &Report{}}
		if err := j.addLoader(&Filesystem{Partition{Kind: KindESP, MountPoint: mountPoint, Tree: esp}, root}, core); err != nil {
			t.Fatal(err)
		}
		if b, _ := os.ReadFile(filepath.Join(esp, "efi/Boot/bootx64.efi")); string(b) != "loader" {
			t.Errorf("%s: the loader is %q", name, b)
		}
		if left, _ := os.ReadDir(dirs["/"]); len(left) > 0 {
			t.Errorf("%s: wrote to the root filesystem: %v", name, left)
		}
	}
}
