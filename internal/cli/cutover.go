package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/runbook"
	"github.com/leeward-dr/leeward/internal/switchover"
)

const (
	runsDir   = "runs"       // in the store: one directory a run
	switchDir = "switchover" // in the store: which site is primary, and the lease
	leaseFile = "lease"
)

// planned is the result of cutover plan and its like.
type planned struct {
	Serial string        `json:"serial"`
	Plan   *runbook.Plan `json:"plan"`
}

// ran is the result of cutover apply and resume.
type ran struct {
	runbook.Report
	GoOn []string `json:"go_on,omitempty"` // what a person does next
}

// runsResult is the result of cutover list.
type runsResult struct {
	Runs []runbook.Report `json:"runs"`
}

func runCutover(ctx context.Context, c *call) error  { return runSwitch(ctx, c, switchover.Cutover) }
func runFailover(ctx context.Context, c *call) error { return runSwitch(ctx, c, switchover.Failover) }
func runRollback(ctx context.Context, c *call) error { return runSwitch(ctx, c, switchover.Rollback) }
func runFailback(ctx context.Context, c *call) error { return runSwitch(ctx, c, switchover.Failback) }

// switchCall is one call of cutover, failover, rollback or failback.
type switchCall struct {
	*call
	kind  string
	e     *config.Estate
	dir   string // of the store's data
	world *switchover.World

	serial, run, step, is string
	yes                   bool
	supposed              bool // the plan is of the day after a cutover
	params                switchover.Params
}

func runSwitch(ctx context.Context, c *call, kind string) error {
	s := &switchCall{call: c, kind: kind}
	names, err := s.parseSwitch()
	if err != nil {
		return err
	}
	do := map[string]func(context.Context) error{"plan": s.plan, "apply": s.apply, "resume": s.resume, "list": s.list}
	if kind == switchover.Failover {
		do["quarantine"] = s.quarantine
	}
	if len(names) == 0 || do[names[0]] == nil {
		return dr.WithHint(usagef("%s: say what to do", kind), fmt.Sprintf("want leeward %s plan, apply, resume or list", kind))
	}
	s.params.Chosen = len(names) > 1
	e, servers, err := c.estate(names[1:])
	if err != nil {
		return err
	}
	s.e = e
	for _, n := range c.everything(servers) {
		s.params.Members = append(s.params.Members, string(n))
	}
	if err := s.enter(ctx, servers); err != nil {
		return err
	}
	return do[names[0]](ctx)
}

// parseSwitch reads the flags and returns what else there is.
func (s *switchCall) parseSwitch() ([]string, error) {
	var failed string
	f := s.flags
	f.StringVar(&s.serial, "serial", "", "apply: the `SERIAL` that plan printed")
	f.BoolVar(&s.yes, "yes", false, "apply, resume: this is the approval; nobody is asked")
	f.StringVar(&s.run, "run", "", "resume: the run `ID`; the newest that is not over where it is not given")
	f.StringVar(&s.step, "step", "", "resume: a person looked at the step `ID` …")
	f.StringVar(&s.is, "is", "", "resume: … and it is `done|not-done`")
	switch s.kind {
	case switchover.Cutover:
		f.BoolVar(&s.params.NoBack, "no-way-back", false, "though there may be no way back")
	case switchover.Failover:
		f.BoolVar(&s.params.Force, "force", false, "though the source answers, or what is here is no state it had")
		f.StringVar(&failed, "failed-at", "", "when the source was lost, as a `TIME` with its offset: the loss is reckoned to it")
		f.Func("point", "boot `SERVER=POINT` in place of its newest point; may be given again", s.takePoint)
	}
	names, err := s.parse()
	if err != nil {
		return nil, err
	}
	if failed != "" {
		if s.params.Failed, err = time.Parse(time.RFC3339, failed); err != nil {
			return nil, dr.WithHint(usagef("--failed-at %q: want a time with its offset from UTC", failed), "as in 2017-09-10T12:00:00-04:00")
		}
	}
	if (s.step == "") != (s.is == "") || s.is != "" && s.is != "done" && s.is != "not-done" {
		return nil, usagef("want both of --step ID and --is done|not-done")
	}
	return names, nil
}

func (s *switchCall) takePoint(v string) error {
	server, point, ok := strings.Cut(v, "=")
	if !ok || server == "" || point == "" {
		return errors.New("want SERVER=POINT")
	}
	if s.params.Points == nil {
		s.params.Points = map[string]dr.PointID{}
	}
	s.params.Points[server] = dr.PointID(point)
	return nil
}

