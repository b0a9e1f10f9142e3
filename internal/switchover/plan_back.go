package switchover

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// PlanRollback plans the way back of what a cutover moved, or had begun to move. What
// was not promoted yet is let go on at the source; what was is drained back first.
func PlanRollback(e *config.Estate, st *State, seen Seen, p Params) (*runbook.Plan, error) {
	m, _ := chosen(e, st, p, Target)
	moved, begun, staying, err := taken(e, st, seen, p, m)
	if err != nil {
		return nil, err
	}
	if len(staying) == len(m.all) && len(staying) > 0 {
		return planStay(e, st, m, p)
	}
	if len(staying) > 0 {
		return nil, hinted("name them, or the others, alone", "plan rollback: a failback of %s was begun, and none of the others", strings.Join(staying, ", "))
	}
	b := newBuilder(e, Rollback, st, m.all, p.Now)
	if len(m.all) == 0 {
		return nil, errors.New("plan rollback: nothing is chosen")
	}
	b.rollbackNotes(begun.servers, st, seen)
	b.preflight(moved, Back, p)
	b.approval(fmt.Sprintf("Take %s back to %s? What was written to databases at %s is carried back.", strings.Join(m.all, ", "), e.Source.Name, e.Target.Name))
	b.begin("Catch up while applications go on")
	for _, name := range moved.databases {
		b.add(b.reverse(name, Back))
	}
	b.onRecord(moved.databases, slices.Concat(begun.databases, begun.servers), Back)
	b.phase("quiesce", "Stop what runs at "+e.Target.Name, func() { b.stopAll(begun.servers) })
	b.phase("fence", "Fence "+e.Target.Name, func() { b.fence(moved, Back) })
	b.phase("promote", "Let "+e.Source.Name+" write again", func() {
		b.promote(moved, Back, 0)
		for _, name := range begun.databases {
			b.letGo(name, Forward)
			b.record(name, Source, 0, false, "unfence."+name)
		}
	})
	b.phase("boot", "Let the servers of "+e.Source.Name+" go on", func() { b.goOn(begun.servers) })
	b.phase("redirect", "Lead clients to "+e.Source.Name, func() { b.redirect(Source) })
	b.begin("Keep the standby")
	for _, name := range moved.databases {
		b.add(b.reverse(name, Forward))
	}
	return b.plan, b.plan.Check()
}

// taken sorts members by what taking them back means: databases that were promoted, what
// was not yet or is a server, and what a failback has begun with.
func taken(e *config.Estate, st *State, seen Seen, p Params, m members) (moved, begun members, staying []string, err error) {
	for _, name := range m.all {
		s := st.Member(name)
		switch {
		case s.By == Failback && s.Moving == Source:
			staying = append(staying, name)
		case s.Lost:
			return moved, begun, nil, hinted("go back by leeward failback plan", "plan rollback: %s was failed over at %s: what its source still has was never drained",
				name, s.Since.Format(time.RFC3339))
		case s.Moving == Source:
			return moved, begun, nil, hinted("go on with it: leeward rollback resume", "plan rollback: %s is on its way back already, by run %s", name, s.Run)
		case s.Primary == Source && s.Moving == "":
			return moved, begun, nil, hinted("name what was moved", "plan rollback: %s is primary at %s and was not moved", name, e.Source.Name)
		case s.Moving == "" && !s.Until.IsZero() && p.Now.After(s.Until):
			return moved, begun, nil, hinted("go back by leeward failback plan", "plan rollback: the window of %s ended at %s", name, s.Until.Format(time.RFC3339))
		}
		switch {
		case e.Database(name) == nil:
			begun.servers = append(begun.servers, name)
		case s.Primary == Target || seen.Databases[name].Phase == engine.Primary:
			moved.databases = append(moved.databases, name)
		default:
			begun.databases = append(begun.databases, name)
		}
	}
	moved.all = moved.databases
	return moved, begun, staying, nil
}

func (b *builder) rollbackNotes(servers []string, st *State, seen Seen) {
	for _, name := range servers {
		if st.Member(name).Primary == Target || seen.Machines[name] {
			b.note("%s: what was written to its disks at %s is not carried back; its machine is stopped and its disk kept in %s/machines/%s",
				name, b.e.Target.Name, b.e.Target.Store, name)
		}
	}
}

// stopAll stops machines at the target, the last to start first.
func (b *builder) stopAll(servers []string) {
	for _, name := range slices.Backward(servers) {
		b.chain(runbook.Step{ID: "stop." + name, Action: actionStop, Object: name, Timeout: 5 * time.Minute, Down: true,
			Title: fmt.Sprintf("stop %s at %s, where it runs, and keep its disk", name, b.e.Target.Name), Args: b.args(name, Back),
			Commands: b.hand(actionStop, name, Back), Look: fmt.Sprintf("look whether a machine %s runs at %s", name, b.e.Target.Name)})
	}
}

