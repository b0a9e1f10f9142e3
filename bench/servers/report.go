package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// figures are one case's.
type figures struct {
	Case    string   `json:"case"`
	Title   string   `json:"title"`
	Leeward usage    `json:"leeward"`
	Rsync   usage    `json:"rsync"` // or the tool that Other names
	Other   string   `json:"other,omitempty"`
	Bytes   int64    `json:"bytes,omitempty"` // of content, where a rate is of interest
	Load    string   `json:"load"`            // of the machine, when the case ended
	Targets []target `json:"targets,omitempty"`
}

// target is one thing to reach.
type target struct {
	What string  `json:"what"`
	Want string  `json:"want"`
	Got  float64 `json:"got"`
	Met  bool    `json:"met"`

	judge func(figures) (got float64, met bool)
}

func timeAtMost(x float64) target {
	return target{What: "time", Want: fmt.Sprintf("at most %g × rsync", x), judge: func(f figures) (float64, bool) {
		got := f.Leeward.Wall / f.Rsync.Wall
		return got, got <= x
	}}
}

func bytesAtMost(x float64) target {
	return target{What: "bytes", Want: fmt.Sprintf("at most %g × rsync", x), judge: func(f figures) (float64, bool) {
		got := float64(f.Leeward.wire()) / float64(f.Rsync.wire())
		return got, got <= x
	}}
}

func bytesOf(changed int64, x float64) target {
	return target{What: "bytes", Want: fmt.Sprintf("at most %g × the %.1f MB that changed", x, float64(changed)/1e6), judge: func(f figures) (float64, bool) {
		got := float64(f.Leeward.wire()) / float64(changed)
		return got, got <= x
	}}
}

func rateAtLeast(x float64) target {
	return target{What: "rate", Want: fmt.Sprintf("at least %g × rsync", x), judge: func(f figures) (float64, bool) {
		got := f.Rsync.Wall / f.Leeward.Wall
		return got, got >= x
	}}
}

func memoryAtMost(limit int64) target {
	return target{What: "memory", Want: fmt.Sprintf("at most %d MB on either side", limit/1e6), judge: func(f figures) (float64, bool) {
		most := max(f.Leeward.Source.RSS, f.Leeward.Target.RSS)
		return float64(most) / 1e6, most <= limit
	}}
}

// median takes the median of each figure on its own.
func median(us []usage) usage {
	return usage{
		Wall:   middle(us, func(u usage) float64 { return u.Wall }),
		Synced: middle(us, func(u usage) float64 { return u.Synced }),
		In:     middle(us, func(u usage) int64 { return u.In }),
		Out:    middle(us, func(u usage) int64 { return u.Out }),
		Source: medianSide(us, func(u usage) side { return u.Source }),
		Target: medianSide(us, func(u usage) side { return u.Target }),
	}
}

func medianSide(us []usage, of func(usage) side) side {
	return side{
		CPU:  middle(us, func(u usage) float64 { return of(u).CPU }),
		RSS:  middle(us, func(u usage) int64 { return of(u).RSS }),
		Anon: middle(us, func(u usage) int64 { return of(u).Anon }),
	}
}

