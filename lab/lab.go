// Package lab raises the Miami of the story on one machine: six Linux servers
// and two minions with real work to do, a Dallas to copy them to, and one
// shaped link between the two sites, all in network namespaces that no route
// leads out of. Servers are real Debian systems on disks of their own, run
// either light, as namespaces over loop mounts, or as QEMU guests.
//
// The package needs root, and knows nothing of replication.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// DefaultDir is where the lab lives.
	DefaultDir = "/var/lib/leeward-lab"
	// DefaultCache keeps the built servers from one lab to the next.
	DefaultCache = "/var/cache/leeward-lab"
	// DefaultRate is the link's rate in each direction.
	DefaultRate = "200mbit"
)

// Options says what lab to raise. The zero value is the whole lab with its
// default guests.
type Options struct {
	Dir     string   // DefaultDir where empty; must be absent, empty or an old lab's
	Cache   string   // DefaultCache where empty
	Rate    string   // DefaultRate where empty; "0" for an unshaped link
	Servers []string // all where empty
	Guests  []string // the servers to run as QEMU guests; nil for none
	Quiet   bool     // start no writers
	NoWait  bool     // return while the guests boot; see WaitGuest

	// NoDatabases leaves out Dallas's database servers, which hold stale clones of
	// db1's and db2's.
	NoDatabases bool

	// Data gives a light server one more ext4 filesystem of so many bytes,
	// sparse and empty, mounted at /data.
	Data map[string]int64

	// Log receives one line an event; nil for none.
	Log func(format string, args ...any)
}

// DefaultGuests are the servers that run as guests unless asked otherwise.
func DefaultGuests() []string { return []string{"web1", "app1", "db1"} }

// Lab is a raised lab. Its methods may be called concurrently.
type Lab struct {
	place *statePlace
	log   func(string, ...any)
}

// ErrUp means that a lab is up already on this machine; there can be only one.
var ErrUp = errors.New("a lab is already up")

func (o *Options) setDefaults() {
	if o.Dir == "" {
		o.Dir = DefaultDir
	}
	if o.Cache == "" {
		o.Cache = DefaultCache
	}
	if o.Rate == "" {
		o.Rate = DefaultRate
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
}

// Up builds what is missing of the servers and raises the lab. When it fails
// or ctx ends, it takes down again what it had raised. It returns ErrUp when a
// lab is up already.
func Up(ctx context.Context, o Options) (*Lab, error) {
	o.setDefaults()
	specs, rate, err := o.plan()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("raise the lab: it takes root, to make namespaces and mounts")
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, fmt.Errorf("find the lab's directory: %w", err)
	}
	if err := checkFree(ctx, o.Dir); err != nil {
		return nil, err
	}
	b, unlock, err := openCache(ctx, o.Cache, o.Log)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Another lab may have come up while this one waited for the cache.
	if err := checkFree(ctx, o.Dir); err != nil {
		return nil, err
	}
	images, err := b.images(ctx, specs)
	if err != nil {
		return nil, err
	}
	l, err := newLab(specs, images, o)
	if err != nil {
		return nil, err
	}
	if err := l.raise(ctx, specs, images, rate, o); err != nil {
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// Check refuses options that name what is not there or contradict each other.
func (o Options) Check() error {
	o.setDefaults()
	_, _, err := o.plan()
	return err
}

// plan reads the options.
func (o *Options) plan() (specs []Spec, rate int64, err error) {
	if rate, err = parseRate(o.Rate); err != nil {
		return nil, 0, err
	}
	if specs, err = selectServers(o.Servers); err != nil {
		return nil, 0, err
	}
	return specs, rate, checkForms(specs, *o)
}

// checkForms refuses wishes that contradict each other.
func checkForms(specs []Spec, o Options) error {
	has := func(name string) bool {
		return slices.ContainsFunc(specs, func(s Spec) bool { return s.Name == name })
	}
	for _, g := range o.Guests {
		if !has(g) {
			return fmt.Errorf("run %s as a guest: it is not among the lab's servers", g)
		}
	}
	for name := range o.Data {
		if !has(name) || slices.Contains(o.Guests, name) {
			return fmt.Errorf("add data to %s: it is not among the lab's light servers", name)
		}
	}
	return nil
}

// checkFree makes sure that no lab is up and that dir may become one's.
func checkFree(ctx context.Context, dir string) error {
	names, err := netnsNames(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(names, miami) || slices.Contains(names, dallas) {
		return fmt.Errorf("raise the lab: %w; `leeward lab down` removes it", ErrUp)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the lab's directory: %w", err)
	}
	if len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, marker)); err != nil {
			return fmt.Errorf("raise the lab in %s: the directory holds something else", dir)
		}
		return fmt.Errorf("raise the lab in %s: %w, or its remains; `leeward lab down --dir %s` removes it", dir, ErrUp, dir)
	}
	return nil
}

