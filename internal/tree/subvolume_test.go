package tree

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
)

func TestKeptSnapshots(t *testing.T) {
	f := &agentpb.Filesystem{Mounts: []*agentpb.Mount{{MountPoint: "/", Root: "/@/.snapshots/7/snapshot"}, {MountPoint: "/home", Root: "/@home"}}}
	add := func(path string, snapshot, isDefault bool) {
		f.Subvolumes = append(f.Subvolumes, &agentpb.Subvolume{Path: []byte(path), Snapshot: snapshot, Default: isDefault})
	}
	add("@", false, false)
	add("@/.snapshots", false, false)
	add("@/.snapshots/1/snapshot", true, true)  // what a mount shows that names none
	add("@/.snapshots/7/snapshot", true, false) // mounted: rolled back to
	add("@/.snapshots/7/snapshot/var/lib/machines", false, false)
	add("@/.snapshots/8/snapshot", true, false)
	add("@home/.snapshots/9/snap[shot]", true, false)
	add("timeshift-btrfs/snapshots/2026-11-01/@", true, false)
	add("@/var/lib/docker/btrfs/subvolumes/abc", true, false) // a container's own
	add("@home/.snapshots/manual", false, false)              // no snapshot at all
	got := KeptSnapshots(f)
	want := "@/.snapshots/8/snapshot @home/.snapshots/9/snap[shot] timeshift-btrfs/snapshots/2026-11-01/@"
	if strings.Join(got, " ") != want {
		t.Errorf("kept snapshots %v, want %s", got, want)
	}
	ex, err := NewExcludes([]string{Literal(got[1])})
	if err != nil || !ex.Covers("@home/.snapshots/9/snap[shot]") || ex.Covers("@home/.snapshots/9/snaps") {
		t.Errorf("pattern %s: %v", Literal(got[1]), err)
	}
}

// factsOf is what the agent would tell of a btrfs mounted whole at dir.
func factsOf(t *testing.T, dir string) []*agentpb.Subvolume {
	t.Helper()
	all, err := btrfs.Subvolumes(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []*agentpb.Subvolume
	for _, s := range all {
		out = append(out, &agentpb.Subvolume{Path: []byte(s.Path), ReadOnly: s.ReadOnly, Snapshot: s.Snapshot, Default: s.Default})
	}
	return out
}

func TestSubvolumeMarks(t *testing.T) {
	w := newLoopWorld(t, "btrfs")
	w.sh(`btrfs -q subvolume create @; btrfs -q subvolume create @gold; btrfs -q subvolume create plain; echo one > @gold/f; echo two > @/f
		btrfs property set @gold ro true; btrfs subvolume set-default $(btrfs inspect-internal rootid @) .`)
	root := w.root(w.dst)
	pass := func() {
		t.Helper()
		if err := UnlockSubvolumes(root); err != nil {
			t.Fatal(err)
		}
		w.sync()
		if err := MarkSubvolumes(root, factsOf(t, w.src)); err != nil {
			t.Fatal(err)
		}
		w.equal()
		for _, s := range factsOf(t, w.dst) {
			path := string(s.Path)
			if s.ReadOnly != (path == "@gold") || s.Default != (path == "@") {
				t.Errorf("in the replica: %v", s)
			}
		}
		if d, err := CompareSubvolumes(root, factsOf(t, w.src)); err != nil || len(d) > 0 {
			t.Errorf("differences of marks: %v, %v", d, err)
		}
	}
	pass()
	// A read-only one that changed all the same, as by btrfs receive.
	w.sh(`btrfs property set @gold ro false; echo three > @gold/f; btrfs property set @gold ro true`)
	pass()
	w.sh(`btrfs property set -f @gold ro false; btrfs subvolume set-default 5 .`)
	d, err := CompareSubvolumes(root, factsOf(t, w.src))
	if err != nil || len(d) != 2 {
		t.Errorf("differences of marks: %v, %v", d, err)
	}
	if err := UnlockSubvolumes(root); err != nil {
		t.Fatal(err)
	}
	if err := MarkSubvolumes(root, factsOf(t, w.src)); err != nil {
		t.Fatal(err)
	}
	if d, err := CompareSubvolumes(root, factsOf(t, w.src)); err != nil || len(d) > 0 {
		t.Errorf("differences of marks after: %v, %v", d, err)
	}
}
