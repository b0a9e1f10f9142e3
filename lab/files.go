package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// workFiles is what the build scripts of a server read, by path within the
// work directory.
func (b *builder) workFiles(s Spec) (map[string]string, error) {
	parts, diskMiB := s.layout(b.pubkey)
	files := map[string]string{
		"parts":       partsFile(parts),
		"disk.size":   fmt.Sprint(diskMiB),
		"disk.sfdisk": s.sfdiskScript(b.pubkey, parts),
		"env":         s.environment(b.pubkey, parts),
		"files/fstab": s.fstab(b.pubkey, parts),
	}
	if !s.Networkd {
		files["files/interfaces"] = s.interfaces()
	}
	for from, to := range map[string]string{
		"common.sh":          "common.sh",
		s.Name + ".sh":       "recipe.sh",
		"churn":              "files/churn",
		s.Name + ".populate": "populate.sh",
	} {
		text, err := content.ReadFile("recipes/" + from)
		if errors.Is(err, fs.ErrNotExist) && to == "populate.sh" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read recipe: %w", err)
		}
		files[to] = string(text)
	}
	return files, nil
}

func writeFiles(dir string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make work directory: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// environment is the recipe's variables as shell assignments.
func (s Spec) environment(pubkey string, parts []Partition) string {
	bootUUID, prefix, rootUUID, rootFlags := bootPlace(parts)
	var hosts []string
	for _, o := range Servers() {
		hosts = append(hosts, o.Address()+"\t"+o.Name)
	}
	var b strings.Builder
	for _, v := range [][2]string{
		{"NAME", s.Name}, {"ADDRESS", s.Address()}, {"GATEWAY", miamiGateway}, {"ROUTE", wanRoute},
		{"MAC", s.MAC()}, {"INTERFACE", guestNIC}, {"LABKEY", pubkey}, {"HOSTS", strings.Join(hosts, "\n")},
		{"BOOT_UUID", bootUUID}, {"BOOT_PREFIX", prefix}, {"ROOT_UUID", rootUUID}, {"ROOT_FLAGS", rootFlags},
	} {
		fmt.Fprintf(&b, "%s=%s\n", v[0], shellQuote(v[1]))
	}
	return b.String()
}

func (s Spec) interfaces() string {
	return fmt.Sprintf(`auto lo
iface lo inet loopback

auto %s
iface %s inet static
	address %s/24
	up ip route add %s via %s
`, guestNIC, guestNIC, s.Address(), wanRoute, miamiGateway)
}

// shellQuote makes s one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// hostKeys reads the public ssh host keys in a directory.
func hostKeys(dir string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "ssh_host_*_key.pub"))
	if err != nil {
		return nil, fmt.Errorf("list host keys: %w", err)
	}
	var keys []string
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			return nil, fmt.Errorf("read host key: %w", err)
		}
		f := strings.Fields(string(text))
		if len(f) < 2 {
			return nil, fmt.Errorf("read host key %s: unexpected form", p)
		}
		keys = append(keys, f[0]+" "+f[1])
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("read host keys of %s: there are none", dir)
	}
	slices.Sort(keys)
	return keys, nil
}

// hostMirror is where this machine gets its Debian packages, by its own apt
// configuration; "" when that does not say.
func hostMirror() string {
	paths, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return ""
	}
	for _, p := range append([]string{"/etc/apt/sources.list"}, paths...) {
		if !strings.HasSuffix(p, ".list") && !strings.HasSuffix(p, ".sources") {
			continue
		}
		text, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if m := mirrorIn(string(text)); m != "" {
			return m
		}
	}
	return ""
}

// mirrorIn finds the first archive in an apt sources file, of either format,
// that is Debian's main one.
func mirrorIn(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			word = strings.TrimSuffix(word, "/")
			if strings.Contains(word, "://") && strings.HasSuffix(word, "/debian") {
				return word
			}
		}
	}
	return ""
}
