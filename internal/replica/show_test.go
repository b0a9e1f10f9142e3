package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// twoFilesystems are a root, a /srv of its own that is also shown elsewhere, and an
// ESP, as a source with UEFI has it.
func twoFilesystems() *agentpb.Facts {
	f := extFacts()
	f.Uefi = true
	f.Filesystems[0].Mounts = []*agentpb.Mount{{MountPoint: "/", Root: "/"}}
	srv := extFacts().Filesystems[0]
	srv.MountPoint, srv.Device, srv.Uuid, srv.PartUuid = "/srv", "/dev/vda2", "5b1ef2a4-7d0e-4c4e-9a39-6c1a3a0d1f12", "0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a002"
	srv.Mounts = []*agentpb.Mount{{MountPoint: "/srv", Root: "/"}, {MountPoint: "/var/www", Root: "/www"}, {MountPoint: "/link/away", Root: "/"}, {MountPoint: "/../../gone", Root: "/"}}
	esp := &agentpb.Filesystem{MountPoint: "/boot/efi", Device: "/dev/vda3", Type: "vfat", Uuid: "ABCD-1234", SizeBytes: 64 * mebibyte,
		PartUuid: "0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a003", Mounts: []*agentpb.Mount{{MountPoint: "/boot/efi", Root: "/"}}}
	f.Filesystems = append(f.Filesystems, srv, esp)
	return f
}

