package protect

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// treatment says how a running database is captured.
type treatment struct {
	plan    DatabasePlan
	backup  bool     // in PostgreSQL's own backup mode
	exclude []string // what must not be copied
}

// treat decides it: a copy of a database's files made while it writes them is
// torn, unless all of them come from one instant or the database is told.
// consistency is that of the filesystem that holds the data.
func treat(d *agentpb.Database, consistency dr.Consistency) treatment {
	t := treatment{plan: DatabasePlan{Engine: d.Engine, DataDir: d.DataDir}}
	switch {
	case d.DataDir == "":
		t.plan.Decision = "its data directory was not found: its files are copied as any other, and may be torn"
		t.plan.Advice = "stop it for the pass, or replicate it with a databases: entry"
	case d.Engine == "postgres" && d.Recovering:
		t.plan.Decision = "copied live: it is a standby itself, whose copy may not recover"
		t.plan.Advice = "protect its primary"
	case consistency != dr.Fuzzy:
		t.plan.Decision = "captured from a snapshot: it recovers as after a power cut"
	case d.Engine == "postgres":
		t.backup = true
		t.plan.Decision = "captured in PostgreSQL's own backup mode: it recovers to the end of the pass"
	default:
		t.exclude = []string{strings.TrimSuffix(d.DataDir, "/") + "/**"}
		t.plan.Decision = fmt.Sprintf("left out: %s is copied as an empty directory", d.DataDir)
		t.plan.Advice = "replicate its rows with a databases: entry, put its data on btrfs or on LVM with free extents, or have it write a dump where files are copied"
	}
	return t
}

// snapshotExpected guesses, before anything is opened, what a pass will find.
func snapshotExpected(f *agentpb.Facts, d *agentpb.Database) dr.Consistency {
	for _, fs := range f.Filesystems {
		if fs.MountPoint == d.Filesystem && fs.Snapshot != "" {
			return dr.Crash
		}
	}
	return dr.Fuzzy
}

// relative returns where within its filesystem the path lies.
func relative(f *agentpb.Facts, mountPoint, path string) (string, bool) {
	for _, fs := range f.Filesystems {
		if fs.MountPoint != mountPoint {
			continue
		}
		best, found := "", false
		longest := -1
		for _, m := range fs.Mounts {
			at := strings.TrimSuffix(m.MountPoint, "/")
			if rest, ok := strings.CutPrefix(path, at+"/"); ok && len(at) > longest {
				best, found, longest = strings.Trim(m.Root+"/"+rest, "/"), true, len(at)
			}
		}
		return best, found
	}
	return "", false
}
