package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Nothing need be disabled at a standby: what we write, we write in the replica role,
// in which foreign keys and ordinary triggers do not fire. What Standby adds are the
// triggers that tell of others' writes: they fire for everyone but us.

const triggerName = "leeward_foreign"

// Standby makes the triggers that note foreign writes.
func (t *target) Standby(ctx context.Context, stream string, tables []*engine.Table) error {
	if err := t.ensure(ctx); err != nil {
		return err
	}
	for _, x := range tables {
		rel, err := t.known.of(ctx, x.Name)
		if err != nil {
			return err
		}
		if err := t.watch(ctx, rel); err != nil {
			return fmt.Errorf("watch table %s for foreign writes: %w", x.Name, err)
		}
	}
	return nil
}

func (t *target) watch(ctx context.Context, rel *relation) error {
	rows, err := t.catalog.query(ctx, "SELECT 1 FROM pg_trigger WHERE tgrelid = $1::text::oid AND tgname = '"+triggerName+"'", rel.oid)
	if err != nil || len(rows) > 0 {
		return err
	}
	// Statements on a parent fire the triggers of the parent alone, those of rows fire
	// where the row goes.
	each := "STATEMENT"
	if rel.partition {
		each = "ROW"
	}
	q := qualified(rel.Name)
	return t.catalog.exec(ctx, "SET LOCAL lock_timeout = '10s'; DELETE FROM leeward.foreign_write WHERE rel = "+rel.oid+
		"; CREATE TRIGGER "+triggerName+" AFTER INSERT OR UPDATE OR DELETE ON "+q+" FOR EACH "+each+" EXECUTE FUNCTION leeward.note_foreign()"+
		"; CREATE TRIGGER "+triggerName+"_truncate AFTER TRUNCATE ON "+q+" FOR EACH STATEMENT EXECUTE FUNCTION leeward.note_foreign()")
}

// dropTriggers takes the triggers away from all tables.
func (t *target) dropTriggers(ctx context.Context) error {
	rows, err := t.catalog.query(ctx, `SELECT n.nspname, c.relname, g.tgname FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE g.tgname IN ('`+triggerName+`', '`+triggerName+`_truncate')`)
	if err != nil {
		return err
	}
	for _, v := range rows {
		table := qualified(engine.Name{Schema: string(v[0]), Name: string(v[1])})
		if err := t.catalog.exec(ctx, "DROP TRIGGER IF EXISTS "+ident(string(v[2]))+" ON "+table); err != nil {
			return fmt.Errorf("drop trigger on %s: %w", table, err)
		}
	}
	return nil
}

// Foreign reports what the triggers noted. Writes made in the replica role by
// someone else, or after the triggers were disabled, are not among them.
func (t *target) Foreign(ctx context.Context, stream string, tables []*engine.Table) ([]engine.Finding, error) {
	rows, err := t.catalog.query(ctx, `SELECT f.name, f.operation, f.role, f.times, to_char(f.seen, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
		to_char(f.last, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), COALESCE(f.query, ''), n.nspname, c.relname
		FROM leeward.foreign_write f JOIN pg_class c ON c.oid = f.rel JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY 1, 2, 3`)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read foreign writes: %w", err)
	}
	ours := map[engine.Name]bool{}
	for _, x := range tables {
		ours[x.Name] = true
	}
	var out []engine.Finding
	for _, v := range rows {
		name := engine.Name{Schema: string(v[7]), Name: string(v[8])}
		if !ours[name] {
			continue
		}
		out = append(out, engine.Finding{
			Severity: engine.Warning, Object: name.String(),
			Text:   fmt.Sprintf("%s by %s, %s times from %s to %s, the last: %s", v[1], v[2], v[3], v[4], v[5], v[6]),
			Remedy: "find out who writes at the standby, and compare the table anew",
		})
	}
	return out, nil
}

