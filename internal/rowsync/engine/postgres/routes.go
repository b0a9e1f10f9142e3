package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// route says where the columns of a Relation message go.
type route struct {
	name    engine.Name
	columns []int // for each carried column its place in the message, -1 where it has none
	key     []int // places in the message; nil for a table without a key
	keyAt   []int // places in the carried columns
}

// typmod is a type with its modifier.
type typmod struct {
	typ uint32
	mod int32
}

// change takes one message of pgoutput.
func (f *feed) change(ctx context.Context, b []byte) error {
	if len(b) > 0 && (b[0] == 'I' || b[0] == 'U' || b[0] == 'D') {
		b = append(make([]byte, 0, len(b)), b...) // the values outlive the connection's buffer
	}
	m, err := decode(b)
	if err != nil {
		return err
	}
	switch m.kind {
	case 'B':
		f.inTx, f.sent, f.marked = true, false, false
	case 'C':
		return f.commit(m)
	case 'R':
		return f.relate(ctx, m)
	case 'I', 'U', 'D':
		return f.row(m, len(b))
	case 'T':
		for _, oid := range m.oids {
			if r := f.routes[oid]; r != nil {
				f.changes = append(f.changes, engine.Change{Table: r.name, Truncate: true})
			}
		}
	case 'M':
		f.marked = f.marked || m.prefix == ownSchema
	}
	return nil
}

func (f *feed) commit(m message) error {
	f.inTx = false
	f.line.mu.Lock()
	f.line.received = max(f.line.received, m.final)
	f.line.mu.Unlock()
	c := &engine.Commit{Pos: engine.Pos(m.final.String()), Time: m.time}
	switch {
	case f.sent:
		p := engine.Piece{Changes: f.changes, End: c}
		f.changes, f.bytes = nil, 0
		return f.send(p)
	case len(f.changes) > 0: // its own, or those of transactions before it
		if f.last != nil {
			c.More = f.last.More + 1
		}
		f.whole, f.last = len(f.changes), c
	case f.marked:
		return f.send(engine.Piece{Heartbeat: c})
	default:
		return nil // nothing of ours: the next heartbeat tells of the position
	}
	if f.bytes < groupBytes && f.line.fe.ReadBufferLen() > 0 {
		return nil
	}
	return f.flush()
}

func (f *feed) row(m message, size int) error {
	r := f.routes[m.relation]
	if r == nil {
		return nil
	}
	c := engine.Change{Table: r.name}
	if m.kind != 'I' && m.oldKind != 0 {
		if err := r.old(&c, m); err != nil {
			return err
		}
	}
	if m.kind != 'D' {
		if err := r.new(&c, m); err != nil {
			return err
		}
		if r.key != nil && c.Old != nil && r.sameKey(c) {
			c.Old = nil
		}
	}
	f.changes = append(f.changes, c)
	f.bytes += size + 64
	if f.bytes < pieceBytes {
		return nil
	}
	if err := f.flush(); err != nil {
		return err
	}
	p := engine.Piece{Changes: f.changes}
	f.changes, f.bytes, f.sent = nil, 0, true
	return f.send(p)
}

// old takes the key of the row before, or all of it where the table has no key.
func (r *route) old(c *engine.Change, m message) error {
	places := r.key
	if places == nil {
		places = r.columns
	}
	c.Old = make(engine.Row, len(places))
	for i, p := range places {
		if p >= len(m.old.values) {
			return fmt.Errorf("read change of %s: its old row has %d columns", r.name, len(m.old.values))
		}
		if p >= 0 {
			c.Old[i] = m.old.values[p]
		}
	}
	return nil
}

// new takes the row after. A value that was not sent because it did not change is
// the old one, where the old row came whole.
func (r *route) new(c *engine.Change, m message) error {
	c.New = make(engine.Row, len(r.columns))
	unset := func(i int) {
		if c.Unset == nil {
			c.Unset = make([]bool, len(r.columns))
		}
		c.Unset[i] = true
	}
	for i, p := range r.columns {
		switch {
		case p < 0:
			unset(i)
		case p >= len(m.new.values):
			return fmt.Errorf("read change of %s: its row has %d columns", r.name, len(m.new.values))
		case m.new.absent == nil || !m.new.absent[p]:
			c.New[i] = m.new.values[p]
		case p < len(m.old.values) && (m.oldKind == 'O' || slices.Contains(r.key, p)):
			c.New[i] = m.old.values[p]
		default:
			unset(i)
		}
	}
	return nil
}

// sameKey reports whether a change kept its key.
func (r *route) sameKey(c engine.Change) bool {
	for i, at := range r.keyAt {
		if string(c.Old[i]) != string(c.New[at]) {
			return false
		}
	}
	return true
}

