package adapt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// testImage returns an image whose filesystems are directories, and the host
// directory of each by its mount point.
func testImage(t testing.TB, partitions ...Partition) (*Image, map[string]string) {
	t.Helper()
	g := &Image{work: t.TempDir(), Partitions: partitions}
	dirs := map[string]string{}
	for _, p := range partitions {
		if p.MountPoint == "" {
			continue
		}
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		g.filesys = append(g.filesys, &Filesystem{Partition: p, Root: root})
		dirs[p.MountPoint] = dir
	}
	return g, dirs
}

var rootPartition = Partition{Kind: KindFilesystem, MountPoint: "/", Type: "ext4", UUID: "1111-root", PartUUID: "1111-part"}

func rootAndVar(t *testing.T) (*Image, map[string]string) {
	t.Helper()
	g, dirs := testImage(t, rootPartition, Partition{Kind: KindFilesystem, MountPoint: "/var", Type: "ext4", UUID: "2222-var"})
	if err := g.arrange(nil); err != nil {
		t.Fatal(err)
	}
	return g, dirs
}

func TestGuestLinksStayInTheGuest(t *testing.T) {
	g, dirs := rootAndVar(t)
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("host"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{
		"/absolute": outside, "/up": "../../../../../.." + outside, "/etc": "var/etc", "/var/lib": "/srv",
		"/var/back": "../srv", "/loop": "loop", "/resolv.conf": "/run/resolv.conf", "/through": "/etc/../lib/x",
	} {
		if _, err := g.Symlink(target, link); err != nil {
			t.Fatalf("link %s: %v", link, err)
		}
	}
	for _, link := range []string{"/absolute", "/up"} {
		if b, err := g.ReadFile(link); err == nil {
			t.Errorf("%s leads out of the guest: %q", link, b)
		}
	}
	for _, link := range []string{"/absolute", "/up"} {
		if _, err := g.WriteFile(link, []byte("hostile"), 0o644); err != nil {
			t.Errorf("write %s: %v", link, err)
		}
	}
	if b, _ := os.ReadFile(outside); string(b) != "host" {
		t.Fatalf("the host's file was changed: %q", b)
	}
	if b, err := os.ReadFile(filepath.Join(dirs["/"], outside)); err != nil || string(b) != "hostile" {
		t.Errorf("the guest's file of that name: %q, %v", b, err)
	}
	// Across mounts: /etc → /var/etc, /var/lib → /srv on the root filesystem.
	for file, at := range map[string]string{"/etc/f": "/var:etc/f", "/var/lib/g": "/:srv/g", "/var/back/h": "/:srv/h"} {
		if _, err := g.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		mount, rel, _ := cutColon(at)
		if _, err := os.Stat(filepath.Join(dirs[mount], rel)); err != nil {
			t.Errorf("%s is not at %s: %v", file, at, err)
		}
	}
	if _, err := g.ReadFile("/loop"); !errors.Is(err, errTooManyLinks) {
		t.Errorf("a loop: %v", err)
	}
}

func cutColon(s string) (a, b string, ok bool) {
	for i := range s {
		if s[i] == ':' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func TestGuestOpensRegularFilesOnly(t *testing.T) {
	g, dirs := rootAndVar(t)
	if err := unix.Mkfifo(filepath.Join(dirs["/"], "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := g.ReadFile("/fifo"); err == nil {
		t.Error("read a FIFO")
	}
	if _, err := g.WriteFile("/fifo", []byte("x"), 0o644); err == nil {
		t.Error("wrote a FIFO")
	}
	if _, err := g.ReadFile("/var"); err == nil {
		t.Error("read a directory")
	}
	if _, err := g.Remove("/var"); err == nil {
		t.Error("removed a directory")
	}
	if _, err := g.ReadFile("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestGuestWriteKeepsModeAndSaysWhatChanged(t *testing.T) {
	g, dirs := rootAndVar(t)
	file := filepath.Join(dirs["/"], "secret")
	os.WriteFile(file, []byte("old"), 0o600)
	if changed, err := g.WriteFile("/secret", []byte("old"), 0o644); err != nil || changed {
		t.Errorf("same content: changed %v, %v", changed, err)
	}
	if changed, err := g.WriteFile("/secret", []byte("new"), 0o644); err != nil || !changed {
		t.Errorf("new content: changed %v, %v", changed, err)
	}
	if st, _ := os.Stat(file); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := g.WriteFile("/a/b/c", nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(filepath.Join(dirs["/"], "a/b/c")); st.Mode().Perm() != 0o755 {
		t.Errorf("mode of a new file %v", st.Mode())
	}
}

func TestGuestWritesImmutableFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to set the immutable flag")
	}
	g, dirs := rootAndVar(t)
	file := filepath.Join(dirs["/"], "resolv.conf")
	os.WriteFile(file, []byte("old"), 0o644)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_IMMUTABLE); err != nil {
		t.Skip("this filesystem has no immutable flag: ", err)
	}
	defer unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0)
	if _, err := g.WriteFile("/resolv.conf", []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(file); string(b) != "new" {
		t.Errorf("content %q", b)
	}
	if flags, _ := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); flags&unix.STATX_ATTR_IMMUTABLE == 0 {
		t.Error("the flag is gone")
	}
	if removed, err := g.Remove("/resolv.conf"); err != nil || !removed {
		t.Errorf("remove: %v, %v", removed, err)
	}
}

func TestLoaderPath(t *testing.T) {
	g, _ := testImage(t, Partition{MountPoint: "/", Type: "btrfs"}, Partition{MountPoint: "/boot", Type: "ext4"})
	g.places = []place{{"/boot", g.filesys[1], "."}, {"/", g.filesys[0], "@/.snapshots/1/snapshot"}}
	for _, test := range []struct{ guest, want string }{
		{"/boot/vmlinuz-1", "/vmlinuz-1"}, {"/usr/lib/x", "/@/.snapshots/1/snapshot/usr/lib/x"}, {"/", "/@/.snapshots/1/snapshot"},
		{"/boot", "/."},
	} {
		if _, got, err := g.loaderPath(test.guest); err != nil || got != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.guest, got, err, test.want)
		}
	}
}
