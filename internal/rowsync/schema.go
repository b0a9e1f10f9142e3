package rowsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// pair is one table at both ends. The source's definition is for reading there, the
// target's for all else.
type pair struct{ src, dst *engine.Table }

// comparison is how the definitions of both ends stand to each other.
type comparison struct {
	pairs    []pair
	misfits  []pair                         // the same table, but rows of one do not fit the other
	reasons  map[engine.Name]engine.Finding // why not
	sources  map[engine.Name]bool           // tables of the source
	missing  []engine.Object                // at the target, in the order in which they can be made
	bare     bool                           // the target has no table
	findings []engine.Finding
}

type objectKey struct {
	kind        string
	name, table engine.Name
}

func keyOf(o engine.Object) objectKey { return objectKey{o.Kind, o.Name, o.Table} }

// compareSchemas compares by name and by the text of definitions.
func compareSchemas(src, dst *engine.Schema) comparison {
	c := comparison{bare: len(dst.Tables) == 0}
	there := map[objectKey]engine.Object{}
	for _, o := range dst.Objects {
		there[keyOf(o)] = o
	}
	for _, o := range src.Objects {
		d, ok := there[keyOf(o)]
		delete(there, keyOf(o))
		switch {
		case !ok:
			c.missing = append(c.missing, o)
		case d.Definition != o.Definition:
			c.findings = append(c.findings, engine.Finding{
				Severity: engine.Warning, Object: describe(o),
				Text:   "the target has another definition: " + d.Definition,
				Remedy: "make it that of the source at the target: " + o.Definition,
			})
		}
	}
	for _, o := range dst.Objects {
		if _, extra := there[keyOf(o)]; extra {
			c.findings = append(c.findings, engine.Finding{
				Severity: engine.Note, Object: describe(o), Text: "the target alone has it",
			})
		}
	}
	c.pairTables(src, dst)
	return c
}

func describe(o engine.Object) string {
	s := o.Kind + " " + o.Name.String()
	if o.Table.Name != "" && o.Table != o.Name {
		s += " of " + o.Table.String()
	}
	return s
}

// pairTables finds the tables whose rows can travel.
func (c *comparison) pairTables(src, dst *engine.Schema) {
	at := map[engine.Name]*engine.Table{}
	for _, t := range dst.Tables {
		at[t.Name] = t
	}
	c.sources, c.reasons = map[engine.Name]bool{}, map[engine.Name]engine.Finding{}
	for _, s := range src.Tables {
		d := at[s.Name]
		c.sources[s.Name] = true
		switch {
		case s.Refused != "":
			c.findings = append(c.findings, engine.Finding{Severity: engine.Blocker, Object: "table " + s.Name.String(), Text: s.Refused,
				Remedy: "mend that, or leave the table out with an exclude pattern"})
		case d == nil:
			// Made from its definition, or found missing when that was tried.
		default:
			if text, remedy := misfit(s, d); text != "" {
				f := engine.Finding{Severity: engine.Blocker, Object: "table " + s.Name.String(), Text: text, Remedy: remedy}
				c.findings, c.reasons[s.Name] = append(c.findings, f), f
				c.misfits = append(c.misfits, pair{s, d})
				continue
			}
			c.pairs = append(c.pairs, pair{s, d})
		}
	}
}

