package rowsync

import (
	"fmt"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// What lives outside the database is listed without a secret, made on request, and then
// is the same.
func TestInstance(t *testing.T) {
	forEach(t, func(t *testing.T, d *database) {
		user := "app_around"
		make, login := "CREATE ROLE "+user+" LOGIN PASSWORD 'hush'", "role"
		grant := "GRANT SELECT ON items TO " + user
		if d.k.name == "mariadb" {
			make, login = "CREATE USER "+user+"@'10.%' IDENTIFIED BY 'hush'", "user"
			grant += "@'10.%'"
		}
		d.at(d.app, createItems(), make, grant)
		t.Cleanup(func() {
			for _, s := range []session{d.app, d.far} {
				if d.k.name == "mariadb" {
					_ = s.Exec(t.Context(), "DROP USER IF EXISTS "+user+"@'10.%'")
				}
			}
		})
		r := d.replicator()
		d.pass(r)
		of := func(rep InstanceReport, kind string) (out []InstanceItem) {
			for _, i := range rep.Items {
				if i.Kind == kind && strings.Contains(i.Name, user) {
					out = append(out, i)
				}
			}
			if strings.Contains(fmt.Sprintf("%+v", rep), "SCRAM") || strings.Contains(fmt.Sprintf("%+v", rep), "IDENTIFIED") {
				t.Error("the report holds a hash")
			}
			return out
		}
		rep, err := r.Instance(t.Context(), false)
		d.must(err)
		if i := of(rep, login); len(i) != 1 || i[0].State != InstanceMissing || i[0].Made {
			t.Fatalf("before: %+v", i)
		}
		rep, err = r.Instance(t.Context(), true)
		d.must(err)
		if i := of(rep, login); len(i) != 1 || !i[0].Made {
			t.Errorf("made: %+v", i)
		}
		rep, err = r.Instance(t.Context(), true)
		d.must(err)
		for _, i := range rep.Items {
			if i.State == InstanceDiffers && i.Kind != engine.KindParameter && i.Why == "" || i.State == InstanceMissing && i.Kind != engine.KindParameter {
				t.Errorf("after: %+v", i)
			}
		}
		if i := of(rep, login); len(i) != 1 || i[0].State != InstanceSame {
			t.Errorf("after: %+v", i)
		}
		d.at(d.far, map[string]string{"postgres": "ALTER ROLE " + user + " NOLOGIN", "mariadb": "ALTER USER " + user + "@'10.%' IDENTIFIED BY 'other'"}[d.k.name])
		rep, err = r.Instance(t.Context(), false)
		d.must(err)
		if i := of(rep, login); len(i) != 1 || i[0].State != InstanceDiffers {
			t.Errorf("after a change: %+v", i)
		}
	})
}
