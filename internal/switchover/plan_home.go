package switchover

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// PlanFailback plans to bring home what is primary at the target, by a cutover or by a
// failover, with nothing lost: replicate to the source, by difference; boot what came in
// isolation; then move.
func PlanFailback(e *config.Estate, st *State, _ Seen, p Params) (*runbook.Plan, error) {
	m, _ := chosen(e, st, p, Target)
	if err := mayGoHome(e, st, m); err != nil {
		return nil, err
	}
	b := newBuilder(e, Failback, st, m.all, p.Now)
	lost := members{}
	for _, name := range m.all {
		if st.Member(name).Lost {
			lost.all = append(lost.all, name)
			if e.Database(name) != nil {
				lost.databases = append(lost.databases, name)
			}
		}
	}
	b.homeNotes(m)
	b.preflight(m, Back, p)
	b.roomAtHome(m.servers)
	b.leave(m, lost)
	b.reprotect(m)
	b.approval(fmt.Sprintf("Move %s home from %s to %s? Applications stand still from the moment they are quiesced until clients are led to %s. What was written at %s comes along.",
		strings.Join(m.all, ", "), e.Target.Name, e.Source.Name, e.Source.Name, e.Target.Name))
	b.begin("Catch up while applications go on")
	for _, name := range m.databases {
		b.add(runbook.Step{ID: "catch-up." + name, Action: actionCatchUp, Object: name, Timeout: 2 * time.Hour,
			Title: fmt.Sprintf("bring %s at %s up to date", name, e.Source.Name), Args: b.args(name, Back), Commands: b.hand(actionCatchUp, name, Back)})
	}
	for _, name := range m.servers {
		b.add(b.pass(name, "before.", Back, false))
	}
	b.onRecord(m.databases, m.servers, Back)
	b.away(m.servers, Source)
	b.phase("quiesce", "Quiesce the applications", func() { b.quiesce(m, Back) })
	b.phase("fence", "Fence "+e.Target.Name, func() { b.fence(m, Back); b.haltAll(m.servers) })
	b.phase("promote", "Let "+e.Source.Name+" write again", func() { b.promote(m, Back, 0) })
	b.phase("boot", "Start servers at "+e.Source.Name, func() {
		b.inOrder(m.servers, func(name string, after []string) string {
			last := b.bootOne(name, Source, "", after)
			args := b.args(name, Forward)
			args[argTo], args[argHome] = string(Source), "yes"
			b.recordAs(name, Source, args, last)
			return last
		})
	})
	b.phase("redirect", "Lead clients to "+e.Source.Name, func() { b.redirect(Source) })
	b.begin("Keep the standby")
	for _, name := range m.databases {
		b.add(b.reverse(name, Forward))
	}
	return b.plan, b.plan.Check()
}

// Moved is the state that a cutover of members would leave, of those that it would move.
func Moved(e *config.Estate, st *State, members []string) *State {
	m, _ := chosen(e, st, Params{Members: members}, Source)
	after := &State{Format: stateFormat, Token: st.Token + 1, Members: maps.Clone(st.Members)}
	for _, name := range m.all {
		after.Set(name, Member{Primary: Target, Token: after.Token, By: Cutover})
	}
	return after
}

// mayGoHome refuses what is not primary at the target, and servers that have no home.
func mayGoHome(e *config.Estate, st *State, m members) error {
	if len(m.all) == 0 {
		return errors.New("plan failback: nothing is chosen")
	}
	for _, name := range m.all {
		switch s := st.Member(name); {
		case s.Moving != "" && s.By == Failback:
			return hinted(fmt.Sprintf("go on with it: leeward failback resume; or let %s go on: leeward rollback plan", e.Target.Name),
				"plan failback: %s is on its way home already, by run %s", name, s.Run)
		case s.Moving != "":
			return hinted(fmt.Sprintf("go on with it: leeward %s resume", s.By), "plan failback: %s is being moved, by run %s", name, s.Run)
		case s.Primary == Source:
			return hinted("name what is", "plan failback: %s is not primary at %s", name, e.Target.Name)
		}
	}
	if e.Switchover.Failback == nil && len(m.servers) > 0 {
		return hinted("say which host runs them there: switchover: {failback: {host: …, store: …, bridge: …}}; or name the databases alone",
			"plan failback: nothing says where %s could run at %s", strings.Join(m.servers, ", "), e.Source.Name)
	}
	return nil
}