// enter makes the store usable, and the world that plans act on. Servers are mounted
// and booted: that is done in a mount namespace of this process.
func (s *switchCall) enter(ctx context.Context, servers []dr.ServerName) error {
	ready := ensureStore
	if len(servers) > 0 {
		ready = enterStore
	}
	if err := ready(ctx, s.e); err != nil {
		return err
	}
	st, err := replica.Open(ctx, s.e.Target.Store)
	if err != nil {
		return err
	}
	s.dir = st.Dir()
	if err := st.Close(); err != nil {
		return err
	}
	s.world = switchover.NewWorld(s.e, s.dir, filepath.Join(s.dir, switchDir))
	return nil
}

// newPlan makes the plan of now.
func (s *switchCall) newPlan(ctx context.Context) (*runbook.Plan, error) {
	state, err := s.world.State.Load()
	if err != nil {
		return nil, err
	}
	if s.supposed {
		state = switchover.Moved(s.e, state, s.params.Members)
	}
	s.params.Now = time.Now()
	seen, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	plan := map[string]func(*config.Estate, *switchover.State, switchover.Seen, switchover.Params) (*runbook.Plan, error){
		switchover.Cutover: switchover.PlanCutover, switchover.Failover: switchover.PlanFailover, switchover.Rollback: switchover.PlanRollback,
		switchover.Failback: switchover.PlanFailback,
	}[s.kind]
	return plan(s.e, state, seen, s.params)
}

func (s *switchCall) plan(ctx context.Context) error {
	p, err := s.newPlan(ctx)
	if err != nil {
		return err
	}
	return s.done(exitDone, planned{p.Serial(), p}, func(w io.Writer) {
		if p.WriteText(w) == nil {
			fmt.Fprintf(w, "\nto do this: leeward %s apply --serial %s%s\n", s.kind, p.Serial(), s.arguments())
		}
	})
}

// arguments are those of this call that shape its plan.
func (s *switchCall) arguments() string {
	var out []string
	if s.call.config != config.DefaultFile {
		out = append(out, "-c", s.call.config)
	}
	if s.params.NoBack {
		out = append(out, "--no-way-back")
	}
	if s.params.Force {
		out = append(out, "--force")
	}
	if !s.params.Failed.IsZero() {
		out = append(out, "--failed-at", s.params.Failed.Format(time.RFC3339))
	}
	for server, p := range s.params.Points {
		out = append(out, "--point", server+"="+string(p))
	}
	if s.params.Chosen {
		out = append(out, s.params.Members...)
	}
	if len(out) == 0 {
		return ""
	}
	return " " + strings.Join(out, " ")
}

func (s *switchCall) runs() string { return filepath.Join(s.dir, runsDir) }

// lease takes the right to run runbooks on this store.
func (s *switchCall) lease(who runbook.Actor, what string) (*runbook.Lease, error) {
	return runbook.Take(filepath.Join(s.dir, switchDir, leaseFile), who, what, time.Now())
}

func (s *switchCall) apply(ctx context.Context) (err error) {
	if s.serial == "" {
		return dr.WithHint(usagef("apply: want --serial"), fmt.Sprintf("leeward %s plan prints it, with all that would be done", s.kind))
	}
	who := runbook.Self(s.Getenv)
	lease, err := s.lease(who, s.kind+" "+s.serial)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	p, err := s.newPlan(ctx)
	if err != nil {
		return err
	}
	if err := runbook.Fresh(p, s.serial, fmt.Sprintf("leeward %s plan%s", s.kind, s.arguments())); err != nil {
		return err
	}
	if err := s.supersede(p, who); err != nil {
		return err
	}
	return s.execute(ctx, who, func(o runbook.Options) (*runbook.Run, error) { return runbook.Begin(s.runs(), p, o) })
}

// supersede ends for good what earlier runs of the same members left unfinished: two
// runs that both go on would undo each other's work.
func (s *switchCall) supersede(p *runbook.Plan, who runbook.Actor) error {
	all, err := runbook.List(s.runs())
	if err != nil {
		return err
	}
	for _, rep := range all {
		if rep.Over || !slices.ContainsFunc(rep.Subject, func(m string) bool { return slices.Contains(p.Subject, m) }) {
			continue
		}
		old, err := runbook.Resume(s.runs(), rep.ID, runbook.Options{Actions: s.actions(nil), Actor: who})
		if err != nil {
			return fmt.Errorf("end run %s: %w", rep.ID, err)
		}
		if err := errors.Join(old.Abandon(fmt.Sprintf("superseded by %s %s", p.Kind, p.Serial())), old.Close()); err != nil {
			return fmt.Errorf("end run %s: %w", rep.ID, err)
		}
	}
	return nil
}

