package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
)

// statusResult is the result of status.
type statusResult struct {
	Estate  string         `json:"estate"`
	Store   string         `json:"store"`
	Servers []serverStatus `json:"servers"`
	// Databases are those that are replicated by themselves.
	Databases []protect.RowsStatus `json:"databases,omitempty"`
}

// serverStatus says how well a server could be recovered now. Outcome is Done
// where it has a recovery point that is within its objective.
type serverStatus struct {
	Server  dr.ServerName `json:"server"`
	Outcome dr.Outcome    `json:"outcome"`
	Points  int           `json:"points"`
	Newest  *point        `json:"newest,omitempty"`
	Age     time.Duration `json:"age_ns,omitempty"` // of the newest point: what a failover now would lose at most
	RPO     time.Duration `json:"rpo_ns,omitempty"` // objective, the strictest of its groups
	Drill   *lastDrill    `json:"last_drill,omitempty"`
	Err     string        `json:"error,omitempty"`
}

// lastDrill is what the newest drill of a server found.
type lastDrill struct {
	Outcome     dr.Outcome    `json:"outcome"`
	Point       dr.PointID    `json:"point"`
	TimeToProof time.Duration `json:"time_to_proof_ns,omitempty"`
}

func runStatus(ctx context.Context, c *call) error {
	names, err := c.parse()
	if err != nil {
		return err
	}
	e, selected, err := c.estate(names)
	if err != nil {
		return err
	}
	stored, dir, err := readStore(ctx, e, selected)
	if err != nil {
		return err
	}
	res, parts := judge(e, stored, time.Now())
	addDrills(res, lastDrills(dir))
	for _, name := range c.databases {
		s := protect.StatusOfRows(ctx, e.Database(name), dir, strictest(e, name), time.Now())
		res.Databases, parts = append(res.Databases, s), append(parts, s.Outcome)
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderStatus(w, res) })
}

// judge compares what is stored with what is demanded at the time now.
func judge(e *config.Estate, stored []storedServer, now time.Time) (*statusResult, []dr.Outcome) {
	res := &statusResult{Estate: e.Name, Store: e.Target.Store}
	var parts []dr.Outcome
	for _, s := range stored {
		v := serverStatus{Server: s.name, Outcome: dr.NotDone, Points: len(s.points), RPO: strictest(e, string(s.name))}
		if s.err != nil {
			v.Err = s.err.Error()
		}
		if len(s.points) > 0 {
			p := summarize(s.points[0])
			v.Newest, v.Age = &p, now.Sub(p.Started)
			if v.RPO == 0 || v.Age <= v.RPO {
				v.Outcome = dr.Done
			}
		}
		res.Servers = append(res.Servers, v)
		parts = append(parts, v.Outcome)
	}
	return res, parts
}

func addDrills(res *statusResult, drills map[dr.ServerName]drill.Result) {
	for i := range res.Servers {
		if r, ok := drills[res.Servers[i].Server]; ok {
			res.Servers[i].Drill = &lastDrill{r.Outcome, r.Point, r.TimeToProof}
		}
	}
}

// strictest returns the smallest objective of the groups that hold a server or a
// database, 0 if there is none.
func strictest(e *config.Estate, name string) (out time.Duration) {
	for _, g := range e.Groups {
		if rpo := g.Objective.RPO; rpo > 0 && slices.Contains(g.Order, name) && (out == 0 || rpo < out) {
			out = rpo
		}
	}
	return out
}

func drillWords(s serverStatus) string {
	switch d := s.Drill; {
	case d == nil:
		return "never"
	case d.Outcome != dr.Done:
		return "NOT PROVEN"
	case d.Point != s.Newest.ID:
		return "proven in " + span(d.TimeToProof) + ", an older point"
	default:
		return "proven in " + span(d.TimeToProof)
	}
}

func renderStatus(w io.Writer, res *statusResult) {
	t := table{right: map[int]bool{2: true, 3: true}}
	t.row("server", "state", "age", "objective", "consistency", "newest recovery point", "last drill")
	for _, s := range res.Servers {
		rpo := "none"
		if s.RPO > 0 {
			rpo = span(s.RPO)
		}
		if s.Newest == nil {
			t.row(string(s.Server), "NO POINT", "-", rpo, "-", "none; run: leeward replicate "+string(s.Server))
			continue
		}
		t.row(string(s.Server), choose(s.Outcome == dr.Done, "ok", "TOO OLD"), span(s.Age), rpo,
			string(s.Newest.Consistency), string(s.Newest.ID), drillWords(s))
	}
	if len(res.Servers) > 0 {
		t.print(w, "")
	}
	renderRowsStatus(w, res.Databases)
	for _, s := range res.Servers {
		if s.Err != "" {
			fmt.Fprintf(w, "\n%s\n", s.Server)
			renderTrouble(w, s.Err, "")
		}
	}
}
