package drill

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/vm"
)

// consoleTexts are ends of boots as systems print them, and what their causes say.
var consoleTexts = []struct{ text, name, want string }{
	{"[    1.2] Linux version 6.1.0\n[    1.9] /dev/root: Can't open blockdev\n[    2.0] VFS: Cannot open root device \"UUID=0f\" or unknown-block(0,0): error -6\n" +
		"[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "no root device", "no disk appeared at all, unknown-block(0,0)"},
	{"[    1.1] virtio_blk virtio2: [vda] 41943040 512-byte logical blocks (21.5 GB/20.0 GiB)\n" +
		"[    2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on \"\" or unknown-block(253,1) ]---", "no root device", "the disk is there"},
	{"[    0.0] Linux version 5.10\nGave up waiting for root file system device.  Common problems:\n - Missing modules (cat /proc/modules; ls /dev)\nALERT!  UUID=0f12-ab does not exist.  Dropping to a shell!\n(initramfs) ",
		"missing driver", "missing virtio driver: no disk appeared, so UUID=0f12-ab was never found"},
	{"[    1.1] virtio_blk virtio2: [vda] 41943040 512-byte logical blocks (21.5 GB/20.0 GiB)\nALERT!  UUID=0f12-ab does not exist.  Dropping to a shell!\n(initramfs) ", "wrong UUID", "no filesystem with UUID 0f12-ab"},
	{"[    1.1] sd 0:0:0:0: [sda] 41943040 512-byte logical blocks: (21.5 GB/20.0 GiB)\n[  190.1] dracut-initqueue[400]: Warning: /dev/disk/by-uuid/77aa does not exist\n" +
		"Entering emergency mode. Exit the shell to continue.\ndracut:/# ", "wrong UUID", "UUID 77aa"},
	{"ALERT!  /dev/mapper/vg0-root does not exist.  Dropping to a shell!\n  Volume group \"vg0\" not found\n(initramfs) ", "volume group", "volume group vg0"},
	{"Target filesystem doesn't have requested /sbin/init.\nNo init found. Try passing init= bootarg.\n(initramfs) ", "missing init", "holds no init"},
	{"run-init: can't execute '/sbin/init': No such file or directory\n[ 3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "missing init", "/sbin/init cannot be started"},
	{"mount: mounting /dev on /root/dev failed: No such file or directory\nTarget filesystem doesn't have requested /sbin/init.\n(initramfs) ", "missing directory", "no /dev, /proc"},
	{"[    3.0] Kernel panic - not syncing: Requested init /opt/init failed (error -2).", "missing init", "/opt/init (error -2)"},
	{"/sbin/init: error while loading shared libraries: libsystemd-shared-252.so: cannot open shared object file: No such file or directory\n" +
		"[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00", "library missing", "libsystemd-shared-252.so"},
	{"[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000004", "init died", "an instruction the processor"},
	{"[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b", "init died", "init ended as it started (0x0000000b)"},
	{"[    3.1] Kernel panic - not syncing: Fatal exception in interrupt", "kernel panic", "the kernel panicked: Fatal exception in interrupt"},
	{"Fatal glibc error: CPU does not support x86-64-v2\n[  3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00", "processor too old", "x86-64-v2"},
	{"[    1.0] Initramfs unpacking failed: ZSTD-compressed data is corrupt\n[ 2.1] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "damaged initramfs", "ZSTD-compressed data is corrupt"},
	{"[ TIME ] Timed out waiting for device dev-disk-by\\x2duuid-77aa.device - /dev/disk/by-uuid/77aa.\n[DEPEND] Dependency failed for srv.mount - /srv.\n" +
		"[DEPEND] Dependency failed for local-fs.target - Local File Systems.\nYou are in emergency mode. After logging in, type", "fstab line", "what /srv is to be mounted from never appeared"},
	{"[FAILED] Failed to mount /srv/data.\nSee 'systemctl status srv-data.mount' for details.\n[DEPEND] Dependency failed for Local File Systems.\nYou are in emergency mode.", "fstab line", "/srv/data could not be mounted"},
	{"[ TIME ] Timed out waiting for device dev-disk-by\\x2duuid-dead\\x2dbeef.device - /dev/disk/by-uuid/dead-beef.\n[DEPEND] Dependency failed for data.mount - /data.\nYou are in emergency mode.",
		"fstab line", "what /data is to be mounted from never appeared (Timed out waiting for device dev-disk-by\\x2duuid-dead\\x2dbeef.device - /dev/disk/by-uuid/dead-beef)"},
	{"[DEPEND] Dependency failed for /srv/files.\nYou are in emergency mode.", "fstab line", "what /srv/files is to be mounted from"},
	{"[DEPEND] Dependency failed for dev-sdb1.swap - /dev/sdb1.\nGive root password for maintenance", "fstab line", "swap /dev/sdb1 is not there"},
	{"[FAILED] Failed to mount srv-data.mount - /srv/data.\nGive root password for maintenance", "fstab line", "/srv/data could not be mounted"},
	{"[    9.1] EXT4-fs (vda3): Unrecognized mount option \"nosuch\" or missing value\n[FAILED] Failed to mount /var.\nYou are in emergency mode.", "fstab line", "nosuch"},
	{"[    9.1] ext4: Unknown parameter 'nosuch'\n[FAILED] Failed to mount var.mount - /var.\nYou are in emergency mode.", "fstab line", "nosuch"},
	{"/dev/vda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n\t(i.e., without -a or -p options)\nfsck exited with status code 4\n(initramfs) ", "filesystem damaged", "/dev/vda1"},
	{"[    9.1] EXT4-fs error (device vda1): ext4_lookup:1855: inode #2: comm systemd: deleted inode referenced: bad extra_isize\nYou are in emergency mode.", "filesystem damaged", "vda1"},
	{"systemd-journald[200]: Failed to create new system journal: No space left on device\nYou are in emergency mode.", "full root", "for want of space"},
	{"[    9.1] EXT4-fs (vda1): Remounting filesystem read-only\nYou are in emergency mode.", "read-only root", "cannot be written"},
	{"[!!!!!!] Failed to mount API filesystems, freezing.\nCannot open access to console, the root account is locked", "init froze", "Failed to mount API filesystems"},
	{"error: no such device: 77aa-bb.\nEntering rescue mode...\ngrub rescue> ", "wrong UUID", "no filesystem has UUID 77aa-bb"},
	{"error: file `/boot/vmlinuz-6.1' not found.\nerror: you need to load the kernel first.\n", "grub rescue", "/boot/vmlinuz-6.1 is not there"},
	{"error: unknown filesystem.\ngrub rescue> ", "grub rescue", "could not load the kernel: unknown filesystem"},
	{"GNU GRUB  version 2.06\n\ngrub> ", "grub rescue", "found no menu"},
	{"Booting from Hard Disk...\nBoot failed: not a bootable disk\n\nNo bootable device.", "no boot loader", "nothing to start from"},
	{"BdsDxe: No bootable option or device was found.\n", "no boot loader", "nothing to start from"},
	{"[   70.1] Out of memory: Killed process 512 (mysqld) total-vm:1\n[ 70.2] Kernel panic - not syncing: System is deadlocked on memory", "memory", "less than its source"},
}

func TestCausesOfRecordedConsoles(t *testing.T) {
	for _, c := range consoleTexts {
		console := vm.NewConsole(nil)
		console.Write([]byte(c.text))
		f := signFailure(console, time.Now().Add(failureGrace))
		if f == nil || f.name != c.name || !strings.Contains(f.cause, c.want) || f.hint == "" || f.host {
			t.Errorf("%q\ntold as %+v, want %s: %q", c.text, f, c.name, c.want)
		}
		if f != nil && (strings.Contains(f.cause, "$") || strings.Contains(f.cause, "\n")) {
			t.Errorf("%q is no sentence", f.cause)
		}
	}
}

// TestCausesOfRealConsoles reads logs that broken machines left in their drills.
func TestCausesOfRealConsoles(t *testing.T) {
	for file, want := range map[string]string{
		"uuid": "wrong UUID: ", "library": "missing library: ", "init": "missing init: ", "option": "nosuchoption", "points": "missing directory: ", "libc": "missing init: ", "virtio": "missing virtio driver: ",
	} {
		b, err := os.ReadFile(filepath.Join("testdata/consoles", file+".log"))
		if err != nil {
			t.Fatal(err)
		}
		console := vm.NewConsole(nil)
		console.Write(b)
		f := signFailure(console, time.Now().Add(failureGrace))
		if f == nil || !strings.Contains(f.cause, want) {
			t.Errorf("%s: %+v, want %q", file, f, want)
		}
	}
}

func TestAGoodBootHasNoCause(t *testing.T) {
	lines := strings.Split("[ 0.0] Linux version 6.1\n[ 1.1] virtio_blk virtio2: [vda] 41943040 512-byte logical blocks\n[ 2.2] EXT4-fs (vda1): mounted filesystem with ordered data mode\n"+
		"[  OK  ] Reached target emergency.target\n[FAILED] Failed to start ntp.service.\nweb1 login: ", "\n")
	if f, ok := diagnose(lines); ok {
		t.Errorf("told as %+v", f)
	}
}

func TestFstabLineIsNamed(t *testing.T) {
	const fstab = "# a comment\nUUID=1 / ext4 defaults 0 1\n\n#UUID=2 /srv ext4 defaults 0 2\nUUID=3\t/srv  xfs  nosuch 0 2\n"
	tu := &turn{r: &Result{}, fstab: fstab}
	tu.fail(failure{cause: "emergency mode: /srv could not be mounted", mount: "/srv"})
	if want := "emergency mode: /srv could not be mounted, line 5 of /etc/fstab: UUID=3 /srv xfs nosuch 0 2"; tu.r.Cause != want {
		t.Errorf("told as %q, want %q", tu.r.Cause, want)
	}
	if got := fstabLine(fstab, "/else"); got != "" {
		t.Errorf("a line for nothing: %q", got)
	}
}

func FuzzDiagnose(f *testing.F) {
	for _, c := range consoleTexts {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if d, ok := diagnose(strings.Split(text, "\n")); ok && (d.cause == "" || d.hint == "") {
			t.Fatalf("%q: %+v", text, d)
		}
	})
}
