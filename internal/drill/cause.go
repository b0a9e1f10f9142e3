package drill

import (
	"fmt"
	"regexp"
	"strings"
)

// cause is a reason why a machine did not come up, as its console tells it.
type cause struct {
	name    string
	tells   *regexp.Regexp // found in a line of the console; its groups fill what and try
	beside  *regexp.Regexp // found in another line too; nil wants nothing
	without *regexp.Regexp // found in no line; nil forbids nothing
	what    string         // a sentence
	try     string
	mount   int            // group that holds a mount point, whose line of fstab is told; 0 is none
	why     *regexp.Regexp // what else is told of it, where it is found
}

var (
	emergency = regexp.MustCompile(`[Ee]mergency mode|root password for maintenance|root account is locked`)
	// complaint is a kernel's of a filesystem that it does not mount.
	complaint = regexp.MustCompile(`(?:EXT4-fs|XFS|BTRFS|ext4|xfs|btrfs|overlay|tmpfs)\b[^\n]*(?:[Uu]nknown parameter|[Uu]nrecognized mount option|bad |superblock|open_ctree|[Cc]orrupt)[^\n]*`)
	absent    = regexp.MustCompile(`Timed out waiting for device .*?/dev/[^\s]*[^\s.]`)
	diskSeen  = regexp.MustCompile(`\[(?:vd|sd|xvd|nvme)\w+\] \d+ \d+-byte logical blocks|(?:vd|sd)a: (?:vd|sd)a\d`)
)