// relate fits a table as the stream has it from now on to the table as the caller
// has it. The two may differ in history that is older than the caller's reading of
// the catalogue; what is newer than that ends the stream.
func (f *feed) relate(ctx context.Context, m message) error {
	if f.routes == nil {
		f.routes = map[uint32]*route{}
	}
	delete(f.routes, m.relation)
	t, err := f.table(ctx, m)
	if err != nil || t == nil {
		return err
	}
	types, err := f.spell(ctx, m.columns)
	if err != nil {
		return err
	}
	r := &route{name: t.Name}
	exact := true
	carried := t.Carried()
	for _, i := range carried {
		p := slices.IndexFunc(m.columns, func(c relColumn) bool { return c.name == t.Columns[i].Name })
		r.columns = append(r.columns, p)
		exact = exact && p >= 0 && types[p] == t.Columns[i].Type
	}
	if !exact || len(m.columns) != len(r.columns) {
		if err := f.judge(ctx, t, m, types); err != nil {
			return err
		}
	}
	for _, k := range t.Key {
		at := slices.Index(carried, k)
		p := r.columns[at]
		if p < 0 || !m.columns[p].key {
			return f.changed(t, "updates of "+t.Name.String()+" no longer carry its key column "+t.Columns[k].Name,
				"restore the replica identity of "+t.Name.String()+" at the source, then replicate again")
		}
		r.key, r.keyAt = append(r.key, p), append(r.keyAt, at)
	}
	if t.Key == nil && m.ident != 'f' {
		return f.changed(t, "updates of "+t.Name.String()+", which has no key, no longer carry the old row",
			"ALTER TABLE "+qualified(t.Name)+" REPLICA IDENTITY FULL at the source, then replicate again")
	}
	f.routes[m.relation] = r
	return nil
}

// table finds the caller's table for a Relation message; nil for one it does not
// follow. A table may have had another name when the change was made.
func (f *feed) table(ctx context.Context, m message) (*engine.Table, error) {
	name := engine.Name{Schema: m.relNames[0], Name: m.relNames[1]}
	if t := f.tables[name]; t != nil {
		return t, nil
	}
	rows, err := f.source.catalog.query(ctx, "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::text::oid",
		fmt.Sprint(m.relation))
	if err != nil {
		return nil, fmt.Errorf("find table %s: %w", name, err)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	if t := f.tables[engine.Name{Schema: string(rows[0][0]), Name: string(rows[0][1])}]; t != nil {
		return t, nil
	}
	// It is none of the caller's, unless one of those was given this name.
	lost, err := f.missing(ctx)
	if err == nil && len(lost) > 0 {
		err = gone(lost)
	}
	return nil, err
}

// judge decides whether a table's history differs from what the caller has only
// because it is older. Columns and types that the source no longer has, or did not
// have yet, are of the past.
func (f *feed) judge(ctx context.Context, t *engine.Table, m message, types []string) error {
	f.source.known.reset()
	now, err := f.source.known.of(ctx, t.Name)
	if err != nil {
		return f.changed(t, "table "+t.Name.String()+" is no longer at the source", "drop or rename it at the target too, then replicate again")
	}
	column := func(in *engine.Table, name string) *engine.Column {
		i := slices.IndexFunc(in.Columns, func(c engine.Column) bool { return c.Name == name && !c.Derived })
		if i < 0 {
			return nil
		}
		return &in.Columns[i]
	}
	var cause, remedy []string
	for i, c := range m.columns {
		has, is := column(t, c.name), column(&now.Table, c.name)
		alter := "ALTER TABLE " + qualified(t.Name)
		switch {
		case has == nil && is != nil:
			cause = append(cause, "column "+c.name+" was added")
			remedy = append(remedy, alter+" ADD COLUMN "+ident(c.name)+" "+is.Type)
		case has != nil && has.Type != types[i] && (is == nil || is.Type != has.Type):
			cause = append(cause, "column "+c.name+" is now "+types[i]+", not "+has.Type)
			remedy = append(remedy, alter+" ALTER COLUMN "+ident(c.name)+" TYPE "+types[i])
		}
	}
	for _, i := range t.Carried() {
		c := t.Columns[i]
		if !slices.ContainsFunc(m.columns, func(r relColumn) bool { return r.name == c.Name }) && column(&now.Table, c.Name) == nil {
			cause = append(cause, "column "+c.Name+" was dropped")
			remedy = append(remedy, "ALTER TABLE "+qualified(t.Name)+" DROP COLUMN "+ident(c.Name))
		}
	}
	if cause == nil {
		return nil
	}
	return f.changed(t, "table "+t.Name.String()+": "+strings.Join(cause, ", "), "at the target: "+strings.Join(remedy, "; "))
}

func (f *feed) changed(t *engine.Table, cause, remedy string) error {
	return &engine.SchemaChanged{Tables: []engine.Name{t.Name}, Cause: cause, Remedy: remedy}
}

// spell names the types of columns as the catalogue spells them now.
func (f *feed) spell(ctx context.Context, cs []relColumn) ([]string, error) {
	out := make([]string, len(cs))
	for i, c := range cs {
		k := typmod{c.typ, c.mod}
		if _, ok := f.spelled[k]; !ok {
			rows, err := f.source.catalog.query(ctx, "SELECT format_type($1::text::oid, $2::text::int4)", fmt.Sprint(c.typ), fmt.Sprint(c.mod))
			if err != nil {
				return nil, fmt.Errorf("read type: %w", err)
			}
			f.spelled[k] = string(rows[0][0])
		}
		out[i] = f.spelled[k]
	}
	return out, nil
}
