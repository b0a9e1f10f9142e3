// Package remote reaches a host with the system's ssh client and the user's own
// configuration, puts this binary there once, starts it as an agent and speaks
// with it. Nothing else is needed at the host than a POSIX shell, coreutils and a
// directory in which programs run.
package remote

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/pipe"
)

// Target says which host is meant and as whom. What it leaves empty is as the
// user's ssh configuration has it.
type Target struct {
	Name      dr.ServerName // for messages; may be empty
	Host      string        // as one would give it to ssh
	User      string
	Port      int
	SSHConfig string   // file in place of ~/.ssh/config
	ExtraArgs []string // further arguments of ssh
	Plain     bool     // stay the ssh user; otherwise root by sudo where needed
}

// label names the target in messages.
func (t Target) label() string {
	if t.Name == "" || string(t.Name) == t.Host {
		return t.Host
	}
	return fmt.Sprintf("%s (%s)", t.Name, t.Host)
}

// Options of Dial and Remove. The zero value is right for most.
type Options struct {
	Binary     *Binary        // what is installed; nil is this program. Share one among calls
	Self       *agentpb.Hello // what we say of ourselves; the agent's version must equal a Version given here
	CacheDirs  []string       // where the host may keep the agent; nil is the usual places
	Timeout    time.Duration  // for each step that has no transfer in it; 0 is a minute
	SSH        string         // the ssh program; empty finds it in PATH
	Installing func(size int) // told before size bytes are sent; may be nil
}

func (o Options) timeout() time.Duration {
	if o.Timeout == 0 {
		return time.Minute
	}
	return o.Timeout
}

// Client is a running agent and the connection to it. All methods may be called
// concurrently.
type Client struct {
	target Target
	proc   *process
	conn   *pipe.Conn
	ran    chan struct{} // closed when conn.Run has returned
	stop   context.CancelFunc
	hello  *agentpb.Hello
	rtt    time.Duration
	skew   time.Duration
	path   string
	sent   int
	once   sync.Once
	wg     sync.WaitGroup // pings
}

// Dial connects to t, installs the agent where it is missing or changed, starts it
// and makes sure that both ends are of one version. ctx bounds Dial alone; the
// client lives until Close. Errors are sentences with a hint (dr.Hinted); those
// that may pass by themselves are dr.ErrTemporary.
//
// Several Dials of one host at the same time each install the agent if none is
// there, so open the first stream before the others.
func Dial(ctx context.Context, t Target, o Options) (*Client, error) {
	c, err := dial(ctx, t, o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.label(), err)
	}
	return c, nil
}

func dial(ctx context.Context, t Target, o Options) (*Client, error) {
	if err := t.validate(); err != nil {
		return nil, err
	}
	if o.Binary == nil {
		o.Binary = &Binary{}
	}
	m := newMarker()
	script, err := o.Binary.script(m, o.CacheDirs)
	if err != nil {
		return nil, err
	}
	p, err := launch(ctx, t, o, command(m, script, !t.Plain))
	if err != nil {
		return nil, err
	}
	c := &Client{target: t, proc: p, ran: make(chan struct{})}
	b := &bootstrap{target: t, options: o, proc: p, marker: m, out: bufio.NewReaderSize(p.stdout, 64<<10)}
	if c.path, c.sent, err = b.run(ctx); err != nil {
		p.stop(0)
		return nil, err
	}
	if err := c.handshake(ctx, b, o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// launch starts ssh with the given command for t's login shell.
func launch(ctx context.Context, t Target, o Options, remote string) (*process, error) {
	ssh := o.SSH
	if ssh == "" {
		var err error
		if ssh, err = exec.LookPath("ssh"); err != nil {
			return nil, dr.WithHint(errors.New("find ssh: there is no ssh client here"),
				"install OpenSSH's client, on Debian: apt install openssh-client")
		}
	}
	args, err := arguments(ctx, ssh, t, remote)
	if err != nil {
		return nil, err
	}
	return startSSH(ssh, args)
}

// handshake starts the protocol and checks who is there.
func (c *Client) handshake(ctx context.Context, b *bootstrap, o Options) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	c.conn = pipe.New(b.out, c.proc.stdin, pipe.Options{Dialer: true})
	go func() {
		defer close(c.ran)
		_ = c.conn.Run(run) // its error stays with conn, where Explain finds it
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout(), errSilentAgent)
	defer cancel()
	if err := c.greet(ctx, o.Self); err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, ctx.Err()) {
			err = cause
		}
		return c.Explain(err)
	}
	c.wg.Go(func() { c.keepAlive(run) })
	return nil
}

var errSilentAgent = &temporary{errors.New("the agent does not answer")}

// greet exchanges hellos, then measures the clocks and the round trip.
func (c *Client) greet(ctx context.Context, self *agentpb.Hello) error {
	if self == nil {
		self = &agentpb.Hello{Protocol: agentpb.Protocol}
	}
	c.hello = &agentpb.Hello{}
	if err := c.conn.Call(ctx, "hello", self, c.hello); err != nil {
		return err
	}
	if err := agree(self, c.hello); err != nil {
		return err
	}
	// The first answer waited for the agent to start, so it measures nothing.
	sent := time.Now()
	again := &agentpb.Hello{}
	if err := c.conn.Call(ctx, "hello", self, again); err != nil {
		return err
	}
	trip := time.Since(sent)
	c.skew = time.Unix(0, again.ClockUnixNano).Sub(sent.Add(trip / 2))
	rtt, err := c.Measure(ctx, 5)
	if err != nil {
		return err
	}
	c.rtt = min(rtt, trip)
	return nil
}

