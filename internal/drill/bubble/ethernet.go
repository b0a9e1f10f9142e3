package bubble

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"os"
	"sync"
)

// On a wire each frame follows its length, in four bytes: QEMU's socket network.
const (
	lengthSize = 4
	leastFrame = 14
	mostFrame  = 1 << 16
)

type mac [6]byte

// sender takes a frame; it must not keep it.
type sender interface{ send(frame []byte) }

// ethernet is a switch that learns who is where.
type ethernet struct {
	taps sync.WaitGroup

	mu                     sync.Mutex // guards what follows
	ports                  map[sender]bool
	table                  map[mac]sender
	tap                    sender
	frames, bytes, between int64
}

func newEthernet() *ethernet {
	return &ethernet{ports: map[sender]bool{}, table: map[mac]sender{}}
}

// mostLearned bounds the table: a machine may invent addresses.
const mostLearned = 4096

// take passes on a frame that came from a port.
func (e *ethernet) take(from sender, frame []byte) {
	if len(frame) < leastFrame {
		return
	}
	to, sent := mac(frame[:6]), mac(frame[6:12])
	e.mu.Lock()
	if sent[0]&1 == 0 && len(e.table) < mostLearned {
		e.table[sent] = from
	}
	var out []sender
	target, known := e.table[to]
	switch {
	case to[0]&1 == 0 && known && target != from:
		out = append(out, target)
	case to[0]&1 == 0 && known:
	default:
		for p := range e.ports {
			if p != from {
				out = append(out, p)
			}
		}
	}
	if from != e.tap {
		e.frames++
		e.bytes += int64(len(frame))
		if known && target != e.tap && target != from {
			e.between++
		}
	}
	e.mu.Unlock()
	for _, p := range out {
		p.send(frame)
	}
}

func (e *ethernet) join(p sender) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ports[p] = true
}

func (e *ethernet) leave(p sender) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.ports, p)
	for m, at := range e.table {
		if at == p {
			delete(e.table, m)
		}
	}
}

func (e *ethernet) figures(f *Figures) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.Frames, f.Bytes, f.Between = e.frames, e.bytes, e.between
}

// wire is a machine's card.
type wire struct {
	conn net.Conn
	out  chan []byte // a full one drops frames, as a switch does
}

const queued = 256

func (w *wire) send(frame []byte) {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, lengthSize+len(frame)), uint32(len(frame)))
	select {
	case w.out <- append(b, frame...):
	default:
	}
}

// port serves a machine's card until conn ends.
func (e *ethernet) port(conn net.Conn) {
	w := &wire{conn: conn, out: make(chan []byte, queued)}
	var writer sync.WaitGroup
	ended := make(chan struct{})
	writer.Go(func() {
		for {
			select {
			case b := <-w.out:
				conn.Write(b) // a machine that has ended reads no more
			case <-ended:
				return
			}
		}
	})
	e.join(w)
	readFrames(conn, func(frame []byte) { e.take(w, frame) })
	e.leave(w)
	close(ended)
	writer.Wait()
	io.Copy(io.Discard, conn) // what was no frame must not stall the machine
}

// readFrames calls f with each frame of r until it ends or is no longer one.
func readFrames(r io.Reader, f func([]byte)) {
	in := bufio.NewReaderSize(r, mostFrame)
	var length [lengthSize]byte
	frame := make([]byte, mostFrame)
	for {
		if _, err := io.ReadFull(in, length[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(length[:])
		if n > mostFrame {
			return
		}
		if _, err := io.ReadFull(in, frame[:n]); err != nil {
			return
		}
		f(frame[:n])
	}
}

// tapPort is the bubble's own side.
type tapPort struct{ f *os.File }

func (p *tapPort) send(frame []byte) { p.f.Write(frame) } // a frame lost is one that a sender repeats

func (e *ethernet) attachTap(f *os.File) {
	p := &tapPort{f}
	e.join(p)
	e.mu.Lock()
	e.tap = p
	e.mu.Unlock()
	e.taps.Go(func() {
		frame := make([]byte, mostFrame)
		for {
			n, err := f.Read(frame)
			if err != nil {
				return
			}
			e.take(p, frame[:n])
		}
	})
}

func (e *ethernet) wait() { e.taps.Wait() }
