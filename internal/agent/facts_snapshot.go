package agent

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/lvm"
)

// snapshotTypes are filesystems that are captured from a snapshot of the logical
// volume they lie on.
var snapshotTypes = map[string]bool{"ext2": true, "ext3": true, "ext4": true, "xfs": true}

// snapshots says of each filesystem what a pass can capture it from.
func (c *collector) snapshots(ctx context.Context) {
	var on []*agentpb.Filesystem
	var ids []string
	for _, f := range c.facts.Filesystems {
		if f.Type == "btrfs" {
			f.Snapshot = "btrfs snapshot"
		}
		id, err := lvm.UUIDOf(c.path("sys"), fmt.Sprintf("%d:%d", f.DevMajor, f.DevMinor))
		if err == nil && snapshotTypes[f.Type] {
			on, ids = append(on, f), append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	name, args := lvm.Query()
	out, err := c.sys.run(ctx, name, args...)
	var all []lvm.Volume
	if err == nil {
		all, err = lvm.Parse([]byte(out))
	}
	for i, d := range lvm.Decide(all, ids) {
		switch {
		case err != nil:
			on[i].NoSnapshot = err.Error()
		case d.Refused != "":
			on[i].NoSnapshot = d.Refused
		default:
			on[i].Snapshot = "LVM snapshot"
		}
	}
}

// maxSubvolumes bounds what is listed on hosts with a container on each.
const maxSubvolumes = 20000

// subvolumes lists the subvolumes of each btrfs.
func (c *collector) subvolumes(context.Context) {
	for _, f := range c.facts.Filesystems {
		if f.Type != "btrfs" {
			continue
		}
		all, err := c.sys.subvolumes(c.path(c.view, f.MountPoint))
		if err != nil {
			c.warn("%s: subvolumes: %v", f.MountPoint, err)
			continue
		}
		if len(all) > maxSubvolumes {
			c.warn("%s: %d subvolumes; the flags of the last %d are not carried", f.MountPoint, len(all), len(all)-maxSubvolumes)
			all = all[:maxSubvolumes]
		}
		for _, s := range all {
			f.Subvolumes = append(f.Subvolumes, &agentpb.Subvolume{Path: []byte(s.Path), ReadOnly: s.ReadOnly, Snapshot: s.Snapshot, Default: s.Default})
		}
	}
}
