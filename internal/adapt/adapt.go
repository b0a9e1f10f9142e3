// Package adapt makes a throwaway clone of a replica boot on this side's
// virtual hardware: boot loader, kernel arguments, initramfs, fstab, network
// names, consoles. It edits files only. No program of the guest runs, no path of
// the guest is ever followed outside of it, and the replica itself is never
// touched: what Apply changes dies with the clone.
//
// Each fix lives in a file of its own and has one line in the table of fixes.
package adapt

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// Options say what to adapt for.
type Options struct {
	// Firmware is "bios" or "uefi": what the machine will start from. Both loaders
	// are installed where the disk has room for both; this one must be.
	Firmware string
	// Probe is the path of the program that reports from inside the guest; it
	// is copied there and runs once at boot. Empty leaves it out.
	Probe string
	// Ask is put beside it, as AskFile; empty leaves it out.
	Ask []byte
	// Args are further arguments of the kernel.
	Args []string
	// Persistent keeps what only a drill needs out: the probe, and static
	// addresses in place of leases.
	Persistent bool
	// Readdress maps an address at the source to the one it has here; nil leaves all
	// as they are.
	Readdress func(netip.Addr) netip.Addr
}

// Change is one thing a fix did.
type Change struct {
	Fix  string `json:"fix"`
	File string `json:"file"` // in the guest; "" for the disk itself
	What string `json:"what"`
	Why  string `json:"why"`
}

// Report tells what was done, and what could not be.
type Report struct {
	Changes  []Change `json:"changes"`
	Warnings []string `json:"warnings,omitempty"`
	Kernel   Kernel   `json:"kernel"` // the one that will boot
}

// ErrNoKernel says that the replica has no kernel that runs on virtio hardware.
var ErrNoKernel = errors.New("no kernel with virtio drivers")

// fix is one adaptation. An essential one that fails ends Apply; another becomes
// a warning, because the machine may well come up without it.
type fix struct {
	name      string
	essential bool
	apply     func(*job) error
}

// fixes is the table, in the order of application.
func fixes() []fix {
	return []fix{
		{"fstab", true, fixFstab},
		{"crypttab", false, fixCrypttab},
		{"lvm", false, fixLVM},
		{"mdadm", false, fixMdadm},
		{"multipath", false, fixMultipath},
		{"network-names", false, fixNetworkNames},
		{"network-addresses", false, fixAddresses},
		{"network-map", false, fixNetworkMap},
		{"wait-online", false, fixWaitOnline},
		{"console", false, fixConsole},
		{"cloud-init", false, fixCloudInit},
		{"time", false, fixTime},
		{"probe", false, fixProbe},
		{"kernel", true, fixKernel},
		{"initramfs", true, fixInitramfs},
		{"loader-menu", true, fixMenu},
		{"loader-bios", false, fixBIOS},
		{"loader-uefi", false, fixUEFI},
	}
}

// job is one application of the table.
type job struct {
	ctx    context.Context
	img    *Image
	facts  *agentpb.Facts
	opts   Options
	report *Report
	fix    string // running now

	kernel kernelChoice // set by fixKernel
	initrd initramfs    // of that kernel, set by fixInitramfs
}

// Apply runs all fixes on img. The report is valid, as far as it goes, with an
// error too. Applying again changes nothing further, but that an initramfs may
// get the same files once more.
func Apply(ctx context.Context, img *Image, facts *agentpb.Facts, opts Options) (*Report, error) {
	j := &job{ctx: ctx, img: img, facts: facts, opts: opts, report: &Report{}}
	for _, f := range fixes() {
		if err := ctx.Err(); err != nil {
			return j.report, err
		}
		j.fix = f.name
		err := f.apply(j)
		switch {
		case err == nil:
		case f.essential || f.name == "loader-"+opts.Firmware:
			return j.report, fmt.Errorf("adapt %s: %w", f.name, err)
		default:
			j.warn("%s: %v", f.name, err)
		}
	}
	return j.report, nil
}

func (j *job) warn(format string, args ...any) {
	j.report.Warnings = append(j.report.Warnings, fmt.Sprintf(format, args...))
}

func (j *job) did(file, what, why string) {
	j.report.Changes = append(j.report.Changes, Change{j.fix, file, what, why})
}

// write replaces or makes a file of the guest and notes it, unless it is so
// already.
func (j *job) write(file string, data []byte, perm uint32, what, why string) error {
	changed, err := j.img.WriteFile(file, data, perm)
	if changed {
		j.did(file, what, why)
	}
	return err
}

// remove deletes a file of the guest, if it is there, and notes it.
func (j *job) remove(file, why string) error {
	removed, err := j.img.Remove(file)
	if removed {
		j.did(file, "removed", why)
	}
	return err
}

// link makes a symbolic link in the guest, unless it is so already.
func (j *job) link(target, file, what, why string) error {
	changed, err := j.img.Symlink(target, file)
	if changed {
		j.did(file, what, why)
	}
	return err
}

// mask keeps a systemd unit from starting.
func (j *job) mask(unit, why string) error {
	return j.link("/dev/null", "/etc/systemd/system/"+unit, "masked", why)
}
