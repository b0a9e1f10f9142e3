package mariadb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// applier is a session of a target with the staging tables it has.
type applier struct {
	conn   *sql.Conn
	stages map[string]bool
}

// apply is one transaction of a target. Foreign keys are held off in its session,
// except while rows are deleted or renamed whose children the server deletes,
// renames or unlinks by itself: those of the source did not reach its binlog.
type apply struct {
	t         *Target
	a         *applier
	from      engine.State
	tables    map[string]*engine.Table
	shapes    map[string]*shape
	displaced map[engine.Name][]engine.Row
	checks    bool // foreign keys are checked at the moment
	ended     bool
	counted   map[string]string // counters that this transaction stores
}

var _ engine.Apply = (*apply)(nil)

// Begin implements engine.Target.
func (t *Target) Begin(ctx context.Context, from engine.State, tables []*engine.Table) (engine.Apply, error) {
	shapes, err := t.loadShapes(ctx)
	if err != nil {
		return nil, err
	}
	a, err := t.applier(ctx)
	if err != nil {
		return nil, err
	}
	x := &apply{t: t, a: a, from: from, tables: map[string]*engine.Table{}, shapes: shapes, displaced: map[engine.Name][]engine.Row{}, counted: map[string]string{}}
	for _, tab := range tables {
		x.tables[tab.Name.Name] = tab
	}
	if err := x.begin(ctx); err != nil {
		_ = x.Rollback()
		return nil, err
	}
	return x, nil
}

func (x *apply) begin(ctx context.Context) error {
	row := x.a.conn.QueryRowContext(ctx, "SELECT "+stateColumns+" FROM leeward.stream WHERE db = ? AND name = ? FOR UPDATE", x.t.db, x.from.Stream)
	s, err := scanState(row, x.from.Stream)
	switch {
	case absent(err):
		if x.from.Serial != 0 {
			return fmt.Errorf("begin: no row of stream %s: %w", x.from.Stream, engine.ErrConflict)
		}
		_, err = x.a.conn.ExecContext(ctx, "INSERT INTO leeward.stream VALUES (?, ?, '', '', '', '', '', '0000-00-00', 0)", x.t.db, x.from.Stream)
		if number(err) == errDuplicate {
			return fmt.Errorf("begin: stream %s: %w", x.from.Stream, engine.ErrConflict)
		}
		if err != nil {
			return fmt.Errorf("begin: %w", explain(err))
		}
	case err != nil:
		return fmt.Errorf("begin: read stream %s: %w", x.from.Stream, explain(err))
	case s.Serial != x.from.Serial || s.Phase != x.from.Phase || s.Pos != x.from.Pos:
		return fmt.Errorf("begin: stream %s is at %s (%d), not %s (%d): %w", s.Stream, s.Pos, s.Serial, x.from.Pos, x.from.Serial, engine.ErrConflict)
	}
	return nil
}

// normal is how a session stands but for the load of an empty table.
const normal = "SET SESSION unique_checks = 1, innodb_lock_wait_timeout = 10"

// applier returns a session for a transaction: one of before with its staging tables,
// or a new one.
func (t *Target) applier(ctx context.Context) (*applier, error) {
	t.mu.Lock()
	if n := len(t.idle); n > 0 {
		a := t.idle[n-1]
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		return a, nil
	}
	t.mu.Unlock()
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	c, err := t.data.Conn(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", explain(err))
	}
	set := []string{
		"SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
		"SET SESSION foreign_key_checks = 0, innodb_lock_wait_timeout = 10, autocommit = 0",
	}
	if t.maria {
		set = append(set, "SET SESSION idle_transaction_timeout = 0, idle_write_transaction_timeout = 0, max_statement_time = 0")
	}
	for _, q := range set {
		if _, err := c.ExecContext(ctx, q); err != nil {
			discard(c)
			return nil, fmt.Errorf("prepare session: %w", explain(err))
		}
	}
	return &applier{conn: c, stages: map[string]bool{}}, nil
}

// discard closes a connection instead of returning it to its pool.
func discard(c *sql.Conn) {
	_ = c.Raw(func(any) error { return driver.ErrBadConn })
	_ = c.Close()
}

func (x *apply) exec(ctx context.Context, q string) error {
	_, err := x.a.conn.ExecContext(ctx, q)
	return explain(err)
}

// affected runs a statement and returns how many rows it changed.
func (x *apply) affected(ctx context.Context, q string) (int64, error) {
	r, err := x.a.conn.ExecContext(ctx, q)
	if err != nil {
		return 0, explain(err)
	}
	n, err := r.RowsAffected()
	return n, explain(err)
}