// letGo takes the fence from a database whose standby was not promoted, at the site
// that a way leads from.
func (b *builder) letGo(name string, way Way) {
	b.add(runbook.Step{ID: "unfence." + name, Action: actionUnfence, Object: name, Timeout: 5 * time.Minute, Down: true,
		Title: fmt.Sprintf("make sure that %s was not promoted at %s, then let %s write", name, b.site(way.from().Other()), b.site(way.from())),
		Args:  b.args(name, way), Commands: b.hand(actionUnfence, name, way),
		Look: fmt.Sprintf("look at %s at both sites: which of them can be written to", name)})
}

// goOn lets servers of the source serve again, in the order they start.
func (b *builder) goOn(servers []string) {
	for _, name := range servers {
		s := b.e.Server(dr.ServerName(name))
		b.chain(runbook.Step{ID: "unfence." + name, Action: actionUnfence, Object: name, Timeout: 5 * time.Minute, Down: true,
			Title: fmt.Sprintf("make sure that %s is stopped at %s, then take its fence at %s away", name, b.e.Target.Name, b.e.Source.Name),
			Args:  b.args(name, Forward), Commands: unfenceCommands(s), Look: fmt.Sprintf("look whether %s runs at both sites", name)})
		b.resume(s, Source)
		b.record(name, Source, 0, false)
	}
}

// resume lets the applications of a server go on.
func (b *builder) resume(s *config.Server, at Site) {
	if s.Quiesce != nil {
		args := b.args(string(s.Name), Forward)
		args[argAt] = string(at)
		b.chain(runbook.Step{ID: "resume." + string(s.Name), Action: actionResume, Object: string(s.Name), Timeout: 5 * time.Minute, Down: true,
			Title: fmt.Sprintf("let the applications of %s go on", s.Name), Args: args, Commands: resumeCommands(s)})
	}
	b.barrier()
}

func unfenceCommands(s *config.Server) []string {
	switch {
	case s.Fence != nil && s.Fence.Undo != "":
		return []string{s.Fence.Undo}
	case s.Fence != nil:
		return []string{fmt.Sprintf("# start %s where it was stopped", s.Name)}
	case s.Quiesce != nil:
		return []string{fmt.Sprintf("ssh %s systemctl unmask %s", s.Host, strings.Join(s.Quiesce.Stop, " "))}
	}
	return nil
}

func resumeCommands(s *config.Server) []string {
	if s.Quiesce.Undo != nil {
		return []string{workCommand(s.Quiesce.Undo)}
	}
	return []string{fmt.Sprintf("ssh %s systemctl start %s", s.Host, strings.Join(s.Quiesce.Stop, " "))}
}

// PlanFailover plans to go on at the target without the source.
func PlanFailover(e *config.Estate, st *State, seen Seen, p Params) (*runbook.Plan, error) {
	m, left := chosen(e, st, p, Source)
	if len(m.all) == 0 {
		return nil, errors.New("plan failover: nothing is chosen")
	}
	points := map[string]dr.PointID{}
	for _, name := range m.all {
		if s := st.Member(name); s.Primary == Target && s.Moving == "" {
			return nil, hinted("leave it out", "plan failover: %s is primary at %s already, since %s", name, e.Target.Name, s.Since.Format(time.RFC3339))
		}
		if e.Database(name) != nil {
			continue
		}
		point, err := choosePoint(name, seen.Points[name], p.Points[name])
		if err != nil {
			return nil, err
		}
		points[name] = point
	}
	b := newBuilder(e, Failover, st, m.all, p.Now)
	if p.Force {
		b.plan.Params["force"] = "yes"
	}
	if !p.Failed.IsZero() {
		b.plan.Params[argFailed] = p.Failed.UTC().Format(time.RFC3339)
	}
	for name, point := range points {
		b.plan.Params["point."+name] = string(point)
	}
	b.plan.Notes = left
	b.lossNotes(m, seen, points, p)
	b.failoverPreflight(m, p)
	b.room(m.servers)
	b.approval(b.failoverQuestion(m))
	b.onRecord(nil, m.all, Forward)
	b.away(slices.DeleteFunc(slices.Clone(m.servers), func(name string) bool { return st.Member(name).Moving != "" }), Target)
	b.phase("fence", "Make sure that "+e.Source.Name+" cannot write", func() { b.cutOff(m) })
	b.phase("promote", "Promote "+e.Target.Name, func() { b.failDatabases(m, p) })
	b.phase("boot", "Start servers at "+e.Target.Name, func() { b.boot(m, points) })
	b.phase("redirect", "Lead clients to "+e.Target.Name, func() { b.redirect(Target) })
	return b.plan, b.plan.Check()
}

