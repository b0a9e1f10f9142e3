package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// seed brings the rows of a snapshot over, whole tables at once, and returns its
// position.
func (e *ends) seed(tables []*engine.Table, empty bool) engine.Pos {
	e.t.Helper()
	ctx := e.t.Context()
	pos, fresh, err := e.s.Prepare(ctx, "s", tables)
	if err != nil || !fresh || pos == "" {
		e.t.Fatalf("prepare: %q %v %v", pos, fresh, err)
	}
	snap, err := e.s.Snapshot(ctx, "s", 2)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = snap.Close() }()
	if snap.Pos() != pos || !snap.Exact() {
		e.t.Fatalf("snapshot at %s, prepared at %s", snap.Pos(), pos)
	}
	st, err := e.d.State(ctx, "s")
	if err != nil {
		e.t.Fatal(err)
	}
	for _, t := range tables {
		a, err := e.d.Begin(ctx, st, tables)
		if err != nil {
			e.t.Fatal(err)
		}
		r, w := io.Pipe()
		go func() {
			_, err := snap.Export(ctx, t, engine.Selection{}, w)
			_ = w.CloseWithError(err)
		}()
		if _, err := a.Import(ctx, t, engine.Selection{}, r, empty); err != nil {
			e.t.Fatal(err)
		}
		_ = r.Close()
		st.Phase = engine.Seeding
		if st, err = a.Commit(ctx, st); err != nil {
			e.t.Fatal(err)
		}
	}
	a, err := e.d.Begin(ctx, st, tables)
	if err != nil {
		e.t.Fatal(err)
	}
	st.Phase, st.Pos = engine.Following, pos
	if _, err := a.Commit(ctx, st); err != nil {
		e.t.Fatal(err)
	}
	return pos
}

// follow applies changes, several transactions in one, until the target stands at a
// mark of the source's.
func (e *ends) follow(tables []*engine.Table) error {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	mark, err := e.s.Mark(ctx, "s")
	if err != nil {
		return err
	}
	st, err := e.d.State(ctx, "s")
	if err != nil {
		return err
	}
	var pending []engine.Change
	for p, err := range e.s.Changes(ctx, "s", tables, st.Pos) {
		if err != nil {
			return err
		}
		pending = append(pending, p.Changes...)
		c := p.End
		if c == nil {
			c = p.Heartbeat
		}
		if c == nil {
			continue
		}
		before, err := e.s.Before(c.Pos, mark)
		if err != nil {
			return err
		}
		if before && len(pending) < 1000 {
			continue
		}
		a, err := e.d.Begin(ctx, st, tables)
		if err != nil {
			return err
		}
		if err := a.Changes(ctx, pending); err != nil {
			_ = a.Rollback()
			return err
		}
		st.Pos, st.SourceTime = c.Pos, c.Time
		if st, err = a.Commit(ctx, st); err != nil {
			return err
		}
		pending = nil
		if !before {
			return e.s.Release(ctx, "s", c.Pos)
		}
	}
	return errors.New("the stream ended")
}

const people = `CREATE TABLE people (id int PRIMARY KEY, email text UNIQUE, note text);
CREATE TABLE log (at timestamptz, what text);
ALTER TABLE log REPLICA IDENTITY FULL;
CREATE TABLE pair (a int, b text COLLATE "C", n numeric, big text, PRIMARY KEY (a, b));
ALTER TABLE pair ALTER big SET STORAGE EXTERNAL;`

func TestSeedAndFollow(t *testing.T) {
	e := open2(t, people)
	psql(t, e.src, `INSERT INTO people SELECT g, 'u'||g||'@x', CASE WHEN g%3=0 THEN NULL ELSE repeat('n', g%50) END FROM generate_series(1,500) g;
		INSERT INTO log SELECT now(), 'same' FROM generate_series(1,3); INSERT INTO log VALUES (NULL, ''), (NULL, NULL);
		INSERT INTO pair SELECT g/10, 'k'||g, g/7.0, repeat(md5(g::text), 300) FROM generate_series(1,200) g`)
	// A stale clone: rows the source does not have, rows that hold others' unique
	// values, rows that differ.
	psql(t, e.dst, `INSERT INTO people SELECT g, 'u'||(g+1)||'@x', 'stale' FROM generate_series(400,600) g;
		INSERT INTO log SELECT '2020-01-01', 'old' FROM generate_series(1,3); INSERT INTO log VALUES (NULL, '');
		INSERT INTO pair VALUES (1, 'k10', 1, 'old'), (9999, 'gone', 1, 'x')`)
	tables := e.tables()
	if len(tables) != 3 {
		t.Fatalf("%d tables", len(tables))
	}
	psql(t, e.src, "SELECT 1")
	e.seed(tables, false)
	e.equal()

	psql(t, e.src, `BEGIN; UPDATE people SET email = 'swap' WHERE id = 1; UPDATE people SET email = 'u1@x' WHERE id = 2; UPDATE people SET email = 'u2@x' WHERE id = 1; COMMIT;
		UPDATE people SET id = id + 1000 WHERE id BETWEEN 100 AND 120;
		BEGIN; DELETE FROM people WHERE id = 3; SAVEPOINT a; DELETE FROM people; ROLLBACK TO a; INSERT INTO people VALUES (3, 'new', ''); COMMIT;
		UPDATE pair SET n = n + 1 WHERE a < 5;
		UPDATE pair SET a = -a - 1 WHERE a = 7;
		UPDATE pair SET b = b || 'x', n = NULL WHERE a = 8;
		DELETE FROM pair WHERE a = 9;
		INSERT INTO log SELECT now(), 'more' FROM generate_series(1,4);
		DELETE FROM log WHERE ctid IN (SELECT ctid FROM log WHERE what = 'same' LIMIT 2);
		UPDATE log SET what = 'changed' WHERE what = ''`)
	if err := e.follow(tables); err != nil {
		t.Fatal(err)
	}
	e.equal()

	psql(t, e.src, `TRUNCATE people, log; INSERT INTO people VALUES (1, 'a', 'b'), (2, 'b', NULL); BEGIN; UPDATE people SET id = 5 WHERE id = 1; UPDATE people SET id = 1 WHERE id = 2; UPDATE people SET id = 2 WHERE id = 5; COMMIT`)
	if err := e.follow(tables); err != nil {
		t.Fatal(err)
	}
	e.equal()
}

