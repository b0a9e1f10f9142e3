package rowsync

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// InstanceState says how something outside of a database stands at the target.
type InstanceState string

// Same is as at the source, Missing is not there, Differs is there and is another, and
// Extra is at the target alone.
const (
	InstanceSame    InstanceState = "same"
	InstanceMissing InstanceState = "missing"
	InstanceDiffers InstanceState = "differs"
	InstanceExtra   InstanceState = "extra"
)

// InstanceItem is one thing that lives outside of the database: a login, a role, grants
// on one object, a job, a setting. What makes it is never told: it may hold a hash.
type InstanceItem struct {
	Kind, Name string
	State      InstanceState
	Made       bool   // at the target, just now
	Why        string // it was not, though it was to be, and what to do
}

// InstanceReport is what lives outside of a database and how the target stands to it.
type InstanceReport struct {
	Items  []InstanceItem // by kind and name
	Manual []engine.Finding
}

// Instance compares what lives outside of the database at both ends, and with copied
// set makes at the target what it lacks or has otherwise. What the target alone has is
// never taken away.
func (r *Replicator) Instance(ctx context.Context, copied bool) (InstanceReport, error) {
	src, dst, err := r.ends(ctx)
	if err != nil {
		return InstanceReport{}, err
	}
	from, ok := src.(engine.Instance)
	to, both := dst.(engine.InstanceTarget)
	if !ok || !both {
		return InstanceReport{}, nil
	}
	want, manual, err := from.InstanceObjects(ctx)
	if err != nil {
		return InstanceReport{}, fmt.Errorf("list what is around the source of %s: %w", r.cfg.Name, err)
	}
	have, _, err := to.InstanceObjects(ctx)
	if err != nil {
		return InstanceReport{}, fmt.Errorf("list what is around the target of %s: %w", r.cfg.Name, err)
	}
	left := r.cfg.Source.Tables.Exclude
	c := compareInstances(slices.DeleteFunc(want, func(o engine.Object) bool { return leftOut(o, left) }),
		slices.DeleteFunc(have, func(o engine.Object) bool { return leftOut(o, left) }))
	if copied {
		if err := c.make(ctx, to); err != nil {
			return InstanceReport{}, fmt.Errorf("copy what is around %s: %w", r.cfg.Name, err)
		}
	}
	return InstanceReport{Items: c.items(), Manual: manual}, nil
}

// leftOut reports whether an object, such as a grant on a table, is of one that is not
// replicated.
func leftOut(o engine.Object, patterns []string) bool {
	if o.Kind != "grant" && o.Kind != "owner" {
		return false
	}
	table, _, _ := strings.Cut(o.Name.Name, ".") // a column of it
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, engine.Name{Schema: o.Name.Schema, Name: table}.String())
		return ok && err == nil
	})
}

type instanceKey struct {
	kind string
	name engine.Name
}

// around compares instance objects. Several may have one kind and name, as the grants
// on one table: they are one item.
type around struct {
	lacking []engine.Object // at the target, in the order in which they can be made
	at      map[instanceKey]*InstanceItem
}

func compareInstances(want, have []engine.Object) *around {
	c := &around{at: map[instanceKey]*InstanceItem{}}
	there, named := map[engine.Object]bool{}, map[instanceKey]bool{}
	for _, o := range have {
		there[plain(o)] = true
		named[instanceKey{o.Kind, o.Name}] = true
	}
	for _, o := range want {
		k := instanceKey{o.Kind, o.Name}
		i := c.at[k]
		if i == nil {
			i = &InstanceItem{Kind: o.Kind, Name: o.Name.String(), State: InstanceSame}
			c.at[k] = i
		}
		if there[plain(o)] {
			continue
		}
		c.lacking = append(c.lacking, o)
		if i.State = InstanceMissing; named[k] {
			i.State = InstanceDiffers
		}
	}
	for _, o := range have {
		k := instanceKey{o.Kind, o.Name}
		if c.at[k] == nil {
			c.at[k] = &InstanceItem{Kind: o.Kind, Name: o.Name.String(), State: InstanceExtra}
		}
	}
	return c
}

// plain is what is compared of an object.
func plain(o engine.Object) engine.Object {
	return engine.Object{Kind: o.Kind, Name: o.Name, Definition: o.Definition}
}

// make makes what the target lacks. What cannot be made is told, and the rest goes on.
func (c *around) make(ctx context.Context, to engine.InstanceTarget) error {
	for _, o := range c.lacking {
		i := c.at[instanceKey{o.Kind, o.Name}]
		if o.Kind == engine.KindParameter {
			i.Why = "settings are not copied: set it at the target if it is right there"
			continue
		}
		err := to.MakeInstanceObject(ctx, o, i.State == InstanceDiffers)
		if ctx.Err() != nil || engine.Temporary(err) {
			return err
		}
		var kept *engine.KeptError
		switch {
		case errors.As(err, &kept):
			i.Why = kept.Error()
			if kept.Remedy != "" {
				i.Why += "; " + kept.Remedy
			}
		case err != nil:
			i.Why = err.Error()
		}
		i.Made = err == nil && i.Why == ""
	}
	return nil
}

func (c *around) items() []InstanceItem {
	var out []InstanceItem
	for _, i := range c.at {
		out = append(out, *i)
	}
	slices.SortFunc(out, func(a, b InstanceItem) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}
