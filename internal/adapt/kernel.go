package adapt

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Kernel is one that can boot the machine.
type Kernel struct {
	Version string `json:"version"`
	File    string `json:"file"`   // in the guest
	Initrd  string `json:"initrd"` // in the guest; "" if it needs none
	Args    string `json:"args"`
	Why     string `json:"why"` // it was chosen
}

type kernelChoice struct {
	Kernel
	modules *moduleSet
	others  []Kernel // further ones for the menu
}

// fixKernel chooses the kernel: the default of the source's own menu if it
// drives virtio hardware, else the one that was running, else the newest that
// does.
func fixKernel(j *job) error {
	candidates := j.findKernels()
	if len(candidates) == 0 {
		return fmt.Errorf("%w: none at all under /boot", ErrNoKernel)
	}
	entries, preferred := j.readMenu()
	root, sub := j.img.at("/")
	var fit []kernelChoice
	var unfit []string
	for _, k := range candidates {
		modules := j.readModules(k.Version)
		if missing := modules.missing(requiredModules(root.Type)); len(missing) > 0 {
			unfit = append(unfit, k.Version+" lacks "+strings.Join(missing, ", "))
			continue
		}
		e := entryFor(k, entries)
		k.Initrd = j.initrdOf(k, e)
		if k.Initrd == "" && !modules.known {
			unfit = append(unfit, k.Version+" has neither modules nor an initramfs")
			continue
		}
		k.Args = cleanArgs(j.sourceArgs(k, e), root, sub, append(j.familyArgs(root.Type), j.opts.Args...)...)
		fit = append(fit, kernelChoice{Kernel: k, modules: modules})
	}
	if len(fit) == 0 {
		return fmt.Errorf("%w: %s", ErrNoKernel, strings.Join(unfit, "; "))
	}
	best, why := j.choose(fit, preferred)
	if preferred != nil && !boots(preferred, fit[best].Kernel) {
		j.warn("kernel: the source's default (%s) cannot boot here; %s", preferred.linux, strings.Join(unfit, "; "))
	}
	j.kernel = fit[best]
	j.kernel.Why = why
	for i, k := range fit {
		if i != best {
			j.kernel.others = append(j.kernel.others, k.Kernel)
		}
	}
	j.report.Kernel = j.kernel.Kernel
	return nil
}

func (j *job) choose(fit []kernelChoice, preferred *bootEntry) (int, string) {
	if preferred != nil {
		if i := slices.IndexFunc(fit, func(k kernelChoice) bool { return boots(preferred, k.Kernel) }); i >= 0 {
			return i, "the source's default entry"
		}
	}
	if i := slices.IndexFunc(fit, func(k kernelChoice) bool { return k.Version == j.facts.GetKernel() }); i >= 0 {
		return i, "the kernel the source runs"
	}
	return 0, "the newest with virtio drivers" // they are sorted
}

// findKernels lists the kernels under /boot and, as kernel-install lays them out,
// under the machine's id; the newest first, debugging and rescue ones last.
func (j *job) findKernels() []Kernel {
	var found []Kernel
	seen := map[string]bool{}
	add := func(file, version string) {
		real, err := j.img.resolve(file, true)
		if err != nil || seen[real] {
			return
		}
		if st, err := j.img.Stat(real); err != nil || !st.Mode().IsRegular() {
			return
		}
		seen[real] = true
		if version == "" { // a link to the real one
			_, version, _ = strings.Cut(path.Base(real), "-")
		}
		if version == "" || !j.hasModules(version) {
			if v := j.kernelVersion(real); v != "" {
				version = v
			}
		}
		if version != "" {
			found = append(found, Kernel{Version: version, File: real})
		}
	}
	for _, name := range j.img.List("/boot") {
		for _, prefix := range []string{"vmlinuz", "bzImage", "kernel", "vmlinux", "image"} {
			if v, ok := strings.CutPrefix(name, prefix); ok && (v == "" || v[0] == '-') && !strings.HasSuffix(v, ".old") {
				add("/boot/"+name, strings.TrimPrefix(v, "-"))
				break
			}
		}
	}
	for _, top := range []string{"/boot", "/efi", "/boot/efi"} {
		if id := j.facts.GetMachineId(); id != "" {
			for _, version := range j.img.List(top + "/" + id) {
				add(top+"/"+id+"/"+version+"/linux", version)
			}
		}
	}
	for _, lib := range []string{"/usr/lib/modules", "/lib/modules"} { // Fedora's own copies, Arch's
		if len(found) == 0 {
			for _, version := range j.img.List(lib) {
				add(lib+"/"+version+"/vmlinuz", version)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b Kernel) int {
		return cmp.Or(cmp.Compare(oddness(a), oddness(b)), compareVersions(b.Version, a.Version))
	})
	return found
}

func oddness(k Kernel) int {
	n := 0
	for _, odd := range []string{"rescue", "debug", "kdump", "kasan", "xen"} {
		if strings.Contains(k.Version, odd) || strings.Contains(k.File, odd) {
			n++
		}
	}
	return n
}

const (
	bzImageMagic   = "HdrS"
	bzMagicAt      = 0x202
	bzVersionAt    = 0x20e
	bzVersionBase  = 0x200
	bzVersionRange = 0x8000
)

var kernelVersionRE = regexp.MustCompile(`^[0-9]+\.[0-9A-Za-z._+~-]+$`)

// kernelVersion reads the version a bzImage says it is, else the name of the module
// directory that its package says it belongs to.
func (j *job) kernelVersion(file string) string {
	f, _, err := j.img.open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, bzVersionRange+bzVersionBase+128)
	n, _ := io.ReadFull(f, head) // a short file has no version
	if v := bzImageVersion(head[:n]); v != "" {
		return v
	}
	base := strings.TrimPrefix(path.Base(file), "vmlinuz-")
	for _, lib := range []string{"/usr/lib/modules", "/lib/modules"} {
		for _, version := range j.img.List(lib) {
			if b, err := j.img.ReadFile(lib + "/" + version + "/pkgbase"); err == nil && strings.TrimSpace(string(b)) == base {
				return version
			}
		}
	}
	return ""
}

