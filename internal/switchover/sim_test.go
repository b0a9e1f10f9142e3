package switchover

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

var (
	errDead = errors.New("the process is dead")
	errDown = errors.New("no route to host")
)

// end is one database, or one server's disk, at one site.
type end struct {
	has    map[int]bool // transactions
	fenced bool
	phase  engine.Phase // as the end that is replicated to
	token  int64
}

// pair is a member at both sites.
type pair struct {
	server bool
	ends   map[Site]*end
	still  map[Site]bool         // server: its applications stand still
	runs   map[Site]bool         // server: a machine of ours runs it; at the source it is one only once it came home
	made   map[Site]bool         // server: there is such a machine
	old    bool                  // server: at the source it is still what it was before all
	point  map[Site]map[int]bool // server: the newest recovery point at a site
	aside  []int                 // transactions that were set aside
	acked  []int                 // transactions that some site acknowledged, in order
}

// sim is a simulated estate. Before and after each effect clients write wherever they
// can, at both sites: some have an old answer of the name service.
type sim struct {
	t  *testing.T
	mu sync.Mutex

	pairs map[string]*pair
	leads Site
	state *State
	down  map[Site]bool
	next  int

	effects int  // so far
	records int  // of journals
	cutAt   int  // effect at which the process dies …
	after   bool // … after it, else before
	cutRec  int  // record after which it dies
	dead    bool
	two     []string // members that two sites could write
}

func newSim(t *testing.T) *sim {
	s := &sim{t: t, pairs: map[string]*pair{}, leads: Source, down: map[Site]bool{}, state: &State{Format: stateFormat}}
	for _, name := range []string{"shop", "plant", "web1"} {
		p := &pair{server: name == "web1", ends: map[Site]*end{Source: {has: map[int]bool{}}, Target: {has: map[int]bool{}}},
			still: map[Site]bool{}, runs: map[Site]bool{}, made: map[Site]bool{}, old: true, point: map[Site]map[int]bool{}}
		p.ends[Target].phase = engine.Following
		s.pairs[name] = p
	}
	s.clients()
	return s
}

// simEstate is the configuration of a sim.
func simEstate() *config.Estate {
	addr := func(s string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(s)} }
	db := func(name string) config.Database {
		return config.Database{Name: name, Engine: "postgres", Source: config.Endpoint{DSN: "postgres://u@10.10.0.13/" + name},
			Target: config.Endpoint{DSN: "postgres://u@10.20.0.13/" + name}}
	}
	return &config.Estate{File: "sim", Name: "sim", Source: config.Source{Name: "miami"}, Target: config.Target{Name: "dallas", Store: "/store", Bridge: "br0"},
		Databases: []config.Database{db("shop"), db("plant")},
		Servers:   []config.Server{{Name: "web1", Host: "10.10.0.11", Quiesce: &config.Quiesce{Stop: []string{"web.service"}}}},
		Groups:    []config.Group{{Name: "all", Order: []string{"shop", "plant", "web1"}}},
		Switchover: config.Switchover{Failback: &config.Failback{Host: "kvm1", Store: "/home", Bridge: "br0", Drill: true}, Window: time.Hour, Grace: time.Second, Approval: time.Hour, Redirect: []config.Redirect{{Name: "db", DNS: &config.DNS{
			Server: "10.20.0.2:53", Zone: "lab.", Record: "db.lab.", TTL: time.Second, Source: addr("10.10.0.13"), Target: addr("10.20.0.13")}}}},
	}
}

// writes reports whether applications can write a member at a site.
func (p *pair) writes(at Site) bool {
	e := p.ends[at]
	switch {
	case p.server && at == Source && p.old:
		return !p.still[at] && !e.fenced
	case p.server:
		return p.runs[at] && !p.still[at]
	case at == Source:
		return !e.fenced
	}
	return !e.fenced && e.phase == engine.Primary
}

// clients write one transaction wherever they can.
func (s *sim) clients() {
	for _, name := range slices.Sorted(maps.Keys(s.pairs)) {
		p := s.pairs[name]
		n := 0
		for _, at := range []Site{Source, Target} {
			if s.down[at] || !p.writes(at) {
				continue
			}
			n++
			s.next++
			p.ends[at].has[s.next] = true
			p.acked = append(p.acked, s.next)
		}
		if n > 1 && !s.down[Source] {
			s.two = append(s.two, name)
		}
	}
}

