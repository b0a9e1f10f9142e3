package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/report"
	"github.com/leeward-dr/leeward/internal/vm"
)

const (
	drillsDir  = "drills"      // in the store: one directory a drill
	drillFile  = "result.json" // in that
	keepDrills = 20
)

// drillResult is the result of drill, and what drillFile holds.
type drillResult struct {
	Version  int            `json:"version"`
	Started  time.Time      `json:"started"`
	Duration time.Duration  `json:"duration_ns"`
	Dir      string         `json:"dir"` // serial logs and pictures
	Estate   string         `json:"estate"`
	Servers  []drill.Result `json:"servers"`
	Groups   []drillGroup   `json:"groups,omitempty"`
}

type drillFlags struct {
	parallel int
	timeout  time.Duration
	firmware string
	point    string
	fallback bool
	keep     bool
	close    bool
}

func runDrill(ctx context.Context, c *call) error {
	var f drillFlags
	c.flags.IntVar(&f.parallel, "parallel", 0, "machines at once, `N`; one a core where it is not given, and one more where they are emulated")
	c.flags.DurationVar(&f.timeout, "timeout", 10*time.Minute, "give a machine `D` to come up")
	c.flags.StringVar(&f.firmware, "firmware", "", "start all by `FW`, bios or uefi, in place of what the source has")
	c.flags.StringVar(&f.point, "point", "", "drill the point `ID` of the one server named, in place of the newest")
	c.flags.BoolVar(&f.fallback, "fallback", false, "where a point is damaged and refused, drill the one before it")
	c.flags.BoolVar(&f.keep, "keep", false, "leave what was proven running, say how to enter, and wait for --close or an interrupt")
	c.flags.BoolVar(&f.close, "close", false, "end the drills that were left open")
	names, err := c.parse()
	if err != nil {
		return err
	}
	if f.firmware != "" && f.firmware != string(vm.BIOS) && f.firmware != string(vm.UEFI) {
		return usagef("firmware %q: want bios or uefi", f.firmware)
	}
	e, selected, err := c.estate(names)
	if err == nil {
		err = c.needServers(selected)
	}
	if err != nil {
		return err
	}
	if f.point != "" && len(selected) != 1 {
		return usagef("--point is of one server; %d are named", len(selected))
	}
	if e.Target.Hypervisor != "qemu" {
		return &configError{dr.WithHint(fmt.Errorf("drill with hypervisor %s: this version drills with qemu only", e.Target.Hypervisor),
			"set hypervisor: qemu in "+e.File)}
	}
	if err := enterStore(ctx, e); err != nil {
		return err
	}
	if f.close {
		return c.closeDrills(ctx, e)
	}
	res, err := c.drill(ctx, e, selected, f)
	if err != nil {
		return err
	}
	var parts []dr.Outcome
	for _, s := range res.Servers {
		parts = append(parts, s.Outcome)
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderDrill(w, res) })
}

// drill boots the newest point of each named server and puts what came of it on
// record in the store.
func (c *call) drill(ctx context.Context, e *config.Estate, names []dr.ServerName, f drillFlags) (_ *drillResult, err error) {
	s, err := replica.Open(ctx, e.Target.Store)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	removeDeadScratch(s)
	work, err := s.Scratch(fmt.Sprintf("drill-%d", os.Getpid()))
	if err != nil {
		return nil, err
	}
	lock, err := lockScratch(work)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work), lock.Close()) }()
	res := &drillResult{
		Version: 1, Started: c.started.UTC(), Estate: e.Name,
		Dir: filepath.Join(s.Dir(), drillsDir, string(dr.NewPointID(c.started))),
	}
	p := c.startProgress("drill", names)
	defer p.Close()
	steps := &trails{}
	pick := &chosen{store: s, work: work, flags: f, progress: p.Report, trails: steps}
	pick.choose(ctx, names)
	subjects, missing := pick.subjects, pick.missing
	for _, m := range missing {
		if !slices.ContainsFunc(subjects, func(s drill.Subject) bool { return s.Server == m.Server }) {
			p.Report(protect.Progress{Server: m.Server, Finished: true, Err: errors.New(m.Cause)})
		}
	}
	longestFirst(subjects, lastDrills(s.Dir()))
	describe(e, subjects)
	held := holdDrilled(s, subjects)
	o := drill.Options{
		Outside:  outside(e),
		Parallel: f.parallel, Timeout: f.timeout, Firmware: vm.Firmware(f.firmware), Accelerator: vm.Accel(e.Target.Accelerator),
		WorkDir: filepath.Join(work, "machines"), ResultDir: res.Dir,
		Progress: func(u drill.Update) { p.Report(steps.drillProgress(u)) },
	}
	if f.keep {
		o.Keep = func(ctx context.Context, open []drill.Open) { c.keepOpen(ctx, work, open) }
	}
	results, err := drill.Run(ctx, subjects, o)
	proofErr := settleProofs(held, results, filepath.Base(res.Dir))
	if len(results) != len(subjects) {
		return nil, err // it did not begin; otherwise the results tell
	}
	pick.settle(ctx, results)
	res.Servers = inOrder(names, append(missing, results...))
	res.Duration = time.Since(c.started)
	res.Groups = groupResults(e, res.Servers)
	return res, errors.Join(recordDrill(s, res), proofErr)
}

