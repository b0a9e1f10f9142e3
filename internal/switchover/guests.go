package switchover

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/retry"
	"github.com/leeward-dr/leeward/internal/runbook"
	"github.com/leeward-dr/leeward/internal/vm"
)

// Guests are the Machines of an estate: QEMU on this host. A machine lives in
// machines/NAME of the store and outlives Leeward.
type Guests struct {
	estate *config.Estate
	store  string
	shell  runbook.Local
}

// NewGuests are the guests of an estate. store is where the data of its store is.
func NewGuests(e *config.Estate, store string) *Guests { return &Guests{estate: e, store: store} }

const (
	machinesDir = "machines"
	machineFile = "machine.json"
	imageDir    = "image"
	// machineFormat is the version of machineFile.
	machineFormat = 1
	stopGrace     = 3 * time.Minute
	mostMemory    = 4 << 30
	leastMemory   = 512 << 20
)

// machineNote is written once a machine's disk is ready to be started, and again never.
type machineNote struct {
	Format   int         `json:"format"`
	Server   string      `json:"server"`
	Point    dr.PointID  `json:"point"`
	Made     time.Time   `json:"made"`
	Firmware vm.Firmware `json:"firmware"`
	Memory   int64       `json:"memory"`
	Cards    []vm.NIC    `json:"cards"`
	Changes  int         `json:"changes"` // made to its disk so that it boots here
}

func (g *Guests) lasting(name string) vm.Lasting {
	return vm.Lasting{Dir: filepath.Join(g.store, machinesDir, name)}
}

// Running implements Machines.
func (g *Guests) Running(ctx context.Context, name string) (bool, error) {
	if m := g.commands(name); m != nil {
		return g.runs(ctx, name, m)
	}
	pid, err := g.lasting(name).PID()
	return pid != 0, err
}

// Pass implements Machines.
func (g *Guests) Pass(ctx context.Context, name string) (dr.PointID, []string, error) {
	res, err := protect.Replicate(ctx, protect.Options{Estate: g.estate, Names: []dr.ServerName{dr.ServerName(name)}})
	if err != nil {
		return "", nil, err
	}
	return passed(name, res)
}

// passed is what came of the pass of one server.
func passed(name string, res *protect.RunResult) (dr.PointID, []string, error) {
	if len(res.Servers) != 1 {
		return "", nil, fmt.Errorf("replicate %s: there are %d results", name, len(res.Servers))
	}
	s := res.Servers[0]
	if s.Outcome != dr.Done {
		return "", nil, dr.WithHint(errors.New(s.Err), s.Hint)
	}
	return s.Point, []string{fmt.Sprintf("%d bytes crossed the wire", s.Traffic.WireIn)}, nil
}

// Boot implements Machines. A disk that was made ready is not made again: the machine
// may have run, and what it wrote is production.
func (g *Guests) Boot(ctx context.Context, name string, point dr.PointID) ([]string, error) {
	if running, err := g.Running(ctx, name); err != nil || running {
		return []string{"it runs already"}, err
	}
	note, err := g.readNote(name)
	if err != nil {
		return nil, err
	}
	if note == nil {
		if note, err = g.prepare(ctx, name, point); err != nil {
			return nil, err
		}
	}
	return g.launch(ctx, name, note)
}

// Start implements Machines.
func (g *Guests) Start(ctx context.Context, name string) ([]string, error) {
	if running, err := g.Running(ctx, name); err != nil || running {
		return []string{"it runs already"}, err
	}
	note, err := g.readNote(name)
	if err == nil && note == nil {
		err = fmt.Errorf("start %s: there is no machine of that name in %s", name, filepath.Join(g.store, machinesDir))
	}
	if err != nil {
		return nil, err
	}
	return g.launch(ctx, name, note)
}