// Promote sets sequences past what the source gave out, takes the triggers away,
// refreshes materialized views and records the new role.
func (t *target) Promote(ctx context.Context, stream string, tables []*engine.Table) ([]string, error) {
	if err := t.ensure(ctx); err != nil {
		return nil, err
	}
	var evidence []string
	if err := t.dropTriggers(ctx); err != nil {
		return nil, fmt.Errorf("promote: %w", err)
	}
	evidence = append(evidence, "triggers and foreign keys fire for everyone: none was ever disabled, and those that watched for foreign writes are gone")
	moved, err := t.advance(ctx, stream)
	if err != nil {
		return evidence, fmt.Errorf("promote: %w", err)
	}
	evidence = append(evidence, moved...)
	fresh, err := t.refresh(ctx)
	if err != nil {
		return evidence, fmt.Errorf("promote: %w", err)
	}
	evidence = append(evidence, fresh...)
	rows, err := t.catalog.query(ctx, "UPDATE leeward.stream SET phase = 'primary', serial = serial + 1 WHERE stream = $1 AND phase <> 'primary' RETURNING pos, serial", stream)
	if err != nil {
		return evidence, fmt.Errorf("promote: record role: %w", err)
	}
	if len(rows) > 0 {
		evidence = append(evidence, fmt.Sprintf("recorded as primary at position %s", rows[0][0]))
	}
	return evidence, nil
}

// refresh computes materialized views anew: their rows do not travel. One that cannot
// be is told of, and keeps nobody from going on.
func (t *target) refresh(ctx context.Context) ([]string, error) {
	rows, err := t.catalog.query(ctx, `SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'm' AND `+userObject+` ORDER BY c.oid`)
	if err != nil {
		return nil, fmt.Errorf("read materialized views: %w", err)
	}
	var out []string
	for _, v := range rows {
		name := engine.Name{Schema: string(v[0]), Name: string(v[1])}
		if err := t.catalog.exec(ctx, "REFRESH MATERIALIZED VIEW "+qualified(name)); err != nil {
			if engine.Temporary(err) {
				return out, err
			}
			out = append(out, fmt.Sprintf("materialized view %s could not be refreshed: %v", name, err))
			continue
		}
		out = append(out, "materialized view "+name.String()+" refreshed")
	}
	return out, nil
}

const (
	kindSequence = "sequence"
	kindIdentity = "identity"
)

// margin is how many numbers are skipped where the source was not fenced when its
// sequences were read last: as many as it may log ahead.
const margin = 32

const countersQuery = `SELECT n.nspname, c.relname, s.seqincrement || CASE WHEN EXISTS (SELECT 1 FROM pg_db_role_setting r, unnest(r.setconfig) f
		WHERE r.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) AND f LIKE '` + fenceSetting + `=%') THEN ' fenced' ELSE ' live' END,
	CASE WHEN has_sequence_privilege(c.oid, 'SELECT,USAGE') THEN COALESCE(pg_sequence_last_value(c.oid)::text, '-') ELSE '?' END,
	COALESCE(tn.nspname, ''), COALESCE(t.relname, ''), COALESCE(a.attname, '')
	FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
		AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
	LEFT JOIN pg_class t ON t.oid = d.refobjid LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
	LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
	WHERE c.relpersistence <> 't' AND ` + userObject + ` ORDER BY 1, 2`

// Counters reads where sequences stand: the last value given out, "-" for none, the
// step, and whether the database was fenced at that moment, so that the value is
// final.
func (s *source) Counters(ctx context.Context) ([]engine.Counter, error) {
	c, err := s.catalog.get(ctx)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	defer s.catalog.give(c)
	rows, err := c.again(ctx, countersQuery)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	out := make([]engine.Counter, 0, len(rows))
	for _, v := range rows {
		if string(v[3]) == "?" {
			return nil, fmt.Errorf("read sequence %s.%s: permission denied: GRANT SELECT ON SEQUENCE %s TO %s", v[0], v[1],
				qualified(engine.Name{Schema: string(v[0]), Name: string(v[1])}), ident(s.settings.config.User))
		}
		c := engine.Counter{Kind: kindSequence, Name: engine.Name{Schema: string(v[0]), Name: string(v[1])},
			Value: fmt.Sprintf("%s %s", v[3], v[2])}
		if len(v[5]) > 0 {
			c.Kind, c.Column = kindIdentity, string(v[6])
			c.Name = engine.Name{Schema: string(v[4]), Name: string(v[5])}
		}
		out = append(out, c)
	}
	return out, nil
}

