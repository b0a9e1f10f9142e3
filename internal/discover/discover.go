// Package discover finds out what an estate is: it has the agents look at their hosts,
// joins what they found into a graph of who depends on whom, proposes a leeward.yaml,
// tells what changed since the last look, and what of it would stand in the way of a move.
package discover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/pipe"
	"github.com/leeward-dr/leeward/internal/remote"
)

// Target is a host to look at.
type Target struct {
	Name   string // in leeward.yaml; empty: the host tells its own
	Reach  remote.Target
	Limits *agentpb.Limits // nil: half a core, nice 10
}

// Options of Look.
type Options struct {
	Estate  string
	Version string // of this program
	Watch   time.Duration
	Also    []string // host names and addresses to look for beside those of the targets
	// Progress is told what each target is at, concurrently; it may be nil.
	Progress func(i int, phase string)
}

// patience is how long a host may take beyond the time it is watched.
const patience = 3 * time.Minute

// Look looks at all targets at once. A host that cannot be looked at has an entry that
// says why; the only error is ctx's.
func Look(ctx context.Context, targets []Target, o Options) (*inventory.Estate, error) {
	e := &inventory.Estate{Version: inventory.Version, Estate: o.Estate, At: time.Now().UTC(), Leeward: o.Version,
		Entries: make([]inventory.Entry, len(targets))}
	clients := make([]*remote.Client, len(targets))
	defer func() {
		for _, c := range clients {
			if c != nil {
				c.Close() // what it was for is had, or given up
			}
		}
	}()
	bin := &remote.Binary{}
	each(targets, func(i int) {
		e.Entries[i] = inventory.Entry{Name: targets[i].Name, Host: targets[i].Reach.Host, User: targets[i].Reach.User}
		clients[i] = lookAt(ctx, targets[i], &e.Entries[i], bin, o, i)
	})
	nameAll(e)
	words := append(Words(e), o.Also...)
	each(targets, func(i int) {
		if clients[i] != nil {
			o.tell(i, "reading configuration")
			mentions(ctx, clients[i], e.Entries[i].Server, words)
			o.tell(i, "")
		}
	})
	return e, ctx.Err()
}

func each(targets []Target, f func(i int)) {
	var wg sync.WaitGroup
	for i := range targets {
		wg.Go(func() { f(i) })
	}
	wg.Wait()
}

func (o Options) tell(i int, phase string) {
	if o.Progress != nil {
		o.Progress(i, phase)
	}
}

// lookAt connects to one host and has it looked at. It returns nil where that failed, with
// the reason in the entry.
func lookAt(ctx context.Context, t Target, e *inventory.Entry, bin *remote.Binary, o Options, i int) *remote.Client {
	o.tell(i, "connecting")
	client, err := remote.Dial(ctx, t.Reach, remote.Options{Binary: bin, Self: agent.Self()})
	if err == nil {
		o.tell(i, "looking")
		err = ask(ctx, client, t.Limits, e, o.Watch)
	}
	if err == nil {
		return client
	}
	e.Err = err.Error()
	var hinted *dr.Hinted
	if errors.As(err, &hinted) {
		e.Hint = hinted.Hint
	}
	o.tell(i, "")
	if client != nil {
		client.Close() // of no use any more
	}
	return nil
}

func ask(ctx context.Context, c *remote.Client, l *agentpb.Limits, e *inventory.Entry, watch time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, watch+patience, fmt.Errorf("the host did not answer within %v", watch+patience))
	defer cancel()
	if l == nil {
		l = &agentpb.Limits{Nice: 10, Cores: 0.5}
	}
	if err := c.Conn().Call(ctx, "limits", l, &agentpb.Empty{}); err != nil {
		return c.Explain(err)
	}
	inv := &inventory.Server{}
	if err := fetch(ctx, c.Conn(), "discover.look", &agentpb.LookRequest{WatchNano: int64(watch)}, inv); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return c.Explain(err)
	}
	if inv.Version != inventory.Version {
		return fmt.Errorf("its inventory has form %d, this Leeward knows %d", inv.Version, inventory.Version)
	}
	e.Server = inv
	return nil
}