func (b *builder) homeNotes(m members) {
	b.gapNotes(m.servers)
	for _, name := range m.servers {
		b.note("%s runs on %s when it is home, from a disk in %s there; the disk it had before stays as it is, and the machine it was must not be started again",
			name, b.e.Switchover.Failback.Host, b.e.Switchover.Failback.Store)
	}
	if f := b.e.Switchover.Failback; len(m.servers) > 0 && len(f.Seeds) == 0 {
		b.note("no seeds are named for %s: all of each server crosses the link once; with the old disks there (failback: seeds:) only what changed does", f.Host)
	}
	if len(b.e.Switchover.Redirect) == 0 {
		b.note("leeward.yaml says nothing of redirect: lead clients to %s yourself", b.e.Source.Name)
	}
}

// roomAtHome reaches the host that servers come back to.
func (b *builder) roomAtHome(servers []string) {
	if len(servers) == 0 {
		return
	}
	f := b.e.Switchover.Failback
	b.chain(runbook.Step{ID: "room", Action: actionRoom, Object: f.Host, Timeout: 10 * time.Minute, Looks: true,
		Title:    fmt.Sprintf("look whether %s has room for %s, and tell it how to reach them at %s", f.Host, strings.Join(servers, ", "), b.e.Target.Name),
		Args:     map[string]string{argNames: strings.Join(servers, ","), argAt: string(Source)},
		Commands: []string{fmt.Sprintf("ssh %s df -h %s", f.Host, f.Store), fmt.Sprintf("ssh %s ip link show %s", f.Host, f.Bridge)}})
	b.barrier()
}

// leave makes sure that what was at the source before writes no more, and keeps what
// a lost source has of its own.
func (b *builder) leave(m, lost members) {
	if len(lost.all) > 0 {
		b.begin("Approval to begin")
		b.chain(runbook.Step{ID: "approval.begin", Action: runbook.ActionApproval, Looks: true, Timeout: b.e.Switchover.Approval,
			Title: "a person says yes to what is done to " + b.e.Source.Name,
			Args: map[string]string{runbook.ArgText: fmt.Sprintf("Replicate %s from %s to %s, which was given up? What %s still has of its own in databases is kept in files first, then overwritten.",
				strings.Join(lost.all, ", "), b.e.Target.Name, b.e.Source.Name, b.e.Source.Name)},
			Commands: []string{"# write down who said yes, and when"}})
		b.barrier()
	}
	b.begin("Leave what was at " + b.e.Source.Name + " before")
	for _, name := range m.servers {
		b.add(b.leaveServer(name))
	}
	for _, name := range lost.databases {
		args := b.args(name, Forward)
		args[argGrace] = b.e.Switchover.Grace.String()
		id := b.add(runbook.Step{ID: "quarantine." + name, Action: actionLeave, Object: name, Timeout: b.e.Switchover.Grace + 3*time.Minute,
			Title: fmt.Sprintf("make %s read-only at %s", name, b.e.Source.Name), Args: args, Commands: b.hand(actionFence, name, Forward)})
		b.add(runbook.Step{ID: "set-aside." + name, Action: actionAside, Object: name, Timeout: 4 * time.Hour,
			Title: fmt.Sprintf("keep rows of %s that %s has and %s has not, or has otherwise, in set-aside of the store", name, b.e.Source.Name, b.e.Target.Name),
			Args:  b.args(name, Back), Commands: b.handAside(name)}, id)
	}
	b.barrier()
}

// leaveServer makes sure that the machine a server was at the source cannot serve.
func (b *builder) leaveServer(name string) runbook.Step {
	s := b.e.Server(dr.ServerName(name))
	if s.Fence != nil || s.Quiesce != nil && len(s.Quiesce.Stop) > 0 || b.st.Member(name).Home {
		return b.fenceServer("leave.", name, false)
	}
	text := fmt.Sprintf("make sure that %s as it was at %s is switched off and stays so: it comes back as another machine with the same addresses", name, b.e.Source.Name)
	return runbook.Step{ID: "leave." + name, Action: runbook.ActionManual, Object: name, Timeout: b.e.Switchover.Approval, Title: "a person: " + text,
		Args: map[string]string{runbook.ArgText: text}, Commands: []string{"# " + text}}
}

