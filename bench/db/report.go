package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// result is one tool's in a case. The first one of a case is Leeward's.
type result struct {
	Tool string `json:"tool"`
	usage
	P50  float64 `json:"lag_p50_seconds,omitempty"`
	P99  float64 `json:"lag_p99_seconds,omitempty"`
	Load float64 `json:"transactions_per_second_at_source,omitempty"`
}

// figures are one case's.
type figures struct {
	Case    string   `json:"case"`
	Title   string   `json:"title"`
	Unit    string   `json:"unit"`
	Count   int      `json:"count,omitempty"` // of units each run did
	Results []result `json:"results"`
	Machine string   `json:"load_of_machine"`
	Targets []target `json:"targets"`
}

// tool finds a result; the zero one where there is none.
func (f figures) tool(name string) result {
	i := slices.IndexFunc(f.Results, func(r result) bool { return r.Tool == name })
	if i < 0 {
		return result{}
	}
	return f.Results[i]
}

// cpu is what both servers and the tool used. It says more than time does where
// other work is on the machine.
func (u usage) cpu() float64 { return u.Tool + u.Source + u.Target }

// target is one thing to reach.
type target struct {
	What string  `json:"what"`
	Want string  `json:"want"`
	Got  float64 `json:"got"`
	Met  bool    `json:"met"`

	judge func(figures) (got float64, met bool)
}

// faster is how many times as fast as another tool Leeward was.
func (f figures) faster(than string) float64 {
	l := f.tool(ours).Seconds
	if l <= 0 {
		return 0
	}
	return f.tool(than).Seconds / l
}

func rateAtLeast(x float64, tool string) target {
	return target{What: "rate", Want: fmt.Sprintf("at least %g × %s", x, tool), judge: func(f figures) (float64, bool) {
		got := f.faster(tool)
		return got, got >= x
	}}
}

func fasterThan(x float64, tool string) target {
	t := rateAtLeast(x, tool)
	t.Want = fmt.Sprintf("at least %g × faster than %s", x, tool)
	if x == 1 {
		t.Want = "faster than " + tool
	}
	return t
}

func memoryAtMost(limit int64) target {
	return target{What: "memory", Want: fmt.Sprintf("under %d MB", limit/1e6), judge: func(f figures) (float64, bool) {
		got := f.tool(ours).RSS
		return float64(got) / 1e6, got < limit
	}}
}

func lagAtMost(d time.Duration) target {
	return target{What: "lag p99", Want: fmt.Sprintf("under %g s", d.Seconds()), judge: func(f figures) (float64, bool) {
		got := f.tool(ours).P99
		return got, got < d.Seconds()
	}}
}

// loadReached says whether the load was what the lag was to be measured at.
func loadReached(rate float64) target {
	return target{What: "load", Want: fmt.Sprintf("about %g transactions a second made", rate), judge: func(f figures) (float64, bool) {
		got := f.tool(ours).Load
		return got, got >= 0.95*rate
	}}
}

// median is the run in the middle by time.
func median(us []usage) usage {
	us = slices.SortedFunc(slices.Values(us), func(a, b usage) int {
		if a.Seconds < b.Seconds {
			return -1
		}
		return 1
	})
	return us[len(us)/2]
}

// report prints figures as they come and keeps them.
type report struct {
	Started      time.Time `json:"started"`
	Scale        float64   `json:"scale"`
	Rows         int       `json:"rows"`
	Transactions int       `json:"transactions"`
	Passes       int       `json:"passes"`
	Cores        int       `json:"cores"`
	Cases        []figures `json:"cases"`

	path string // where to keep them; "" for nowhere
}

func newReport(s *settings) *report {
	return &report{Started: time.Now().UTC(), Scale: s.scale, Rows: s.rows(), Transactions: s.transactions, Passes: s.passes, Cores: runtime.NumCPU(), path: s.json}
}

func (r *report) say(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().UTC().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// write leaves what there is of figures in the file.
func (r *report) write() error {
	if r.path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	if err := os.WriteFile(r.path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write figures: %w", err)
	}
	return nil
}

// add judges figures, prints and keeps them.
func (r *report) add(f figures) error {
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		f.Machine = strings.Join(strings.Fields(string(text))[:2], " ")
	}
	for i, t := range f.Targets {
		f.Targets[i].Got, f.Targets[i].Met = t.judge(f)
	}
	r.Cases = append(r.Cases, f)
	fmt.Printf("\n(%s) %s\n", f.Case, f.Title)
	fmt.Printf("    %-24s %9s %7s %11s %9s %9s %8s %8s %8s %8s %8s", "", "seconds", "×", f.Unit+"/s", "MB in", "MB out",
		"CPU tool", "CPU src", "CPU dst", "CPU all", "MiB tool")
	if f.Count == 0 {
		fmt.Printf(" %9s %9s", "p50, s", "p99, s")
	}
	fmt.Println()
	for _, t := range f.Results {
		fmt.Println("    " + t.line(f))
	}
	for _, t := range f.Targets {
		fmt.Printf("    %s: %s; got %.3f: %s\n", t.What, t.Want, t.Got, t.verdict())
	}
	fmt.Printf("    load of the machine %s\n\n", f.Machine)
	return r.write()
}

// line is a result as a row of a table; × is its time relative to Leeward's.
func (t result) line(f figures) string {
	rate, ratio := t.Load, 0.0
	if f.Count > 0 && t.Seconds > 0 {
		rate = float64(f.Count) / t.Seconds
	}
	if l := f.tool(ours).Seconds; l > 0 {
		ratio = t.Seconds / l
	}
	s := fmt.Sprintf("%-24s %9.2f %7.2f %11.0f %9.1f %9.1f %8.1f %8.1f %8.1f %8.1f %8.0f", t.Tool, t.Seconds, ratio, rate,
		float64(t.In)/1e6, float64(t.Out)/1e6, t.usage.Tool, t.Source, t.Target, t.cpu(), float64(t.RSS)/(1<<20))
	if f.Count == 0 {
		s += fmt.Sprintf(" %9.3f %9.3f", t.P50, t.P99)
	}
	return s
}

func (t target) verdict() string {
	if t.Met {
		return "reached"
	}
	return "FALLS SHORT"
}

// summary prints all targets once more.
func (r *report) summary() {
	fmt.Printf("Targets at scale %g (%d rows), all results equal to the source unless said above:\n", r.Scale, r.Rows)
	for _, f := range r.Cases {
		for _, t := range f.Targets {
			fmt.Printf("    (%s) %-8s %-50s %9.3f  %s\n", f.Case, t.What, t.Want, t.Got, t.verdict())
		}
	}
	fmt.Println("CPU is of cgroups: one for the tool, one for each server. Memory is that of the tool's")
	fmt.Println("processes; a subscription and a replica are within the servers. Bytes are the link's.")
}
