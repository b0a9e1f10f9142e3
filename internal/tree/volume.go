package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/lvm"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// volumePrefix begins the names of the snapshots of logical volumes.
const volumePrefix = "leeward"

// watchEvery is how often snapshots of logical volumes are looked at: one that fills
// up is of no use, and one that fills a thin pool would harm the source.
const watchEvery = 5 * time.Second

var errSnapshotLost = errors.New("the snapshot was lost")

// volumes is what this host can do with logical volumes; tests have their own.
type volumes struct {
	uuidOf func(device string) (string, error)
	list   func(context.Context) ([]lvm.Volume, error)
	take   func(d lvm.Decision, name string) (*lvm.Snapshot, error)
	remove func(group, name string) error
}

func liveVolumes() volumes {
	return volumes{uuidOf: func(device string) (string, error) { return lvm.UUIDOf("/sys", device) },
		list: lvm.List, take: lvm.Take, remove: lvm.Remove}
}

// taken is what came of the wish for a snapshot of one filesystem. The zero value
// means that it has none to give.
type taken struct {
	snapshot *lvm.Snapshot
	remove   func(group, name string) error
	why      string // there is none, where one could be expected
}

// handTo makes v the owner of the snapshot.
func (t taken) handTo(v *view) {
	if t.why != "" {
		v.how = "live: " + t.why
	}
	if t.snapshot == nil {
		return
	}
	v.volume, v.removeVolume = t.snapshot, t.remove
	v.undo = append(v.undo, v.dropVolume)
}

// dropVolume removes the snapshot, which must not be mounted.
func (v *view) dropVolume() {
	if v.volume != nil {
		_ = v.removeVolume(v.volume.Group, v.volume.Name) // what stays is found by its name, see removeStale
		v.volume = nil
	}
}

// takeAll takes snapshots of all filesystems that lie on logical volumes, one right
// after the other.
func (l volumes) takeAll(filesystems []*agentpb.OpenFilesystem) map[string]taken {
	out := map[string]taken{}
	var points, ids []string
	for _, f := range filesystems {
		if f.Live != "" {
			out[f.MountPoint] = taken{why: f.Live}
		} else if id := l.volumeOf(f.MountPoint); id != "" {
			points, ids = append(points, f.MountPoint), append(ids, id)
		}
	}
	if len(ids) == 0 {
		return out
	}
	self, err := lvm.Self()
	var all []lvm.Volume
	if err == nil {
		all, _, err = l.removeStale(self)
	}
	if err != nil {
		for _, p := range points {
			out[p] = taken{why: err.Error()}
		}
		return out
	}
	for i, d := range lvm.Decide(all, ids) {
		t := taken{why: d.Refused, remove: l.remove}
		if t.why == "" {
			if t.snapshot, err = l.take(d, self.Name(volumePrefix, i)); err != nil {
				t.why = err.Error()
			}
		}
		out[points[i]] = t
	}
	return out
}

// volumeOf returns the UUID of the logical volume behind a mount that can be captured
// from a snapshot of it: of a kind that one can be mounted of beside its origin.
func (l volumes) volumeOf(mountPoint string) string {
	m, err := findMount(mountPoint)
	if err != nil || m.root != "/" || volumeOptions(m.fsType) == "" {
		return ""
	}
	id, err := l.uuidOf(m.number)
	if err != nil {
		return ""
	}
	return id
}

// volumeOptions are the mount options for a snapshot. Its log is replayed, within the
// snapshot: LVM froze the origin, so there is next to nothing in it. What a damaged
// one says must be done must not befall the source: its superblock may say panic.
func volumeOptions(fsType string) string {
	switch fsType {
	case "ext2", "ext3", "ext4":
		return "errors=remount-ro"
	case "xfs":
		return "nouuid,noquota"
	}
	return ""
}

// removeStale removes the snapshots that killed passes have left. It returns the
// volumes there are after, and those it could not remove.
func (l volumes) removeStale(self lvm.Owner) (all []lvm.Volume, left []string, err error) {
	if all, err = l.list(context.Background()); err != nil {
		return nil, nil, err
	}
	stale := lvm.Stale(all, volumePrefix, self)
	if len(stale) == 0 {
		return all, nil, nil
	}
	for _, v := range stale {
		if err := l.remove(v.Group, v.Name); err != nil {
			left = append(left, fmt.Sprintf("snapshot %s/%s: %v", v.Group, v.Name, err))
		}
	}
	all, err = l.list(context.Background())
	return all, left, err
}

// mountVolume shows the snapshot at dir. Where that does not succeed the view becomes
// a live one, and says why.
func (v *view) mountVolume(m *mount, dir string) bool {
	s := v.volume
	err := unix.Mount(s.Device, dir, m.fsType, unix.MS_RDONLY|unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, volumeOptions(m.fsType))
	if err != nil {
		v.how = fmt.Sprintf("live: mount LVM snapshot %s: %v", s.Device, err)
		v.dropVolume()
		return false
	}
	v.undo = append(v.undo, func() { unix.Unmount(dir, unix.MNT_DETACH) })
	v.consistency, v.how, v.at = dr.Crash, "LVM snapshot", s.At
	return true
}

