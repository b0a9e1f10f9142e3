package switchover

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Role is which site is primary for a member that was moved, for people and scripts.
type Role struct {
	Member  string    `json:"member"`
	Primary Site      `json:"primary"`
	Moving  Site      `json:"moving,omitempty"` // a run was cut on the way there
	Run     string    `json:"run,omitempty"`
	Token   int64     `json:"token"`
	Since   time.Time `json:"since,omitzero"`
	Until   time.Time `json:"until,omitzero"` // end of the rollback window
	Lost    bool      `json:"lost,omitempty"` // by a failover: what the other site still has was not drained
	// Returned is set where the other site answers again after a failover with a token
	// that is too old, so that it may believe that it is primary. Fenced is set where it
	// was quarantined since.
	Returned bool `json:"returned,omitempty"`
	Fenced   bool `json:"fenced,omitempty"`
}

// Roles tells of all members that were ever moved, in the order of names. A source that
// was lost is asked, for a moment, whether it is back.
func (w *World) Roles(ctx context.Context, names []string) ([]Role, error) {
	s, err := w.State.Load()
	if err != nil {
		return nil, err
	}
	var out []Role
	for _, name := range names {
		m, moved := s.Members[name]
		if !moved {
			continue
		}
		r := Role{Member: name, Primary: m.Primary, Moving: m.Moving, Run: m.Run, Token: m.Token, Since: m.Since, Until: m.Until, Lost: m.Lost}
		if m.Lost && w.isDatabase(name) {
			r.Returned, r.Fenced = w.returned(ctx, name, m)
		}
		out = append(out, r)
	}
	return out, nil
}

// isDatabase reports whether a member is one: of servers nobody keeps a token that could
// be read without ssh.
func (w *World) isDatabase(name string) bool {
	rows, ok := w.Databases.(*Rows)
	return !ok || rows.Estate.Database(name) != nil
}

// returned asks the source for its token. One that does not answer is not back.
func (w *World) returned(ctx context.Context, name string, m Member) (back, fenced bool) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	n, err := w.Tokens.Token(ctx, name, m.Primary.Other())
	if err != nil {
		return false, false
	}
	if fenced, looked, err := w.lookFenced(ctx, name, m.Primary.Other()); looked {
		return err != nil || !fenced, err == nil && fenced
	}
	return n < m.Token, n >= m.Token
}

// lookFenced asks a database at a site whether it is fenced, where that shows elsewhere
// than in its token.
func (w *World) lookFenced(ctx context.Context, name string, at Site) (fenced, looked bool, err error) {
	l, ok := w.Databases.(interface {
		Fenced(ctx context.Context, name string, at Site) (fenced, looked bool, err error)
	})
	if !ok {
		return false, false, nil
	}
	return l.Fenced(ctx, name, at)
}

// Quarantine makes a database at a source that returned after a failover unable to
// write, and leaves the token there under which the other site is primary.
func (w *World) Quarantine(ctx context.Context, name string, grace time.Duration) (facts []string, err error) {
	s, err := w.State.Load()
	if err != nil {
		return nil, err
	}
	m := s.Member(name)
	if !m.Lost || m.Primary != Target || m.Moving != "" {
		return nil, hinted("only what a failover left behind is put in quarantine", "quarantine %s: it was not failed over", name)
	}
	err = w.with(ctx, name, Forward, func(db Database) error {
		e, err := db.Fence(ctx, grace)
		facts = e.Facts
		return err
	})
	if err != nil {
		return facts, fmt.Errorf("quarantine %s: %w", name, err)
	}
	if fenced, looked, err := w.lookFenced(ctx, name, Source); looked {
		if err == nil && !fenced {
			err = errors.New("the fence was raised, and does not stand")
		}
		if err != nil {
			return facts, fmt.Errorf("quarantine %s: %w", name, err)
		}
		return append(facts, "nothing was written at the source, so that it can come back as the standby"), nil
	}
	if err := w.Tokens.SetToken(ctx, name, Source, m.Token); err != nil {
		return facts, fmt.Errorf("quarantine %s: %w", name, err)
	}
	return append(facts, fmt.Sprintf("token %d is on record at the source", m.Token)), nil
}

// KeepUp brings the way home of a member that was moved up to date: a database at the
// source, by what was written at the target since. Facts say why there is nothing to do.
func (w *World) KeepUp(ctx context.Context, name string) (facts []string, err error) {
	s, err := w.State.Load()
	if err != nil {
		return nil, err
	}
	m := s.Member(name)
	switch {
	case m.Moving != "":
		return []string{fmt.Sprintf("run %s moves it, and is not over", m.Run)}, nil
	case m.Primary == Source:
		return []string{"it is primary at the source"}, nil
	case !w.isDatabase(name):
		return []string{"what is written to its disks comes home with: leeward failback plan"}, nil
	case m.Lost:
		return []string{"the source was given up; what it still has is looked at by: leeward failback plan"}, nil
	}
	err = w.with(ctx, name, Back, func(db Database) error {
		e, err := db.Drain(ctx)
		facts = e.Facts
		return err
	})
	if err == nil {
		facts = append([]string{"replicated back to the source"}, facts...)
	}
	return facts, err
}