// newLab puts an empty lab on record.
func newLab(specs []Spec, images map[string]*image, o Options) (*Lab, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, marker), []byte("All of this directory is removed by leeward lab down.\n"), 0o644); err != nil {
		return nil, fmt.Errorf("mark the lab's directory: %w", err)
	}
	l := &Lab{place: &statePlace{dir: o.Dir}, log: o.Log}
	err := l.place.update(func(st *state) {
		*st = state{Version: stateVersion, Created: time.Now().UTC(), Rate: o.Rate}
		for _, s := range specs {
			form := Light
			if slices.Contains(o.Guests, s.Name) {
				form = Guest
			}
			st.Servers = append(st.Servers, &server{
				Name: s.Name, Form: form, Address: s.Address(), User: s.User, Parts: images[s.Name].Parts,
			})
		}
		if !o.NoDatabases {
			st.Databases = databases(specs)
		}
	})
	return l, err
}

// raise brings up the network and all servers.
func (l *Lab) raise(ctx context.Context, specs []Spec, images map[string]*image, rate int64, o Options) error {
	if err := l.writeAccess(ctx, o.Cache, images); err != nil {
		return err
	}
	if err := raiseSites(ctx, rate); err != nil {
		return err
	}
	pubkey, err := labKey(ctx, o.Cache)
	if err != nil {
		return err
	}
	if err := l.startHome(ctx, pubkey); err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(specs))
	)
	for i, s := range specs {
		wg.Go(func() { errs[i] = l.start(ctx, s, l.place.Servers[i], images[s.Name], o) })
	}
	var clones error
	if len(l.place.Databases) > 0 {
		wg.Go(func() { clones = l.startDallas(ctx) })
	}
	wg.Wait()
	if err := errors.Join(append(errs, clones)...); err != nil {
		return err
	}
	return l.place.update(func(st *state) { st.Ready = true })
}

// start copies a server's disk into the lab and starts it.
func (l *Lab) start(ctx context.Context, spec Spec, srv *server, img *image, o Options) error {
	begin := time.Now()
	if err := os.MkdirAll(l.place.path("servers", spec.Name), 0o755); err != nil {
		return fmt.Errorf("make directory of %s: %w", spec.Name, err)
	}
	disk := l.place.path("servers", spec.Name, "disk.raw")
	if _, err := run(ctx, "cp", "--sparse=always", "--reflink=auto", img.Disk, disk); err != nil {
		return err
	}
	var err error
	switch srv.Form {
	case Light:
		err = l.startLight(ctx, spec, srv, o)
	case Guest:
		err = l.startGuest(ctx, spec, srv, o)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.Name, err)
	}
	l.log("%s is up (%s, %s) after %.1fs", spec.Name, srv.Form, srv.Address, time.Since(begin).Seconds())
	return nil
}

// Open finds the lab that was raised in dir.
func Open(dir string) (*Lab, error) {
	p, err := loadState(dir)
	if err != nil {
		return nil, err
	}
	return &Lab{place: p, log: func(string, ...any) {}}, nil
}

// Dir is the lab's directory; it holds ssh_config, key, known_hosts and
// leeward.yaml.
func (l *Lab) Dir() string { return l.place.dir }

// SSHConfig is the path of the ssh_config that reaches the servers from Dallas.
func (l *Lab) SSHConfig() string { return l.place.path("ssh_config") }

// InDallas prefixes a command so that it runs at the target site.
func InDallas(argv ...string) []string {
	return append([]string{"ip", "netns", "exec", dallas}, argv...)
}