func choosePoint(server string, have []Point, want dr.PointID) (dr.PointID, error) {
	if len(have) == 0 {
		return "", hinted("leave it out, or take the databases alone", "plan failover: %s has no recovery point", server)
	}
	if want == "" {
		return have[0].ID, nil
	}
	if !slices.ContainsFunc(have, func(p Point) bool { return p.ID == want }) {
		return "", hinted("list them: leeward points "+server, "plan failover: %s has no recovery point %s", server, want)
	}
	return want, nil
}

// lossNotes says what each choice loses.
func (b *builder) lossNotes(m members, seen Seen, points map[string]dr.PointID, p Params) {
	failed := p.Failed
	if failed.IsZero() {
		failed = p.Now
	}
	for _, name := range m.databases {
		s := seen.Databases[name]
		if s.Heard.IsZero() {
			s.Heard = s.Newest
		}
		switch {
		case s.Phase == engine.Absent:
			b.note("%s was never replicated: there is nothing to promote", name)
		case s.Heard.IsZero():
			b.note("%s: how old what is here is, is not known", name)
		default:
			b.note("%s was last heard of at %s: what was committed in the %s since is lost", name, s.Heard.UTC().Format(time.RFC3339),
				short(failed.Sub(s.Heard)))
		}
		for _, t := range s.Trouble {
			b.note("%s: %s", name, t)
		}
	}
	for _, name := range m.servers {
		for _, pt := range seen.Points[name] {
			mark := " "
			if pt.ID == points[name] {
				mark = "*"
			}
			proven := "never booted"
			if pt.Proven {
				proven = "proven"
			}
			b.note("%s%s point %s: loses what was written in the %s since, %s", mark, name, pt.ID, short(failed.Sub(pt.At)), proven)
		}
	}
}

// short is a duration that people read.
func short(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	return d.Round(time.Second).String()
}

func (b *builder) failoverPreflight(m members, p Params) {
	b.begin("Look before anything is done")
	for _, name := range m.all {
		args := map[string]string{argMember: b.kind(name), argWay: string(Forward), argRun: Failover}
		if p.Force {
			args[argForce] = "yes"
		}
		b.add(runbook.Step{ID: "preflight." + name, Action: actionPreflight, Object: name, Looks: true, Timeout: 2 * time.Minute,
			Title: fmt.Sprintf("look that %s does not answer for %s, and that what is at %s can be gone on with", b.e.Source.Name, name, b.e.Target.Name),
			Args:  args, Commands: b.hand(actionPreflight, name, Forward)})
	}
	b.barrier()
}

func (b *builder) failoverQuestion(m members) string {
	var word []string
	for _, name := range m.all {
		if b.cutOffOf(name) == nil {
			word = append(word, name)
		}
	}
	q := fmt.Sprintf("Go on with %s at %s, and lose what the notes above say?", strings.Join(m.all, ", "), b.e.Target.Name)
	if len(word) > 0 {
		q += fmt.Sprintf(" Nothing makes sure that %s cannot write at %s any more: your yes is your word that it is dead, and is put on record.",
			strings.Join(word, ", "), b.e.Source.Name)
	}
	return q
}

// cutOffOf is the user's command that makes a member unable to write from without.
func (b *builder) cutOffOf(name string) *config.Work {
	if db := b.e.Database(name); db != nil {
		return db.Fence
	}
	if b.st.Member(name).Home {
		return nil // the user's fence is of the machine it was before
	}
	return b.e.Server(dr.ServerName(name)).Fence
}

func (b *builder) cutOff(m members) {
	for _, name := range m.all {
		w := b.cutOffOf(name)
		if w == nil {
			continue
		}
		args := workArgs(w)
		// Observing is all that a fence's outcome rests on, so it may be raised again.
		b.add(runbook.Step{ID: "cut-off." + name, Action: actionCut, Object: name, Timeout: 5 * time.Minute, Args: args,
			Title:    fmt.Sprintf("make sure that %s cannot write at %s: %s", name, b.e.Source.Name, w.Command),
			Commands: []string{workCommand(w), w.Check}, Look: fmt.Sprintf("look whether %s can still write at %s: %s", name, b.e.Source.Name, w.Check)})
	}
}

func (b *builder) failDatabases(m members, p Params) {
	for _, name := range m.databases {
		args := b.args(name, Forward)
		if p.Force {
			args[argForce] = "yes"
		}
		if !p.Failed.IsZero() {
			args[argFailed] = p.Failed.UTC().Format(time.RFC3339)
		}
		id := b.add(runbook.Step{ID: "failover." + name, Action: actionFailover, Object: name, Timeout: time.Hour,
			Title: fmt.Sprintf("apply what has landed of %s, then let %s write", name, b.e.Target.Name),
			Args:  args, Commands: b.hand(actionFailover, name, Forward),
			Look: fmt.Sprintf("look at %s at %s: can it be written to", name, b.e.Target.Name)})
		b.record(name, Target, 0, true, id)
	}
}
