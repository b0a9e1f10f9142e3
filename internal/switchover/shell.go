package switchover

import (
	"context"
	"fmt"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Shells runs commands here and, over ssh, on the servers of an estate.
type Shells struct {
	Estate *config.Estate
	Here   runbook.Local
}

// Run implements runbook.Shell.
func (s *Shells) Run(ctx context.Context, host, line string) (runbook.Ran, error) {
	if host == "" {
		return s.Here.Run(ctx, "", line)
	}
	server := s.Estate.Server(dr.ServerName(host))
	if server == nil {
		return runbook.Ran{}, fmt.Errorf("run a command on %s: the configuration has no server of that name now", host)
	}
	ran, err := remote.Run(ctx, protect.TargetOf(server), remote.Options{}, line)
	return runbook.Ran{Started: ran.Started, Exited: ran.Exited, Code: ran.Code, Output: ran.Output}, err
}
