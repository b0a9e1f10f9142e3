package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"strings"
	"sync"

	"github.com/leeward-dr/leeward/internal/agent"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/remote"
)

// home is the Home of an estate: Leeward on a host at the source, started over ssh, with
// an estate in which the sites have changed places.
type home struct {
	estate *config.Estate

	mu      sync.Mutex // guards what follows; steps for several servers run at once
	program string     // where Leeward lies there; "" until it was put there
}

// homeFile is the configuration on the failback host.
func homeFile(f *config.Failback) string { return path.Join(f.Store, "leeward-home.yaml") }

// sourceAddress is the address of a server at the source.
func sourceAddress(s *config.Server) (netip.Addr, error) {
	if a, err := netip.ParseAddr(s.Host); err == nil {
		return a, nil
	}
	found, err := net.LookupHost(s.Host)
	if err != nil || len(found) == 0 {
		return netip.Addr{}, fmt.Errorf("find the address of %s: %w", s.Name, err)
	}
	return netip.ParseAddr(found[0])
}

// reversed is the estate of the named servers with its sites changed.
func reversed(e *config.Estate, names ...string) (*config.Estate, error) {
	addresses := map[dr.ServerName]netip.Addr{}
	for _, name := range names {
		s := e.Server(dr.ServerName(name))
		if s == nil {
			return nil, fmt.Errorf("server %s: the configuration has none of that name now", name)
		}
		a, err := sourceAddress(s)
		if err != nil && len(e.Target.Network) > 0 {
			return nil, hinted("give it an address as host:", "%w", err)
		}
		addresses[s.Name] = a
	}
	return e.Reversed(addresses), nil
}

func (h *home) host() (*config.Failback, remote.Target) {
	f := h.estate.Switchover.Failback
	t := protect.SSHTarget("", f.Host, f.SSH)
	t.Plain = false // machines are for root alone
	return f, t
}

// put makes sure that this program is on the host, and tells where.
func (h *home) put(ctx context.Context) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.program != "" {
		return h.program, nil
	}
	_, t := h.host()
	c, err := remote.Dial(ctx, t, remote.Options{Binary: &remote.Binary{}, Self: agent.Self()})
	if err != nil {
		return "", err
	}
	h.program = c.AgentPath()
	return h.program, c.Close()
}

