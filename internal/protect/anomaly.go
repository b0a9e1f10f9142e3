package protect

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/tree"
)

const (
	// leastPasses is how many passes must be known before one is judged by them.
	leastPasses = 5
	// mostPasses is how many a point remembers.
	mostPasses = 32
	// farOut is how many standard deviations, as the median absolute deviation
	// estimates them, are far outside; or aboveAll more than any of the passes before,
	// whichever is less: where they differ much the former may be more than there is.
	farOut   = 8
	aboveAll = 0.10
	// leastShare is what share of a filesystem's files or bytes must be changed or
	// gone, beyond the usual, for anybody to be told; leastStiff the same of content that
	// does not compress.
	leastShare = 0.20
	leastStiff = 0.25
	// Less than this is nothing to be told of, whatever its share.
	leastFiles      = 100
	leastBytes      = 64 << 20
	leastStiffBytes = 16 << 20
)

// content is what crossed the wire of a filesystem in one pass.
type content struct{ sent, stiff int64 }

// changes sums up how the state differs from the point before it, and puts what is
// needed to judge later passes into m. Without a point before nothing is known.
func (p *serverPass) changes(ctx context.Context, before *replica.Point, m *replica.Manifest) error {
	if before == nil {
		return nil
	}
	for i := range m.Filesystems {
		f := &m.Filesystems[i]
		old := findFilesystem(before.Manifest, f.MountPoint)
		catalog := filepath.Join(before.StateDir(), catalogFile(f.MountPoint))
		if _, err := os.Stat(catalog); err != nil || old == nil {
			continue // new since then
		}
		sum, err := tree.CountCatalogChanges(ctx, catalog, catalogPath(p.replica, f.MountPoint))
		if err != nil {
			return fmt.Errorf("compare %s with recovery point %s: %w", f.MountPoint, before.ID, err)
		}
		c := p.content[f.MountPoint]
		f.Changes = &replica.Changes{Entries: old.Entries, Bytes: old.Bytes, Changed: sum.Changed, ChangedBytes: sum.ChangedBytes,
			ShrunkBytes: sum.ShrunkBytes, Added: sum.Added, AddedBytes: sum.AddedBytes, Removed: sum.Removed,
			RemovedBytes: sum.RemovedBytes, Sent: c.sent, Stiff: c.stiff}
	}
	m.History = historyAfter(before.Manifest)
	m.Anomalies = judgeChanges(m)
	return nil
}

func findFilesystem(m *replica.Manifest, mountPoint string) *replica.FilesystemState {
	i := slices.IndexFunc(m.Filesystems, func(f replica.FilesystemState) bool { return f.MountPoint == mountPoint })
	if i < 0 {
		return nil
	}
	return &m.Filesystems[i]
}

// historyAfter is what the point after m remembers: what m remembers, and m.
func historyAfter(m *replica.Manifest) []replica.PassChanges {
	last := replica.PassChanges{ID: m.ID, Filesystems: map[string]replica.Changes{}, Unusual: len(m.Anomalies) > 0}
	for _, f := range m.Filesystems {
		if f.Changes != nil {
			last.Filesystems[f.MountPoint] = *f.Changes
		}
	}
	all := append(slices.Clone(m.History), last)
	return all[max(0, len(all)-mostPasses):]
}

// measure is one way to look at changes. A share is -1 where there is too little to
// speak of one.
type measure struct {
	kind  string
	least float64
	share func(c *replica.Changes) float64
	worth func(c *replica.Changes) bool
	words func(c *replica.Changes, share, usual float64) string
}

// rewritten bounds from above how many bytes of what was there are there no more. A
// large file of which little changed counts by what crossed the wire for it.
func rewritten(c *replica.Changes) int64 {
	return max(c.ShrunkBytes, min(c.ChangedBytes, c.Sent)) + c.RemovedBytes
}

