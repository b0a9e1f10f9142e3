package postgres

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// target is a database that is brought up to date.
type target struct {
	*database
	appliers *pool

	mu       sync.Mutex
	made     bool                         // the tables of ownSchema are there
	counters map[string]map[string]string // what is stored of each stream, as far as we wrote it
}

var _ engine.Target = (*target)(nil)

func (t *target) Close() error {
	t.appliers.close()
	t.shut()
	return nil
}

// ownTables makes what a target remembers. Of a stream there is one row, which is
// locked by whoever applies.
const ownTables = `SELECT pg_advisory_xact_lock(7310868736120254);
CREATE SCHEMA IF NOT EXISTS leeward;
CREATE TABLE IF NOT EXISTS leeward.stream (stream text PRIMARY KEY, pos text NOT NULL, phase text NOT NULL, until text NOT NULL,
	epoch text NOT NULL, fingerprint text NOT NULL, source_time bigint, serial bigint NOT NULL);
CREATE TABLE IF NOT EXISTS leeward.progress (stream text, schema text, name text, upto text[] /* hexadecimal */, done boolean NOT NULL,
	PRIMARY KEY (stream, schema, name));
CREATE TABLE IF NOT EXISTS leeward.counter (stream text, kind text, schema text, name text, col text, value text NOT NULL,
	PRIMARY KEY (stream, kind, schema, name, col));
CREATE TABLE IF NOT EXISTS leeward.foreign_write (rel oid, name text NOT NULL, operation text, role text, seen timestamptz NOT NULL,
	last timestamptz NOT NULL, times bigint NOT NULL, query text, PRIMARY KEY (rel, operation, role));
CREATE OR REPLACE FUNCTION leeward.note_foreign() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
	INSERT INTO leeward.foreign_write AS f VALUES (TG_RELID, format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME), TG_OP, session_user,
		clock_timestamp(), clock_timestamp(), 1, left(current_query(), 200))
	ON CONFLICT (rel, operation, role) DO UPDATE SET last = EXCLUDED.last, times = f.times + 1, query = EXCLUDED.query;
	RETURN NULL;
END $$`

func (t *target) ensure(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.made {
		return nil
	}
	rows, err := t.catalog.query(ctx, "SELECT to_regprocedure('leeward.note_foreign()') IS NOT NULL")
	if err == nil && !truth(rows[0][0]) {
		err = t.catalog.exec(ctx, ownTables)
	}
	if err != nil {
		return fmt.Errorf("make schema %s: %w", ownSchema, err)
	}
	t.made = true
	return nil
}

// missing reports whether an error says that a table of ownSchema is not there.
func missing(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "42P01" || pg.Code == "3F000")
}

const stateQuery = "SELECT pos, phase, until, epoch, fingerprint, COALESCE(source_time::text, ''), serial FROM leeward.stream WHERE stream = $1"

func (t *target) State(ctx context.Context, stream string) (engine.State, error) {
	rows, err := t.catalog.query(ctx, stateQuery, stream)
	if missing(err) {
		return engine.State{Stream: stream}, nil
	}
	if err != nil {
		return engine.State{}, fmt.Errorf("read state of %s: %w", stream, err)
	}
	return parseState(stream, rows), nil
}

func parseState(stream string, rows [][][]byte) engine.State {
	st := engine.State{Stream: stream}
	if len(rows) == 0 {
		return st
	}
	v := rows[0]
	st.Pos, st.Phase, st.Until = engine.Pos(v[0]), engine.Phase(v[1]), engine.Pos(v[2])
	st.Epoch, st.Fingerprint, st.Serial = string(v[3]), string(v[4]), count(v[6])
	if len(v[5]) > 0 {
		st.SourceTime = time.UnixMicro(count(v[5])).UTC()
	}
	return st
}

