package mariadb

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// read collects the pieces after a position up to one, or the error that ends them.
func (e *ends) read(t *testing.T, from engine.Pos, tabs ...*engine.Table) ([]engine.Piece, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	until, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	var out []engine.Piece
	for p, err := range e.src.Changes(ctx, "s", tabs, from) {
		if err != nil {
			return out, err
		}
		out = append(out, p)
		end := p.End
		if end == nil {
			end = p.Heartbeat
		}
		if end == nil {
			continue
		}
		if behind, err := e.src.Before(end.Pos, until); err != nil || !behind {
			return out, err
		}
	}
	return out, errors.New("the stream ended")
}

func (e *ends) mark(t *testing.T) engine.Pos {
	t.Helper()
	p, err := e.src.Mark(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestDefinitionsInStream holds that DDL of the database comes in its place, and that
// of others does not.
func TestDefinitionsInStream(t *testing.T) {
	e, _ := pairOf(t)
	e.both(t, "CREATE TABLE a (id INT PRIMARY KEY, v INT)")
	tab := e.table(t, "a")
	from := e.mark(t)
	db := e.src.db
	e.at(t, "INSERT INTO a VALUES (1, 1)", "CREATE TABLE b (id INT PRIMARY KEY) COMMENT='é'", "CREATE TABLE "+db+".c SELECT * FROM a",
		"RENAME TABLE "+db+".b TO "+db+".d", "CREATE TEMPORARY TABLE tmp (x INT)", "DROP TEMPORARY TABLE tmp",
		"CREATE DATABASE lw_other", "CREATE TABLE lw_other.a (id INT)", "INSERT INTO lw_other.a VALUES (5)", "DROP DATABASE lw_other",
		"ANALYZE TABLE a", "CREATE SEQUENCE s1", "SELECT NEXTVAL(s1)", "INSERT INTO a VALUES (2, 2)")
	ps, err := e.read(t, from, tab)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range ps {
		for _, c := range p.Changes {
			got = append(got, "row "+string(c.New[0]))
		}
		for _, d := range p.DDL {
			s, q, ok := without(d.Statement)
			if !ok || s.charset[0] == 0 {
				t.Errorf("%q says nothing of its session", d.Statement)
			}
			follow := "stop "
			if d.Follow {
				follow = "follow "
			}
			got = append(got, follow+q[:min(len(q), 34)])
			if d.Follow {
				if err := e.dst.Execute(t.Context(), d.Statement); err != nil {
					t.Errorf("follow: %v", err)
				}
			}
		}
		if p.End != nil {
			for _, c := range p.End.Counters {
				got = append(got, c.Kind+" "+c.Name.Name+" "+c.Value)
			}
		}
	}
	text := strings.Join(got, "; ")
	for _, want := range []string{"row 1; follow CREATE TABLE b (id INT PRIMARY KEY", "stop CREATE TABLE ", "; follow RENAME TABLE b TO d; ", "follow CREATE SEQUENCE s1", "sequence s1 1001; row 2"} {
		if !strings.Contains(text, want) {
			t.Errorf("the stream lacks %q: %s", want, text)
		}
	}
	if strings.Contains(text, "other") || strings.Contains(text, "tmp") {
		t.Errorf("the stream tells of what does not concern it: %s", text)
	}
	sameText(t, "table made by the stream", dump(t, pair.src, db, "--no-data", "--ignore-table="+db+".c"), dump(t, pair.dst, db, "--no-data"))
}

// TestXA holds that rows prepared by XA are neither applied before their commit nor
// lost with it.
func TestXA(t *testing.T) {
	e, _ := pairOf(t)
	e.at(t, "CREATE TABLE a (id INT PRIMARY KEY, v INT)")
	tab := e.table(t, "a")
	from := e.mark(t)
	e.at(t, "XA START 'x'", "INSERT INTO a VALUES (1, 1)", "XA END 'x'", "XA PREPARE 'x'")
	prepared := e.mark(t)
	ps, err := e.read(t, from, tab)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if len(p.Changes) > 0 {
			t.Errorf("a prepared row came: %+v", p)
		}
	}
	e.at(t, "XA COMMIT 'x'", "INSERT INTO a VALUES (2, 2)")
	for _, at := range []engine.Pos{from, prepared} {
		var gone *engine.Expired
		if _, err := e.read(t, at, tab); !errors.As(err, &gone) {
			t.Errorf("an XA commit read from %s gave %v, want Expired", at, err)
		}
	}
	from = e.mark(t)
	e.at(t, "XA START 'y'", "INSERT INTO a VALUES (3, 1)", "XA END 'y'", "XA PREPARE 'y'", "XA ROLLBACK 'y'", "INSERT INTO a VALUES (4, 2)")
	ps, err = e.read(t, from, tab)
	n := 0
	for _, p := range ps {
		n += len(p.Changes)
	}
	if err != nil || n != 1 {
		t.Errorf("after an XA rollback there are %d changes, %v", n, err)
	}
}

// TestRestoredSource names a source that is behind what is known of it.
func TestRestoredSource(t *testing.T) {
	e, _ := pairOf(t)
	e.at(t, "CREATE TABLE a (id INT PRIMARY KEY)")
	g, err := parseGTIDs(string(e.mark(t)))
	if err != nil {
		t.Fatal(err)
	}
	for d, x := range g {
		x.seq += 1000
		g[d] = x
	}
	var gone *engine.Expired
	if _, err := e.read(t, g.pos(), e.table(t, "a")); !errors.As(err, &gone) || !strings.Contains(gone.Cause, "restored") {
		t.Errorf("a position of the future gave %v", err)
	}
}

// TestKilledConnection holds that a lost binlog connection is worth another try, and
// that nothing is lost or doubled by it.
func TestKilledConnection(t *testing.T) {
	e, _ := pairOf(t)
	e.both(t, "CREATE TABLE a (id INT PRIMARY KEY)")
	tab := e.table(t, "a")
	from := e.mark(t)
	root, err := pair.src.open("")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	killed := false
	for p, err := range e.src.Changes(t.Context(), "s", []*engine.Table{tab}, from) {
		if err != nil {
			if !engine.Temporary(err) {
				t.Errorf("a killed connection gave %v, which is not temporary", err)
			}
			break
		}
		if p.Heartbeat != nil && !killed {
			killed = true
			var id int
			if err := root.QueryRow("SELECT id FROM information_schema.processlist WHERE command = 'Binlog Dump'").Scan(&id); err != nil {
				t.Fatal(err)
			}
			if _, err := root.Exec("KILL ?", id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !killed {
		t.Error("the stream ended before it was cut")
	}
}

// TestDeleteWithoutForeignKeys holds that children which stayed at the source are not
// deleted at the target in silence.
func TestDeleteWithoutForeignKeys(t *testing.T) {
	e, _ := pairOf(t)
	e.at(t, "CREATE TABLE p (id INT PRIMARY KEY)", "CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
		"INSERT INTO p VALUES (1), (2)", "INSERT INTO c VALUES (1, 1), (2, 2)")
	from := e.mark(t)
	e.at(t, "DELETE FROM p WHERE id = 1")
	if _, err := e.read(t, from, e.table(t, "p"), e.table(t, "c")); err != nil {
		t.Errorf("a delete that cascades gave %v", err)
	}
	e.at(t, "SET foreign_key_checks = 0", "DELETE FROM p WHERE id = 2")
	var gone *engine.Expired
	if _, err := e.read(t, from, e.table(t, "p"), e.table(t, "c")); !errors.As(err, &gone) || len(gone.Tables) != 1 || gone.Tables[0].Name != "c" {
		t.Errorf("a delete without foreign keys gave %v", err)
	}
}
