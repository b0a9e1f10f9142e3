package cli

import (
	"context"
	"fmt"
	"io"
	"os/user"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
	"github.com/leeward-dr/leeward/internal/replica"
)

// markResult is the result of points pin, unpin and lock.
type markResult struct {
	Points []markedPoint `json:"points"`
}

// markedPoint is one point and what keeps it now. Outcome is NotDone where there was
// nothing to take away.
type markedPoint struct {
	Of      string            `json:"of"` // server or group
	ID      dr.PointID        `json:"id"`
	Outcome dr.Outcome        `json:"outcome"`
	Pin     *replica.Pin      `json:"pin,omitempty"`
	Lock    *replica.TimeLock `json:"lock,omitempty"`
	Err     string            `json:"error,omitempty"`
	Hint    string            `json:"hint,omitempty"`
}

// pointsMark pins, unpins or locks the points that each of words names.
func (c *call) pointsMark(ctx context.Context, verb string, words []string, f pointFlags) error {
	if len(words) == 0 {
		return dr.WithHint(usagef("points %s: no recovery point named", verb), "as in: leeward points "+verb+" 20170906T030000.000Z, or NAME/ID; leeward points lists them")
	}
	e, s, err := c.store(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	now, err := s.Now()
	if err != nil {
		return err
	}
	m := &marker{store: s, verb: verb, by: userName(c.Getenv), reason: f.reason, now: now}
	if verb == "lock" {
		if m.until, err = parseUntil(f.until, now); err != nil {
			return err
		}
	}
	res, parts := &markResult{}, []dr.Outcome{}
	for _, word := range words {
		places, err := placesOf(e, s, word, verb == "unpin")
		if err != nil {
			return err
		}
		for _, p := range places {
			one := m.mark(ctx, p)
			res.Points, parts = append(res.Points, one), append(parts, one.Outcome)
		}
	}
	return c.done(outcomeCode(parts), res, func(w io.Writer) { renderMarked(w, verb, res) })
}

// store reads the configuration and opens the store, which must be there.
func (c *call) store(ctx context.Context) (*config.Estate, *replica.Store, error) {
	e, _, err := c.estate(nil)
	if err != nil {
		return nil, nil, err
	}
	s, err := openStore(ctx, e)
	if err == nil && s == nil {
		err = dr.WithHint(fmt.Errorf("open store %s: it is not there yet", e.Target.Store), "run: leeward replicate")
	}
	return e, s, err
}

// userName is who runs the command, also through sudo.
func userName(getenv func(string) string) string {
	if name := getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

// parseUntil reads a day, which counts to its end, or a time.
func parseUntil(text string, now time.Time) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, text)
	if day, dayErr := time.Parse(time.DateOnly, text); err != nil && dayErr == nil {
		t, err = day.AddDate(0, 0, 1), nil
	}
	if err != nil {
		return t, usagef("until %q: want a day as in 2026-12-31, or a time with its offset as in 2026-12-31T18:00:00-05:00", text)
	}
	if !t.After(now) {
		return t, usagef("until %q: that is over; it is %s", text, now.UTC().Format(time.RFC3339))
	}
	return t.UTC(), nil
}

// placesOf finds the points that word names: NAME/ID, or an ID alone. That is the point
// of groups where they have one, which keeps those of its servers, else of servers; or,
// where all is set, of both.
func placesOf(e *config.Estate, s *replica.Store, word string, all bool) (out []replica.Place, err error) {
	name, id, named := strings.Cut(word, "/")
	if !named {
		name, id = "", word
	}
	groups, err := s.GroupNames()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		points, _ := s.GroupPoints(g) // damaged ones are told where points are listed
		for _, p := range points {
			if string(p.ID) == id && (!named || g == name) {
				out = append(out, p.Place())
			}
		}
	}
	if len(out) > 0 && !all {
		return out, nil
	}
	for _, srv := range e.Servers {
		r, err := s.Replica(srv.Name)
		if err != nil {
			return nil, err
		}
		points, _ := r.Points()
		if p := protect.FindPoint(points, dr.PointID(id)); p != nil && string(p.ID) == id && (!named || string(srv.Name) == name) {
			out = append(out, p.Place())
		}
	}
	if len(out) == 0 {
		return nil, dr.WithHint(fmt.Errorf("find recovery point %q: no server or group has it", word), "leeward points lists them")
	}
	return out, nil
}

// marker does one thing to points.
type marker struct {
	store  *replica.Store
	verb   string
	by     string
	reason string
	now    time.Time
	until  time.Time
}

func (m *marker) mark(ctx context.Context, p replica.Place) markedPoint {
	out := markedPoint{Of: p.Of, ID: p.ID, Outcome: dr.Done}
	var err error
	switch m.verb {
	case "pin":
		err = m.store.SetPin(ctx, p, replica.Pin{At: m.now.UTC(), By: m.by, Reason: m.reason})
	case "unpin":
		_, err = m.store.ClearPin(ctx, p) // twice is as good as once
	case "lock":
		err = m.store.SetLock(ctx, p, replica.TimeLock{Until: m.until, At: m.now.UTC(), By: m.by})
	}
	marks, readErr := p.Marks()
	if err == nil {
		err = readErr
	}
	if err != nil {
		out.Outcome = dr.NotDone
		out.Err, out.Hint = explain(exitFailed, err)
	}
	if marks != nil {
		out.Pin, out.Lock = marks.Pin, marks.Lock
	}
	return out
}

func renderMarked(w io.Writer, verb string, res *markResult) {
	for _, p := range res.Points {
		if p.Outcome != dr.Done {
			fmt.Fprintf(w, "%s of %s\n", p.ID, p.Of)
			renderTrouble(w, p.Err, p.Hint)
			continue
		}
		switch verb {
		case "pin":
			fmt.Fprintf(w, "%s of %s stays until: leeward points unpin %s/%s\n", p.ID, p.Of, p.Of, p.ID)
		case "unpin":
			fmt.Fprintf(w, "%s of %s is not pinned%s\n", p.ID, p.Of,
				choose(p.Lock != nil, ", but has a lock until "+lockedUntil(p.Lock), ""))
		case "lock":
			fmt.Fprintf(w, "%s of %s stays until %s; this cannot be taken back\n", p.ID, p.Of, lockedUntil(p.Lock))
		}
	}
}

func lockedUntil(l *replica.TimeLock) string {
	if l == nil {
		return ""
	}
	return l.Until.Format(time.RFC3339)
}
