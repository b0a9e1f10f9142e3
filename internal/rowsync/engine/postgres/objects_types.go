package postgres

import "context"

// schemas reads schemas, extensions and collations.
func (g *graph) schemas(ctx context.Context) error {
	err := g.simple(ctx, "schema", rankSchema, `SELECT 'pg_namespace ' || n.oid, '', n.nspname, 'CREATE SCHEMA ' || quote_ident(n.nspname)
		FROM pg_namespace n WHERE n.nspname <> 'public' AND `+own("pg_namespace", "n.oid"))
	if err != nil {
		return err
	}
	err = g.simple(ctx, "extension", rankExtension, `SELECT 'pg_extension ' || e.oid, '', e.extname,
		format('CREATE EXTENSION IF NOT EXISTS %I WITH SCHEMA %I', e.extname, n.nspname)
		FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname <> 'plpgsql'`)
	if err != nil {
		return err
	}
	return g.simple(ctx, "collation", rankCollation, `SELECT 'pg_collation ' || c.oid, n.nspname, c.collname,
		format('CREATE COLLATION %I.%I (provider = %s%s, %s)', n.nspname, c.collname,
			CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
			CASE WHEN c.collisdeterministic THEN '' ELSE ', deterministic = false' END,
			CASE WHEN c.collprovider = 'c' AND c.collcollate <> c.collctype THEN format('lc_collate = %L, lc_ctype = %L', c.collcollate, c.collctype)
			ELSE format('locale = %L', COALESCE(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate)) END)
		FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE `+own("pg_collation", "c.oid"))
}

func (g *graph) enums(ctx context.Context) error {
	return g.simple(ctx, "type", rankType, `SELECT 'pg_type ' || t.oid, n.nspname, t.typname, format('CREATE TYPE %I.%I AS ENUM (%s)', n.nspname, t.typname,
		(SELECT COALESCE(string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder), '') FROM pg_enum WHERE enumtypid = t.oid))
		FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e' AND `+own("pg_type", "t.oid"))
}

func (g *graph) domains(ctx context.Context) error {
	return g.simple(ctx, "type", rankType, `SELECT 'pg_type ' || t.oid, n.nspname, t.typname,
		format('CREATE DOMAIN %I.%I AS %s', n.nspname, t.typname, format_type(t.typbasetype, t.typtypmod))
		|| CASE WHEN t.typcollation <> b.typcollation THEN (SELECT format(' COLLATE %I.%I', cn.nspname, c.collname)
			FROM pg_collation c JOIN pg_namespace cn ON cn.oid = c.collnamespace WHERE c.oid = t.typcollation) ELSE '' END
		|| COALESCE(' DEFAULT ' || COALESCE(pg_get_expr(t.typdefaultbin, 0), quote_literal(t.typdefault)), '')
		|| CASE WHEN t.typnotnull THEN ' NOT NULL' ELSE '' END
		|| COALESCE((SELECT string_agg(format(' CONSTRAINT %I %s', k.conname, pg_get_constraintdef(k.oid)), '' ORDER BY k.conname)
			FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'), '')
		FROM pg_type t JOIN pg_type b ON b.oid = t.typbasetype JOIN pg_namespace n ON n.oid = t.typnamespace
		WHERE t.typtype = 'd' AND `+own("pg_type", "t.oid"))
}

func (g *graph) composites(ctx context.Context) error {
	return g.simple(ctx, "type", rankType, `SELECT 'pg_class ' || c.oid, n.nspname, c.relname, format('CREATE TYPE %I.%I AS (%s)', n.nspname, c.relname,
		(SELECT COALESCE(string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
			|| CASE WHEN a.attcollation <> y.typcollation THEN (SELECT format(' COLLATE %I.%I', ln.nspname, l.collname)
				FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace WHERE l.oid = a.attcollation) ELSE '' END, ', ' ORDER BY a.attnum), '')
			FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'c' AND `+own("pg_type", "c.reltype"))
}

func (g *graph) rangeTypes(ctx context.Context) error {
	return g.simple(ctx, "type", rankType, `SELECT 'pg_type ' || t.oid, n.nspname, t.typname, format('CREATE TYPE %I.%I AS RANGE (SUBTYPE = %s%s%s%s%s)',
		n.nspname, t.typname, format_type(r.rngsubtype, NULL),
		COALESCE((SELECT format(', MULTIRANGE_TYPE_NAME = %I.%I', mn.nspname, m.typname) FROM pg_type m JOIN pg_namespace mn ON mn.oid = m.typnamespace
			WHERE m.oid = (to_jsonb(r) ->> 'rngmultitypid')::oid), ''),
		CASE WHEN NOT o.opcdefault THEN format(', SUBTYPE_OPCLASS = %I.%I', opn.nspname, o.opcname) ELSE '' END,
		COALESCE((SELECT format(', COLLATION = %I.%I', ln.nspname, l.collname) FROM pg_collation l JOIN pg_namespace ln ON ln.oid = l.collnamespace
			WHERE l.oid = r.rngcollation AND l.collname <> 'default'), ''),
		CASE WHEN r.rngsubdiff <> 0 THEN ', SUBTYPE_DIFF = ' || r.rngsubdiff::regproc ELSE '' END)
		FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid JOIN pg_namespace n ON n.oid = t.typnamespace
		JOIN pg_opclass o ON o.oid = r.rngsubopc JOIN pg_namespace opn ON opn.oid = o.opcnamespace WHERE `+own("pg_type", "t.oid"))
}

