package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"hash/fnv"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Import makes the selected rows those that r holds. Into a table that had none they
// are copied straight; else they are staged, and the difference is applied.
func (a *apply) Import(ctx context.Context, t *engine.Table, sel engine.Selection, r io.Reader, empty bool) (engine.Stats, error) {
	s, err := a.shape(ctx, t.Name)
	if err != nil {
		return engine.Stats{}, err
	}
	var st engine.Stats
	form, err := readHead(r)
	switch {
	case err != nil:
	case empty:
		st.Inserted, err = a.copyIn(ctx, qualified(t.Name), s, form, r)
	default:
		st, err = a.importStaged(ctx, s, sel, form, r)
	}
	if err != nil {
		a.forget(err)
		return engine.Stats{}, fmt.Errorf("import %s: %w", t.Name, err)
	}
	return st, nil
}

// readHead reads the line that Export begins with, and no byte more.
func readHead(r io.Reader) (string, error) {
	var head []byte
	var b [1]byte
	for len(head) < 64 {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", fmt.Errorf("read export: %w", err)
		}
		if b[0] == '\n' {
			break
		}
		head = append(head, b[0])
	}
	form, ok := strings.CutPrefix(string(head), exportHead)
	if !ok || form != "text" && form != "binary" {
		return "", errors.New("read export: it is not one of PostgreSQL's, or of another version")
	}
	return form, nil
}

func (a *apply) copyIn(ctx context.Context, into string, s *shape, form string, r io.Reader) (int64, error) {
	tag, err := a.c.CopyFrom(ctx, r, "COPY "+into+" ("+strings.Join(s.names, ", ")+") FROM STDIN (FORMAT "+form+")")
	return tag.RowsAffected(), mend(err)
}

// stage returns an empty temporary table with the carried columns of a table, and an
// index on its key. It stays with the connection, so that thousands of imports do not
// fill the catalogue.
func (a *apply) stage(ctx context.Context, s *shape) (string, error) {
	h := fnv.New64a()
	for i, n := range s.names {
		_, _ = io.WriteString(h, n+" "+s.types[i]+" "+s.columns[i].mod+"\x00")
	}
	for _, k := range s.key {
		_, _ = io.WriteString(h, strconv.Itoa(k)+",")
	}
	plain := "leeward_" + s.rel.oid + "_" + strconv.FormatUint(h.Sum64(), 36)
	name := "pg_temp." + plain
	if a.c.staged[plain] || a.staged[plain] {
		return name, a.c.exec(ctx, "TRUNCATE "+name)
	}
	sql := "CREATE TEMP TABLE " + plain + " ON COMMIT DELETE ROWS AS SELECT " + s.all("t") + " FROM " + s.from + " WITH NO DATA"
	if s.key != nil {
		sql += "; CREATE INDEX ON " + name + " (" + s.keyNames() + ")"
	}
	if err := a.c.exec(ctx, sql); err != nil {
		return "", fmt.Errorf("make staging table: %w", err)
	}
	a.staged[plain] = true
	return name, nil
}

func (a *apply) importStaged(ctx context.Context, s *shape, sel engine.Selection, form string, r io.Reader) (engine.Stats, error) {
	var st engine.Stats
	name, err := a.stage(ctx, s)
	if err != nil {
		return st, err
	}
	if _, err := a.copyIn(ctx, name, s, form, r); err != nil {
		return st, err
	}
	if err := a.c.exec(ctx, "ANALYZE "+name); err != nil {
		return st, err
	}
	if s.key == nil {
		err = a.hashing(ctx, func() (err error) { st, err = a.mergeWhole(ctx, s, name, sel); return err })
		return st, err
	}
	return a.mergeKeyed(ctx, s, name, sel)
}

