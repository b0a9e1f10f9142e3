package rowsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	verifyRounds = 6      // how often what differs is looked at again
	mostSuspects = 50_000 // keys of a table that are looked at again; more are too many to be in flight
	mostListed   = 1000   // differences of a table that are listed
)

// Difference is one row that is not equal at both ends.
type Difference struct {
	Table   engine.Name
	Key     []string // values of the key, as the engine writes them
	Columns []string // that differ; empty where the row is at one end only
	Only    string   // "source" or "target" where it is at one end only
}

func (d Difference) String() string {
	s := fmt.Sprintf("%s (%s)", d.Table, strings.Join(d.Key, ", "))
	if d.Only != "" {
		return s + ": at the " + d.Only + " only"
	}
	return s + ": " + strings.Join(d.Columns, ", ")
}

// Verification is the result of comparing both ends whole.
type Verification struct {
	Equal       bool
	Tables      map[engine.Name]int64 // rows of the source that were compared
	Differences []Difference
	More        int64 // differences that are not listed
	// Unsettled are rows that kept changing while they were looked at.
	Unsettled int64
	Findings  []engine.Finding // definitions that differ, writes of others
	At        time.Time
	Took      time.Duration
}

// verifier compares one table after another while changes are applied.
type verifier struct {
	src, dst engine.Reader
	meter    *meter
	res      *Verification
	pass     func(ctx context.Context) error // waits until the target has passed where the source is now
}

// Verify compares both ends whole while the source is written to. Rows that differ are
// looked at again when the target has passed the position at which they were read; what
// then differs, and did not change meanwhile, is a difference.
func (r *Replicator) Verify(ctx context.Context) (Verification, error) {
	begun := time.Now()
	res := Verification{Tables: map[engine.Name]int64{}}
	n := &run{r: r, once: true}
	for _, step := range []func(context.Context) error{n.look, n.define, n.open} {
		if err := step(ctx); err != nil {
			return res, err
		}
	}
	if n.fresh() {
		return res, fmt.Errorf("verify %s: it is not seeded yet; replicate it first", r.cfg.Name)
	}
	r.meter.step(StepVerify)
	err := n.alongside(ctx, func(ctx context.Context, v *verifier) error {
		v.res = &res
		return v.all(ctx, n.ps)
	})
	res.Took = time.Since(begun)
	if err != nil {
		return res, err
	}
	if err := r.verifyDefinitions(ctx, &res, n.ps); err != nil {
		return res, err
	}
	res.Equal = len(res.Differences) == 0 && res.More == 0 && res.Unsettled == 0 && len(r.notes.stopped()) == 0
	res.At = begun.UTC()
	return res, r.notes.change(func(d *notesData) { d.verified(&res) })
}

// verified keeps when tables, and all of them, were last found equal.
func (d *notesData) verified(v *Verification) {
	bad := map[engine.Name]bool{}
	for _, x := range v.Differences {
		bad[x.Table] = true
	}
	if d.Verified == nil {
		d.Verified = map[string]time.Time{}
	}
	for t := range v.Tables {
		if !bad[t] && v.Unsettled == 0 {
			d.Verified[t.String()] = v.At
		}
	}
	if v.Equal {
		d.LastVerified = v.At
	}
}

// alongside runs f while changes are landed and applied.
func (n *run) alongside(ctx context.Context, f func(context.Context, *verifier) error) error {
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	sp, ended := n.r.sp, make(chan struct{}, 2)
	for _, work := range []func() error{
		func() error { return n.r.land(ctx, sp, sources(n.ps)) },
		func() error { return n.r.apply(ctx, sp, n.ps, "", false) },
	} {
		go func() {
			cancel(work())
			ended <- struct{}{}
		}()
	}
	err = f(ctx, &verifier{src: src, dst: dst, meter: &n.r.meter, pass: func(ctx context.Context) error {
		mark, err := src.Mark(ctx, n.r.cfg.Stream)
		if err != nil {
			return fmt.Errorf("mark the source's position: %w", err)
		}
		return n.r.reach(ctx, mark)
	}})
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	cancel(context.Canceled)
	<-ended
	<-ended
	return err
}

