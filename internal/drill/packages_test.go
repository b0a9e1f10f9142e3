package drill

import (
	"bytes"
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

// installed makes a system with one package whose files are as given, and a link where a
// merged /usr has one.
func installed(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"var/lib/dpkg/info", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	var sums strings.Builder
	for _, name := range slices.Sorted(mapsKeys(files)) {
		writeFile(t, filepath.Join(root, name), files[name])
		fmt.Fprintf(&sums, "%x  %s\n", md5.Sum([]byte(files[name])), name)
	}
	writeFile(t, filepath.Join(root, "var/lib/dpkg/info/tool.md5sums"), sums.String())
	return root
}

func mapsKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func read(t *testing.T, root string) *Packages {
	t.Helper()
	p, err := ReadPackages(1, func(dir string) (string, error) { return filepath.Join(root, dir), nil })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPackagesAreCompared(t *testing.T) {
	files := map[string]string{"bin/a": "one", "usr/bin/b": "two", "usr/bin/c": "three"}
	for what, c := range map[string]struct {
		change func(root string)
		want   string
	}{
		"nothing":     {func(string) {}, ""},
		"content":     {func(root string) { rewrite(t, filepath.Join(root, "usr/bin/a"), "eno") }, "/bin/a is not as its package brought it"},
		"gone":        {func(root string) { os.Remove(filepath.Join(root, "usr/bin/b")) }, "package tool have other"},
		"rights":      {func(root string) { os.Chmod(filepath.Join(root, "usr/bin/c"), 0o4755) }, "package tool have other"},
		"new package": {func(root string) { writeFile(t, filepath.Join(root, "var/lib/dpkg/info/evil.md5sums"), "") }, "package evil is new"},
		"uninstalled": {func(root string) { os.Remove(filepath.Join(root, "var/lib/dpkg/info/tool.md5sums")) }, "package tool is not installed"},
	} {
		root := installed(t, files)
		rewrite(t, filepath.Join(root, "usr/bin/c"), "eerht") // changed at the source already
		point := read(t, root)
		c.change(root)
		got := ComparePackages(point, read(t, root))
		if (got.Outcome == dr.Done) != (c.want == "") || !strings.Contains(got.Detail, c.want) {
			t.Errorf("%s: %+v, want %q", what, got, c.want)
		}
	}
}

// rewrite changes content and leaves size and time.
func rewrite(t *testing.T, path, text string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, text)
	if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
		t.Fatal(err)
	}
}

// TestPackagesAsDpkgSees compares with dpkg itself, of a few packages of this host.
func TestPackagesAsDpkgSees(t *testing.T) {
	if _, err := exec.LookPath("dpkg"); err != nil {
		t.Skip("there is no dpkg")
	}
	names := []string{"coreutils", "grep", "bash", "findutils"}
	lists := t.TempDir()
	for _, n := range names {
		b, err := os.ReadFile("/var/lib/dpkg/info/" + n + ".md5sums")
		if err != nil {
			t.Skip("this host lacks a package: ", err)
		}
		writeFile(t, filepath.Join(lists, n+".md5sums"), string(b))
	}
	p, err := ReadPackages(1, func(dir string) (string, error) {
		if dir == dpkgInfo {
			return lists, nil
		}
		return dir, nil
	})
	if err != nil || p.Files < 100 {
		t.Fatalf("%+v, %v", p, err)
	}
	out, _ := exec.Command("dpkg", append([]string{"-V"}, names...)...).Output() // it ends with 1 where something differs
	var want []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] != "c" { // of conffiles md5sums has none
			want = append(want, f[len(f)-1])
		}
	}
	if slices.Sort(want); !slices.Equal(want, p.Changed) {
		t.Errorf("dpkg tells of %q, we of %q", want, p.Changed)
	}
}

func FuzzParsePackages(f *testing.F) {
	b, err := json.Marshal(&Packages{Version: 1, Digests: map[string]string{"a": "b"}, Changed: []string{"/x"}})
	if err != nil {
		f.Fatal(err)
	}
	var line bytes.Buffer
	if err := writeLine(&line, packsMark, b); err != nil {
		f.Fatal(err)
	}
	f.Add(bytes.TrimSpace(line.Bytes()))
	f.Fuzz(func(t *testing.T, line []byte) {
		if p := parsePackages(line); p != nil {
			ComparePackages(&Packages{Version: 1, Digests: map[string]string{"a": "b"}}, p)
		}
	})
}
