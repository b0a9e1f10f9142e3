package bubble

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"net/smtp"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a namespace with a card, in place of a guest.
type machine struct {
	*Bubble // for its namespace alone
}

func newMachine(t *testing.T, b *Bubble, address, gateway string) *machine {
	t.Helper()
	m := &machine{&Bubble{sw: newEthernet()}}
	if err := m.unshare(); err != nil {
		t.Fatal(err)
	}
	var tap *os.File
	err := m.Inside(func() (err error) {
		if tap, err = openTap("eth0"); err != nil {
			return err
		}
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader("link set lo up\naddr add " + address + " dev eth0\nlink set eth0 up\nroute add default via " + gateway + "\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	m.sw.attachTap(tap)
	m.tap = tap
	go m.Wire(ours)
	go b.Wire(theirs)
	t.Cleanup(func() {
		ours.Close()
		m.Close()
	})
	return m
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip")
	}
}

func open(t *testing.T) *Bubble {
	t.Helper()
	needRoot(t)
	gateway := netip.MustParseAddr("10.10.0.1")
	b, err := Open(t.Context(), []Host{
		{Names: []string{"web1", "www.example.com"}, Addresses: []netip.Addr{netip.MustParseAddr("10.10.0.11")}, Gateway: gateway},
		{Names: []string{"DB1"}, Addresses: []netip.Addr{netip.MustParseAddr("10.10.0.12")}, Gateway: gateway},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// listen opens a port in m that greets.
func (m *machine) listen(t *testing.T, address string) {
	t.Helper()
	err := m.Inside(func() error {
		l, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte("hello"))
				c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func greeting(t *testing.T, b *Bubble, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := b.Dial(ctx, "tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var got bytes.Buffer
	got.ReadFrom(c)
	return got.String()
}

func TestMachinesReachEachOtherAndTheBubbleThem(t *testing.T) {
	b := open(t)
	web, db := newMachine(t, b, "10.10.0.11/24", "10.10.0.1"), newMachine(t, b, "10.10.0.12/24", "10.10.0.1")
	db.listen(t, ":5432")
	if got := greeting(t, web.Bubble, "10.10.0.12:5432"); got != "hello" {
		t.Errorf("from machine to machine: %q", got)
	}
	if got := greeting(t, b, "10.10.0.12:5432"); got != "hello" {
		t.Errorf("from the bubble: %q", got)
	}
	f, err := b.Figures()
	if err != nil {
		t.Fatal(err)
	}
	if f.Left != 0 || f.Between == 0 || f.Frames < f.Between || len(f.Probes) == 0 {
		t.Errorf("figures %+v", f)
	}
}

func TestAllOtherAddressesAreTheBubbles(t *testing.T) {
	b := open(t)
	web := newMachine(t, b, "10.10.0.11/24", "10.10.0.1")
	// A name server on its own subnet, and one beyond the gateway.
	for _, server := range []string{"10.10.0.53:53", "203.0.113.53:53"} {
		for name, want := range map[string]string{"db1": "10.10.0.12", "DB1.corp.example": "10.10.0.12", "www.example.com": "10.10.0.11", "other.example": ""} {
			got := web.lookup(t, server, name)
			if got != want {
				t.Errorf("%s is %q at %s, want %q", name, got, server, want)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for _, address := range []string{"10.10.0.1:22", "10.10.0.77:80", "203.0.113.80:443"} {
		if c, err := web.Dial(ctx, "tcp4", address); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %v, %v; want it refused", address, c, err)
		}
	}
	c, err := web.Dial(ctx, "tcp4", "203.0.113.25:25")
	if err != nil {
		t.Fatal(err)
	}
	mail, err := smtp.NewClient(c, "mx.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(mail.Mail("a@example.com"), mail.Rcpt("b@example.com")); err != nil {
		t.Fatal(err)
	}
	w, err := mail.Data()
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("Subject: x\r\n\r\nQUIT\r\n.\r\n"))
	if err := errors.Join(w.Close(), mail.Quit()); err != nil {
		t.Fatal(err)
	}
	if f, err := b.Figures(); err != nil || f.Mails != 1 || f.Names != 6 || f.Unknown != 2 || f.Left != 0 {
		t.Errorf("figures %+v, %v", f, err)
	}
}

// lookup asks a server over UDP and returns the address, or "" for none.
func (m *machine) lookup(t *testing.T, server, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	c, err := m.Dial(ctx, "udp4", server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(query(name, typeA)); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 512)
	n, err := c.Read(reply)
	if err != nil {
		t.Fatalf("ask %s for %s: %v", server, name, err)
	}
	reply = reply[:n]
	if reply[3]&0xf == notFound {
		return ""
	}
	a, _ := netip.AddrFromSlice(reply[n-4:])
	return a.String()
}

func query(name string, kind uint16) []byte {
	b := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(binary.BigEndian.AppendUint16(append(b, 0), kind), 0, classIN)
}

func TestOpenRefusesABubbleWithAWayOut(t *testing.T) {
	needRoot(t)
	b := &Bubble{sw: newEthernet(), mails: &mailSink{}, names: newNameService(nil)}
	if err := b.unshare(); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	err := b.Inside(func() error {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{b}
	m.listen(t, "127.0.0.1:7001")
	if err := b.proveClosed(t.Context(), []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:7001")}); err == nil {
		t.Error("what can be reached was not found")
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(query("db1.example.com", typeA))
	f.Add(query("x", 28))
	s := newNameService([]Host{{Names: []string{"db1"}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}})
	f.Fuzz(func(t *testing.T, message []byte) {
		if reply, err := s.answer(message); err == nil && (len(reply) < dnsHeader || reply[0] != message[0] || reply[2]&0x80 == 0) {
			t.Errorf("%x is no reply to %x", reply, message)
		}
	})
}

func FuzzReadFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 2, 1, 2, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := newEthernet()
		readFrames(bytes.NewReader(b), func(frame []byte) { e.take(&wire{}, frame) })
	})
}

func TestSpeakerIsOneTheMachineCanAnswer(t *testing.T) {
	addr, machines := netip.MustParseAddr, map[netip.Addr]bool{}
	for _, a := range []string{"10.10.0.1", "10.10.0.2", "10.10.0.11", "10.20.0.1", "10.20.0.2"} {
		machines[addr(a)] = true
	}
	networks := []netip.Prefix{netip.MustParsePrefix("10.10.0.11/24"), netip.MustParsePrefix("10.20.0.1/30"), netip.MustParsePrefix("10.30.0.1/32")}
	h := Host{Addresses: []netip.Addr{addr("10.10.0.11"), addr("10.20.0.1"), addr("10.30.0.1"), addr("10.40.0.1")}, Networks: networks}
	for i, want := range []string{"10.10.0.3", "invalid IP", "invalid IP", "invalid IP"} {
		if got := h.speaker(i, machines); got.String() != want {
			t.Errorf("to %s as %s, want %s", h.Addresses[i], got, want)
		}
	}
	h.Gateway = addr("10.10.0.254")
	if got := h.speaker(0, machines); got != h.Gateway {
		t.Errorf("with a gateway: as %s", got)
	}
	h.Gateway = addr("10.10.0.1") // a drilled machine is the gateway
	if got := h.speaker(0, machines); got != addr("10.10.0.3") {
		t.Errorf("with a machine for a gateway: as %s", got)
	}
}
