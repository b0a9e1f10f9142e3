package cli

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

func TestRenderPoints(t *testing.T) {
	unusual := []replica.Anomaly{{Server: "web1", MountPoint: "/", Kind: "files", Text: "93 % of its files changed or gone, usually 1 %"}}
	res := &pointList{
		Groups: []groupPoints{{Group: "all", Points: []groupPoint{{ID: "20170906T020000.000Z", Started: epoch.Add(-time.Hour), Consistency: dr.Fuzzy, Skew: 14 * time.Second,
			Servers: make([]replica.GroupServer, 2), Databases: make([]replica.GroupDatabase, 1), Proven: provenYes, kept: kept{Kept: []string{"last", "daily"}}}}}, {Group: "web", Err: "recovery point x: damaged"}},
		Servers: []serverPoints{{Server: "web1", Points: []point{
			{ID: "20170906T020000.000Z", Started: epoch.Add(-time.Hour), Consistency: dr.Fuzzy, Fuzzy: 2, Entries: 34567, Bytes: 1_100_000_000, Proven: provenNever,
				Cost: &replica.Cost{Held: 12_000_000}, Anomalies: unusual, kept: kept{UsedBy: []string{"all/x"}}},
			{ID: "20170906T010000.000Z", Started: epoch.Add(-2 * time.Hour), Consistency: dr.Crash, Proven: provenYes, kept: kept{
				Pin: &replica.Pin{Automatic: true, Reason: "the last before an unusual change"}, Lock: &replica.TimeLock{Until: epoch.Add(24 * time.Hour)}, Locked: true}},
		}}, {Server: "db1"}},
		Space:  &protect.PointSpace{Servers: []protect.ServerSpace{{Server: "web1", Known: true}, {Server: "db1"}}, Held: 12_000_000, Full: 9_000_000_000, Room: 5_000_000_000, Unknown: []dr.ServerName{"db1"}},
		Mounts: []*replica.Shown{{Server: "web1", Point: "20170906T010000.000Z", Dir: "/mnt/x"}},
	}
	same(t, `group  recovery point          age  consistency  proven  skew  members                kept
all    20170906T020000.000Z  1h00m  fuzzy        yes      14s  2 servers, 1 database  last, daily
web    none

`, func(w io.Writer) { renderGroupPoints(w, res.Groups, epoch) })
	same(t, `server  recovery point          age  consistency      proven  entries  content    holds  kept
web1    20170906T020000.000Z  1h00m  fuzzy (2 files)  never    34,567  1.10 GB  12.0 MB  group
web1    20170906T010000.000Z  2h00m  crash            yes           0      0 B        -  PINNED by itself, locked until 2017-09-07 03:00
db1     none

UNUSUAL in 20170906T020000.000Z of web1: /: 93 % of its files changed or gone, usually 1 %
20170906T010000.000Z of web1 is pinned: the last before an unusual change
Recovery points hold 12.0 MB beside the replicas; 5.00 GB can be written
Once keep: is in full use: about 9.00 GB without 1 server, which have too few points to tell  NOT ENOUGH by about 3.99 GB
Mounted on /mnt/x: 20170906T010000.000Z of web1; end it by: leeward points umount /mnt/x
`, func(w io.Writer) {
		alone := *res
		alone.Groups = nil
		renderPoints(w, testEstate, &alone, epoch)
	})
}

func TestRenderDiff(t *testing.T) {
	same(t, `web1  from 20170906T010000.000Z to 20170906T020000.000Z
    /      2 added (10 B)  1 removed (5 B)  1 changed (of 7 B)  0 with other attributes only
    /data  new
    the largest:
      added         10 B  /a
      changed  7 B → 3 B  /b
      removed        5 B  /d/
`, func(w io.Writer) {
		renderDiff(w, &protect.PointsDiff{Servers: []protect.ServerDiff{{Server: "web1", From: "20170906T010000.000Z", To: "20170906T020000.000Z",
			Filesystems: []protect.FilesystemDiff{{MountPoint: "/", CatalogChanges: tree.CatalogChanges{Added: 2, AddedBytes: 10, Removed: 1, RemovedBytes: 5, Changed: 1, ChangedBytes: 7}}, {MountPoint: "/data", State: "new"}},
			Changes:     []protect.FileChange{{Path: "/a", Kind: tree.Added, After: 10}, {Path: "/b", Kind: tree.Changed, Before: 7, After: 3}, {Path: "/d", Kind: tree.Removed, Dir: true, Before: 5}}}}})
	})
}

func TestParseUntil(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-12-31": "2027-01-01T00:00:00Z", "2026-11-25": "2026-11-26T00:00:00Z", "2026-12-31T18:00:00-05:00": "2026-12-31T23:00:00Z",
		"2026-11-24": "that is over", "tomorrow": "want a day", "2026-13-01": "want a day", "": "want a day",
	} {
		got, err := parseUntil(text, now)
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && got.Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
}