// effect does f at sites that must be up, unless the process is dead or dies first.
func (s *sim) effect(f func(), sites ...Site) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errDead
	}
	for _, at := range sites {
		if s.down[at] {
			return errDown
		}
	}
	s.effects++
	if s.effects == s.cutAt && !s.after {
		s.dead = true
		return errDead
	}
	s.clients()
	f()
	s.clients()
	if s.effects == s.cutAt {
		s.dead = true
		return errDead
	}
	return nil
}

// see looks at something.
func (s *sim) see(f func(), sites ...Site) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errDead
	}
	for _, at := range sites {
		if s.down[at] {
			return errDown
		}
	}
	f()
	return nil
}

// simDB is a Database of a sim.
type simDB struct {
	s    *sim
	p    *pair
	from Site
}

func (s *sim) Open(_ context.Context, name string, way Way) (Database, error) {
	return &simDB{s, s.pairs[name], way.from()}, nil
}

func (s *sim) Standing(_ context.Context, name string, way Way) (st Standing, err error) {
	to := way.from().Other()
	err = s.see(func() {
		st.Phase, st.Heard = s.pairs[name].ends[to].phase, time.Now()
		if st.Phase != engine.Following {
			st.Trouble = []string{"it is " + string(st.Phase)}
		}
	}, to)
	return st, err
}

func (d *simDB) Close() error { return nil }

func (d *simDB) Fence(context.Context, time.Duration) (rowsync.Evidence, error) {
	return rowsync.Evidence{}, d.s.effect(func() { d.p.ends[d.from].fenced = true }, d.from)
}

func (d *simDB) Unfence(context.Context) (rowsync.Evidence, error) {
	return rowsync.Evidence{}, d.s.effect(func() { d.p.ends[d.from].fenced = false }, d.from)
}

func (d *simDB) Drain(context.Context) (e rowsync.Evidence, err error) {
	to := d.p.ends[d.from.Other()]
	if to.phase == engine.Primary {
		return e, &rowsync.PrimaryError{Name: "sim"}
	}
	return e, d.s.effect(func() {
		to.has = maps.Clone(d.p.ends[d.from].has) // what it alone has goes
		to.phase = engine.Following
	}, Source, Target)
}

func (d *simDB) Promote(context.Context, bool) (e rowsync.Evidence, err error) {
	to := d.p.ends[d.from.Other()]
	if to.phase != engine.Following && to.phase != engine.Primary {
		return e, &rowsync.NotReadyError{Name: "sim"}
	}
	return e, d.s.effect(func() { to.phase = engine.Primary }, d.from.Other())
}

func (d *simDB) Failover(ctx context.Context, _ time.Time, force bool) (rowsync.Loss, rowsync.Evidence, error) {
	e, err := d.Promote(ctx, force)
	return rowsync.Loss{}, e, err
}

func (d *simDB) Ready(context.Context) (blockers, notes []string, err error) {
	return nil, nil, d.s.see(func() {}, Source, Target)
}

func (d *simDB) Compare(context.Context) (differences []string, rows int64, err error) {
	err = d.s.see(func() {
		rows = int64(len(d.p.ends[Source].has))
		if !maps.Equal(d.p.ends[Source].has, d.p.ends[Target].has) {
			differences = []string{"some"}
		}
	}, Source, Target)
	return differences, rows, err
}

func (d *simDB) SetAside(context.Context, string) ([]string, error) {
	return nil, d.s.effect(func() {
		for n := range d.p.ends[d.from.Other()].has {
			if !d.p.ends[d.from].has[n] {
				d.p.aside = append(d.p.aside, n)
			}
		}
	}, Source, Target)
}

func (d *simDB) Reset(context.Context) error {
	return d.s.effect(func() { d.p.ends[d.from.Other()].phase = engine.Absent }, Source, Target)
}

func (s *sim) Token(_ context.Context, name string, at Site) (n int64, err error) {
	err = s.see(func() { n = s.pairs[name].ends[at].token }, at)
	return n, err
}

func (s *sim) SetToken(_ context.Context, name string, at Site, token int64) error {
	return s.effect(func() {
		e := s.pairs[name].ends[at]
		e.token = max(e.token, token)
	}, at)
}

// simHosts are the Hosts of one site of a sim.
type simHosts struct {
	*sim
	at Site
}

func (s simHosts) Quiesce(_ context.Context, name string, still bool) ([]string, error) {
	p := s.pairs[name]
	if s.at == Target && !p.runs[s.at] {
		return nil, errDown
	}
	return nil, s.effect(func() { p.still[s.at] = still }, s.at)
}