// reader lets calls of h end when a snapshot is lost, before it is taken from under
// them.
func (s *Service) reader(h pipe.Handler) pipe.Handler {
	return func(ctx context.Context, st *pipe.Stream) error {
		s.reading.RLock()
		defer s.reading.RUnlock()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		s.mu.Lock()
		id := s.next
		s.next++
		s.calls[id] = cancel
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			delete(s.calls, id)
			s.mu.Unlock()
		}()
		err := h(ctx, st)
		if cause := context.Cause(ctx); errors.Is(cause, errSnapshotLost) {
			return cause
		}
		return err
	}
}

// startWatch begins to look after snapshots of logical volumes, where there are any
// and nobody does yet.
func (s *Service) startWatch() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watch != nil || !s.anyVolume() {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	s.watch = func() {
		cancel()
		select {
		case <-done:
		case <-time.After(watchEvery):
		}
	}
	go func() {
		defer close(done)
		t := time.NewTicker(watchEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				s.look(ctx)
			}
		}
	}()
}

// anyVolume reports whether a view shows a snapshot of a volume. s.mu is held.
func (s *Service) anyVolume() bool {
	for _, v := range s.views {
		if v.volume != nil {
			return true
		}
	}
	return false
}

// look closes the views whose snapshots are lost.
func (s *Service) look(ctx context.Context) {
	s.mu.Lock()
	shown := map[string]*lvm.Snapshot{}
	for at, v := range s.views {
		if v.volume != nil {
			shown[at] = v.volume
		}
	}
	s.mu.Unlock()
	if len(shown) == 0 {
		return
	}
	all, err := s.volumes.list(ctx)
	if err != nil {
		return // busy; what is lost shows in what is read
	}
	for at, snapshot := range shown {
		if why := snapshot.Lost(all); why != "" {
			s.lose(at, snapshot, why)
		}
	}
}

// lose ends the calls that may read the snapshot, and then removes it.
func (s *Service) lose(mountPoint string, snapshot *lvm.Snapshot, why string) {
	s.mu.Lock()
	v := s.views[mountPoint]
	if v == nil || v.volume != snapshot {
		s.mu.Unlock()
		return // opened anew meanwhile
	}
	s.lost[mountPoint] = why
	delete(s.views, mountPoint)
	for _, cancel := range s.calls {
		cancel(fmt.Errorf("filesystem %s: %w: %s", mountPoint, errSnapshotLost, why))
	}
	s.mu.Unlock()
	s.reading.Lock()
	defer s.reading.Unlock()
	v.close()
}

// checkHandler tells what snapshots are lost, and removes one that is read no more.
func (s *Service) checkHandler(ctx context.Context, st *pipe.Stream) error {
	var req agentpb.CheckRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	s.look(ctx)
	reply := &agentpb.CheckReply{}
	s.mu.Lock()
	for at, why := range s.lost {
		reply.Lost = append(reply.Lost, &agentpb.LostSnapshot{MountPoint: at, Why: why})
	}
	v := s.views[req.Release]
	release := v != nil && v.volume != nil
	s.mu.Unlock()
	if release {
		s.reading.Lock()
		s.closeView(req.Release)
		s.reading.Unlock()
	}
	return st.Send(reply)
}

// cleanHandler removes what killed passes have left of snapshots.
func (s *Service) cleanHandler(_ context.Context, st *pipe.Stream) error {
	var req agentpb.OpenRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	reply := &agentpb.CleanReply{}
	any := false
	for _, f := range req.Filesystems {
		m, err := findMount(f.MountPoint)
		if err == nil && m.fsType == "btrfs" {
			err = s.cleanBtrfs(m)
		}
		if err != nil {
			reply.Left = append(reply.Left, fmt.Sprintf("snapshots of %s: %v", f.MountPoint, err))
		}
		any = any || s.volumes.volumeOf(f.MountPoint) != ""
	}
	self, err := lvm.Self()
	if err != nil {
		return err
	}
	removeStaleViews(s.scratch, self)
	if any {
		_, left, err := s.volumes.removeStale(self)
		reply.Left = append(reply.Left, left...)
		if err != nil {
			reply.Left = append(reply.Left, "snapshots of logical volumes: "+err.Error())
		}
	}
	return st.Send(reply)
}

// cleanBtrfs removes stale snapshots of one filesystem.
func (s *Service) cleanBtrfs(m *mount) error {
	v := &view{}
	defer v.close()
	dir, err := v.mountPoint(s.scratch)
	if err != nil {
		return err
	}
	if err := unix.Mount(m.device, dir, "btrfs", unix.MS_NOATIME|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "subvolid=5"); err != nil {
		return os.NewSyscallError("mount "+m.device, err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	removeSnapshots(dir)
	return nil
}
