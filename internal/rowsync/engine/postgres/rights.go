package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var (
	_ engine.Rights       = (*source)(nil)
	_ engine.RightsTarget = (*target)(nil)
)

// routineName is the name that Schema gives a routine.
const routineName = `p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')'`

// ownerRights and the others yield schema and name of an object, a role, and a statement.
const ownerRights = `SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner), format('ALTER %s %I.%I OWNER TO %I', CASE c.relkind WHEN 'v' THEN 'VIEW'
		WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END, n.nspname, c.relname, pg_get_userbyid(c.relowner))
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND c.relpersistence <> 't'
		AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND c.relkind = 'S' AND d.deptype IN ('a', 'i')) AND %[1]s
	UNION ALL SELECT '', n.nspname, pg_get_userbyid(n.nspowner), format('ALTER SCHEMA %I OWNER TO %I', n.nspname, pg_get_userbyid(n.nspowner))
	FROM pg_namespace n WHERE %[2]s
	UNION ALL SELECT n.nspname, ` + routineName + `, pg_get_userbyid(p.proowner), format('ALTER ROUTINE %s OWNER TO %I', p.oid::regprocedure, pg_get_userbyid(p.proowner))
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE %[3]s
	UNION ALL SELECT n.nspname, t.typname, pg_get_userbyid(t.typowner), format('ALTER TYPE %I.%I OWNER TO %I', n.nspname, t.typname, pg_get_userbyid(t.typowner))
	FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') AND %[4]s ORDER BY 1, 2`

// A routine may be run by everyone unless that was taken away, which is a right as well.
const grantRights = `SELECT n.nspname, c.relname, %[5]s, format('GRANT %s ON %s %I.%I TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),
		CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname, %[6]s)
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
	WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND a.grantee <> c.relowner AND %[1]s GROUP BY c.relkind, n.nspname, c.relname, a.grantee, a.is_grantable
	UNION ALL SELECT n.nspname, c.relname, %[5]s, format('GRANT %s (%I) ON %I.%I TO %s%s', a.privilege_type, t.attname, n.nspname, c.relname, %[6]s)
	FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a WHERE %[1]s
	UNION ALL SELECT '', n.nspname, %[5]s, format('GRANT %s ON SCHEMA %I TO %s%s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), n.nspname, %[6]s)
	FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee <> n.nspowner AND %[2]s GROUP BY n.nspname, a.grantee, a.is_grantable
	UNION ALL SELECT n.nspname, ` + routineName + `, '', format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', p.oid::regprocedure)
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.proacl IS NOT NULL AND NOT EXISTS (SELECT 1 FROM aclexplode(p.proacl) a WHERE a.grantee = 0) AND %[3]s
	UNION ALL SELECT n.nspname, ` + routineName + `, %[5]s, format('GRANT EXECUTE ON ROUTINE %s TO %s%s', p.oid::regprocedure, %[6]s)
	FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace, aclexplode(p.proacl) a WHERE a.grantee NOT IN (0, p.proowner) AND %[3]s
	ORDER BY 1, 2, 4`

// Rights implements engine.Rights.
func (d *database) Rights(ctx context.Context) (out []engine.Right, err error) {
	c, err := d.catalog.get(ctx)
	if err != nil {
		return nil, err
	}
	defer d.catalog.give(c)
	for _, sql := range []string{ownerRights, grantRights} {
		rows, err := c.query(ctx, rightsQuery(sql))
		if err != nil {
			return nil, fmt.Errorf("read owners and grants: %w", err)
		}
		for _, v := range rows {
			out = append(out, engine.Right{Of: engine.Name{Schema: string(v[0]), Name: string(v[1])}, Role: string(v[2]), Statement: string(v[3])})
		}
	}
	return out, nil
}

// rightsQuery puts the conditions in which both queries have in common.
func rightsQuery(sql string) string {
	return strings.NewReplacer(
		"%[1]s", own("pg_class", "c.oid"), "%[2]s", own("pg_namespace", "n.oid"), "%[3]s", "p.prokind <> 'a' AND "+own("pg_proc", "p.oid"), "%[4]s", own("pg_type", "t.oid"),
		"%[5]s", "CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END",
		"%[6]s", "CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END",
	).Replace(sql)
}

// Allow implements engine.RightsTarget.
func (t *target) Allow(ctx context.Context, r engine.Right) error {
	if r.Role != "" {
		rows, err := t.catalog.query(ctx, "SELECT 1 FROM pg_roles WHERE rolname = $1", r.Role)
		if err != nil {
			return fmt.Errorf("look for role %s: %w", r.Role, err)
		}
		if len(rows) == 0 {
			return &engine.NoRoleError{Role: r.Role}
		}
	}
	if err := t.catalog.exec(ctx, r.Statement); err != nil {
		return fmt.Errorf("%s: %w", r.Statement, err)
	}
	return nil
}
