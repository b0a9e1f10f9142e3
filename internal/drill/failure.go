package drill

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

// failure is why a point is not proven: a sentence, advice, and whether this host
// is to blame rather than the point.
type failure struct {
	cause, hint string
	host        bool
	name        string // in the table of causes; "" where it is not from there
	mount       string // mount point that the cause is about, if there is one
}

func failed(f failure) *failure { return &f }

func hostFailure(what string, err error) failure {
	f := failure{cause: fmt.Sprintf("%s: %v", what, err), host: true, hint: "this says nothing of the recovery point; mend this host and drill again"}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.hint = "the drill was ended from outside; run it again"
	case errors.Is(err, syscall.ENOSPC):
		f.hint = "make room where the clones are kept and drill again"
	case errors.Is(err, exec.ErrNotFound):
		f.hint = "install qemu-system-x86, ovmf, grub-pc-bin, grub-efi-amd64-bin and mtools on this host"
	case errors.Is(err, vm.ErrNoUEFI):
		f.hint = "install ovmf on this host, or drill with --firmware bios"
	}
	return f
}

// adaptFailure tells trouble of this host from a point that cannot boot.
func adaptFailure(err error) failure {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.EPERM) ||
		errors.Is(err, context.Canceled) {
		return hostFailure("adapt the clone", err)
	}
	f := failure{cause: "the clone cannot be adapted: " + err.Error(), hint: "see what the error names in the replica, then drill again"}
	switch {
	case errors.Is(err, adapt.ErrNoKernel):
		f.hint = "install a kernel with virtio drivers at the source (Debian: linux-image-amd64), replicate and drill again"
	case errors.Is(err, syscall.ENOSPC):
		f.cause = "full root: the boot files find no room in the machine's filesystems"
		f.hint = "make room at the source: the boot files need a few dozen MiB there; then replicate and drill again"
	case strings.Contains(err.Error(), "adapt initramfs:"):
		f.cause = "damaged initramfs: " + f.cause
		f.hint = "make it again at the source (Debian: update-initramfs -u -k all; others: dracut -f), replicate and drill again"
	}
	return f
}

// advice is what to say of a bad sign.
type advice struct {
	sign        vm.Sign
	cause, hint string
}

var signAdvice = [...]advice{
	{vm.SignSwitchStalled, "the root filesystem holds no init", "verify the replica: parts of the system are missing"},
	{vm.SignCPUTooOld, "the processor offered here is too old for the system", "drill with KVM, or with a richer processor model"},
	{vm.SignNoRoot, "the kernel did not find the root filesystem",
		"look at the log for the device it waited for; compare it with the layout of the replica"},
	{vm.SignInitramfs, "the boot stopped in the initramfs", "look at the log for what it could not mount"},
	{vm.SignPanic, "the kernel panicked", "look at the log above the panic"},
	{vm.SignEmergency, "systemd went into emergency mode",
		"look at the log for the unit or mount that failed, usually a line of /etc/fstab"},
	{vm.SignLoaderError, "the boot loader could not load the kernel", "verify /boot of the replica; see the log for the file it missed"},
	{vm.SignShell, "the firmware found no boot loader and went to its shell", "check the EFI system partition of the replica"},
	{vm.SignNoBootDevice, "the firmware found no boot loader", "drill with the other firmware; check the boot partitions of the replica"},
}

// signFailure returns what a bad sign means once its grace is over.
func signFailure(c *vm.Console, now time.Time) *failure {
	seen := c.Sightings()
	for _, a := range signAdvice {
		for i, s := range seen {
			if s.Sign != a.sign || now.Sub(s.At) < failureGrace {
				continue
			}
			// Firmware tries one device after the other and complains meanwhile.
			if a.sign == vm.SignNoBootDevice && i+1 < len(seen) {
				continue
			}
			if f, ok := diagnose(c.Tail()); ok {
				return &f
			}
			return &failure{cause: a.cause + ": " + s.Line, hint: a.hint}
		}
	}
	return nil
}

func exitFailure(c *vm.Console) failure {
	f := signFailure(c, time.Now().Add(failureGrace))
	if f != nil {
		return *f
	}
	if c.Bytes() == 0 {
		return failure{cause: "the machine ended without a word", hint: "see whether QEMU runs on this host", host: true}
	}
	return failure{cause: "the machine turned itself off: " + lastLine(c), hint: "look at the end of the log"}
}

func timeoutFailure(c *vm.Console, checks []Check, reported bool, after time.Duration) failure {
	if f := signFailure(c, time.Now().Add(failureGrace)); f != nil && !reported {
		return *f
	}
	_, login := c.Seen(vm.SignLogin)
	switch {
	case c.Bytes() == 0:
		return failure{host: true, cause: fmt.Sprintf("no sign of life on the console in %s", after),
			hint: "the host may be overloaded: drill fewer at once, or give it more time"}
	case reported && !holds(checks):
		return checksFailure(c, checks)
	case login && !reported:
		return failure{cause: "a login prompt came, but no report from inside within " + after.String(),
			hint: "look at the log for units that hang; give it more time"}
	case reported:
		return failure{cause: "the system runs, but no login prompt came on the serial console", hint: "check serial-getty@ttyS0 of the source"}
	}
	if unit := waitsFor(c.Tail()); unit != "" {
		return failure{cause: fmt.Sprintf("not up after %s: the start waits for %s", after, unit),
			hint: "see at the source what that waits for; a drilled machine reaches nobody outside"}
	}
	return failure{cause: fmt.Sprintf("not up after %s; its last words: %s", after, lastLine(c)),
		hint: "give it more time, or drill fewer at once"}
}

// checksFailure is of a machine that came up and is not as its source. Where the
// console tells the ground of that, it goes first.
func checksFailure(c *vm.Console, checks []Check) failure {
	f := failure{cause: "the machine came up, but " + wrongs(checks), hint: "compare with the source; see the log for units that failed"}
	ground, ok := diagnose(c.Tail())
	if ok && slices.Contains([]string{"full root", "read-only root", "filesystem damaged", "memory"}, ground.name) {
		f.cause, f.hint = ground.cause+"; "+f.cause, ground.hint
	}
	return f
}

func wrongs(checks []Check) string {
	var out []string
	for _, c := range checks {
		if c.Outcome != dr.Done {
			out = append(out, c.Detail)
		}
	}
	return strings.Join(out, "; ")
}

func lastLine(c *vm.Console) string {
	if tail := c.Tail(); len(tail) > 0 {
		return tail[len(tail)-1]
	}
	return "none"
}