// causes are the reasons, the most particular ones first: one that is the ground of
// another stands before it.
var causes = []cause{
	{name: "processor too old", tells: regexp.MustCompile(`CPU does not support (x86-64-v\d)|kernel requires an (x86-64) CPU`),
		what: "the processor offered here is too old for the system: it wants $1$2", try: "drill with KVM, or with a richer processor model"},
	{name: "library missing", tells: regexp.MustCompile(`([\w./-]*): error while loading shared libraries: ([\w.+-]+)`), beside: regexp.MustCompile(`Kernel panic`),
		what: "missing library: $1 does not start because $2 is not there", try: "verify the replica: parts of the system are missing; then replicate and drill again"},
	{name: "missing directory", tells: regexp.MustCompile(`run-init: opening console: No such file|mounting \S+ on (?:/root)?/(?:dev|proc|sys|run) failed: No such file`),
		what: "missing directory: the root filesystem has no /dev, /proc, /sys or /run for the kernel's own filesystems", try: "make the directories at the source, empty as they are; replicate and drill again"},
	{name: "missing init", tells: regexp.MustCompile(`Requested init (\S+) failed \(error (-?\d+)\)`),
		what: "missing init: the kernel could not run $1 (error $2)", try: "drop init= from the kernel arguments of the source, or verify the replica: parts of the system are missing"},
	{name: "missing init", tells: regexp.MustCompile(`No (?:working )?init found|doesn't have requested (\S+)|Failed to execute (/sbin/init)`),
		what: "missing init: the root filesystem holds no init", try: "verify the replica: parts of the system are missing; at Debian systemd-sysv brings /sbin/init"},
	{name: "missing init", tells: regexp.MustCompile(`(?:can't execute '|run-init: )(/\S*init)(?:': |: )No such file|Starting init: (/\S+) exists but couldn't execute it`),
		what: "missing init: $1$2 cannot be started: it or the library that starts programs (ld-linux) is missing", try: "verify the replica: parts of the system are missing; then replicate and drill again"},
	{name: "no os-release", tells: regexp.MustCompile(`(?:os-release file is missing|does not seem to be an OS tree)`),
		what: "the filesystem mounted as root holds no system: it has no os-release file", try: "compare the layout of the replica with the source: another filesystem may be root there"},
	{name: "damaged initramfs", tells: regexp.MustCompile(`Initramfs unpacking failed: (.+)`), beside: regexp.MustCompile(`Kernel panic|Unable to mount root`),
		what: "damaged initramfs: the kernel could not unpack it ($1)", try: "make it again at the source (Debian: update-initramfs -u -k all; others: dracut -f), replicate and drill again"},
	{name: "no root device", tells: regexp.MustCompile(`Unable to mount root fs on ("[^"]*" or )?(unknown-block\(\d+,\d+\))`), without: diskSeen,
		what: "kernel panic: no root device; no disk appeared at all, $2", try: "the kernel has no virtio driver and no initramfs that brings one: make the initramfs again at the source, replicate and drill again"},
	{name: "no root device", tells: regexp.MustCompile(`Unable to mount root fs on ("[^"]*" or )?(unknown-block\(\d+,\d+\))`),
		what: "kernel panic: no root device; the disk is there, but not the filesystem the kernel was told of, $2", try: "see that an initramfs belongs to the kernel in /boot of the source, and compare root= with the replica's filesystems"},
	{name: "missing driver", tells: regexp.MustCompile(`ALERT!\s+(\S+?)\s+does not exist|Warning: (/dev/\S+) does not exist`), beside: regexp.MustCompile(`Linux version`), without: diskSeen,
		what: "missing virtio driver: no disk appeared, so $1$2 was never found", try: "install a kernel with virtio drivers at the source and make its initramfs again, then replicate and drill again"},
	{name: "volume group", tells: regexp.MustCompile(`Volume group "(\S+)" not found`), beside: regexp.MustCompile(`ALERT!|does not exist|emergency`),
		what: "the boot waits for LVM volume group $1, which a replica does not have", try: "drop it from the kernel arguments and from fstab of the source"},
	{name: "wrong UUID", tells: regexp.MustCompile(`ALERT!\s+UUID=(\S+?)\s+does not exist|Warning: /dev/disk/by-uuid/(\S+) does not exist`), beside: diskSeen,
		what: "wrong UUID: the disk is there, but no filesystem with UUID $1$2, which is to be root", try: "the replica's layout and its filesystem differ: verify the replica, or replicate the server anew"},
	{name: "root not found", tells: regexp.MustCompile(`ALERT!\s+(\S+?)\s+does not exist|Warning: (/dev/\S+) does not exist`), beside: diskSeen,
		what: "the disk is there, but not $1$2, which is to be root", try: "compare root= of the boot menu with the replica's filesystems"},
	{name: "passphrase", tells: regexp.MustCompile(`(?:enter passphrase for|unlock disk|Enter passphrase for disk) (\S+)`),
		what: "the boot waits for the passphrase of disk $1", try: "drop it from /etc/crypttab where the replica holds it in the clear"},
	{name: "filesystem damaged", tells: regexp.MustCompile(`(\S+): UNEXPECTED INCONSISTENCY`),
		what: "the filesystem on $1 is damaged: its check asks for a person", try: "drill an older recovery point; run fsck at the source and replicate again"},
	{name: "filesystem damaged", tells: regexp.MustCompile(`(?:EXT4-fs error|XFS).*\(?(?:device )?([sv]d\w+)\)?:.*(?:[Cc]orrupt|[Bb]ad|checksum|Structure needs cleaning)`),
		what: "the filesystem on $1 is damaged", try: "drill an older recovery point; check the filesystem at the source and replicate again"},
	{name: "full root", tells: regexp.MustCompile(`No space left on device`),
		what: "full root: something could not be written for want of space", try: "make room on the source's filesystems, replicate and drill again"},
	{name: "fstab line", tells: regexp.MustCompile(`Failed to mount (?:\S+\.mount\S* - )?(/[^\s.]\S*?)\.*(?:\s|$)`), beside: emergency, mount: 1,
		what: "emergency mode: $1 could not be mounted", why: complaint, try: "mend that line of /etc/fstab at the source, or give it the option nofail; replicate and drill again"},
	{name: "fstab line", tells: regexp.MustCompile(`Dependency failed for (?:\S+\.swap\S* - )?(/dev/\S+?)\.*(?:\s|$)`), beside: emergency,
		what: "emergency mode: swap $1 is not there, which a line of /etc/fstab names", try: "mend that line of /etc/fstab at the source, or give it the option nofail; replicate and drill again"},
	{name: "fstab line", tells: regexp.MustCompile(`Dependency failed for (?:\S+\.mount\S* - )?(/[^\s.]\S*?)\.*(?:\s|$)`), beside: emergency, mount: 1,
		what: "emergency mode: what $1 is to be mounted from never appeared", why: absent, try: "mend that line of /etc/fstab at the source, or give it the option nofail; replicate and drill again"},
	{name: "device missing", tells: regexp.MustCompile(`Timed out waiting for device (?:\S+\.device\S* - )?(/\S*?)\.*$`), beside: emergency,
		what: "emergency mode: device $1 never appeared, which a line of /etc/fstab names", try: "mend that line of /etc/fstab at the source, or give it the option nofail; replicate and drill again"},
	{name: "read-only root", tells: regexp.MustCompile(`Remounting filesystem read-only|[Rr]ead-only file ?system`),
		what: "read-only root: the root filesystem cannot be written to", try: "see whether /etc/fstab of the source has / as ro, or whether its filesystem has errors (fsck)"},
	{name: "SELinux", tells: regexp.MustCompile(`Failed to load SELinux policy`),
		what: "SELinux: its policy could not be loaded", try: "verify /etc/selinux of the replica; reinstall selinux-policy at the source"},
	{name: "init froze", tells: regexp.MustCompile(`\[!!!!!!\] (.+?),? [Ff]reezing`),
		what: "systemd gave up: $1", try: "verify the replica: parts of the system are missing"},
	{name: "wrong UUID", tells: regexp.MustCompile(`error: no such device: ([\w-]+)`),
		what: "wrong UUID: no filesystem has UUID $1, where the boot loader looks for the kernel", try: "verify /boot of the replica, or replicate the server anew"},
	{name: "grub rescue", tells: regexp.MustCompile("error: file [`']([^']+)' not found"),
		what: "the boot loader could not load the kernel: $1 is not there", try: "verify /boot of the replica: the menu names a file that is missing"},
	{name: "grub rescue", tells: regexp.MustCompile(`error: (unknown filesystem|disk .* not found|invalid magic number|no such partition|you need to load the kernel first)`),
		what: "the boot loader could not load the kernel: $1", try: "verify /boot of the replica: its filesystem may use what the boot loader cannot read"},
	{name: "grub rescue", tells: regexp.MustCompile(`grub(?: rescue)?>`),
		what: "grub rescue: the boot loader found no menu", try: "verify /boot of the replica"},
	{name: "no boot loader", tells: regexp.MustCompile(`No bootable device|not a bootable disk|BdsDxe: No bootable option|UEFI Interactive Shell|Shell> `), without: regexp.MustCompile(`Linux version|GRUB`),
		what: "no boot loader: the firmware found nothing to start from", try: "drill with the other firmware (--firmware bios or uefi); check the boot partitions of the replica"},
	{name: "memory", tells: regexp.MustCompile(`System is deadlocked on memory|Out of memory: Killed process \d+ \(([^)]+)\)|Out of memory and no killable`),
		what: "out of memory: the machine has less than its source, and $1 was ended", try: "the source has more memory than a drilled machine gets; end other work on this host and drill it alone"},
	{name: "init died", tells: regexp.MustCompile(`Attempted to kill init! exitcode=0x00000004`),
		what: "init died of an instruction the processor offered here does not have", try: "drill with KVM, or with a richer processor model"},
	{name: "init died", tells: regexp.MustCompile(`Attempted to kill init!(?: exitcode=(0x\w+))?`),
		what: "the kernel panicked: init ended as it started ($1)", try: "look at the log above the panic; verify the replica"},
	{name: "kernel panic", tells: regexp.MustCompile(`Kernel panic - not syncing: (.+)`),
		what: "the kernel panicked: $1", try: "look at the log above the panic"},
}

