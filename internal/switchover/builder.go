package switchover

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// Names of the actions.
const (
	actionPreflight = "preflight"
	actionToken     = "token"
	actionQuiesce   = "quiesce"
	actionResume    = "resume"
	actionPass      = "pass"
	actionCatchUp   = "catch-up"
	actionFence     = "fence"
	actionCut       = "cut-off"
	actionDrain     = "drain"
	actionCompare   = "compare"
	actionPromote   = "promote"
	actionFailover  = "failover"
	actionUnfence   = "unfence"
	actionBoot      = "boot"
	actionProbe     = "probe"
	actionStop      = "stop"
	actionRedirect  = "redirect"
	actionRecord    = "record"
	actionReverse   = "reverse"
	actionAway      = "put-away"
	actionHalt      = "halt"
	actionStart     = "start"
	actionAbsent    = "absent"
	actionRoom      = "room"
	actionDrill     = "drill"
	actionAside     = "set-aside"
	actionLeave     = "quarantine"
)

// Arguments of steps.
const (
	argWay    = "way"
	argTo     = "to"    // a site
	argToken  = "token" // the fencing token the run writes
	argPoint  = "point"
	argGrace  = "grace"
	argLost   = "lost"
	argWindow = "window"
	argMember = "kind" // server or database
	argFailed = "failed"
	argHere   = "here"  // a token is written here alone
	argForce  = "force" // what stands in the way was seen, and is no reason
	argNoBack = "no-way-back"
	argRun    = "kind-of-run"
	argAt     = "at"      // the site whose machine is meant; the target where it is not there
	argHome   = "home"    // at the source it is a machine of ours from now on
	argAgain  = "as-was"  // what is on record of a window and of a loss stays
	argNames  = "members" // of a step that is of several
)

// builder makes a plan phase by phase: steps of one phase run at once, after all of
// the phase before.
type builder struct {
	e     *config.Estate
	st    *State
	plan  *runbook.Plan
	token int64

	heading string
	before  []string // steps every new one waits for
	open    []string // steps of this phase
}

func newBuilder(e *config.Estate, kind string, st *State, members []string, now time.Time) *builder {
	token := st.Token + 1
	b := &builder{e: e, st: st, token: token, plan: &runbook.Plan{
		Format: runbook.Format, Kind: kind, Estate: e.Name, Subject: members, Made: now.UTC(),
		State: st.digest(members), Params: map[string]string{argToken: strconv.FormatInt(token, 10)},
	}}
	b.wholeNotes(members)
	return b
}

// phase begins a new one. The user's own steps that belong before it come first, those
// after it last.
func (b *builder) phase(key, heading string, fill func()) {
	b.users(key, heading, true)
	b.begin(heading)
	fill()
	b.users(key, heading, false)
	b.barrier()
}

func (b *builder) begin(heading string) {
	b.barrier()
	b.heading = heading
}

// barrier makes what follows wait for everything so far.
func (b *builder) barrier() {
	if len(b.open) > 0 {
		b.before, b.open = b.open, nil
	}
}

// add appends a step that waits for the phases before and for after.
func (b *builder) add(s runbook.Step, after ...string) string {
	s.Phase = b.heading
	s.After = append(slices.Clone(b.before), after...)
	if s.Timeout == 0 {
		s.Timeout = 10 * time.Minute
	}
	b.plan.Steps = append(b.plan.Steps, s)
	// Whoever waits for this step waits for those it waits for.
	b.open = slices.DeleteFunc(b.open, func(id string) bool { return slices.Contains(after, id) })
	b.open = append(b.open, s.ID)
	return s.ID
}

// chain adds a step after everything of this phase so far.
func (b *builder) chain(s runbook.Step) string {
	b.barrier()
	return b.add(s)
}

// users adds the user's own steps of a place, one after the other.
func (b *builder) users(key, heading string, before bool) {
	for _, u := range b.e.Switchover.Steps {
		if u.Phase != key || u.Before != before || len(u.Of) > 0 && !slices.Contains(u.Of, b.plan.Kind) {
			continue
		}
		b.heading = heading
		b.chain(userStep(u))
	}
}

