package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// pointsArgs are the forms of points.
const pointsArgs = `[NAME…|diff|pin|…]
       leeward points diff A B [NAME…]                what changed between two points, by size
       leeward points pin ID… [--reason TEXT]         never remove it by itself; unpin ends that
       leeward points unpin ID…
       leeward points lock ID… --until T              nor let anybody have it removed before T
       leeward points mount ID [--server NAME] DIR    read only, to copy files out
       leeward points umount DIR

An ID may be NAME/ID, of a server or a group. In diff and mount newest is one, too.`

// pointList is the result of points.
type pointList struct {
	Groups  []groupPoints       `json:"groups,omitempty"`
	Servers []serverPoints      `json:"servers"`
	Space   *protect.PointSpace `json:"space,omitempty"`
	Mounts  []*replica.Shown    `json:"mounts,omitempty"`
}

type serverPoints struct {
	Server dr.ServerName  `json:"server"`
	Keep   []replica.Keep `json:"keep"`
	Points []point        `json:"points"` // newest first
	Err    string         `json:"error,omitempty"`
}

type groupPoints struct {
	Group  string         `json:"group"`
	Former bool           `json:"former,omitempty"` // leeward.yaml names it no more; its points go as those of its servers do
	Keep   []replica.Keep `json:"keep"`
	Points []groupPoint   `json:"points"` // newest first
	Err    string         `json:"error,omitempty"`
}

// groupPoint is what a person needs to choose one.
type groupPoint struct {
	ID          dr.PointID              `json:"id"`
	Started     time.Time               `json:"started"`
	Finished    time.Time               `json:"finished"`
	Consistency dr.Consistency          `json:"consistency"`
	Skew        time.Duration           `json:"skew_ns"`
	Servers     []replica.GroupServer   `json:"servers"`
	Databases   []replica.GroupDatabase `json:"databases"`
	Proven      string                  `json:"proven"` // yes, no or never: of all its servers
	Anomalies   []replica.Anomaly       `json:"anomalies,omitempty"`
	Dir         string                  `json:"dir"`
	kept
}

// point is what a person needs to choose one.
type point struct {
	ID          dr.PointID        `json:"id"`
	Started     time.Time         `json:"started"`
	Finished    time.Time         `json:"finished"`
	Consistency dr.Consistency    `json:"consistency"`
	Entries     int64             `json:"entries"`
	Bytes       int64             `json:"bytes"`
	Fuzzy       int               `json:"fuzzy"` // files that changed while they were read
	OS          string            `json:"os"`
	Traffic     dr.Traffic        `json:"traffic"`
	Proven      string            `json:"proven,omitempty"` // yes, no or never
	Cost        *replica.Cost     `json:"space,omitempty"`
	Anomalies   []replica.Anomaly `json:"anomalies,omitempty"`
	Dir         string            `json:"dir"`
	kept
}

// kept is what keeps a point.
type kept struct {
	Kept   []string          `json:"kept,omitempty"`    // by number and age: last, hourly, daily
	UsedBy []string          `json:"used_by,omitempty"` // points of groups
	Pin    *replica.Pin      `json:"pin,omitempty"`
	Lock   *replica.TimeLock `json:"lock,omitempty"` // also where its time is over
	Locked bool              `json:"locked,omitempty"`
	Err    string            `json:"marks_error,omitempty"`
}

// words says it in a few words.
func (k *kept) words() string {
	var out []string
	if k.Pin != nil {
		out = append(out, choose(k.Pin.Automatic, "PINNED by itself", "pinned"))
	}
	if k.Locked {
		out = append(out, "locked until "+k.Lock.Until.Format("2006-01-02 15:04"))
	}
	if k.Err != "" {
		out = append(out, "MARKS DAMAGED")
	}
	out = append(out, k.Kept...)
	if len(out) == 0 && len(k.UsedBy) > 0 {
		out = append(out, "group")
	}
	return choose(len(out) == 0, "-", strings.Join(out, ", "))
}

// Words for whether a point is proven.
const (
	provenYes   = "yes"
	provenNo    = "no"
	provenNever = "never"
)

// pointFlags are those of all forms of points.
type pointFlags struct{ until, server, reason string }