func bzImageVersion(head []byte) string {
	if len(head) < bzVersionAt+2 || string(head[bzMagicAt:bzMagicAt+4]) != bzImageMagic {
		return ""
	}
	at := int(head[bzVersionAt]) | int(head[bzVersionAt+1])<<8
	if at == 0 || at+bzVersionBase >= len(head) {
		return ""
	}
	text := head[at+bzVersionBase:]
	text = text[:min(len(text), 128)]
	if i := bytes.IndexAny(text, " \x00"); i >= 0 {
		text = text[:i]
	}
	if !kernelVersionRE.Match(text) {
		return ""
	}
	return string(text)
}

// boots reports whether the entry boots this kernel: loaders name paths from
// the top of their filesystem, so only the end must agree.
func boots(e *bootEntry, k Kernel) bool { return sameFile(e.linux, k.File) }

func sameFile(loader, guest string) bool {
	loader = loader[strings.LastIndexByte(loader, ')')+1:]
	if base := path.Base(guest); base != "linux" && base != "vmlinuz" {
		return path.Base(loader) == base
	}
	short := strings.Trim(loader, "/")
	for short != "" {
		if strings.HasSuffix(guest, "/"+short) {
			return true
		}
		_, short, _ = strings.Cut(short, "/")
		if !strings.Contains(short, "/") {
			break
		}
	}
	return path.Base(loader) == path.Base(guest) && path.Dir(path.Clean("/"+loader)) == "/"
}

// entryFor returns the menu's entry of a kernel; recovery entries only if there is
// no other.
func entryFor(k Kernel, entries []*bootEntry) *bootEntry {
	var found *bootEntry
	for _, e := range entries {
		if !boots(e, k) {
			continue
		}
		if !isRecovery(e) {
			return e
		}
		if found == nil {
			found = e
		}
	}
	return found
}

func isRecovery(e *bootEntry) bool {
	title := strings.ToLower(e.title + e.id)
	if strings.Contains(title, "recovery") || strings.Contains(title, "rescue") || strings.Contains(title, "snapshot") {
		return true
	}
	args := splitArgs(e.args)
	return slices.Contains(args, "single") || slices.Contains(args, "recovery")
}

// sourceArgs returns the arguments this kernel has, or would have, at the source.
func (j *job) sourceArgs(k Kernel, e *bootEntry) string {
	if e != nil {
		return e.args
	}
	if b, err := j.img.ReadFile("/etc/kernel/cmdline"); err == nil {
		return string(b)
	}
	if k.Version == j.facts.GetKernel() {
		return j.facts.GetCmdline()
	}
	return ""
}

// familyArgs are what an initramfs of some family must be told in any case.
func (j *job) familyArgs(rootType string) []string {
	if j.img.Exists("/etc/mkinitfs/mkinitfs.conf") { // Alpine's loads these and no others
		return []string{"modules=virtio_pci,virtio_blk," + rootType, "rootfstype=" + rootType}
	}
	return nil
}

// initrdOf finds the initramfs of a kernel: by its menu entry, else by the ways
// distributions name it.
func (j *job) initrdOf(k Kernel, e *bootEntry) string {
	dir := path.Dir(k.File)
	if e != nil {
		for _, i := range slices.Backward(e.initrds) { // microcode comes first
			for _, d := range []string{dir, "/boot"} {
				if f := d + "/" + path.Base(i); path.Base(i) != "." && !isMicrocode(f) && j.img.Exists(f) {
					return f
				}
			}
		}
	}
	base := strings.TrimPrefix(strings.TrimPrefix(path.Base(k.File), "vmlinuz"), "-")
	for _, v := range []string{k.Version, base} {
		for _, form := range []string{"initrd.img-%s", "initramfs-%s.img", "initrd-%s", "initramfs-%s", "initrd-%s.img", "initramfs-%s-fallback.img"} {
			if f := dir + "/" + fmt.Sprintf(form, v); j.img.Exists(f) {
				return f
			}
		}
	}
	if f := dir + "/initrd"; j.img.Exists(f) {
		return f
	}
	return ""
}

func isMicrocode(file string) bool { return strings.Contains(path.Base(file), "ucode") }

// compareVersions orders versions as package managers do: runs of digits as
// numbers, the rest as text, a tilde before everything.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		ta, ra := cutText(a)
		tb, rb := cutText(b)
		if c := compareText(ta, tb); c != 0 {
			return c
		}
		na, ea := cutDigits(ra)
		nb, eb := cutDigits(rb)
		if c := compareNumbers(na, nb); c != 0 {
			return c
		}
		a, b = ea, eb
	}
	return 0
}

func cutText(s string) (text, rest string) {
	i := strings.IndexAny(s, "0123456789")
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i:]
}

func cutDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

func compareText(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "~", "\x00"), strings.ReplaceAll(b, "~", "\x00"))
}

func compareNumbers(a, b string) int {
	x, errA := strconv.ParseUint(a, 10, 64)
	y, errB := strconv.ParseUint(b, 10, 64)
	if errA != nil && a != "" || errB != nil && b != "" { // longer than any version
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
	}
	return cmp.Compare(x, y)
}
