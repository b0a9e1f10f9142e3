package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

// everything is what progress is shown of: servers, then databases.
func (c *call) everything(servers []dr.ServerName) []dr.ServerName {
	for _, name := range c.databases {
		servers = append(servers[:len(servers):len(servers)], dr.ServerName(name))
	}
	return servers
}

func renderDatabaseRuns(w io.Writer, runs []protect.DatabaseRun) {
	if len(runs) == 0 {
		return
	}
	t := table{right: map[int]bool{2: true, 3: true, 4: true, 5: true, 6: true, 7: true}}
	t.row("database", "outcome", "took", "compared", "sent", "deleted", "followed", "behind")
	for _, d := range runs {
		sum := d.Rows()
		if d.Mode == "physical" {
			t.row(d.Database, d.Outcome.String(), span(d.Duration), "the whole server, by its engine", "", "", "", choose(d.Outcome == dr.Done, span(d.Lag), "-"))
			continue
		}
		t.row(d.Database, d.Outcome.String(), span(d.Duration), rowWords(sum.Compared), rowWords(sum.Sent), rowWords(sum.Deleted),
			count(int(d.Changes), "change"), choose(d.Outcome == dr.Done, span(d.Lag), "-"))
	}
	fmt.Fprintln(w)
	t.print(w, "")
	for _, d := range runs {
		renderDatabaseRun(w, d)
	}
}

func rowWords(n int64) string { return count(int(n), "row") }

func renderDatabaseRun(w io.Writer, d protect.DatabaseRun) {
	// Notes are for plan; here only what is not as it should be.
	grave := slices.DeleteFunc(slices.Clone(d.Findings), func(f protect.Finding) bool { return f.Level == protect.Note })
	if d.Err == "" && len(d.Stopped)+len(grave)+len(d.Did) == 0 && d.Around.Quiet() {
		return
	}
	fmt.Fprintf(w, "\n%s\n", d.Database)
	renderTrouble(w, d.Err, d.Hint)
	for _, s := range d.Did {
		fmt.Fprintf(w, "    %s\n", clean(s))
	}
	for _, s := range d.Stopped {
		fmt.Fprintf(w, "    STOPPED: %s\n", clean(s))
	}
	renderFindings(w, "    ", grave)
	renderAround(w, "    ", d.Around, false)
}

// renderAround tells of what lives outside a database: counts, and what is not as at the
// source; after a pass, of that only what was to be made and was not. The rest is in
// --json and the report.
func renderAround(w io.Writer, in string, a *protect.Around, planned bool) {
	if a == nil {
		return
	}
	if a.Err != "" {
		fmt.Fprintf(w, "%soutside the database: not known: %s\n", in, clean(a.Err))
	}
	if s := a.Summary(); s != "" {
		fmt.Fprintf(w, "%soutside the database: %s\n", in, clean(s))
	}
	var lines []string
	open := false // to be copied
	for _, i := range a.Items {
		if i.Made || i.State != "missing" && i.State != "differs" || !planned && (i.Why == "" || i.Kind == "parameter") {
			continue
		}
		open = open || i.Why == "" && i.Kind != "parameter"
		lines = append(lines, i.Kind+" "+i.Name+": "+choose(i.State == "missing", "missing at the target", "another at the target")+choose(i.Why != "", ": "+i.Why, ""))
	}
	listed(w, lines)
	if open {
		fmt.Fprintf(w, "%s  what to do: instance: copy in the configuration has them made, but for parameters\n", in)
	}
	n := 0 // notes; what weighs more is told at once
	for _, f := range a.Manual {
		if f.Level == protect.Note {
			n++
		} else {
			renderFindings(w, in, []protect.Finding{f})
		}
	}
	if n > 0 && planned {
		fmt.Fprintf(w, "%s%s outside the database for a person to see to; --json and the report have them\n", in, count(n, "thing"))
	}
}

func renderDatabaseVerifies(w io.Writer, all []protect.DatabaseVerify) (parts []dr.Outcome) {
	if len(all) == 0 {
		return nil
	}
	t := table{right: map[int]bool{2: true, 3: true, 4: true, 5: true}}
	t.row("database", "verdict", "tables", "rows", "differ", "took")
	for _, d := range all {
		verdict := map[dr.Outcome]string{dr.Done: "equal", dr.NotDone: "DIFFERENT"}[d.Outcome]
		t.row(d.Database, choose(verdict == "", "NOT KNOWN", verdict), number(int64(d.Tables)), number(d.Rows),
			number(int64(len(d.Differences))+d.More), span(d.Duration))
		parts = append(parts, d.Outcome)
	}
	fmt.Fprintln(w)
	t.print(w, "")
	for _, d := range all {
		renderDatabaseVerify(w, d)
	}
	return parts
}

