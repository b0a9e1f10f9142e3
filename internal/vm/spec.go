package vm

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Firmware is what a machine starts from.
type Firmware string

// The firmwares QEMU offers here.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Accel is how a machine's processor runs.
type Accel string

// Auto is KVM where it truly runs a Linux kernel, else TCG; see Accelerator.
const (
	Auto Accel = "auto"
	KVM  Accel = "kvm"
	TCG  Accel = "tcg"
)

// NIC is a network card of a machine. Its link is up and leads nowhere, but where Wire
// takes it.
type NIC struct {
	Name string // the source's, for messages only
	MAC  string
	// Wire is called once with the other end of the card's wire, on which each frame
	// follows its length in four bytes, and returns when that is closed. With nil all
	// that the machine sends is thrown away.
	Wire func(net.Conn) `json:"-"`
}

// Spec describes a machine. Name, Disk or Kernel, and Dir are required.
type Spec struct {
	Name     string
	Dir      string // an existing directory of the machine's own; its files there go with it
	Disk     string // image attached as the first virtio disk
	Format   string // raw (the default) or qcow2
	Snapshot bool   // keep the image as it is; writes go to a temporary file in Dir

	Firmware Firmware // BIOS by default
	Machine  string   // q35 (the default) or pc
	Memory   int64    // bytes; 1 GiB by default
	CPUs     int      // 1 by default: more are slower under TCG
	Accel    Accel    // KVM or TCG (the default); resolve Auto with Accelerator
	CPU      string   // QEMU's name; by default the accelerator's richest
	NICs     []NIC

	Kernel, Initrd, Append string // boot this kernel without firmware's help

	SerialLog string // file that receives all of the first serial port; optional
}

const (
	defaultMemory = 1 << 30
	minMemory     = 64 << 20
)

// withDefaults returns the spec completed and checked.
func (s Spec) withDefaults() (Spec, error) {
	if s.Format == "" {
		s.Format = "raw"
	}
	if s.Firmware == "" {
		s.Firmware = BIOS
	}
	if s.Machine == "" {
		s.Machine = "q35"
	}
	if s.Memory == 0 {
		s.Memory = defaultMemory
	}
	s.CPUs = max(s.CPUs, 1)
	if s.Accel == "" {
		s.Accel = TCG
	}
	if s.CPU == "" {
		s.CPU = CPUModel(s.Accel)
	}
	return s, s.check()
}

func (s Spec) check() error {
	switch {
	case s.Dir == "":
		return errors.New("machine has no directory")
	case s.Disk == "" && s.Kernel == "":
		return errors.New("machine has neither disk nor kernel")
	case s.Format != "raw" && s.Format != "qcow2":
		return fmt.Errorf("disk format %q: want raw or qcow2", s.Format)
	case s.Firmware != BIOS && s.Firmware != UEFI:
		return fmt.Errorf("firmware %q: want bios or uefi", s.Firmware)
	case s.Machine != "q35" && s.Machine != "pc":
		return fmt.Errorf("machine type %q: want q35 or pc", s.Machine)
	case s.Accel != KVM && s.Accel != TCG:
		return fmt.Errorf("accelerator %q: want kvm or tcg", s.Accel)
	case s.Memory < minMemory:
		return fmt.Errorf("memory of %d bytes: want at least %d", s.Memory, minMemory)
	}
	for _, n := range s.NICs {
		if m, err := net.ParseMAC(n.MAC); err != nil || len(m) != 6 || m[0]&1 != 0 {
			return fmt.Errorf("network card %s: %q is no unicast Ethernet address", n.Name, n.MAC)
		}
	}
	return nil
}

// CPUModel returns the model that offers guests the most under a: what userland
// built for x86-64-v2 or v3 asks for. TCG has no AVX-512, so a source that truly
// needs x86-64-v4 needs KVM. Under TCG two things are left out that cost time and
// serve no userland: a fifth level of page tables, and guests of guests.
func CPUModel(a Accel) string {
	if a == KVM {
		return "host"
	}
	return "max,la57=off,svm=off"
}

