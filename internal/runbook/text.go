package runbook

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// WriteText prints a plan for people: what is done in which order, by whom, and what
// to type for each step if Leeward were not there.
func (p *Plan) WriteText(w io.Writer) error {
	b := &strings.Builder{}
	fmt.Fprintf(b, "%s of %s, estate %s\nserial %s\n", p.Kind, strings.Join(p.Subject, ", "), p.Estate, p.Serial())
	for _, n := range p.Notes {
		fmt.Fprintf(b, "  ! %s\n", n)
	}
	phase := ""
	for i, s := range p.Steps {
		if s.Phase != phase {
			phase = s.Phase
			fmt.Fprintf(b, "\n%s\n", phase)
		}
		fmt.Fprintf(b, "%3d. %s%s\n", i+1, s.Title, s.remarks())
		if text := s.Args[ArgText]; text != "" && text != s.Title {
			fmt.Fprintf(b, "       %s\n", text)
		}
		for _, c := range s.Commands {
			fmt.Fprintf(b, "       $ %s\n", strings.ReplaceAll(c, "\n", "\n         "))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// remarks are what is to be known of a step at a glance.
func (s *Step) remarks() string {
	r := []string{s.ID, "at most " + short(s.Timeout)}
	if s.Looks {
		r = append(r, "changes nothing")
	}
	if s.Down {
		r = append(r, "applications stand still")
	}
	if len(s.After) > 0 {
		r = append(r, "after "+strings.Join(s.After, ", "))
	}
	return "  [" + strings.Join(r, "; ") + "]"
}

// short writes 90s as 1m30s and 1h0m0s as 1h.
func short(d time.Duration) string {
	t := d.String()
	if strings.HasSuffix(t, "m0s") {
		t = strings.TrimSuffix(t, "0s")
	}
	if strings.HasSuffix(t, "h0m") {
		t = strings.TrimSuffix(t, "0m")
	}
	return t
}

// OnWith says how to go on with a run that a person must look at. command is what
// resumes it, as "leeward cutover resume".
func (s *StepReport) OnWith(command string) string {
	look := s.Look
	if look == "" {
		look = "look whether it happened: " + s.Title
	}
	return fmt.Sprintf("%s; then: %s --step %s --is done, or --is not-done", look, command, s.ID)
}
