package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/report"
	"github.com/leeward-dr/leeward/internal/runbook"
)

func TestRunPage(t *testing.T) {
	rep := runbook.Report{ID: "cutover-1", Kind: "cutover", Subject: []string{"web1"}, Outcome: dr.Unknown, Down: 4 * time.Second, Steps: []runbook.StepReport{
		{Step: runbook.Step{ID: "look", Phase: "Before", Title: "look at web1"}, State: runbook.StepDone, Attempts: 1, Took: time.Second},
		{Step: runbook.Step{ID: "fence", Phase: "Move", Title: "fence web1"}, State: runbook.StepUnknown, Attempts: 2, Took: 3 * time.Second, Err: "cut", Hint: "look"},
		{Step: runbook.Step{ID: "boot", Phase: "Move", Title: "boot web1"}, State: runbook.Waiting},
	}}
	p := runPage(rep)
	if len(p.Sections) != 2 || p.Sections[0].Mood != report.Good || p.Sections[1].Verdict != "0 of 2 steps done" || p.Sections[1].Mood != report.Unclear || p.Mood != report.Unclear {
		t.Errorf("%+v", p.Sections)
	}
	dir := t.TempDir()
	if err := writeRunReport(dir, rep); err != nil {
		t.Fatal(err)
	}
	md := p.Markdown()
	for _, want := range []string{"# cutover of web1: unknown", "applications stood still: **4.0s**", "error: cut", "what to do: look"} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in:\n%s", want, md)
		}
	}
}
