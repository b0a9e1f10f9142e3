// Package pipe carries many typed calls at once over one byte stream, such as the
// standard input and output of an ssh session. Each call is a two-way stream of
// protobuf messages with its own flow control, so that a slow reader of one call
// neither stalls the others nor makes either end hold more than a window of bytes.
// The package knows nothing of what the calls are for.
package pipe

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// MaxMessage bounds one encoded message, compressed or not, in bytes. A frame
	// that claims more ends the connection.
	MaxMessage = 16 << 20
	// Window is how many bytes of messages, with their headers, a peer may send on
	// one stream ahead of the reader.
	Window = 8 << 20
	// MaxStreams bounds the calls a peer may have open at once.
	MaxStreams = 256

	headerSize  = 9
	maxMethod   = 64
	compressMin = 200 // shorter messages rarely shrink
)

type kind byte

const (
	kindOpen   kind = iota + 1 // payload: method
	kindMsg                    // payload: message
	kindZMsg                   // payload: message, zstd
	kindEnd                    // no more messages this way
	kindClose                  // the handler is done; the call is over both ways
	kindCancel                 // payload: error text; the call is over both ways
	kindGrant                  // payload: u32, bytes the peer may send in addition
	kindRaw                    // payload: u32 length of a message, message, bytes
)

// ErrClosed is returned by calls on a connection that has ended without another
// cause.
var ErrClosed = errors.New("connection closed")

// ProtocolError means that the peer broke the framing: it speaks something else
// or is hostile. The connection is over.
type ProtocolError struct{ Text string }

func (e *ProtocolError) Error() string { return "protocol: " + e.Text }

// RemoteError is an error the peer's handler returned, or its reason to cancel.
type RemoteError struct{ Text string }

func (e *RemoteError) Error() string { return e.Text }

// Handler serves one call. Returning nil closes the stream in order; an error
// reaches the caller as *RemoteError. ctx ends with the call or the connection.
type Handler func(ctx context.Context, s *Stream) error

// Options configure a connection. The zero value serves no calls and has no
// limit.
type Options struct {
	Handlers map[string]Handler
	Dialer   bool // exactly one end sets it; it decides who numbers streams odd
}

// Conn is one end of a connection. All methods may be called concurrently.
type Conn struct {
	r        *bufio.Reader
	handlers map[string]Handler
	limiter  *rate.Limiter
	in, out  atomic.Int64
	lastIn   atomic.Int64 // unix nanoseconds of the last frame
	enc      *zstd.Encoder
	dec      *zstd.Decoder
	closer   io.Closer

	waiting atomic.Int32 // writers queued for wmu: the last one flushes
	wmu     sync.Mutex
	w       *bufio.Writer

	mu      sync.Mutex
	streams map[uint32]*Stream
	serving int
	next    uint32
	err     error
	done    chan struct{}
	wg      sync.WaitGroup
}

// New returns a connection over r and w, which Run must then drive. Where w is an
// io.Closer, Close closes it.
func New(r io.Reader, w io.Writer, o Options) *Conn {
	// Both constructors fail only on invalid options, and these are constants.
	enc, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault),
		zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	dec, _ := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxMessage), zstd.WithDecoderConcurrency(2))
	c := &Conn{
		r: bufio.NewReaderSize(r, 256<<10), w: bufio.NewWriterSize(w, 64<<10),
		handlers: o.Handlers, limiter: rate.NewLimiter(rate.Inf, 256<<10),
		enc: enc, dec: dec, streams: map[uint32]*Stream{}, next: 2, done: make(chan struct{}),
	}
	if o.Dialer {
		c.next = 1
	}
	c.closer, _ = w.(io.Closer)
	c.lastIn.Store(time.Now().UnixNano())
	return c
}

// SetRate limits what this end sends, in bytes per second; 0 lifts the limit. It
// may be called at any time.
func (c *Conn) SetRate(bytesPerSecond float64) {
	l := rate.Limit(bytesPerSecond)
	if bytesPerSecond <= 0 {
		l = rate.Inf
	}
	c.limiter.SetLimit(l)
}

// Counters returns the bytes received and sent so far, framing included.
func (c *Conn) Counters() (in, out int64) { return c.in.Load(), c.out.Load() }

// LastReceived tells when the last frame came in.
func (c *Conn) LastReceived() time.Time { return time.Unix(0, c.lastIn.Load()) }

// Run reads frames until the stream ends, ctx ends or the peer breaks the
// protocol, then ends all calls and waits for their handlers. It returns nil when
// the peer closed in order.
func (c *Conn) Run(ctx context.Context) error {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.shut(ctx.Err()) })
	defer stop()
	err := c.readLoop(hctx)
	if err == io.EOF {
		err = nil
	}
	cause := err
	if cause == nil {
		cause = io.ErrUnexpectedEOF // for calls that were still open
	}
	c.shut(cause)
	cancel()
	c.wg.Wait()
	// The decoder is left to the garbage collector: a reader of a call may still
	// be decoding, and closing it under DecodeAll panics.
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(c.err, ErrClosed) {
		return nil
	}
	return err
}

// Close ends the connection. Calls in progress fail with ErrClosed.
func (c *Conn) Close() error {
	c.shut(ErrClosed)
	return nil
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns why the connection ended, or nil while it has not.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Conn) shut(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.done)
	streams := c.streams
	c.streams = map[uint32]*Stream{}
	c.mu.Unlock()
	for _, s := range streams {
		s.fail(err)
	}
	if c.closer != nil {
		c.closer.Close() // the error of a half-dead pipe tells nothing new
	}
}

