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

	mu    sync.Mutex
	views map[string]*view
}

// NewService returns a service that may mount filesystems below the directory
// scratch, which the agent owns. The process must be in a mount namespace of its
// own.
func NewService(gov Governor, scratch string) *Service {
	return &Service{gov: gov, scratch: scratch, views: map[string]*view{}}
}

// Handlers returns the calls the service answers.
func (s *Service) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{
		"tree.open":    s.openHandler,
		"tree.scan":    s.scanHandler,
		"tree.copy":    s.copyHandler,
		"tree.digest":  s.digestHandler,
		"tree.measure": s.measureHandler,
	}
}

// Close ends all views.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.views {
		v.close()
	}
	s.views = map[string]*view{}
	return nil
}

func (s *Service) view(mountPoint string) (*view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[mountPoint]
	if v == nil {
		return nil, fmt.Errorf("filesystem %s is not open", mountPoint)
	}
	return v, nil
}

func (s *Service) openHandler(_ context.Context, st *pipe.Stream) error {
	var req agentpb.OpenRequest
	if err := st.Recv(&req); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	reply := &agentpb.OpenReply{}
	for _, f := range req.Filesystems {
		if old := s.views[f.MountPoint]; old != nil {
			old.close()
			delete(s.views, f.MountPoint)
		}
		o := &agentpb.OpenedFilesystem{MountPoint: f.MountPoint}
		v, err := openView(f, req.Snapshot, s.scratch)
		if err != nil {
			o.Error = err.Error()
		} else {
			s.views[f.MountPoint] = v
			o.Consistency, o.How, o.AtUnixNano = string(v.consistency), v.how, v.at.UnixNano()
		}
		reply.Filesystems = append(reply.Filesystems, o)
	}
	return st.Send(reply)
}