func (t *target) SetProgress(ctx context.Context, stream string, n engine.Name, p engine.Progress) error {
	if err := t.ensure(ctx); err != nil {
		return err
	}
	c, err := t.catalog.get(ctx)
	if err != nil {
		return err
	}
	defer t.catalog.give(c)
	var upto []byte
	if p.UpTo != nil {
		upto = textArray(len(p.UpTo), func(i int) []byte { return []byte(hex.EncodeToString(p.UpTo[i])) })
	}
	r := c.ExecParams(ctx, `INSERT INTO leeward.progress VALUES ($1, $2, $3, $4::text[], $5)
		ON CONFLICT (stream, schema, name) DO UPDATE SET upto = EXCLUDED.upto, done = EXCLUDED.done`,
		[][]byte{[]byte(stream), []byte(n.Schema), []byte(n.Name), upto, []byte(strconv.FormatBool(p.Done))}, nil, []int16{0, 0, 0, 1, 0}, nil).Read()
	if r.Err != nil {
		return fmt.Errorf("store progress of %s: %w", n, mend(r.Err))
	}
	return nil
}

func (t *target) Progress(ctx context.Context, stream string) (map[engine.Name]engine.Progress, error) {
	out := map[engine.Name]engine.Progress{}
	rows, err := t.catalog.query(ctx, "SELECT schema, name, upto::text, done FROM leeward.progress WHERE stream = $1", stream)
	if missing(err) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read progress of %s: %w", stream, err)
	}
	for _, v := range rows {
		p := engine.Progress{Done: truth(v[3])}
		if v[2] != nil {
			for _, s := range parseArray(string(v[2])) {
				b, err := hex.DecodeString(s)
				if err != nil {
					return nil, fmt.Errorf("read progress of %s: %w", stream, err)
				}
				p.UpTo = append(p.UpTo, b)
			}
		}
		out[engine.Name{Schema: string(v[0]), Name: string(v[1])}] = p
	}
	return out, nil
}

func (t *target) Forget(ctx context.Context, stream string) error {
	t.doubt(stream)
	for _, table := range []string{"stream", "progress", "counter"} {
		_, err := t.catalog.query(ctx, "DELETE FROM leeward."+table+" WHERE stream = $1", stream)
		if missing(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forget stream %s: %w", stream, err)
		}
	}
	// The record of foreign writes is of all streams, and goes with the last.
	rows, err := t.catalog.query(ctx, "SELECT count(*) FROM leeward.stream")
	if err != nil {
		return fmt.Errorf("forget stream %s: %w", stream, err)
	}
	if string(rows[0][0]) != "0" {
		return nil
	}
	if err := t.dropTriggers(ctx); err != nil {
		return fmt.Errorf("forget stream %s: %w", stream, err)
	}
	if err := t.catalog.exec(ctx, "DROP SCHEMA leeward CASCADE"); err != nil {
		return fmt.Errorf("forget stream %s: %w", stream, err)
	}
	t.mu.Lock()
	t.made = false
	t.mu.Unlock()
	return nil
}

// remember keeps what counters were stored, so that what did not change is not
// stored again with every batch.
func (t *target) remember(stream string, cs map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counters == nil {
		t.counters = map[string]map[string]string{}
	}
	if t.counters[stream] == nil {
		t.counters[stream] = map[string]string{}
	}
	maps.Copy(t.counters[stream], cs)
}

// doubt forgets what was remembered.
func (t *target) doubt(stream string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.counters, stream)
}

// stored returns the value that a counter has at the target, as far as is known.
func (t *target) stored(stream, counter string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counters[stream][counter]
}

// Execute runs DDL. Several statements in one string are one transaction.
func (t *target) Execute(ctx context.Context, statement string) error {
	err := t.catalog.exec(ctx, statement)
	t.known.reset()
	if err != nil {
		return fmt.Errorf("run %.200q: %w", statement, err)
	}
	return nil
}

