package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Standby implements engine.Role. What triggers did at the source is in its binlog,
// and the server has no switch for them: they are stored with all that belongs to
// them and dropped, and so are events.
func (t *Target) Standby(ctx context.Context, stream string, _ []*engine.Table) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	if err := t.hold(ctx); err != nil {
		return fmt.Errorf("hold triggers and events off: %w", err)
	}
	g, _, err := t.binlogState(ctx)
	if err != nil {
		return err
	}
	_, err = t.text.ExecContext(ctx, "INSERT IGNORE INTO leeward.watch VALUES (?, ?, ?, '')", t.db, stream, string(g.pos()))
	if err != nil {
		return fmt.Errorf("store position: %w", explain(err))
	}
	return nil
}

// holdAgain stores and drops what a statement of the stream made, where this is a
// standby.
func (t *Target) holdAgain(ctx context.Context) error {
	var n int
	err := t.text.QueryRowContext(ctx, `SELECT COUNT(*) FROM leeward.watch w LEFT JOIN leeward.stream s USING (db, name)
		WHERE w.db = ? AND IFNULL(s.phase, '') <> 'primary'`, t.db).Scan(&n)
	if absent(err) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read role: %w", explain(err))
	}
	if err := t.hold(ctx); err != nil {
		return fmt.Errorf("hold triggers and events off: %w", err)
	}
	return nil
}

// hold stores all triggers and events, then drops them.
func (t *Target) hold(ctx context.Context) error {
	c, err := t.text.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer c.Close()
	live, err := t.triggersAndEvents(ctx, c)
	if err != nil {
		return explain(err)
	}
	for i, o := range live {
		m, err := showAll(ctx, c, "SHOW CREATE "+strings.ToUpper(o.Kind)+" "+ident(o.Name.Name))
		if err != nil {
			return explain(err)
		}
		_, err = t.text.ExecContext(ctx, `INSERT INTO leeward.held VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON DUPLICATE KEY UPDATE tbl = VALUES(tbl), seq = VALUES(seq), definition = VALUES(definition), charset = VALUES(charset),
			collation = VALUES(collation), status = VALUES(status)`, t.db, o.Kind, o.Name.Name, o.Table.Name, i, o.Definition,
			m["character_set_client"], m["collation_connection"], m["time_zone"])
		if err != nil {
			return fmt.Errorf("store %s %s: %w", o.Kind, o.Name, explain(err))
		}
	}
	for _, o := range live {
		if _, err := t.text.ExecContext(ctx, "DROP "+strings.ToUpper(o.Kind)+" IF EXISTS "+t.qualified(o.Name)); err != nil {
			return fmt.Errorf("drop %s %s: %w", o.Kind, o.Name, explain(err))
		}
	}
	return nil
}

// heldObject is a trigger or an event that Standby stored.
type heldObject struct {
	engine.Object
	collation string
	zone      string // of an event
}

func (s *server) held(ctx context.Context) ([]heldObject, error) {
	rows, err := s.text.QueryContext(ctx, "SELECT kind, object, tbl, definition, collation, status FROM leeward.held WHERE db = ? ORDER BY kind DESC, seq", s.db)
	if absent(err) || number(err) == errTableAccess || number(err) == errDBAccess {
		return nil, nil // a source's account has no business there
	}
	if err != nil {
		return nil, fmt.Errorf("read what is held off: %w", explain(err))
	}
	defer rows.Close()
	var out []heldObject
	for rows.Next() {
		h := heldObject{Object: engine.Object{Late: true}}
		if err := rows.Scan(&h.Kind, &h.Name.Name, &h.Table.Name, &h.Definition, &h.collation, &h.zone); err != nil {
			return nil, fmt.Errorf("read what is held off: %w", explain(err))
		}
		out = append(out, h)
	}
	return out, explain(rows.Err())
}

func (s *server) heldObjects(ctx context.Context) ([]engine.Object, error) {
	held, err := s.held(ctx)
	out := make([]engine.Object, len(held))
	for i, h := range held {
		out[i] = h.Object
	}
	return out, err
}

