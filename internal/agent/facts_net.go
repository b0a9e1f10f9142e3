package agent

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
)

// link is a network interface as the kernel has it.
type link struct {
	name, mac string
	kind      string // of software interfaces: bridge, veth, tun …; empty for hardware
	loopback  bool
	up        bool
	mtu       int
	addresses []string
}

// realKinds are software interfaces that serve as a machine's own network card.
var realKinds = []string{"", "veth", "macvlan", "macvtap", "ipvlan", "ipvtap", "netkit"}

func (l link) virtual() bool { return l.loopback || !slices.Contains(realKinds, l.kind) }

// links asks the kernel for its network interfaces.
func links() ([]link, error) {
	data, err := syscall.NetlinkRIB(syscall.RTM_GETLINK, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	kinds, err := linkKinds(data)
	if err != nil {
		return nil, err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []link
	for _, i := range interfaces {
		l := link{name: i.Name, mac: i.HardwareAddr.String(), kind: kinds[i.Index], mtu: i.MTU,
			loopback: i.Flags&net.FlagLoopback != 0, up: i.Flags&net.FlagUp != 0}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			l.addresses = append(l.addresses, a.String())
		}
		out = append(out, l)
	}
	return out, nil
}

// Attributes of RTM_NEWLINK that package syscall does not name
// (include/uapi/linux/if_link.h).
const (
	iflaLinkInfo = 18
	iflaInfoKind = 1
)

// linkKinds reads the kind of each software interface, by interface index, from a
// dump of links.
func linkKinds(data []byte) (map[int]string, error) {
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return nil, fmt.Errorf("read list of interfaces: %w", err)
	}
	kinds := map[int]string{}
	for _, m := range messages {
		if m.Header.Type != syscall.RTM_NEWLINK || len(m.Data) < syscall.SizeofIfInfomsg {
			continue
		}
		index := int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
		info := attribute(m.Data[syscall.SizeofIfInfomsg:], iflaLinkInfo)
		kinds[index] = strings.TrimRight(string(attribute(info, iflaInfoKind)), "\x00")
	}
	return kinds, nil
}

// attribute finds a netlink attribute in a row of them.
func attribute(b []byte, want uint16) []byte {
	for len(b) >= syscall.SizeofRtAttr {
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < syscall.SizeofRtAttr || n > len(b) {
			return nil
		}
		if typ&^0xc000 == want { // the two high bits are flags
			return b[syscall.SizeofRtAttr:n]
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// network lists interfaces and routes.
func (c *collector) network(context.Context) {
	ls, err := c.sys.links()
	if err != nil {
		c.warn("network: %v", err)
	}
	for _, l := range ls {
		c.facts.Interfaces = append(c.facts.Interfaces, &agentpb.Interface{
			Name: l.name, Mac: l.mac, Addresses: l.addresses, Up: l.up, Virtual: l.virtual(), Mtu: uint32(max(l.mtu, 0)),
		})
	}
	c.routes("proc/net/route", procfs.ParseRoutes4)
	if c.exists("proc/net/ipv6_route") {
		c.routes("proc/net/ipv6_route", procfs.ParseRoutes6)
	}
}

func (c *collector) routes(file string, parse func([]byte) ([]procfs.Route, int)) {
	data, err := c.read(file)
	if err != nil {
		c.warn("routes: %v", err)
		return
	}
	routes, bad := parse(data)
	c.left(bad, "/"+file)
	slices.SortStableFunc(routes, func(a, b procfs.Route) int { return cmp.Compare(a.Metric, b.Metric) })
	for _, r := range routes {
		out := &agentpb.Route{Destination: r.Destination.String(), Interface: r.Interface}
		if r.Gateway.IsValid() {
			out.Gateway = r.Gateway.String()
		}
		c.facts.Routes = append(c.facts.Routes, out)
	}
}

// listener is a listening IP socket.
type listener struct {
	protocol string
	local    netip.AddrPort
	inode    uint64
}

func (c *collector) listeners() []listener {
	var out []listener
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		data, err := c.read("proc/net", protocol)
		if err != nil {
			if protocol == "tcp" {
				c.warn("listening sockets: %v", err)
			}
			continue
		}
		sockets, bad := procfs.ParseSockets(data)
		c.left(bad, "/proc/net/"+protocol)
		for _, s := range sockets {
			listens := s.State == procfs.StateListen
			if strings.HasPrefix(protocol, "udp") {
				listens = s.State == procfs.StateClose && s.Remote.Port() == 0
			}
			if listens {
				out = append(out, listener{protocol, s.Local, s.Inode})
			}
		}
	}
	return out
}

// sockets lists what listens, each address once however many processes share it.
func (c *collector) sockets(context.Context) {
	names := map[uint64]string{}
	for _, p := range c.procs {
		for _, inode := range p.sockets {
			if names[inode] == "" {
				names[inode] = p.comm
			}
		}
	}
	seen := map[string]bool{}
	for _, l := range c.listeners() {
		key := l.protocol + " " + l.local.String()
		if seen[key] {
			continue
		}
		seen[key] = true
		c.facts.Listening = append(c.facts.Listening, &agentpb.Socket{
			Protocol: l.protocol, Address: l.local.Addr().String(), Port: uint32(l.local.Port()), Process: names[l.inode],
		})
	}
}