func runPoints(ctx context.Context, c *call) error {
	var f pointFlags
	c.flags.StringVar(&f.until, "until", "", "of lock: keep the point until `T`, a day such as 2026-12-31 (to its end, UTC) or a time with its offset")
	c.flags.StringVar(&f.server, "server", "", "of mount: the point of server `NAME`, where several have one of that id")
	c.flags.StringVar(&f.reason, "reason", "", "of pin: note `TEXT` with it")
	words, err := c.parse()
	if err != nil {
		return err
	}
	verb := ""
	if len(words) > 0 && slices.Contains([]string{"diff", "pin", "unpin", "lock", "mount", "umount"}, words[0]) {
		verb, words = words[0], words[1:]
	}
	if err := f.check(verb); err != nil {
		return err
	}
	switch verb {
	case "diff":
		return c.pointsDiff(ctx, words)
	case "pin", "unpin", "lock":
		return c.pointsMark(ctx, verb, words, f)
	case "mount":
		return c.pointsMount(ctx, words, f)
	case "umount":
		return c.pointsUmount(ctx, words)
	}
	return c.pointsList(ctx, words)
}

// check refuses flags of another form.
func (f *pointFlags) check(verb string) error {
	for _, x := range []struct{ name, value, of string }{{"until", f.until, "lock"}, {"server", f.server, "mount"}, {"reason", f.reason, "pin"}} {
		if x.value != "" && verb != x.of {
			return dr.WithHint(usagef("--%s is of points %s", x.name, x.of), "see: leeward help points")
		}
	}
	if verb == "lock" && f.until == "" {
		return dr.WithHint(usagef("points lock needs --until"), "as in: leeward points lock ID --until 2026-12-31")
	}
	return nil
}

// pointsList lists the points of servers and groups.
func (c *call) pointsList(ctx context.Context, names []string) error {
	e, selected, err := c.estate(names)
	if err != nil {
		return err
	}
	res, parts := &pointList{Servers: []serverPoints{}}, []dr.Outcome{}
	s, err := openStore(ctx, e)
	if err != nil {
		return err
	}
	if s != nil {
		defer s.Close()
		if res.Space, err = protect.MeasureSpace(ctx, e, selected); err != nil {
			return err
		}
		if res.Mounts, err = s.Shown(); err != nil {
			return err
		}
	}
	l := &lister{estate: e, store: s}
	if err := l.begin(); err != nil {
		return err
	}
	for i, name := range selected {
		list := l.server(name, res.Space, i)
		res.Servers, parts = append(res.Servers, list), append(parts, choose2(list.Err == "", dr.Done, dr.NotDone))
	}
	for _, g := range e.RecoveryGroups() {
		if s != nil && l.concerns(&g, selected, c.databases) {
			list := l.group(&g)
			res.Groups, parts = append(res.Groups, list), append(parts, choose2(list.Err == "", dr.Done, dr.NotDone))
		}
	}
	if s != nil && len(names) == 0 {
		former, err := protect.FormerGroups(s, e)
		if err != nil {
			return err
		}
		for _, name := range former {
			list := l.group(&config.Group{Name: name})
			list.Keep, list.Former = nil, true
			res.Groups = append(res.Groups, list)
		}
	}
	now := time.Now()
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderPoints(w, e, res, now) })
}

func choose2(condition bool, yes, no dr.Outcome) dr.Outcome {
	if condition {
		return yes
	}
	return no
}

// openStore opens the store of e, nil where it is not there yet.
func openStore(ctx context.Context, e *config.Estate) (*replica.Store, error) {
	if _, err := os.Stat(e.Target.Store); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err := ensureStore(ctx, e); err != nil {
		return nil, err
	}
	return replica.Open(ctx, e.Target.Store)
}

// lister gathers what there is to tell of points.
type lister struct {
	estate *config.Estate
	store  *replica.Store // nil where there is none
	now    time.Time      // by which locks are judged
	drills map[string]string
	users  map[string][]string // points of groups that use a point, by server/id
}

func (l *lister) begin() (err error) {
	if l.store == nil {
		return nil
	}
	if l.now, err = l.store.Now(); err != nil {
		return err
	}
	l.drills = drilledPoints(l.store.Dir())
	l.users, err = l.store.Users()
	return err
}

// concerns reports whether a group has one of the selected members.
func (l *lister) concerns(g *config.Group, servers []dr.ServerName, databases []string) bool {
	return slices.ContainsFunc(g.Order, func(name string) bool {
		return slices.Contains(servers, dr.ServerName(name)) || slices.Contains(databases, name)
	})
}

