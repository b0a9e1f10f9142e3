package mssql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Promote implements engine.Role.
func (t *target) Promote(ctx context.Context, stream string, tables []*engine.Table) ([]string, error) {
	var evidence []string
	err := t.with(ctx, func(s *session) error {
		p := &promotion{s: s, stream: stream}
		err := p.run(ctx, tables)
		evidence = p.evidence
		return err
	})
	t.mu.Lock()
	t.foreign = nil
	t.mu.Unlock()
	return evidence, wrap(err, "promote %s", t.d.name)
}

// promotion is one Promote. Each step looks first whether it was done.
type promotion struct {
	s        *session
	stream   string
	evidence []string
}

func (p *promotion) note(format string, args ...any) {
	p.evidence = append(p.evidence, saw(format, args...))
}

func (p *promotion) run(ctx context.Context, tables []*engine.Table) error {
	for _, t := range tables {
		if _, err := p.s.exec(ctx, sqlDropGuard(t.Name, token(p.stream, t.Name))); err != nil {
			return fmt.Errorf("drop the guard of %s: %w", t.Name, err)
		}
	}
	have, err := p.s.held(ctx, sqlHeld(), p.stream)
	if err != nil {
		return err
	}
	for _, what := range []string{heldDropped, heldConstraint, heldTrigger} {
		for _, h := range have {
			if h.what != what {
				continue
			}
			if err := p.restore(ctx, h, have); err != nil {
				return err
			}
			if _, err := p.s.exec(ctx, sqlDropHeld(), p.stream, h.what, h.table.Schema, h.table.Name, h.name); err != nil {
				return err
			}
		}
	}
	st, err := p.s.state(ctx, sqlState(), p.stream)
	if err != nil {
		return err
	}
	// Of a primary, applications have moved the counters on since.
	if st.Phase != engine.Primary {
		if err := p.counters(ctx); err != nil {
			return err
		}
		if _, err := p.s.exec(ctx, sqlSetPhase(), p.stream, string(engine.Primary)); err != nil {
			return err
		}
		st.Phase = engine.Primary
	}
	p.note("stream %s is %s at %s, whose newest change was committed at %s", p.stream, st.Phase, st.Pos, st.SourceTime.Format("2006-01-02T15:04:05.000Z"))
	return nil
}

// restore restores one thing that was held off.
func (p *promotion) restore(ctx context.Context, h held, all []held) error {
	switch h.what {
	case heldTrigger:
		if _, err := p.s.exec(ctx, sqlEnableTrigger(h.table, h.name)); err != nil {
			return fmt.Errorf("enable trigger %s of %s: %w", h.name, h.table, err)
		}
		p.note("trigger %s of %s is enabled", h.name, h.table)
		return nil
	case heldDropped:
		return p.recreate(ctx, h)
	}
	for _, o := range all {
		if o.what == heldDropped && o.table == h.table && o.name == h.name {
			return nil // made anew
		}
	}
	return p.enforce(ctx, h)
}

// recreate makes a foreign key again that was dropped.
func (p *promotion) recreate(ctx context.Context, h held) error {
	states, err := p.s.constraints(ctx)
	if err != nil || states[heldKey("", h.table, h.name)].there {
		return err
	}
	if _, err := p.s.exec(ctx, h.definition); err != nil {
		return fmt.Errorf("make foreign key %s of %s again: %w", h.name, h.table, err)
	}
	p.note("foreign key %s of %s is back, and all rows satisfy it", h.name, h.table)
	return nil
}

// enforce puts a constraint in force. It is checked against all rows, as one that is
// not trusted makes worse plans; where rows do not satisfy it, as they need not at a
// source that did not trust it either, it is in force for new rows.
func (p *promotion) enforce(ctx context.Context, h held) error {
	states, err := p.s.constraints(ctx)
	if err != nil {
		return err
	}
	if c, ok := states[heldKey("", h.table, h.name)]; !ok || !c.disabled && (!c.untrusted || h.untrusted) {
		return nil
	}
	_, err = p.s.exec(ctx, sqlRestoreConstraint(h.table, h.name, !h.untrusted))
	if number(err) == 547 {
		if _, err := p.s.exec(ctx, sqlRestoreConstraint(h.table, h.name, false)); err != nil {
			return fmt.Errorf("enforce %s of %s: %w", h.name, h.table, err)
		}
		p.note("constraint %s of %s is in force for new rows; some that are there do not satisfy it: %v", h.name, h.table, err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("enforce %s of %s: %w", h.name, h.table, err)
	}
	p.note("constraint %s of %s is in force", h.name, h.table)
	return nil
}

// counters moves identities and sequences past where the source's stood with the last
// batch.
func (p *promotion) counters(ctx context.Context) error {
	there, err := p.s.has(ctx, "leeward.counter")
	if err != nil || !there {
		return err
	}
	var cs []engine.Counter
	err = p.s.each(ctx, sqlCounters(), func(scan func(...any) error) error {
		var c engine.Counter
		if err := scan(&c.Kind, &c.Name.Schema, &c.Name.Name, &c.Column, &c.Value); err != nil {
			return err
		}
		cs = append(cs, c)
		return nil
	}, p.stream)
	if err != nil {
		return err
	}
	for _, c := range cs {
		if err := p.counter(ctx, c); err != nil {
			return fmt.Errorf("set %s of %s: %w", c.Kind, c.Name, err)
		}
	}
	return nil
}

func (p *promotion) counter(ctx context.Context, c engine.Counter) error {
	if there, err := p.s.has(ctx, obj(c.Name)); err != nil || !there {
		return err // not replicated
	}
	if !digits(c.Value) {
		return fmt.Errorf("value %q is no number", c.Value)
	}
	if c.Kind == "sequence" {
		_, err := p.s.exec(ctx, sqlRestart(c.Name, c.Value))
		if err == nil {
			p.note("sequence %s goes on at %s", c.Name, c.Value)
		}
		return err
	}
	var now, step text
	err := p.s.QueryRowContext(ctx, sqlIdentityNow(), obj(c.Name)).Scan(&now, &step)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // no identity here
	}
	if err != nil {
		return err
	}
	if to := reseed(c.Value, string(now), string(step)); to != "" {
		_, err := p.s.exec(ctx, sqlReseed(c.Name, to))
		if err != nil {
			// Perhaps the type ends there.
			_, err = p.s.exec(ctx, sqlReseed(c.Name, c.Value))
		}
		if err != nil {
			return err
		}
	}
	p.note("identity of %s was at %s here and %s at the source", c.Name, orNothing(now), c.Value)
	return nil
}

// digits reports whether s may stand in a statement as a number.
func digits(s string) bool {
	if len(s) > 0 && s[0] == '-' {
		s = s[1:]
	}
	for _, r := range s {
		if r < '0' || r > '9' {
			return false
		}
	}
	return s != ""
}

func orNothing(t text) string {
	if t == "" {
		return "its beginning"
	}
	return string(t)
}
