package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/report"
	"github.com/leeward-dr/leeward/internal/runbook"
)

// writeRunReport writes the pages of a run beside its journal.
func writeRunReport(dir string, rep runbook.Report) error {
	return report.Write(dir, runPage(rep), rep, 0o600)
}

// runPage is the report of a run.
func runPage(rep runbook.Report) *report.Page {
	p := &report.Page{
		Title: fmt.Sprintf("%s of %s: %s", rep.Kind, strings.Join(rep.Subject, ", "), rep.Outcome), Mood: moodOf(rep.Outcome),
		Intro: fmt.Sprintf("Run %s, plan %s, begun %s by %s.", rep.ID, rep.Serial, rep.Began.Format(time.RFC3339), rep.Actor),
		Tiles: []report.Tile{{Figure: span(rep.Took), Label: "in all"}},
	}
	if rep.Down > 0 {
		p.Tiles = append(p.Tiles, report.Tile{Figure: span(rep.Down), Label: "applications stood still"})
	}
	if rep.Why != "" {
		p.Notes = append(p.Notes, rep.Why)
	}
	for _, s := range rep.Steps {
		if n := len(p.Sections); n == 0 || p.Sections[n-1].Title != s.Phase {
			p.Sections = append(p.Sections, report.Section{Title: s.Phase})
		}
		section := &p.Sections[len(p.Sections)-1]
		section.Steps = append(section.Steps, runStep(s))
	}
	for i := range p.Sections {
		p.Sections[i].Verdict, p.Sections[i].Mood = phaseVerdict(p.Sections[i].Steps)
	}
	return p
}

func runStep(s runbook.StepReport) report.Step {
	out := report.Step{Name: s.ID, State: string(s.State), Mood: stepMood(s.State), Details: append([]string{s.Title}, s.Facts...)}
	if s.Attempts > 0 {
		out.Took = s.Took
	}
	if s.By != nil {
		out.Details = append(out.Details, "by the word of "+s.By.String())
	}
	if s.Err != "" {
		out.Details = append(out.Details, "error: "+s.Err)
	}
	if s.Hint != "" {
		out.Details = append(out.Details, "what to do: "+s.Hint)
	}
	return out
}

func stepMood(s runbook.State) report.Mood {
	switch s {
	case runbook.StepDone:
		return report.Good
	case runbook.StepNotDone:
		return report.Bad
	case runbook.StepUnknown:
		return report.Unclear
	}
	return report.Neutral
}

// phaseVerdict sums up the steps of a phase.
func phaseVerdict(steps []report.Step) (string, report.Mood) {
	var took time.Duration
	done := 0
	mood := report.Neutral
	for _, s := range steps {
		took += s.Took
		switch {
		case s.Mood == report.Good:
			done++
		case s.Mood == report.Bad || s.Mood == report.Unclear && mood != report.Bad:
			mood = s.Mood
		}
	}
	if done == len(steps) {
		return dr.Done.String() + " in " + span(took), report.Good
	}
	return fmt.Sprintf("%d of %s done", done, count(len(steps), "step")), mood
}