func (c *Conn) readLoop(ctx context.Context) error {
	var h [headerSize]byte
	for {
		if _, err := io.ReadFull(c.r, h[:]); err != nil {
			if err == io.ErrUnexpectedEOF {
				return fmt.Errorf("read frame: %w", err)
			}
			return err
		}
		n := binary.BigEndian.Uint32(h[:])
		id := binary.BigEndian.Uint32(h[4:])
		k := kind(h[8])
		if n > MaxMessage {
			return &ProtocolError{fmt.Sprintf("frame of %d bytes, at most %d allowed", n, MaxMessage)}
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(c.r, payload); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read frame: %w", err)
		}
		c.in.Add(int64(n) + headerSize)
		c.lastIn.Store(time.Now().UnixNano())
		if err := c.dispatch(ctx, id, k, payload); err != nil {
			return err
		}
	}
}

func (c *Conn) dispatch(ctx context.Context, id uint32, k kind, payload []byte) error {
	if k == kindOpen {
		return c.accept(ctx, id, payload)
	}
	c.mu.Lock()
	s := c.streams[id]
	c.mu.Unlock()
	if s == nil {
		return nil // a call that ended here while the peer was still sending
	}
	switch k {
	case kindMsg, kindZMsg, kindRaw:
		return s.deliver(k, payload)
	case kindEnd:
		s.end(false)
	case kindClose:
		c.forget(id)
		s.end(true)
	case kindCancel:
		c.forget(id)
		s.fail(&RemoteError{string(payload)})
	case kindGrant:
		if len(payload) != 4 {
			return &ProtocolError{"grant of wrong size"}
		}
		s.grant(int64(binary.BigEndian.Uint32(payload)))
	default:
		return &ProtocolError{fmt.Sprintf("frame of unknown kind %d", k)}
	}
	return nil
}

func (c *Conn) accept(ctx context.Context, id uint32, payload []byte) error {
	if len(payload) > maxMethod {
		return &ProtocolError{"method name too long"}
	}
	method := string(payload)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	if c.streams[id] != nil || id%2 == c.next%2 {
		c.mu.Unlock()
		return &ProtocolError{fmt.Sprintf("stream %d opened twice", id)}
	}
	if c.serving >= MaxStreams {
		c.mu.Unlock()
		return &ProtocolError{fmt.Sprintf("more than %d calls at once", MaxStreams)}
	}
	h := c.handlers[method]
	s := newStream(c, id)
	c.streams[id] = s
	c.serving++
	c.wg.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.wg.Done()
		hctx, cancel := context.WithCancel(ctx)
		s.setCancel(cancel)
		err := fmt.Errorf("unknown call %q: the two ends are of different versions", method)
		if h != nil {
			err = h(hctx, s)
		}
		cancel()
		if err != nil {
			s.Cancel(err)
		} else {
			s.finish()
		}
		c.mu.Lock()
		c.serving--
		c.mu.Unlock()
	}()
	return nil
}

func (c *Conn) forget(id uint32) {
	c.mu.Lock()
	delete(c.streams, id)
	c.mu.Unlock()
}

// Open begins a call of method. The stream ends when ctx does.
func (c *Conn) Open(ctx context.Context, method string) (*Stream, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	id := c.next
	c.next += 2
	s := newStream(c, id)
	c.streams[id] = s
	c.mu.Unlock()
	if err := c.write(id, kindOpen, []byte(method)); err != nil {
		c.forget(id)
		return nil, err
	}
	// Not before: a cancel that overtakes the open would leave the peer's handler
	// without anyone to end it.
	stop := context.AfterFunc(ctx, func() { s.Cancel(ctx.Err()) })
	s.setCancel(func() { stop() })
	return s, nil
}

// Call sends one request and returns with its one reply.
func (c *Conn) Call(ctx context.Context, method string, req, resp proto.Message) error {
	s, err := c.Open(ctx, method)
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	defer s.Close()
	err = s.Send(req)
	if err == nil {
		err = s.CloseSend()
	}
	if err == nil {
		err = s.Recv(resp)
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	// The handler's own end follows its reply at once.
	if err := s.Recv(&emptypb.Empty{}); err != io.EOF && err != nil {
		return fmt.Errorf("call %s: %w", method, err)
	}
	return nil
}

func (c *Conn) write(id uint32, k kind, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if err := c.pace(n + headerSize); err != nil {
		return err
	}
	c.waiting.Add(1)
	c.wmu.Lock()
	defer c.wmu.Unlock()
	var h [headerSize]byte
	binary.BigEndian.PutUint32(h[:], uint32(n))
	binary.BigEndian.PutUint32(h[4:], id)
	h[8] = byte(k)
	_, err := c.w.Write(h[:])
	for _, p := range parts {
		if err == nil {
			_, err = c.w.Write(p)
		}
	}
	if c.waiting.Add(-1) == 0 && err == nil {
		err = c.w.Flush()
	}
	c.out.Add(int64(n) + headerSize)
	if err != nil {
		if cause := c.Err(); cause != nil {
			return cause
		}
		return fmt.Errorf("write frame: %w", err)
	}
	return nil
}

// pace waits until the rate limit lets n bytes go.
func (c *Conn) pace(n int) error {
	if c.limiter.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		step := min(n, c.limiter.Burst())
		r := c.limiter.ReserveN(time.Now(), step)
		if d := r.Delay(); d > 0 {
			t := time.NewTimer(d)
			select {
			case <-t.C:
			case <-c.done:
				t.Stop()
				return c.Err()
			}
		}
		n -= step
	}
	return nil
}
