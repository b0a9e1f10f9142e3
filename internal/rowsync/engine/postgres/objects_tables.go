package postgres

import (
	"context"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// columnDefinition spells column a of table c of type y, as CREATE TABLE and ADD
// COLUMN take it.
const columnDefinition = `quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
	|| CASE WHEN a.attcollation <> y.typcollation THEN (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname)
		FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END
	|| CASE WHEN a.attgenerated = 's' THEN format(' GENERATED ALWAYS AS (%s) STORED', pg_get_expr(f.adbin, f.adrelid))
		WHEN a.attgenerated = 'v' THEN format(' GENERATED ALWAYS AS (%s)', pg_get_expr(f.adbin, f.adrelid))
		WHEN a.attidentity <> '' THEN (SELECT format(' GENERATED %s AS IDENTITY (SEQUENCE NAME %I.%I START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s)',
			CASE a.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END, qn.nspname, q.relname, s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache,
			CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END)
			FROM pg_depend d JOIN pg_sequence s ON s.seqrelid = d.objid JOIN pg_class q ON q.oid = d.objid JOIN pg_namespace qn ON qn.oid = q.relnamespace
			WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum AND d.deptype = 'i')
		ELSE COALESCE(' DEFAULT ' || pg_get_expr(f.adbin, f.adrelid), '') END
	|| CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END`

// columnOptions are what has no place in a column's definition.
const columnOptions = `concat(
	CASE WHEN a.attstorage <> y.typstorage THEN format(E';\nALTER TABLE ONLY %I.%I ALTER COLUMN %I SET STORAGE %s', n.nspname, c.relname, a.attname,
		CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END) END,
	CASE WHEN COALESCE(to_jsonb(a) ->> 'attcompression', '') IN ('p', 'l') THEN format(E';\nALTER TABLE ONLY %I.%I ALTER COLUMN %I SET COMPRESSION %s', n.nspname, c.relname, a.attname,
		CASE to_jsonb(a) ->> 'attcompression' WHEN 'l' THEN 'lz4' ELSE 'pglz' END) END,
	CASE WHEN a.attstattarget >= 0 THEN format(E';\nALTER TABLE ONLY %I.%I ALTER COLUMN %I SET STATISTICS %s', n.nspname, c.relname, a.attname, a.attstattarget) END,
	CASE WHEN a.attoptions IS NOT NULL THEN format(E';\nALTER TABLE ONLY %I.%I ALTER COLUMN %I SET (%s)', n.nspname, c.relname, a.attname, array_to_string(a.attoptions, ', ')) END)`

// tables reads tables, partitioned ones too, and their columns: once within the
// table, and once each for a table that lacks them.
func (g *graph) tables(ctx context.Context) error {
	columns, options, err := g.columns(ctx)
	if err != nil {
		return err
	}
	rows, err := g.c.query(ctx, `SELECT c.oid, n.nspname, c.relname,
		format('CREATE %sTABLE %I.%I', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, n.nspname, c.relname),
		COALESCE((SELECT ' INHERITS (' || string_agg(format('%I.%I', pn.nspname, p.relname), ', ' ORDER BY i.inhseqno) || ')'
			FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE i.inhrelid = c.oid AND NOT c.relispartition), '')
		|| CASE WHEN c.relkind = 'p' THEN ' PARTITION BY ' || pg_get_partkeydef(c.oid) ELSE '' END
		|| COALESCE((SELECT ' USING ' || quote_ident(m.amname) FROM pg_am m WHERE m.oid = c.relam AND m.amname <> 'heap'), '')
		|| COALESCE(' WITH (' || (SELECT string_agg(o, ', ' ORDER BY k, pos) FROM (SELECT 1 AS k, o, pos FROM unnest(c.reloptions) WITH ORDINALITY u(o, pos)
			UNION ALL SELECT 2, 'toast.' || o, pos FROM unnest(t.reloptions) WITH ORDINALITY u(o, pos)) z) || ')', ''),
		concat(CASE c.relreplident WHEN 'f' THEN format(E';\nALTER TABLE ONLY %I.%I REPLICA IDENTITY FULL', n.nspname, c.relname)
			WHEN 'n' THEN format(E';\nALTER TABLE ONLY %I.%I REPLICA IDENTITY NOTHING', n.nspname, c.relname) END,
		CASE WHEN c.relrowsecurity THEN format(E';\nALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', n.nspname, c.relname) END,
		CASE WHEN c.relforcerowsecurity THEN format(E';\nALTER TABLE ONLY %I.%I FORCE ROW LEVEL SECURITY', n.nspname, c.relname) END),
		COALESCE((SELECT string_agg('pg_class ' || i.inhparent, ',') FROM pg_inherits i WHERE i.inhrelid = c.oid AND NOT c.relispartition), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND `+own("pg_class", "c.oid"))
	for _, v := range rows {
		oid := string(v[0])
		n := node{id: "pg_class " + oid, rank: rankTable, Object: engine.Object{Kind: "table", Name: engine.Name{Schema: string(v[1]), Name: string(v[2])}}}
		n.Definition = string(v[3]) + " (\n\t" + strings.Join(columns[oid], ",\n\t") + "\n)" + string(v[4]) + string(v[5]) + options[oid]
		if columns[oid] == nil {
			n.Definition = string(v[3]) + " ()" + string(v[4]) + string(v[5])
		}
		if len(v[6]) > 0 {
			n.needs = strings.Split(string(v[6]), ",")
		}
		g.add(n)
	}
	return err
}

// columns reads the columns of all tables but those that come from a parent.
func (g *graph) columns(ctx context.Context) (in map[string][]string, options map[string]string, err error) {
	rows, err := g.c.query(ctx, `SELECT c.oid, n.nspname, c.relname, a.attname, `+columnDefinition+`, `+columnOptions+`, c.relispartition OR a.attinhcount > 0
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type y ON y.oid = a.atttypid
		LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
		WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND a.attnum > 0 AND NOT a.attisdropped AND (a.attislocal OR c.relispartition) AND `+own("pg_class", "c.oid")+`
		ORDER BY c.oid, a.attnum`)
	in, options = map[string][]string{}, map[string]string{}
	for _, v := range rows {
		oid := string(v[0])
		in[oid] = append(in[oid], string(v[4]))
		options[oid] += string(v[5])
		if truth(v[6]) {
			continue
		}
		t := engine.Name{Schema: string(v[1]), Name: string(v[2])}
		g.add(node{id: "column " + oid + " " + string(v[3]), owner: oid, rank: rankColumn, Object: engine.Object{
			Kind: "column", Table: t, Name: engine.Name{Schema: t.Schema, Name: string(v[3])},
			Definition: "ALTER TABLE " + qualified(t) + " ADD COLUMN IF NOT EXISTS " + string(v[4]) + string(v[5]),
		}})
	}
	return in, options, err
}

// partitions joins partitions to their parents once both are there.
func (g *graph) partitions(ctx context.Context) error {
	if err := g.ofTable(ctx, "partition", rankPartition, false, `SELECT 'partition ' || c.oid, c.oid, n.nspname, c.relname, c.relname,
		format('ALTER TABLE ONLY %I.%I ATTACH PARTITION %I.%I %s', pn.nspname, p.relname, n.nspname, c.relname, pg_get_expr(c.relpartbound, c.oid))
		FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
		WHERE c.relispartition AND c.relkind IN ('r', 'p') AND `+own("pg_class", "c.oid")); err != nil {
		return err
	}
	rows, err := g.c.query(ctx, "SELECT i.inhrelid, i.inhparent FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE c.relispartition")
	for _, v := range rows {
		if n := g.byID["partition "+string(v[0])]; n != nil {
			n.needs = append(n.needs, "pg_class "+string(v[1]))
		}
	}
	return err
}

// keyIndex is the condition on pg_index i that it is the index by which rows of its
// table are told apart, which must be there before rows come.
const keyIndex = `(i.indisprimary OR i.indisreplident)`

// constraints reads those of tables. The checks of partitions are made with them: a
// partition must have them before it is attached.
func (g *graph) constraints(ctx context.Context) error {
	from := ` FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace `
	add := `SELECT 'pg_constraint ' || k.oid, c.oid, n.nspname, c.relname, k.conname,
		format('ALTER TABLE %s%I.%I ADD CONSTRAINT %I %s', CASE WHEN c.relkind = 'p' AND k.contype = 'f' THEN '' ELSE 'ONLY ' END, n.nspname, c.relname, k.conname, pg_get_constraintdef(k.oid))`
	err := g.ofTable(ctx, "constraint", rankCheck, false, strings.Replace(add, "ONLY ' END", "' END", 1)+from+`WHERE k.contype = 'c' AND (k.conislocal OR c.relispartition) AND `+own("pg_class", "c.oid"))
	if err != nil {
		return err
	}
	identity := `|| CASE WHEN i.indisreplident AND c.relreplident = 'i' THEN format(E';\nALTER TABLE ONLY %I.%I REPLICA IDENTITY USING INDEX %I', n.nspname, c.relname, x.relname) ELSE '' END
		|| CASE WHEN i.indisclustered THEN format(E';\nALTER TABLE %I.%I CLUSTER ON %I', n.nspname, c.relname, x.relname) ELSE '' END`
	for _, late := range []bool{false, true} {
		which := keyIndex
		if late {
			which = "NOT " + keyIndex
		}
		err := g.ofTable(ctx, "constraint", rankKey, late, add+identity+from+`JOIN pg_index i ON i.indexrelid = k.conindid JOIN pg_class x ON x.oid = i.indexrelid
			WHERE k.contype IN ('p', 'u', 'x') AND `+which+` AND `+own("pg_class", "c.oid"))
		if err != nil {
			return err
		}
	}
	return g.ofTable(ctx, "constraint", rankForeign, true, add+from+`WHERE k.contype = 'f' AND k.conparentid = 0 AND `+own("pg_class", "c.oid"))
}

// indexes reads those that no constraint makes.
func (g *graph) indexes(ctx context.Context) error {
	for _, late := range []bool{false, true} {
		which := keyIndex
		if late {
			which = "NOT " + keyIndex
		}
		err := g.ofTable(ctx, "index", rankIndex, late, `SELECT 'pg_class ' || x.oid, c.oid, n.nspname, c.relname, x.relname, pg_get_indexdef(x.oid)
			|| COALESCE((SELECT string_agg(format(E';\nALTER INDEX %I.%I ALTER COLUMN %s SET STATISTICS %s', n.nspname, x.relname, a.attnum, a.attstattarget), '' ORDER BY a.attnum)
				FROM pg_attribute a WHERE a.attrelid = x.oid AND a.attstattarget >= 0), '')
			|| CASE WHEN i.indisreplident AND c.relreplident = 'i' THEN format(E';\nALTER TABLE ONLY %I.%I REPLICA IDENTITY USING INDEX %I', n.nspname, c.relname, x.relname) ELSE '' END
			|| CASE WHEN i.indisclustered THEN format(E';\nALTER TABLE %I.%I CLUSTER ON %I', n.nspname, c.relname, x.relname) ELSE '' END
			FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = x.oid AND k.contype IN ('p', 'u', 'x'))
			AND c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND `+which+` AND `+own("pg_class", "c.oid"))
		if err != nil {
			return err
		}
	}
	return nil
}

// attachments joins the indexes of partitions to those of their parents.
func (g *graph) attachments(ctx context.Context) error {
	rows, err := g.c.query(ctx, `SELECT x.oid, i.inhparent, t.oid, n.nspname, t.relname, x.relname,
		format('ALTER INDEX %I.%I ATTACH PARTITION %I.%I', pn.nspname, p.relname, n.nspname, x.relname), NOT (`+strings.ReplaceAll(keyIndex, "i.", "d.")+`)
		FROM pg_inherits i JOIN pg_class x ON x.oid = i.inhrelid AND x.relkind IN ('i', 'I') JOIN pg_index d ON d.indexrelid = x.oid
		JOIN pg_class t ON t.oid = d.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
		JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace WHERE `+own("pg_class", "t.oid"))
	for _, v := range rows {
		name := engine.Name{Schema: string(v[3]), Name: string(v[4])}
		g.add(node{id: "attach " + string(v[0]), owner: string(v[2]), rank: rankAttach,
			needs: []string{"pg_class " + string(v[0]), "pg_class " + string(v[1]), "partition " + string(v[2])},
			Object: engine.Object{Kind: "index partition", Table: name, Name: engine.Name{Schema: name.Schema, Name: string(v[5])},
				Definition: string(v[6]), Late: truth(v[7])}})
	}
	return err
}

// views reads views and materialized views; the latter are made empty.
func (g *graph) views(ctx context.Context) error {
	err := g.simple(ctx, "view", rankView, `SELECT 'pg_class ' || c.oid, n.nspname, c.relname, format('CREATE VIEW %I.%I', n.nspname, c.relname)
		|| COALESCE(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || E' AS\n' || rtrim(pg_get_viewdef(c.oid), ';')
		|| COALESCE((SELECT string_agg(format(E';\nALTER TABLE %I.%I ALTER COLUMN %I SET DEFAULT %s', n.nspname, c.relname, a.attname, pg_get_expr(f.adbin, f.adrelid)), '' ORDER BY a.attnum)
			FROM pg_attrdef f JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum WHERE f.adrelid = c.oid), '')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'v' AND c.relpersistence <> 't' AND `+own("pg_class", "c.oid"))
	if err != nil {
		return err
	}
	return g.simple(ctx, "materialized view", rankView, `SELECT 'pg_class ' || c.oid, n.nspname, c.relname, format('CREATE MATERIALIZED VIEW %I.%I', n.nspname, c.relname)
		|| COALESCE(' WITH (' || array_to_string(c.reloptions, ', ') || ')', '') || E' AS\n' || rtrim(pg_get_viewdef(c.oid), ';') || E'\nWITH NO DATA'
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND `+own("pg_class", "c.oid"))
}

// rest reads rules, triggers, policies, statistics and event triggers.
func (g *graph) rest(ctx context.Context) error {
	state := func(what, name, enabled string) string {
		return `|| CASE ` + enabled + ` WHEN 'D' THEN format(E';\nALTER TABLE %I.%I DISABLE ` + what + ` %I', n.nspname, c.relname, ` + name + `)
			WHEN 'A' THEN format(E';\nALTER TABLE %I.%I ENABLE ALWAYS ` + what + ` %I', n.nspname, c.relname, ` + name + `)
			WHEN 'R' THEN format(E';\nALTER TABLE %I.%I ENABLE REPLICA ` + what + ` %I', n.nspname, c.relname, ` + name + `) ELSE '' END`
	}
	of := ` JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ` + own("pg_class", "c.oid")
	err := g.ofTable(ctx, "statistics", rankStatistics, true, `SELECT 'pg_statistic_ext ' || s.oid, c.oid, n.nspname, c.relname, s.stxname, pg_get_statisticsobjdef(s.oid)
		|| CASE WHEN s.stxstattarget >= 0 THEN format(E';\nALTER STATISTICS %s SET STATISTICS %s', s.stxnamespace::regnamespace || '.' || quote_ident(s.stxname), s.stxstattarget) ELSE '' END
		FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid`+of)
	if err != nil {
		return err
	}
	err = g.ofTable(ctx, "rule", rankRule, true, `SELECT 'pg_rewrite ' || r.oid, c.oid, n.nspname, c.relname, r.rulename, rtrim(pg_get_ruledef(r.oid), ';')
		`+state("RULE", "r.rulename", "r.ev_enabled")+` FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class`+of+` AND r.rulename <> '_RETURN'`)
	if err != nil {
		return err
	}
	err = g.ofTable(ctx, "trigger", rankTrigger, true, `SELECT 'pg_trigger ' || t.oid, c.oid, n.nspname, c.relname, t.tgname, pg_get_triggerdef(t.oid)
		`+state("TRIGGER", "t.tgname", "t.tgenabled")+` FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid`+of+`
		AND NOT t.tgisinternal AND COALESCE(to_jsonb(t) ->> 'tgparentid', '0') = '0' AND t.tgname NOT IN ('`+triggerName+`', '`+triggerName+`_truncate')`)
	if err != nil {
		return err
	}
	err = g.ofTable(ctx, "policy", rankPolicy, true, `SELECT 'pg_policy ' || p.oid, c.oid, n.nspname, c.relname, p.polname,
		format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s', p.polname, n.nspname, c.relname, CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
			CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
			(SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(p.polroles) r))
		|| COALESCE(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '') || COALESCE(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
		FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid`+of)
	if err != nil {
		return err
	}
	if err := g.simple(ctx, "event trigger", rankEvent, `SELECT 'pg_event_trigger ' || t.oid, '', t.evtname, format('CREATE EVENT TRIGGER %I ON %s%s EXECUTE FUNCTION %s()', t.evtname, t.evtevent,
		COALESCE(' WHEN TAG IN (' || (SELECT string_agg(quote_literal(x), ', ') FROM unnest(t.evttags) x) || ')', ''), t.evtfoid::regproc)
		|| CASE t.evtenabled WHEN 'D' THEN format(E';\nALTER EVENT TRIGGER %I DISABLE', t.evtname) WHEN 'A' THEN format(E';\nALTER EVENT TRIGGER %I ENABLE ALWAYS', t.evtname)
			WHEN 'R' THEN format(E';\nALTER EVENT TRIGGER %I ENABLE REPLICA', t.evtname) ELSE '' END
		FROM pg_event_trigger t WHERE `+unextended("pg_event_trigger", "t.oid")); err != nil {
		return err
	}
	for _, n := range g.nodes {
		n.Late = n.Late || n.rank == rankEvent
	}
	return nil
}
