package protect

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/tree"
)

// snapshotLost means that what was read of a filesystem is not of one instant after
// all: its snapshot filled up, say.
type snapshotLost struct{ mountPoint, why string }

func (e *snapshotLost) Error() string { return e.mountPoint + ": " + e.why }

// settle is called when a pass over a filesystem has ended, well or with err. It
// tells whether a snapshot was lost on the way, and otherwise lets the source remove
// that of this filesystem: the sooner the better for its writers.
func (s *source) settle(ctx context.Context, mountPoint string, err error) error {
	if ctx.Err() != nil || s.opened[mountPoint].Consistency == string(dr.Fuzzy) && err == nil {
		return nil
	}
	req := &agentpb.CheckRequest{}
	if err == nil {
		req.Release = mountPoint
	}
	var reply agentpb.CheckReply
	if callErr := s.client.Conn().Call(ctx, "tree.check", req, &reply); callErr != nil {
		if err != nil {
			return nil // the connection is lost: err says so
		}
		return callErr
	}
	for _, l := range reply.Lost {
		if err != nil || l.MountPoint == mountPoint {
			return &snapshotLost{l.MountPoint, l.Why}
		}
	}
	return nil
}

// order returns the mount points of all filesystems in the order to carry them:
// those from snapshots first, because a snapshot costs its source something for as
// long as it is there.
func (s *source) order() (out []string) {
	for _, snapshot := range []bool{true, false} {
		for _, f := range s.facts.Filesystems {
			if (s.opened[f.MountPoint].Consistency != string(dr.Fuzzy)) == snapshot {
				out = append(out, f.MountPoint)
			}
		}
	}
	return out
}

// keptSnapshots returns the subvolumes of f that are left out because they are
// snapshots kept of others, and include_excluded names none of their paths.
func (s *source) keptSnapshots(f *agentpb.Filesystem) (out []string) {
	wanted, err := tree.NewExcludes(s.server.IncludeExcluded)
	if err != nil {
		wanted = nil // checked when the estate was read
	}
	for _, path := range tree.KeptSnapshots(f) {
		if !wanted.Covers(path) && !wanted.Covers(strings.TrimPrefix(systemPath(s, f.MountPoint, path), "/")) {
			out = append(out, path)
		}
	}
	return out
}

// cleanSnapshots removes the snapshots of passes that were killed.
func (s *source) cleanSnapshots(ctx context.Context) error {
	req := &agentpb.OpenRequest{}
	for _, f := range s.facts.Filesystems {
		req.Filesystems = append(req.Filesystems, &agentpb.OpenFilesystem{MountPoint: f.MountPoint})
	}
	var reply agentpb.CleanReply
	if err := s.call(ctx, "tree.clean", req, &reply); err != nil {
		return err
	}
	if len(reply.Left) > 0 {
		return dr.WithHint(fmt.Errorf("clean %s: %s", s.server.Name, strings.Join(reply.Left, "; ")),
			"a pass may be using them; else remove them there with btrfs subvolume delete or lvremove")
	}
	return nil
}

// captureOf says how a pass will see a filesystem.
func captureOf(f *agentpb.Filesystem) string {
	switch {
	case f.Snapshot != "":
		return f.Snapshot
	case f.NoSnapshot != "":
		return "live: " + f.NoSnapshot
	}
	return "live"
}
