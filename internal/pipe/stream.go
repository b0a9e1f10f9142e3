package pipe

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"google.golang.org/protobuf/proto"
)

// Stream is one call: messages in order, both ways. One goroutine may send while
// another receives; neither may be shared further.
type Stream struct {
	conn *Conn
	id   uint32

	mu       sync.Mutex
	cond     sync.Cond
	queue    []message // received, not yet read
	queued   int64     // bytes in queue and not yet granted anew
	ungiven  int64     // read, but not granted to the peer yet
	credit   int64     // what we may still send
	err      error     // ends both ways
	ended    bool      // the peer sends no more
	closed   bool      // the peer's handler is done
	sentEnd  bool
	cancelFn func()
}

func newStream(c *Conn, id uint32) *Stream {
	s := &Stream{conn: c, id: id, credit: Window}
	s.cond.L = &s.mu
	return s
}

func (s *Stream) setCancel(f func()) {
	s.mu.Lock()
	dead := s.err != nil || s.closed
	s.cancelFn = f
	s.mu.Unlock()
	if dead {
		f()
	}
}

// message is a received message as it came.
type message struct {
	kind kind
	body []byte
}

// Send encodes m, compresses it where that helps, and waits until the peer has
// room for it. io.EOF means that the peer's handler is done and wants no more.
func (s *Stream) Send(m proto.Message) error { return s.send(m, true) }

// SendPacked is Send for messages whose content is compressed already.
func (s *Stream) SendPacked(m proto.Message) error { return s.send(m, false) }

func (s *Stream) send(m proto.Message, compress bool) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %T: %w", m, err)
	}
	k := kindMsg
	if compress && len(b) >= compressMin {
		if z := s.conn.enc.EncodeAll(b, nil); len(z) < len(b) {
			b, k = z, kindZMsg
		}
	}
	return s.sendFrame(m, k, b)
}

// SendRaw sends m with the bytes of raw behind it, which are not copied on the
// way: for content. The peer must receive it with RecvRaw.
func (s *Stream) SendRaw(m proto.Message, raw ...[]byte) error {
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, 4, 1024), m)
	if err != nil {
		return fmt.Errorf("encode %T: %w", m, err)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return s.sendFrame(m, kindRaw, append([][]byte{b}, raw...)...)
}

// sendFrame waits for room and writes the parts as one frame.
func (s *Stream) sendFrame(m proto.Message, k kind, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > MaxMessage {
		return &ProtocolError{fmt.Sprintf("%T of %d bytes, at most %d allowed", m, n, MaxMessage)}
	}
	s.mu.Lock()
	for s.err == nil && !s.closed && s.credit <= 0 {
		s.cond.Wait()
	}
	if s.err != nil || s.closed {
		defer s.mu.Unlock()
		if s.err != nil {
			return s.err
		}
		return io.EOF
	}
	s.credit -= cost(n) // may go below zero: a message larger than the window must pass
	s.mu.Unlock()
	return s.conn.write(s.id, k, parts...)
}

// cost is what a message of n bytes takes of the window. The header counts, or
// messages of no bytes could fill the reader's memory.
func cost(n int) int64 { return int64(n) + headerSize }

// Recv waits for the next message and decodes it into m. It returns io.EOF when
// the peer has closed its side in order.
func (s *Stream) Recv(m proto.Message) error {
	_, err := s.RecvRaw(m)
	return err
}

// RecvRaw is Recv for messages that may have been sent with SendRaw; raw is what
// came behind the message, and the caller's to keep.
func (s *Stream) RecvRaw(m proto.Message) (raw []byte, err error) {
	got, give, err := s.next()
	if err != nil {
		return nil, err
	}
	if give > 0 {
		var p [4]byte
		binary.BigEndian.PutUint32(p[:], uint32(give))
		if err := s.conn.write(s.id, kindGrant, p[:]); err != nil {
			return nil, err
		}
	}
	return s.decode(got, m)
}