func (b *builder) handAside(name string) []string {
	db := b.e.Database(name)
	return []string{client{db, db.Source.DSN}.dump("set-aside")}
}

// reprotect replicates to the source and proves there what came.
func (b *builder) reprotect(m members) {
	b.begin("Replicate to " + b.e.Source.Name + " while applications go on")
	for _, name := range m.databases {
		b.add(b.reverse(name, Back))
	}
	for _, name := range m.servers {
		b.add(b.pass(name, "first.", Back, false))
	}
	if f := b.e.Switchover.Failback; len(m.servers) > 0 && f.Drill {
		b.begin("Prove it at " + b.e.Source.Name)
		b.chain(runbook.Step{ID: "drill", Action: actionDrill, Object: f.Host, Timeout: 2 * time.Hour,
			Title:    fmt.Sprintf("boot %s on %s in isolation", strings.Join(m.servers, ", "), f.Host),
			Args:     map[string]string{argNames: strings.Join(m.servers, ",")},
			Commands: []string{fmt.Sprintf("ssh %s leeward drill -c %s", f.Host, homeFile(f))}})
	}
	b.barrier()
}

// haltAll shuts machines at the target down, the last to start first. Their disks stay
// where they are: they are what there is to go on with until the source is primary.
func (b *builder) haltAll(servers []string) {
	for _, name := range slices.Backward(servers) {
		args := b.args(name, Back)
		args[argAt] = string(Target)
		b.add(runbook.Step{ID: "halt." + name, Action: actionHalt, Object: name, Timeout: 5 * time.Minute, Down: true,
			Title: fmt.Sprintf("shut %s down at %s", name, b.e.Target.Name), Args: args, Commands: b.hand(actionStop, name, Back),
			Look: fmt.Sprintf("look whether a machine %s runs at %s", name, b.e.Target.Name)})
	}
}

// planStay plans to go on at the target after a failback was begun.
func planStay(e *config.Estate, st *State, m members, p Params) (*runbook.Plan, error) {
	b := newBuilder(e, Rollback, st, m.all, p.Now)
	b.note("a failback was begun: what is not promoted at %s is gone on with at %s", e.Source.Name, e.Target.Name)
	b.begin("Look before anything is done")
	for _, name := range m.servers {
		b.add(runbook.Step{ID: "absent." + name, Action: actionAbsent, Object: name, Looks: true, Timeout: 2 * time.Minute,
			Title: fmt.Sprintf("make sure that %s does not run at %s yet", name, e.Source.Name), Args: map[string]string{argMember: "server", argAt: string(Source)},
			Commands: []string{fmt.Sprintf("ssh %s pgrep -af %s", e.Switchover.Failback.Host, quote("machines/"+name+"/"))}})
	}
	b.barrier()
	b.approval(fmt.Sprintf("Let %s go on with %s? The failback is over then.", e.Target.Name, strings.Join(m.all, ", ")))
	b.onRecord(nil, m.all, Forward)
	again := func(name string, after ...string) {
		args := b.args(name, Forward)
		args[argTo], args[argAgain] = string(Target), "yes"
		b.recordAs(name, Target, args, after...)
	}
	b.phase("promote", "Let "+e.Target.Name+" write again", func() {
		for _, name := range m.databases {
			b.letGo(name, Back)
			again(name, "unfence."+name)
		}
	})
	b.phase("boot", "Start servers at "+e.Target.Name, func() {
		for _, name := range m.servers {
			b.chain(runbook.Step{ID: "start." + name, Action: actionStart, Object: name, Timeout: 5 * time.Minute, Down: true,
				Title: fmt.Sprintf("start %s at %s as it was left", name, e.Target.Name), Args: b.args(name, Back),
				Commands: []string{"# start the machine again that was shut down"}, Look: fmt.Sprintf("look whether a machine %s runs at %s", name, e.Target.Name)})
			b.resume(e.Server(dr.ServerName(name)), Target)
			again(name, b.probes(name, Target))
			b.barrier()
		}
	})
	b.phase("redirect", "Lead clients to "+e.Target.Name, func() { b.redirect(Target) })
	return b.plan, b.plan.Check()
}