func ratio(part, whole int64) float64 {
	if whole <= 0 {
		return -1
	}
	return min(1, float64(part)/float64(whole))
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

func measures() []measure {
	return []measure{
		{"files", leastShare,
			func(c *replica.Changes) float64 { return ratio(c.Changed+c.Removed, c.Entries) },
			func(c *replica.Changes) bool { return c.Changed+c.Removed >= leastFiles },
			func(c *replica.Changes, share, usual float64) string {
				return fmt.Sprintf("%s of its files changed or gone (%d changed, %d gone), usually %s", percent(share), c.Changed, c.Removed, percent(usual))
			}},
		{"bytes", leastShare,
			func(c *replica.Changes) float64 { return ratio(rewritten(c), c.Bytes) },
			func(c *replica.Changes) bool { return rewritten(c) >= leastBytes },
			func(c *replica.Changes, share, usual float64) string {
				return fmt.Sprintf("%s of its content rewritten or gone (%d MiB), usually %s", percent(share), rewritten(c)>>20, percent(usual))
			}},
		{"content", leastStiff,
			func(c *replica.Changes) float64 { return ratio(c.Stiff, c.Sent) },
			// New files that do not compress, such as pictures, take the place of nothing.
			func(c *replica.Changes) bool { return c.Stiff >= leastStiffBytes && rewritten(c) >= c.Stiff/2 },
			func(c *replica.Changes, share, usual float64) string {
				return fmt.Sprintf("%s of what replaced its content (%d MiB) does not compress, as if encrypted, usually %s", percent(share), c.Stiff>>20, percent(usual))
			}},
	}
}

// judgeChanges compares the changes of a pass with those of the passes before it.
func judgeChanges(m *replica.Manifest) (out []replica.Anomaly) {
	for _, f := range m.Filesystems {
		if f.Changes == nil {
			continue
		}
		past, longer := comparable(m, f.MountPoint)
		if len(past) < leastPasses {
			continue
		}
		for _, x := range measures() {
			share := x.share(f.Changes)
			if share < 0 || !x.worth(f.Changes) {
				continue
			}
			if a, unusual := x.judge(f.Changes, share, past, longer); unusual {
				a.Server, a.MountPoint = m.Server, f.MountPoint
				out = append(out, a)
			}
		}
	}
	return out
}

// judge holds a share against those of past passes. A pass that covers a longer time
// than they do may have changed more by that factor.
func (x *measure) judge(c *replica.Changes, share float64, past []replica.Changes, longer float64) (a replica.Anomaly, unusual bool) {
	var shares []float64
	for i := range past {
		if s := x.share(&past[i]); s >= 0 {
			shares = append(shares, s)
		}
	}
	if len(shares) == 0 {
		shares = []float64{0}
	}
	usual := replica.Median(shares)
	away := make([]float64, len(shares))
	for i, s := range shares {
		away[i] = math.Abs(s - usual)
	}
	spread := 1.4826 * replica.Median(away) // a standard deviation, were they normal
	if x.kind == "content" {
		longer = 1 // what kind of content it is does not go by the time
	}
	limit := max(longer*min(usual+farOut*spread, slices.Max(shares)+aboveAll), usual+x.least)
	if share <= limit {
		return a, false
	}
	return replica.Anomaly{Kind: x.kind, Share: share, Usual: usual, Limit: limit, Passes: len(shares),
		Text: x.words(c, share, usual)}, true
}

// comparable returns the changes of a filesystem in the usual passes before m, and how
// many times longer than between those it is since the last.
func comparable(m *replica.Manifest, mountPoint string) (past []replica.Changes, longer float64) {
	var gaps []time.Duration
	var last time.Time
	for _, h := range m.History {
		at, err := h.ID.Time()
		if err != nil {
			continue
		}
		if c, ok := h.Filesystems[mountPoint]; ok && !h.Unusual {
			past = append(past, c)
			if gap := at.Sub(last); !last.IsZero() && gap > 0 {
				gaps = append(gaps, gap)
			}
		}
		last = at
	}
	longer = 1
	if len(gaps) > 0 && !last.IsZero() {
		longer = max(1, float64(m.Started.Sub(last))/float64(replica.Median(gaps)))
	}
	return past, longer
}

// pinLastGood keeps the last point before an unusual change, and the newest point of
// each group that has that one or an older one.
func (r *run) pinLastGood(ctx context.Context, m *replica.Manifest, points []*replica.Point) (pinned []replica.Place, err error) {
	i := slices.IndexFunc(points, func(p *replica.Point) bool { return len(p.Manifest.Anomalies) == 0 })
	if i < 0 {
		return nil, nil
	}
	good := points[i]
	pin := replica.Pin{At: time.Now().UTC(), By: "leeward", Automatic: true,
		Reason: fmt.Sprintf("the last before an unusual change in %s: %s", m.ID, m.Anomalies[0])}
	if err := r.store.SetPin(ctx, good.Place(), pin); err != nil {
		return nil, err
	}
	pinned = append(pinned, good.Place())
	names, err := r.store.GroupNames()
	if err != nil {
		return pinned, err
	}
	for _, name := range names {
		groups, _ := r.store.GroupPoints(name) // damaged ones are the business of points
		for _, g := range groups {
			if !usesOne(g, m.Server, points[i:]) || len(g.Manifest.Anomalies) > 0 {
				continue
			}
			if err := r.store.SetPin(ctx, g.Place(), pin); err != nil {
				return pinned, err
			}
			pinned = append(pinned, g.Place())
			break
		}
	}
	return pinned, nil
}

// usesOne reports whether a group's point has one of the server's points.
func usesOne(g *replica.GroupPoint, server dr.ServerName, points []*replica.Point) bool {
	return slices.ContainsFunc(g.Manifest.Servers, func(s replica.GroupServer) bool {
		return s.Server == server && FindPoint(points, s.Point) != nil
	})
}
