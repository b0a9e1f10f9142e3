package protect

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/remote"
)

// CleanResult is what Clean did.
type CleanResult struct {
	Servers []ServerClean `json:"servers"`
}

// ServerClean says whether a source is free of Leeward.
type ServerClean struct {
	Server  dr.ServerName `json:"server"`
	Outcome dr.Outcome    `json:"outcome"`
	Err     string        `json:"error,omitempty"`
	Hint    string        `json:"hint,omitempty"`
}

// Clean removes from the named sources all that Leeward has put there: snapshots
// that a killed pass left, the agent and its directory. The replicas stay.
func Clean(ctx context.Context, o Options) (*CleanResult, error) {
	names := o.names()
	res := &CleanResult{Servers: make([]ServerClean, len(names))}
	bin := &remote.Binary{}
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			s := &res.Servers[i]
			s.Server = name
			if o.Progress != nil {
				o.Progress(Progress{Server: name, Phase: "cleaning", Started: time.Now()})
			}
			err := cleanSource(ctx, o.Estate.Server(name), bin)
			s.Outcome = dr.Done
			if err != nil {
				s.Outcome, s.Err, s.Hint = dr.NotDone, err.Error(), hintOf(err)
			}
			if o.Progress != nil {
				o.Progress(Progress{Server: name, Phase: "done", Finished: true, Err: err})
			}
		})
	}
	wg.Wait()
	return res, ctx.Err()
}

func cleanSource(ctx context.Context, s *config.Server, bin *remote.Binary) error {
	src, err := reach(ctx, s, bin)
	if err != nil {
		return err
	}
	err = src.cleanSnapshots(ctx)
	src.close()
	return errors.Join(err, remote.Remove(ctx, TargetOf(s), remote.Options{Binary: bin, Self: agent.Self()}))
}