func (s *switchCall) resume(ctx context.Context) (err error) {
	who := runbook.Self(s.Getenv)
	lease, err := s.lease(who, "resuming a "+s.kind)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lease.Release()) }()
	if s.run == "" {
		if s.run, err = s.unfinished(); err != nil {
			return err
		}
	}
	return s.execute(ctx, who, func(o runbook.Options) (*runbook.Run, error) {
		r, err := runbook.Resume(s.runs(), s.run, o)
		if err != nil || s.step == "" {
			return r, err
		}
		word := dr.NotDone
		if s.is == "done" {
			word = dr.Done
		}
		if err := r.Tell(s.step, word); err != nil {
			return nil, errors.Join(&usageError{err}, r.Close())
		}
		return r, nil
	})
}

// unfinished finds the newest run of this kind that is not over.
func (s *switchCall) unfinished() (string, error) {
	all, err := runbook.List(s.runs())
	if err != nil {
		return "", err
	}
	for _, rep := range slices.Backward(all) {
		if rep.Kind == s.kind && !rep.Over {
			return rep.ID, nil
		}
	}
	return "", dr.WithHint(fmt.Errorf("resume: there is no %s that is not over", s.kind), fmt.Sprintf("leeward %s list tells of all", s.kind))
}

func (s *switchCall) actions(ask runbook.Asker) runbook.Actions {
	w := *s.world
	w.Asker = ask
	return switchover.Actions(&w)
}

// execute runs what open opens, with live progress, and tells how it ended.
func (s *switchCall) execute(ctx context.Context, who runbook.Actor, open func(runbook.Options) (*runbook.Run, error)) error {
	cell := &runbook.Cell[runbook.Snapshot]{}
	live := s.newLive(cell)
	ask := &asker{c: s.call, live: live, who: who, yes: s.yes}
	r, err := open(runbook.Options{Actions: s.actions(ask), Actor: who, Progress: cell})
	if err != nil {
		return err
	}
	live.begin()
	rep, err := r.Execute(ctx)
	live.end()
	err = errors.Join(err, r.Close(), s.writeReport(rep))
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("run %s: %w", rep.ID, err)
	}
	res := ran{rep, s.goOn(rep)}
	code := runCode(rep)
	if ctx.Err() != nil {
		code = exitInterrupted
	}
	return s.done(code, res, func(w io.Writer) { renderSwitch(w, res) })
}

// runCode is the exit code of a run.
func runCode(rep runbook.Report) int {
	switch {
	case rep.Outcome == dr.Done:
		return exitDone
	case rep.Outcome == dr.Unknown:
		return exitUnknown
	case rep.Changed():
		return exitIncomplete
	}
	return exitFailed
}

// goOn says what a person does next after a run that is not done.
func (s *switchCall) goOn(rep runbook.Report) (out []string) {
	if rep.Outcome == dr.Done {
		return nil
	}
	resume := fmt.Sprintf("leeward %s resume%s", rep.Kind, strings.TrimSuffix(" -c "+s.call.config, " -c "+config.DefaultFile))
	for _, st := range rep.Stuck() {
		out = append(out, st.ID+": "+st.OnWith(resume))
	}
	if len(out) == 0 {
		out = append(out, "mend what is told above, then go on: "+resume)
	}
	if rep.Kind == switchover.Cutover && rep.Changed() {
		out = append(out, "or take all of it back: leeward rollback plan")
	}
	if rep.Kind == switchover.Failback && rep.Changed() {
		out = append(out, fmt.Sprintf("or let %s go on with what is not home yet: leeward rollback plan NAME…", s.e.Target.Name))
	}
	return out
}

func (s *switchCall) list(context.Context) error {
	all, err := runbook.List(s.runs())
	all = slices.DeleteFunc(all, func(r runbook.Report) bool { return r.Kind != s.kind })
	if err != nil {
		return errors.Join(err, s.done(exitFailed, runsResult{all}, nil))
	}
	return s.done(exitDone, runsResult{all}, func(w io.Writer) { renderSwitches(w, all) })
}

// writeReport keeps what a run came to beside its journal, as a page to read.
func (s *switchCall) writeReport(rep runbook.Report) error {
	dir := filepath.Join(s.runs(), rep.ID)
	if _, err := os.Stat(dir); err != nil {
		return nil // a run that was never begun has none
	}
	return writeRunReport(dir, rep)
}