func (g *Guests) launch(ctx context.Context, name string, note *machineNote) ([]string, error) {
	if m := g.commands(name); m != nil {
		return g.startBy(ctx, name, m, note)
	}
	taps, err := g.taps(ctx, name, note.Cards)
	if err != nil {
		return nil, err
	}
	l := g.lasting(name)
	accel, why := vm.Accelerator(ctx, vm.Accel(g.estate.Target.Accelerator), "", l.Dir)
	spec := vm.Spec{Name: name, Disk: g.disk(name), Firmware: note.Firmware, Memory: note.Memory, Accel: accel}
	if err := l.Launch(ctx, spec, taps); err != nil {
		return nil, err
	}
	pid, err := l.PID()
	facts := []string{fmt.Sprintf("process %d runs it from recovery point %s, in %s", pid, note.Point, l.Dir)}
	if why != "" {
		facts = append(facts, why)
	}
	return facts, err
}

func (g *Guests) readNote(name string) (*machineNote, error) {
	b, err := os.ReadFile(filepath.Join(g.lasting(name).Dir, machineFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what machine %s is: %w", name, err)
	}
	n := &machineNote{}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, fmt.Errorf("read what machine %s is: %w", name, err)
	}
	if n.Format != machineFormat {
		return nil, fmt.Errorf("read what machine %s is: it is of format %d, this version knows %d", name, n.Format, machineFormat)
	}
	return n, nil
}

// prepare clones a point and makes it boot here.
func (g *Guests) prepare(ctx context.Context, name string, point dr.PointID) (*machineNote, error) {
	p, err := g.point(ctx, name, point)
	if err != nil {
		return nil, err
	}
	facts, err := p.Facts()
	if err != nil {
		return nil, err
	}
	dir := g.lasting(name).Dir
	// What an attempt left that was cut before its note is no machine yet.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("make machine %s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make machine %s: %w", name, err)
	}
	img, err := p.Clone(ctx, filepath.Join(dir, imageDir))
	if err != nil {
		return nil, err
	}
	n := &machineNote{Format: machineFormat, Server: name, Point: p.ID, Made: time.Now().UTC(), Firmware: vm.BIOS,
		Memory: memoryOf(facts)}
	if facts.GetUefi() {
		n.Firmware = vm.UEFI
	}
	for _, c := range adapt.Cards(facts) {
		n.Cards = append(n.Cards, vm.NIC{Name: c.GetName(), MAC: c.GetMac()})
	}
	if n.Changes, err = g.adapt(ctx, img, facts, n, dir); err != nil {
		return nil, fmt.Errorf("make machine %s boot here: %w", name, err)
	}
	b, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return nil, err
	}
	return n, atomicfile.Write(filepath.Join(dir, machineFile), append(b, '\n'), 0o600)
}

