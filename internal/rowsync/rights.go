package rowsync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// owned are the kinds of objects that have an owner, or grants.
var owned = [...]string{"schema", "table", "view", "materialized view", "sequence", "routine", "aggregate", "type"}

// making notes, before they are there, which objects a pass makes, so that they get their
// owners and grants even if it is cut. bare tells that the target had no table: then
// what is granted on the whole database is theirs too.
func (r *Replicator) making(missing []engine.Object, bare bool) error {
	var names []engine.Name
	for _, o := range missing {
		if slices.Contains(owned[:], o.Kind) {
			names = append(names, o.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if bare {
		names = append(names, engine.Name{}, engine.Name{Name: "public"})
	}
	return r.notes.change(func(d *notesData) {
		for _, n := range names {
			if !slices.Contains(d.Made, n) {
				d.Made = append(d.Made, n)
			}
		}
	})
}

// rights gives what passes have made the owners and grants of the source, where their
// roles are at the target, and tells of the others.
func (n *run) rights(ctx context.Context) error {
	made := n.r.notes.get().Made
	if len(made) == 0 {
		return nil
	}
	src, dst, err := n.r.ends(ctx)
	if err != nil {
		return err
	}
	from, ok := src.(engine.Rights)
	to, both := dst.(engine.RightsTarget)
	if !ok || !both {
		return nil
	}
	g := &giving{to: to, without: map[string][]engine.Name{}}
	if err := g.give(ctx, from, made); err != nil {
		if engine.Temporary(err) || ctx.Err() != nil {
			return err
		}
		g.findings = append(g.findings, engine.Finding{Severity: engine.Warning, Object: "grants", Text: "what was made at the target has not the owners and grants of the source: " + err.Error(),
			Remedy: "after a switch applications may be refused: give them at the target"})
		g.left = made
	}
	found := append(g.findings, g.missing()...)
	n.res.Findings = dedupe(append(n.res.Findings, found...))
	var lacking []string
	for _, f := range found {
		lacking = append(lacking, f.Object+": "+f.Text+" ("+f.Remedy+")")
	}
	return n.r.notes.change(func(d *notesData) { d.Made, d.Lacking = g.left, lacking })
}

// Lacking tells, in words, which owners and grants of what was made at the target could
// not be given.
func (r *Replicator) Lacking() []string { return r.notes.get().Lacking }

// giving gives rights.
type giving struct {
	to       engine.RightsTarget
	findings []engine.Finding
	without  map[string][]engine.Name // of a role that is not there
	left     []engine.Name            // objects that still lack something
}

func (g *giving) give(ctx context.Context, from engine.Rights, made []engine.Name) error {
	want, err := from.Rights(ctx)
	if err != nil {
		return fmt.Errorf("at the source: %w", err)
	}
	have, err := g.to.Rights(ctx)
	if err != nil {
		return fmt.Errorf("at the target: %w", err)
	}
	there := map[string]bool{}
	for _, r := range have {
		there[r.Statement] = true
	}
	for _, r := range want {
		if there[r.Statement] || !slices.Contains(made, r.Of) {
			continue
		}
		err := g.to.Allow(ctx, r)
		if err == nil {
			continue
		}
		if engine.Temporary(err) || ctx.Err() != nil {
			return err
		}
		if !slices.Contains(g.left, r.Of) {
			g.left = append(g.left, r.Of)
		}
		var none *engine.NoRoleError
		if errors.As(err, &none) {
			if of := g.without[none.Role]; !slices.Contains(of, r.Of) {
				g.without[none.Role] = append(of, r.Of)
			}
			continue
		}
		g.findings = append(g.findings, engine.Finding{Severity: engine.Warning, Object: "rights of " + object(r.Of), Text: err.Error(), Remedy: "run it at the target as who may"})
	}
	return nil
}

func object(n engine.Name) string {
	if n == (engine.Name{}) {
		return "the whole database"
	}
	return n.String()
}

const namesShown = 5

// missing tells of roles that are not at the target.
func (g *giving) missing() (out []engine.Finding) {
	for role, of := range g.without {
		var names []string
		for i, n := range of {
			if i == namesShown {
				names = append(names, fmt.Sprintf("%d more", len(of)-i))
				break
			}
			names = append(names, object(n))
		}
		out = append(out, engine.Finding{Severity: engine.Warning, Object: "role " + role,
			Text:   "it is not at the target, so that it has not there what it has at the source of " + strings.Join(names, ", "),
			Remedy: "make it there, or let instance: copy make all of them, and replicate again"})
	}
	slices.SortFunc(out, func(a, b engine.Finding) int { return strings.Compare(a.Object, b.Object) })
	return out
}
