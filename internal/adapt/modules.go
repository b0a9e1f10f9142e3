package adapt

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// moduleSet is what a kernel has of drivers.
type moduleSet struct {
	dir     string              // in the guest, /usr/lib/modules/VERSION
	files   map[string]string   // canonical name → path below dir
	depends map[string][]string // canonical name → canonical names
	builtin map[string]bool
	known   bool // there was an index to read
}

// requiredModules are the drivers without which the machine cannot reach a root
// filesystem of this type.
func requiredModules(rootType string) []string {
	return []string{"virtio_pci", "virtio_blk", rootType}
}

// helpers are loaded by name or by softdep from the drivers above; those a
// kernel has are taken along.
func helperModules(rootType string) []string {
	h := []string{"virtio", "virtio_ring", "virtio_net", "crc32c_generic", "crc32c_intel", "crc32c_cryptoapi", "libcrc32c"}
	if rootType == "btrfs" {
		h = append(h, "xxhash_generic", "sha256_generic", "blake2b_generic", "crc32c", "xor", "raid6_pq")
	}
	return h
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName returns the canonical name of a module file, "" for other files.
func moduleName(file string) string {
	base := path.Base(file)
	for _, ext := range []string{"", ".xz", ".zst", ".gz"} {
		if name, ok := strings.CutSuffix(base, ".ko"+ext); ok {
			return canonical(name)
		}
	}
	return ""
}

func (j *job) hasModules(version string) bool {
	return j.img.Exists("/lib/modules/"+version+"/modules.dep") || j.img.Exists("/usr/lib/modules/"+version+"/modules.dep")
}

func (j *job) readModules(version string) *moduleSet {
	m := &moduleSet{files: map[string]string{}, depends: map[string][]string{}, builtin: map[string]bool{}}
	for _, lib := range []string{"/usr/lib/modules/", "/lib/modules/"} {
		dep, err := j.img.ReadFile(lib + version + "/modules.dep")
		if err != nil {
			continue
		}
		m.dir, m.known = lib+version, true
		m.parseDep(string(dep))
		builtin, err := j.img.ReadFile(lib + version + "/modules.builtin")
		if err == nil {
			for _, file := range strings.Fields(string(builtin)) {
				m.builtin[moduleName(file)] = true
			}
		}
		break
	}
	return m
}

// parseDep reads modules.dep: "path: paths it depends on".
func (m *moduleSet) parseDep(text string) {
	for _, line := range strings.Split(text, "\n") {
		file, needs, ok := strings.Cut(line, ":")
		name := moduleName(file)
		if !ok || name == "" || path.IsAbs(file) || slices.Contains(strings.Split(file, "/"), "..") {
			continue
		}
		m.files[name] = file
		for _, n := range strings.Fields(needs) {
			m.depends[name] = append(m.depends[name], moduleName(n))
		}
	}
}

func (m *moduleSet) has(name string) bool { return m.builtin[name] || m.files[name] != "" }

// missing returns those of names the kernel does not have. A kernel without any
// index has everything built in, or cannot be judged; booting it will tell.
func (m *moduleSet) missing(names []string) []string {
	var gone []string
	for _, n := range names {
		if m.known && !m.has(n) {
			gone = append(gone, n)
		}
	}
	return gone
}

// closure returns names that are modules and all they depend on, dependencies
// first.
func (m *moduleSet) closure(names []string) []string {
	var order []string
	seen := map[string]bool{}
	var visit func(string)
	visit = func(n string) {
		if seen[n] || m.files[n] == "" {
			return
		}
		seen[n] = true
		for _, d := range m.depends[n] {
			visit(d)
		}
		order = append(order, n)
	}
	for _, n := range names {
		visit(n)
	}
	return order
}

// InitramfsModules names the kernel modules inside an initramfs, with underscores where
// their files may have dashes.
func InitramfsModules(r io.Reader) (map[string]bool, error) {
	im, err := readInitramfs(r, func(string) bool { return false })
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	return im.modules, nil
}
