package mssql

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// What a standby holds off.
const (
	heldTrigger    = "trigger"
	heldConstraint = "constraint"
	heldDropped    = "dropped" // a foreign key the server could not hold off otherwise
)

// held is one thing that a standby holds off.
type held struct {
	what       string
	table      engine.Name
	name       string
	untrusted  bool
	definition string
}

func (s *session) held(ctx context.Context, query string, args ...any) ([]held, error) {
	there, err := s.has(ctx, "leeward.held")
	if err != nil || !there {
		return nil, err
	}
	var out []held
	err = s.each(ctx, query, func(scan func(...any) error) error {
		var h held
		var untrusted flag
		var definition text
		if err := scan(&h.what, &h.table.Schema, &h.table.Name, &h.name, &untrusted, &definition); err != nil {
			return err
		}
		h.untrusted, h.definition = bool(untrusted), string(definition)
		out = append(out, h)
		return nil
	}, args...)
	return out, err
}

// holder holds things off for one Standby.
type holder struct {
	s      *session
	stream string
	have   map[string]bool
	young  map[string]bool // constraints made by Execute without a look at the rows
}

func heldKey(what string, table engine.Name, name string) string {
	return strings.ToLower(what + "\x00" + table.Schema + "\x00" + table.Name + "\x00" + name)
}

// hold records a thing first and does it then: what was done and not recorded would
// stay so for ever.
func (h *holder) hold(ctx context.Context, x held, statement string) error {
	if k := heldKey(x.what, x.table, x.name); !h.have[k] {
		untrusted := 0
		if x.untrusted {
			untrusted = 1
		}
		var definition any
		if x.definition != "" {
			definition = x.definition
		}
		if _, err := h.s.exec(ctx, sqlAddHeld(), h.stream, x.what, x.table.Schema, x.table.Name, x.name, untrusted, definition); err != nil {
			return err
		}
		h.have[k] = true
	}
	if _, err := h.s.exec(ctx, statement); err != nil {
		return fmt.Errorf("hold %s %s of %s off: %w", x.what, x.name, x.table, err)
	}
	return nil
}

// Standby implements engine.Role.
func (t *target) Standby(ctx context.Context, stream string, tables []*engine.Table) error {
	err := t.with(ctx, func(s *session) error {
		if err := t.ensure(ctx, s); err != nil {
			return err
		}
		c, err := s.catalog(ctx)
		if err != nil {
			return err
		}
		have, err := s.held(ctx, sqlHeld(), stream)
		if err != nil {
			return err
		}
		h := &holder{s: s, stream: stream, have: map[string]bool{}, young: t.unchecked()}
		for _, x := range have {
			h.have[heldKey(x.what, x.table, x.name)] = true
		}
		if err := h.triggers(ctx, c, tables); err != nil {
			return err
		}
		if err := h.constraints(ctx, c, tables); err != nil {
			return err
		}
		return t.guard(ctx, s, stream, tables)
	})
	t.mu.Lock()
	t.foreign = nil
	t.mu.Unlock()
	return wrap(err, "make %s a standby", t.d.name)
}

// triggers disables those that are enabled.
func (h *holder) triggers(ctx context.Context, c *catalog, tables []*engine.Table) error {
	for _, m := range c.modules {
		t := c.byID[m.parent]
		if m.typ != "TR" || t == nil || m.disabled || !among(tables, t.name) {
			continue
		}
		x := held{what: heldTrigger, table: t.name, name: m.name.Name}
		if err := h.hold(ctx, x, sqlDisableTrigger(t.name, m.name.Name)); err != nil {
			return err
		}
	}
	return nil
}

