package switchover

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Params are what a person chose. They are part of a plan's serial.
type Params struct {
	Members []string              // servers and databases
	Chosen  bool                  // a person named them; else they are all of the estate
	Points  map[string]dr.PointID // failover: of servers; the newest where none is named
	Failed  time.Time             // failover: when the source was lost; zero where nobody knows
	Force   bool                  // failover: though the source answers, or the target is no state it had
	NoBack  bool                  // cutover: though there may be no way back
	Now     time.Time
}

// Seen is what was looked at before a plan is made. What of it changes the steps is
// in the plan; the rest is told to the person who approves.
type Seen struct {
	Databases map[string]Standing // forward: how the target stands
	Points    map[string][]Point  // of servers, newest first
	Machines  map[string]bool     // whether a server runs at the target
}

// Point is a recovery point that could be booted.
type Point struct {
	ID     dr.PointID
	At     time.Time // of its content
	Proven bool      // by a drill
}

// hinted makes an error with advice.
func hinted(hint, format string, args ...any) error {
	return dr.WithHint(fmt.Errorf(format, args...), hint)
}

// PlanCutover plans the move of members from source to target, with nothing lost.
func PlanCutover(e *config.Estate, st *State, seen Seen, p Params) (*runbook.Plan, error) {
	m, left := chosen(e, st, p, Source)
	for _, name := range m.all {
		switch s := st.Member(name); {
		case s.Moving != "":
			return nil, hinted("go on with it: leeward cutover resume; or undo it: leeward rollback plan",
				"plan cutover: %s is being moved already, by run %s", name, s.Run)
		case s.Primary == Target:
			return nil, hinted("to go back within its window: leeward rollback plan",
				"plan cutover: %s is primary at %s since %s", name, e.Target.Name, s.Since.Format(time.RFC3339))
		}
	}
	if len(m.all) == 0 {
		return nil, errors.New("plan cutover: nothing is chosen")
	}
	if err := movable(e, st, m); err != nil {
		return nil, err
	}
	b := newBuilder(e, Cutover, st, m.all, p.Now)
	if p.NoBack {
		b.plan.Params["no-way-back"] = "yes"
	}
	b.plan.Notes = left
	b.cutoverNotes(m, seen)
	b.preflight(m, Forward, p)
	b.room(m.servers)
	b.approval(fmt.Sprintf("Move %s from %s to %s? Applications stand still from the moment they are quiesced until clients are led to %s. Until then, and for %s after it, leeward rollback takes all of it back.",
		strings.Join(m.all, ", "), e.Source.Name, e.Target.Name, e.Target.Name, e.Switchover.Window))
	b.catchUp(m)
	b.onRecord(m.all, nil, Forward)
	b.away(m.servers, Target)
	b.phase("quiesce", "Quiesce the applications", func() { b.quiesce(m, Forward) })
	b.phase("fence", "Fence "+e.Source.Name, func() { b.fence(m, Forward) })
	b.phase("promote", "Promote "+e.Target.Name, func() { b.promote(m, Forward, e.Switchover.Window) })
	b.phase("boot", "Start servers at "+e.Target.Name, func() { b.boot(m, nil) })
	b.phase("redirect", "Lead clients to "+e.Target.Name, func() { b.redirect(Target) })
	b.begin("Keep the way back")
	for _, name := range m.databases {
		b.add(b.reverse(name, Back))
	}
	return b.plan, b.plan.Check()
}

// movable refuses what could only fail when applications stand still already.
func movable(e *config.Estate, st *State, m members) error {
	for db, hosts := range e.HostedBy() {
		for _, h := range hosts {
			if slices.Contains(m.all, db) && slices.Contains(m.all, string(h)) {
				return hinted(fmt.Sprintf("leave %s out, or let %s move with it: take it from databases:", h, db),
					"plan cutover: the database %s moves by itself, from %s: with that fenced it could neither be drained nor come back", db, h)
			}
		}
	}
	for _, name := range m.servers {
		s := e.Server(dr.ServerName(name))
		if s.Fence == nil && (s.Quiesce == nil || len(s.Quiesce.Stop) == 0) && !st.Member(name).Home {
			return hinted("give it fence: {command: …, check: …}, or quiesce: {stop: [UNIT…]}",
				"plan cutover: nothing says how to make %s unable to serve at %s", name, e.Source.Name)
		}
		if e.Target.Bridge == "" && s.Machine == nil {
			return hinted("name the bridge of the production network there: target: {network: {bridge: br0}}",
				"plan cutover: nothing says which network %s is attached to at %s", name, e.Target.Name)
		}
	}
	return nil
}

