package tree

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/lvm"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// fakeVolumes stands for LVM: snapshots are copies of an image on loop devices.
type fakeVolumes struct {
	t       *testing.T
	image   string // what is mounted at the source
	all     []lvm.Volume
	loops   map[string]string
	removed []string
}

func (f *fakeVolumes) volumes() volumes {
	return volumes{uuidOf: func(string) (string, error) { return "LVM-origin", nil },
		list: func(context.Context) ([]lvm.Volume, error) { return slices.Clone(f.all), nil }, take: f.take, remove: f.remove}
}

func (f *fakeVolumes) take(d lvm.Decision, name string) (*lvm.Snapshot, error) {
	copied := f.t.TempDir() + "/copy"
	out, err := exec.Command("sh", "-c", "sync && cp --sparse=always "+f.image+" "+copied+" && losetup -f --show "+copied).Output()
	if err != nil {
		return nil, err
	}
	f.loops[name] = strings.TrimSpace(string(out))
	f.all = append(f.all, lvm.Volume{Group: d.Group, Name: name, UUID: "LVM-" + name, Attr: "swi-aos---", ExtentSize: 4 << 20})
	return &lvm.Snapshot{Group: d.Group, Name: name, Device: f.loops[name], Room: d.Room, At: time.Now()}, nil
}

func (f *fakeVolumes) remove(_, name string) error {
	f.removed = append(f.removed, name)
	f.all = slices.DeleteFunc(f.all, func(v lvm.Volume) bool { return v.Name == name })
	if dev := f.loops[name]; dev != "" {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			f.t.Errorf("remove %s: %v: %s", name, err, out)
		}
	}
	return nil
}

// newVolumeService serves a filesystem of a kind that lies on a volume, and says
// where it is mounted.
func newVolumeService(t *testing.T, kind string) (*Service, *fakeVolumes, string, *pipe.Conn) {
	w := newWorld(t)
	onLoop(t, w.src, kind)
	m, err := findMount(w.src)
	if err != nil {
		t.Fatal(err)
	}
	image, err := exec.Command("losetup", "-nO", "BACK-FILE", m.device).Output()
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeVolumes{t: t, image: strings.TrimSpace(string(image)), loops: map[string]string{}}
	f.all = []lvm.Volume{{Group: "vg0", Name: "origin", UUID: "LVM-origin", Attr: "-wi-ao----", Size: 400 << 20, GroupFree: 1 << 30, ExtentSize: 4 << 20},
		{Group: "vg0", Name: "leeward-00000000-1-1-0", UUID: "LVM-stale", Attr: "swi-a-s---", ExtentSize: 4 << 20}}
	s := NewService(noLimits{}, w.state+"/scratch")
	s.volumes = f.volumes()
	return s, f, w.src, link(t, s.Handlers())
}

