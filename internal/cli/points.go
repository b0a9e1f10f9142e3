package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// pointList is the result of points.
type pointList struct {
	Servers []serverPoints `json:"servers"`
}

type serverPoints struct {
	Server dr.ServerName `json:"server"`
	Points []point       `json:"points"` // newest first
	Err    string        `json:"error,omitempty"`
}

// point is what a person needs to choose one.
type point struct {
	ID          dr.PointID     `json:"id"`
	Started     time.Time      `json:"started"`
	Finished    time.Time      `json:"finished"`
	Consistency dr.Consistency `json:"consistency"`
	Entries     int64          `json:"entries"`
	Bytes       int64          `json:"bytes"`
	Fuzzy       int            `json:"fuzzy"` // files that changed while they were read
	OS          string         `json:"os"`
	Traffic     dr.Traffic     `json:"traffic"`
	Dir         string         `json:"dir"`
}

func runPoints(ctx context.Context, c *call) error {
	names, err := c.parse()
	if err != nil {
		return err
	}
	e, selected, err := c.estate(names)
	if err == nil {
		err = c.needServers(selected)
	}
	if err != nil {
		return err
	}
	stored, _, err := readStore(ctx, e, selected)
	if err != nil {
		return err
	}
	res, parts := &pointList{}, []dr.Outcome{}
	for _, s := range stored {
		list := serverPoints{Server: s.name, Points: []point{}}
		for _, p := range s.points {
			list.Points = append(list.Points, summarize(p))
		}
		if s.err != nil {
			list.Err = s.err.Error()
			parts = append(parts, dr.NotDone)
		} else {
			parts = append(parts, dr.Done)
		}
		res.Servers = append(res.Servers, list)
	}
	now := time.Now()
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderPoints(w, res, now) })
}

func summarize(p *replica.Point) point {
	m := p.Manifest
	out := point{
		ID: p.ID, Started: m.Started, Finished: m.Finished, Consistency: m.Consistency,
		OS: m.Source.OS, Traffic: m.Traffic, Dir: p.Dir,
	}
	for _, f := range m.Filesystems {
		out.Entries += f.Entries
		out.Bytes += f.Bytes
		out.Fuzzy += len(f.Fuzzy)
	}
	return out
}

func renderPoints(w io.Writer, res *pointList, now time.Time) {
	t := table{right: map[int]bool{2: true, 4: true, 5: true}}
	t.row("server", "recovery point", "age", "consistency", "entries", "content", "system")
	for _, s := range res.Servers {
		for _, p := range s.Points {
			kind := string(p.Consistency)
			if p.Fuzzy > 0 {
				kind += fmt.Sprintf(" (%s)", count(p.Fuzzy, "file"))
			}
			t.row(string(s.Server), string(p.ID), span(now.Sub(p.Started)), kind, number(p.Entries), size(p.Bytes), clean(p.OS))
		}
		if len(s.Points) == 0 {
			t.row(string(s.Server), "none")
		}
	}
	t.print(w, "")
	for _, s := range res.Servers {
		if s.Err != "" {
			fmt.Fprintf(w, "\n%s\n", s.Server)
			renderTrouble(w, s.Err, "")
		}
	}
}