// Begin opens a transaction that holds the stream's row.
func (t *target) Begin(ctx context.Context, from engine.State, tables []*engine.Table) (engine.Apply, error) {
	if err := t.ensure(ctx); err != nil {
		return nil, err
	}
	a := &apply{ctx: ctx, target: t, from: from, tables: map[engine.Name]*engine.Table{}, shapes: map[engine.Name]*shape{},
		displaced: map[engine.Name]map[string]engine.Row{}, staged: map[string]bool{}, counters: map[string]string{}}
	// The catalogue is read before there is anything in it that waits for us. That a
	// table is not there matters when there is something to apply to it.
	for _, x := range tables {
		a.tables[x.Name] = x
		if _, err := a.shape(ctx, x.Name); err != nil && !errors.Is(err, engine.ErrSchema) {
			return nil, err
		}
	}
	var err error
	if a.c, err = t.appliers.get(ctx); err != nil {
		return nil, err
	}
	if err := a.lock(); err != nil {
		_ = a.Rollback()
		t.doubt(from.Stream) // someone else may have stored counters too
		return nil, fmt.Errorf("begin for stream %s: %w", from.Stream, err)
	}
	return a, nil
}

// lock takes the stream's row, which it makes where it is not there.
func (a *apply) lock() error {
	res, err := a.c.Exec(a.ctx, "BEGIN; "+strings.Replace(stateQuery, "$1", literal(a.from.Stream), 1)+" FOR UPDATE").ReadAll()
	if err != nil {
		return mend(err)
	}
	rows := res[len(res)-1].Rows
	if len(rows) == 0 {
		if a.from.Phase != engine.Absent || a.from.Serial != 0 {
			return engine.ErrConflict
		}
		rows, err = a.c.query(a.ctx, `INSERT INTO leeward.stream VALUES ($1, '', '', '', '', '', NULL, 0)
			ON CONFLICT DO NOTHING RETURNING pos, phase, until, epoch, fingerprint, '', serial`, a.from.Stream)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return engine.ErrConflict
		}
	}
	if now := parseState(a.from.Stream, rows); now.Serial != a.from.Serial || now.Phase != a.from.Phase {
		return fmt.Errorf("%w: its record is %d (%s), not %d (%s)", engine.ErrConflict, now.Serial, now.Phase, a.from.Serial, a.from.Phase)
	}
	return nil
}

// Commit writes the stream's row and ends the transaction.
func (a *apply) Commit(ctx context.Context, to engine.State) (engine.State, error) {
	to.Stream, to.Serial = a.from.Stream, a.from.Serial+1
	at := "NULL"
	if !to.SourceTime.IsZero() {
		at = strconv.FormatInt(to.SourceTime.UnixMicro(), 10)
		to.SourceTime = time.UnixMicro(to.SourceTime.UnixMicro()).UTC()
	}
	wait := ""
	if a.deferred {
		wait = "SET LOCAL synchronous_commit = off; "
	}
	// The row is ours since Begin; were it not as it was, the division would tell.
	res, err := a.c.Exec(ctx, wait+fmt.Sprintf(`UPDATE leeward.stream SET pos = %s, phase = %s, until = %s, epoch = %s, fingerprint = %s,
		source_time = %s, serial = CASE WHEN serial = %d THEN %d ELSE 1 / (serial - serial) END WHERE stream = %s; COMMIT`,
		literal(string(to.Pos)), literal(string(to.Phase)), literal(string(to.Until)), literal(to.Epoch), literal(to.Fingerprint),
		at, a.from.Serial, to.Serial, literal(to.Stream))).ReadAll()
	err = mend(err)
	if a.deferred && len(res) > 0 {
		res = res[1:]
	}
	if err == nil && (len(res) != 2 || res[0].CommandTag.RowsAffected() != 1 || !strings.HasPrefix(res[1].CommandTag.String(), "COMMIT")) {
		err = engine.ErrConflict
	}
	if err != nil {
		_ = a.Rollback()
		return engine.State{}, fmt.Errorf("commit to stream %s: %w", to.Stream, err)
	}
	a.target.remember(to.Stream, a.counters)
	for name := range a.staged {
		a.c.staged[name] = true
	}
	a.end()
	return to, nil
}

func (a *apply) Rollback() error {
	if a.c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), 10*time.Second)
	defer cancel()
	if a.c.IsClosed() {
		a.end()
		return nil // the server rolls back what it lost
	}
	err := a.c.exec(ctx, "ROLLBACK")
	if err != nil {
		a.c.drop()
	}
	a.end()
	return err
}

func (a *apply) end() {
	a.target.appliers.give(a.c)
	a.c = nil
}
