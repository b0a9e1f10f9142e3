package look

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Service lets the agent look at its host, within the limits that its governor has.
type Service struct{ Governor *agent.Governor }

// Handlers returns the calls the service answers.
func (v Service) Handlers() map[string]pipe.Handler {
	return map[string]pipe.Handler{"discover.look": v.look, "discover.mentions": v.mentions}
}

// pace waits where the agent has used its share of the processor.
func (v Service) pace(ctx context.Context) {
	if v.Governor != nil {
		_ = v.Governor.CPU(ctx) // its only error is ctx's, which every step looks at
	}
}

func (v Service) look(ctx context.Context, s *pipe.Stream) error {
	var req agentpb.LookRequest
	if err := s.Recv(&req); err != nil {
		return fmt.Errorf("read request to look: %w", err)
	}
	inv, err := Host(ctx, time.Duration(req.WatchNano), v.pace)
	if err != nil {
		return err
	}
	return reply(s, inv)
}

func (v Service) mentions(ctx context.Context, s *pipe.Stream) error {
	var req agentpb.MentionsRequest
	if err := s.Recv(&req); err != nil {
		return fmt.Errorf("read request for mentions: %w", err)
	}
	found, err := Mentions(ctx, req.Words, v.pace)
	if err != nil {
		return err
	}
	return reply(s, found)
}

// part is how much of an answer is in one message, in bytes.
const part = 1 << 20

// reply sends v as JSON, in parts.
func reply(s *pipe.Stream, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write what was found: %w", err)
	}
	for len(b) > 0 {
		n := min(part, len(b))
		if err := s.Send(&agentpb.LookReply{Json: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