func middle[T cmp.Ordered](us []usage, of func(usage) T) T {
	var all []T
	for _, u := range us {
		all = append(all, of(u))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// report prints figures as they come and keeps them.
type report struct {
	Started time.Time `json:"started"`
	Scale   float64   `json:"scale"`
	Cores   int       `json:"cores"`
	Cases   []figures `json:"cases"`

	path string // where to keep them; "" for nowhere
}

func newReport(s *settings) *report {
	return &report{Started: time.Now().UTC(), Scale: s.scale, Cores: runtime.NumCPU(), path: s.json}
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

func (r *report) say(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().UTC().Format("15:04:05"), fmt.Sprintf(format, args...))
}

// pass prints one of the passes of which a median is taken.
func (r *report) pass(name string, i int, l, o usage) {
	r.say("%s pass %d: leeward %.2f s, %s; rsync %.2f s, %s", name, i+1, l.Wall, mb(l.wire()), o.Wall, mb(o.wire()))
}

// add judges figures, prints and keeps them.
func (r *report) add(f figures) error {
	if f.Other == "" {
		f.Other = "rsync"
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		f.Load = strings.Join(strings.Fields(string(text))[:2], " ")
	}
	for i, t := range f.Targets {
		f.Targets[i].Got, f.Targets[i].Met = t.judge(f)
	}
	r.Cases = append(r.Cases, f)
	fmt.Printf("\n(%s) %s\n", f.Case, f.Title)
	fmt.Printf("    %-34s %12s %12s %8s\n", "", "leeward", f.Other, "ratio")
	for _, row := range rows(f) {
		fmt.Printf("    %-34s %12s %12s %8s\n", row[0], row[1], row[2], row[3])
	}
	for _, t := range f.Targets {
		verdict := "reached"
		if !t.Met {
			verdict = "FALLS SHORT"
		}
		fmt.Printf("    %s: %s; got %.3f: %s\n", t.What, t.Want, t.Got, verdict)
	}
	fmt.Printf("    load of the machine %s\n\n", f.Load)
	return r.write()
}

func rows(f figures) [][4]string {
	l, o := f.Leeward, f.Rsync
	out := [][4]string{
		row("time", "%.2f s", l.Wall, o.Wall),
		row("time until all is on disk", "%.2f s", l.Synced, o.Synced),
		row("bytes to the target", "%.3f MB", float64(l.In)/1e6, float64(o.In)/1e6),
		row("bytes to the source", "%.3f MB", float64(l.Out)/1e6, float64(o.Out)/1e6),
		row("bytes both ways", "%.3f MB", float64(l.wire())/1e6, float64(o.wire())/1e6),
		row("CPU at the source", "%.2f s", l.Source.CPU, o.Source.CPU),
		row("CPU at the target", "%.2f s", l.Target.CPU, o.Target.CPU),
	}
	const mib = 1 << 20
	for _, m := range []struct {
		name string
		l, o int64
	}{
		{"peak memory at the source", l.Source.RSS, o.Source.RSS},
		{"  of it neither mapped nor shared", l.Source.Anon, o.Source.Anon},
		{"peak memory at the target", l.Target.RSS, o.Target.RSS},
		{"  of it neither mapped nor shared", l.Target.Anon, o.Target.Anon},
	} {
		out = append(out, row(m.name, "%.1f MiB", float64(m.l)/mib, float64(m.o)/mib))
	}
	if f.Bytes > 0 {
		out = append(out, row("rate", "%.0f MB/s", float64(f.Bytes)/1e6/l.Wall, float64(f.Bytes)/1e6/o.Wall))
	}
	return out
}

func row(name, format string, l, o float64) [4]string {
	ratio := "-"
	if o != 0 {
		ratio = fmt.Sprintf("%.3f", l/o)
	}
	return [4]string{name, fmt.Sprintf(format, l), fmt.Sprintf(format, o), ratio}
}

func mb(n int64) string { return fmt.Sprintf("%.3f MB", float64(n)/1e6) }

// addRestic compares a case's Leeward with restic.
func (r *report) addRestic(f figures, u usage) error {
	return r.add(figures{Case: f.Case + "-restic", Title: "the same by restic over sftp into a repository that has the stale clone",
		Leeward: f.Leeward, Rsync: u, Other: "restic"})
}

// summary prints all targets once more.
func (r *report) summary() {
	fmt.Printf("Targets at scale %g:\n", r.Scale)
	for _, f := range r.Cases {
		for _, t := range f.Targets {
			verdict := "reached"
			if !t.Met {
				verdict = "FALLS SHORT"
			}
			fmt.Printf("    (%s) %-7s %-45s %8.3f  %s\n", f.Case, t.What, t.Want, t.Got, verdict)
		}
	}
	fmt.Println("CPU and memory are of cgroups, one for each server and one for all that runs at the")
	fmt.Println("target; the kernel's own threads are not in them. Bytes are those of the link's veth.")
}