func (b *builder) cutoverNotes(m members, seen Seen) {
	for _, name := range m.databases {
		s := seen.Databases[name]
		switch {
		case s.Phase == engine.Absent:
			b.note("%s was never replicated: run leeward replicate %s first", name, name)
		case len(s.Trouble) > 0:
			b.note("%s: %s", name, strings.Join(s.Trouble, "; "))
		}
	}
	b.gapNotes(m.servers)
	for _, name := range m.servers {
		switch points := seen.Points[name]; {
		case len(points) == 0:
			b.note("%s has no recovery point: run leeward replicate %s first", name, name)
		case !slices.ContainsFunc(points, func(p Point) bool { return p.Proven }):
			b.note("%s was never proven by a drill: run leeward drill %s first", name, name)
		}
	}
	if len(b.e.Switchover.Redirect) == 0 {
		b.note("leeward.yaml says nothing of redirect: lead clients to %s yourself", b.e.Target.Name)
	}
}

// gapNotes says which servers write on between the final pass and the fence.
func (b *builder) gapNotes(servers []string) {
	for _, name := range servers {
		if b.e.Server(dr.ServerName(name)).Quiesce == nil {
			b.note("%s: nothing says how its applications stand still (quiesce:): what they write between the final pass and the fence is lost", name)
		}
	}
}

func (b *builder) note(format string, args ...any) {
	b.plan.Notes = append(b.plan.Notes, fmt.Sprintf(format, args...))
}

// preflight looks at all that the move needs.
func (b *builder) preflight(m members, way Way, p Params) {
	b.begin("Look before anything is done")
	for _, name := range m.all {
		s := runbook.Step{ID: "preflight." + name, Action: actionPreflight, Object: name, Looks: true, Timeout: 5 * time.Minute,
			Args: map[string]string{argMember: b.kind(name), argWay: string(way)}, Commands: b.hand(actionPreflight, name, way)}
		switch {
		case b.e.Database(name) == nil && way == Back:
			s.Title = fmt.Sprintf("look whether %s runs at %s", name, b.e.Target.Name)
		case b.e.Database(name) == nil:
			s.Title = fmt.Sprintf("look whether %s can move: whether no machine of it runs at %s", name, b.e.Target.Name)
		case way == Forward:
			s.Title = fmt.Sprintf("look whether %s can move, and come back: both ends, lag, what replication needs", name)
		default:
			s.Title = fmt.Sprintf("look whether %s can come back", name)
		}
		if p.NoBack {
			s.Args[argNoBack] = "yes"
		}
		b.add(s)
	}
	for _, r := range b.e.Switchover.Redirect {
		b.add(runbook.Step{ID: "preflight.redirect." + r.Name, Action: actionPreflight, Object: r.Name, Looks: true, Timeout: time.Minute,
			Title: "look where " + redirectWords(r) + " leads", Args: map[string]string{argMember: "redirect"}, Commands: redirectLook(r)})
	}
	b.barrier()
}

// room looks whether the target can run servers, all at once.
func (b *builder) room(servers []string) {
	if len(servers) == 0 {
		return
	}
	b.add(runbook.Step{ID: "room", Action: actionRoom, Object: b.e.Target.Name, Timeout: time.Minute, Looks: true,
		Title:    fmt.Sprintf("look whether %s has a hypervisor, a network, memory and room for %s", b.e.Target.Name, strings.Join(servers, ", ")),
		Args:     map[string]string{argNames: strings.Join(servers, ",")},
		Commands: []string{"free -m", "df -h " + b.e.Target.Store, "ip link show " + b.e.Target.Bridge}})
	b.barrier()
}

func (b *builder) kind(name string) string {
	if b.e.Database(name) != nil {
		return "database"
	}
	return "server"
}

