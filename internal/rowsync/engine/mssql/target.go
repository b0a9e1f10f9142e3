package mssql

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// target is a database that is brought up to date.
type target struct {
	reader

	mu       sync.Mutex
	counters map[engine.Counter]string // as last committed; the key is without its value
	foreign  []*foreignKey             // as the catalogue has them; nil: not read since they may have changed
	young    map[string]bool           // statements of Execute that made foreign keys without a look at the rows
	made     bool                      // the tables of schema leeward are there
}

// Close implements engine.Target.
func (t *target) Close() error { return t.d.Close() }

// targetTables is what a target keeps in schema leeward.
func targetTables() map[string]string {
	return map[string]string{
		"leeward.watermark": sqlMakeWatermark(), "leeward.progress": sqlMakeProgress(), "leeward.counter": sqlMakeCounters(),
		"leeward.held": sqlMakeHeld(), "leeward.foreign_write": sqlMakeForeign(),
	}
}

// ensure makes them, once.
func (t *target) ensure(ctx context.Context, s *session) error {
	t.mu.Lock()
	made := t.made
	t.mu.Unlock()
	if made {
		return nil
	}
	if err := s.ensure(ctx, targetTables()); err != nil {
		return targetHint(err)
	}
	// The guards write for whoever fires them; where the tables' owner is dbo they may
	// without this.
	_, _ = s.exec(ctx, sqlGrantForeign())
	t.mu.Lock()
	t.made = true
	t.mu.Unlock()
	return nil
}

func targetHint(err error) error {
	switch number(err) {
	case 229, 262, 297, 300, 1088, 2760, 4902, 15151, 15247:
		return fmt.Errorf("%w: the login needs to own the standby: ALTER ROLE [db_owner] ADD MEMBER [its user]", err)
	}
	return err
}

// State implements engine.Record.
func (t *target) State(ctx context.Context, stream string) (engine.State, error) {
	st := engine.State{Stream: stream}
	err := t.with(ctx, func(s *session) error {
		there, err := s.has(ctx, "leeward.watermark")
		if err != nil || !there {
			return err
		}
		st, err = s.state(ctx, sqlState(), stream)
		return err
	})
	return st, wrap(err, "read the state of stream %s", stream)
}

func (s *session) state(ctx context.Context, query, stream string) (engine.State, error) {
	st := engine.State{Stream: stream}
	var at sql.NullTime
	err := s.QueryRowContext(ctx, query, stream).Scan(&st.Pos, &st.Phase, &st.Until, &st.Epoch, &st.Fingerprint, &at, &st.Serial)
	if errors.Is(err, sql.ErrNoRows) {
		return engine.State{Stream: stream}, nil
	}
	if at.Valid {
		st.SourceTime = at.Time.UTC()
	}
	return st, err
}

// SetProgress implements engine.Record.
func (t *target) SetProgress(ctx context.Context, stream string, n engine.Name, p engine.Progress) error {
	done := 0
	if p.Done {
		done = 1
	}
	var upTo any = []byte(nil)
	if p.UpTo != nil {
		upTo = packRow(p.UpTo)
	}
	err := t.with(ctx, func(s *session) error {
		if err := t.ensure(ctx, s); err != nil {
			return err
		}
		rows, err := s.exec(ctx, sqlSetProgress(), stream, n.Schema, n.Name, upTo, done)
		if err == nil && rows == 0 {
			_, err = s.exec(ctx, sqlAddProgress(), stream, n.Schema, n.Name, upTo, done)
		}
		return err
	})
	return wrap(err, "store the progress of %s", n)
}

// Progress implements engine.Record.
func (t *target) Progress(ctx context.Context, stream string) (map[engine.Name]engine.Progress, error) {
	out := map[engine.Name]engine.Progress{}
	err := t.with(ctx, func(s *session) error {
		there, err := s.has(ctx, "leeward.progress")
		if err != nil || !there {
			return err
		}
		return s.each(ctx, sqlProgress(), func(scan func(...any) error) error {
			var n engine.Name
			var b []byte
			var p engine.Progress
			var done flag
			if err := scan(&n.Schema, &n.Name, &b, &done); err != nil {
				return err
			}
			p.Done = bool(done)
			if b != nil {
				if p.UpTo, err = unpackRow(b); err != nil {
					return fmt.Errorf("progress of %s: %w", n, err)
				}
			}
			out[n] = p
			return nil
		}, stream)
	})
	return out, wrap(err, "read the progress of stream %s", stream)
}

// packRow stores a row as a row stream of one row.
func packRow(r engine.Row) []byte {
	var b bytes.Buffer
	b.WriteByte(byte(min(len(r), 255)))
	w, err := newStreamWriter(&b, len(r))
	if err == nil {
		err = w.row(r)
	}
	if err == nil {
		err = w.end()
	}
	if err != nil {
		return nil // writing to memory does not fail
	}
	return b.Bytes()
}

func unpackRow(b []byte) (engine.Row, error) {
	if len(b) == 0 {
		return nil, errStream
	}
	r, err := newStreamReader(bytes.NewReader(b[1:]), int(b[0]))
	if err != nil {
		return nil, err
	}
	if more, err := r.next(); err != nil || !more {
		return nil, errors.Join(err, errStream)
	}
	out := make(engine.Row, r.columns)
	for i := range out {
		v, pieces, err := r.value()
		if err != nil || pieces {
			return nil, errors.Join(err, errStream)
		}
		out[i] = v
	}
	return out, nil
}

