package pipe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What came before the connection ended can be read after, compressed or not.
func TestReadingOutlivesTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := pair(t, map[string]Handler{"give": func(_ context.Context, s *Stream) error {
			return s.Send(wrapperspb.Bytes(make([]byte, 100000)))
		}})
		s, err := c.Open(context.Background(), "give")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		server.Close()
		synctest.Wait()
		var m wrapperspb.BytesValue
		if err := s.Recv(&m); err != nil || len(m.Value) != 100000 {
			t.Errorf("got %d bytes, %v", len(m.Value), err)
		}
	})
}

func TestEmptyMessagesCountToo(t *testing.T) {
	open := []byte{0, 0, 0, 4, 0, 0, 0, 1, byte(kindOpen), 'w', 'a', 'i', 't'}
	frame := []byte{0, 0, 0, 0, 0, 0, 0, 1, byte(kindMsg)}
	many := bytes.Repeat(frame, (Window+MaxMessage)/headerSize+2)
	c := New(io.MultiReader(bytes.NewReader(open), bytes.NewReader(many)), io.Discard,
		Options{Handlers: map[string]Handler{"wait": func(ctx context.Context, _ *Stream) error { <-ctx.Done(); return nil }}})
	var pe *ProtocolError
	if err := c.Run(context.Background()); !errors.As(err, &pe) {
		t.Errorf("a flood of empty messages: got %v, want a protocol error", err)
	}
}

// A call that is given up while it is being made ends at the other side too.
func TestCancelDoesNotOvertakeOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, server := pair(t, map[string]Handler{"wait": func(ctx context.Context, _ *Stream) error { <-ctx.Done(); return nil }})
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { c.Open(ctx, "wait") })
		}
		wg.Wait()
		synctest.Wait()
		server.mu.Lock()
		defer server.mu.Unlock()
		if server.serving != 0 {
			t.Errorf("%d handlers of calls given up are still running", server.serving)
		}
	})
}

// synctest fails where a goroutine is left behind.
func TestReceiverEndsWithItsHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, map[string]Handler{"leave": func(_ context.Context, s *Stream) error {
			go s.Recv(&wrapperspb.BytesValue{})
			return nil
		}})
		s, err := c.Open(context.Background(), "leave")
		if err == nil {
			err = s.Recv(&wrapperspb.BytesValue{})
		}
		if err != io.EOF {
			t.Errorf("got %v, want the end", err)
		}
	})
}
