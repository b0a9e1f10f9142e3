package tree

import (
	"context"
	"fmt"
	"sync"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Governor holds the source side to its limits. Disk waits until n bytes may be
// read; CPU waits until the processor may be used further.
type Governor interface {
	Disk(ctx context.Context, n int) error
	CPU(ctx context.Context) error
}

// Service is the source's side of tree replication, served by the agent. Close
// removes what it made, snapshots above all.
type Service struct {
	gov     Governor
	scratch string

	volumes volumes

	mu    sync.Mutex
	views map[string]*view
	lost  map[string]string               // why a snapshot does not hold any more, by mount point
	calls map[int]context.CancelCauseFunc // those that may be reading a snapshot
	next  int
	watch func() // ends the watching of snapshots; nil where nobody does

	reading sync.RWMutex // held by calls that read views, and to close one under them
}

// NewService returns a service that may mount filesystems below the directory
// scratch, which the agent owns. The process must be in a mount namespace of its
// own.
func NewService(gov Governor, scratch string) *Service {
	return &Service{gov: gov, scratch: scratch, volumes: liveVolumes(), views: map[string]*view{},
		lost: map[string]string{}, calls: map[int]context.CancelCauseFunc{}}
}

// Handlers returns the calls the service answers.
func (s *Service) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{
		"tree.open":    s.openHandler,
		"tree.check":   s.checkHandler,
		"tree.clean":   s.cleanHandler,
		"tree.scan":    s.reader(s.scanHandler),
		"tree.copy":    s.reader(s.copyHandler),
		"tree.digest":  s.reader(s.digestHandler),
		"tree.sample":  s.reader(s.sampleHandler),
		"tree.measure": s.measureHandler,
	}
}

// Close ends all views.
func (s *Service) Close() error {
	s.mu.Lock()
	watch := s.watch
	s.watch = nil
	views := s.views
	s.views = map[string]*view{}
	s.mu.Unlock()
	if watch != nil {
		watch()
	}
	for _, v := range views {
		v.close()
	}
	return nil
}

func (s *Service) view(mountPoint string) (*view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[mountPoint]
	if why := s.lost[mountPoint]; why != "" {
		return nil, fmt.Errorf("filesystem %s: %w: %s", mountPoint, errSnapshotLost, why)
	}
	if v == nil {
		return nil, fmt.Errorf("filesystem %s is not open", mountPoint)
	}
	return v, nil
}

// openHandler opens filesystems anew. All snapshots are taken before anything else
// is done, so that they show the server at one time.
func (s *Service) openHandler(_ context.Context, st *pipe.Stream) error {
	var req agentpb.OpenRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	for _, f := range req.Filesystems {
		s.closeView(f.MountPoint)
	}
	var snapshots map[string]taken
	if req.Snapshot {
		snapshots = s.volumes.takeAll(req.Filesystems)
	}
	reply := &agentpb.OpenReply{}
	for _, f := range req.Filesystems {
		o := &agentpb.OpenedFilesystem{MountPoint: f.MountPoint}
		v, err := openView(f, req.Snapshot, s.scratch, snapshots[f.MountPoint])
		if err != nil {
			o.Error = err.Error()
		} else {
			s.mu.Lock()
			s.views[f.MountPoint] = v
			s.mu.Unlock()
			o.Consistency, o.How, o.AtUnixNano = string(v.consistency), v.how, v.at.UnixNano()
		}
		reply.Filesystems = append(reply.Filesystems, o)
	}
	s.startWatch()
	return st.Send(reply)
}

// closeView ends the view of a filesystem, if there is one, and what is known of its
// snapshot. s.reading is held.
func (s *Service) closeView(mountPoint string) {
	s.mu.Lock()
	v := s.views[mountPoint]
	delete(s.views, mountPoint)
	delete(s.lost, mountPoint)
	s.mu.Unlock()
	if v != nil {
		v.close()
	}
}
