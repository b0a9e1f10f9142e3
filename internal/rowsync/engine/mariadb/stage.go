package mariadb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/go-sql-driver/mysql"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// load reads rows in the form of Export into a table.
func (x *apply) load(ctx context.Context, table string, cols []column, r io.Reader) (int64, error) {
	name := "leeward-" + rand.Text()
	mysql.RegisterReaderHandler(name, func() io.Reader { return r })
	defer mysql.DeregisterReaderHandler(name)
	n, err := x.affected(ctx, "LOAD DATA LOCAL INFILE 'Reader::"+name+"' INTO TABLE "+table+" CHARACTER SET binary ("+idents("", cols)+")")
	if err != nil {
		return n, err
	}
	return n, x.warnings(ctx, cols)
}

// warnings turns what LOAD DATA LOCAL only warns of into an error: it drops rows with
// a key that exists and bends values that do not fit. The value of an enum that is no
// member is the one thing it may warn of: the source has it as well.
func (x *apply) warnings(ctx context.Context, cols []column) error {
	var n int
	if err := x.a.conn.QueryRowContext(ctx, "SELECT @@warning_count").Scan(&n); err != nil || n == 0 {
		return explain(err)
	}
	return scan(ctx, x.a.conn, "SHOW WARNINGS", func(v engine.Row) error {
		if string(v[0]) == "Note" {
			return nil
		}
		if string(v[1]) == fmt.Sprint(errTruncated) {
			for _, c := range cols {
				if c.kind == enum && strings.Contains(string(v[2]), "'"+c.Name+"'") {
					return nil
				}
			}
		}
		return fmt.Errorf("the server took rows with a warning: %s (%s)", v[2], v[1])
	})
}

// stage puts rows into the staging table of a table and returns its name.
func (x *apply) stage(ctx context.Context, t *engine.Table, rows []engine.Row) (string, error) {
	cols := carried(t)
	name := ident("leeward_stage_" + t.Name.Name[:min(len(t.Name.Name), 50)])
	if len(t.Name.Name) > 50 {
		name = "leeward_stage"
	}
	if name == "leeward_stage" || !x.a.stages[t.Name.Name] {
		// MyISAM empties a table at once and needs no undo log; a crash loses nothing
		// of worth.
		for _, q := range []string{
			"DROP TEMPORARY TABLE IF EXISTS " + name,
			"CREATE TEMPORARY TABLE " + name + " ENGINE=MyISAM SELECT " + idents("", cols) + " FROM " + ident(t.Name.Name) + " LIMIT 0",
		} {
			if err := x.exec(ctx, q); err != nil {
				return "", err
			}
		}
		x.a.stages[t.Name.Name] = true
	} else if err := x.exec(ctx, "DELETE FROM "+name); err != nil {
		return "", err
	}
	var buf bytes.Buffer
	w := bufio.NewWriter(&buf)
	for _, r := range rows {
		if len(r) != len(cols) {
			return "", fmt.Errorf("a row has %d values, not %d: %w", len(r), len(cols), engine.ErrSchema)
		}
		if err := writeRow(w, r); err != nil {
			return "", err
		}
	}
	if err := w.Flush(); err != nil {
		return "", err
	}
	n, err := x.load(ctx, name, cols, &buf)
	if err == nil && n != int64(len(rows)) {
		err = fmt.Errorf("the server took %d rows of %d", n, len(rows))
	}
	return name, err
}

// upsert brings rows into a table: those with the same key are changed, others are
// added. Rows of other keys that hold a unique value of theirs are deleted first.
func (x *apply) upsert(ctx context.Context, t *engine.Table, rows []engine.Row) error {
	if x.fewEnough(t, rows) {
		return x.upsertFew(ctx, t, rows)
	}
	from, err := x.stage(ctx, t, rows)
	if err != nil {
		return err
	}
	_, err = x.combine(ctx, t, from)
	return err
}

// same is the condition that the keys at two aliases are equal.
func same(a, b string, key []column) string {
	parts := make([]string, len(key))
	for i, c := range key {
		parts[i] = a + ident(c.Name) + " = " + b + ident(c.Name)
	}
	return strings.Join(parts, " AND ")
}

// combine is upsert from a temporary table. Each statement reads that first and looks
// every row up in the table by its key.
func (x *apply) combine(ctx context.Context, t *engine.Table, from string) (st engine.Stats, err error) {
	key, cols, name := keyed(t), carried(t), ident(t.Name.Name)
	if len(key) == 0 {
		st.Inserted, err = x.affected(ctx, "INSERT INTO "+name+" ("+idents("", cols)+") SELECT "+idents("", cols)+" FROM "+from)
		return st, err
	}
	uniques := x.uniques(t)
	set := make([]string, len(cols))
	if len(uniques) == 0 && from != imported {
		// With one unique index there is one row that an insert can collide with.
		for i, c := range cols {
			set[i] = ident(c.Name) + " = VALUES(" + ident(c.Name) + ")"
		}
		return st, x.exec(ctx, "INSERT INTO "+name+" ("+idents("", cols)+") SELECT "+idents("", cols)+" FROM "+from+
			" ON DUPLICATE KEY UPDATE "+strings.Join(set, ", "))
	}
	for _, u := range uniques {
		if u.derived(cols) {
			continue // a collision is refused by the server
		}
		if err := x.displace(ctx, t, u, from); err != nil {
			return st, err
		}
	}
	for i, c := range cols {
		set[i] = "t." + ident(c.Name) + " = s." + ident(c.Name)
	}
	st.Updated, err = x.affected(ctx, "UPDATE "+from+" AS s STRAIGHT_JOIN "+name+" AS t ON "+same("t.", "s.", key)+" SET "+strings.Join(set, ", "))
	if err != nil {
		return st, err
	}
	st.Inserted, err = x.affected(ctx, "INSERT INTO "+name+" ("+idents("", cols)+") SELECT "+idents("s.", cols)+" FROM "+from+
		" AS s LEFT JOIN "+name+" AS t ON "+same("t.", "s.", key)+" WHERE t."+ident(key[0].Name)+" IS NULL")
	return st, err
}

// displace deletes the rows of other keys that hold a value of the unique index u that
// a row in from claims. Those that are in from too are written again by it.
func (x *apply) displace(ctx context.Context, t *engine.Table, u unique, from string) error {
	key := keyed(t)
	on := make([]string, len(u.parts))
	for i, p := range u.parts {
		l, r := "t."+ident(p.column), "s."+ident(p.column)
		if p.prefix > 0 {
			l, r = fmt.Sprintf("LEFT(%s, %d)", l, p.prefix), fmt.Sprintf("LEFT(%s, %d)", r, p.prefix)
		}
		on[i] = l + " = " + r
	}
	var keys []engine.Row
	q := "SELECT " + exprs("t.", key) + " FROM " + from + " AS s STRAIGHT_JOIN " + ident(t.Name.Name) + " AS t FORCE INDEX (" + ident(u.name) + ") ON " +
		strings.Join(on, " AND ") + " WHERE NOT (" + same("t.", "s.", key) + ")"
	err := scan(ctx, x.a.conn, q, func(v engine.Row) error {
		keys = append(keys, clone(v))
		return nil
	})
	if err != nil || len(keys) == 0 {
		return err
	}
	keys = distinct(keys)
	if _, err := x.deleteKeys(ctx, t, keys); err != nil {
		return err
	}
	x.displaced[t.Name] = append(x.displaced[t.Name], keys...)
	return nil
}