// catchUp brings the target near the source while applications go on.
func (b *builder) catchUp(m members) {
	b.begin("Catch up while applications go on")
	for _, name := range m.databases {
		b.add(runbook.Step{ID: "catch-up." + name, Action: actionCatchUp, Object: name, Timeout: 2 * time.Hour,
			Title: fmt.Sprintf("bring %s up to date", name), Args: map[string]string{argWay: string(Forward)},
			Commands: b.hand(actionCatchUp, name, Forward)})
	}
	for _, name := range m.servers {
		b.add(b.pass(name, "before.", Forward, false))
	}
	b.barrier()
}

func (b *builder) pass(name, prefix string, way Way, down bool) runbook.Step {
	to := way.from().Other()
	return runbook.Step{ID: "pass." + prefix + name, Action: actionPass, Object: name, Timeout: 4 * time.Hour, Down: down,
		Title: fmt.Sprintf("make a recovery point of %s at %s", name, b.site(to)), Args: map[string]string{argAt: string(to)},
		Commands: b.hand(actionPass, name, way)}
}

// quiesce halts applications, the last to start first, and takes a final pass.
func (b *builder) quiesce(m members, way Way) {
	for _, name := range slices.Backward(m.servers) {
		s := b.e.Server(dr.ServerName(name))
		if s.Quiesce == nil {
			continue
		}
		b.chain(runbook.Step{ID: "quiesce." + name, Action: actionQuiesce, Object: name, Timeout: 5 * time.Minute, Down: true,
			Title: fmt.Sprintf("make the applications of %s stand still: %s", name, quiesceWords(s.Quiesce)), Args: map[string]string{argAt: string(way.from())},
			Commands: quiesceCommands(s), Look: fmt.Sprintf("look at %s: are its applications stopped", name)})
	}
	b.barrier()
	for _, name := range m.servers {
		b.add(b.pass(name, "final.", way, true))
	}
}

func quiesceWords(q *config.Quiesce) string {
	if q.Work != nil {
		return q.Work.Command
	}
	return "stop " + strings.Join(q.Stop, ", ")
}

func quiesceCommands(s *config.Server) []string {
	if s.Quiesce.Work != nil {
		w := *s.Quiesce.Work
		return []string{workCommand(&w)}
	}
	return []string{fmt.Sprintf("ssh %s systemctl stop %s", s.Host, strings.Join(s.Quiesce.Stop, " "))}
}

// from and to are the sites of a way.
func (w Way) from() Site {
	if w == Forward {
		return Source
	}
	return Target
}

// wayTo is the way that leads to a site.
func wayTo(at Site) Way {
	if at == Target {
		return Forward
	}
	return Back
}

func (w Way) other() Way {
	if w == Forward {
		return Back
	}
	return Forward
}

func (b *builder) site(s Site) string {
	if s == Source {
		return b.e.Source.Name
	}
	return b.e.Target.Name
}

// fence makes the site that the way leads from unable to write, and drains it.
func (b *builder) fence(m members, way Way) {
	from := way.from()
	for _, name := range m.databases {
		args := b.args(name, way)
		args[argGrace] = b.e.Switchover.Grace.String()
		fence := b.add(runbook.Step{ID: "fence." + name, Action: actionFence, Object: name, Timeout: b.e.Switchover.Grace + 3*time.Minute, Down: true,
			Title: fmt.Sprintf("make %s read-only at %s; transactions that are open are ended after %s", name, b.site(from), b.e.Switchover.Grace),
			Args:  args, Commands: b.hand(actionFence, name, way),
			Look: fmt.Sprintf("look at %s at %s: can anybody but Leeward connect and write", name, b.site(from))})
		last := b.add(runbook.Step{ID: "drain." + name, Action: actionDrain, Object: name, Timeout: time.Hour, Down: true,
			Title: fmt.Sprintf("apply the rest of %s at %s", name, b.site(from.Other())),
			Args:  b.args(name, way), Commands: b.hand(actionDrain, name, way)}, fence)
		if b.e.Switchover.Compare {
			b.add(runbook.Step{ID: "compare." + name, Action: actionCompare, Object: name, Timeout: 4 * time.Hour, Down: true, Looks: true,
				Title: fmt.Sprintf("compare every row of %s at both sites", name), Args: b.args(name, way),
				Commands: b.hand(actionCompare, name, way)}, last)
		}
	}
	if way == Back {
		return
	}
	for _, name := range m.servers {
		b.add(b.fenceServer("fence.", name, true))
	}
}

