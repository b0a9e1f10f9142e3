package rowsync

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Verify compares the rows of all databases of both ends, while the source is written
// to and the standby follows: by digests, and what differs once more when the standby
// has applied the position at which it was read. Indexes, large objects, accounts and
// settings are not compared: they are the source's own pages, applied by the engine.
// Tables are named database.schema.table.
func (s *Standby) Verify(ctx context.Context) (Verification, error) {
	begun := time.Now()
	res := Verification{Tables: map[engine.Name]int64{}}
	st, err := s.look(ctx)
	if err != nil {
		return res, fmt.Errorf("verify %s: %w", s.cfg.Name, err)
	}
	if st.Phase != engine.Replica {
		return res, fmt.Errorf("verify %s: its target is no standby that answers; replicate it first", s.cfg.Name)
	}
	s.meter.step(StepVerify)
	at, err := s.catchUp(ctx)
	if err != nil {
		return res, err
	}
	all, err := s.p.Databases(ctx)
	if err != nil {
		return res, fmt.Errorf("verify %s: %w", s.cfg.Name, err)
	}
	whole := true
	for _, d := range all {
		ok, err := s.verifyDatabase(ctx, d, &res)
		if err != nil {
			return res, fmt.Errorf("verify database %s of %s: %w", d.Name, s.cfg.Name, err)
		}
		whole = whole && ok
	}
	fs, err := s.p.Check(ctx)
	if err != nil {
		return res, fmt.Errorf("verify %s: %w", s.cfg.Name, err)
	}
	for _, f := range fs {
		if f.Object == engine.PageChecksums {
			res.Findings = append(res.Findings, f)
		}
	}
	res.Findings = append(res.Findings, engine.Finding{Severity: engine.Note, Object: "standby",
		Text: fmt.Sprintf("it had applied %s when the comparison began; rows of %d databases were compared, not indexes, large objects, accounts or settings", at, len(all))})
	res.Took, res.At = time.Since(begun), begun.UTC()
	res.Equal = whole && len(res.Differences) == 0 && res.More == 0 && res.Unsettled == 0
	return res, s.notes.change(func(d *notesData) { d.verified(&res) })
}

// verifyDatabase compares one database; whole tells that every table could be.
func (s *Standby) verifyDatabase(ctx context.Context, d engine.PhysicalDatabase, into *Verification) (whole bool, err error) {
	src, err := s.cfg.Rows.Source(ctx, d.Source)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := s.cfg.Rows.Target(ctx, d.Target)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := agree(s.cfg.Name, src, dst); err != nil {
		return false, err
	}
	a, err := src.Schema(ctx)
	if err != nil {
		return false, fmt.Errorf("read the definitions of the source: %w", err)
	}
	// The standby may still lack what was defined just now.
	if _, err := s.catchUp(ctx); err != nil {
		return false, err
	}
	b, err := dst.Schema(ctx)
	if err != nil {
		return false, fmt.Errorf("read the definitions of the target: %w", err)
	}
	for _, t := range append(a.Tables[:len(a.Tables):len(a.Tables)], b.Tables...) {
		t.Refused = "" // to be replicated by rows; it may be compared all the same
	}
	c := compareSchemas(a, b)
	res := Verification{Tables: map[engine.Name]int64{}}
	v := &verifier{src: src, dst: dst, meter: &s.meter, res: &res, pass: func(ctx context.Context) error {
		_, err := s.catchUp(ctx)
		return err
	}}
	whole, err = s.verifyTables(ctx, v, c.pairs)
	res.add(c)
	into.merge(d.Name, &res)
	return whole && len(c.pairs) == len(a.Tables), err
}

// verifyTables compares tables. A standby may cancel what reads it, to go on itself.
func (s *Standby) verifyTables(ctx context.Context, v *verifier, ps []pair) (whole bool, err error) {
	whole = true
	for _, p := range ps {
		before := *v.res
		err := s.patient(ctx, "the standby", func(ctx context.Context) error {
			v.res.Differences, v.res.More, v.res.Unsettled = before.Differences, before.More, before.Unsettled
			return v.all(ctx, []pair{p})
		})
		if err == nil {
			continue
		}
		if ctx.Err() != nil || engine.Temporary(err) {
			return false, err
		}
		whole = false
		delete(v.res.Tables, p.src.Name)
		v.res.Findings = append(v.res.Findings, engine.Finding{Severity: engine.Warning, Object: "table " + p.src.Name.String(), Text: "it could not be compared: " + err.Error()})
	}
	return whole, nil
}

// add takes over what definitions were found to differ.
func (v *Verification) add(c comparison) {
	for _, f := range c.findings {
		f.Severity = engine.Warning
		v.Findings = append(v.Findings, f)
	}
	for _, o := range c.missing {
		v.Differences = append(v.Differences, Difference{Table: o.Name, Key: []string{o.Kind}, Only: "source"})
	}
}

// merge adds what was found in a database, under its name.
func (v *Verification) merge(database string, o *Verification) {
	within := func(n engine.Name) engine.Name {
		if n.Schema == "" {
			return engine.Name{Schema: database, Name: n.Name}
		}
		return engine.Name{Schema: database + "." + n.Schema, Name: n.Name}
	}
	for n, rows := range o.Tables {
		v.Tables[within(n)] = rows
	}
	for _, d := range o.Differences {
		d.Table = within(d.Table)
		v.Differences = append(v.Differences, d)
	}
	for _, f := range o.Findings {
		f.Object = "database " + database + ", " + f.Object
		v.Findings = append(v.Findings, f)
	}
	v.More, v.Unsettled = v.More+o.More, v.Unsettled+o.Unsettled
}
