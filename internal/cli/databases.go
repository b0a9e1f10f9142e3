package cli

import (
	"fmt"
	"io"

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
		var compared, sent, deleted int64
		for _, x := range d.Tables {
			compared, sent, deleted = compared+x.Compared, sent+x.Sent, deleted+x.Deleted
		}
		t.row(d.Database, d.Outcome.String(), span(d.Duration), rowWords(compared), rowWords(sent), rowWords(deleted),
			count(int(d.Changes), "change"), choose(d.Outcome == dr.Done, span(d.Lag), "-"))
	}
	fmt.Fprintln(w)
	for _, l := range t.lines() {
		fmt.Fprintln(w, l)
	}
	for _, d := range runs {
		renderDatabaseRun(w, d)
	}
}

func rowWords(n int64) string { return count(int(n), "row") }

func renderDatabaseRun(w io.Writer, d protect.DatabaseRun) {
	if d.Err == "" && len(d.Stopped)+len(d.Findings) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s\n", d.Database)
	renderTrouble(w, d.Err, d.Hint)
	for _, s := range d.Stopped {
		fmt.Fprintf(w, "    STOPPED: %s\n", clean(s))
	}
	renderFindings(w, "    ", d.Findings)
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
	for _, l := range t.lines() {
		fmt.Fprintln(w, l)
	}
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
