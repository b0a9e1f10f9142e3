package procfs

import (
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"
)

// Socket is a line of /proc/net/tcp, tcp6, udp or udp6.
type Socket struct {
	Local, Remote netip.AddrPort
	State         int
	Inode         uint64
}

// States of sockets (include/net/tcp_states.h).
const (
	StateListen = 10
	StateClose  = 7 // what an unconnected UDP socket shows
)

// ParseSockets reads one of the tables of IP sockets.
func ParseSockets(data []byte) (sockets []Socket, bad int) {
	for line := range lines(data) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "sl" {
			continue
		}
		if len(f) < 10 {
			bad++
			continue
		}
		local, ok1 := addrPort(f[1])
		remote, ok2 := addrPort(f[2])
		state, err1 := strconv.ParseUint(f[3], 16, 8)
		inode, err2 := strconv.ParseUint(f[9], 10, 64)
		if !ok1 || !ok2 || err1 != nil || err2 != nil {
			bad++
			continue
		}
		sockets = append(sockets, Socket{local, remote, int(state), inode})
	}
	return sockets, bad
}

// addrPort reads an address of 32-bit words in host order (taken to be
// little-endian, as on every machine Leeward is built for but s390x) and a port.
func addrPort(s string) (netip.AddrPort, bool) {
	a, p, ok := strings.Cut(s, ":")
	port, err := strconv.ParseUint(p, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, false
	}
	addr, ok := hexAddr(a, true)
	return netip.AddrPortFrom(addr, uint16(port)), ok
}

// hexAddr reads an address in hexadecimal; swap turns each 32-bit word around.
func hexAddr(s string, swap bool) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.Addr{}, false
	}
	if swap {
		for i := 0; i < len(b); i += 4 {
			b[i], b[i+1], b[i+2], b[i+3] = b[i+3], b[i+2], b[i+1], b[i]
		}
	}
	return netip.AddrFromSlice(b)
}

// UnixSocket is a line of /proc/net/unix that listens under a path.
type UnixSocket struct {
	Path  string
	Inode uint64
}

// acceptsConnections is the flag of a listening socket (include/uapi/linux/net.h,
// __SO_ACCEPTCON).
const acceptsConnections = 0x10000

// SocketInode reads what a link in /proc/PID/fd leads to. ok is false for all but sockets.
func SocketInode(target string) (inode uint64, ok bool) {
	text, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	return inode, err == nil
}

// ParseUnix reads the listening sockets with a path of /proc/net/unix. Abstract ones
// are left out.
func ParseUnix(data []byte) (sockets []UnixSocket, bad int) {
	for line := range lines(data) {
		f := strings.SplitN(strings.Join(strings.Fields(line), " "), " ", 8)
		if len(f) > 0 && f[0] == "Num" {
			continue
		}
		if len(f) < 7 {
			bad++
			continue
		}
		flags, err1 := strconv.ParseUint(f[3], 16, 32)
		inode, err2 := strconv.ParseUint(f[6], 10, 64)
		if err1 != nil || err2 != nil {
			bad++
			continue
		}
		if flags&acceptsConnections != 0 && len(f) == 8 && strings.HasPrefix(f[7], "/") {
			sockets = append(sockets, UnixSocket{f[7], inode})
		}
	}
	return sockets, bad
}

// Route is a way the kernel would send packets.
type Route struct {
	Destination netip.Prefix
	Gateway     netip.Addr // invalid: directly
	Interface   string
	Metric      uint64
}

// Flags of routes (include/uapi/linux/route.h and ipv6_route.h).
const (
	routeUp      = 0x1
	routeGateway = 0x2
	routeReject  = 0x200
	routeLocal   = 0x80000000
)

// ParseRoutes4 reads /proc/net/route.
func ParseRoutes4(data []byte) (routes []Route, bad int) {
	for line := range lines(data) {
		f := strings.Fields(line)
		if len(f) > 0 && f[0] == "Iface" {
			continue
		}
		if len(f) < 8 {
			bad++
			continue
		}
		dst, ok1 := hexAddr(f[1], true)
		gw, ok2 := hexAddr(f[2], true)
		mask, ok3 := hexAddr(f[7], true)
		flags, err1 := strconv.ParseUint(f[3], 16, 32)
		metric, err2 := strconv.ParseUint(f[6], 10, 32)
		if !ok1 || !ok2 || !ok3 || err1 != nil || err2 != nil || !dst.Is4() || !mask.Is4() {
			bad++
			continue
		}
		if flags&routeUp == 0 || flags&routeReject != 0 {
			continue
		}
		r := Route{Destination: netip.PrefixFrom(dst, ones(mask)), Interface: f[0], Metric: metric}
		if flags&routeGateway != 0 {
			r.Gateway = gw
		}
		routes = append(routes, r)
	}
	return routes, bad
}

func ones(mask netip.Addr) int {
	n := 0
	for _, b := range mask.As4() {
		for ; b&0x80 != 0; b <<= 1 {
			n++
		}
	}
	return n
}

// ParseRoutes6 reads the unicast routes of /proc/net/ipv6_route that lead out of the
// host: no local addresses, no multicast, no link-local networks.
func ParseRoutes6(data []byte) (routes []Route, bad int) {
	for line := range lines(data) {
		f := strings.Fields(line)
		if len(f) < 10 {
			bad++
			continue
		}
		dst, ok1 := hexAddr(f[0], false)
		length, err1 := strconv.ParseUint(f[1], 16, 8)
		gw, ok2 := hexAddr(f[4], false)
		metric, err2 := strconv.ParseUint(f[5], 16, 64)
		flags, err3 := strconv.ParseUint(f[8], 16, 64)
		if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || length > 128 || !dst.Is6() {
			bad++
			continue
		}
		if flags&routeUp == 0 || flags&(routeReject|routeLocal) != 0 || f[9] == "lo" ||
			dst.IsMulticast() || dst.IsLinkLocalUnicast() {
			continue
		}
		r := Route{Destination: netip.PrefixFrom(dst, int(length)), Interface: f[9], Metric: metric}
		if flags&routeGateway != 0 {
			r.Gateway = gw
		}
		routes = append(routes, r)
	}
	return routes, bad
}
