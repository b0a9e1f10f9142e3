package vm

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kvmGetAPIVersion = 0xAE00
	kvmAPIVersion    = 12
	kvmTrialTimeout  = 10 * time.Second
)

// Accelerator resolves want. For Auto it boots kernel, a bzImage, for a moment
// under KVM: nested or filtered KVM can open and even run firmware, and then show
// no sign of Linux. Without a kernel to try, Auto is TCG. why explains a choice
// of TCG in words. dir holds the trial's files.
func Accelerator(ctx context.Context, want Accel, kernel, dir string) (a Accel, why string) {
	if want != Auto && want != "" {
		return want, ""
	}
	if err := kvmOpens(); err != nil {
		return TCG, err.Error()
	}
	if kernel == "" {
		return TCG, "no kernel to try KVM with"
	}
	if err := kvmBoots(ctx, kernel, dir); err != nil {
		return TCG, err.Error()
	}
	return KVM, ""
}

// Emulated reports whether machines that want a are certain, without a trial, to
// be emulated.
func Emulated(a Accel) bool { return a == TCG || a != KVM && kvmOpens() != nil }

func kvmOpens() error {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open KVM: %w", err)
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err == nil && version != kvmAPIVersion {
		err = fmt.Errorf("version %d, want %d", version, kvmAPIVersion)
	}
	if err != nil {
		return fmt.Errorf("ask KVM: %w", err)
	}
	return nil
}

func kvmBoots(ctx context.Context, kernel, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, kvmTrialTimeout)
	defer cancel()
	m, err := Start(ctx, Spec{Name: "kvm-trial", Dir: dir, Kernel: kernel, Append: "console=ttyS0 panic=-1",
		Accel: KVM, Memory: 256 << 20})
	if err != nil {
		return fmt.Errorf("try KVM: %w", err)
	}
	defer m.Close()
	// The panic for want of a root proves that the kernel ran to its end.
	if _, err := m.Console().WaitFor(ctx, SignPanic, SignNoRoot); err != nil {
		return fmt.Errorf("try KVM: Linux does not run under it: %w", err)
	}
	return nil
}