// fenceServer makes a server at the source unable to serve.
func (b *builder) fenceServer(prefix, name string, down bool) runbook.Step {
	s := b.e.Server(dr.ServerName(name))
	words, commands := fenceWords(s), fenceCommands(s)
	if f := b.e.Switchover.Failback; b.st.Member(name).Home && f != nil {
		words, commands = "shut its machine down", []string{fmt.Sprintf("ssh %s leeward machine halt %s -c %s", f.Host, name, homeFile(f))}
	}
	return runbook.Step{ID: prefix + name, Action: actionFence, Object: name, Timeout: 5 * time.Minute, Down: down,
		Title: fmt.Sprintf("make %s at %s unable to serve: %s", name, b.e.Source.Name, words), Args: b.args(name, Forward),
		Commands: commands, Look: fmt.Sprintf("look at %s at %s: does it run, do its services", name, b.e.Source.Name)}
}

// onRecord puts on record that members are being moved, before anything is changed:
// who finds the run cut knows what to undo. Those of here have nobody there to write it.
func (b *builder) onRecord(there, here []string, way Way) {
	b.begin("Put the move on record")
	b.tokens(there, way, false)
	b.tokens(here, way, true)
	b.barrier()
}

func (b *builder) tokens(names []string, way Way, here bool) {
	for _, name := range names {
		s := runbook.Step{ID: "token." + name, Action: actionToken, Object: name, Timeout: 2 * time.Minute,
			Title: fmt.Sprintf("write down fencing token %d for %s, here and at %s", b.token, name, b.site(way.from())),
			Args:  b.args(name, way), Commands: b.hand(actionToken, name, way)}
		if here {
			s.Title = fmt.Sprintf("write down fencing token %d for %s, here", b.token, name)
			s.Args[argHere] = "yes"
		}
		b.add(s)
	}
}

// args are those that most steps of a member have.
func (b *builder) args(name string, way Way) map[string]string {
	return map[string]string{argMember: b.kind(name), argWay: string(way), argToken: strconv.FormatInt(b.token, 10)}
}

// promote lets the site that the way leads to write, and puts that on record.
func (b *builder) promote(m members, way Way, window time.Duration) {
	to := way.from().Other()
	for _, name := range m.databases {
		args := b.args(name, way)
		args[argGrace] = b.e.Switchover.Grace.String()
		id := b.add(runbook.Step{ID: "promote." + name, Action: actionPromote, Object: name, Timeout: time.Hour, Down: true,
			Title: fmt.Sprintf("make sure once more that %s is fenced at %s and drained, then let %s write", name, b.site(to.Other()), b.site(to)),
			Args:  args, Commands: b.hand(actionPromote, name, way),
			Look: fmt.Sprintf("look at %s at both sites: which of them can be written to", name)})
		b.record(name, to, window, false, id)
	}
}

// record puts on record which site is primary.
func (b *builder) record(name string, to Site, window time.Duration, lost bool, after ...string) {
	args := b.args(name, Forward)
	args[argTo], args[argWindow] = string(to), window.String()
	if lost {
		args[argLost] = "yes"
	}
	b.recordAs(name, to, args, after...)
}

func (b *builder) recordAs(name string, to Site, args map[string]string, after ...string) {
	b.add(runbook.Step{ID: "record." + name, Action: actionRecord, Object: name, Timeout: time.Minute,
		Title: fmt.Sprintf("put on record that %s is primary at %s, under token %d", name, b.site(to), b.token), Args: args,
		Commands: []string{fmt.Sprintf("# write down: %s is primary at %s", name, b.site(to))}}, after...)
}

// boot starts servers at the target.
func (b *builder) boot(m members, points map[string]dr.PointID) {
	b.inOrder(m.servers, func(name string, after []string) string {
		last := b.bootOne(name, Target, points[name], after)
		b.record(name, Target, b.e.Switchover.Window, b.plan.Kind == Failover, last)
		return last
	})
}