func renderDatabaseVerify(w io.Writer, d protect.DatabaseVerify) {
	if d.Err == "" && len(d.Differences)+len(d.Findings) == 0 && d.Unsettled == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", d.Database)
	renderTrouble(w, d.Err, d.Hint)
	if d.Unsettled > 0 {
		fmt.Fprintf(w, "    %s changed each time they were looked at; run verify again\n", count(int(d.Unsettled), "row"))
	}
	if n := int64(len(d.Differences)) + d.More; n > 0 {
		fmt.Fprintf(w, "    %s:\n", count(int(n), "difference"))
		lines := make([]string, len(d.Differences))
		for i, x := range d.Differences {
			lines[i] = x.String()
		}
		listed(w, lines)
	}
	renderFindings(w, "    ", d.Findings)
}

func renderRowsPlan(w io.Writer, d protect.RowsPlan) {
	const in = "    "
	if !d.Reachable {
		fmt.Fprintf(w, "%s  NOT REACHABLE\n", d.Database)
		renderTrouble(w, d.Err, d.Hint)
		return
	}
	fmt.Fprintf(w, "%s  %s, %s\n", d.Database, d.Engine, choose(d.Phase == "", "not replicated yet", clean(d.Phase)))
	fmt.Fprintf(w, "%schanges: %s\n", in, clean(d.Capture))
	renderModes(w, in, d)
	t := table{right: map[int]bool{1: true, 2: true, 3: true}}
	for _, x := range d.Tables {
		t.row(clean(x.Table), estimate(x.Rows), "here "+estimate(x.TargetRows), fmt.Sprintf("about %.0f %% differ", 100*x.Share))
	}
	t.print(w, in)
	if len(d.Missing) > 0 {
		fmt.Fprintf(w, "%sto be made at the target: %s\n", in, clean(strings.Join(d.Missing, ", ")))
	}
	fmt.Fprintf(w, "%sto send about %s of %s\n", in, size(d.Differing), size(d.Bytes))
	renderFindings(w, in, d.Findings)
	renderAround(w, in, d.Around, true)
}

// Around is what lives outside the database, as it was last seen.
func (d *overviewDatabase) Around() *protect.Around {
	if d.Run != nil && d.Run.Around != nil {
		return d.Run.Around
	}
	if d.Plan != nil {
		return d.Plan.Around
	}
	return nil
}

// Modes says in words what each mode would take.
func (d *overviewDatabase) Modes() (out []string) {
	if d.Plan == nil {
		return nil
	}
	for _, m := range d.Plan.Modes {
		out = append(out, modeWords(m, d.Plan.Recommended))
	}
	return out
}

func modeWords(m protect.ModePlan, recommended string) string {
	words := fmt.Sprintf("about %s, %s", rough(m.ETA), size(m.Bytes))
	if m.ETA < 10*time.Second {
		words = "less than 10s, " + size(m.Bytes)
	}
	if !m.Possible {
		words = "not possible: " + clean(strings.Join(m.Why, "; "))
	}
	return "mode " + m.Mode + ": " + words + choose(m.Mode == recommended, ", recommended", "")
}

// renderModes compares the two ways of replicating a database.
func renderModes(w io.Writer, in string, d protect.RowsPlan) {
	for _, m := range d.Modes {
		fmt.Fprintf(w, "%s%s\n", in, modeWords(m, d.Recommended))
	}
	if d.Link > 0 && len(d.Modes) > 0 {
		fmt.Fprintf(w, "%slink from the source: %s/s\n", in, size(d.Link))
	}
}

// estimate is a number of rows that may not be known.
func estimate(n int64) string {
	if n < 0 {
		return "rows unknown"
	}
	return rowWords(n)
}

func phaseWords(s protect.RowsStatus) string {
	switch {
	case s.Err != "":
		return "-"
	case s.Phase == "":
		return "none; run: leeward replicate " + s.Database
	}
	if s.Mode == "physical" && s.Phase == "following" {
		return "following, the whole server"
	}
	return s.Phase
}

// rowsState is a word for how a copy is. One that applications write to is none.
func rowsState(s protect.RowsStatus) string {
	switch {
	case s.Phase == "primary":
		return "PRIMARY HERE"
	case s.Outcome == dr.Done:
		return "ok"
	case s.Outcome == dr.NotDone:
		return "NOT GOOD"
	}
	return "NOT KNOWN"
}

func renderRowsStatus(w io.Writer, all []protect.RowsStatus) {
	if len(all) == 0 {
		return
	}
	t := table{right: map[int]bool{2: true, 3: true}}
	t.row("database", "state", "behind", "objective", "phase", "last verified")
	for _, s := range all {
		t.row(s.Database, rowsState(s), choose(s.Phase == "" || s.Phase == "primary", "-", span(s.Age)), choose(s.RPO > 0, span(s.RPO), "none"),
			phaseWords(s),
			choose(s.LastVerified.IsZero(), "never", s.LastVerified.Format(time.RFC3339)))
	}
	fmt.Fprintln(w)
	t.print(w, "")
	for _, s := range all {
		if s.Err != "" || len(s.Stopped) > 0 {
			fmt.Fprintf(w, "\n%s\n", s.Database)
			renderTrouble(w, s.Err, "")
			listed(w, s.Stopped)
		}
	}
}
