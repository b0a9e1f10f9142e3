package cli

import (
	"fmt"
	"html/template"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/drill"
	"github.com/leeward-dr/leeward/internal/protect"
)

// overview is the top of the report: what somebody needs who reads nothing else.
type overview struct {
	Headline string
	Problems []string // what is not done, most important first
	Tiles    []tile
	Rows     []*overviewRow
	// Databases are those replicated by themselves.
	Databases []*overviewDatabase
}

// overviewDatabase is all that is known of one database. Compared is of the pass that
// compared its rows, Run the newest.
type overviewDatabase struct {
	Name     string
	Engine   string
	Plan     *protect.RowsPlan
	Compared *protect.DatabaseRun
	Run      *protect.DatabaseRun
	Verify   *protect.DatabaseVerify
}

// Rows counts what the comparison did, over all tables.
func (d *overviewDatabase) Rows() (sum protect.TableRun) {
	if d.Compared != nil {
		sum = d.Compared.Rows()
	}
	return sum
}

// tile is one figure and what it is.
type tile struct{ Figure, Label string }

// overviewRow is all that is known of one server, by the newest record of each kind.
type overviewRow struct {
	Server  dr.ServerName
	System  string
	Size    int64 // content
	Entries int64
	Wire    int64 // of all passes
	Run     *protect.ServerRun
	Verify  *protect.ServerVerify
	Drill   *drill.Result
	Picture template.URL
}

// overviewOf reads the sections in their order.
func overviewOf(page *reportPage) *overview {
	s := &overview{}
	s.gather(page)
	s.Tiles = s.tiles(page)
	s.Problems = s.problems(page)
	s.Headline = s.headline(page)
	return s
}

func (s *overview) row(name dr.ServerName) *overviewRow {
	for _, r := range s.Rows {
		if r.Server == name {
			return r
		}
	}
	r := &overviewRow{Server: name}
	s.Rows = append(s.Rows, r)
	return r
}

func (s *overview) database(name string) *overviewDatabase {
	for _, d := range s.Databases {
		if d.Name == name {
			return d
		}
	}
	d := &overviewDatabase{Name: name}
	s.Databases = append(s.Databases, d)
	return d
}

func (s *overview) gatherDatabases(sec *reportSection) {
	if sec.Plan != nil {
		for _, v := range sec.Plan.Rows {
			d := s.database(v.Database)
			d.Plan, d.Engine = &v, v.Engine
		}
	}
	if sec.Run != nil {
		for _, v := range sec.Run.Databases {
			d := s.database(v.Database)
			d.Run, d.Engine = &v, v.Engine
			if v.Seeded {
				d.Compared = &v
			}
		}
	}
	if sec.Verify != nil {
		for _, v := range sec.Verify.Databases {
			s.database(v.Database).Verify = &v
		}
	}
}

func (s *overview) gather(page *reportPage) {
	for _, sec := range page.Sections {
		s.gatherDatabases(sec)
		if sec.Plan != nil {
			for _, v := range sec.Plan.Servers {
				r := s.row(v.Server)
				r.System, r.Size = shortSystem(v.System), v.Bytes
			}
		}
		if sec.Run != nil {
			for _, v := range sec.Run.Servers {
				r := s.row(v.Server)
				r.Run = &v
				r.Wire += v.Traffic.WireIn + v.Traffic.WireOut
			}
		}
		if sec.Verify != nil {
			for _, v := range sec.Verify.Servers {
				r := s.row(v.Server)
				r.Verify, r.Size, r.Entries = &v, v.Bytes, v.Entries
			}
		}
		if sec.Drill != nil {
			for _, v := range sec.Drill.Servers {
				r := s.row(v.Server)
				r.Drill, r.Picture = &v, sec.Pictures[v.Server]
			}
		}
	}
}

// shortSystem is a system's name without kernel and hardware.
func shortSystem(s string) string {
	name, _, _ := strings.Cut(s, ",")
	return strings.Replace(name, "GNU/Linux ", "", 1)
}

// tally counts the servers for which of, and those of them that are done.
func (s *overview) tally(of func(*overviewRow) (outcome dr.Outcome, there bool)) (done, all int) {
	for _, r := range s.Rows {
		outcome, there := of(r)
		if !there {
			continue
		}
		all++
		if outcome == dr.Done {
			done++
		}
	}
	return done, all
}

func copied(r *overviewRow) (dr.Outcome, bool) {
	if r.Run == nil {
		return dr.Unknown, false
	}
	return r.Run.Outcome, true
}

