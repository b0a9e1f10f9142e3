package replica

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Cost is the space that a recovery point takes.
type Cost struct {
	// Alone is what becomes free when only this point goes: blocks that nothing else
	// in the store has.
	Alone int64 `json:"alone"`
	// Held is what neither a newer point nor the replica has. When this point and all
	// older ones go, the sum of theirs becomes free; all points together hold the sum of
	// all.
	Held int64 `json:"held"`
}

// Costs returns what each of points takes, which are all of the server's, newest first.
// It reads where blocks lie, not what is in them.
func (r *Replica) Costs(points []*Point) ([]Cost, error) {
	out := make([]Cost, len(points))
	newer := r.dir
	for i, p := range points {
		err := filepath.WalkDir(p.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(p.Dir, path)
			if err != nil {
				return err
			}
			c, err := costOf(path, filepath.Join(newer, rel))
			out[i].Alone += c.alone
			out[i].Held += c.older
			return err
		})
		if errors.Is(err, os.ErrNotExist) {
			err = nil // removed while we looked
		}
		if err != nil {
			return nil, err
		}
		newer = p.Dir
	}
	return out, nil
}

// Growth is how the points of a server have taken space so far.
type Growth struct {
	Every   time.Duration // usual time between two passes
	Samples []Sample      // at least one
	Most    int64         // bytes a point can hold at the most: all of its disk
	Held    int64         // bytes all points hold now
}

// Sample is one point: how much it holds that the next newer one, made After later,
// does not.
type Sample struct {
	After time.Duration
	Held  int64
}

// GrowthOf sums up points, which are all of a server's, newest first, and their costs.
// It is nil where there are fewer than two: nothing is known then.
func (r *Replica) GrowthOf(points []*Point, costs []Cost) (*Growth, error) {
	if len(points) < 2 || len(costs) != len(points) {
		return nil, nil
	}
	most, err := allocated(r.Disk())
	if err != nil {
		return nil, err
	}
	g := &Growth{Most: most}
	var gaps []time.Duration
	for i, p := range points {
		g.Held += costs[i].Held
		if i == 0 {
			continue
		}
		after := points[i-1].Manifest.Started.Sub(p.Manifest.Started)
		if after <= 0 {
			continue
		}
		g.Samples = append(g.Samples, Sample{after, costs[i].Held})
		if i <= 12 { // beyond them hours and days are kept, which are further apart
			gaps = append(gaps, after)
		}
	}
	if len(gaps) == 0 {
		return nil, nil
	}
	g.Every = Median(gaps)
	return g, nil
}

// Forecast estimates how many bytes the points that k keeps will hold once it is in
// full use, at the pace of the passes so far. Where no point is known that is nearly as
// far from its neighbour as some will be, it takes content to change anew all the time
// and is a bound, too much rather than too little.
func (g *Growth) Forecast(k Keep) (sum int64, bound bool) {
	const longest = 50_000 // points; of one pass a minute that is a month
	every := max(g.Every, time.Minute)
	span := max(time.Duration(k.Last)*every, time.Duration(k.Hourly)*max(time.Hour, every), time.Duration(k.Daily)*max(24*time.Hour, every))
	end := time.Date(2020, 1, 31, 23, 30, 0, 0, time.UTC)
	var ids []dr.PointID
	for ago := time.Duration(0); ago <= span+every && len(ids) < longest; ago += every {
		ids = append(ids, dr.NewPointID(end.Add(-ago)))
	}
	stay := k.choose(ids)
	var newer time.Duration
	for i, id := range ids {
		if len(stay[id]) == 0 {
			continue
		}
		if ago := time.Duration(i) * every; ago > 0 {
			cost, near := g.cost(ago - newer)
			sum, bound, newer = sum+cost, bound || !near, ago
		}
	}
	return sum, bound
}

// cost estimates what a point holds that the next newer one, made after it, does not:
// as the known one that is nearest by age, and whether it is near at all.
func (g *Growth) cost(after time.Duration) (bytes int64, near bool) {
	best, distance := Sample{}, math.Inf(1)
	for _, s := range g.near(after) {
		if d := math.Abs(math.Log(float64(after) / float64(s.After))); d < distance {
			best, distance = s, d
		}
	}
	return min(int64(float64(best.Held)*float64(after)/float64(best.After)), g.Most), best.After > after/4
}

// near returns the samples within a factor of two of after, as one of their median,
// or else all.
func (g *Growth) near(after time.Duration) []Sample {
	var spans []time.Duration
	var held []int64
	for _, s := range g.Samples {
		if s.After > after/2 && s.After < after*2 {
			spans, held = append(spans, s.After), append(held, s.Held)
		}
	}
	if len(spans) == 0 {
		return g.Samples
	}
	return []Sample{{Median(spans), Median(held)}}
}

// Median returns the middle one of values, of which there is one at least, or the lower
// of two; it leaves them as they are.
func Median[T ~int64 | ~float64](values []T) T {
	return sorted(values)[(len(values)-1)/2]
}

func sorted[T ~int64 | ~float64](values []T) []T {
	out := slices.Clone(values)
	slices.Sort(out)
	return out
}