func (l *lister) server(name dr.ServerName, space *protect.PointSpace, i int) serverPoints {
	o, _ := protect.RetentionOf(l.estate, name)
	list := serverPoints{Server: name, Keep: o.Keeps, Points: []point{}}
	if l.store == nil {
		return list
	}
	rep, err := l.store.Replica(name)
	if err != nil {
		list.Err = err.Error()
		return list
	}
	points, err := rep.Points()
	if err != nil {
		list.Err = err.Error()
	}
	stay := o.Chosen(idsOf(points))
	for _, p := range points {
		out := summarize(p)
		out.kept = l.keptBy(p.Place(), stay[p.ID])
		out.UsedBy = l.users[p.Place().String()]
		out.Proven = l.proven(p.Place())
		if k := slices.IndexFunc(space.Servers[i].Points, func(q *replica.Point) bool { return q.ID == p.ID }); k >= 0 {
			out.Cost = &space.Servers[i].Costs[k]
		}
		list.Points = append(list.Points, out)
	}
	return list
}

func idsOf(points []*replica.Point) (ids []dr.PointID) {
	for _, p := range points {
		ids = append(ids, p.ID)
	}
	return ids
}

func (l *lister) keptBy(p replica.Place, why []string) kept {
	k := kept{Kept: why}
	m, err := p.Marks()
	if err != nil {
		k.Err = err.Error()
		return k
	}
	k.Pin, k.Lock, k.Locked = m.Pin, m.Lock, m.LockedAt(l.now)
	return k
}

// proven tells whether a drill has proven the point, by what lies with it or in the
// record of drills.
func (l *lister) proven(p replica.Place) string {
	if proof, err := p.Proof(); err == nil && proof != nil {
		return choose(proof.Outcome == dr.Done, provenYes, provenNo)
	}
	if d, ok := l.drills[p.String()]; ok {
		return d
	}
	return provenNever
}

func (l *lister) group(g *config.Group) groupPoints {
	o, _ := protect.RetentionOfGroup(l.estate, g)
	list := groupPoints{Group: g.Name, Keep: o.Keeps, Points: []groupPoint{}}
	points, err := l.store.GroupPoints(g.Name)
	if err != nil {
		list.Err = err.Error()
	}
	var ids []dr.PointID
	for _, p := range points {
		ids = append(ids, p.ID)
	}
	stay := o.Chosen(ids)
	if len(g.Order) == 0 {
		stay = nil // a former group
	}
	for _, p := range points {
		m := p.Manifest
		list.Points = append(list.Points, groupPoint{ID: p.ID, Started: m.Started, Finished: m.Finished, Consistency: m.Consistency,
			Skew: m.Skew, Servers: m.Servers, Databases: m.Databases, Anomalies: m.Anomalies, Dir: p.Dir,
			Proven: l.provenGroup(m), kept: l.keptBy(p.Place(), stay[p.ID])})
	}
	return list
}

// provenGroup is yes where all servers of the point are proven, no where one is not.
func (l *lister) provenGroup(m *replica.GroupManifest) string {
	out := provenYes
	for i := range m.Servers {
		switch l.proven(l.store.MemberPlace(&m.Servers[i])) {
		case provenNo:
			return provenNo
		case provenNever:
			out = provenNever
		}
	}
	return choose(len(m.Servers) == 0, provenNever, out)
}

// drilledPoints returns what the drills on record in the store dir found of points, by
// server/id.
func drilledPoints(dir string) map[string]string {
	files, _ := filepath.Glob(filepath.Join(dir, drillsDir, "*", drillFile)) // the pattern is well formed
	slices.Sort(files)
	out := map[string]string{}
	for _, f := range files {
		var res drillResult
		b, err := os.ReadFile(f)
		if err != nil || json.Unmarshal(b, &res) != nil || res.Version != 1 {
			continue // it counts as not drilled
		}
		for _, r := range res.Servers {
			if r.Point != "" && r.Outcome != dr.Unknown {
				out[string(r.Server)+"/"+string(r.Point)] = choose(r.Outcome == dr.Done, provenYes, provenNo)
			}
		}
	}
	return out
}

func summarize(p *replica.Point) point {
	m := p.Manifest
	out := point{
		ID: p.ID, Started: m.Started, Finished: m.Finished, Consistency: m.Consistency,
		OS: m.Source.OS, Traffic: m.Traffic, Anomalies: m.Anomalies, Dir: p.Dir,
	}
	for _, f := range m.Filesystems {
		out.Entries += f.Entries
		out.Bytes += f.Bytes
		out.Fuzzy += len(f.Fuzzy)
	}
	return out
}