// find returns the record of a server.
func (l *Lab) find(name string) (*server, error) {
	l.place.mu.Lock()
	defer l.place.mu.Unlock()
	for _, s := range l.place.Servers {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("find server %q: it is not in this lab", name)
}

// Run executes a command as root in a server, past the link and ssh for a
// light one, and returns its standard output.
func (l *Lab) Run(ctx context.Context, name string, argv ...string) (string, error) {
	var out bytes.Buffer
	err := l.RunIO(ctx, name, nil, &out, argv...)
	return out.String(), err
}

// RunIO is Run with the command's standard input and output given.
func (l *Lab) RunIO(ctx context.Context, name string, in io.Reader, out io.Writer, argv ...string) error {
	s, err := l.find(name)
	if err != nil {
		return err
	}
	cmd := s.enter(ctx, argv...)
	if s.Form == Guest {
		cmd = l.guestCommand(ctx, s, argv...)
	}
	var errb bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &errb
	if err := cmd.Run(); err != nil {
		return commandError("in "+name+":", argv, err, errb.String())
	}
	return nil
}

// LinkBytes counts what has crossed the link in each direction since the lab
// was raised, Ethernet headers included.
func (l *Lab) LinkBytes(ctx context.Context) (toDallas, toMiami int64, err error) {
	st, err := readLink(ctx, miami, wanMiami)
	return st.Stats.TX.Bytes, st.Stats.RX.Bytes, err
}

// Cut takes the link between the sites down; what is under way stalls.
func (l *Lab) Cut(ctx context.Context) error { return ip(ctx, miami, "link set "+wanMiami+" down") }

// Heal brings the link back and returns when it carries.
func (l *Lab) Heal(ctx context.Context) error { return healLink(ctx) }

// SetRate changes the link's rate, in the form of Options.Rate.
func (l *Lab) SetRate(ctx context.Context, rate string) error {
	n, err := parseRate(rate)
	if err != nil {
		return err
	}
	if err := shape(ctx, n); err != nil {
		return err
	}
	return l.place.update(func(st *state) { st.Rate = rate })
}

// StopWriters stops what changes files on the named servers, on all for none,
// so that source and replica can be compared exactly.
func (l *Lab) StopWriters(ctx context.Context, names ...string) error {
	for _, spec := range Servers() {
		if _, err := l.find(spec.Name); err != nil || (len(names) > 0 && !slices.Contains(names, spec.Name)) {
			continue
		}
		for _, w := range append([]string{"churn"}, spec.Writer...) {
			script := fmt.Sprintf("if [ -d /run/systemd/system ]; then systemctl stop %[1]s; "+
				"elif [ -e /run/%[1]s.pid ]; then kill -- -$(cat /run/%[1]s.pid); rm /run/%[1]s.pid; fi", w)
			if _, err := l.Run(ctx, spec.Name, "/bin/sh", "-c", script); err != nil {
				return err
			}
		}
		if _, err := l.Run(ctx, spec.Name, "sync"); err != nil {
			return err
		}
	}
	return nil
}

// Server is what can be said of a server of the lab.
type Server struct {
	Name    string `json:"name"`
	Form    Form   `json:"form"`
	Address string `json:"address"`
	User    string `json:"user"`
	Up      bool   `json:"up"`
	Pid     int    `json:"pid"`

	// Root is the path of a light server's root as seen from this machine, with
	// all its filesystems mounted; empty for a guest.
	Root string `json:"root,omitempty"`
	// Disk is the server's disk image.
	Disk string `json:"disk"`
	// Mounts are the mount points of its own filesystems.
	Mounts []string `json:"mounts"`
}

// Server describes one server.
func (l *Lab) Server(name string) (Server, error) {
	s, err := l.find(name)
	if err != nil {
		return Server{}, err
	}
	v := Server{
		Name: s.Name, Form: s.Form, Address: s.Address, User: s.User, Up: s.Process.alive(), Pid: s.Process.Pid,
		Disk: l.place.path("servers", s.Name, "disk.raw"),
	}
	if s.Form == Light && v.Up {
		v.Root = fmt.Sprintf("/proc/%d/root", s.Process.Pid)
	}
	for _, p := range s.Parts {
		if len(p.Subvolumes) == 0 {
			v.Mounts = append(v.Mounts, p.Mount)
		}
		for _, sub := range p.Subvolumes {
			v.Mounts = append(v.Mounts, sub.Mount)
		}
	}
	return v, nil
}

// Status is the state of the whole lab.
type Status struct {
	Dir       string     `json:"dir"`
	Ready     bool       `json:"ready"` // false while it is raised, or when that was cut short
	Rate      string     `json:"rate"`
	Link      string     `json:"link"` // up, cut or absent
	Servers   []Server   `json:"servers"`
	Databases []Database `json:"databases,omitempty"`
}

// Status observes the lab.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	st := Status{Dir: l.place.dir, Ready: l.place.Ready, Rate: l.place.Rate, Link: "absent", Databases: l.place.Databases}
	if wan, err := readLink(ctx, miami, wanMiami); err == nil {
		st.Link = "cut"
		if slices.Contains(wan.Flags, "UP") {
			st.Link = "up"
		}
	}
	for _, s := range l.place.Servers {
		v, err := l.Server(s.Name)
		if err != nil {
			return Status{}, err
		}
		st.Servers = append(st.Servers, v)
	}
	return st, nil
}

// quoteAll makes one shell command of an argument list.
func quoteAll(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = shellQuote(a)
	}
	return strings.Join(words, " ")
}
