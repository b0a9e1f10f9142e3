package rowsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	// sampleBuckets is how many buckets of each table an assessment compares, in
	// samplePlaces runs: changes lie together as a rule, at the end of a table most.
	sampleBuckets = 512
	samplePlaces  = 8
	// mostPlaced is how many rows a table may have for its places to be counted out, which
	// is one pass over an index of the target. Of a larger one the engine is asked.
	mostPlaced = 20_000_000
)

// Assessment is what replicating a database would meet. Making it changes nothing.
type Assessment struct {
	Capture  string // how changes would be captured, and why
	Phase    engine.Phase
	Findings []engine.Finding
	Missing  []engine.Object // definitions that would be made at the target
	Tables   []TableEstimate
	Bytes    int64 // of all rows at the source, as they would be written
	// Differing is an estimate of the bytes that would be sent.
	Differing int64
	Absent    int64 // of Bytes, those of tables that the target has nothing of
	// DigestRate is how many bytes of rows both ends compared in a second; 0 where
	// nothing was sampled.
	DigestRate float64
	Took       time.Duration
}

// TableEstimate is what is to be expected of one table.
type TableEstimate struct {
	Name        engine.Name
	Rows, Bytes int64   // at the source; estimates, -1 where unknown
	TargetRows  int64   // at the target; an estimate
	Sampled     int64   // rows that were compared
	Share       float64 // of rows that differ or are missing, reckoned from those
	Keyless     bool
	Absent      bool // the target lacks the table
}

// Assess looks at both ends: what stands in the way, what would be made, how much
// there is and, from a sample, how much of it differs.
func (r *Replicator) Assess(ctx context.Context) (Assessment, error) {
	begun := time.Now()
	var a Assessment
	src, dst, err := r.ends(ctx)
	if err != nil {
		return a, err
	}
	if a.Capture, err = src.Capture(ctx); err != nil {
		return a, fmt.Errorf("look how changes can be captured: %w", err)
	}
	st, err := dst.State(ctx, r.cfg.Stream)
	if err != nil {
		return a, fmt.Errorf("read the target's position: %w", err)
	}
	a.Phase = st.Phase
	s, err := src.Schema(ctx)
	if err != nil {
		return a, fmt.Errorf("read the definitions of the source: %w", err)
	}
	d, err := dst.Schema(ctx)
	if err != nil {
		return a, fmt.Errorf("read the definitions of the target: %w", err)
	}
	c := compareSchemas(s, d)
	a.Missing = c.missing
	found, err := r.check(ctx, c.pairs)
	if err != nil {
		return a, err
	}
	a.Findings = append(c.findings, found...)
	if err := r.estimate(ctx, &a, s, c); err != nil {
		return a, err
	}
	a.Took = time.Since(begun)
	return a, nil
}

func (r *Replicator) estimate(ctx context.Context, a *Assessment, s *engine.Schema, c comparison) error {
	at := map[engine.Name]pair{}
	var sampled float64
	var took time.Duration
	for _, p := range c.pairs {
		at[p.src.Name] = p
	}
	for _, t := range s.Tables {
		if t.Refused != "" {
			continue
		}
		e := TableEstimate{Name: t.Name, Rows: t.Rows, Bytes: t.Bytes, Keyless: t.Key == nil, Share: 1}
		if p, ok := at[t.Name]; ok {
			e.TargetRows = p.dst.Rows
			begun := time.Now()
			if err := r.sample(ctx, p, &e); err != nil {
				return err
			}
			took += time.Since(begun)
			if e.Rows > 0 {
				sampled += float64(e.Sampled) * float64(max(0, e.Bytes)) / float64(e.Rows)
			}
		} else {
			e.Absent = true
		}
		if e.Absent || e.TargetRows == 0 {
			a.Absent += max(0, e.Bytes)
		}
		a.Bytes += max(0, e.Bytes)
		a.Differing += int64(e.Share * float64(max(0, e.Bytes)))
		a.Tables = append(a.Tables, e)
	}
	if took > 0 {
		a.DigestRate = sampled / took.Seconds()
	}
	return nil
}

// errSampled ends a walk that has seen enough.
var errSampled = errors.New("enough was sampled")

// sampled is what was seen of a table.
type sampled struct {
	rows, there, differ int64 // at the source, at the target, and of those of the source
	all                 bool  // it was the whole table
}

// sample compares buckets at several places of a table and reckons the share that
// differs.
func (r *Replicator) sample(ctx context.Context, p pair, e *TableEstimate) error {
	if p.src.Key == nil {
		return nil
	}
	if empty, err := isEmpty(ctx, r.dst, p.dst); err != nil || empty {
		e.TargetRows = 0
		return err
	}
	places, err := r.places(ctx, p)
	if err != nil {
		return fmt.Errorf("sample %s: %w", p.src.Name, err)
	}
	var s sampled
	for _, from := range places {
		if s.all, err = r.sampleAt(ctx, p, from, sampleBuckets/len(places), &s); err != nil {
			return fmt.Errorf("sample %s: %w", p.src.Name, err)
		}
	}
	e.Sampled, e.Share = s.rows, 0
	if s.rows > 0 {
		e.Share = float64(s.differ) / float64(s.rows)
	}
	if s.all && len(places) == 1 {
		e.Rows, e.TargetRows = s.rows, s.there
		return nil
	}
	// Rows that the target lacks, beyond those the sample has seen lacking, are missing
	// at its end mostly.
	lacks := float64(p.src.Rows - p.dst.Rows)
	if s.there > 0 {
		lacks -= float64(s.rows-s.there) / float64(s.there) * float64(p.dst.Rows)
	}
	if lacks > 0 && p.src.Rows > 0 {
		e.Share = min(1, e.Share+lacks/float64(p.src.Rows))
	}
	return nil
}

// places are the keys behind which a table is sampled, the first of them its beginning.
func (r *Replicator) places(ctx context.Context, p pair) ([]engine.Row, error) {
	places := []engine.Row{nil}
	n := p.dst.Rows
	if n <= 2*sampleBuckets*bucketRows {
		return places, nil
	}
	if n > r.placeable {
		placer, ok := r.dst.(engine.Placer)
		if !ok {
			return places, nil
		}
		more, err := placer.Places(ctx, p.dst, samplePlaces)
		return append(places, more...), err
	}
	bounds, _, err := r.dst.Bounds(ctx, p.dst, nil, int(n/samplePlaces), samplePlaces-1)
	return append(places, bounds...), err
}

// sampleAt compares buckets behind a key; end tells that it came to the table's end.
func (r *Replicator) sampleAt(ctx context.Context, p pair, from engine.Row, most int, s *sampled) (end bool, err error) {
	buckets := 0
	err = walk(ctx, r.src, r.dst, p, from, func(u unit) error {
		var b batch
		for i := range u.src {
			s.rows, s.there = s.rows+u.src[i].Rows, s.there+u.dst[i].Rows
			if u.src[i] != u.dst[i] {
				b.add(u.bucket(i), u.src[i].Rows, u.dst[i].Rows)
			}
		}
		if buckets += len(u.src); b.src > 10*batchRows {
			s.differ += b.src // many rows that the target has nothing of: not listed
		} else if len(b.ranges) > 0 {
			send, _, err := differing(ctx, r.src, r.dst, p, b.ranges)
			if err != nil {
				return err
			}
			s.differ += int64(len(send))
		}
		if buckets >= most {
			return errSampled
		}
		return nil
	})
	if errors.Is(err, errSampled) {
		return false, nil
	}
	return err == nil, err
}
