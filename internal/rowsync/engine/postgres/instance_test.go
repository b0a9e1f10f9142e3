package postgres

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// TestInstanceObjects runs what is listed at one server at the other, and has psql
// say that passwords, owners and privileges are the same.
func TestInstanceObjects(t *testing.T) {
	e := open2(t, "CREATE SCHEMA s; CREATE TABLE s.t (a int PRIMARY KEY, b int); CREATE FUNCTION s.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TYPE s.e AS ENUM ('x')")
	r := func(s string) string { return strings.ReplaceAll(s, "ROLE_", "r"+e.name+"_") }
	psql(t, e.src, r(`CREATE ROLE ROLE_owner; CREATE ROLE ROLE_app LOGIN PASSWORD 'secret' VALID UNTIL '2099-01-01'; GRANT ROLE_owner TO ROLE_app WITH ADMIN OPTION;
		ALTER TABLE s.t OWNER TO ROLE_owner; ALTER SCHEMA s OWNER TO ROLE_owner; GRANT SELECT, INSERT ON s.t TO ROLE_app; GRANT UPDATE (b) ON s.t TO ROLE_app;
		GRANT USAGE ON SCHEMA s TO ROLE_app; GRANT EXECUTE ON FUNCTION s.f() TO ROLE_app; ALTER ROLE ROLE_app SET work_mem = '8MB'; ALTER DATABASE `+e.name+` SET statement_timeout = '5min'`))
	t.Cleanup(func() {
		for _, c := range []*cluster{servers.src, servers.dst} {
			_ = psqlErr(c.dsn(e.name), r("REASSIGN OWNED BY ROLE_owner TO postgres; DROP OWNED BY ROLE_owner, ROLE_app; DROP ROLE ROLE_app; DROP ROLE ROLE_owner"))
		}
	})
	os, fs, err := e.s.(engine.Instance).InstanceObjects(t.Context())
	if err != nil || len(fs) == 0 {
		t.Fatal(err, fs)
	}
	for range 2 { // they may be run again
		for _, o := range os {
			if o.Kind == engine.KindParameter {
				continue
			}
			var kept *engine.KeptError
			err := e.d.(engine.InstanceTarget).MakeInstanceObject(t.Context(), o, false)
			if o.Kind == "role" && o.Name.Name == "postgres" {
				if !errors.As(err, &kept) {
					t.Errorf("the target's own superuser: %v", err)
				}
			} else if err != nil {
				t.Fatalf("make %s %s: %v", o.Kind, o.Name, err)
			}
		}
	}
	query := r(`SELECT rolname, rolcanlogin, rolpassword, rolvaliduntil, (SELECT array_agg(setconfig ORDER BY setdatabase) FROM pg_db_role_setting WHERE setrole = a.oid) FROM pg_authid a WHERE rolname LIKE 'ROLE_%' ORDER BY 1;
		SELECT roleid::regrole, member::regrole, admin_option FROM pg_auth_members WHERE member::regrole::text LIKE 'ROLE_%';
		SELECT relowner::regrole, relacl FROM pg_class WHERE oid = 's.t'::regclass; SELECT attacl FROM pg_attribute WHERE attrelid = 's.t'::regclass AND attname = 'b';
		SELECT nspowner::regrole, nspacl FROM pg_namespace WHERE nspname = 's'; SELECT proacl FROM pg_proc WHERE proname = 'f';`) +
		fmt.Sprintf("SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = '%s'", e.name)
	if a, b := psql(t, e.src, query), psql(t, e.dst, query); a != b || !strings.Contains(a, "SCRAM-SHA-256") {
		t.Errorf("source:\n%s\ntarget:\n%s", a, b)
	}
}
