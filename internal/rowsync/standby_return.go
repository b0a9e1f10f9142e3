package rowsync

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// AssessReturn tells, before a switch, what prevents the way back of which this is the
// Standby: its source is a standby still, and its target the primary. It changes nothing.
func (s *Standby) AssessReturn(ctx context.Context) ([]engine.Finding, error) {
	fs, err := s.p.CheckReturn(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at the way back of %s: %w", s.cfg.Name, err)
	}
	return fs, nil
}

// Assess tells what prevents or weakens the copy. It changes nothing.
func (s *Standby) Assess(ctx context.Context) ([]engine.Finding, error) {
	fs, err := s.p.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("look at both ends of %s: %w", s.cfg.Name, err)
	}
	return fs, nil
}

// FencedOf looks whether the source of a physical copy takes no writes of others.
func FencedOf(ctx context.Context, cfg StandbyConfig) (bool, error) {
	p, err := cfg.Physical.Physical(cfg.Options)
	if err != nil {
		return false, fmt.Errorf("open %s: %w", cfg.Name, err)
	}
	return p.Fenced(ctx)
}

// SetAside writes into dir, a directory a database and a file a table, every row that
// the target, which was a primary before, has of its own or otherwise than the source.
// Neither end is changed. From then on, and until it follows, Pass may take from the
// target what it alone has.
func (s *Standby) SetAside(ctx context.Context, dir string) ([]Aside, error) {
	all, err := s.p.Databases(ctx)
	if err != nil {
		return nil, fmt.Errorf("set rows of %s aside: %w", s.cfg.Name, err)
	}
	if err := s.noneBeside(ctx, all); err != nil {
		return nil, err
	}
	var out []Aside
	for _, d := range all {
		kept, err := s.asideOf(ctx, d, filepath.Join(dir, d.Name))
		for i := range kept {
			kept[i].Table.Schema = strings.TrimSuffix(d.Name+"."+kept[i].Table.Schema, ".")
		}
		if out = append(out, kept...); err != nil {
			return out, fmt.Errorf("set rows of database %s aside: %w", d.Name, err)
		}
	}
	if err := s.notes.change(func(n *notesData) { n.Aside = time.Now().UTC() }); err != nil {
		return out, err
	}
	return out, s.open()
}

// asideOf compares one database by rows.
func (s *Standby) asideOf(ctx context.Context, d engine.PhysicalDatabase, dir string) (kept []Aside, err error) {
	spool := filepath.Join(s.cfg.Spool, "aside")
	r, err := New(Config{Name: s.cfg.Name, Driver: s.cfg.Rows, Source: d.Source, Target: d.Target, Spool: spool, Log: s.cfg.Log})
	if err != nil {
		return nil, err
	}
	kept, err = r.SetAside(ctx, dir)
	return kept, errors.Join(err, r.Close(), os.RemoveAll(spool))
}

// noneBeside insists that the target has no database that the source lacks: nothing
// could be compared with it.
func (s *Standby) noneBeside(ctx context.Context, known []engine.PhysicalDatabase) error {
	back, err := s.cfg.Physical.Physical(s.cfg.Reversed().Options)
	if err != nil {
		return fmt.Errorf("set rows of %s aside: %w", s.cfg.Name, err)
	}
	theirs, err := back.Databases(ctx)
	if err != nil {
		return fmt.Errorf("set rows of %s aside: %w", s.cfg.Name, err)
	}
	for _, d := range theirs {
		if !slices.ContainsFunc(known, func(k engine.PhysicalDatabase) bool { return k.Name == d.Name }) {
			return fmt.Errorf("set rows of %s aside: the old primary has a database %s that the new one lacks: dump it, drop it there, and try again", s.cfg.Name, d.Name)
		}
	}
	return nil
}