// constraints holds off foreign keys and checks that are enforced. Some servers take
// the words and go on enforcing; what they then say of the constraint tells. There,
// foreign keys are dropped, with their definition kept, and checks left: rows of the
// source pass them.
func (h *holder) constraints(ctx context.Context, c *catalog, tables []*engine.Table) error {
	for _, t := range c.tables {
		if !among(tables, t.name) {
			continue
		}
		for _, k := range t.checks {
			if k.disabled {
				continue
			}
			x := held{what: heldConstraint, table: t.name, name: k.name, untrusted: k.untrusted}
			_ = h.hold(ctx, x, sqlHoldConstraint(t.name, k.name))
		}
	}
	for _, f := range c.foreign {
		// Those of other tables that refer to ours hold our deletions up.
		if f.disabled || !among(tables, f.table) && !among(tables, f.refTable) {
			continue
		}
		x := held{what: heldConstraint, table: f.table, name: f.name, untrusted: f.untrusted && !h.young[unchecked(ddlForeignKey(f))]}
		f.untrusted = x.untrusted
		_ = h.hold(ctx, x, sqlHoldConstraint(f.table, f.name))
		off, err := h.s.disabled(ctx, f.table, f.name)
		if err != nil {
			return err
		}
		if off {
			continue
		}
		x.what, x.definition = heldDropped, ddlForeignKey(f)
		if err := h.hold(ctx, x, sqlDropConstraint(f.table, f.name)); err != nil {
			return err
		}
	}
	return nil
}

// disabled reads whether a constraint is really held off.
func (s *session) disabled(ctx context.Context, table engine.Name, name string) (bool, error) {
	states, err := s.constraints(ctx)
	return states[heldKey("", table, name)].disabled, err
}

type constraintState struct{ there, disabled, untrusted bool }

func (s *session) constraints(ctx context.Context) (map[string]constraintState, error) {
	out := map[string]constraintState{}
	err := s.each(ctx, sqlConstraintStates(), func(scan func(...any) error) error {
		var n engine.Name
		var name string
		var disabled, untrusted flag
		if err := scan(&n.Schema, &n.Name, &name, &disabled, &untrusted); err != nil {
			return err
		}
		out[heldKey("", n, name)] = constraintState{true, bool(disabled), bool(untrusted)}
		return nil
	})
	return out, err
}

// guard makes the triggers that note writes of others, where the server lets them tell
// whose session they run in.
func (t *target) guard(ctx context.Context, s *session, stream string, tables []*engine.Table) error {
	if !t.d.marks {
		return nil
	}
	for _, x := range tables {
		k := token(stream, x.Name)
		var enabled int
		if err := s.QueryRowContext(ctx, sqlTriggerState(), obj(x.Name), ourPrefix+"g_"+k).Scan(&enabled); err != nil {
			return err
		}
		if enabled > 0 {
			continue
		}
		if _, err := s.exec(ctx, sqlDropGuard(x.Name, k)); err != nil {
			return err
		}
		if _, err := s.exec(ctx, sqlMakeGuard(x.Name, k)); err != nil {
			return fmt.Errorf("guard %s: %w", x.Name, err)
		}
		// What was noted before is of an earlier standby.
		if _, err := s.exec(ctx, sqlForgetForeign(), x.Name.Schema, x.Name.Name); err != nil {
			return err
		}
	}
	return nil
}

// Foreign implements engine.Role.
func (t *target) Foreign(ctx context.Context, stream string, tables []*engine.Table) ([]engine.Finding, error) {
	var out []engine.Finding
	err := t.with(ctx, func(s *session) error {
		there, err := s.has(ctx, "leeward.foreign_write")
		if err != nil || !there {
			return err
		}
		return s.each(ctx, sqlForeign(), func(scan func(...any) error) error {
			var n engine.Name
			var writes int64
			var at any
			var login, program text
			if err := scan(&n.Schema, &n.Name, &writes, &at, &login, &program); err != nil {
				return err
			}
			if among(tables, n) {
				out = append(out, engine.Finding{
					Severity: engine.Warning, Object: n.String(),
					Text:   fmt.Sprintf("was written to by %d statements that were not Leeward's, last at %v by %s (%s)", writes, at, login, program),
					Remedy: "keep applications away from the standby, and run leeward verify, which finds and mends what differs",
				})
			}
			return nil
		})
	})
	return out, wrap(err, "look for writes of others")
}
