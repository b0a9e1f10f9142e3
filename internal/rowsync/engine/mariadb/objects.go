package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// objects reads every definition in an order in which they can be made: Execute holds
// foreign keys off, and a view stands behind those it is made of.
func (s *server) objects(ctx context.Context, tables []*engine.Table) ([]engine.Object, error) {
	c, err := s.text.Conn(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var out []engine.Object
	names, err := s.sequences(ctx)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		def, err := show(ctx, c, "SHOW CREATE SEQUENCE "+ident(n), "Create Table")
		if err != nil {
			return nil, err
		}
		out = append(out, engine.Object{Kind: "sequence", Name: engine.Name{Name: n}, Definition: def})
	}
	for _, t := range tables {
		def, err := show(ctx, c, "SHOW CREATE TABLE "+ident(t.Name.Name), "Create Table")
		if err != nil {
			return nil, err
		}
		out = append(out, engine.Object{Kind: "table", Name: t.Name, Definition: counterless(def)})
	}
	routines, err := s.routines(ctx, c)
	if err != nil {
		return nil, err
	}
	views, err := s.views(ctx, c)
	if err != nil {
		return nil, err
	}
	out = append(append(out, routines...), views...)
	late, err := s.late(ctx, c, tables)
	return append(out, late...), err
}

// show runs a SHOW CREATE and returns the column named.
func show(ctx context.Context, c *sql.Conn, q, want string) (string, error) {
	m, err := showAll(ctx, c, q)
	if err != nil {
		return "", err
	}
	if m[want] == "" {
		return "", fmt.Errorf("%s shows nothing: grant SHOW CREATE ROUTINE or SELECT on what it names", q)
	}
	return m[want], nil
}

func showAll(ctx context.Context, c *sql.Conn, q string) (map[string]string, error) {
	rows, err := c.QueryContext(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", q, err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	vals, into := make([]sql.NullString, len(names)), make([]any, len(names))
	for i := range vals {
		into[i] = &vals[i]
	}
	out := map[string]string{}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		for i, n := range names {
			out[n] = vals[i].String
		}
	}
	return out, rows.Err()
}

// counterless takes away where AUTO_INCREMENT stands: that is a counter, not a part
// of the definition. Only the line after the last parenthesis has it.
func counterless(def string) string {
	at := strings.LastIndex(def, "\n)")
	if at < 0 {
		return def
	}
	head, rest, ok := strings.Cut(def[at:], " AUTO_INCREMENT=")
	if !ok || strings.Contains(head, "'") {
		return def // a comment may say it too; options come before it
	}
	return def[:at] + head + strings.TrimLeft(rest, "0123456789")
}

func (s *server) routines(ctx context.Context, c *sql.Conn) ([]engine.Object, error) {
	rows, err := s.text.QueryContext(ctx, "SELECT routine_type, routine_name FROM information_schema.routines WHERE routine_schema = ? ORDER BY routine_type, routine_name", s.db)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []engine.Object
	for rows.Next() {
		var typ, name string
		if err := rows.Scan(&typ, &name); err != nil {
			return nil, err
		}
		if typ != "FUNCTION" && typ != "PROCEDURE" {
			continue
		}
		word := typ[:1] + strings.ToLower(typ[1:])
		m, err := showAll(ctx, c, "SHOW CREATE "+typ+" "+ident(name))
		if err != nil {
			return nil, err
		}
		out = append(out, engine.Object{Kind: "routine", Name: engine.Name{Name: name}, Definition: withMode(m["sql_mode"], m["Create "+word])})
	}
	return out, rows.Err()
}

// views are put behind the views they name.
func (s *server) views(ctx context.Context, c *sql.Conn) ([]engine.Object, error) {
	names, err := s.strings(ctx, "SELECT table_name FROM information_schema.views WHERE table_schema = ? ORDER BY table_name", s.db)
	if err != nil {
		return nil, err
	}
	defs := map[string]string{}
	for _, n := range names {
		if defs[n], err = show(ctx, c, "SHOW CREATE VIEW "+ident(n), "Create View"); err != nil {
			return nil, err
		}
	}
	var out []engine.Object
	placed := map[string]bool{}
	var place func(n string)
	place = func(n string) {
		if placed[n] {
			return
		}
		placed[n] = true
		for _, other := range names {
			if other != n && strings.Contains(defs[n], ident(other)) {
				place(other)
			}
		}
		out = append(out, engine.Object{Kind: "view", Name: engine.Name{Name: n}, Definition: defs[n]})
	}
	for _, n := range names {
		place(n)
	}
	return out, nil
}

// late reads triggers and events, as they are or, at a target, as they were before
// they were held off.
func (s *server) late(ctx context.Context, c *sql.Conn, tables []*engine.Table) ([]engine.Object, error) {
	kept := map[string]bool{}
	for _, t := range tables {
		kept[t.Name.Name] = true
	}
	live, err := s.triggersAndEvents(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []engine.Object
	have := map[string]bool{}
	stored, err := s.heldObjects(ctx)
	if err != nil {
		return nil, err
	}
	for _, o := range append(stored, live...) {
		if id := o.Kind + "\x00" + o.Name.Name; !have[id] && (o.Kind == "event" || kept[o.Table.Name]) {
			have[id] = true
			out = append(out, o)
		}
	}
	slices.SortStableFunc(out, func(a, b engine.Object) int { return strings.Compare(a.Kind, b.Kind) })
	return out, nil
}

// triggersAndEvents reads those that are in force. Triggers of one table stand in the
// order in which they run.
func (s *server) triggersAndEvents(ctx context.Context, c *sql.Conn) ([]engine.Object, error) {
	var out []engine.Object
	rows, err := s.text.QueryContext(ctx, `SELECT 'trigger', trigger_name, event_object_table FROM information_schema.triggers
		WHERE trigger_schema = ? ORDER BY event_object_table, action_timing, event_manipulation, action_order`, s.db)
	if err != nil {
		return nil, err
	}
	out, err = scanObjects(rows, out)
	if err != nil {
		return nil, err
	}
	rows, err = s.text.QueryContext(ctx, "SELECT 'event', event_name, '' FROM information_schema.events WHERE event_schema = ? ORDER BY event_name", s.db)
	if err != nil {
		return nil, err
	}
	if out, err = scanObjects(rows, out); err != nil {
		return nil, err
	}
	for i, o := range out {
		want := "SQL Original Statement"
		if o.Kind == "event" {
			want = "Create Event"
		}
		m, err := showAll(ctx, c, "SHOW CREATE "+strings.ToUpper(o.Kind)+" "+ident(o.Name.Name))
		if err != nil {
			return nil, err
		}
		out[i].Definition, out[i].Late = withMode(m["sql_mode"], m[want]), true
	}
	return out, nil
}

func scanObjects(rows *sql.Rows, out []engine.Object) ([]engine.Object, error) {
	defer rows.Close()
	for rows.Next() {
		var o engine.Object
		if err := rows.Scan(&o.Kind, &o.Name.Name, &o.Table.Name); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

const modeMark = "/*leeward sql_mode="

// withMode writes the sql_mode that a body was made under before it: it decides what
// the body means. Execute reads it.
func withMode(mode, def string) string { return modeMark + mode + "*/ " + def }

// modeOf reads what withMode wrote.
func modeOf(def string) (mode, rest string, ok bool) {
	rest, ok = strings.CutPrefix(def, modeMark)
	if !ok {
		return "", def, false
	}
	mode, rest, ok = strings.Cut(rest, "*/ ")
	return mode, rest, ok
}
