package agent

import (
	"context"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// CollectFacts x
func CollectFacts(ctx context.Context) (*agentpb.Facts, error) {
	return &agentpb.Facts{Host: Self()}, nil
}
