package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
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

// MeasureLink returns what the connections together carry now, in bytes per second, from
// a second's transfer of 8 MiB at most over each of them at once. Others using the link
// show in it. A connection that fails counts for nothing, and is an error only if all do.
func MeasureLink(ctx context.Context, conns ...*pipe.Conn) (int64, error) {
	type run struct {
		bytes       int64
		first, last time.Time
		err         error
	}
	runs := make([]run, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			r := &runs[i]
			r.bytes, r.first, r.last, r.err = measure(ctx, c)
		})
	}
	wg.Wait()
	var first, last time.Time
	var errs []error
	total := int64(0)
	for _, r := range runs {
		if errs = append(errs, r.err); r.err != nil || r.bytes == 0 {
			continue
		}
		total += r.bytes
		if first.IsZero() || r.first.Before(first) {
			first = r.first
		}
		if r.last.After(last) {
			last = r.last
		}
	}
	if total == 0 {
		return 0, errors.Join(errs...)
	}
	return int64(float64(total) / max(last.Sub(first), time.Millisecond).Seconds()), nil
}

// measure counts what comes over one connection, from the first piece on.
func measure(ctx context.Context, c *pipe.Conn) (bytes int64, first, last time.Time, err error) {
	st, err := c.Open(ctx, "tree.measure")
	if err != nil {
		return 0, first, last, fmt.Errorf("measure link: %w", err)
	}
	defer st.Close()
	if err := st.Send(&agentpb.Empty{}); err != nil {
		return 0, first, last, fmt.Errorf("measure link: %w", err)
	}
	for {
		var m wrapperspb.BytesValue
		if err := st.Recv(&m); err == io.EOF {
			return bytes, first, last, nil
		} else if err != nil {
			return 0, first, last, fmt.Errorf("measure link: %w", err)
		}
		last = time.Now()
		if first.IsZero() {
			first = last
			continue
		}
		bytes += int64(len(m.Value))
	}
}
