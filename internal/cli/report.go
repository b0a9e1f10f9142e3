package cli

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/report"
)

//go:embed report.html
var reportHTML string

// reportPage is what the template shows.
type reportPage struct {
	Made     time.Time
	Version  string
	Began    time.Time // of the first record
	Took     time.Duration
	Good     bool // every step is done
	Overview *overview
	Sections []*reportSection
}

// reportSection is one recorded command. Of Plan, Run, Verify and Drill the one of
// that command is set.
type reportSection struct {
	Title    string
	Command  string
	Outcome  string
	Started  time.Time
	Took     time.Duration
	Error    *jsonError
	Plan     *protect.PlanResult
	Run      *protect.RunResult
	Verify   *protect.VerifyResult
	Drill    *drillResult
	Sum      dr.Traffic                          // of Run
	Pictures map[dr.ServerName]template.URL      // of Drill
	Pictured bool                                // of Drill: there are pictures
	Notes    []string                            // of Drill
	Ready    map[dr.ServerName]bool              // of Plan
	Lines    map[dr.ServerName][]drill.Check     // of Drill: the checks that did not hold, and all probes
	Listed   map[dr.ServerName][]protect.Finding // of Plan: blockers and warnings
}

// titles name the sections after the word of their command.
var titles = map[string]string{
	"plan": "The plan", "replicate": "The pass", "verify": "Comparison with the sources", "drill": "Proof by booting",
}

func runReport(_ context.Context, c *call) error {
	file := c.flags.String("o", "report.html", "write the page to `FILE`")
	records, err := c.parse()
	if err != nil {
		return err
	}
	if len(records) == 0 {
		return usagef("no records given; make some with --record FILE")
	}
	page, err := readRecords(records)
	if err != nil {
		return err
	}
	page.Made, page.Version = c.started, c.Version
	var b bytes.Buffer
	if err := renderReport(&b, page); err != nil {
		return err
	}
	path, err := filepath.Abs(*file)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := atomicfile.Write(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return c.done(exitDone, map[string]string{"file": path}, func(w io.Writer) { fmt.Fprintln(w, "report:", path) })
}

// readRecords reads result objects in the order they were made.
func readRecords(files []string) (*reportPage, error) {
	page := &reportPage{Good: true}
	seen := map[string]int{}
	var end time.Time
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("read record: %w", err)
		}
		s, err := readRecord(b)
		if err != nil {
			return nil, fmt.Errorf("read record %s: %w", f, err)
		}
		if seen[s.Command]++; seen[s.Command] > 1 {
			s.Title += fmt.Sprintf(" (number %d)", seen[s.Command])
		}
		if page.Began.IsZero() {
			page.Began = s.Started
		}
		if e := s.Started.Add(s.Took); e.After(end) {
			end = e
		}
		page.Good = page.Good && s.Outcome == "done"
		page.Sections = append(page.Sections, s)
	}
	page.Took = end.Sub(page.Began)
	page.Overview = overviewOf(page)
	return page, nil
}

func readRecord(b []byte) (*reportSection, error) {
	var e struct {
		envelope
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, err
	}
	if e.Format != resultFormat {
		return nil, fmt.Errorf("it is of format %d, this Leeward reads %d", e.Format, resultFormat)
	}
	started, err := time.Parse(time.RFC3339, e.Started)
	if err != nil {
		return nil, err
	}
	s := &reportSection{
		Title: titles[e.Command], Command: e.Command, Outcome: e.Outcome, Started: started,
		Took: time.Duration(e.Duration), Error: e.Error,
	}
	if len(e.Result) == 0 {
		return s, nil
	}
	var into any
	switch e.Command {
	case "plan":
		into = &s.Plan
	case "replicate":
		into = &s.Run
	case "verify":
		into = &s.Verify
	case "drill":
		into = &s.Drill
	default:
		return nil, fmt.Errorf("it is of %q, which no report shows", e.Command)
	}
	if err := json.Unmarshal(e.Result, into); err != nil {
		return nil, err
	}
	s.prepare()
	return s, nil
}

// prepare derives what the template would have to compute.
func (s *reportSection) prepare() {
	if s.Plan != nil {
		s.Ready, s.Listed = map[dr.ServerName]bool{}, map[dr.ServerName][]protect.Finding{}
		for _, v := range s.Plan.Servers {
			s.Ready[v.Server] = v.Reachable && !blocked(v.Findings)
			for _, f := range v.Findings {
				if f.Level != protect.Note {
					s.Listed[v.Server] = append(s.Listed[v.Server], f)
				}
			}
		}
	}
	if s.Run != nil {
		for _, v := range s.Run.Servers {
			s.Sum.Read += v.Traffic.Read
			s.Sum.Sent += v.Traffic.Sent
			s.Sum.Reused += v.Traffic.Reused
			s.Sum.WireIn += v.Traffic.WireIn
			s.Sum.WireOut += v.Traffic.WireOut
		}
	}
	if s.Drill != nil {
		s.Pictures, s.Lines = map[dr.ServerName]template.URL{}, map[dr.ServerName][]drill.Check{}
		s.Notes = drillNotes(s.Drill.Servers)
		for _, r := range s.Drill.Servers {
			s.Pictures[r.Server] = report.Picture(r.Screenshot)
			s.Pictured = s.Pictured || s.Pictures[r.Server] != ""
			for _, c := range r.Checks {
				if c.Outcome != dr.Done {
					s.Lines[r.Server] = append(s.Lines[r.Server], c)
				}
			}
			s.Lines[r.Server] = append(s.Lines[r.Server], r.Probes...)
		}
	}
}

func renderReport(w io.Writer, page *reportPage) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"style": report.Style,
		"size":  size, "number": number, "span": span, "verdict": verdict, "drillVerdict": drillVerdict, "checks": checksWord,
		"wire":  func(t dr.Traffic) string { return size(t.WireIn + t.WireOut) },
		"when":  func(t time.Time) string { return t.Local().Format("Mon 2 Jan 2006 15:04:05 MST") },
		"clock": func(t time.Time) string { return t.Local().Format("15:04:05") },
		"good":  func(o dr.Outcome) bool { return o == dr.Done },
		"first": func(all []protect.Difference) []protect.Difference { return all[:min(len(all), maxListed)] },
	}).Parse(reportHTML)
	if err != nil {
		return fmt.Errorf("read template of the report: %w", err)
	}
	if err := t.Execute(w, page); err != nil {
		return fmt.Errorf("render report: %w", err)
	}
	return nil
}