func (s simHosts) Fence(_ context.Context, name string, on bool, token int64) ([]string, error) {
	return nil, s.effect(func() {
		e := s.pairs[name].ends[s.at]
		e.fenced, e.token = on, max(e.token, token)
	}, s.at)
}

func (s simHosts) Fenced(_ context.Context, name string) (o dr.Outcome, facts []string, err error) {
	err = s.see(func() {
		o = dr.NotDone
		if s.pairs[name].ends[s.at].fenced {
			o = dr.Done
		}
	}, s.at)
	return o, nil, err
}

// simMachines are the Machines of one site of a sim, and its Home at the source.
type simMachines struct {
	*sim
	at Site
}

func (s simMachines) Pass(_ context.Context, name string) (dr.PointID, []string, error) {
	return "20260101T000000.000Z", nil, s.effect(func() { s.pairs[name].point[s.at] = maps.Clone(s.pairs[name].ends[s.at.Other()].has) }, Source, Target)
}

func (s simMachines) Boot(ctx context.Context, name string, _ dr.PointID) ([]string, error) {
	p := s.pairs[name]
	if p.made[s.at] {
		return s.Start(ctx, name)
	}
	return nil, s.effect(func() {
		p.runs[s.at], p.made[s.at], p.still[s.at], p.ends[s.at].has = true, true, false, maps.Clone(p.point[s.at])
		if s.at == Source {
			p.old, p.ends[s.at].fenced = false, false
		}
	}, s.at)
}

func (s simMachines) Start(_ context.Context, name string) ([]string, error) {
	p := s.pairs[name]
	if !p.made[s.at] {
		return nil, errors.New("there is no machine")
	}
	return nil, s.effect(func() {
		if !p.runs[s.at] {
			p.runs[s.at], p.still[s.at] = true, false
		}
	}, s.at)
}

func (s simMachines) Probe(_ context.Context, name string) ([]string, error) {
	var runs bool
	err := s.see(func() { runs = s.pairs[name].runs[s.at] }, s.at)
	if err == nil && !runs {
		err = errors.New("it does not run")
	}
	return nil, err
}

func (s simMachines) Running(_ context.Context, name string) (runs bool, err error) {
	err = s.see(func() { runs = s.pairs[name].runs[s.at] }, s.at)
	return runs, err
}

func (s simMachines) Halt(_ context.Context, name string) ([]string, error) {
	return nil, s.effect(func() { s.pairs[name].runs[s.at] = false }, s.at)
}

func (s simMachines) PutAway(_ context.Context, name string) ([]string, error) {
	p := s.pairs[name]
	if p.runs[s.at] {
		return nil, errors.New("it runs")
	}
	return nil, s.effect(func() { p.made[s.at] = false }, s.at)
}

func (s simMachines) Ready(context.Context, []string) ([]string, error) {
	return nil, s.see(func() {}, s.at)
}

func (s simMachines) Drill(context.Context, []string) ([]string, error) {
	return nil, s.see(func() {}, s.at)
}

func (s *sim) Lead(_ context.Context, _ string, to Site) ([]string, error) {
	return nil, s.effect(func() { s.leads = to }, Target)
}

func (s *sim) Ready(context.Context, string) ([]string, error) {
	return nil, s.see(func() {}, Target)
}

func (s *sim) Leads(context.Context, string) (site Site, facts []string, err error) {
	err = s.see(func() { site = s.leads }, Target)
	return site, nil, err
}

// simState is the Keeper of a sim.
type simState struct{ *sim }

func (s simState) Load() (st *State, err error) {
	err = s.see(func() {
		c := *s.state
		c.Members = maps.Clone(c.Members)
		st = &c
	})
	return st, err
}

func (s simState) Change(f func(*State)) error {
	return s.effect(func() { f(s.state) }, Target)
}

func (s *sim) Ask(_ context.Context, q runbook.Question) (runbook.Answer, error) {
	return runbook.Answer{Outcome: dr.Done, Actor: runbook.Actor{User: "ann", Host: "dallas"}, At: time.Now()}, nil
}

func (s *sim) world() *World {
	return &World{Databases: s, Tokens: s, Hosts: simHosts{s, Source}, Guests: simHosts{s, Target}, Machines: simMachines{s, Target},
		Home: simMachines{s, Source}, Names: s, State: simState{s},
		Shell: runbook.Local{}, Asker: s, Now: time.Now}
}

