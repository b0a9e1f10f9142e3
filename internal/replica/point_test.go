package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// TestPointsAreKeptAndPruned makes five points; the newest three stay, and one
// that is being read.
func TestPointsAreKeptAndPruned(t *testing.T) {
	needRoot(t)
	ctx := context.Background()
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	begin := time.Date(2017, 9, 6, 12, 0, 0, 0, time.UTC)
	var first *Point
	for i := range 5 {
		p := mustPoint(t, r, m, begin.Add(time.Duration(i)*time.Hour), fmt.Sprint(i))
		if i == 0 {
			first = p
			release, err := p.Hold()
			if err != nil {
				t.Fatal(err)
			}
			defer release()
		}
	}
	removed, err := r.Retain(Retention{Keeps: []Keep{{Last: 3}}})
	if err != nil || len(removed) != 1 || removed[0] != "20170906T130000.000Z" {
		t.Errorf("removed %v, %v", removed, err)
	}
	points, err := r.Points()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, p := range points {
		ids = append(ids, string(p.ID))
	}
	want := "20170906T160000.000Z 20170906T150000.000Z 20170906T140000.000Z " + string(first.ID)
	if got := strings.Join(ids, " "); got != want {
		t.Errorf("points %s, want %s", got, want)
	}
	if man := points[0].Manifest; man.Source.Hostname != "web1" || man.DiskBytes == 0 {
		t.Errorf("manifest %+v", man)
	}
	for i, p := range points[:3] {
		checkReadOnlyClone(t, r, p, itoa(4-i))
	}
	if _, err := r.MakePoint(ctx, m, &Manifest{ID: points[0].ID}); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a point of the same id: %v", err)
	}
	writeFile(t, "still writable", m.Root("/"), "n")
}