// advance sets the sequences of the target. A column's own greatest value counts as
// well: rows may have come after the counters.
func (t *target) advance(ctx context.Context, stream string) ([]string, error) {
	rows, err := t.catalog.query(ctx, `SELECT kind, schema, name, col, value, CASE WHEN kind = 'sequence'
		THEN to_regclass(format('%I.%I', schema, name))::text
		WHEN to_regclass(format('%I.%I', schema, name)) IS NOT NULL THEN pg_get_serial_sequence(format('%I.%I', schema, name), col) END
		FROM leeward.counter WHERE stream = $1 ORDER BY 1, 2, 3, 4`, stream)
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	var out []string
	for _, v := range rows {
		what := fmt.Sprintf("%s %s.%s", v[0], v[1], v[2])
		if len(v[3]) > 0 {
			what += "." + string(v[3])
		}
		if len(v[5]) == 0 {
			out = append(out, what+" is not at the target: its counter is left alone")
			continue
		}
		owner := ""
		if string(v[0]) == kindIdentity {
			owner = "SELECT max(" + ident(string(v[3])) + ")::text FROM " + qualified(engine.Name{Schema: string(v[1]), Name: string(v[2])})
		}
		set, err := t.setval(ctx, string(v[5]), string(v[4]), owner)
		if err != nil {
			return out, fmt.Errorf("set %s: %w", what, err)
		}
		out = append(out, what+" "+set)
	}
	return out, nil
}

// setval sets one sequence, given by the text that names it, past a counter's value.
func (t *target) setval(ctx context.Context, name, value, greatest string) (string, error) {
	f := strings.Fields(value)
	if len(f) != 3 {
		return "", fmt.Errorf("its counter %q is not one of PostgreSQL's", value)
	}
	rows, err := t.catalog.query(ctx, "SELECT seqincrement, seqmin, seqmax, seqstart FROM pg_sequence WHERE seqrelid = $1::text::regclass", name)
	if err != nil || len(rows) == 0 {
		return "", err
	}
	step, low, high, start := count(rows[0][0]), count(rows[0][1]), count(rows[0][2]), count(rows[0][3])
	last, called := start, "false"
	if f[0] != "-" {
		if last, err = strconv.ParseInt(f[0], 10, 64); err != nil {
			return "", fmt.Errorf("its counter %q is not one of PostgreSQL's", value)
		}
		called = "true"
	}
	said := last
	if f[2] != "fenced" && called == "true" {
		last = beyond(last, step*margin, low, high)
	}
	if greatest != "" {
		rows, err := t.catalog.query(ctx, greatest)
		if err != nil {
			return "", err
		}
		if m, err := strconv.ParseInt(string(rows[0][0]), 10, 64); err == nil && m <= high && m >= low &&
			(step > 0 && m > last || step < 0 && m < last || m == last) {
			last, called = m, "true"
		}
	}
	_, err = t.catalog.query(ctx, "SELECT setval($1::text::regclass, $2::text::int8, $3::text::bool)", name, strconv.FormatInt(last, 10), called)
	return fmt.Sprintf("set to %d (the source's was %d, %s)", last, said, f[2]), err
}

// beyond adds to a counter without leaving its bounds.
func beyond(v, by, low, high int64) int64 {
	if by > 0 && v > high-by || by < 0 && v < low-by {
		return v
	}
	return v + by
}