// inOrder calls start for servers in the order in which they start. after are the steps
// that start returned for those that must answer before: what comes before it in its group
// and what it is said to come after. All others start at once.
func (b *builder) inOrder(servers []string, start func(name string, after []string) string) {
	last := map[string]string{}
	for _, name := range servers {
		var after []string
		for _, other := range b.comesAfter(name, servers) {
			if id := last[other]; id != "" && !slices.Contains(after, id) {
				after = append(after, id)
			}
		}
		last[name] = start(name, after)
	}
	b.barrier()
}

// comesAfter are the servers that start before another.
func (b *builder) comesAfter(name string, servers []string) (out []string) {
	for _, g := range b.e.Groups {
		before := ""
		for _, other := range g.Order {
			if other == name && before != "" {
				out = append(out, before)
			}
			if slices.Contains(servers, other) {
				before = other
			}
		}
	}
	for _, a := range b.e.Server(dr.ServerName(name)).After {
		out = append(out, string(a))
	}
	return out
}

// bootOne starts a server at a site and waits until it answers there.
func (b *builder) bootOne(name string, at Site, point dr.PointID, after []string) string {
	args := b.args(name, Forward)
	args[argAt] = string(at)
	title := fmt.Sprintf("start %s at %s from its newest recovery point", name, b.site(at))
	if point != "" {
		args[argPoint] = string(point)
		title = fmt.Sprintf("start %s at %s from recovery point %s", name, b.site(at), point)
	}
	id := b.add(runbook.Step{ID: "boot." + name, Action: actionBoot, Object: name, Timeout: 20 * time.Minute, Down: true, Title: title, Args: args,
		Commands: b.hand(actionBoot, name, wayTo(at)), Look: fmt.Sprintf("look whether a machine %s runs at %s", name, b.site(at))}, after...)
	return b.probes(name, at, id)
}

func (b *builder) probes(name string, at Site, after ...string) string {
	args := b.args(name, Forward)
	args[argAt] = string(at)
	return b.add(runbook.Step{ID: "probe." + name, Action: actionProbe, Object: name, Timeout: 20 * time.Minute, Down: true, Looks: true,
		Title: fmt.Sprintf("wait until %s answers", name), Args: args, Commands: b.hand(actionProbe, name, wayTo(at))}, after...)
}

// away puts aside what an earlier stay of servers left at a site, so that they begin
// there with a recovery point.
func (b *builder) away(servers []string, at Site) {
	for _, name := range servers {
		b.add(runbook.Step{ID: "put-away." + name, Action: actionAway, Object: name, Timeout: 2 * time.Minute,
			Title:    fmt.Sprintf("put aside the disk of an earlier stay of %s at %s, if there is one", name, b.site(at)),
			Args:     map[string]string{argMember: "server", argAt: string(at)},
			Commands: []string{fmt.Sprintf("mv machines/%s machines/%s.stopped-DATE  # in the store at %s", name, name, b.site(at))}})
	}
}

// redirect leads clients to a site.
func (b *builder) redirect(to Site) {
	for _, r := range b.e.Switchover.Redirect {
		s := runbook.Step{ID: "redirect." + r.Name, Action: actionRedirect, Object: r.Name, Timeout: 2 * time.Minute, Down: true,
			Args: map[string]string{argTo: string(to)}, Commands: redirectCommands(r, to),
			Look: "look where clients are led: " + redirectWords(r)}
		if r.DNS != nil {
			as := r.DNS.Target
			if to == Source {
				as = r.DNS.Source
			}
			s.Title = fmt.Sprintf("let %s say %s", r.DNS.Record, addresses(as))
		} else {
			s.Title = fmt.Sprintf("lead clients to %s: %s", b.site(to), r.Name)
		}
		b.add(s)
	}
}

// reverse begins to replicate a way, by difference.
func (b *builder) reverse(name string, way Way) runbook.Step {
	id := "reverse." + name
	if way == Forward {
		id = "standby." + name
	}
	return runbook.Step{ID: id, Action: actionReverse, Object: name, Timeout: 4 * time.Hour,
		Title: fmt.Sprintf("replicate %s from %s to %s, so that nothing written there is lost by going back", name, b.site(way.from()), b.site(way.from().Other())),
		Args:  b.args(name, way), Commands: b.hand(actionReverse, name, way)}
}
