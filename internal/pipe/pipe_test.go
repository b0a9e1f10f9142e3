package pipe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// pair connects two ends and returns the dialing one.
func pair(t *testing.T, handlers map[string]Handler) (client, server *Conn) {
	t.Helper()
	ar, aw := io.Pipe()
	br, bw := io.Pipe()
	client = New(ar, bw, Options{Dialer: true})
	server = New(br, aw, Options{Handlers: handlers})
	var wg sync.WaitGroup
	for _, c := range []*Conn{client, server} {
		wg.Go(func() { c.Run(context.Background()) })
	}
	t.Cleanup(func() { client.Close(); server.Close(); wg.Wait() })
	return client, server
}

func echo(_ context.Context, s *Stream) error {
	for {
		var m wrapperspb.BytesValue
		if err := s.Recv(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.Send(&m); err != nil {
			return err
		}
	}
}

func TestCallsInParallel(t *testing.T) {
	c, _ := pair(t, map[string]Handler{"echo": echo})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			want := bytes.Repeat([]byte(fmt.Sprint(i)), 1000*i+1)
			var got wrapperspb.BytesValue
			if err := c.Call(context.Background(), "echo", wrapperspb.Bytes(want), &got); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(got.Value, want) {
				t.Errorf("call %d: got %d bytes, want %d", i, len(got.Value), len(want))
			}
		})
	}
	wg.Wait()
	if c.mu.Lock(); len(c.streams) != 0 {
		t.Errorf("%d streams left", len(c.streams))
	}
	c.mu.Unlock()
}

func TestRawBytesTravelBehindAMessage(t *testing.T) {
	c, _ := pair(t, map[string]Handler{"raw": func(_ context.Context, s *Stream) error {
		var m wrapperspb.StringValue
		raw, err := s.RecvRaw(&m)
		if err != nil {
			return err
		}
		return s.SendRaw(&m, raw[:3], raw[3:], nil)
	}})
	for _, want := range []string{"", "abc", strings.Repeat("x", 3<<20)} {
		s, err := c.Open(context.Background(), "raw")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendRaw(wrapperspb.String("name"), []byte("123"), []byte(want)); err != nil {
			t.Fatal(err)
		}
		var m wrapperspb.StringValue
		raw, err := s.RecvRaw(&m)
		if err != nil || string(raw) != "123"+want || m.Value != "name" {
			t.Errorf("%d bytes: %q, %d bytes back, %v", len(want), m.Value, len(raw), err)
		}
		s.Close()
	}
}

func TestUnknownMethodAndHandlerError(t *testing.T) {
	c, _ := pair(t, map[string]Handler{"fail": func(context.Context, *Stream) error { return errors.New("disk on fire") }})
	for method, want := range map[string]string{"nothing": "unknown call", "fail": "disk on fire"} {
		err := c.Call(context.Background(), method, &emptypb.Empty{}, &emptypb.Empty{})
		var remote *RemoteError
		if !errors.As(err, &remote) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want a remote error with %q", method, err, want)
		}
	}
}

// TestSlowReaderIsBounded sends without a reader and sees the sender stop near
// the window, while another call goes on.
func TestSlowReaderIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, _ := pair(t, map[string]Handler{"echo": echo, "slow": func(ctx context.Context, s *Stream) error {
			<-release
			for {
				var m wrapperspb.BytesValue
				if err := s.Recv(&m); err != nil {
					return nil
				}
			}
		}})
		s, err := c.Open(context.Background(), "slow")
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan int, 1)
		go func() {
			n := 0
			for range 40 {
				if s.SendPacked(wrapperspb.Bytes(make([]byte, 1<<20))) != nil {
					break
				}
				n++
			}
			s.CloseSend()
			sent <- n
		}()
		synctest.Wait()
		if _, out := c.Counters(); out > Window+2<<20 {
			t.Errorf("%d bytes sent to a reader that reads nothing; window is %d", out, Window)
		}
		if err := c.Call(context.Background(), "echo", wrapperspb.Bytes([]byte("x")), &wrapperspb.BytesValue{}); err != nil {
			t.Errorf("another call meanwhile: %v", err)
		}
		close(release)
		if n := <-sent; n != 40 {
			t.Errorf("sent %d messages once the reader read, want 40", n)
		}
		c.Close()
	})
}

func TestCancelReachesHandler(t *testing.T) {
	stopped := make(chan struct{})
	c, _ := pair(t, map[string]Handler{"wait": func(ctx context.Context, s *Stream) error {
		<-ctx.Done()
		close(stopped)
		return ctx.Err()
	}})
	ctx, cancel := context.WithCancel(context.Background())
	s, err := c.Open(ctx, "wait")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Recv(&emptypb.Empty{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Recv after cancel: %v", err)
	}
	select {
	case <-stopped:
	case <-time.After(10 * time.Second):
		t.Fatal("handler was not cancelled")
	}
}

func TestConnectionLossEndsCalls(t *testing.T) {
	c, server := pair(t, map[string]Handler{"wait": func(ctx context.Context, s *Stream) error { <-ctx.Done(); return ctx.Err() }})
	s, err := c.Open(context.Background(), "wait")
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	if err := s.Recv(&emptypb.Empty{}); err == nil || err == io.EOF {
		t.Errorf("Recv on a lost connection: %v, want an error that is no orderly end", err)
	}
}

func TestHandlerMayEndBeforeTheSender(t *testing.T) {
	c, _ := pair(t, map[string]Handler{"brief": func(context.Context, *Stream) error { return nil }})
	s, err := c.Open(context.Background(), "brief")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err = s.SendPacked(wrapperspb.Bytes(make([]byte, 1<<20))); err != nil {
			break
		}
	}
	if err != io.EOF {
		t.Errorf("sending to a handler that is done: %v, want io.EOF", err)
	}
}

func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := pair(t, map[string]Handler{"echo": echo})
		c.SetRate(1 << 20)
		start := time.Now()
		s, err := c.Open(context.Background(), "echo")
		if err != nil {
			t.Fatal(err)
		}
		for range 5 {
			if err := s.SendPacked(wrapperspb.Bytes(make([]byte, 1<<20))); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(start); d < 4*time.Second || d > 6*time.Second {
			t.Errorf("5 MiB at 1 MiB/s took %v", d)
		}
		c.Close()
	})
}

func TestOversizedFrameEndsConnection(t *testing.T) {
	var b bytes.Buffer
	binary.Write(&b, binary.BigEndian, uint32(MaxMessage+1))
	b.Write([]byte{0, 0, 0, 1, byte(kindMsg)})
	err := New(&b, io.Discard, Options{}).Run(context.Background())
	var pe *ProtocolError
	if !errors.As(err, &pe) {
		t.Errorf("got %v, want a protocol error", err)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 1, 1, 'e', 'c', 'h', 'o', 0, 0, 0, 1, 0, 0, 0, 1, 2, 0})
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 1, 1, 'e', 'c', 'h', 'o', 0, 0, 0, 1, 0, 0, 0, 1, 3, 0})
	f.Add([]byte{0, 0, 0, 4, 0, 0, 0, 1, 1, 'e', 'c', 'h', 'o', 0, 0, 0, 6, 0, 0, 0, 1, 8, 0, 0, 0, 9, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(bytes.NewReader(b), io.Discard, Options{Handlers: map[string]Handler{"echo": echo}})
		c.Run(context.Background())
	})
}