func (g *Guests) point(ctx context.Context, name string, want dr.PointID) (*replica.Point, error) {
	s, err := replica.Open(ctx, g.estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	r, err := s.Replica(dr.ServerName(name))
	if err != nil {
		return nil, err
	}
	points, err := r.Points()
	for _, p := range points {
		if want == "" || p.ID == want {
			return p, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("boot %s: it has no recovery point %s", name, want)
	}
	return nil, err
}

func (g *Guests) adapt(ctx context.Context, img *replica.Image, facts *agentpb.Facts, n *machineNote, dir string) (int, error) {
	parts, err := adapt.PartitionsOf(img)
	if err != nil {
		return 0, err
	}
	a, err := adapt.Open(ctx, img.Disk, parts, facts, filepath.Join(dir, "adapt"))
	if err != nil {
		return 0, err
	}
	o := adapt.Options{Firmware: string(n.Firmware), Persistent: true}
	if maps := g.estate.Target.Network; len(maps) > 0 {
		o.Readdress = func(a netip.Addr) netip.Addr { return config.Mapped(maps, a) }
	}
	report, err := adapt.Apply(ctx, a, facts, o)
	if err := errors.Join(err, a.Close()); err != nil {
		return 0, err
	}
	return len(report.Changes), os.RemoveAll(filepath.Join(dir, "adapt"))
}

// Ready implements Machines.
func (g *Guests) Ready(ctx context.Context, servers []string) ([]string, error) {
	st, err := replica.Open(ctx, g.estate.Target.Store)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	ours := slices.DeleteFunc(slices.Clone(servers), func(name string) bool { return g.commands(name) != nil })
	if len(ours) == 0 {
		return []string{"all are run by commands of leeward.yaml, which are not asked for room"}, nil
	}
	var need int64
	for _, name := range ours {
		if n, err := g.readNote(name); err == nil && n != nil {
			need += n.Memory + vm.Overhead
		} else if p, err := g.point(ctx, name, ""); err == nil {
			if facts, err := p.Facts(); err == nil {
				need += memoryOf(facts) + vm.Overhead
			}
		}
	}
	room, err := st.Free()
	if err != nil {
		return nil, err
	}
	return vm.Fit{Bridge: g.estate.Target.Bridge, Memory: need, Room: room, Machines: len(ours)}.Check()
}

// memoryOf is what a machine gets.
func memoryOf(f *agentpb.Facts) int64 {
	return min(max(int64(f.GetMemoryBytes()), leastMemory), mostMemory)
}

// taps makes the devices that lead a machine's cards to the bridge. Those that are
// there are kept.
func (g *Guests) taps(ctx context.Context, name string, cards []vm.NIC) (out []vm.Tap, err error) {
	bridge := g.estate.Target.Bridge
	if bridge == "" {
		return nil, hinted("name the bridge of the production network here: target: {network: {bridge: br0}}", "boot %s: leeward.yaml names no bridge", name)
	}
	for i, c := range cards {
		h := sha256.Sum256([]byte(g.store + "\x00" + name + "\x00" + strconv.Itoa(i)))
		dev := "lw" + hex.EncodeToString(h[:5]) // a name of a device has 15 characters at most
		line := fmt.Sprintf("ip link show %[1]s >/dev/null 2>&1 || ip tuntap add dev %[1]s mode tap; ip link set %[1]s master %[2]s && ip link set %[1]s up", dev, bridge)
		ran, err := g.shell.Run(ctx, "", line)
		if err != nil || !ran.Exited || ran.Code != 0 {
			return nil, fmt.Errorf("attach %s to bridge %s: %s: %w", name, bridge, ran.Output, errors.Join(err, errTap))
		}
		out = append(out, vm.Tap{NIC: c, Device: dev})
	}
	return out, nil
}

var errTap = errors.New("ip did not do it")

// Halt implements Machines.
func (g *Guests) Halt(ctx context.Context, name string) ([]string, error) {
	running, err := g.Running(ctx, name)
	if err != nil || !running {
		return []string{"no machine of that name runs"}, err
	}
	if m := g.commands(name); m != nil {
		return g.haltBy(ctx, name, m)
	}
	orderly, err := g.lasting(name).PowerDown(ctx, stopGrace)
	if err != nil {
		return nil, err
	}
	if !orderly {
		return []string{fmt.Sprintf("it did not shut down within %s and was switched off", stopGrace)}, nil
	}
	return []string{"it shut down"}, nil
}

// PutAway implements Machines.
func (g *Guests) PutAway(ctx context.Context, name string) ([]string, error) {
	dir := g.lasting(name).Dir
	running, err := g.Running(ctx, name)
	if err == nil && running {
		err = hinted("look at it, and shut it down if nobody needs it", "put machine %s aside: it runs", name)
	}
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return []string{"there is no machine of that name"}, nil
	}
	kept := dir + ".stopped-" + time.Now().UTC().Format("20060102T150405.000Z")
	if err := atomicfile.Rename(dir, kept); err != nil {
		return nil, fmt.Errorf("keep the disk of %s: %w", name, err)
	}
	return []string{"its disk is kept in " + kept}, nil
}

// Probe implements Machines: every probe of the server answers at the address it has
// here. Without probes it is a login prompt on the console.
func (g *Guests) Probe(ctx context.Context, name string) ([]string, error) {
	s := g.estate.Server(dr.ServerName(name))
	if s == nil {
		return nil, fmt.Errorf("probe %s: the configuration has no server of that name now", name)
	}
	var last error
	for {
		facts, err := g.probeOnce(ctx, s)
		if err == nil {
			return facts, nil
		}
		if running, runErr := g.Running(ctx, name); runErr != nil || !running {
			return nil, errors.Join(fmt.Errorf("probe %s: its machine has ended; see %s", name, g.lasting(name).SerialLog()), runErr)
		}
		if ctx.Err() == nil {
			last = err
		}
		if retry.Sleep(ctx, time.Second) != nil {
			return nil, fmt.Errorf("probe %s: %w; see %s", name, errors.Join(last, ctx.Err()), g.lasting(name).SerialLog())
		}
	}
}

const (
	probeTimeout = 10 * time.Second
	mostAnswer   = 1 << 20
)

func (g *Guests) probeOnce(ctx context.Context, s *config.Server) (facts []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if !slices.ContainsFunc(s.Probes, func(p config.Probe) bool { return !p.Inside() }) {
		if s.Machine != nil { // its console is not ours
			return []string{"it runs; without a probe by tcp or http nothing more is known of it"}, nil
		}
		return g.login(string(s.Name))
	}
	address, err := g.address(s)
	if err != nil {
		return nil, err
	}
	for _, p := range s.Probes {
		if p.Inside() { // only a drilled machine has somebody inside who asks it
			facts = append(facts, "not asked, for commands and statements are of drills alone: "+p.Command+p.SQL)
			continue
		}
		fact, err := probe(ctx, p, address)
		if err != nil {
			return nil, err
		}
		facts = append(facts, fact)
	}
	return facts, nil
}

// login looks for a login prompt in what the console said.
func (g *Guests) login(name string) ([]string, error) {
	b, err := os.ReadFile(g.lasting(name).SerialLog())
	if err != nil {
		return nil, err
	}
	c := vm.NewConsole(nil)
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(c.Sightings(), func(s vm.Sighting) bool { return s.Sign == vm.SignLogin }) {
		return nil, errors.New("there is no login prompt yet")
	}
	return []string{"there is a login prompt on the console"}, nil
}

// address is where a server is at the target: its address at the source, through
// network.map.
func (g *Guests) address(s *config.Server) (string, error) {
	a, err := sourceAddress(s)
	if err != nil {
		return "", err
	}
	return config.Mapped(g.estate.Target.Network, a).String(), nil
}

func probe(ctx context.Context, p config.Probe, address string) (string, error) {
	if p.TCP != 0 {
		var d net.Dialer
		at := net.JoinHostPort(address, strconv.Itoa(p.TCP))
		conn, err := d.DialContext(ctx, "tcp", at)
		if err != nil {
			return "", err
		}
		return at + " accepts connections", conn.Close()
	}
	u, err := url.Parse(p.HTTP)
	if err != nil {
		return "", err
	}
	if u.Hostname() == "" {
		u.Host = strings.TrimSuffix(net.JoinHostPort(address, u.Port()), ":")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return "", err
	}
	// As in a drill: where the user wants a status, that of a redirection is one too.
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return "", fmt.Errorf("GET %s: %w", u, err)
	}
	if p.Status == 0 && resp.StatusCode >= 400 || p.Status != 0 && resp.StatusCode != p.Status {
		return "", fmt.Errorf("GET %s: %s", u, resp.Status)
	}
	if !strings.Contains(string(body), p.Text) {
		return "", fmt.Errorf("GET %s: %s, and the answer lacks %q", u, resp.Status, p.Text)
	}
	return fmt.Sprintf("GET %s: %s", u, resp.Status), nil
}
