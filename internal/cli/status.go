package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
	"github.com/leeward-dr/leeward/internal/switchover"
)

// statusResult is the result of status.
type statusResult struct {
	Estate  string         `json:"estate"`
	Store   string         `json:"store"`
	Servers []serverStatus `json:"servers"`
	Groups  []groupStatus  `json:"groups,omitempty"`
	// Databases are those that are replicated by themselves.
	Databases []protect.RowsStatus `json:"databases,omitempty"`
	Roles     []switchover.Role    `json:"roles,omitempty"` // of what was moved
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
	Pinned  []pinnedPoint `json:"pinned,omitempty"` // by Leeward itself, because of something unusual
	Err     string        `json:"error,omitempty"`
}

// pinnedPoint is a point that Leeward keeps because of something unusual.
type pinnedPoint struct {
	ID  dr.PointID  `json:"id"`
	Pin replica.Pin `json:"pin"`
}

// groupStatus says how old the newest point of a group is. Outcome is Done where it has
// one that is within its objective.
type groupStatus struct {
	Group   string         `json:"group"`
	Outcome dr.Outcome     `json:"outcome"`
	Points  int            `json:"points"`
	Newest  dr.PointID     `json:"newest,omitempty"`
	Age     time.Duration  `json:"age_ns,omitempty"`
	RPO     time.Duration  `json:"rpo_ns,omitempty"`
	Skew    time.Duration  `json:"skew_ns,omitempty"`
	Consist dr.Consistency `json:"consistency,omitempty"`
	Pinned  []pinnedPoint  `json:"pinned,omitempty"`
	Err     string         `json:"error,omitempty"`
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
	addPins(res, stored)
	if err := addGroups(ctx, e, res, selected, c.databases, time.Now()); err != nil {
		return err
	}
	for _, name := range c.databases {
		s := protect.StatusOfRows(ctx, e.Database(name), dir, strictest(e, name), time.Now())
		res.Databases, parts = append(res.Databases, s), append(parts, s.Outcome)
	}
	if res.Roles, err = rolesOf(ctx, e, dir, c.everything(selected)); err != nil {
		return err
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderStatus(w, res); renderRoles(w, e, res.Roles) })
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

// addPins tells of points that are kept because of something unusual.
func addPins(res *statusResult, stored []storedServer) {
	for i, s := range stored {
		for _, p := range s.points {
			res.Servers[i].Pinned = appendPinned(res.Servers[i].Pinned, p.Place())
		}
	}
}

func appendPinned(to []pinnedPoint, p replica.Place) []pinnedPoint {
	m, err := p.Marks() // what is wrong with them points tells
	if err == nil && m.Pin != nil && m.Pin.Automatic {
		to = append(to, pinnedPoint{p.ID, *m.Pin})
	}
	return to
}

// addGroups tells how old the newest point of each group is that has one of the members.
// It takes no part in how status ends: that is of servers and databases.
func addGroups(ctx context.Context, e *config.Estate, res *statusResult, servers []dr.ServerName, databases []string, now time.Time) error {
	s, err := openStore(ctx, e)
	if err != nil || s == nil {
		return err
	}
	defer s.Close()
	l := &lister{estate: e, store: s}
	for _, g := range e.RecoveryGroups() {
		if !l.concerns(&g, servers, databases) {
			continue
		}
		newest, n, err := s.NewestGroupPoint(g.Name)
		v := groupStatus{Group: g.Name, Outcome: dr.NotDone, Points: n, RPO: g.Objective.RPO}
		if err != nil {
			v.Err = err.Error()
		}
		if newest != nil {
			m := newest.Manifest
			v.Newest, v.Age, v.Skew, v.Consist = m.ID, now.Sub(m.From), m.Skew, m.Consistency
			if v.RPO == 0 || v.Age <= v.RPO {
				v.Outcome = dr.Done
			}
		}
		for _, p := range s.GroupPlaces(g.Name) {
			v.Pinned = appendPinned(v.Pinned, p)
		}
		res.Groups = append(res.Groups, v)
	}
	return nil
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
	renderGroupStatus(w, res.Groups)
	renderUnusual(w, res)
	for _, s := range res.Servers {
		if s.Err != "" {
			fmt.Fprintf(w, "\n%s\n", s.Server)
			renderTrouble(w, s.Err, "")
		}
	}
}

func renderGroupStatus(w io.Writer, groups []groupStatus) {
	if len(groups) == 0 {
		return
	}
	t := table{right: map[int]bool{2: true, 3: true, 6: true}}
	t.row("group", "state", "age", "objective", "consistency", "newest recovery point", "skew")
	for _, g := range groups {
		rpo := choose(g.RPO > 0, span(g.RPO), "none")
		if g.Newest == "" {
			t.row(g.Group, "NO POINT", "-", rpo, "-", "none: it takes a pass of all its members", "-")
			continue
		}
		t.row(g.Group, choose(g.Outcome == dr.Done, "ok", "TOO OLD"), span(g.Age), rpo, string(g.Consist), string(g.Newest), span(g.Skew))
	}
	fmt.Fprintln(w)
	t.print(w, "")
	for _, g := range groups {
		if g.Err != "" {
			fmt.Fprintf(w, "\n%s\n", g.Group)
			renderTrouble(w, g.Err, "")
		}
	}
}

// renderUnusual tells of changes far outside what is usual, until somebody unpins what
// was kept because of them.
func renderUnusual(w io.Writer, res *statusResult) {
	var ids []string
	var first string
	var lines bytes.Buffer
	pinned := func(of string, points []pinnedPoint) {
		for _, p := range points {
			fmt.Fprintf(&lines, "%s of %s is pinned: %s\n", p.ID, of, clean(p.Pin.Reason))
			ids = append(ids, of+"/"+string(p.ID))
		}
	}
	for _, s := range res.Servers {
		if s.Newest != nil {
			renderAnomalies(&lines, s.Newest.ID, s.Newest.Anomalies)
		}
		pinned(string(s.Server), s.Pinned)
		if first == "" && len(ids) > 0 {
			first = ids[0]
		}
	}
	for _, g := range res.Groups {
		pinned(g.Group, g.Pinned)
	}
	if lines.Len() == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s", lines.Bytes())
	if first != "" {
		fmt.Fprintf(w, "    what to do: leeward points diff %s newest shows what changed since\n", first)
	}
	if len(ids) > 0 {
		fmt.Fprintf(w, "    when all is well: leeward points unpin %s\n", strings.Join(ids, " "))
	}
}

func renderAnomalies(w io.Writer, id dr.PointID, unusual []replica.Anomaly) {
	for _, a := range unusual {
		fmt.Fprintf(w, "UNUSUAL in %s of %s: %s: %s\n", id, a.Server, clean(a.MountPoint), clean(a.Text))
	}
}
