package rowsync

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// asUser runs a statement as another account at a server.
func asUser(t *testing.T, s *server, db, user, q string) error {
	t.Helper()
	if s.k.name == "mariadb" {
		c, err := sql.Open("mysql", strings.Replace(s.k.dsn(s, db), "root@", user+"@", 1))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.ExecContext(t.Context(), q)
		return err
	}
	c, err := pgconn.Connect(t.Context(), fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s", s.port, user, db))
	if err != nil {
		return err
	}
	defer c.Close(context.Background())
	_, err = c.Exec(t.Context(), q).ReadAll()
	return err
}

// What a first pass makes at an empty target belongs to whom it belongs to at the source,
// and may be used by whom it may be used there. Of roles that the target lacks it tells,
// and goes on once they are there.
func TestRights(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		maria := d.k.name == "mariadb"
		app, ghost, at := "app_"+d.name, "ghost_"+d.name, ""
		makeRole := func(name string) string { return "CREATE ROLE " + name + " LOGIN" }
		if maria {
			at = "@'127.0.0.1'"
			makeRole = func(name string) string { return "CREATE USER " + name + at }
		}
		d.at(d.app, makeRole(app), makeRole(ghost), createItems(), "CREATE TABLE stock (id INT PRIMARY KEY, n INT)", "CREATE VIEW few AS SELECT id FROM stock WHERE n < 3",
			"INSERT INTO stock VALUES (1, 1)")
		d.at(d.far, makeRole(app))
		drop := func(s session, names ...string) {
			for _, n := range names {
				if maria {
					_ = s.Exec(context.Background(), "DROP USER IF EXISTS "+n+at)
				} else {
					_ = s.Exec(context.Background(), "DROP OWNED BY "+n)
					_ = s.Exec(context.Background(), "DROP ROLE IF EXISTS "+n)
				}
			}
		}
		t.Cleanup(func() { drop(d.app, app, ghost); drop(d.far, app, ghost) })
		if maria {
			d.at(d.app, "GRANT SELECT, INSERT ON items TO "+app+at, "GRANT SELECT ON "+d.name+".* TO "+app+at, "GRANT SELECT (id) ON stock TO "+ghost+at)
		} else {
			d.at(d.app, "ALTER TABLE items OWNER TO "+app, "GRANT SELECT, UPDATE (n) ON stock TO "+app, "GRANT SELECT ON few TO "+app, "ALTER TABLE stock OWNER TO "+ghost,
				"CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'", "REVOKE EXECUTE ON FUNCTION one() FROM PUBLIC")
		}
		r := d.replicator()
		res := d.pass(r)
		told := func(fs []engine.Finding) bool {
			return slices.ContainsFunc(fs, func(f engine.Finding) bool { return strings.HasPrefix(f.Object, "role "+ghost) })
		}
		if !told(res.Findings) || len(r.Lacking()) == 0 {
			t.Errorf("the role that is not there is not told: %+v, %q", res.Findings, r.Lacking())
		}
		if slices.ContainsFunc(res.Findings, func(f engine.Finding) bool {
			return strings.Contains(f.Object, app) || strings.HasPrefix(f.Object, "rights")
		}) {
			t.Errorf("something is told of rights that are there: %+v", res.Findings)
		}
		if _, err := r.Promote(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		for _, q := range []string{"INSERT INTO items VALUES (77, 'x', 'e77', 1)", "SELECT id FROM stock", "SELECT id FROM few"} {
			if err := asUser(t, d.dst, d.name, app, q); err != nil {
				t.Errorf("the application may not: %s: %v", q, err)
			}
		}
		for _, q := range []string{"DELETE FROM stock", "UPDATE stock SET id = 2"} {
			if err := asUser(t, d.dst, d.name, app, q); err == nil {
				t.Errorf("the application may do more than at the source: %s", q)
			}
		}
		if !maria {
			if err := asUser(t, d.dst, d.name, app, "SELECT one()"); err == nil {
				t.Error("everyone may run what not everyone may at the source")
			}
		}
	})
}

// Rights that waited for a role are given by the next pass; what somebody else made at the
// target is left alone.
func TestRightsLater(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		maria := d.k.name == "mariadb"
		late, at := "late_"+d.name, ""
		role := "CREATE ROLE " + late + " LOGIN"
		if maria {
			at = "@'127.0.0.1'"
			role = "CREATE USER " + late + at
		}
		d.at(d.app, role, createItems(), "CREATE TABLE stock (id INT PRIMARY KEY, n INT)", "GRANT SELECT ON items TO "+late+at, "GRANT SELECT ON stock TO "+late+at)
		d.at(d.far, "CREATE TABLE stock (id INT PRIMARY KEY, n INT)")
		t.Cleanup(func() {
			for _, s := range []session{d.app, d.far} {
				if maria {
					_ = s.Exec(context.Background(), "DROP USER IF EXISTS "+late+at)
				} else {
					_ = s.Exec(context.Background(), "DROP OWNED BY "+late)
					_ = s.Exec(context.Background(), "DROP ROLE IF EXISTS "+late)
				}
			}
		})
		r := d.replicator()
		d.pass(r)
		if len(r.Lacking()) != 1 {
			t.Errorf("lacking: %q", r.Lacking())
		}
		d.at(d.far, role)
		res := d.pass(r)
		if len(r.Lacking()) != 0 {
			t.Errorf("lacking: %q, %+v", r.Lacking(), res.Findings)
		}
		if err := asUser(t, d.dst, d.name, late, "SELECT id FROM items"); err != nil {
			t.Errorf("what the pass made: %v", err)
		}
		if err := asUser(t, d.dst, d.name, late, "SELECT id FROM stock"); err == nil {
			t.Error("a grant was made on what was there before")
		}
	})
}