// mergeKeyed applies the difference between a staging table and the selected rows.
// The displaced go before anything is written: they may be among what is written.
func (a *apply) mergeKeyed(ctx context.Context, s *shape, stage string, sel engine.Selection) (engine.Stats, error) {
	var st engine.Stats
	same := s.same("t", "s")
	absent := "NOT EXISTS (SELECT FROM " + stage + " s WHERE " + same + ")"
	if err := a.thin(ctx, s, sel, absent, &st.Deleted); err != nil {
		return st, err
	}
	for _, c := range s.rel.conflicts {
		if s.computed(c) {
			continue
		}
		sql := "WITH gone AS (" + s.collide(c, stage) + ") SELECT t.* FROM gone t WHERE " + absent
		if err := a.collect(ctx, s, sql, nil, func(engine.Row) bool { return false }); err != nil {
			return st, fmt.Errorf("make room in %s: %w", c.name, err)
		}
	}
	differs := same + " AND " + s.image("t") + " <> " + s.image("s")
	var sets []string
	for i, n := range s.names {
		if !s.columns[i].always {
			sets = append(sets, n+" = s."+n)
		}
	}
	change := "UPDATE " + s.from + " SET " + strings.Join(sets, ", ") + " FROM " + stage + " s WHERE " + differs
	if s.replaces() || sets == nil {
		change = "DELETE FROM " + s.from + " USING " + stage + " s WHERE " + differs
	}
	var err error
	if st.Updated, err = a.touch(ctx, change); err != nil {
		return st, err
	}
	st.Inserted, err = a.touch(ctx, "INSERT INTO "+qualified(s.rel.Name)+" ("+strings.Join(s.names, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+
		s.all("s")+" FROM "+stage+" s WHERE NOT EXISTS (SELECT FROM "+s.from+" WHERE "+same+")")
	if s.replaces() {
		st.Inserted -= st.Updated
	}
	return st, err
}

// thin deletes selected rows that are not staged.
func (a *apply) thin(ctx context.Context, s *shape, sel engine.Selection, absent string, deleted *int64) error {
	if sel.Keys == nil {
		where := s.within(quoted(sel.Range.From), quoted(sel.Range.To))
		if where == "" {
			where = " WHERE true"
		}
		n, err := a.touch(ctx, "DELETE FROM "+s.from+where+" AND "+absent)
		*deleted += n
		return err
	}
	n := len(s.key)
	sql := "DELETE FROM " + s.from + " USING " + unpack(n, 0, "u") + " WHERE " + s.match() + " AND " + absent
	return chunks(sel.Keys, func(part []engine.Row) error {
		rows, err := a.run(ctx, sql, part, n)
		*deleted += rows
		return err
	})
}

// same spells that two aliases have the same key.
func (s *shape) same(a, b string) string {
	parts := make([]string, len(s.key))
	for i, k := range s.key {
		parts[i] = a + "." + s.names[k] + " = " + b + "." + s.names[k]
	}
	return strings.Join(parts, " AND ")
}

func (a *apply) touch(ctx context.Context, sql string) (int64, error) {
	r := a.c.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	return r.CommandTag.RowsAffected(), mend(r.Err)
}

// mergeWhole makes the selected rows of a table without a key as many of each as
// were staged.
func (a *apply) mergeWhole(ctx context.Context, s *shape, stage string, sel engine.Selection) (engine.Stats, error) {
	var st engine.Stats
	img := s.image("t")
	where := ""
	if sel.Keys != nil {
		where = " WHERE " + img + " IN (SELECT " + s.imageOf("u") + " FROM " + constants(sel.Keys, len(s.names)) + ")"
	}
	var err error
	st.Deleted, err = a.touch(ctx, "DELETE FROM "+s.from+" WHERE t.ctid = ANY (ARRAY(SELECT x.id FROM (SELECT t.ctid AS id, "+img+
		" AS img, row_number() OVER (PARTITION BY "+img+") AS n FROM "+s.from+where+") x LEFT JOIN (SELECT "+img+
		" AS img, count(*) AS n FROM "+stage+" t GROUP BY 1) d ON d.img = x.img WHERE x.n > COALESCE(d.n, 0)))")
	if err != nil {
		return st, err
	}
	st.Inserted, err = a.touch(ctx, "INSERT INTO "+qualified(s.rel.Name)+" ("+strings.Join(s.names, ", ")+") OVERRIDING SYSTEM VALUE SELECT "+
		s.all("x")+" FROM (SELECT t.*, "+img+" AS leeward_img, row_number() OVER (PARTITION BY "+img+") AS leeward_n FROM "+stage+
		" t) x LEFT JOIN (SELECT "+img+" AS img, count(*) AS n FROM "+s.from+" GROUP BY 1) d ON d.img = x.leeward_img WHERE x.leeward_n > COALESCE(d.n, 0)")
	return st, err
}
