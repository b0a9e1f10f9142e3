package bubble

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What is needed of DNS (RFC 1035): questions for addresses and their answers.
const (
	dnsHeader   = 12
	mostMessage = 4096
	typeA       = 1
	classIN     = 1
	answerTTL   = 5

	flagResponse  = 1 << 15
	flagAuthority = 1 << 10
	flagRecursion = 1 << 8 // asked for, and given back
	flagAvailable = 1 << 7
	maskOpcode    = 0xf << 11
	notFound      = 3
	notKnown      = 4
)

var errNoQuestion = errors.New("no question of DNS")

// nameService answers for the drilled servers; no other name exists.
type nameService struct {
	hosts           map[string]netip.Addr // by name in lower case, without its last dot
	known, notKnown atomic.Int64
}

func newNameService(hosts []Host) *nameService {
	s := &nameService{hosts: map[string]netip.Addr{}}
	for _, h := range hosts {
		for _, name := range h.Names {
			name = strings.ToLower(strings.Trim(name, "."))
			if name != "" && len(h.Addresses) > 0 {
				s.hosts[name] = h.Addresses[0]
			}
		}
	}
	return s
}

func (s *nameService) figures(f *Figures) { f.Names, f.Unknown = s.known.Load(), s.notKnown.Load() }

// find returns the address of name. What is asked with a domain is found without it
// too: what a machine appends to short names is its own affair.
func (s *nameService) find(name string) (netip.Addr, bool) {
	if a, ok := s.hosts[name]; ok {
		return a, true
	}
	short, _, _ := strings.Cut(name, ".")
	a, ok := s.hosts[short]
	return a, ok
}

// answer returns the reply to a message.
func (s *nameService) answer(message []byte) ([]byte, error) {
	name, kind, end, err := question(message)
	if err != nil {
		return nil, err
	}
	flags := binary.BigEndian.Uint16(message[2:])
	reply := append([]byte(nil), message[:end]...)
	out := flagResponse | flagAuthority | flagAvailable | flags&(maskOpcode|flagRecursion)
	binary.BigEndian.PutUint16(reply[4:], 1)
	binary.BigEndian.PutUint32(reply[6:], 0)
	binary.BigEndian.PutUint16(reply[10:], 0)
	addr, known := s.find(name)
	switch {
	case flags&maskOpcode != 0:
		out |= notKnown
	case !known:
		s.notKnown.Add(1)
		out |= notFound
	default:
		s.known.Add(1)
		if kind == typeA && addr.Is4() {
			binary.BigEndian.PutUint16(reply[6:], 1)
			reply = append(reply, 0xc0, dnsHeader, 0, typeA, 0, classIN, 0, 0, 0, answerTTL, 0, 4)
			reply = append(reply, addr.AsSlice()...)
		}
	}
	binary.BigEndian.PutUint16(reply[2:], uint16(out))
	return reply, nil
}

// question reads the one question of a message; end is where it ends.
func question(message []byte) (name string, kind uint16, end int, err error) {
	if len(message) < dnsHeader || message[2]&0x80 != 0 || binary.BigEndian.Uint16(message[4:]) != 1 {
		return "", 0, 0, errNoQuestion
	}
	var labels []string
	at := dnsHeader
	for {
		if at >= len(message) {
			return "", 0, 0, errNoQuestion
		}
		n := int(message[at])
		at++
		if n == 0 {
			break
		}
		if n > 63 || at+n > len(message) { // a pointer has no place here
			return "", 0, 0, errNoQuestion
		}
		labels = append(labels, strings.ToLower(string(message[at:at+n])))
		at += n
	}
	if at+4 > len(message) {
		return "", 0, 0, errNoQuestion
	}
	return strings.Join(labels, "."), binary.BigEndian.Uint16(message[at:]), at + 4, nil
}

// serveUDP answers until the socket is closed. A reply comes from the address that
// was asked, which is any.
func (s *nameService) serveUDP(conn *net.UDPConn) {
	message, control := make([]byte, mostMessage), make([]byte, 256)
	for {
		n, c, _, from, err := conn.ReadMsgUDPAddrPort(message, control)
		if err != nil {
			return
		}
		if reply, err := s.answer(message[:n]); err == nil {
			conn.WriteMsgUDPAddrPort(reply, sameAddress(control[:c]), from) // a lost one is asked for again
		}
	}
}

// sameAddress turns what the kernel says of a packet's destination into what makes
// it the reply's source.
func sameAddress(control []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= unix.SizeofInet4Pktinfo {
			info := &unix.Inet4Pktinfo{Spec_dst: [4]byte(m.Data[8:12])} // what the packet was sent to
			return unix.PktInfo4(info)
		}
	}
	return nil
}

const dnsTimeout = 10 * time.Second

// serveTCP answers on one connection, where a message follows its length.
func (s *nameService) serveTCP(conn net.Conn) {
	defer conn.Close()
	var length [2]byte
	for {
		conn.SetDeadline(time.Now().Add(dnsTimeout))
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		message := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, message); err != nil {
			return
		}
		reply, err := s.answer(message)
		if err != nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}