// agree reports a pair of ends that would misunderstand each other.
func agree(ours, theirs *agentpb.Hello) error {
	hint := "an agent of another release answers; end it or remove its cache at the host, then try again"
	switch {
	case theirs.Protocol != ours.Protocol:
		return dr.WithHint(fmt.Errorf("the agent speaks protocol %d, we speak %d", theirs.Protocol, ours.Protocol), hint)
	case ours.Version != "" && theirs.Version != ours.Version:
		return dr.WithHint(fmt.Errorf("the agent is version %q, we are %q", theirs.Version, ours.Version), hint)
	}
	return nil
}

// Measure returns the median round trip of n pings, sent side by side.
func (c *Client) Measure(ctx context.Context, n int) (time.Duration, error) {
	times := make([]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			sent := time.Now()
			errs[i] = c.conn.Call(ctx, "ping", &agentpb.Empty{}, &agentpb.Empty{})
			times[i] = time.Since(sent)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, errs[0]
	}
	slices.Sort(times)
	return times[n/2], nil
}

const (
	pingEvery = 30 * time.Second
	deadAfter = 2 * time.Minute
)

// keepAlive pings, so that the agent knows us alive, and ends the connection when
// nothing at all has come for too long: a host that is up but stuck.
func (c *Client) keepAlive(ctx context.Context) {
	t := time.NewTicker(pingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.conn.Done():
			return
		case now := <-t.C:
			if now.Sub(c.conn.LastReceived()) > deadAfter {
				c.conn.Close()
				return
			}
			c.wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, deadAfter)
				defer cancel()
				_ = c.conn.Call(ctx, "ping", &agentpb.Empty{}, &agentpb.Empty{}) // LastReceived tells
			})
		}
	}
}

// Conn is the connection to the agent.
func (c *Client) Conn() *pipe.Conn { return c.conn }

// Hello is what the agent said of itself and its host.
func (c *Client) Hello() *agentpb.Hello { return c.hello }

// RTT is the round trip to the agent, measured when the connection was idle.
func (c *Client) RTT() time.Duration { return c.rtt }

// ClockSkew is how far the host's clock is ahead of ours, to within half a round
// trip.
func (c *Client) ClockSkew() time.Duration { return c.skew }

// AgentPath is the agent's file at the host; its directory is the only one that
// was written to there.
func (c *Client) AgentPath() string { return c.path }

// Installed is how many bytes were sent to install the agent; 0 if it was there.
func (c *Client) Installed() int { return c.sent }

// Explain says in a sentence why a call on Conn failed, with ssh's own words if the
// connection broke: then the error is dr.ErrTemporary unless ssh named a cause that
// needs a person. Errors of the agent's handlers, nil and the end of the caller's
// context come back as they are.
func (c *Client) Explain(err error) error {
	var remote *pipe.RemoteError
	if err == nil || errors.As(err, &remote) || errors.Is(err, dr.ErrTemporary) {
		return err
	}
	if !c.ended(err) {
		return err // the connection stands, so the cause is not there
	}
	if errors.Is(c.conn.Err(), pipe.ErrClosed) && time.Since(c.conn.LastReceived()) < deadAfter {
		return err // we closed it
	}
	if !c.proc.exited(2 * time.Second) {
		c.proc.signal(15)
		c.proc.exited(2 * time.Second)
	}
	return broken(c.target, c.proc.stderr.String(), c.proc.code(), err)
}

// ended reports whether the connection is over. After a failed write the reading
// side learns of it a moment later.
func (c *Client) ended(err error) bool {
	wait := time.Duration(0)
	if isBrokenPipe(err) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrUnexpectedEOF) {
		wait = 2 * time.Second
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-c.conn.Done():
		return true
	case <-t.C:
	}
	select {
	case <-c.conn.Done():
		return true
	default:
		return false
	}
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.conn.Done() }

// Close ends the agent and the connection, and returns when both are gone. It is
// safe to call again.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.conn.Close()
		c.proc.stop(3 * time.Second)
		<-c.ran
		c.stop()
		c.wg.Wait()
	})
	return nil
}

// channelWindow is how many bytes OpenSSH sends on one channel ahead of the reader.
const channelWindow = 2 << 20

// maxStreams bounds the ssh sessions to one host: sshd's MaxStartups and MaxSessions
// are 10.
const maxStreams = 8

// StreamsFor is how many ssh sessions it takes to carry bytesPerSecond over a link
// with the given round trip, one to eight.
func StreamsFor(rtt time.Duration, bytesPerSecond int64) int {
	inFlight := float64(bytesPerSecond) * rtt.Seconds()
	n := int(min(inFlight/channelWindow, maxStreams))
	if float64(n)*channelWindow < inFlight {
		n++
	}
	return max(1, min(n, maxStreams))
}
