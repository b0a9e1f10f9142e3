// Package bubble is the network of a drill: a network namespace that holds one tap
// device and nothing else, and a switch in this process that joins the machines'
// cards to it. Machines keep their production addresses and reach each other.
// Every other address in the world is answered by the bubble itself: names of
// drilled servers resolve, mail is swallowed and counted, and anything else is
// refused at once. The namespace has no name and no process but this one, so all
// of it is gone with this process, however that ends.
package bubble

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Host is a machine of the bubble.
type Host struct {
	Names     []string     // it is known by, without a domain or with it
	Addresses []netip.Addr // the one that its names resolve to is the first
	// Networks are those of Addresses, one for each, or fewer. Where there is no gateway
	// the bubble speaks as an address of the network that no machine has.
	Networks []netip.Prefix
	Gateway  netip.Addr // of it; the bubble speaks to the machine as this one, if it is valid
}

// Figures are what went on in a bubble.
type Figures struct {
	Frames     int64    `json:"frames"`          // that machines sent
	Bytes      int64    `json:"bytes"`           // of those
	Between    int64    `json:"frames_between"`  // from one machine to another alone
	Names      int64    `json:"names_answered"`  // questions for drilled servers
	Unknown    int64    `json:"names_unknown"`   // questions for others
	Mails      int64    `json:"mails_swallowed"` // and delivered nowhere
	Interfaces []string `json:"interfaces"`      // all that the namespace has
	Left       int64    `json:"packets_left"`    // through any interface but the machines' own
	Probes     []string `json:"ways_out_tried"`  // every one of which failed
}

// tapName is the only interface of the namespace beside its loopback.
const tapName = "drill0"

// Bubble is a network that leads nowhere. All methods may be called concurrently.
type Bubble struct {
	ns    *os.File
	tap   *os.File
	sw    *ethernet
	names *nameService
	mails *mailSink

	tried   []string // before any machine was there
	serving sync.WaitGroup
	closers []func() error
	once    sync.Once
}

// Open makes the bubble of hosts and proves that outside, addresses of this machine or
// of others, cannot be reached from within. It needs root.
func Open(ctx context.Context, hosts []Host, outside []netip.AddrPort) (*Bubble, error) {
	b := &Bubble{sw: newEthernet(), mails: &mailSink{}, names: newNameService(hosts)}
	if err := b.open(ctx, hosts, outside); err != nil {
		return nil, fmt.Errorf("open bubble: %w", errors.Join(err, b.Close()))
	}
	return b, nil
}

func (b *Bubble) open(ctx context.Context, hosts []Host, outside []netip.AddrPort) error {
	if err := b.unshare(); err != nil {
		return err
	}
	if err := b.proveClosed(ctx, outside); err != nil {
		return err
	}
	if err := b.Inside(func() (err error) {
		if b.tap, err = openTap(tapName); err != nil {
			return err
		}
		return configure(ctx, hosts)
	}); err != nil {
		return err
	}
	b.sw.attachTap(b.tap)
	return b.serve()
}

// unshare makes the namespace. The thread that did so is thrown away: it is the
// descriptor that keeps the namespace.
func (b *Bubble) unshare() error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make network namespace: %w", err)
			return
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		b.ns = f
		done <- err
	}()
	return <-done
}