// inOrder sorts results as the estate has the servers.
func inOrder(names []dr.ServerName, results []drill.Result) []drill.Result {
	slices.SortStableFunc(results, func(a, b drill.Result) int {
		return slices.Index(names, a.Server) - slices.Index(names, b.Server)
	})
	return results
}

// longestFirst sorts subjects by how long they took the last time, so that none of
// the long ones is left alone at the end. What was never drilled comes first.
func longestFirst(subjects []drill.Subject, last map[dr.ServerName]drill.Result) {
	took := func(s drill.Subject) time.Duration {
		if r, ok := last[s.Server]; ok && r.Took > 0 {
			return r.Took
		}
		return math.MaxInt64
	}
	slices.SortStableFunc(subjects, func(a, b drill.Subject) int { return cmp.Compare(took(b), took(a)) })
}

// recordDrill writes the result beside the logs, last, and prunes old drills.
func recordDrill(s *replica.Store, res *drillResult) error {
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return fmt.Errorf("record drill: %w", err)
	}
	if err := os.MkdirAll(res.Dir, 0o755); err != nil {
		return fmt.Errorf("record drill: %w", err)
	}
	if err := report.Write(res.Dir, drillPage(res), res, 0o644); err != nil {
		return fmt.Errorf("record drill: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(res.Dir, drillFile), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("record drill: %w", err)
	}
	dirs, err := filepath.Glob(filepath.Join(s.Dir(), drillsDir, "*"))
	if err != nil {
		return fmt.Errorf("prune drills: %w", err)
	}
	slices.Sort(dirs) // by age, as their names are times
	for _, d := range dirs[:max(0, len(dirs)-keepDrills)] {
		if err := os.RemoveAll(d); err != nil {
			return fmt.Errorf("prune drills: %w", err)
		}
	}
	return nil
}

// lastDrills returns the newest result on record of each server in the store dir.
func lastDrills(dir string) map[dr.ServerName]drill.Result {
	files, _ := filepath.Glob(filepath.Join(dir, drillsDir, "*", drillFile)) // the pattern is well formed
	slices.Sort(files)
	out := map[dr.ServerName]drill.Result{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		var res drillResult
		if err != nil || json.Unmarshal(b, &res) != nil || res.Version != 1 {
			continue // it counts as not drilled
		}
		for _, r := range res.Servers {
			if r.Point != "" {
				out[r.Server] = r
			}
		}
	}
	return out
}

func renderDrill(w io.Writer, res *drillResult) {
	t := table{right: map[int]bool{4: true, 5: true, 6: true, 7: true, 8: true, 9: true}}
	t.row("server", "verdict", "firmware", "run by", "clone", "adapt", "boot", "probe", "took", "checks", "recovery point")
	for _, r := range res.Servers {
		h := r.Phases
		t.row(string(r.Server), drillVerdict(r), dash(string(r.Firmware)), dash(string(r.Accelerator)), spanOrDash(h.Clone), spanOrDash(h.Adapt),
			spanOrDash(h.Boot), spanOrDash(h.Probe), span(r.Took), checksWord(r), dash(string(r.Point)))
	}
	fmt.Fprintln(w)
	t.print(w, "")
	renderGroups(w, res.Groups)
	renderProbes(w, res.Servers)
	for _, r := range res.Servers {
		renderServerDrill(w, r)
	}
	for _, l := range drillNotes(res.Servers) {
		fmt.Fprintf(w, "\n%s\n", l)
	}
	fmt.Fprintf(w, "\n%s in %s; report: %s\n", drillTally(res.Servers), span(res.Duration), filepath.Join(res.Dir, report.HTMLFile))
}

