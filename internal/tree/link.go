package tree

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/pipe"
)

const (
	// A measurement of the link ends after this much or this long: it is meant to
	// be short, and honest about it.
	measureBytes = 8 << 20
	measureTime  = time.Second
	measurePiece = 64 << 10
)

// measureHandler serves the "tree.measure" call: bytes that cannot be compressed.
func (s *Service) measureHandler(ctx context.Context, st *pipe.Stream) error {
	if err := st.Recv(&agentpb.Empty{}); err != nil {
		return err
	}
	b := make([]byte, measurePiece)
	if _, err := rand.Read(b); err != nil {
		return err
	}
	start := time.Now()
	for n := 0; n < measureBytes && time.Since(start) < measureTime && ctx.Err() == nil; n += len(b) {
		if err := st.SendPacked(wrapperspb.Bytes(b)); err != nil {
			return err
		}
	}
	return nil
}

// MeasureLink returns what the connection carries now, in bytes per second, from a
// second's transfer of 8 MiB at most. Others using the link show in it.
func MeasureLink(ctx context.Context, c *pipe.Conn) (int64, error) {
	st, err := c.Open(ctx, "tree.measure")
	if err != nil {
		return 0, fmt.Errorf("measure link: %w", err)
	}
	defer st.Close()
	if err := st.Send(&agentpb.Empty{}); err != nil {
		return 0, fmt.Errorf("measure link: %w", err)
	}
	var first time.Time
	total := int64(0)
	for {
		var m wrapperspb.BytesValue
		if err := st.Recv(&m); err == io.EOF {
			break
		} else if err != nil {
			return 0, fmt.Errorf("measure link: %w", err)
		}
		if first.IsZero() {
			first = time.Now()
			continue
		}
		total += int64(len(m.Value))
	}
	if total == 0 {
		return 0, nil
	}
	return int64(float64(total) / max(time.Since(first), time.Millisecond).Seconds()), nil
}
