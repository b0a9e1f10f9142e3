package bubble

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// mailPorts are where machines hand over mail in the clear.
var mailPorts = [...]string{"25", "587"}

// serve starts what answers in the bubble.
func (b *Bubble) serve() error {
	return b.Inside(func() error {
		udp, err := askedAddress().ListenPacket(context.Background(), "udp4", "0.0.0.0:53")
		if err != nil {
			return err
		}
		conn, ok := udp.(*net.UDPConn)
		if !ok {
			return errors.Join(errors.New("listen on port 53: no UDP socket"), udp.Close())
		}
		b.closers = append(b.closers, udp.Close)
		b.serving.Go(func() { b.names.serveUDP(conn) })
		if err := b.listen("53", b.names.serveTCP); err != nil {
			return err
		}
		for _, port := range mailPorts {
			if err := b.listen(port, b.mails.serve); err != nil {
				return err
			}
		}
		return nil
	})
}

// askedAddress makes sockets that tell which address a packet was sent to.
func askedAddress() *net.ListenConfig {
	return &net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) }), err)
	}}
}

// listen serves the connections to a port, of any address.
func (b *Bubble) listen(port string, serve func(net.Conn)) error {
	l, err := net.Listen("tcp4", "0.0.0.0:"+port)
	if err != nil {
		return err
	}
	open := &connections{all: map[net.Conn]bool{}}
	b.closers = append(b.closers, func() error { return errors.Join(l.Close(), open.close()) })
	b.serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !open.add(conn) {
				conn.Close()
				continue
			}
			b.serving.Go(func() {
				defer open.remove(conn)
				serve(conn)
			})
		}
	})
	return nil
}

// mostConnections bounds what machines may hold open at each port.
const mostConnections = 256

type connections struct {
	mu     sync.Mutex // guards what follows
	all    map[net.Conn]bool
	closed bool
}

func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.all) >= mostConnections {
		return false
	}
	c.all[conn] = true
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, conn)
}

func (c *connections) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.all {
		conn.Close()
	}
	return nil
}
