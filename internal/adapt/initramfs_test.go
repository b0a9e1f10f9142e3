package adapt

import (
	"bytes"
	"compress/gzip"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

func everything(string) bool { return true }

// pack compresses as mkinitramfs would.
func pack(t testing.TB, kind string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "none":
		return data
	case "gzip":
		w = gzip.NewWriter(&b)
	case "xz":
		w, err = xz.NewWriter(&b)
	case "lzma":
		w, err = lzma.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b)
	case "lz4":
		z := lz4.NewWriter(&b)
		err = z.Apply(lz4.LegacyOption(true))
		w = z
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func archive(t testing.TB, entries ...cpioEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeCpio(&b, entries); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadInitramfs(t *testing.T) {
	early := archive(t, cpioEntry{"kernel/x86/microcode/GenuineIntel.bin", modeFile, bytes.Repeat([]byte("u"), 1001)})
	main := archive(t, cpioEntry{"init", modeFile, []byte("#!/bin/sh\n")}, cpioEntry{"lib", modeLink, []byte("usr/lib")},
		cpioEntry{"usr/lib/modules/6.1.0/kernel/drivers/block/virtio-blk.ko.xz", modeFile, []byte("elf")})
	second := archive(t, cpioEntry{"conf/modules", modeFile, []byte("xfs\n")})
	for _, kind := range []string{"none", "gzip", "xz", "zstd", "lz4", "lzma"} {
		image := slices.Concat(early, make([]byte, 512), pack(t, kind, slices.Concat(main, make([]byte, 100), second)))
		im, err := readInitramfs(bytes.NewReader(image), everything)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if im.compression != kind || !im.modules["virtio_blk"] || len(im.order) != 5 || string(im.files["conf/modules"]) != "xfs\n" ||
			!im.moduleDirs["usr/lib/modules/6.1.0"] {
			t.Errorf("%s: got %s, %q, modules %v", kind, im.compression, im.order, im.modules)
		}
		if kind != "none" && im.early != int64(len(early))+512 {
			t.Errorf("%s: the main archive begins at %d, want %d", kind, im.early, len(early)+512)
		}
	}
}

func TestReadInitramfsRefuses(t *testing.T) {
	whole := archive(t, cpioEntry{"init", modeFile, []byte("x")})
	for name, image := range map[string][]byte{
		"nothing": nil, "zeros": make([]byte, 4096), "text": []byte("this is no initramfs at all"),
		"cut header": whole[:50], "cut content": whole[:115], "cut gzip": pack(t, "gzip", whole)[:20],
		"empty gzip": pack(t, "gzip", nil), "gzip of text": pack(t, "gzip", []byte("text")),
	} {
		if im, err := readInitramfs(bytes.NewReader(image), everything); err == nil {
			t.Errorf("%s: accepted as %q", name, im.order)
		}
	}
}

// TestCpioAgainstCpio has the system's cpio read what we write, and us what it writes.
func TestCpioAgainstCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("needs cpio: ", err)
	}
	entries := []cpioEntry{{"a", modeDir, nil}, {"a/file", modeFile, []byte("content")}, {"a/odd-name1", modeFile, []byte("12345")},
		{"link", modeLink, []byte("a/file")}}
	cmd := exec.Command("cpio", "-t", "--quiet")
	cmd.Stdin = bytes.NewReader(archive(t, entries...))
	out, err := cmd.Output()
	if err != nil || string(out) != "a\na/file\na/odd-name1\nlink\n" {
		t.Fatalf("cpio reads %q, %v", out, err)
	}
	cmd = exec.Command("cpio", "-i", "--quiet")
	cmd.Dir = t.TempDir()
	cmd.Stdin = bytes.NewReader(archive(t, entries...))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio extracts: %v: %s", err, out)
	}
	list := exec.Command("cpio", "-o", "-H", "newc", "--quiet")
	list.Dir = cmd.Dir
	list.Stdin = strings.NewReader("a\na/file\na/odd-name1\nlink\n")
	theirs, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	im, err := readInitramfs(bytes.NewReader(theirs), everything)
	if err != nil || len(im.order) != 4 || string(im.files["a/file"]) != "content" || string(im.files["link"]) != "a/file" {
		t.Fatalf("we read %+v, %v", im, err)
	}
}

func TestWithDirsRepeatsNoDirectory(t *testing.T) {
	im := &initramfs{names: map[string]uint32{"usr": modeDir, "usr/lib": modeDir, "lib": modeLink}}
	var names []string
	for _, e := range im.withDirs([]cpioEntry{{"usr/lib/modules/1/a.ko", modeFile, nil}, {"etc/b", modeFile, nil}, {"lib/c", modeFile, nil}}) {
		names = append(names, e.name)
	}
	if got := strings.Join(names, " "); got != "usr/lib/modules usr/lib/modules/1 etc usr/lib/modules/1/a.ko etc/b lib/c" {
		t.Errorf("got %s", got)
	}
}

func TestClosureOrdersDependencies(t *testing.T) {
	m := &moduleSet{files: map[string]string{}, depends: map[string][]string{}, builtin: map[string]bool{"virtio": true}, known: true}
	m.parseDep("kernel/fs/xfs/xfs.ko.zst: kernel/lib/libcrc32c.ko.zst\nkernel/lib/libcrc32c.ko.zst:\n" +
		"kernel/a.ko: kernel/b.ko\nkernel/b.ko: kernel/a.ko\n../../etc/evil.ko:\n/abs/evil2.ko:\n")
	if got := m.closure([]string{"xfs", "virtio", "none", "a"}); !slices.Equal(got, []string{"libcrc32c", "xfs", "b", "a"}) {
		t.Errorf("got %v", got)
	}
	if m.has("evil") || m.has("evil2") {
		t.Error("took a module from outside of its directory")
	}
	if got := m.missing([]string{"xfs", "virtio", "virtio_blk"}); !slices.Equal(got, []string{"virtio_blk"}) {
		t.Errorf("missing %v", got)
	}
}

func FuzzInitramfs(f *testing.F) {
	whole := archive(f, cpioEntry{"init", modeFile, []byte("x")}, cpioEntry{"lib/modules/1/a.ko", modeFile, nil})
	f.Add(whole)
	for _, kind := range []string{"gzip", "xz", "zstd", "lz4", "lzma"} {
		f.Add(pack(f, kind, whole))
	}
	f.Add([]byte("07070100000001"))
	f.Fuzz(func(t *testing.T, image []byte) {
		im, err := readInitramfs(bytes.NewReader(image), func(n string) bool { return len(n)%2 == 0 })
		if err == nil && len(im.order) == 0 {
			t.Fatal("an image without files was accepted")
		}
	})
}