// Ask has a host looked at over a connection that is there, words included; its limits are
// the connection's.
func Ask(ctx context.Context, c *remote.Client, watch time.Duration, words []string) (*inventory.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, watch+patience)
	defer cancel()
	inv := &inventory.Server{}
	if err := fetch(ctx, c.Conn(), "discover.look", &agentpb.LookRequest{WatchNano: int64(watch)}, inv); err != nil {
		return nil, c.Explain(err)
	}
	mentions(ctx, c, inv, words)
	return inv, nil
}

// maxAnswer bounds what a host may say of itself.
const maxAnswer = 128 << 20

// fetch makes a call that is answered by JSON in parts.
func fetch(ctx context.Context, conn *pipe.Conn, method string, req proto.Message, into any) error {
	s, err := conn.Open(ctx, method)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Send(req); err != nil {
		return err
	}
	var b []byte
	for {
		var part agentpb.LookReply
		err := s.Recv(&part)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if b = append(b, part.Json...); len(b) > maxAnswer {
			return fmt.Errorf("the host says more than %d MiB of itself", maxAnswer>>20)
		}
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("read what the host says of itself: %w", err)
	}
	return nil
}

// mentions adds where a host's configuration names others; a failure becomes something
// unknown.
func mentions(ctx context.Context, c *remote.Client, s *inventory.Server, words []string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := fetch(ctx, c.Conn(), "discover.mentions", &agentpb.MentionsRequest{Words: words}, &s.Mentions); err != nil {
		s.Unknown = append(s.Unknown, inventory.Unknown{What: "addresses in configuration files", Why: c.Explain(err).Error()})
	}
}

// Words are the names and addresses by which servers of the estate may name each other.
func Words(e *inventory.Estate) (out []string) {
	for _, x := range e.Entries {
		out = append(out, x.Name, x.Host)
		if x.Server == nil {
			continue
		}
		if h := x.Server.System.Hostname; h != "" && h != "localhost" {
			out = append(out, h)
			if d := x.Server.System.Domain; d != "" && !strings.Contains(h, ".") {
				out = append(out, h+"."+d)
			}
		}
		for _, a := range addresses(x.Server) {
			out = append(out, a.String())
		}
	}
	slices.Sort(out)
	return slices.DeleteFunc(slices.Compact(out), func(s string) bool { return len(s) < 3 })
}

// addresses are those by which others can reach a server: not loopback, not link-local,
// not those of bridges that containers have.
func addresses(s *inventory.Server) (out []netip.Addr) {
	for _, i := range s.Network.Interfaces {
		for _, a := range i.Addresses {
			p, err := netip.ParsePrefix(a)
			if err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
				continue
			}
			if i.Virtual && (strings.HasPrefix(i.Name, "docker") || strings.HasPrefix(i.Name, "br-") || strings.HasPrefix(i.Name, "virbr") || strings.HasPrefix(i.Name, "cni") || strings.HasPrefix(i.Name, "podman")) {
				continue
			}
			out = append(out, p.Addr())
		}
	}
	return out
}

// nameAll gives entries without a name one: what their hosts call themselves, made fit for
// leeward.yaml, and unlike all others.
func nameAll(e *inventory.Estate) {
	taken := map[string]bool{}
	for _, x := range e.Entries {
		taken[x.Name] = true
	}
	for i := range e.Entries {
		x := &e.Entries[i]
		if x.Name != "" {
			continue
		}
		host := x.Host
		if x.Server != nil && x.Server.System.Hostname != "" && x.Server.System.Hostname != "localhost" {
			host, _, _ = strings.Cut(x.Server.System.Hostname, ".")
		}
		base := fitName(host)
		for n := 1; x.Name == ""; n++ {
			name := base
			if n > 1 {
				name = fmt.Sprintf("%.58s-%d", base, n)
			}
			if !taken[name] {
				x.Name, taken[name] = name, true
			}
		}
	}
}

// fitName turns a host's name into one that leeward.yaml takes.
func fitName(host string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '.', r == '-', r == '_':
			return r
		case 'A' <= r && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, host)
	s = strings.Trim(s[:min(63, len(s))], ".-_")
	if !dr.ValidName(s) {
		return "server"
	}
	return s
}
