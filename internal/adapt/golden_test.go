package adapt

import (
	"bytes"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

var update = flag.Bool("update", false, "write what fixtures yield as what they should")

// A fixture is a guest's tree before and what must differ afterwards, as sections
// headed "-- name --":
//
//	facts                    of the source, as JSON
//	partitions               a line each: mount point, type, UUID, PARTUUID
//	in/PATH [-> TARGET]      a file or link of the guest
//	initramfs/PATH KIND      an initramfs: names of its files, a line each
//	want/PATH [-> TARGET]    a file or link that is made or changed
//	gone/PATH                a file that is removed
//	added/PATH               names of files that an initramfs gets
//	warnings                 what the report warns of
type section struct{ name, text string }

func parseFixture(text string) (comment string, list []section) {
	for _, line := range strings.SplitAfter(text, "\n") {
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			if name, ok := strings.CutSuffix(strings.TrimRight(name, "\n"), " --"); ok {
				list = append(list, section{name: name})
				continue
			}
		}
		if len(list) == 0 {
			comment += line
		} else {
			list[len(list)-1].text += line
		}
	}
	return comment, list
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.fixture")
	if err != nil || len(files) < 7 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".fixture"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			comment, list := parseFixture(string(b))
			got, input := runFixture(t, list)
			var text strings.Builder
			text.WriteString(comment)
			for _, s := range slices.Concat(input, got) {
				fmt.Fprintf(&text, "-- %s --\n%s", s.name, s.text)
			}
			if *update {
				if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			compareFixture(t, list[len(input):], got)
		})
	}
}

func compareFixture(t *testing.T, want, got []section) {
	t.Helper()
	byName := map[string]string{}
	for _, s := range got {
		byName[s.name] = s.text
	}
	for _, s := range want {
		text, ok := byName[s.name]
		if !ok {
			t.Errorf("%s: not there", s.name)
		} else if text != s.text {
			t.Errorf("%s:\n%s\nwant\n%s", s.name, text, s.text)
		}
		delete(byName, s.name)
	}
	for name, text := range byName {
		t.Errorf("%s: not wanted:\n%s", name, text)
	}
}

// runFixture builds the tree, applies all fixes twice, and returns what differs.
func runFixture(t *testing.T, list []section) (got, input []section) {
	t.Helper()
	facts := &agentpb.Facts{}
	var parts []Partition
	for i, s := range list {
		if i > 0 && !strings.HasPrefix(s.name, "in/") && !strings.HasPrefix(s.name, "initramfs/") && s.name != "partitions" {
			break
		}
		input = append(input, s)
		switch s.name {
		case "facts":
			if err := protojson.Unmarshal([]byte(s.text), facts); err != nil {
				t.Fatal(err)
			}
		case "partitions":
			parts = fixturePartitions(t, s.text)
		}
	}
	g, _ := testImage(t, parts...)
	if err := g.arrange(facts); err != nil {
		t.Fatal(err)
	}
	for _, s := range input {
		buildSection(t, g, s)
	}
	before := snapshot(t, g)
	report, err := Apply(t.Context(), g, facts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got = difference(t, before, snapshot(t, g))
	if len(report.Warnings) > 0 {
		got = append(got, section{"warnings", strings.Join(report.Warnings, "\n") + "\n"})
	}
	after := snapshot(t, g)
	again, err := Apply(t.Context(), g, facts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	more := slices.DeleteFunc(difference(t, after, snapshot(t, g)), func(s section) bool { return strings.HasPrefix(s.name, "added") })
	if len(more) > 0 {
		t.Errorf("applied again, it changed %s:\n%s\n(%v)", more[0].name, more[0].text, again.Changes)
	}
	return got, input
}

func fixturePartitions(t *testing.T, text string) []Partition {
	t.Helper()
	var parts []Partition
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Fields(line)
		p := Partition{Kind: KindFilesystem, MountPoint: f[0], Type: f[1], UUID: f[2], PartUUID: f[3]}
		switch p.Type {
		case "vfat":
			p.Kind = KindESP
		case "swap":
			p.Kind, p.MountPoint = KindSwap, ""
		}
		parts = append(parts, p)
	}
	return parts
}

func buildSection(t *testing.T, g *Image, s section) {
	t.Helper()
	var err error
	if name, ok := strings.CutPrefix(s.name, "in"); ok && name[0] == '/' {
		if file, target, ok := strings.Cut(name, " -> "); ok {
			_, err = g.Symlink(target, file)
		} else {
			err = g.write(file, strings.NewReader(s.text), 0o644)
		}
	}
	if name, ok := strings.CutPrefix(s.name, "initramfs"); ok {
		file, kind, _ := strings.Cut(name, " ")
		var entries []cpioEntry
		for _, line := range strings.Split(strings.TrimSpace(s.text), "\n") {
			e := cpioEntry{name: line, mode: modeFile}
			if n, text, ok := strings.Cut(line, " = "); ok {
				e.name, e.data = n, []byte(text)
			}
			if n, ok := strings.CutSuffix(e.name, "/"); ok {
				e.name, e.mode = n, modeDir
			}
			entries = append(entries, e)
		}
		err = g.write(file, bytes.NewReader(pack(t, kind, archive(t, entries...))), 0o600)
	}
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
}

// snapshot maps the guest's files to their content, links to "-> target".
func snapshot(t *testing.T, g *Image) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, f := range g.filesys {
		err := fs.WalkDir(f.Root.FS(), ".", func(p string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			name := path.Join(f.MountPoint, p)
			if e.Type()&fs.ModeSymlink != 0 {
				target, err := f.Root.Readlink(p)
				files[name] = "-> " + target
				return err
			}
			b, err := f.Root.ReadFile(p)
			files[name] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func difference(t *testing.T, before, after map[string]string) []section {
	t.Helper()
	var list []section
	for name, text := range after {
		old, ok := before[name]
		switch {
		case ok && old == text:
		case strings.HasPrefix(text, "-> "):
			list = append(list, section{"want" + name + " " + text, ""})
		case isInitramfs(old):
			list = append(list, section{"added" + name, addedTo(t, old, text)})
		default:
			if text != "" && !strings.HasSuffix(text, "\n") {
				text += "\n"
			}
			list = append(list, section{"want" + name, text})
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			list = append(list, section{"gone" + name, ""})
		}
	}
	slices.SortFunc(list, func(a, b section) int { return strings.Compare(a.name, b.name) })
	return list
}

func isInitramfs(text string) bool {
	_, err := readInitramfs(strings.NewReader(text), everything)
	return err == nil
}

// addedTo lists what one image has that another has not, or has otherwise.
func addedTo(t *testing.T, before, after string) string {
	t.Helper()
	old, err := readInitramfs(strings.NewReader(before), everything)
	if err != nil {
		t.Fatal(err)
	}
	// As the kernel reads it: what stands behind the compressed archive counts too.
	now := &initramfs{names: map[string]uint32{}, files: map[string][]byte{}, modules: map[string]bool{}, moduleDirs: map[string]bool{}}
	rest := []byte(after)
	if bytes.HasPrefix(rest, []byte(before)) {
		rest = rest[len(before):]
	}
	now, err = readInitramfs(bytes.NewReader(rest), everything)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range now.order {
		_, was := old.names[name]
		if was && bytes.Equal(old.files[name], now.files[name]) {
			continue
		}
		fmt.Fprint(&b, name)
		if text := now.files[name]; len(text) > 0 && !strings.Contains(name, "lib/modules/") {
			fmt.Fprintf(&b, " = %q", text)
		}
		b.WriteString("\n")
	}
	return b.String()
}