// Inside calls f on a thread in the bubble's namespace. Sockets that f opens stay in
// it, and so do commands that it runs.
func (b *Bubble) Inside(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the thread ends with this goroutine
		if err := unix.Setns(int(b.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter the bubble: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Dial connects from the bubble to address, which is a literal one.
func (b *Bubble) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	insideErr := b.Inside(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return nil
	})
	return conn, errors.Join(insideErr, err)
}

// Wire joins a machine's card, whose other end is conn, to the bubble, and returns
// when that is closed.
func (b *Bubble) Wire(conn net.Conn) { b.sw.port(conn) }

// Enter is the path of the namespace, for nsenter --net=PATH, while this process lives.
func (b *Bubble) Enter() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.ns.Fd()) }

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make tap device: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// configure routes the machines' addresses to the tap and takes all others, in the
// calling thread's namespace. Since those count as the bubble's own, the kernel
// answers for gateways too.
func configure(ctx context.Context, hosts []Host) error {
	lines := []string{
		"link set lo up",
		"addr add " + ownAddress + "/32 dev " + tapName,
		"link set " + tapName + " up",
		"route add local default dev lo table main",
	}
	machines, gateways := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, h := range hosts {
		for _, a := range h.Addresses {
			machines[a] = true
		}
	}
	routed := map[netip.Addr]bool{}
	for _, h := range hosts {
		for i, a := range h.Addresses {
			source := ownAddress
			if g := h.speaker(i, machines); g.IsValid() {
				source = g.String()
				if !gateways[g] {
					gateways[g] = true
					lines = append(lines, "addr add "+source+"/32 dev "+tapName)
				}
			}
			if a.Is4() && !routed[a] {
				routed[a] = true
				lines = append(lines, fmt.Sprintf("route add %s/32 dev %s src %s", a, tapName, source))
			}
		}
	}
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("configure the bubble: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// speaker is the address that the bubble speaks to address i of the host as: a machine
// answers only those it has a way back to. It is invalid where none is known.
func (h Host) speaker(i int, machines map[netip.Addr]bool) netip.Addr {
	if h.Gateway.Is4() && !machines[h.Gateway] {
		return h.Gateway
	}
	if i >= len(h.Networks) || !h.Networks[i].Addr().Is4() || h.Networks[i].Bits() > 30 {
		return netip.Addr{}
	}
	a := h.Networks[i].Masked().Addr().Next() // the first is the network's own
	for ; h.Networks[i].Contains(a.Next()); a = a.Next() {
		if !machines[a] {
			return a
		}
	}
	return netip.Addr{} // the last is for broadcasts
}

// ownAddress is the bubble's when it asks a machine. Machines reach it by their gateway;
// it is of the block that no network uses (RFC 5737).
const ownAddress = "192.0.2.1"

// proveClosed wants every way out to fail while the namespace has nothing that
// would answer in its place.
func (b *Bubble) proveClosed(ctx context.Context, outside []netip.AddrPort) error {
	for _, a := range append(outside, netip.MustParseAddrPort("198.51.100.1:53")) {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		conn, err := b.Dial(ctx, "tcp", a.String())
		cancel()
		if err == nil {
			conn.Close()
			return fmt.Errorf("%s can be reached from the bubble: it is not closed", a)
		}
		b.tried = append(b.tried, fmt.Sprintf("%s: %v", a, err))
	}
	return nil
}

// Figures tells what went on so far.
func (b *Bubble) Figures() (Figures, error) {
	f := Figures{Probes: b.tried}
	b.sw.figures(&f)
	b.names.figures(&f)
	f.Mails = b.mails.count.Load()
	err := b.Inside(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, l := range links {
			f.Interfaces = append(f.Interfaces, l.Name)
			if l.Name != tapName && l.Flags&net.FlagLoopback == 0 {
				sent, err := sentBy(l.Name)
				if err != nil {
					return err
				}
				f.Left += sent
			}
		}
		return nil
	})
	return f, err
}

// sentBy reads how many packets an interface of the calling thread's namespace sent.
func sentBy(link string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/net/dev", unix.Gettid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		name, rest, _ := strings.Cut(line, ":")
		if fields := strings.Fields(rest); strings.TrimSpace(name) == link && len(fields) > 9 {
			return strconv.ParseInt(fields[9], 10, 64)
		}
	}
	return 0, fmt.Errorf("count packets of %s: no such interface", link)
}

// Close ends the bubble. Machines should have ended before.
func (b *Bubble) Close() error {
	var errs []error
	b.once.Do(func() {
		for _, c := range b.closers {
			errs = append(errs, c())
		}
		if b.tap != nil {
			errs = append(errs, b.tap.Close())
		}
		b.sw.wait()
		b.serving.Wait()
		if b.ns != nil {
			errs = append(errs, b.ns.Close())
		}
	})
	return errors.Join(errs...)
}
