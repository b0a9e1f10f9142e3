package rowsync

import (
	"fmt"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func createItems() string {
	return "CREATE TABLE items (id INT NOT NULL PRIMARY KEY, name VARCHAR(60) NOT NULL, email VARCHAR(60) NOT NULL UNIQUE, n INT)"
}

// items inserts rows from..to.
func (d *database) items(s session, from, to int, tag string) {
	d.t.Helper()
	var vs []string
	for i := from; i < to; i++ {
		vs = append(vs, fmt.Sprintf("(%d, '%s item %d of a name that is long enough', 'e%d@example', %d)", i, tag, i, i, i%7))
		if len(vs) == 1000 || i == to-1 {
			d.at(s, "INSERT INTO items VALUES "+strings.Join(vs, ","))
			vs = nil
		}
	}
}

// pass runs one pass, which must succeed.
func (d *database) pass(r *Replicator) Result {
	d.t.Helper()
	res, err := r.Pass(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	if res.Phase != engine.Following {
		d.t.Errorf("after the pass the target is %q", res.Phase)
	}
	return res
}

func TestPassOverEmptyTarget(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems(), "CREATE INDEX items_n ON items (n)")
		d.items(d.app, 0, 5000, "x")
		r := d.replicator()
		res := d.pass(r)
		d.same()
		if s := res.Tables[tableOf(res, "items")]; s.Sent != 5000 || !s.Done {
			t.Errorf("the table came to %+v, want 5000 rows sent", s)
		}
		d.at(d.app, "UPDATE items SET n = 100 WHERE id < 10", "DELETE FROM items WHERE id >= 4990", "INSERT INTO items VALUES (9999, 'new', 'new@example', 1)")
		res = d.pass(r)
		d.same()
		if res.Seeded || res.Changes != 21 {
			t.Errorf("the second pass: seeded %v, %d changes, want 21 that were followed", res.Seeded, res.Changes)
		}
	})
}

func tableOf(res Result, name string) engine.Name {
	for n := range res.Tables {
		if n.Name == name {
			return n
		}
	}
	return engine.Name{}
}

// The target holds a stale clone: rows that changed, that are new, that are gone, and
// some whose unique values belong to others now.
func TestPassOverStaleClone(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		d.at(d.app, createItems())
		d.at(d.far, createItems())
		d.items(d.app, 0, 20000, "x")
		d.items(d.far, 0, 19000, "x")
		d.at(d.far, "INSERT INTO items VALUES (50000, 'own', 'e19500@example', 1), (-5, 'own', 'own@example', 1)")
		d.at(d.app, "UPDATE items SET name = 'changed' WHERE id % 1000 = 7", "DELETE FROM items WHERE id BETWEEN 300 AND 310",
			"UPDATE items SET email = 't' WHERE id = 1", "UPDATE items SET email = 'e1@example' WHERE id = 15000", "UPDATE items SET email = 'e15000@example' WHERE id = 1")
		res := d.pass(d.replicator())
		d.same()
		s := res.Tables[tableOf(res, "items")]
		t.Logf("%+v", s)
		// The bucket at the end of the target's rows, most of which differs, goes as a whole.
		if s.Sent < 1015 || s.Sent > 1021+bucketRows {
			t.Errorf("%d rows were sent, want about the 1021 that differ", s.Sent)
		}
		if s.Deleted < 12 {
			t.Errorf("%d rows were deleted, want at least the 13 that are gone", s.Deleted)
		}
	})
}