// next takes a message from the queue. give is what the peer may send in exchange.
func (s *Stream) next() (m message, give int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && s.err == nil && !s.ended {
		s.cond.Wait()
	}
	if len(s.queue) == 0 {
		if s.err != nil {
			return m, 0, s.err
		}
		return m, 0, io.EOF
	}
	m = s.queue[0]
	s.queue[0] = message{}
	s.queue = s.queue[1:]
	s.ungiven += cost(len(m.body))
	if s.ungiven >= Window/4 && !s.ended {
		give, s.ungiven = s.ungiven, 0
		s.queued -= give
	}
	return m, give, nil
}

func (s *Stream) decode(got message, m proto.Message) (raw []byte, err error) {
	b := got.body
	switch got.kind {
	case kindZMsg:
		if b, err = s.conn.dec.DecodeAll(b, nil); err != nil {
			return nil, &ProtocolError{"compressed message: " + err.Error()}
		}
		if len(b) > MaxMessage {
			return nil, &ProtocolError{"compressed message grows beyond the limit"}
		}
	case kindRaw:
		if len(b) < 4 || uint64(binary.BigEndian.Uint32(b)) > uint64(len(b)-4) {
			return nil, &ProtocolError{"message is longer than its frame"}
		}
		n := binary.BigEndian.Uint32(b)
		raw = b[4+n:]
		b = b[4 : 4+n]
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return nil, &ProtocolError{fmt.Sprintf("decode %T: %v", m, err)}
	}
	return raw, nil
}

// CloseSend tells the peer that no more messages come. Receiving goes on.
func (s *Stream) CloseSend() error {
	s.mu.Lock()
	if s.err != nil || s.sentEnd || s.closed {
		defer s.mu.Unlock()
		return s.err
	}
	s.sentEnd = true
	s.mu.Unlock()
	return s.conn.write(s.id, kindEnd, nil)
}

// Cancel ends the call both ways; the peer sees err's text.
func (s *Stream) Cancel(err error) {
	if err == nil {
		err = context.Canceled
	}
	s.conn.forget(s.id)
	if !s.fail(err) {
		return
	}
	text := err.Error()
	if len(text) > 4096 {
		text = text[:4096]
	}
	s.conn.write(s.id, kindCancel, []byte(text)) // if this fails the connection is over, and so is the call
}

// finish ends a served call whose work is done. What the peer still sends is
// dropped unread.
func (s *Stream) finish() {
	s.conn.forget(s.id)
	if s.fail(ErrClosed) { // whoever of the handler's still waits on the stream ends
		s.conn.write(s.id, kindClose, nil) // if this fails the connection is over, and so is the call
	}
}

// Close gives up a call made with Open. After io.EOF from Recv it does nothing;
// before, the peer's handler is cancelled.
func (s *Stream) Close() error {
	s.mu.Lock()
	over := s.closed || s.err != nil
	s.mu.Unlock()
	if !over {
		s.Cancel(context.Canceled)
	}
	return nil
}

// fail records err as the end of the call and reports whether it was the first.
func (s *Stream) fail(err error) bool {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return false
	}
	s.err = err
	f := s.cancelFn
	s.cond.Broadcast()
	s.mu.Unlock()
	if f != nil {
		f()
	}
	return true
}

// end records that the peer sends no more and, when closed, that its handler is
// done altogether.
func (s *Stream) end(closed bool) {
	s.mu.Lock()
	s.ended = true
	s.closed = s.closed || closed
	f := s.cancelFn
	s.cond.Broadcast()
	s.mu.Unlock()
	if closed && f != nil {
		f()
	}
}

func (s *Stream) grant(n int64) {
	s.mu.Lock()
	s.credit = min(s.credit+n, Window)
	s.cond.Broadcast()
	s.mu.Unlock()
}

// deliver queues a message.
func (s *Stream) deliver(k kind, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.ended {
		return nil
	}
	s.queued += cost(len(b))
	if s.queued > Window+MaxMessage+headerSize {
		return &ProtocolError{"more sent than the window allows"}
	}
	s.queue = append(s.queue, message{k, b})
	s.cond.Signal()
	return nil
}
