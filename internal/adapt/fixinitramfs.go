package adapt

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// fixInitramfs makes sure that the initramfs of the chosen kernel can reach the
// root filesystem, and appends what it lacks. An image built for the source's own
// controller alone is the commonest reason for a copy that does not boot.
func fixInitramfs(j *job) error {
	k := &j.kernel
	root, _ := j.img.at("/")
	if k.Initrd == "" {
		return j.withoutInitramfs(root.Type)
	}
	f, _, err := j.img.open(k.Initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	im, err := readInitramfs(f, wantOf)
	if err != nil {
		return fmt.Errorf("%s: %w", k.Initrd, err)
	}
	j.initrd = *im
	extra, what := j.initramfsAdditions(root.Type)
	if len(extra) == 0 {
		return nil
	}
	if err := j.appendArchive(f, extra); err != nil {
		return fmt.Errorf("%s: %w", k.Initrd, err)
	}
	j.did(k.Initrd, "appended "+what, "it was built for the source's hardware alone")
	return nil
}

func (j *job) withoutInitramfs(rootType string) error {
	var lacking []string
	for _, m := range requiredModules(rootType) {
		if j.kernel.modules.known && !j.kernel.modules.builtin[m] {
			lacking = append(lacking, m)
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("kernel %s has no initramfs, and %s not built in", j.kernel.Version, strings.Join(lacking, ", "))
	}
	root, sub := j.img.at("/")
	if root.PartUUID == "" {
		return fmt.Errorf("kernel %s has no initramfs, and the root partition no id to find it by", j.kernel.Version)
	}
	// Without an initramfs nobody looks up filesystem ids.
	args := cleanArgs(j.kernel.Args, root, sub)
	j.kernel.Args = strings.ReplaceAll(args, "root=UUID="+root.UUID, "root=PARTUUID="+root.PartUUID)
	j.report.Kernel.Args = j.kernel.Args
	return nil
}

const finishedHooks = "hooks/initqueue/finished/"

// wantOf says which files' content matters.
func wantOf(name string) bool {
	return strings.HasPrefix(name, "etc/cmdline.d/") || name == "conf/modules" || strings.Contains(name, finishedHooks) ||
		name == "etc/crypttab"
}

// initramfsAdditions lists what the image must get: modules and what loads
// them, and replacements for what waits for devices that stayed behind.
func (j *job) initramfsAdditions(rootType string) (extra []cpioEntry, what string) {
	im, set := &j.initrd, j.kernel.modules
	var lacking []string
	for _, m := range requiredModules(rootType) {
		if !set.builtin[m] && !im.modules[m] && set.files[m] != "" {
			lacking = append(lacking, m)
		}
	}
	var said []string
	if len(lacking) > 0 {
		added := set.closure(append(requiredModules(rootType), helperModules(rootType)...))
		added = slices.DeleteFunc(added, func(m string) bool { return im.modules[m] })
		extra = append(extra, j.moduleEntries(added)...)
		extra = append(extra, im.loaderEntries(lacking)...)
		said = append(said, strings.Join(lacking, ", ")+" and what they need")
		if im.isDracut() {
			root, sub := j.img.at("/")
			j.kernel.Args = cleanArgs(j.kernel.Args, root, sub, "rd.driver.pre="+strings.Join(lacking, ","))
			j.report.Kernel.Args = j.kernel.Args
		}
	}
	if stale := j.staleWaits(); len(stale) > 0 {
		extra = append(extra, stale...)
		said = append(said, plural(len(stale), "replacement")+" for files that wait for absent devices")
	}
	return im.withDirs(extra), strings.Join(said, "; ")
}

func (im *initramfs) isDracut() bool {
	for _, mark := range []string{"usr/lib/dracut", "lib/dracut", "usr/lib/initrd-release", "etc/initrd-release", "usr/bin/dracut-cmdline"} {
		if _, ok := im.names[mark]; ok {
			return true
		}
	}
	return false
}

// moduleEntries are the module files and the kernel's whole indexes, which know
// their aliases: udev loads them by what it finds on the bus.
func (j *job) moduleEntries(names []string) []cpioEntry {
	set := j.kernel.modules
	dir := "lib/modules/" + j.kernel.Version
	for d := range j.initrd.moduleDirs {
		if path.Base(d) == j.kernel.Version && strings.HasPrefix(d, "usr/") {
			dir = d
		}
	}
	if mode, ok := j.initrd.names["lib"]; ok && mode&0o170000 == 0o120000 { // a link to usr/lib
		dir = "usr/lib/modules/" + j.kernel.Version
	}
	var list []cpioEntry
	files := []string{}
	for _, n := range names {
		files = append(files, set.files[n])
	}
	files = append(files, "modules.dep", "modules.dep.bin", "modules.alias", "modules.alias.bin", "modules.softdep",
		"modules.symbols.bin", "modules.order", "modules.builtin", "modules.builtin.bin", "modules.builtin.alias.bin")
	for _, f := range files {
		b, err := j.img.ReadFile(set.dir + "/" + f)
		if err != nil {
			continue // older kernels lack some indexes
		}
		list = append(list, cpioEntry{dir + "/" + f, modeFile, b})
	}
	return list
}

// loaderEntries name the modules to what loads modules at the start.
func (im *initramfs) loaderEntries(names []string) []cpioEntry {
	text := strings.Join(names, "\n") + "\n"
	if _, ok := im.names["conf/initramfs.conf"]; ok { // initramfs-tools
		old := strings.TrimRight(string(im.files["conf/modules"]), "\n")
		if old != "" {
			text = old + "\n" + text
		}
		return []cpioEntry{{"conf/modules", modeFile, []byte(text)}}
	}
	return []cpioEntry{{"etc/modules-load.d/leeward.conf", modeFile, []byte(text)}}
}

// staleWaits replaces what an initramfs built for the source's disks alone waits
// for: dracut's list of devices that must appear, and arguments it brings along.
func (j *job) staleWaits() []cpioEntry {
	var list []cpioEntry
	for _, name := range j.initrd.order {
		switch {
		case strings.Contains(name, finishedHooks+"devexists-"):
			if !j.mentionsImage(string(j.initrd.files[name])) {
				list = append(list, cpioEntry{name, modeFile | 0o111, []byte("true\n")})
			}
		case strings.HasPrefix(name, "etc/cmdline.d/") && strings.HasSuffix(name, ".conf"):
			old := string(j.initrd.files[name])
			if kept := keptArgs(old); kept != strings.Join(splitArgs(old), " ") {
				list = append(list, cpioEntry{name, modeFile, []byte(kept + "\n")})
			}
		case name == "etc/crypttab" && len(j.initrd.files[name]) > 0:
			list = append(list, cpioEntry{name, modeFile, []byte("# leeward: no encrypted device travels\n")})
		case isDeviceWant(name) && !j.mentionsImage(unescapeUnit(path.Base(name))):
			list = append(list, cpioEntry{"etc/systemd/system/" + path.Base(name), modeLink, []byte("/dev/null")})
		}
	}
	return list
}

func isDeviceWant(name string) bool {
	dir := path.Base(path.Dir(name))
	return strings.HasSuffix(name, ".device") && strings.HasPrefix(name, "etc/systemd/system/") &&
		(strings.HasSuffix(dir, ".wants") || strings.HasSuffix(dir, ".requires"))
}

// unescapeUnit turns a device unit's name into the path it stands for.
func unescapeUnit(unit string) string {
	s := strings.ReplaceAll(strings.TrimSuffix(unit, ".device"), "-", "/")
	return strings.ReplaceAll(s, `\x2d`, "-")
}

// mentionsImage reports whether text names a filesystem of the image by an id.
func (j *job) mentionsImage(text string) bool {
	text = strings.ToLower(strings.ReplaceAll(text, `\x2d`, "-"))
	for _, p := range j.img.Partitions {
		if p.Kind == KindSwap || p.Kind == KindFilesystem {
			if p.UUID != "" && strings.Contains(text, strings.ToLower(p.UUID)) ||
				p.PartUUID != "" && strings.Contains(text, strings.ToLower(p.PartUUID)) {
				return true
			}
		}
	}
	return false
}

// keptArgs keeps what is not about storage; arguments of the command line would
// not override these.
func keptArgs(text string) string {
	var kept []string
	for _, a := range splitArgs(text) {
		if !isDropped(a) {
			kept = append(kept, a)
		}
	}
	return strings.Join(kept, " ")
}

// withDirs puts the directories that the image lacks in front. One that it has
// must not appear again: where it is a link the kernel would replace the link.
func (im *initramfs) withDirs(entries []cpioEntry) []cpioEntry {
	var dirs []cpioEntry
	seen := map[string]bool{}
	var need func(string)
	need = func(d string) {
		if d == "." || seen[d] {
			return
		}
		seen[d] = true
		if _, ok := im.names[d]; ok {
			return
		}
		need(path.Dir(d))
		dirs = append(dirs, cpioEntry{name: d, mode: modeDir})
	}
	for _, e := range entries {
		need(path.Dir(e.name))
	}
	return append(dirs, entries...)
}

// appendArchive writes the image again with one more archive behind it. The
// kernel reads them in turn, later files over earlier ones; behind lz4, whose
// legacy frames have no end, it would not look, so that is packed anew.
func (j *job) appendArchive(old *os.File, extra []cpioEntry) error {
	st, err := old.Stat()
	if err != nil {
		return err
	}
	if st.Size() > 1<<30 {
		return errors.New("larger than 1 GiB")
	}
	var out bytes.Buffer
	if j.initrd.compression == "lz4" {
		err = repack(&out, old, j.initrd.early, extra)
	} else if _, err = io.Copy(&out, io.NewSectionReader(old, 0, st.Size())); err == nil {
		out.Write(make([]byte, pad4(int64(out.Len()))-int64(out.Len())))
		err = writeCpio(&out, extra)
	}
	if err != nil {
		return err
	}
	return j.img.write(j.kernel.Initrd, &out, 0o600)
}

// repack copies the early archives and packs the main one and ours with gzip,
// which every kernel that reads an initramfs knows.
func repack(out *bytes.Buffer, old *os.File, early int64, extra []cpioEntry) error {
	if _, err := io.Copy(out, io.NewSectionReader(old, 0, early)); err != nil {
		return err
	}
	in, err := decompress("lz4", io.NewSectionReader(old, early, 1<<62))
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err != nil {
		return err
	}
	n, err := io.Copy(z, io.LimitReader(in, maxInitramfs))
	if err != nil {
		return err
	}
	if _, err := z.Write(make([]byte, pad4(n)-n)); err != nil {
		return err
	}
	return errors.Join(writeCpio(z, extra), z.Close())
}