// keys turns the checks of foreign keys, and what they set off, on or off.
func (x *apply) keys(ctx context.Context, on bool) error {
	if x.checks == on {
		return nil
	}
	v := 0
	if on {
		v = 1
	}
	if err := x.exec(ctx, fmt.Sprintf("SET SESSION foreign_key_checks = %d", v)); err != nil {
		return err
	}
	x.checks = on
	return nil
}

// Displaced implements engine.Apply.
func (x *apply) Displaced() map[engine.Name][]engine.Row { return x.displaced }

// Counters implements engine.Apply. Those that stand as they were stored last cost
// nothing.
func (x *apply) Counters(ctx context.Context, cs []engine.Counter) error {
	var q strings.Builder
	x.t.mu.Lock()
	for _, c := range cs {
		id := strings.Join([]string{x.from.Stream, c.Kind, c.Name.Name, c.Column}, "\x00")
		if x.t.counted[id] == c.Value {
			continue
		}
		x.counted[id] = c.Value
		if q.Len() > 0 {
			q.WriteString(", ")
		}
		q.WriteByte('(')
		for i, v := range []string{x.t.db, x.from.Stream, c.Kind, c.Name.Name, c.Column, c.Value} {
			if i > 0 {
				q.WriteString(", ")
			}
			q.WriteString(quoteText(v))
		}
		q.WriteByte(')')
	}
	x.t.mu.Unlock()
	if q.Len() == 0 {
		return nil
	}
	err := x.exec(ctx, "INSERT INTO leeward.counter VALUES "+q.String()+" ON DUPLICATE KEY UPDATE value = VALUES(value)")
	if err != nil {
		return fmt.Errorf("store counters: %w", err)
	}
	return nil
}

// Commit implements engine.Apply.
func (x *apply) Commit(ctx context.Context, to engine.State) (engine.State, error) {
	if err := x.keys(ctx, false); err != nil {
		return to, fmt.Errorf("commit: %w", err)
	}
	at := "0000-00-00"
	if !to.SourceTime.IsZero() {
		at = to.SourceTime.UTC().Format("2006-01-02 15:04:05.000000")
	}
	to.Stream, to.Serial = x.from.Stream, x.from.Serial+1
	r, err := x.a.conn.ExecContext(ctx, `UPDATE leeward.stream SET pos = ?, phase = ?, until = ?, epoch = ?, fingerprint = ?,
		source_time = ?, serial = ? WHERE db = ? AND name = ? AND serial = ?`, string(to.Pos), string(to.Phase), string(to.Until),
		to.Epoch, to.Fingerprint, at, to.Serial, x.t.db, x.from.Stream, x.from.Serial)
	if err != nil {
		return to, fmt.Errorf("commit: %w", explain(err))
	}
	if n, err := r.RowsAffected(); err != nil || n != 1 {
		return to, fmt.Errorf("commit: the row of stream %s was not there: %w", x.from.Stream, engine.ErrConflict)
	}
	if err := x.exec(ctx, "COMMIT"); err != nil {
		return to, fmt.Errorf("commit: %w", err)
	}
	x.ended = true
	x.t.mu.Lock()
	x.t.idle = append(x.t.idle, x.a)
	maps.Copy(x.t.counted, x.counted)
	x.t.mu.Unlock()
	return to, nil
}

// Rollback implements engine.Apply. It does nothing after Commit.
func (x *apply) Rollback() error {
	if x.ended {
		return nil
	}
	x.ended = true
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := x.exec(ctx, "ROLLBACK")
	if err == nil {
		err = x.exec(ctx, normal)
	}
	if err == nil {
		err = x.keys(ctx, false)
	}
	if err != nil {
		// The server rolls back what belongs to a closed connection.
		discard(x.a.conn)
		return nil
	}
	x.t.mu.Lock()
	x.t.idle = append(x.t.idle, x.a)
	x.t.mu.Unlock()
	return nil
}

// Delete implements engine.Apply.
func (x *apply) Delete(ctx context.Context, t *engine.Table, keys []engine.Row) (int64, error) {
	if err := x.keys(ctx, false); err != nil {
		return 0, err
	}
	n, err := x.deleteKeys(ctx, t, keys)
	if err != nil {
		return n, fmt.Errorf("delete from %s: %w", t.Name, err)
	}
	return n, nil
}

