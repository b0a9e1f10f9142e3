package protect

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
)

func TestSnapshotsAreCarriedFirst(t *testing.T) {
	s := &source{opened: map[string]*agentpb.OpenedFilesystem{}, facts: &agentpb.Facts{}}
	for _, f := range []struct {
		at          string
		consistency dr.Consistency
	}{{"/", dr.Fuzzy}, {"/home", dr.Crash}, {"/srv", dr.Fuzzy}, {"/var", dr.Crash}} {
		s.facts.Filesystems = append(s.facts.Filesystems, &agentpb.Filesystem{MountPoint: f.at})
		s.opened[f.at] = &agentpb.OpenedFilesystem{Consistency: string(f.consistency)}
	}
	if got := strings.Join(s.order(), " "); got != "/home /var / /srv" {
		t.Errorf("order %s", got)
	}
}

// What plan says of a filesystem decides what it says of a database in it.
func TestCaptureDecidesDatabase(t *testing.T) {
	db := &agentpb.Database{Engine: "mariadb", DataDir: "/var/lib/mysql", Filesystem: "/var"}
	for _, c := range []struct {
		fs       *agentpb.Filesystem
		capture  string
		excluded bool
	}{
		{&agentpb.Filesystem{MountPoint: "/var", Type: "xfs"}, "live", true},
		{&agentpb.Filesystem{MountPoint: "/var", Type: "xfs", NoSnapshot: "volume group vg0 has 0 MiB free"}, "live: volume group vg0 has 0 MiB free", true},
		{&agentpb.Filesystem{MountPoint: "/var", Type: "xfs", Snapshot: "LVM snapshot"}, "LVM snapshot", false},
		{&agentpb.Filesystem{MountPoint: "/var", Type: "btrfs", Snapshot: "btrfs snapshot"}, "btrfs snapshot", false},
	} {
		facts := &agentpb.Facts{Filesystems: []*agentpb.Filesystem{c.fs}}
		if got := captureOf(c.fs); got != c.capture {
			t.Errorf("capture %q, want %q", got, c.capture)
		}
		if got := treat(db, snapshotExpected(facts, db)); len(got.exclude) > 0 != c.excluded {
			t.Errorf("%s: %+v", c.capture, got)
		}
	}
}

func TestKeptSnapshotsAreLeftOutUnlessNamed(t *testing.T) {
	f := &agentpb.Filesystem{MountPoint: "/", Type: "btrfs", Mounts: []*agentpb.Mount{{MountPoint: "/", Root: "/@"}},
		Subvolumes: []*agentpb.Subvolume{{Path: []byte("@")}, {Path: []byte("@/.snapshots/1/snapshot"), Snapshot: true},
			{Path: []byte("@/.snapshots/2/snapshot"), Snapshot: true}}}
	for _, c := range []struct {
		include []string
		want    string
	}{
		{nil, "@/.snapshots/1/snapshot @/.snapshots/2/snapshot"},
		{[]string{"/.snapshots/**"}, ""},
		{[]string{"/.snapshots/1/**"}, "@/.snapshots/2/snapshot"},
		{[]string{"/@/.snapshots/2/snapshot"}, "@/.snapshots/1/snapshot"},
	} {
		s := &source{server: &config.Server{IncludeExcluded: c.include}, facts: &agentpb.Facts{Filesystems: []*agentpb.Filesystem{f}}}
		if got := strings.Join(s.keptSnapshots(f), " "); got != c.want {
			t.Errorf("with include_excluded %v are left out %q, want %q", c.include, got, c.want)
		}
	}
}
