package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/forecast"
	"github.com/leeward-dr/leeward/internal/protect"
)

// renderForecast says when everything is safe, and how that stands to the deadline.
func renderForecast(w io.Writer, res *protect.PlanResult, now time.Time) {
	defer renderSimulations(w, res)
	f := res.Forecast
	if f == nil {
		fmt.Fprintln(w, "Safe: no forecast, for nothing could be measured")
	} else {
		fmt.Fprintln(w, "Safe, if a pass begins now:")
		t := table{right: map[int]bool{1: true, 2: true, 3: true}}
		t.row("", "likely in", "19 of 20 in", "on the wire", choose(res.Verdict != nil, "deadline", ""))
		for _, it := range f.Items {
			t.row(it.Name, rough(it.Safe.P50), rough(it.Safe.P95), size(int64(it.Wire.P50)), margin(res.Verdict, it.Name))
		}
		t.row("all", rough(f.Safe.P50), rough(f.Safe.P95), size(int64(f.Wire.P50)), "")
		t.print(w, "    ")
	}
	if res.Deadline.IsZero() {
		return
	}
	fmt.Fprintf(w, "Deadline: %s, %s\n", clock(res.Deadline), deadlineWords(res, now))
	if r := res.Rescue; r != nil {
		renderRescue(w, r)
	}
}

// wonder is a change that a person asks about, with the words for it.
type wonder struct {
	forecast.WhatIf
	text string
}

// parseWonder reads link=RATE,servers=+N,start=+SPAN, of which any may be left out.
func parseWonder(text string) (w wonder, err error) {
	w.text = text
	for part := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch key {
		case "link":
			var r config.Rate
			if r, err = config.ParseRate(value); err == nil && r == 0 {
				err = errors.New("link=none: want a rate")
			}
			w.Link = float64(r)
		case "servers":
			w.More, err = strconv.Atoi(strings.TrimPrefix(value, "+"))
			if err != nil || w.More < 1 || w.More > mostServers {
				err = fmt.Errorf("servers=%s: want how many more, from +1 to +%d", value, mostServers)
			}
		case "start":
			if w.Later, err = time.ParseDuration(strings.TrimPrefix(value, "+")); err != nil || w.Later <= 0 {
				err = fmt.Errorf("start=%s: want by how much later, as in +6h", value)
			}
		default:
			err = fmt.Errorf("%q: want link=RATE, servers=+N or start=+SPAN, as in link=50 Mbit/s,start=+6h", part)
		}
		if err != nil {
			return w, err
		}
	}
	return w, nil
}

// mostServers is how many more servers can be wondered about.
const mostServers = 10_000

// renderSimulations says what would become of it otherwise.
func renderSimulations(w io.Writer, res *protect.PlanResult) {
	for _, s := range res.Simulated {
		fmt.Fprintf(w, "If %s: all safe likely in %s, 19 of 20 in %s, %s on the wire%s\n", s.What, rough(s.Forecast.Safe.P50), rough(s.Forecast.Safe.P95),
			size(int64(s.Forecast.Wire.P50)), verdictWords(s.Verdict))
		if s.Rescue != nil {
			renderRescue(w, s.Rescue)
		}
	}
}

func verdictWords(v *forecast.Verdict) string {
	switch {
	case v == nil:
		return ""
	case v.Fits:
		return fmt.Sprintf("; in time, with %s to spare", rough(v.Margin))
	}
	return fmt.Sprintf("; TOO LATE by %s", rough(-v.Margin))
}

func clock(t time.Time) string { return t.Format("Mon 2 Jan 2006 15:04 -07:00") }

// margin tells of one server how it stands to the deadline.
func margin(v *forecast.Verdict, name string) string {
	if v == nil {
		return ""
	}
	for _, it := range v.Items {
		if it.Name == name {
			return choose(it.Fits, rough(it.Margin)+" to spare", "TOO LATE by "+rough(-it.Margin))
		}
	}
	return ""
}

func deadlineWords(res *protect.PlanResult, now time.Time) string {
	away := res.Deadline.Sub(now)
	switch {
	case away <= 0:
		return span(-away) + " ago: MISSED"
	case res.Verdict == nil:
		return "in " + span(away)
	case !res.Verdict.Fits:
		return fmt.Sprintf("in %s: TOO LATE by %s", span(away), rough(-res.Verdict.Margin))
	}
	return fmt.Sprintf("in %s: in time, with %s to spare; begin by %s at the latest", span(away), rough(res.Verdict.Margin), clock(res.Verdict.Start))
}

// renderRescue says what to do where not all is in time.
func renderRescue(w io.Writer, r *forecast.Rescue) {
	var carry []string
	for _, c := range r.Carry {
		carry = append(carry, c.Name)
	}
	if len(carry) > 0 {
		fmt.Fprintf(w, "    in time if carried one after the other: %s\n", strings.Join(carry, ", "))
	}
	if len(r.Leave) > 0 {
		fmt.Fprintf(w, "    not in time: %s\n", strings.Join(r.Leave, ", "))
	} else {
		fmt.Fprintf(w, "    what to do: leeward replicate NAME for each, in this order\n")
	}
	switch {
	case r.Link == 0:
		fmt.Fprintln(w, "    no faster link would help: the sources themselves are too slow")
	case r.Link > 1:
		fmt.Fprintf(w, "    a link %.1f times as fast would be enough for all side by side\n", r.Link)
	}
}