// answer is the result object of a command of Leeward's there.
type answer struct {
	Outcome string          `json:"outcome"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Text string `json:"text"`
		Hint string `json:"hint"`
	} `json:"error"`
}

// mostSaid bounds what a command there may print.
const mostSaid = 32 << 20

// run has Leeward there do a command, and fills in what it answers.
func (h *home) run(ctx context.Context, result any, args ...string) (answer, error) {
	f, t := h.host()
	program, err := h.put(ctx)
	if err != nil {
		return answer{}, err
	}
	words := []string{quote(program)}
	for _, a := range append(args, "-c", homeFile(f), "--json") {
		words = append(words, quote(a))
	}
	out := &capped{most: mostSaid}
	runErr := remote.Stream(ctx, t, remote.Options{}, strings.Join(words, " "), nil, out)
	var a answer
	line := out.b.Bytes()
	line = bytes.TrimSpace(line)
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	if err := json.Unmarshal(line, &a); err != nil {
		return a, fmt.Errorf("read the answer of leeward %s on %s: %w", args[0], f.Host, errors.Join(runErr, err))
	}
	if a.Error != nil {
		return a, dr.WithHint(fmt.Errorf("leeward %s on %s: %s", args[0], f.Host, a.Error.Text), a.Error.Hint)
	}
	if result != nil {
		if err := json.Unmarshal(a.Result, result); err != nil {
			return a, fmt.Errorf("read the answer of leeward %s on %s: %w", args[0], f.Host, err)
		}
	}
	return a, nil
}

// capped keeps what is written to it and refuses more than most bytes.
type capped struct {
	b    bytes.Buffer
	most int
}

func (c *capped) Write(p []byte) (int, error) {
	if c.b.Len()+len(p) > c.most {
		return 0, fmt.Errorf("it says more than %d bytes", c.most)
	}
	return c.b.Write(p)
}

// Ready implements Machines. Memory is looked at where the servers were replicated before:
// only then is it known how much they take.
func (h *home) Ready(ctx context.Context, servers []string) ([]string, error) {
	f, t := h.host()
	e, err := reversed(h.estate, servers...)
	if err != nil {
		return nil, err
	}
	text, err := f.Text(e)
	if err != nil {
		return nil, err
	}
	program, err := h.put(ctx)
	if err != nil {
		return nil, err
	}
	file := homeFile(f)
	line := fmt.Sprintf("umask 077; mkdir -p %[1]s && cat > %[2]s.new && mv -f %[2]s.new %[2]s", quote(f.Store), quote(file))
	if err := remote.Stream(ctx, t, remote.Options{}, line, bytes.NewReader(text), io.Discard); err != nil {
		return nil, err
	}
	var plan struct{ Servers []protect.ServerPlan }
	if _, err := h.run(ctx, &plan, "plan"); err != nil {
		return nil, err
	}
	facts := []string{fmt.Sprintf("%s is there, and %s", program, file)}
	for _, s := range plan.Servers {
		if s.Err != "" {
			return facts, hinted("see reach: under switchover: failback:", "%s does not reach %s: %s", f.Host, s.Server, s.Err)
		}
		for _, x := range s.Findings {
			if x.Level == protect.Blocker {
				return facts, hinted(x.Hint, "%s: %s", s.Server, x.Text)
			}
		}
	}
	var m MachineAnswer
	_, err = h.run(ctx, &m, append([]string{"machine", "ready"}, servers...)...)
	return append(facts, m.Facts...), err
}

// Pass implements Machines.
func (h *home) Pass(ctx context.Context, name string) (dr.PointID, []string, error) {
	var res protect.RunResult
	if _, err := h.run(ctx, &res, "replicate", name); err != nil {
		return "", nil, err
	}
	return passed(name, &res)
}

// Drill implements Home.
func (h *home) Drill(ctx context.Context, servers []string) (facts []string, err error) {
	var res struct{ Servers []drill.Result }
	if _, err := h.run(ctx, &res, append([]string{"drill"}, servers...)...); err != nil {
		return nil, err
	}
	var bad []string
	for _, s := range res.Servers {
		if s.Outcome == dr.Done {
			facts = append(facts, string(s.Server)+" is proven")
		} else {
			bad = append(bad, fmt.Sprintf("%s: %s: %s", s.Server, s.Outcome, s.Cause))
		}
	}
	if len(bad) > 0 || len(facts) == 0 {
		return facts, hinted("mend it and resume; or take it as it is: leeward failback resume --step drill --is done", "not proven at %s: %s", h.estate.Source.Name, strings.Join(bad, "; "))
	}
	return facts, nil
}

// machine has the machine command there do something.
func (h *home) machine(ctx context.Context, verb, name string, more ...string) (m MachineAnswer, err error) {
	_, err = h.run(ctx, &m, append([]string{"machine", verb, name}, more...)...)
	return m, err
}

// MachineAnswer is the result of the machine command.
type MachineAnswer struct {
	Running bool     `json:"running"`
	Facts   []string `json:"facts,omitempty"`
}

// Boot implements Machines.
func (h *home) Boot(ctx context.Context, name string, point dr.PointID) ([]string, error) {
	m, err := h.machine(ctx, "boot", name, "--point", string(point))
	return m.Facts, err
}

// Start implements Machines.
func (h *home) Start(ctx context.Context, name string) ([]string, error) {
	m, err := h.machine(ctx, "start", name)
	return m.Facts, err
}

// Probe implements Machines.
func (h *home) Probe(ctx context.Context, name string) ([]string, error) {
	m, err := h.machine(ctx, "probe", name)
	return m.Facts, err
}

// Running implements Machines.
func (h *home) Running(ctx context.Context, name string) (bool, error) {
	m, err := h.machine(ctx, "running", name)
	return m.Running, err
}

// Halt implements Machines.
func (h *home) Halt(ctx context.Context, name string) ([]string, error) {
	m, err := h.machine(ctx, "halt", name)
	return m.Facts, err
}

// PutAway implements Machines.
func (h *home) PutAway(ctx context.Context, name string) ([]string, error) {
	m, err := h.machine(ctx, "put-away", name)
	return m.Facts, err
}

// away is the Quiescer of an estate while its servers run at the target: the same systems
// under the addresses they have there.
type away struct{ estate *config.Estate }

func (a *away) servers(name string) (*Servers, error) {
	var names []string
	for _, s := range a.estate.Servers {
		if _, err := sourceAddress(&s); err == nil || string(s.Name) == name {
			names = append(names, string(s.Name))
		}
	}
	e, err := reversed(a.estate, names...)
	if err != nil {
		return nil, err
	}
	return &Servers{Estate: e, Shell: &Shells{Estate: e}}, nil
}

// Quiesce implements Quiescer.
func (a *away) Quiesce(ctx context.Context, name string, still bool) ([]string, error) {
	s, err := a.servers(name)
	if err != nil {
		return nil, err
	}
	return s.Quiesce(ctx, name, still)
}