// TestShow mounts a point of several filesystems, reads it, and ends it. A link of the
// source leads nowhere.
func TestShow(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, twoFilesystems()))
	m := mustMount(t, r)
	outside := t.TempDir()
	if err := os.Mkdir(filepath.Join(outside, "away"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"srv", "boot/efi", "var/www"} {
		if err := os.MkdirAll(filepath.Join(m.Root("/"), dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(os.Symlink(outside, filepath.Join(m.Root("/"), "link")), os.Mkdir(filepath.Join(m.Root("/srv"), "www"), 0o755))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "root", m.Root("/"), "f")
	writeFile(t, "srv", m.Root("/srv"), "f")
	writeFile(t, "www", m.Root("/srv"), "www/f")
	writeFile(t, "esp", m.Root("/boot/efi"), "f")
	p, err := r.MakePoint(ctx, m, &Manifest{ID: dr.NewPointID(time.Now()), Facts: twoFilesystems()})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "point")
	v, err := s.Show(ctx, p, dir)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"f": "root", "srv/f": "srv", "var/www/f": "www", "srv/www/f": "www", "boot/efi/f": "esp"} {
		if got := readFile(t, dir, path); got != want {
			t.Errorf("%s holds %q, want %q", path, got, want)
		}
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing %s: %v", path, err)
		}
	}
	if len(v.Missing) != 2 || !strings.Contains(v.Missing[0]+v.Missing[1], "/link/away") || !strings.Contains(v.Missing[0]+v.Missing[1], "/gone") {
		t.Errorf("not shown: %q", v.Missing)
	}
	if mounted, err := mountAt(filepath.Join(outside, "away")); err != nil || mounted != nil {
		t.Errorf("a link of the source led to %+v, %v", mounted, err)
	}
	checkShowRefusals(t, s, p, dir)
	// The point may go, what is shown stays; a user of it keeps it from ending.
	if err := os.RemoveAll(p.Dir); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, dir, "srv/f"); got != "srv" {
		t.Errorf("without the point: %q", got)
	}
	f, err := os.Open(filepath.Join(dir, "srv/f"))
	if err != nil {
		t.Fatal(err)
	}
	s.sweepShown() // must not touch what is in use
	if _, err := s.Unshow(dir); !errors.Is(err, unix.EBUSY) {
		t.Errorf("ended while a file was open: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Unshow(dir); err != nil || v.Point != p.ID {
		t.Errorf("%+v, %v", v, err)
	}
	if left, err := filepath.Glob(filepath.Join(s.root, "scratch", showPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory that was made is still there: %v", err)
	}
}

func checkShowRefusals(t *testing.T, s *Store, p *Point, dir string) {
	t.Helper()
	full := t.TempDir()
	writeFile(t, "x", full, "x")
	for at, want := range map[string]string{
		dir: "mounted on", full: "not empty", filepath.Join(s.Dir(), "x"): "in the store", "/": "in the store",
		filepath.Join(full, "no", "such"): "no such file",
	} {
		if _, err := s.Show(context.Background(), p, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("mount on %s: %v, want %q", at, err, want)
		}
	}
	if shown, err := s.Shown(); err != nil || len(shown) != 1 || shown[0].Dir != dir {
		t.Errorf("shown: %+v, %v", shown, err)
	}
	if _, err := s.Unshow(full); err == nil || !strings.Contains(err.Error(), "none is mounted") {
		t.Errorf("unmount what is not: %v", err)
	}
}

// TestShowWhereMountsAreShared is a host as systemd leaves it: mounts appear in all
// namespaces, and what is mounted on one view of a filesystem on every other.
func TestShowWhereMountsAreShared(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	if s.pool == "" {
		t.Skip("the store is no mount of its own here")
	}
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, twoFilesystems()))
	m := mustMount(t, r)
	if err := os.MkdirAll(filepath.Join(m.Root("/"), "srv"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "srv", m.Root("/srv"), "f")
	p, err := r.MakePoint(ctx, m, &Manifest{ID: dr.NewPointID(time.Now()), Facts: twoFilesystems()})
	if err != nil {
		t.Fatal(err)
	}
	at := t.TempDir()
	err = errors.Join(unix.Mount(at, at, "", unix.MS_BIND, ""), unix.Mount("none", at, "", unix.MS_SHARED, ""), unix.Mount("none", s.root, "", unix.MS_SHARED, ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(at, "point")
	if _, err := s.Show(ctx, p, dir); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, dir, "srv/f"); got != "srv" {
		t.Errorf("srv/f holds %q", got)
	}
	if _, err := s.Unshow(dir); err != nil {
		t.Error(err)
	}
	if left := witness(t, "findmnt", "-rn", "-o", "TARGET"); strings.Contains(left, "/point") || strings.Contains(left, "scratch") {
		t.Errorf("left: %s", left)
	}
}

// TestShowCutShort leaves what a process leaves that is killed in the middle of Show.
func TestShowCutShort(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	s := newStore(t)
	r := newReplica(t, s, "web1")
	mustPrepare(t, r, mustPlan(t, twoFilesystems()))
	p, err := r.MakePoint(ctx, mustMount(t, r), &Manifest{ID: dr.NewPointID(time.Now()), Facts: twoFilesystems()})
	if err != nil {
		t.Fatal(err)
	}
	scratch, dir := filepath.Join(s.root, "scratch"), t.TempDir()
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	work, err := os.MkdirTemp(scratch, showPrefix)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, "", work, "lock")
	v := &Shown{Version: showVersion, Server: "web1", Point: p.ID, Dir: dir, work: work}
	img, err := p.Clone(ctx, filepath.Join(work, showClone))
	if err != nil {
		t.Fatal(err)
	}
	v.Mounts = plannedMounts(img.Layout, twoFilesystems(), dir)
	dirs, _, err := img.mountHidden(ctx, filepath.Join(work, "fs"))
	if err = errors.Join(err, v.record()); err != nil {
		t.Fatal(err)
	}
	if err := v.bind(v.Mounts[0], dirs["/"]); err != nil {
		t.Fatal(err)
	}
	s.sweepShown() // keeps off what is still mounted
	if _, err := s.Unshow(dir); err != nil {
		t.Error(err)
	}
	if left := witness(t, "findmnt", "-rn", "-o", "TARGET"); strings.Contains(left, dir) || strings.Contains(left, showPrefix) {
		t.Errorf("left: %s", left)
	}
	if left, err := filepath.Glob(filepath.Join(scratch, showPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	// After a restart of the host there is only the clone, which goes with the next mount.
	old := filepath.Join(scratch, showPrefix+"old")
	if err := os.Mkdir(old, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, "", old, "lock")
	if _, err := p.Clone(ctx, filepath.Join(old, showClone)); err != nil {
		t.Fatal(err)
	}
	s.sweepShown()
	if there, err := exists(old); err != nil || there {
		t.Errorf("a clone that is not mounted any more is still there: %v", err)
	}
}
