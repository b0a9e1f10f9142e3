package adapt

import (
	"slices"
	"strings"
)

// splitArgs splits kernel arguments; double quotes keep spaces, and stay.
func splitArgs(s string) []string {
	var args []string
	var a strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quoted = !quoted
			a.WriteByte(c)
		case !quoted && (c == ' ' || c == '\t' || c == '\n' || c == '\r'):
			if a.Len() > 0 {
				args = append(args, a.String())
				a.Reset()
			}
		default:
			a.WriteByte(c)
		}
	}
	if a.Len() > 0 {
		args = append(args, a.String())
	}
	return args
}

// quoteArgs joins arguments whose quotes have been taken.
func quoteArgs(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if key, value, ok := strings.Cut(a, "="); ok && strings.ContainsAny(value, " \t") && !strings.Contains(value, `"`) {
			a = key + `="` + value + `"`
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

// droppedArgs are kernel arguments that describe the source's hardware or
// storage, hide its messages, or are set anew.
var droppedArgs = [...]string{
	"root", "rootfstype", "rootflags", "resume", "resume_offset", "noresume", "resumeflags",
	"BOOT_IMAGE", "initrd", "ip", "BOOTIF", "netroot", "ifname", "nfsroot", "boot",
	"console", "earlyprintk", "earlycon", "quiet", "splash", "rhgb", "loglevel", "systemd.show_status", "udev.log_level",
	"crashkernel", "hugepages", "hugepagesz", "default_hugepagesz", "isolcpus", "nohz_full", "rcu_nocbs", "mem", "memmap",
	"maxcpus", "nr_cpus", "possible_cpus", "numa", "intel_iommu", "amd_iommu", "iommu", "video", "elevator", "vga",
	"pci", "acpi", "reboot", "panic", "nmi_watchdog", "clocksource", "cryptdevice", "cryptkey", "domdadm", "dolvm",
	"md", "raid", "zfs", "modules", "usbdelay", "multipath", "nompath", "noapic", "nolapic", "nomodule", "nomodules", "pcie_aspm", "xencons",
	"virtio_mmio.device", "systemd.journald.forward_to_console",
}

var droppedPrefixes = [...]string{"rd.lvm", "rd.luks", "rd.md", "rd.dm", "rd.multipath", "rd.iscsi", "rd.zfcp", "rd.fcoe",
	"rd.break", "rd.driver.blacklist=virtio", "iscsi_", "luks.", "intel_idle.", "nvme_core.", "$"}

func isDropped(arg string) bool {
	key, _, _ := strings.Cut(arg, "=")
	if slices.Contains(droppedArgs[:], key) {
		return true
	}
	return slices.ContainsFunc(droppedPrefixes[:], func(p string) bool { return strings.HasPrefix(arg, p) })
}

// cleanArgs returns the arguments the machine boots with: those of the source
// without what ties them to it, then where root is, the extra ones, and where to
// speak.
func cleanArgs(old string, root *Filesystem, sub string, extra ...string) string {
	var args []string
	rootflags := ""
	for _, a := range splitArgs(old) {
		if v, ok := strings.CutPrefix(a, "rootflags="); ok {
			rootflags = v
		}
		if a == "--" { // what follows is for init
			break
		}
		if !isDropped(a) && !slices.Contains(args, a) {
			args = append(args, a)
		}
	}
	if !slices.Contains(args, "ro") && !slices.Contains(args, "rw") {
		args = append(args, "ro")
	}
	args = append(args, "root=UUID="+root.UUID)
	if f := rootFlags(rootflags, root.Type, sub); f != "" {
		args = append(args, "rootflags="+f)
	}
	args = append(args, "noresume", "multipath=off", "rd.multipath=0")
	args = append(args, extra...)
	return strings.Join(append(args, "console=tty0", "console=ttyS0,115200"), " ")
}

// rootFlags keeps the mount options of root that still hold, and names the
// subvolume.
func rootFlags(old, kind, sub string) string {
	var flags []string
	for _, f := range strings.Split(old, ",") {
		key, _, _ := strings.Cut(f, "=")
		if f == "" || slices.Contains([]string{"subvol", "subvolid", "device", "degraded", "sunit", "swidth", "logdev"}, key) {
			continue
		}
		flags = append(flags, f)
	}
	if kind == "btrfs" && sub != "." {
		flags = append(flags, "subvol="+sub)
	}
	return strings.Join(flags, ",")
}