// Forget implements engine.Record.
func (t *target) Forget(ctx context.Context, stream string) error {
	err := t.with(ctx, func(s *session) error {
		for _, table := range []string{"watermark", "progress", "counter"} {
			there, err := s.has(ctx, "leeward."+table)
			if err != nil {
				return err
			}
			if !there {
				continue
			}
			if _, err := s.exec(ctx, sqlForget(table), stream); err != nil {
				return err
			}
		}
		return nil
	})
	t.mu.Lock()
	clear(t.counters)
	t.mu.Unlock()
	return wrap(err, "forget stream %s", stream)
}

// Execute implements engine.Target. Foreign keys are made without a look at the rows,
// which may be of no single state yet; the Standby that must follow holds them off, and
// Promote looks.
func (t *target) Execute(ctx context.Context, statement string) error {
	made := unchecked(statement)
	err := t.with(ctx, func(s *session) error {
		_, err := s.exec(ctx, made)
		return err
	})
	t.mu.Lock()
	t.foreign = nil
	if made != statement {
		if t.young == nil {
			t.young = map[string]bool{}
		}
		t.young[made] = true
	}
	t.mu.Unlock()
	return wrap(err, "execute")
}

// unchecked returns the foreign keys that Execute made so.
func (t *target) unchecked() map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.young)
}

// applyWait is how long, in ms, a second replicator waits for the first one's
// transaction before it is told to come again.
const applyWait = 5000

// Begin implements engine.Target.
func (t *target) Begin(ctx context.Context, from engine.State, tables []*engine.Table) (engine.Apply, error) {
	s, err := t.d.session(ctx)
	if err != nil {
		return nil, err
	}
	a := &apply{t: t, s: s, from: from, tables: tables, displaced: map[engine.Name][]engine.Row{}, counters: map[engine.Counter]string{}}
	if err := a.begin(ctx); err != nil {
		_ = s.end()
		return nil, wrap(err, "begin a transaction of stream %s", from.Stream)
	}
	return a, nil
}

func (a *apply) begin(ctx context.Context) error {
	if err := a.t.ensure(ctx, a.s); err != nil {
		return err
	}
	if a.t.d.marks {
		if _, err := a.s.exec(ctx, sqlMarkSession()); err != nil {
			return err
		}
	}
	if err := a.s.begin(ctx, committedLevel); err != nil {
		return err
	}
	if err := a.lock(ctx); err != nil {
		return err
	}
	now, err := a.s.state(ctx, sqlLockState(), a.from.Stream)
	if err != nil {
		return err
	}
	if now.Serial != a.from.Serial || now.Pos != a.from.Pos || now.Phase != a.from.Phase {
		return fmt.Errorf("stream %s: %w: it is at %q, serial %d, not at %q, serial %d", a.from.Stream, engine.ErrConflict, now.Pos, now.Serial, a.from.Pos, a.from.Serial)
	}
	if now.Phase == engine.Primary {
		return fmt.Errorf("stream %s: %w: it is a primary", a.from.Stream, engine.ErrConflict)
	}
	if now.Serial == 0 && now.Phase == engine.Absent {
		if err := a.add(ctx); err != nil {
			return err
		}
	}
	n, err := a.s.exec(ctx, sqlClaimState(), a.from.Stream, a.from.Serial)
	if err == nil && n != 1 {
		err = engine.ErrConflict
	}
	if err != nil {
		return err
	}
	a.keys, err = a.t.enforced(ctx, a.s)
	return err
}

// lock takes the application lock, where the server has them.
func (a *apply) lock(ctx context.Context) error {
	if !a.t.d.appLock {
		return nil
	}
	var r int64
	if err := a.s.QueryRowContext(ctx, sqlLockApply(), "leeward "+a.from.Stream, applyWait).Scan(&r); err != nil {
		return err
	}
	if r < 0 {
		return &engine.TemporaryError{Err: fmt.Errorf("another transaction of stream %s is open at the target", a.from.Stream)}
	}
	return nil
}

// add makes the stream's row; the one who comes second finds it there.
func (a *apply) add(ctx context.Context) error {
	_, err := a.s.exec(ctx, sqlAddState(), a.from.Stream)
	if uniqueViolation(err) {
		// Either it was there with serial 0, or another replicator was quicker: the
		// claim that follows tells.
		return nil
	}
	return err
}

// enforced returns the foreign keys that hold in this database now.
func (t *target) enforced(ctx context.Context, s *session) ([]*foreignKey, error) {
	t.mu.Lock()
	keys := t.foreign
	t.mu.Unlock()
	if keys != nil {
		return keys, nil
	}
	c := &catalog{byID: map[int64]*tableInfo{}}
	for _, read := range []func(context.Context, *session) error{c.readTables, c.readColumns, c.readForeignKeys} {
		if err := read(ctx, s); err != nil {
			return nil, err
		}
	}
	keys = []*foreignKey{}
	for _, f := range c.foreign {
		if !f.disabled {
			keys = append(keys, f)
		}
	}
	t.mu.Lock()
	t.foreign = keys
	t.mu.Unlock()
	return keys, nil
}

// timeText spells a time for CAST(… AS datetime2(7)).
func timeText(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(dateTimeForm)
}