// sequences reads those that are objects of their own; those of identity columns are
// part of the column. Which column owns a sequence is told apart from it, since the
// column's default needs the sequence.
func (g *graph) sequences(ctx context.Context) error {
	err := g.simple(ctx, "sequence", rankSequence, `SELECT 'pg_class ' || c.oid, n.nspname, c.relname, format(
		'CREATE %sSEQUENCE %I.%I AS %s START WITH %s INCREMENT BY %s MINVALUE %s MAXVALUE %s CACHE %s%s', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END,
		n.nspname, c.relname, format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin, s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ' CYCLE' ELSE '' END)
		FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i') AND c.relpersistence <> 't' AND `+own("pg_class", "c.oid"))
	if err != nil {
		return err
	}
	return g.ofTable(ctx, "ownership", rankOwner, false, `SELECT 'ownership ' || c.oid, t.oid, n.nspname, t.relname, c.relname,
		format('ALTER SEQUENCE %I.%I OWNED BY %I.%I.%I', sn.nspname, c.relname, n.nspname, t.relname, a.attname)
		FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S' JOIN pg_namespace sn ON sn.oid = c.relnamespace
		JOIN pg_class t ON t.oid = d.refobjid JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
		WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a' AND `+own("pg_class", "c.oid"))
}

// routines reads functions and procedures as the server spells them.
func (g *graph) routines(ctx context.Context) error {
	return g.simple(ctx, "routine", rankRoutine, `SELECT 'pg_proc ' || p.oid, n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
		pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE p.prokind IN ('f', 'p', 'w') AND NOT EXISTS (SELECT 1 FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')
		AND `+own("pg_proc", "p.oid"))
}

func (g *graph) aggregates(ctx context.Context) error {
	return g.simple(ctx, "aggregate", rankRoutine, `SELECT 'pg_proc ' || p.oid, n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')',
		format('CREATE AGGREGATE %I.%I(%s) (SFUNC = %s, STYPE = %s', n.nspname, p.proname, COALESCE(NULLIF(pg_get_function_arguments(p.oid), ''), '*'),
			a.aggtransfn::regproc, format_type(a.aggtranstype, NULL))
		|| CASE WHEN a.aggtransspace > 0 THEN ', SSPACE = ' || a.aggtransspace ELSE '' END
		|| CASE WHEN a.aggfinalfn <> 0 THEN ', FINALFUNC = ' || a.aggfinalfn::regproc ELSE '' END
		|| CASE WHEN a.aggfinalextra THEN ', FINALFUNC_EXTRA' ELSE '' END
		|| CASE WHEN a.aggcombinefn <> 0 THEN ', COMBINEFUNC = ' || a.aggcombinefn::regproc ELSE '' END
		|| CASE WHEN a.aggserialfn <> 0 THEN ', SERIALFUNC = ' || a.aggserialfn::regproc || ', DESERIALFUNC = ' || a.aggdeserialfn::regproc ELSE '' END
		|| COALESCE(', INITCOND = ' || quote_literal(a.agginitval), '')
		|| CASE WHEN a.aggmtransfn <> 0 THEN ', MSFUNC = ' || a.aggmtransfn::regproc || ', MINVFUNC = ' || a.aggminvtransfn::regproc
			|| ', MSTYPE = ' || format_type(a.aggmtranstype, NULL) || CASE WHEN a.aggmfinalfn <> 0 THEN ', MFINALFUNC = ' || a.aggmfinalfn::regproc ELSE '' END
			|| COALESCE(', MINITCOND = ' || quote_literal(a.aggminitval), '') ELSE '' END
		|| CASE WHEN a.aggsortop <> 0 THEN (SELECT format(', SORTOP = OPERATOR(%I.%s)', xn.nspname, o.oprname) FROM pg_operator o JOIN pg_namespace xn ON xn.oid = o.oprnamespace WHERE o.oid = a.aggsortop) ELSE '' END
		|| CASE WHEN a.aggkind = 'h' THEN ', HYPOTHETICAL' ELSE '' END
		|| CASE p.proparallel WHEN 's' THEN ', PARALLEL = safe' WHEN 'r' THEN ', PARALLEL = restricted' ELSE '' END || ')'
		FROM pg_proc p JOIN pg_aggregate a ON a.aggfnoid = p.oid JOIN pg_namespace n ON n.oid = p.pronamespace WHERE `+own("pg_proc", "p.oid"))
}