// checkReadOnlyClone looks into a clone of p that must not take anything.
func checkReadOnlyClone(t *testing.T, r *Replica, p *Point, want string) {
	t.Helper()
	img, err := p.Clone(context.Background(), filepath.Join(scratch(t, r), "c"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := img.Mount(context.Background(), true)
	if err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, c.Root("/"), "n"); got != want {
		t.Errorf("point %s holds %s", p.ID, got)
	}
	if err := os.WriteFile(filepath.Join(c.Root("/"), "x"), nil, 0o600); err == nil {
		t.Error("a clone mounted for reading took a file")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPointIsAbsentWhenItFails keeps a file open for writing: no point appears,
// and the replica can be written on.
func TestPointIsAbsentWhenItFails(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	f, err := os.Create(filepath.Join(m.Root("/"), "open"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	man := &Manifest{ID: dr.NewPointID(time.Now()), Facts: extFacts()}
	if p, err := r.MakePoint(ctx, m, man); err == nil {
		t.Fatalf("made %+v while a file was being written", p)
	}
	if _, err := f.WriteString("x"); err != nil {
		t.Errorf("after the attempt: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(r.path(pointsDir))
	if err != nil || len(entries) != 0 {
		t.Errorf("points %v, %v, want none", entries, err)
	}
	if _, err := r.MakePoint(context.Background(), m, man); err != nil {
		t.Error(err)
	}
}

// TestDamagedPointsAreReported damages a point in each of its parts.
func TestDamagedPointsAreReported(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	mustPrepare(t, r, mustPlan(t, extFacts()))
	m := mustMount(t, r)
	good, err := r.MakePoint(context.Background(), m, &Manifest{ID: dr.NewPointID(time.Now()), Facts: extFacts()})
	if err != nil {
		t.Fatal(err)
	}
	change := func(name, old, new string) func(dir string) error {
		return func(dir string) error {
			text := readFile(t, dir, name)
			if !strings.Contains(text, old) {
				t.Fatalf("%s holds no %q", name, old)
			}
			return os.WriteFile(filepath.Join(dir, name), []byte(strings.Replace(text, old, new, 1)), 0o600)
		}
	}
	for what, damage := range map[string]func(dir string) error{
		"no manifest":     func(dir string) error { return os.Remove(filepath.Join(dir, manifestFile)) },
		"cut manifest":    func(dir string) error { return os.Truncate(filepath.Join(dir, manifestFile), 100) },
		"edited manifest": change(manifestFile, `"hostname":"web1"`, `"hostname":"web2"`),
		"edited layout":   change(layoutFile, "rootfs", "otherfs"),
		"edited facts":    change(factsFile, "6.1.0", "6.1.1"),
		"short disk":      func(dir string) error { return os.Truncate(filepath.Join(dir, diskFile), 4096) },
		"no disk":         func(dir string) error { return os.Remove(filepath.Join(dir, diskFile)) },
	} {
		t.Run(what, func(t *testing.T) {
			bad := filepath.Join(r.path(pointsDir), "20160101T000000.000Z")
			if err := cloneTree(context.Background(), good.Dir, bad); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(bad)
			renameManifest(t, bad)
			if points, err := r.Points(); err != nil || len(points) != 2 {
				t.Fatalf("before the damage: %d points, %v", len(points), err)
			}
			if err := damage(bad); err != nil {
				t.Fatal(err)
			}
			points, err := r.Points()
			if len(points) != 1 || points[0].ID != good.ID {
				t.Errorf("%d points, want the good one alone", len(points))
			}
			if !errors.Is(err, ErrDamagedPoint) || !strings.Contains(err.Error(), "20160101T000000.000Z") {
				t.Errorf("error %v, want the damaged point named", err)
			}
		})
	}
}

// renameManifest makes the manifest in dir tell the name of dir.
func renameManifest(t *testing.T, dir string) {
	t.Helper()
	man, err := parseManifest([]byte(readFile(t, dir, manifestFile)))
	if err != nil {
		t.Fatal(err)
	}
	man.ID = dr.PointID(filepath.Base(dir))
	if man.Digest, err = man.digest(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(man)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, string(b), dir, manifestFile)
}

// TestLeftoversGo takes the lock over leftovers of a point being made and of one
// being removed.
func TestLeftoversGo(t *testing.T) {
	needRoot(t)
	r := newReplica(t, newStore(t), "web1")
	for _, name := range []string{tmpPrefix + "20160101T000000.000Z", oldPrefix + "20150101T000000.000Z"} {
		if err := os.MkdirAll(r.path(pointsDir, name, "state"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if points, err := r.Points(); err != nil || len(points) != 0 {
		t.Errorf("points %v, %v, want none", points, err)
	}
	if err := r.Lock(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(r.path(pointsDir))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestEscapePath(t *testing.T) {
	for in, want := range map[string]string{
		"plain/näme":   "plain/näme",
		"new\nline":    `new\x0aline`,
		"bad\xff\xfe":  `bad\xff\xfe`,
		`back\slash`:   `back\x5cslash`,
		"real \uFFFD":  "real \uFFFD",
		"cut \xe2\x82": `cut \xe2\x82`,
		"del\x7f":      `del\x7f`,
	} {
		if got := EscapePath(in); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

// FuzzManifest reads foreign manifests: none is accepted that does not digest to
// what it says, and none breaks the reader.
func FuzzManifest(f *testing.F) {
	man := &Manifest{Version: manifestVersion, Server: "web1", ID: "20160101T000000.000Z", Files: map[string]string{"a": "b"}}
	man.Digest, _ = man.digest()
	b, err := json.Marshal(man)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"filesystems":[{"fuzzy":["\u0000"]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		man, err := parseManifest(b)
		if err != nil {
			return
		}
		if sum, err := man.digest(); err != nil || sum != man.Digest {
			t.Fatalf("accepted a manifest with digest %s, it is %s, %v", man.Digest, sum, err)
		}
	})
}

// FuzzLayout reads foreign layouts.
func FuzzLayout(f *testing.F) {
	l, err := PlanLayout(extFacts(), LayoutOptions{Server: "web1"})
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLayout(b)
		if err != nil {
			return
		}
		for _, p := range l.Partitions {
			if p.Offset < 0 || p.Size <= 0 || p.Offset > l.Size-p.Size {
				t.Fatalf("accepted a partition at %d+%d on a disk of %d", p.Offset, p.Size, l.Size)
			}
		}
	})
}

// FuzzMountinfo reads foreign lines of mountinfo.
func FuzzMountinfo(f *testing.F) {
	f.Add(`36 35 98:0 /mnt1 /mnt\0402 rw,noatime shared:1 - ext3 /dev/root rw,errors=continue`)
	f.Fuzz(func(t *testing.T, line string) { parseMount(line) })
}
