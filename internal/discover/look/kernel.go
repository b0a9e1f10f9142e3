package look

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// guestDrivers are the drivers of which a virtual machine needs some to find its disk and
// its network.
var guestDrivers = []string{"virtio_blk", "virtio_scsi", "virtio_net", "virtio_pci", "ata_piix", "ahci", "sd_mod", "nvme", "e1000"}

// initramfs finds the installed kernels and tells which of the drivers of a virtual
// machine each has, and where.
func (l *looker) initramfs(ctx context.Context) {
	for _, dir := range l.glob("lib/modules/*", "usr/lib/modules/*") {
		kernel := filepath.Base(dir)
		if slices.ContainsFunc(l.inv.System.Kernels, func(i inventory.Kernel) bool { return i.Version == kernel }) {
			continue
		}
		k := inventory.Kernel{Version: kernel, Initramfs: l.imageOf(kernel)}
		builtin, err1 := read(l.path(dir, "modules.builtin"), maxConfig)
		loadable, err2 := read(l.path(dir, "modules.dep"), 4*maxConfig)
		if err1 != nil && err2 != nil {
			continue // what is left of a kernel that was removed
		}
		k.Builtin, k.Loadable = driversIn(builtin), driversIn(loadable)
		l.readImage(ctx, &k)
		l.inv.System.Kernels = append(l.inv.System.Kernels, k)
	}
}

// imageOf is the initramfs of a kernel, by the names that distributions give it.
func (l *looker) imageOf(kernel string) string {
	flavour := kernel[strings.LastIndex(kernel, "-")+1:]
	for _, p := range []string{"boot/initrd.img-" + kernel, "boot/initramfs-" + kernel + ".img", "boot/initrd-" + kernel, "boot/initramfs-" + flavour} {
		if l.exists(p) {
			return "/" + p
		}
	}
	return ""
}

// maxImage bounds the initramfs that is read.
const maxImage = 512 << 20

// readImage lists the drivers in the initramfs of the kernel that runs; to unpack all
// others would cost the host seconds of processor.
func (l *looker) readImage(ctx context.Context, k *inventory.Kernel) {
	if k.Initramfs == "" || k.Version != l.f.Kernel && l.inside() {
		return
	}
	f, err := os.Open(l.path(k.Initramfs))
	if err != nil {
		l.unknown("drivers in "+k.Initramfs, err)
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() || st.Size() > maxImage {
		l.unknown("drivers in "+k.Initramfs, "it is no plain file of a usual size")
		return
	}
	modules, err := adapt.InitramfsModules(&paced{f, func() { l.rest(ctx) }})
	if err != nil {
		l.unknown("drivers in "+k.Initramfs, err)
		return
	}
	k.Read = true
	for _, d := range guestDrivers {
		if modules[d] {
			k.Drivers = append(k.Drivers, d)
		}
	}
}

// paced is a reader that rests before each piece.
type paced struct {
	r    io.Reader
	rest func()
}

func (p *paced) Read(b []byte) (int, error) {
	p.rest()
	return p.r.Read(b)
}

// inside reports whether the running kernel is one of the host's own: that of a container
// is not.
func (l *looker) inside() bool { return l.exists("lib/modules", l.f.Kernel) }

// driversIn lists the guest drivers that a list of modules' paths names.
func driversIn(list []byte) (out []string) {
	for line := range strings.Lines(string(list)) {
		path, _, _ := strings.Cut(strings.TrimSpace(line), ":") // modules.dep goes on with what it needs
		name, _, _ := strings.Cut(filepath.Base(path), ".ko")
		if name = strings.ReplaceAll(name, "-", "_"); slices.Contains(guestDrivers, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