// drillTally counts what is proven: servers, or points where a server has two of them.
func drillTally(results []drill.Result) string {
	var parts []dr.Outcome
	refused := false
	for _, r := range results {
		parts = append(parts, r.Outcome)
		refused = refused || r.Refused
	}
	text := strings.Replace(tally(parts), " done", " proven by booting", 1)
	if refused {
		text = strings.Replace(text, " server", " point", 1)
	}
	return text
}

// renderGroups lists what servers that recover together took.
func renderGroups(w io.Writer, groups []drillGroup) {
	if len(groups) == 0 {
		return
	}
	t := table{right: map[int]bool{2: true}}
	t.row("group", "verdict", "achieved RTO", "last one")
	for _, g := range groups {
		t.row(g.Name, groupVerdict(g), spanOrDash(g.RTO), dash(string(g.Last)))
	}
	fmt.Fprintln(w)
	t.print(w, "")
}

func dash(s string) string { return choose(s == "", "-", s) }

func drillVerdict(r drill.Result) string {
	switch r.Outcome {
	case dr.Done:
		return "proven"
	case dr.NotDone:
		return choose(r.Refused, "REFUSED", "NOT PROVEN")
	}
	return "UNKNOWN"
}

func checksWord(r drill.Result) string {
	good, all := 0, slices.Concat(r.Checks, r.Probes)
	for _, c := range all {
		if c.Outcome == dr.Done {
			good++
		}
	}
	return fmt.Sprintf("%d of %d", good, len(all))
}

func renderServerDrill(w io.Writer, r drill.Result) {
	if r.Outcome == dr.Done {
		return
	}
	fmt.Fprintf(w, "\n%s\n", r.Server)
	renderTrouble(w, r.Cause, r.Hint)
	for _, c := range r.Checks {
		if c.Outcome != dr.Done {
			fmt.Fprintf(w, "    check %s: %s: %s\n", c.Name, c.Outcome, clean(c.Detail))
		}
	}
	for _, f := range []struct{ what, path string }{{"serial log", r.SerialLog}, {"picture", r.Screenshot}} {
		if f.path != "" {
			fmt.Fprintf(w, "    %s: %s\n", f.what, f.path)
		}
	}
}

// renderProbes lists what was asked of the machines, and what they answered.
func renderProbes(w io.Writer, results []drill.Result) {
	t := table{}
	t.row("server", "probe", "outcome", "answer")
	asked := false
	for _, r := range results {
		for _, p := range r.Probes {
			t.row(string(r.Server), clean(p.Name), p.Outcome.String(), clean(strings.TrimPrefix(p.Detail, "probe "+p.Name+": ")))
			asked = true
		}
	}
	if asked {
		fmt.Fprintln(w)
		t.print(w, "")
	}
}

// drillNotes tells what is to be known of the machines, each thing once with the
// servers it holds for.
func drillNotes(results []drill.Result) []string {
	var notes []string
	about := map[string][]string{}
	add := func(note string, s dr.ServerName) {
		if about[note] == nil {
			notes = append(notes, note)
		}
		about[note] = append(about[note], string(s))
	}
	for _, r := range results {
		if b := r.Bubble; b != nil {
			add(fmt.Sprintf("bubble: %d frames from machines, %d from one to another, %d packets left; %d names answered, %d unknown; %d mails swallowed",
				b.Frames, b.Between, b.Left, b.Names, b.Unknown, b.Mails), r.Server)
		}
		for _, n := range r.Notes {
			add("note: "+clean(n), r.Server)
		}
		for _, h := range r.HeldBack {
			add(fmt.Sprintf("held back: %s (%s)", h.What, h.Arg), r.Server)
		}
	}
	for i, n := range notes {
		if servers := about[n]; len(servers) < len(results) {
			notes[i] = strings.Join(servers, ", ") + ": " + n
		}
	}
	return notes
}