func equal(r *overviewRow) (dr.Outcome, bool) {
	if r.Verify == nil {
		return dr.Unknown, false
	}
	return r.Verify.Outcome, true
}

func proven(r *overviewRow) (dr.Outcome, bool) {
	if r.Drill == nil {
		return dr.Unknown, false
	}
	return r.Drill.Outcome, true
}

func (s *overview) tiles(page *reportPage) []tile {
	var tiles []tile
	add := func(label, form string, args ...any) { tiles = append(tiles, tile{fmt.Sprintf(form, args...), label}) }
	if done, all := s.tally(proven); all > 0 {
		add("servers proven by booting", "%d of %d", done, all)
	}
	if done, all := s.tally(equal); all > 0 {
		add("equal to their source", "%d of %d", done, all)
	}
	if done, all := s.tally(copied); all > 0 {
		add("have a recovery point", "%d of %d", done, all)
	}
	if n := len(s.Databases); n > 0 {
		done := 0
		for _, d := range s.Databases {
			if d.Verify != nil && d.Verify.Outcome == dr.Done {
				done++
			}
		}
		add("databases equal to their source", "%d of %d", done, n)
	}
	var content, wire int64
	for _, r := range s.Rows {
		content += r.Size
		wire += r.Wire
	}
	if content > 0 {
		add("on these servers", "%s", size(content))
	}
	if wire > 0 {
		add("crossed the wire, all passes", "%s", size(wire))
	}
	add("from the first step to the last", "%s", span(page.Took))
	return tiles
}

func (s *overview) problems(page *reportPage) []string {
	var out []string
	for _, r := range s.Rows {
		if d := r.Drill; d != nil && d.Outcome != dr.Done {
			out = append(out, problem(r.Server, drillVerdict(*d), d.Cause, d.Hint))
		}
		if v := r.Run; v != nil && v.Outcome != dr.Done {
			out = append(out, problem(r.Server, "the last pass is "+v.Outcome.String(), v.Err, v.Hint))
		}
		if v := r.Verify; v != nil && v.Outcome != dr.Done {
			what := verdict(*v)
			if n := len(v.Differences); n > 0 {
				what = fmt.Sprintf("differs from its source in %s", count(n, "path"))
			}
			out = append(out, problem(r.Server, what, v.Err, v.Hint))
		}
	}
	for _, d := range s.Databases {
		if v := d.Run; v != nil && v.Outcome != dr.Done {
			out = append(out, problem(dr.ServerName(d.Name), "the last pass is "+v.Outcome.String(), strings.Join(append(v.Stopped, v.Err), "; "), v.Hint))
		}
		if v := d.Verify; v != nil && v.Outcome != dr.Done {
			out = append(out, problem(dr.ServerName(d.Name), fmt.Sprintf("%s differ from its source", count(len(v.Differences)+int(v.More), "row")), v.Err, v.Hint))
		}
	}
	listed := len(out) > 0
	for _, sec := range page.Sections {
		if sec.Outcome != "done" && (sec.Error != nil || !listed) {
			text := fmt.Sprintf("%s: %s", sec.Title, sec.Outcome)
			if sec.Error != nil {
				text += ": " + sec.Error.Text
			}
			out = append(out, text)
		}
	}
	return out
}

func problem(server dr.ServerName, what, cause, hint string) string {
	text := string(server) + ": " + what
	if cause != "" {
		text += ": " + cause
	}
	if hint != "" {
		text += ". What to do: " + hint
	}
	return text
}

// headline says in a sentence how things stand. It promises no more than what was
// looked at.
func (s *overview) headline(page *reportPage) string {
	if !page.Good {
		if done, all := s.tally(proven); all > 0 {
			return fmt.Sprintf("Not everything is done: %d of %s proven by booting.", done, count(all, "server"))
		}
		return "Not everything is done."
	}
	var said []string
	n := 0
	for _, f := range []struct {
		of   func(*overviewRow) (dr.Outcome, bool)
		word string
	}{{copied, "carried over"}, {equal, "equal to their source"}, {proven, "proven by booting"}} {
		if _, all := s.tally(f.of); all > 0 {
			n = max(n, all)
			said = append(said, f.word)
		}
	}
	if len(said) == 0 {
		return "Everything here is done."
	}
	text := said[len(said)-1]
	if len(said) > 1 {
		text = strings.Join(said[:len(said)-1], ", ") + " and " + text
	}
	if n == 1 {
		return fmt.Sprintf("%s is %s.", s.Rows[0].Server, text)
	}
	return fmt.Sprintf("All %s are %s.", count(n, "server"), text)
}