func TestDigestsFindWhatDiffers(t *testing.T) {
	e := open2(t, people)
	fill := `INSERT INTO pair SELECT g/10, 'k'||g, g, 'x' FROM generate_series(1,1000) g`
	psql(t, e.src, fill)
	psql(t, e.dst, fill)
	var table *engine.Table
	for _, x := range e.tables() {
		if x.Name.Name == "pair" {
			table = x
		}
	}
	ctx := t.Context()
	digests := func(r engine.Reader, bounds []engine.Row) []engine.Digest {
		d, err := r.Digests(ctx, table, nil, bounds, true)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	var bounds []engine.Row
	var from engine.Row
	for end := false; !end; {
		b, e2, err := e.d.Bounds(ctx, table, from, 64, 5)
		if err != nil {
			t.Fatal(err)
		}
		end = e2
		if bounds = append(bounds, b...); len(b) > 0 {
			from = b[len(b)-1]
		}
	}
	if len(bounds) != 15 {
		t.Fatalf("%d bounds of 1000 rows by 64", len(bounds))
	}
	a, b := digests(e.s, bounds), digests(e.d, bounds)
	var rows int64
	for i := range a {
		rows += a[i].Rows
	}
	if !slices.Equal(a, b) || rows != 1000 || len(a) != 16 {
		t.Fatalf("equal tables have digests\n%v\n%v", a, b)
	}
	// Two rows that exchange a value, a scale, a sign and an empty string for NULL must
	// all show, each in its bucket.
	for _, change := range []string{
		"UPDATE pair SET n = CASE b WHEN 'k100' THEN 101 ELSE 100 END WHERE b IN ('k100', 'k101')",
		"UPDATE pair SET n = 500.0 WHERE b = 'k500'",
		"UPDATE pair SET big = '' WHERE b = 'k600'; UPDATE pair SET big = NULL WHERE b = 'k601'",
	} {
		psql(t, e.dst, change)
		b = digests(e.d, bounds)
		if slices.Equal(a, b) {
			t.Errorf("the digests do not see %s", change)
		}
		a = b
	}
	n := 0
	for k, err := range e.d.Keys(ctx, table, []engine.Range{{To: bounds[0]}, {From: bounds[0], To: bounds[2]}, {From: bounds[14]}}) {
		if err != nil || len(k.Key) != 2 || k.Hash == "" {
			t.Fatalf("%v %v", k, err)
		}
		n++
	}
	if n != 64+128+40 {
		t.Errorf("%d keys", n)
	}
	got := 0
	for row, err := range e.d.Rows(ctx, table, []engine.Row{{[]byte("10"), []byte("k100")}, {[]byte("1"), []byte("none")}}) {
		if err != nil || string(row[1]) != "k100" || string(row[2]) != "101" {
			t.Fatalf("%s %v", row, err)
		}
		got++
	}
	if got != 1 {
		t.Errorf("%d rows", got)
	}
	var buf bytes.Buffer
	if n, err := e.s.Export(ctx, table, engine.Selection{Keys: []engine.Row{{[]byte("10"), []byte("k100")}}}, &buf); err != nil || n != 1 || !strings.HasPrefix(buf.String(), exportHead) {
		t.Errorf("export: %d %v %.40q", n, err, buf.String())
	}
}

func TestKeysNameTheirOrder(t *testing.T) {
	e := open2(t, `CREATE TABLE t (k text COLLATE "en-x-icu" PRIMARY KEY, v text COLLATE "en-x-icu", c text)`)
	c := e.tables()[0].Columns
	if !strings.HasPrefix(c[0].Collation, "en-x-icu ") || c[1].Collation != "en-x-icu" || c[2].Collation != "C.UTF-8" {
		t.Errorf("collations %q %q %q", c[0].Collation, c[1].Collation, c[2].Collation)
	}
}