func TestVolumeSnapshot(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		s, f, src, conn := newVolumeService(t, kind)
		if err := os.WriteFile(src+"/f", []byte("one"), 0o600); err != nil {
			t.Fatal(err)
		}
		open := &agentpb.OpenRequest{Snapshot: true, Filesystems: []*agentpb.OpenFilesystem{{MountPoint: src}}}
		var opened agentpb.OpenReply
		if err := conn.Call(t.Context(), "tree.open", open, &opened); err != nil {
			t.Fatal(err)
		}
		if o := opened.Filesystems[0]; o.Error != "" || o.Consistency != string(dr.Crash) || o.How != "LVM snapshot" {
			t.Fatalf("%s: opened as %v", kind, o)
		}
		if !slices.Equal(f.removed, []string{"leeward-00000000-1-1-0"}) {
			t.Errorf("of a killed pass were removed: %v", f.removed)
		}
		if err := os.WriteFile(src+"/f", []byte("two"), 0o600); err != nil {
			t.Fatal(err)
		}
		v, err := s.view(src)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := openRegular(v.root, "f")
		if err != nil {
			t.Fatal(err)
		}
		file := os.NewFile(uintptr(fd), "f")
		b := make([]byte, 3)
		if _, err := file.ReadAt(b, 0); err != nil || string(b) != "one" {
			t.Errorf("%s: the view shows %q, %v", kind, b, err)
		}
		file.Close()
		var check agentpb.CheckReply
		if err := conn.Call(t.Context(), "tree.check", &agentpb.CheckRequest{Release: src}, &check); err != nil || len(check.Lost) > 0 {
			t.Errorf("%s: check: %v, %v", kind, &check, err)
		}
		if len(f.removed) != 2 || len(f.all) != 1 {
			t.Errorf("%s: when it is read no more, were removed: %v", kind, f.removed)
		}
		open.Filesystems[0].Live = "says the test"
		if err := conn.Call(t.Context(), "tree.open", open, &opened); err != nil || opened.Filesystems[0].How != "live: says the test" {
			t.Errorf("%s: opened live: %v, %v", kind, &opened, err)
		}
		f.all[0].GroupFree = 0
		open.Filesystems[0].Live = ""
		if err := conn.Call(t.Context(), "tree.open", open, &opened); err != nil || !strings.HasPrefix(opened.Filesystems[0].How, "live: volume group vg0 has 0 MiB free") {
			t.Errorf("%s: opened without room: %v, %v", kind, &opened, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A snapshot that fills up while it is read ends what reads it.
func TestVolumeSnapshotFillsUp(t *testing.T) {
	s, f, src, conn := newVolumeService(t, "ext4")
	open := &agentpb.OpenRequest{Snapshot: true, Filesystems: []*agentpb.OpenFilesystem{{MountPoint: src}}}
	var opened agentpb.OpenReply
	if err := conn.Call(t.Context(), "tree.open", open, &opened); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	entered := make(chan struct{})
	slow := s.reader(func(ctx context.Context, _ *pipe.Stream) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	})
	go func() { ended <- slow(t.Context(), nil) }()
	<-entered
	for i := range f.all {
		if strings.HasPrefix(f.all[i].Attr, "s") {
			f.all[i].Attr = "swi-I-s---"
		}
	}
	s.look(t.Context())
	if err := <-ended; !errors.Is(err, errSnapshotLost) || !strings.Contains(err.Error(), "filled up") {
		t.Errorf("the reader ended with %v", err)
	}
	if len(f.all) != 1 {
		t.Errorf("left behind: %v", f.all)
	}
	var check agentpb.CheckReply
	if err := conn.Call(t.Context(), "tree.check", &agentpb.CheckRequest{}, &check); err != nil || len(check.Lost) != 1 || check.Lost[0].MountPoint != src {
		t.Errorf("check: %v, %v", &check, err)
	}
	if _, err := s.view(src); !errors.Is(err, errSnapshotLost) {
		t.Errorf("reading it on: %v", err)
	}
	// Opened anew it is well again.
	if err := conn.Call(t.Context(), "tree.open", open, &opened); err != nil || opened.Filesystems[0].How != "LVM snapshot" {
		t.Errorf("opened anew: %v, %v", &opened, err)
	}
	if err := s.Close(); err != nil || len(f.all) != 1 {
		t.Errorf("close: %v, left behind: %v", err, f.all)
	}
}

func TestCleanRemovesStaleSnapshots(t *testing.T) {
	s, f, src, conn := newVolumeService(t, "ext4")
	left := s.scratch + "/view-00000000-1-1-12345"
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	var reply agentpb.CleanReply
	req := &agentpb.OpenRequest{Filesystems: []*agentpb.OpenFilesystem{{MountPoint: src}}}
	if err := conn.Call(t.Context(), "tree.clean", req, &reply); err != nil || len(reply.Left) > 0 || len(f.all) != 1 {
		t.Errorf("clean: %v, %v, left behind: %v", &reply, err, f.all)
	}
	if _, err := os.Stat(left); err == nil {
		t.Errorf("clean leaves %s", left)
	}
}
