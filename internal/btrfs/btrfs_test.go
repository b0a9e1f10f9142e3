package btrfs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// mounted returns a new btrfs of one device.
func mounted(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a filesystem needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	script := "truncate -s 300M " + image + " && mkfs.btrfs -q " + image + " && mount -o loop " + image + " " + dir
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Skipf("no btrfs on a loop device here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSubvolumes(t *testing.T) {
	dir := mounted(t)
	err := withDir(dir, func(fd int) error {
		for i := range 150 { // more than one answer of the kernel holds
			if err := Create(fd, fmt.Sprintf("s%03d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir+"/s007/plain", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Snapshot(dir+"/s001", dir+"/s007/plain", "snap"); err != nil {
		t.Fatal(err)
	}
	all, err := Subvolumes(dir)
	if err != nil || len(all) != 151 {
		t.Fatalf("%d subvolumes, %v", len(all), err)
	}
	for i, s := range all[:150] {
		if s.Path != fmt.Sprintf("s%03d", i) || s.ReadOnly || s.Snapshot || s.Default {
			t.Errorf("subvolume %d: %+v", i, s)
		}
	}
	if s := all[150]; s.Path != "s007/plain/snap" || !s.ReadOnly || !s.Snapshot || s.Default {
		t.Errorf("the snapshot: %+v", s)
	}
	err = withDir(dir+"/s007/plain/snap", func(fd int) error { return SetReadOnly(fd, false) })
	if err == nil {
		err = withDir(dir+"/s003", func(fd int) error { return SetReadOnly(fd, true) })
	}
	if err == nil {
		err = withDir(dir, func(fd int) error { return SetDefault(fd, all[5].ID) })
	}
	if err != nil {
		t.Fatal(err)
	}
	all, err = Subvolumes(dir)
	if err != nil || all[150].ReadOnly || !all[3].ReadOnly || !all[5].Default || all[4].Default {
		t.Errorf("after changes: %v, %+v %+v %+v", err, all[150], all[3], all[5])
	}
	out, err := exec.Command("btrfs", "subvolume", "get-default", dir).Output()
	if want := fmt.Sprintf("ID %d ", all[5].ID); err != nil || string(out[:len(want)]) != want {
		t.Errorf("btrfs says %q, %v", out, err)
	}
	if err := withDir(dir, func(fd int) error { return SetDefault(fd, 0) }); err != nil {
		t.Error(err)
	}
	if err := Delete(dir+"/s007/plain", "snap"); err != nil {
		t.Error(err)
	}
	if paths, err := Paths(dir); err != nil || len(paths) != 150 {
		t.Errorf("%d subvolumes after a removal, %v", len(paths), err)
	}
}