// maxTCGLevel is the highest x86-64 level that TCG's richest model reaches.
const maxTCGLevel = 3

// CPUWarning says what a guest whose source has the given x86-64 level (0 when
// unknown) may miss under a, or returns "".
func CPUWarning(a Accel, level uint32) string {
	if a == TCG && level > maxTCGLevel {
		return fmt.Sprintf("the source's processor is x86-64-v%d and TCG offers v%d: programs built for v%d alone will not run",
			level, maxTCGLevel, level)
	}
	return ""
}

// Numbers of the inherited descriptors, in the order of exec.Cmd.ExtraFiles.
const (
	fdMonitor = 3 + iota
	fdConsole
	fdReport
	fdNIC // and as many more as there are cards
)

// args returns QEMU's command line for a completed spec. vars is the machine's
// own copy of the UEFI variables.
func (s Spec) args(code, vars string) []string {
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
		"-name", escape(s.Name),
		"-machine", s.Machine, "-accel", s.accelArg(), "-cpu", s.CPU,
		"-m", strconv.FormatInt(s.Memory>>20, 10) + "M", "-smp", strconv.Itoa(s.CPUs),
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-rtc", "base=utc",
		"-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", fdMonitor), "-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d", fdConsole), "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=report,fd=%d", fdReport), "-serial", "chardev:report",
	}
	if s.Firmware == UEFI {
		a = append(a,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+escape(code),
			"-drive", "if=pflash,format=raw,unit=1,file="+escape(vars))
	}
	if s.Disk != "" {
		a = append(a, "-drive", s.driveArg(), "-device", "virtio-blk-pci,drive=disk0,bootindex=0")
	}
	for i, n := range s.NICs {
		// A wire of its own per card, whose other end swallows everything: with no
		// other end at all the card's queue would stall, and the guest with it.
		a = append(a, "-netdev", fmt.Sprintf("socket,id=net%d,fd=%d", i, fdNIC+i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,romfile=", i, n.MAC))
	}
	if s.Kernel != "" {
		a = append(a, "-kernel", s.Kernel, "-append", s.Append)
		if s.Initrd != "" {
			a = append(a, "-initrd", s.Initrd)
		}
	}
	return a
}

func (s Spec) accelArg() string {
	if s.Accel == TCG {
		return "tcg,tb-size=128" // half the memory of the default, same speed
	}
	return string(s.Accel)
}

func (s Spec) driveArg() string {
	d := "if=none,id=disk0,cache=unsafe,discard=unmap,format=" + s.Format
	if s.Snapshot {
		d += ",snapshot=on"
	}
	return d + ",file=" + escape(s.Disk)
}

// escape quotes a value of a comma separated option list.
func escape(v string) string { return strings.ReplaceAll(v, ",", ",,") }

// ovmfPairs are where distributions keep UEFI firmware and its empty variables.
var ovmfPairs = [...][2]string{
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
}

// ErrNoUEFI reports that this host has no UEFI firmware for its guests.
var ErrNoUEFI = errors.New("no UEFI firmware for guests found")

// prepareUEFI copies the empty variables into dir: boot entries never travel,
// and a machine must start without them.
func prepareUEFI(dir string) (code, vars string, err error) {
	for _, p := range ovmfPairs {
		empty, err := os.ReadFile(p[1])
		if err != nil {
			continue
		}
		if _, err := os.Stat(p[0]); err != nil {
			continue
		}
		vars = filepath.Join(dir, "uefi-vars.fd")
		if err := os.WriteFile(vars, empty, 0o600); err != nil {
			return "", "", fmt.Errorf("copy UEFI variables: %w", err)
		}
		return p[0], vars, nil
	}
	return "", "", ErrNoUEFI
}
