package protect

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/pipe"
	"github.com/leeward-dr/leeward/internal/remote"
	"github.com/leeward-dr/leeward/internal/tree"
)

// source is a protected server that has been reached.
type source struct {
	server  *config.Server
	client  *remote.Client
	further []*remote.Client
	facts   *agentpb.Facts
	opened  map[string]*agentpb.OpenedFilesystem
	exclude map[string][]string // by mount point, as opened
	live    map[string]string   // why filesystems are to be shown live, by mount point
}

// reach connects to a server, sets its limits and asks for the facts.
func reach(ctx context.Context, s *config.Server, bin *remote.Binary) (_ *source, err error) {
	client, err := dial(ctx, s, bin)
	if err != nil {
		return nil, err
	}
	src := &source{server: s, client: client}
	defer func() {
		if err != nil {
			src.close()
		}
	}()
	src.facts = &agentpb.Facts{}
	if err := src.call(ctx, "facts", &agentpb.Empty{}, src.facts); err != nil {
		return nil, err
	}
	return src, nil
}

func dial(ctx context.Context, s *config.Server, bin *remote.Binary) (*remote.Client, error) {
	client, err := remote.Dial(ctx, TargetOf(s), remote.Options{Binary: bin, Self: agent.Self()})
	if err != nil {
		return nil, err
	}
	if err := limit(ctx, client, s.Limits, 1); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return client, nil
}

// TargetOf is how a server is reached.
func TargetOf(s *config.Server) remote.Target { return SSHTarget(s.Name, s.Host, s.SSH) }

// SSHTarget is how a host is reached that is called name, which may be empty.
func SSHTarget(name dr.ServerName, host string, s config.SSH) remote.Target {
	return remote.Target{Name: name, Host: host, User: s.User, Port: s.Port, SSHConfig: s.Config,
		ExtraArgs: s.Arguments(host), Plain: s.Sudo == config.SudoNever}
}

// limit holds one of n connections to its share of the server's limits.
func limit(ctx context.Context, c *remote.Client, l config.Limits, n int) error {
	share := &agentpb.Limits{WireBytesPerSecond: uint64(l.Bandwidth) / uint64(n), DiskBytesPerSecond: uint64(l.Disk) / uint64(n),
		Nice: int32(l.Nice), Cores: l.Cores / float64(n)}
	if err := c.Conn().Call(ctx, "limits", share, &agentpb.Empty{}); err != nil {
		return c.Explain(err)
	}
	return nil
}

// explain turns an error of one of the connections into a sentence, and a lost
// connection into a temporary error: nobody here closes one in the middle.
func (s *source) explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	for _, c := range append([]*remote.Client{s.client}, s.further...) {
		if told := c.Explain(err); errors.Is(told, dr.ErrTemporary) {
			return told
		}
	}
	if errors.Is(err, pipe.ErrClosed) {
		return fmt.Errorf("%w: the connection to %s was lost: %w", dr.ErrTemporary, s.server.Name, err)
	}
	return err
}

func (s *source) call(ctx context.Context, method string, req, resp proto.Message) error {
	if err := s.client.Conn().Call(ctx, method, req, resp); err != nil {
		return s.client.Explain(err)
	}
	return nil
}

func (s *source) close() {
	for _, c := range append(s.further, s.client) {
		c.Close() // the session is given up either way
	}
}

// wire returns the bytes that crossed the connections so far, the agent's own
// installation included.
func (s *source) wire() (in, out int64) {
	for _, c := range append([]*remote.Client{s.client}, s.further...) {
		i, o := c.Conn().Counters()
		in, out = in+i, out+o+int64(c.Installed())
	}
	return in, out
}

func (s *source) conns() []*pipe.Conn {
	out := []*pipe.Conn{s.client.Conn()}
	for _, c := range s.further {
		out = append(out, c.Conn())
	}
	return out
}

const (
	// assumedRate is what a link between two sites is taken to carry where nobody
	// has said, in bytes per second: one ssh connection carries that over up to
	// 60 ms.
	assumedRate = 32 << 20
	// maxAutoStreams bounds the connections nobody has asked for: each costs the
	// source a process, and a slow source answers late for want of processor.
	maxAutoStreams = 3
)