// reach waits until what is applied has come to a position.
func (r *Replicator) reach(ctx context.Context, mark engine.Pos) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		src, err := r.source(ctx)
		if err != nil {
			return err
		}
		if at := r.Progress().Applied; at != "" {
			behind, err := src.Before(at, mark)
			if err != nil {
				return fmt.Errorf("compare positions: %w", err)
			}
			if !behind {
				return nil
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (v *verifier) all(ctx context.Context, ps []pair) error {
	for _, p := range ps {
		var err error
		if p.src.Key == nil {
			err = v.keyless(ctx, p)
		} else {
			err = v.table(ctx, p)
		}
		if err != nil {
			return fmt.Errorf("verify %s: %w", p.src.Name, err)
		}
		v.meter.table(p.src.Name, func(t *TableStats) { t.Done = true })
	}
	return nil
}

// table finds the keys that may differ, and then which do.
func (v *verifier) table(ctx context.Context, p pair) error {
	var keys []engine.Row
	var rows, over int64
	err := walk(ctx, v.src, v.dst, p, nil, func(u unit) error {
		var b batch
		for i := range u.src {
			rows += u.src[i].Rows
			if u.src[i] != u.dst[i] {
				b.add(u.bucket(i), u.src[i].Rows, u.dst[i].Rows)
			}
		}
		v.meter.table(p.src.Name, func(t *TableStats) { t.Compared, t.Rows = rows, p.src.Rows })
		if len(b.ranges) == 0 {
			return nil
		}
		if len(keys) > mostSuspects {
			over += max(b.src, b.dst)
			return nil
		}
		send, gone, err := differing(ctx, v.src, v.dst, p, b.ranges)
		keys = append(append(keys, send...), gone...)
		return err
	})
	if err != nil {
		return err
	}
	v.res.Tables[p.src.Name] = rows
	v.res.More += over
	for part := range slices.Chunk(keys, maxKeys) {
		if err := v.suspects(ctx, p, part); err != nil {
			return err
		}
	}
	return nil
}

// suspects looks at rows again until each is equal, or differs while it stands still.
func (v *verifier) suspects(ctx context.Context, p pair, keys []engine.Row) error {
	before, err := rowsByKey(ctx, v.src, p.src, keys)
	if err != nil {
		return err
	}
	confirmed := map[string]bool{}
	for round := 0; len(keys) > 0; round++ {
		if err := v.pass(ctx); err != nil {
			return err
		}
		there, err := rowsByKey(ctx, v.dst, p.dst, keys)
		if err != nil {
			return err
		}
		after, err := rowsByKey(ctx, v.src, p.src, keys)
		if err != nil {
			return err
		}
		var rest []engine.Row
		for _, k := range keys {
			id := rowText(k)
			a, b, d := before[id], after[id], there[id]
			switch {
			case sameRow(d, a) || sameRow(d, b):
			case sameRow(a, b) && confirmed[id]:
				v.differs(p, k, b, d)
			case round == verifyRounds:
				v.res.Unsettled++
			default:
				confirmed[id] = sameRow(a, b)
				rest = append(rest, k)
			}
		}
		keys, before = rest, after
	}
	return nil
}

func (v *verifier) differs(p pair, key, src, dst engine.Row) {
	if len(v.res.Differences) >= mostListed {
		v.res.More++
		return
	}
	d := Difference{Table: p.src.Name}
	for _, k := range key {
		d.Key = append(d.Key, printable(k))
	}
	switch {
	case src == nil:
		d.Only = "target"
	case dst == nil:
		d.Only = "source"
	default:
		for i, c := range p.src.Carried() {
			if !sameValue(src[i], dst[i]) {
				d.Columns = append(d.Columns, p.src.Columns[c].Name)
			}
		}
	}
	v.res.Differences = append(v.res.Differences, d)
}

// printable shows a value to people: text as it is, other bytes as hexadecimal digits.
func printable(v []byte) string {
	if v == nil {
		return "NULL"
	}
	for _, c := range v {
		if c < ' ' {
			return fmt.Sprintf("0x%x", v)
		}
	}
	return string(v)
}

func sameValue(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

func sameRow(a, b engine.Row) bool {
	return (a == nil) == (b == nil) && slices.EqualFunc(a, b, sameValue)
}

// rowsByKey reads rows and files them by the text of their key.
func rowsByKey(ctx context.Context, r engine.Reader, t *engine.Table, keys []engine.Row) (map[string]engine.Row, error) {
	at := map[int]int{} // column to its place in a row
	for i, c := range t.Carried() {
		at[c] = i
	}
	out := map[string]engine.Row{}
	for row, err := range r.Rows(ctx, t, keys) {
		if err != nil {
			return nil, fmt.Errorf("read rows: %w", err)
		}
		key := make(engine.Row, len(t.Key))
		for i, c := range t.Key {
			key[i] = row[at[c]]
		}
		kept := make(engine.Row, len(row))
		for i, v := range row {
			kept[i] = bytes.Clone(v)
		}
		out[rowText(key)] = kept
	}
	return out, nil
}

// keyless compares a table whose rows have no identity, whole, until both are equal or
// differ while the source stands still.
func (v *verifier) keyless(ctx context.Context, p pair) error {
	var last engine.Digest
	for round := 0; ; round++ {
		a, err := v.src.Digests(ctx, p.src, nil, nil, true)
		if err != nil {
			return err
		}
		if err := v.pass(ctx); err != nil {
			return err
		}
		b, err := v.dst.Digests(ctx, p.dst, nil, nil, true)
		if err != nil {
			return err
		}
		v.res.Tables[p.src.Name] = a[0].Rows
		switch {
		case a[0] == b[0]:
			return nil
		case round > 0 && a[0] == last:
			v.res.Differences = append(v.res.Differences, Difference{Table: p.src.Name, Key: []string{"whole table: its rows have no key"},
				Columns: []string{fmt.Sprintf("%d and %d rows", a[0].Rows, b[0].Rows)}})
			return nil
		case round == verifyRounds:
			v.res.Unsettled += a[0].Rows
			return nil
		}
		last = a[0]
	}
}

// verifyDefinitions reports what of the definitions differs, and writes of others.
func (r *Replicator) verifyDefinitions(ctx context.Context, res *Verification, ps []pair) error {
	c, err := r.schemas(ctx)
	if err != nil {
		return err
	}
	res.Findings = c.findings
	fs, err := r.dst.Foreign(ctx, r.cfg.Stream, targets(ps))
	if err != nil {
		return fmt.Errorf("look for writes of others: %w", err)
	}
	res.Findings = append(res.Findings, fs...)
	return nil
}