// misfit says why rows of one table do not fit another; empty where they do.
func misfit(s, d *engine.Table) (text, remedy string) {
	at := map[string]engine.Column{}
	for _, c := range d.Columns {
		at[c.Name] = c
	}
	var order []string
	for _, c := range s.Columns {
		o, ok := at[c.Name]
		switch {
		case !ok:
			return "the target lacks column " + c.Name + " (" + c.Type + ")", "add it at the target"
		case o.Type != c.Type:
			return fmt.Sprintf("column %s is %s at the source and %s at the target", c.Name, c.Type, o.Type), "change its type at the target to " + c.Type
		case o.Collation != c.Collation:
			return fmt.Sprintf("column %s has collation %q at the source and %q at the target", c.Name, c.Collation, o.Collation), "change it at the target"
		case o.Derived != c.Derived:
			return "column " + c.Name + " is computed at one end only", "make its definition that of the source"
		}
		order = append(order, c.Name)
		delete(at, c.Name)
	}
	for _, c := range d.Columns {
		if _, extra := at[c.Name]; extra {
			return "the target has column " + c.Name + ", which the source lacks", "drop it at the target"
		}
	}
	if !slices.EqualFunc(order, d.Columns, func(n string, c engine.Column) bool { return n == c.Name }) {
		return "the columns are in another order at the target", "drop the table at the target: it is made anew"
	}
	if !slices.Equal(s.Key, d.Key) {
		return "the key is another one at the target", "make the source's primary key at the target"
	}
	return "", ""
}

// fingerprint stands for the shape of the tables' rows.
func fingerprint(tables []*engine.Table) string {
	h := sha256.New()
	for _, t := range slices.SortedFunc(slices.Values(tables), func(a, b *engine.Table) int {
		return slices.Compare([]string{a.Name.Schema, a.Name.Name}, []string{b.Name.Schema, b.Name.Name})
	}) {
		fmt.Fprintf(h, "%q %q %v\n", t.Name.Schema, t.Name.Name, t.Key)
		for _, c := range t.Columns {
			fmt.Fprintf(h, "\t%q %q %q %v\n", c.Name, c.Type, c.Collation, c.Derived)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// schemas reads the definitions of both ends and compares them.
func (r *Replicator) schemas(ctx context.Context) (comparison, error) {
	src, dst, err := r.ends(ctx)
	if err != nil {
		return comparison{}, err
	}
	s, err := src.Schema(ctx)
	if err != nil {
		return comparison{}, fmt.Errorf("read the definitions of the source: %w", err)
	}
	d, err := dst.Schema(ctx)
	if err != nil {
		return comparison{}, fmt.Errorf("read the definitions of the target: %w", err)
	}
	return compareSchemas(s, d), nil
}

// makeMissing makes at the target what it lacks, late objects or the others. What
// cannot be made is a finding: of a table, one that stands in the way.
func (r *Replicator) makeMissing(ctx context.Context, missing []engine.Object, late bool) ([]engine.Finding, error) {
	dst, err := r.target(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.making(missing, false); err != nil {
		return nil, err
	}
	var out []engine.Finding
	for _, o := range missing {
		if o.Late != late {
			continue
		}
		err := dst.Execute(ctx, o.Definition)
		if engine.Temporary(err) || ctx.Err() != nil {
			return out, fmt.Errorf("make %s at the target: %w", describe(o), err)
		}
		if err != nil {
			f := engine.Finding{Severity: engine.Warning, Object: describe(o), Text: "making it at the target: " + err.Error(), Remedy: "run at the target: " + o.Definition}
			if o.Kind == "table" {
				f.Severity = engine.Blocker
			}
			out = append(out, f)
			continue
		}
		r.log.Info("made at the target", "kind", o.Kind, "name", o.Name.String())
	}
	return out, nil
}

func targets(ps []pair) []*engine.Table {
	out := make([]*engine.Table, len(ps))
	for i, p := range ps {
		out[i] = p.dst
	}
	return out
}

func sources(ps []pair) []*engine.Table {
	out := make([]*engine.Table, len(ps))
	for i, p := range ps {
		out[i] = p.src
	}
	return out
}

// definitionsOf stands for everything a schema defines.
func definitionsOf(s *engine.Schema) string {
	h := sha256.New()
	for _, o := range s.Objects {
		fmt.Fprintf(h, "%q %q %q %q\n", o.Kind, o.Name, o.Table, o.Definition)
	}
	return hex.EncodeToString(h.Sum(nil)[:8]) + fingerprint(s.Tables)
}
