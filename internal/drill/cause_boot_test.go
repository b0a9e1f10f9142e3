package drill

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
)

// breakage is a way in which a server is broken.
type breakage struct {
	m      machine
	cause  []string // all of it in the cause
	mangle func(t *testing.T, s *Subject)
}

// TestBootNamesTheCause breaks servers in several ways and wants each drill to name
// what was broken.
func TestBootNamesTheCause(t *testing.T) {
	wantCauses(t, map[dr.ServerName]breakage{
		"option":   {m: machine{varFS: "ext4", spoil: inFile("etc/fstab", "/var ext4  defaults", "/var ext4  defaults,nosuchoption")}, cause: []string{"emergency mode", "/var could not be mounted", "Unknown parameter 'nosuchoption'", "line 3 of /etc/fstab"}},
		"uuid":     {m: machine{}, cause: []string{"wrong UUID", "aaaaaaaa-1111-4222-8333-000000000001"}, mangle: otherUUID},
		"library":  {m: machine{spoil: without("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-*", "usr/lib/systemd/libsystemd-shared-*")}, cause: []string{"missing library", "libsystemd-shared"}},
		"readonly": {m: machine{spoil: inFile("etc/fstab", "/ ext4  defaults", "/ ext4  ro")}, cause: []string{"read-only"}},
		"full":     {m: machine{spoil: fill}, cause: []string{"full root"}},
		"virtio":   {m: machine{spoil: noDriver}, cause: []string{"virtio"}},
		"initrd":   {m: machine{spoil: cutInitramfs}, cause: []string{"damaged initramfs"}},
	})
}

// TestBootNamesWhatIsMissing takes away what a system cannot start without.
func TestBootNamesWhatIsMissing(t *testing.T) {
	wantCauses(t, map[dr.ServerName]breakage{
		"init":   {m: machine{spoil: without("lib/systemd/systemd", "usr/sbin/init", "usr/bin/init", "etc/init", "bin/sh", "usr/bin/sh")}, cause: []string{"missing init"}},
		"libc":   {m: machine{spoil: without("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libc.so.6")}, cause: []string{"missing init", "cannot be started"}},
		"points": {m: machine{spoil: without("dev/*", "dev", "proc", "sys", "run")}, cause: []string{"missing directory", "/dev"}},
		"kernel": {m: machine{spoil: without("boot/vmlinuz-*")}, cause: []string{"no kernel"}},
	})
}

func wantCauses(t *testing.T, broken map[dr.ServerName]breakage) {
	t.Helper()
	var subjects []Subject
	for name, b := range broken {
		b.m.suite, b.m.fs = "bookworm", "ext4"
		s := server(t, name, b.m)
		if b.mangle != nil {
			b.mangle(t, &s)
		}
		subjects = append(subjects, s)
	}
	results := drillAll(t, subjects)
	for name, b := range broken {
		r := results[name]
		if r.Outcome != dr.NotDone || r.HostFault || r.Hint == "" {
			t.Errorf("%s: %s, host fault %t, hint %q", name, r.Outcome, r.HostFault, r.Hint)
		}
		for _, want := range b.cause {
			if !strings.Contains(r.Cause, want) {
				t.Errorf("%s: cause %q lacks %q", name, r.Cause, want)
			}
		}
		if keep := os.Getenv("LEEWARD_KEEP_CONSOLES"); keep != "" && r.SerialLog != "" {
			if err := CloneFile(t.Context(), r.SerialLog, filepath.Join(keep, string(name)+".log")); err != nil {
				t.Error(err)
			}
		}
	}
}

func inFile(file, old, text string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || !strings.Contains(string(b), old) {
			t.Fatalf("%s lacks %q: %v\n%s", file, old, err, b)
		}
		writeFile(t, filepath.Join(root, file), strings.Replace(string(b), old, text, 1))
	}
}

func without(patterns ...string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		t.Helper()
		gone := 0
		for _, p := range patterns {
			files, _ := filepath.Glob(filepath.Join(root, p))
			for _, f := range files {
				if os.RemoveAll(f) == nil {
					gone++
				}
			}
		}
		if gone == 0 {
			t.Fatalf("nothing of %v is there", patterns)
		}
	}
}

// otherUUID gives the root filesystem another UUID than the layout has.
func otherUUID(t *testing.T, s *Subject) {
	t.Helper()
	p := s.Partitions[2]
	part := filepath.Join(t.TempDir(), "part")
	seek := p.Offset / mib
	size := p.Size / mib
	run(t, "sh", "-c", `set -e; dd if="$1" of="$2" bs=1M skip=$3 count=$4 conv=sparse status=none
e2fsck -fy "$2" >/dev/null || [ $? -le 2 ]
tune2fs -f -U bbbbbbbb-1111-4222-8333-000000000009 "$2" >/dev/null; dd if="$2" of="$1" bs=1M seek=$3 conv=notrunc status=none; rm "$2"`,
		"sh", s.Disk, part, strconv.FormatInt(seek, 10), strconv.FormatInt(size, 10))
}

func fill(t *testing.T, root string) {
	t.Helper()
	f, err := os.Create(filepath.Join(root, "var/filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for chunk := make([]byte, mib); len(chunk) > 0; {
		_, err := f.Write(chunk)
		if errors.Is(err, syscall.ENOSPC) {
			chunk = chunk[:len(chunk)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// noDriver leaves the kernel no module to see a virtio disk with.
func noDriver(t *testing.T, root string) {
	t.Helper()
	withoutVirtio(t, root)
	run(t, "sh", "-c", `find "$1" -name 'virtio_blk*' -print -delete | grep -q .`, "sh", filepath.Join(root, "lib/modules")+"/")
}

// cutInitramfs leaves of the initramfs its first part.
func cutInitramfs(t *testing.T, root string) {
	t.Helper()
	images, _ := filepath.Glob(filepath.Join(root, "boot/initrd.img-*"))
	if len(images) != 1 {
		t.Fatalf("initramfs images: %v", images)
	}
	if err := os.Truncate(images[0], 1<<20); err != nil {
		t.Fatal(err)
	}
}