// diagnose finds the cause in the lines of a console.
func diagnose(lines []string) (failure, bool) {
	for _, c := range causes {
		line, at := lastMatch(lines, c.tells)
		if at == nil {
			continue
		}
		if _, m := lastMatch(lines, c.without); m != nil {
			continue
		}
		if _, m := lastMatch(lines, c.beside); m == nil && c.beside != nil {
			continue
		}
		f := failure{cause: tidy(string(c.tells.ExpandString(nil, c.what, line, at))), hint: c.try, name: c.name}
		if line, at := lastMatch(lines, c.why); at != nil {
			f.cause += " (" + line[at[0]:at[1]] + ")"
		}
		if c.mount > 0 {
			f.mount = line[at[2*c.mount]:at[2*c.mount+1]]
		}
		return f, true
	}
	return failure{}, false
}

// lastMatch returns the last line in which re is found, and where its groups are.
func lastMatch(lines []string, re *regexp.Regexp) (string, []int) {
	if re == nil {
		return "", nil
	}
	for i := len(lines) - 1; i >= 0; i-- {
		if at := re.FindStringSubmatchIndex(lines[i]); at != nil {
			return lines[i], at
		}
	}
	return "", nil
}

// tidy drops what an empty group left behind.
func tidy(s string) string {
	return strings.TrimRight(strings.ReplaceAll(strings.ReplaceAll(s, " ()", ""), "  ", " "), " ,:")
}

// fstabLine names the line that mounts point, or says nothing.
func fstabLine(fstab, point string) string {
	n := 0
	for line := range strings.SplitSeq(fstab, "\n") {
		n++
		fields := strings.Fields(line)
		if len(fields) > 1 && !strings.HasPrefix(fields[0], "#") && fields[1] == point {
			return fmt.Sprintf(", line %d of /etc/fstab: %s", n, strings.Join(fields, " "))
		}
	}
	return ""
}

// waitsFor finds what systemd says it waits for, at the end of the lines.
func waitsFor(lines []string) string {
	line, at := lastMatch(lines, startJob)
	if at == nil {
		return ""
	}
	return line[at[2]:at[3]]
}

var startJob = regexp.MustCompile(`A (?:start|stop) job is running for (.+?) \(`)