func renderPoints(w io.Writer, e *config.Estate, res *pointList, now time.Time) {
	renderGroupPoints(w, res.Groups, now)
	t := table{right: map[int]bool{2: true, 5: true, 6: true, 7: true}}
	t.row("server", "recovery point", "age", "consistency", "proven", "entries", "content", "holds", "kept")
	for _, s := range res.Servers {
		for _, p := range s.Points {
			kind := string(p.Consistency)
			if p.Fuzzy > 0 {
				kind += fmt.Sprintf(" (%s)", count(p.Fuzzy, "file"))
			}
			holds := "-"
			if p.Cost != nil {
				holds = size(p.Cost.Held)
			}
			t.row(string(s.Server), string(p.ID), span(now.Sub(p.Started)), kind, p.Proven, number(p.Entries), size(p.Bytes), holds, p.words())
		}
		if len(s.Points) == 0 {
			t.row(string(s.Server), "none")
		}
	}
	if len(res.Servers) > 0 {
		t.print(w, "")
	}
	fmt.Fprintln(w)
	for _, g := range res.Groups {
		for _, p := range g.Points {
			renderMarks(w, g.Group, p.ID, nil, &p.kept) // its servers tell what is unusual
		}
	}
	for _, s := range res.Servers {
		for _, p := range s.Points {
			renderMarks(w, string(s.Server), p.ID, p.Anomalies, &p.kept)
		}
	}
	renderPointTrouble(w, res)
	renderSpace(w, e, res.Space)
	for _, m := range res.Mounts {
		fmt.Fprintf(w, "Mounted on %s: %s of %s; end it by: leeward points umount %[1]s\n", clean(m.Dir), m.Point, m.Server)
	}
}

func renderGroupPoints(w io.Writer, groups []groupPoints, now time.Time) {
	if len(groups) == 0 {
		return
	}
	t := table{right: map[int]bool{2: true, 5: true}}
	t.row("group", "recovery point", "age", "consistency", "proven", "skew", "members", "kept")
	for _, g := range groups {
		for _, p := range g.Points {
			members := count(len(p.Servers), "server")
			if n := len(p.Databases); n > 0 {
				members += ", " + count(n, "database")
			}
			t.row(g.Group+choose(g.Former, " (former)", ""), string(p.ID), span(now.Sub(p.Started)), string(p.Consistency), p.Proven, span(p.Skew), members, p.words())
		}
		if len(g.Points) == 0 {
			t.row(g.Group, "none")
		}
	}
	t.print(w, "")
	fmt.Fprintln(w)
}

// renderMarks tells what is unusual in a point, and why it is pinned.
func renderMarks(w io.Writer, of string, id dr.PointID, unusual []replica.Anomaly, k *kept) {
	renderAnomalies(w, id, unusual)
	if k.Pin != nil && k.Pin.Reason != "" {
		fmt.Fprintf(w, "%s of %s is pinned: %s\n", id, of, clean(k.Pin.Reason))
	}
	if k.Err != "" {
		fmt.Fprintf(w, "%s of %s: %s\n", id, of, clean(k.Err))
	}
}

const damagedHint = "the points above are good, and the next pass makes another; remove the directory of a damaged one when you have looked at it"

func renderPointTrouble(w io.Writer, res *pointList) {
	for _, g := range res.Groups {
		if g.Err != "" {
			fmt.Fprintf(w, "%s\n", g.Group)
			renderTrouble(w, g.Err, damagedHint)
		}
	}
	for _, s := range res.Servers {
		if s.Err != "" {
			fmt.Fprintf(w, "%s\n", s.Server)
			renderTrouble(w, s.Err, damagedHint)
		}
	}
}

// renderSpace tells what points take and what keep: will want.
func renderSpace(w io.Writer, e *config.Estate, p *protect.PointSpace) {
	if p == nil || len(p.Servers) == 0 {
		return
	}
	fmt.Fprintf(w, "Recovery points hold %s beside the replicas; %s can be written\n", size(p.Held), size(p.Room))
	if len(p.Unknown) < len(p.Servers) {
		fmt.Fprintf(w, "Once keep: is in full use: %s %s%s%s\n", choose(p.Bound, "at most", "about"), size(p.Full),
			choose(len(p.Unknown) > 0, fmt.Sprintf(" without %s, which have too few points to tell", count(len(p.Unknown), "server")), ""),
			choose(p.Short() > 0, "  NOT ENOUGH by about "+size(p.Short()), ""))
	} else {
		fmt.Fprintln(w, "What keep: will want is not known before there are two points")
	}
}
