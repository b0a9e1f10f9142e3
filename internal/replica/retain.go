package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

// Keep says how many recovery points stay: the newest Last, and beside them the
// newest of each of the last Hourly hours and Daily days that have one. Hours and
// days are those of UTC.
type Keep struct {
	Last   int `json:"last"`
	Hourly int `json:"hourly"`
	Daily  int `json:"daily"`
}

// choose returns which of ids, which are in the order they were made, the last first,
// stay, and by which of its numbers.
func (k Keep) choose(ids []dr.PointID) map[dr.PointID][]string {
	out := map[dr.PointID][]string{}
	for _, id := range ids[:min(max(k.Last, 0), len(ids))] {
		out[id] = append(out[id], "last")
	}
	for _, span := range []struct {
		name   string
		number int
		digits int // of the id that name the hour or the day
	}{{"hourly", k.Hourly, len("20060102T15")}, {"daily", k.Daily, len("20060102")}} {
		seen := map[dr.PointID]bool{} // hours or days; not in order where the clock was set
		for _, id := range ids {
			if len(id) < span.digits || seen[id[:span.digits]] {
				continue
			}
			if len(seen) == span.number {
				break
			}
			seen[id[:span.digits]] = true
			out[id] = append(out[id], span.name)
		}
	}
	return out
}

// Retention says which recovery points stay.
type Retention struct {
	Keeps []Keep // a point stays where one of them keeps it; none keeps all
	// Only, where set, is in place of Keeps: the points that stay.
	Only  map[dr.PointID]bool
	Spare dr.PointID // stays whatever they say: the one just made
	// Since, where set, takes away what is older, but for the Least newest: space is
	// short.
	Since dr.PointID
	Least int
}

// Chosen returns which of ids, which are sorted newest first, stay by number and age, and why.
func (o *Retention) Chosen(ids []dr.PointID) map[dr.PointID][]string {
	out := map[dr.PointID][]string{}
	if o.Only != nil {
		for _, id := range ids {
			if o.Only[id] {
				out[id] = []string{"members"}
			}
		}
		return out
	}
	for _, k := range o.Keeps {
		for id, why := range k.choose(ids) {
			for _, w := range why {
				if !slices.Contains(out[id], w) {
					out[id] = append(out[id], w)
				}
			}
		}
	}
	for i, id := range ids {
		if id < o.Since && i >= o.Least {
			delete(out, id)
		}
	}
	return out
}

// keepsAll reports whether it says nothing.
func (o *Retention) keepsAll() bool { return len(o.Keeps) == 0 && o.Only == nil }

// Retain removes the server's points that o does not keep. One that is pinned, locked,
// used by a group's point or held by somebody stays. It returns those that went, oldest
// first.
func (r *Replica) Retain(o Retention) (removed []dr.PointID, err error) {
	if o.keepsAll() {
		return nil, nil
	}
	if err := r.Lock(); err != nil {
		return nil, err
	}
	points, err := r.Points()
	if err != nil && !errors.Is(err, ErrDamagedPoint) {
		return nil, err
	}
	var places []Place
	for _, p := range points {
		places = append(places, p.Place())
	}
	removed, err = r.store.retain(places, o, func(id dr.PointID) (bool, error) {
		users, err := r.store.usersOf(r.name)
		return len(users[id]) > 0, err
	})
	if err != nil {
		return removed, fmt.Errorf("remove recovery points of %s: %w", r.name, err)
	}
	return removed, nil
}

// retain removes what o does not keep of points, which are sorted newest first.
// used tells whether another point needs one.
func (s *Store) retain(points []Place, o Retention, used func(dr.PointID) (bool, error)) (removed []dr.PointID, err error) {
	ids := make([]dr.PointID, len(points))
	for i, p := range points {
		ids[i] = p.ID
	}
	stay := o.Chosen(ids)
	now, err := s.clock(time.Now())
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, p := range slices.Backward(points) {
		if len(stay[p.ID]) > 0 || p.ID == o.Spare {
			continue
		}
		gone, err := p.remove(func() (bool, error) {
			m, err := p.Marks()
			if err != nil || m.Pin != nil || m.LockedAt(now) {
				return false, nil // marks that cannot be read are told where points are listed
			}
			busy, err := used(p.ID)
			return !busy && err == nil, err
		})
		if gone {
			removed = append(removed, p.ID)
		}
		errs = append(errs, err)
	}
	return removed, errors.Join(errs...)
}

// remove deletes the point unless someone holds it or may, asked while nobody can begin
// to, says no. Renaming comes first: a point half removed must not look like a damaged
// one.
func (p Place) remove(may func() (bool, error)) (gone bool, err error) {
	d, err := os.Open(p.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	if err := flock(d, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("lock %s: %w", p.Dir, err)
	}
	if same, err := namedBy(d, p.Dir); err != nil || !same {
		return false, err
	}
	if ok, err := may(); err != nil || !ok {
		return false, err
	}
	old := filepath.Join(filepath.Dir(p.Dir), oldPrefix+filepath.Base(p.Dir))
	if err := atomicfile.Rename(p.Dir, old); err != nil {
		return false, err
	}
	return true, os.RemoveAll(old)
}

// namedBy reports whether path still names the open directory d.
func namedBy(d *os.File, path string) (bool, error) {
	a, err := d.Stat()
	if err != nil {
		return false, err
	}
	b, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(a, b), err
}

// Place is where a recovery point, of a server or of a group, lies.
type Place struct {
	Of  string // name of the server or group
	ID  dr.PointID
	Dir string
}

// Place returns where the point lies.
func (p *Point) Place() Place { return Place{string(p.Manifest.Server), p.ID, p.Dir} }

// hold keeps the point from being removed until the returned function is called, or
// the process ends. An error that is os.ErrNotExist means that it is gone.
func (p Place) hold() (release func() error, err error) {
	d, err := os.Open(p.Dir)
	if err != nil {
		return nil, err
	}
	if err := flock(d, unix.LOCK_SH); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	same, err := namedBy(d, p.Dir)
	if err == nil && !same {
		err = fmt.Errorf("%s: %w", p.Dir, os.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d.Close, nil
}

// Hold keeps the point from being removed until the returned function is called, or
// the process ends.
func (p *Point) Hold() (release func() error, err error) {
	release, err = p.Place().hold()
	if err != nil {
		return nil, fmt.Errorf("hold recovery point %s of %s: %w", p.ID, p.Manifest.Server, err)
	}
	return release, nil
}

// sweepDir removes from a directory of points what a process that was cut short left.
func sweepDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tmpPrefix) || strings.HasPrefix(e.Name(), oldPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