// Promote implements engine.Role.
func (t *Target) Promote(ctx context.Context, stream string, _ []*engine.Table) ([]string, error) {
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	held, err := t.held(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, h := range held {
		if err := t.restore(ctx, h); err != nil {
			return out, fmt.Errorf("restore %s %s: %w", h.Kind, h.Name, explain(err))
		}
		out = append(out, h.Kind+" "+h.Name.Name+" is back")
	}
	more, err := t.setCounters(ctx, stream)
	out = append(out, more...)
	if err != nil {
		return out, fmt.Errorf("set counters: %w", explain(err))
	}
	_, err = t.text.ExecContext(ctx, `INSERT INTO leeward.stream VALUES (?, ?, '', 'primary', '', '', '', '0000-00-00', 1)
		ON DUPLICATE KEY UPDATE serial = IF(phase = 'primary', serial, serial + 1), phase = 'primary'`, t.db, stream)
	if err != nil {
		return out, fmt.Errorf("record role: %w", explain(err))
	}
	return append(out, "the stream's record says primary"), nil
}

// restore makes a trigger or an event as it was.
func (t *Target) restore(ctx context.Context, h heldObject) error {
	c, err := t.text.Conn(ctx)
	if err != nil {
		return err
	}
	defer discard(c)
	mode, def, _ := modeOf(h.Definition)
	set := []string{
		"DROP " + strings.ToUpper(h.Kind) + " IF EXISTS " + ident(h.Name.Name),
		"SET SESSION sql_mode = " + quote([]byte(mode)),
		"SET SESSION collation_connection = " + quote([]byte(h.collation)),
	}
	if h.Kind == "event" && h.zone != "" {
		set = append(set, "SET SESSION time_zone = "+quote([]byte(h.zone)))
	}
	for _, q := range append(set, def) {
		if _, err := c.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	_, err = t.text.ExecContext(ctx, "DELETE FROM leeward.held WHERE db = ? AND kind = ? AND object = ?", t.db, h.Kind, h.Name.Name)
	return err
}

// setCounters sets what is behind the source's counters to them.
func (t *Target) setCounters(ctx context.Context, stream string) ([]string, error) {
	rows, err := t.text.QueryContext(ctx, "SELECT kind, object, value FROM leeward.counter WHERE db = ? AND name = ? ORDER BY kind, object", t.db, stream)
	if err != nil {
		return nil, err
	}
	var all []engine.Counter
	for rows.Next() {
		var c engine.Counter
		if err := rows.Scan(&c.Kind, &c.Name.Name, &c.Value); err != nil {
			rows.Close()
			return nil, err
		}
		all = append(all, c)
	}
	if err := rows.Close(); err != nil {
		return nil, err
	}
	var out []string
	for _, c := range all {
		if !numeric([]byte(c.Value)) {
			return out, fmt.Errorf("counter of %s is %q, not a number", c.Name, c.Value)
		}
		set, err := t.setCounter(ctx, c)
		if err != nil {
			return out, fmt.Errorf("%s %s: %w", c.Kind, c.Name, err)
		}
		if set != "" {
			out = append(out, set)
		}
	}
	return out, nil
}

func (t *Target) setCounter(ctx context.Context, c engine.Counter) (string, error) {
	if c.Kind == "sequence" {
		var v sql.NullString
		// It never goes back: the answer is NULL then.
		err := t.text.QueryRowContext(ctx, "SELECT SETVAL("+t.qualified(c.Name)+", "+c.Value+", 0)").Scan(&v)
		if err != nil || !v.Valid {
			return "", err
		}
		return "sequence " + c.Name.Name + " goes on at " + v.String, nil
	}
	var behind bool
	err := t.text.QueryRowContext(ctx, "SELECT IFNULL(auto_increment, 0) < "+c.Value+" FROM information_schema.tables WHERE table_schema = ? AND table_name = ?", t.db, c.Name.Name).Scan(&behind)
	if absent(err) || err == nil && !behind {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	_, err = t.text.ExecContext(ctx, "ALTER TABLE "+t.qualified(c.Name)+" AUTO_INCREMENT = "+c.Value)
	return "numbers of " + c.Name.Name + " go on at " + c.Value, err
}