// widen opens further connections where one cannot fill the link and there is much
// to carry.
func (s *source) widen(ctx context.Context, bin *remote.Binary, first bool) error {
	n := s.server.SSH.Streams
	if n == 0 && first {
		rate := int64(s.server.Limits.Bandwidth)
		if rate == 0 {
			rate = assumedRate
		}
		n = min(remote.StreamsFor(s.client.RTT(), rate), maxAutoStreams)
	}
	for len(s.further)+1 < n {
		c, err := dial(ctx, s.server, bin)
		if err != nil {
			return err
		}
		s.further = append(s.further, c)
	}
	if n > 1 {
		for _, c := range append(slices.Clone(s.further), s.client) {
			if err := limit(ctx, c, s.server.Limits, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// patterns returns what is left out of each filesystem.
func (s *source) patterns(more []string) []string {
	var out []string
	for _, p := range tree.DefaultExcludes {
		if !slices.Contains(s.server.IncludeExcluded, p) {
			out = append(out, p)
		}
	}
	if own := path.Dir(s.client.AgentPath()) + "/**"; !slices.Contains(out, own) {
		out = append(out, own)
	}
	for _, sw := range s.facts.Swaps {
		if sw.File {
			out = append(out, sw.Path)
		}
	}
	return append(append(out, s.server.Exclude...), more...)
}

// open has the agent show all filesystems, with the given patterns left out
// beside the usual ones.
func (s *source) open(ctx context.Context, more []string) error {
	req := s.openRequest(more)
	s.opened = map[string]*agentpb.OpenedFilesystem{}
	for i, conn := range s.conns() {
		var reply agentpb.OpenReply
		req.Snapshot = i == 0 // further connections read the first one's snapshots, or live
		if err := conn.Call(ctx, "tree.open", req, &reply); err != nil {
			return s.client.Explain(err)
		}
		if i > 0 {
			continue
		}
		for _, o := range reply.Filesystems {
			if o.Error != "" {
				return fmt.Errorf("open filesystem %s of %s: %s", o.MountPoint, s.server.Name, o.Error)
			}
			s.opened[o.MountPoint] = o
		}
	}
	for _, f := range s.facts.Filesystems {
		if s.opened[f.MountPoint] == nil {
			return fmt.Errorf("open filesystem %s of %s: the agent did not answer", f.MountPoint, s.server.Name)
		}
	}
	return nil
}

// openRequest asks for all filesystems, with the given patterns left out beside the
// usual ones, live.
func (s *source) openRequest(more []string) *agentpb.OpenRequest {
	patterns := s.patterns(more)
	req := &agentpb.OpenRequest{}
	s.exclude = map[string][]string{}
	for _, f := range s.facts.Filesystems {
		var shown []tree.Shown
		for _, m := range f.Mounts {
			shown = append(shown, tree.Shown{MountPoint: m.MountPoint, Root: m.Root})
		}
		if len(shown) == 0 {
			shown = []tree.Shown{{MountPoint: f.MountPoint, Root: "/"}}
		}
		ex := tree.ForFilesystem(shown, patterns)
		for _, path := range s.keptSnapshots(f) {
			ex = append(ex, tree.Literal(path))
		}
		s.exclude[f.MountPoint] = ex
		req.Filesystems = append(req.Filesystems, &agentpb.OpenFilesystem{MountPoint: f.MountPoint, Excludes: ex, Live: s.live[f.MountPoint]})
	}
	return req
}

// filesystem returns what the facts tell of a filesystem, an empty one if they do
// not know it.
func (s *source) filesystem(mountPoint string) *agentpb.Filesystem {
	for _, f := range s.facts.Filesystems {
		if f.MountPoint == mountPoint {
			return f
		}
	}
	return &agentpb.Filesystem{MountPoint: mountPoint}
}

// usable returns the connections that may read a filesystem: where it is shown as
// a snapshot, the one that holds it.
func (s *source) usable(mountPoint string) []*pipe.Conn {
	if s.opened[mountPoint].Consistency != string(dr.Fuzzy) {
		return s.conns()[:1]
	}
	return s.conns()
}

// clockSkewMatters is from when a difference of clocks is worth telling.
const clockSkewMatters = 2 * time.Second

// warnings says what of the source a person should know.
func (s *source) warnings() []string {
	out := slices.Clone(s.facts.Warnings)
	if skew := s.client.ClockSkew(); skew.Abs() > clockSkewMatters {
		out = append(out, fmt.Sprintf("its clock is %v off this one's: times in its files and logs will differ from those here", skew.Round(time.Second)))
	}
	return out
}