func (s *sim) options() runbook.Options {
	return runbook.Options{Actions: Actions(s.world()), Actor: runbook.Actor{User: "ann", Host: "dallas"}, Cut: func(_ runbook.Record, durable bool) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if durable {
			s.records++
		}
		if s.dead || durable && s.records == s.cutRec {
			s.dead = true
			return errDead
		}
		return nil
	}}
}

// revive starts the next process.
func (s *sim) revive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead, s.cutAt, s.cutRec = false, 0, 0
}

// plan makes a plan of today.
func (s *sim) plan(kind string, names ...string) (*runbook.Plan, error) {
	st, err := simState{s}.Load()
	if err != nil {
		return nil, err
	}
	seen := Seen{Databases: map[string]Standing{}, Points: map[string][]Point{}, Machines: map[string]bool{}}
	for _, n := range names {
		p := s.pairs[n]
		if !p.server {
			if seen.Databases[n], err = s.Standing(s.t.Context(), n, Forward); err != nil {
				return nil, err
			}
			continue
		}
		seen.Machines[n] = p.runs[Target]
		if p.point[Target] != nil {
			seen.Points[n] = []Point{{ID: "20260101T000000.000Z", At: time.Now(), Proven: true}}
		}
	}
	p := Params{Members: names, Chosen: true, Now: time.Now()}
	switch kind {
	case Cutover:
		return PlanCutover(simEstate(), st, seen, p)
	case Failover:
		return PlanFailover(simEstate(), st, seen, p)
	case Failback:
		return PlanFailback(simEstate(), st, seen, p)
	}
	return PlanRollback(simEstate(), st, seen, p)
}

// apply plans and runs, to the end or to the death of the process. id is that of the
// run, "" where none was begun.
func (s *sim) apply(dir, kind string, names ...string) (id string, rep runbook.Report, err error) {
	p, err := s.plan(kind, names...)
	if err != nil {
		return "", rep, err
	}
	r, err := runbook.Begin(dir, p, s.options())
	if err != nil {
		all, _ := runbook.List(dir)
		for _, r := range all {
			if r.Kind == kind {
				id = r.ID
			}
		}
		return id, rep, err
	}
	rep, err = r.Execute(s.t.Context())
	return r.ID(), rep, errors.Join(err, r.Close())
}

// resume goes on with a run until it is done.
func (s *sim) resume(dir, id string) (runbook.Report, error) {
	r, err := runbook.Resume(dir, id, s.options())
	if errors.Is(err, runbook.ErrOver) {
		return runbook.Read(dir, id)
	}
	if err != nil {
		return runbook.Report{}, err
	}
	rep, err := r.Execute(s.t.Context())
	return rep, errors.Join(err, r.Close())
}

// lost lists acknowledged transactions that the site does not have.
func (s *sim) lost(name string, at Site) (out []int) {
	p := s.pairs[name]
	for _, n := range p.acked {
		if !p.ends[at].has[n] {
			out = append(out, n)
		}
	}
	return out
}

// settled checks what must be true of members that are primary at a site.
func (s *sim) settled(what string, at Site, carried bool, names ...string) {
	s.t.Helper()
	if len(s.two) > 0 {
		s.t.Errorf("%s: two sites could write %v", what, s.two)
	}
	for _, name := range names {
		p := s.pairs[name]
		if !p.writes(at) || p.writes(at.Other()) {
			s.t.Errorf("%s: %s: the source writes: %v, the target: %v; want the %s alone", what, name, p.writes(Source), p.writes(Target), at)
		}
		if carried && (!p.server || at == Target) {
			if lost := s.lost(name, at); len(lost) > 0 {
				s.t.Errorf("%s: %s lost %d of %d acknowledged transactions", what, name, len(lost), len(p.acked))
			}
		}
		if m := s.state.Member(name); m.Primary != at || m.Moving != "" {
			s.t.Errorf("%s: on record is %+v", what, m)
		}
	}
	if s.leads != at {
		s.t.Errorf("%s: clients are led to the %s", what, s.leads)
	}
}

func described(r runbook.Report) string {
	text := r.Outcome.String()
	for _, s := range r.Steps {
		if s.State != runbook.StepDone {
			text += fmt.Sprintf("; %s: %s %s", s.ID, s.State, s.Err)
		}
	}
	return text
}