// userStep turns a step of the configuration into one of a plan.
func userStep(u config.UserStep) runbook.Step {
	s := runbook.Step{ID: "user." + u.Name, Title: u.Name, Timeout: u.Timeout, Args: map[string]string{}}
	switch {
	case u.Manual != "":
		s.Action, s.Title = runbook.ActionManual, "a person: "+u.Manual
		s.Args[runbook.ArgText] = u.Manual
		s.Commands = []string{"# " + u.Manual}
		return s
	case u.URL != "":
		s.Action, s.Title = runbook.ActionHTTP, fmt.Sprintf("%s: %s %s", u.Name, u.Method, u.URL)
		s.Args = map[string]string{runbook.ArgMethod: u.Method, runbook.ArgURL: u.URL, runbook.ArgContain: u.Contain}
		if u.Expect != 0 {
			s.Args[runbook.ArgExpect] = strconv.Itoa(u.Expect)
		}
		if u.Work != nil {
			s.Args[runbook.ArgCheck] = u.Work.Check
		}
		s.Looks = u.Method == http.MethodGet || u.Method == http.MethodHead
		s.Commands = []string{fmt.Sprintf("curl -fsS -X %s %s", u.Method, quote(u.URL))}
		return s
	}
	s.Action, s.Args = runbook.ActionCommand, workArgs(u.Work)
	s.Title = u.Name + ": " + u.Work.Command
	if u.Work.Host != "" {
		s.Title += " on " + u.Work.Host
	}
	s.Commands = []string{workCommand(u.Work)}
	return s
}

func workArgs(w *config.Work) map[string]string {
	a := map[string]string{runbook.ArgCommand: w.Command}
	if w.Host != "" {
		a[runbook.ArgHost] = w.Host
	}
	if w.Check != "" {
		a[runbook.ArgCheck] = w.Check
	}
	if w.Repeat {
		a[runbook.ArgRepeat] = "yes"
	}
	return a
}

func workCommand(w *config.Work) string {
	if w.Host == "" {
		return w.Command
	}
	return "ssh " + w.Host + " " + quote(w.Command)
}

// quote makes one word of s for a shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./:@%+=,", c))
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// approval adds a person's yes, for which everything waits.
func (b *builder) approval(text string) {
	b.begin("Approval")
	b.chain(runbook.Step{
		ID: "approval", Action: runbook.ActionApproval, Looks: true, Timeout: b.e.Switchover.Approval,
		Title: "a person says yes", Args: map[string]string{runbook.ArgText: text},
		Commands: []string{"# write down who said yes, and when"},
	})
	b.barrier()
}

// members is what a plan moves, in the order of the groups: what is started first
// comes first.
type members struct {
	servers   []string
	databases []string
	all       []string
}

// chosen are the members of a plan that begins where they are primary at a site. Where
// nobody named any they are all that is there, but for servers that a database is on which
// moves by itself: left says so. Such a database cannot come back to a server that is
// fenced.
func chosen(e *config.Estate, st *State, p Params, at Site) (m members, left []string) {
	if p.Chosen {
		return ordered(e, p.Members), nil
	}
	var names []string
	for _, name := range p.Members {
		if s := st.Member(name); s.Primary == at || s.Moving != "" {
			names = append(names, name)
		}
	}
	for db, hosts := range e.HostedBy() {
		for _, h := range hosts {
			if i := slices.Index(names, string(h)); i >= 0 && slices.Contains(names, db) && st.Member(string(h)).Primary == Source {
				names = slices.Delete(names, i, i+1)
				left = append(left, fmt.Sprintf("%s is left out: the database %s, which moves by itself, is on it", h, db))
			}
		}
	}
	slices.Sort(left)
	return ordered(e, names), left
}

// ordered puts the chosen names into the order in which they start.
func ordered(e *config.Estate, chosen []string) (m members) {
	var order []string
	add := func(name string) {
		if slices.Contains(chosen, name) && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	for _, g := range e.Groups {
		for _, name := range g.Order {
			add(name)
		}
	}
	for _, d := range e.Databases {
		add(d.Name)
	}
	for _, s := range e.Servers {
		add(string(s.Name))
	}
	m.all = order
	for _, name := range order {
		if e.Database(name) != nil {
			m.databases = append(m.databases, name)
		} else {
			m.servers = append(m.servers, name)
		}
	}
	return m
}