func (x *apply) deleteKeys(ctx context.Context, t *engine.Table, keys []engine.Row) (int64, error) {
	key, cols := keyed(t), carried(t)
	head := "DELETE FROM " + ident(t.Name.Name) + " WHERE "
	var all int64
	for len(keys) > 0 {
		n := min(len(keys), perSelect)
		q := ""
		if len(key) > 0 {
			q = head + among("", key, keys[:n])
		} else {
			n = 1
			q = head + wholly("", cols, keys[0]) + " LIMIT 1"
		}
		gone, err := x.affected(ctx, q)
		if err != nil {
			return all, err
		}
		all, keys = all+gone, keys[n:]
	}
	return all, nil
}

// Import implements engine.Apply.
func (x *apply) Import(ctx context.Context, t *engine.Table, s engine.Selection, r io.Reader, empty bool) (engine.Stats, error) {
	if err := x.keys(ctx, false); err != nil {
		return engine.Stats{}, err
	}
	var st engine.Stats
	var err error
	if empty {
		st.Inserted, err = x.fill(ctx, t, r)
	} else {
		st, err = x.merge(ctx, t, s, r)
	}
	if err != nil {
		return st, fmt.Errorf("load %s: %w", t.Name, err)
	}
	return st, nil
}

// fill loads rows straight into a table that has none. Without checks of unique
// indexes the server sorts an empty table's indexes in one go.
func (x *apply) fill(ctx context.Context, t *engine.Table, r io.Reader) (int64, error) {
	// The first transaction to do so locks the table, and others wait for its end.
	if err := x.exec(ctx, "SET SESSION unique_checks = 0, innodb_lock_wait_timeout = 600"); err != nil {
		return 0, err
	}
	n, err := x.load(ctx, ident(t.Name.Name), carried(t), r)
	if err != nil {
		return n, err
	}
	return n, x.exec(ctx, normal)
}

const imported = "leeward_import"

// merge makes the selected rows of a table those that r holds, through a temporary
// table with the same key.
func (x *apply) merge(ctx context.Context, t *engine.Table, s engine.Selection, r io.Reader) (st engine.Stats, err error) {
	key, cols, name := keyed(t), carried(t), ident(t.Name.Name)
	primary := ""
	if len(key) > 0 {
		primary = "(PRIMARY KEY (" + idents("", key) + "))"
	}
	for _, q := range []string{
		"DROP TEMPORARY TABLE IF EXISTS " + imported,
		"CREATE TEMPORARY TABLE " + imported + " " + primary + " ENGINE=InnoDB SELECT " + idents("", cols) + " FROM " + name + " LIMIT 0",
	} {
		if err = x.exec(ctx, q); err != nil {
			return st, err
		}
	}
	if _, err = x.load(ctx, imported, cols, r); err != nil {
		return st, err
	}
	if len(key) == 0 {
		st, err = x.replaceWhole(ctx, t, s)
	} else if st.Deleted, err = x.deleteOthers(ctx, t, s); err == nil {
		var u engine.Stats
		u, err = x.combine(ctx, t, imported)
		st.Inserted, st.Updated = u.Inserted, u.Updated
	}
	if err != nil {
		return st, err
	}
	return st, x.exec(ctx, "DROP TEMPORARY TABLE "+imported)
}

// deleteOthers removes the selected rows that are not in the imported table.
func (x *apply) deleteOthers(ctx context.Context, t *engine.Table, s engine.Selection) (int64, error) {
	key := keyed(t)
	head := fmt.Sprintf("DELETE t FROM %s AS t LEFT JOIN %s AS s ON %s WHERE s.%s IS NULL AND ",
		ident(t.Name.Name), imported, same("t.", "s.", key), ident(key[0].Name))
	if s.Keys == nil {
		return x.affected(ctx, head+within("t.", key, s.Range))
	}
	var all int64
	for keys := s.Keys; len(keys) > 0; {
		n := min(len(keys), perSelect)
		gone, err := x.affected(ctx, head+among("t.", key, keys[:n]))
		if err != nil {
			return all, err
		}
		all, keys = all+gone, keys[n:]
	}
	return all, nil
}

// replaceWhole is merge for tables without a key.
func (x *apply) replaceWhole(ctx context.Context, t *engine.Table, s engine.Selection) (st engine.Stats, err error) {
	cols, name := carried(t), ident(t.Name.Name)
	if s.Keys == nil {
		if st.Deleted, err = x.affected(ctx, "DELETE FROM "+name); err != nil {
			return st, err
		}
	}
	for _, k := range distinct(s.Keys) {
		n, err := x.affected(ctx, "DELETE FROM "+name+" WHERE "+wholly("", cols, k))
		if err != nil {
			return st, err
		}
		st.Deleted += n
	}
	st.Inserted, err = x.affected(ctx, "INSERT INTO "+name+" ("+idents("", cols)+") SELECT "+idents("", cols)+" FROM "+imported)
	return st, err
}
