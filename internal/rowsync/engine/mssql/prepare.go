package mssql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Prepare implements engine.Feed.
func (s *source) Prepare(ctx context.Context, stream string, tables []*engine.Table) (engine.Pos, bool, error) {
	for _, t := range tables {
		if t.Refused != "" {
			return "", false, fmt.Errorf("table %s cannot be replicated: %s", t.Name, t.Refused)
		}
	}
	var pos position
	fresh := false
	err := s.plain(ctx, func(ss *session) error {
		r, err := ss.record(ctx, stream)
		if err != nil {
			return err
		}
		// A stream whose clock stands at 0 was recorded and not made to the end.
		fresh = r == nil || r.tick == 0
		if r == nil {
			if r, err = s.newStream(ctx, ss, stream); err != nil {
				return err
			}
		}
		if err := s.allowSnapshot(ctx, ss, stream); err != nil {
			return err
		}
		if r.method == methodTracking {
			err = ss.prepareTracking(ctx, stream, tables)
		} else {
			err = ss.prepareTriggers(ctx, stream, tables, fresh)
		}
		if err != nil || !fresh {
			return err
		}
		pos, err = ss.start(ctx, stream, r.method)
		return err
	})
	if err != nil {
		return "", false, wrap(permissionHint(err), "prepare capture at %s", s.d.name)
	}
	if !fresh {
		return "", false, nil
	}
	return pos.pos(), true, nil
}

// start begins the history of a stream.
func (s *session) start(ctx context.Context, stream, method string) (position, error) {
	if method == methodTriggers {
		now := time.Now().UnixMilli()
		_, err := s.exec(ctx, sqlStartStream(), stream, now, now)
		return position{method: "tr", n: now}, err
	}
	v, _, err := s.version(ctx)
	if err == nil {
		_, err = s.exec(ctx, sqlStartStream(), stream, v+1, v)
	}
	return position{method: "ct", n: v}, err
}

// permissionHint names the grants where a statement was refused.
func permissionHint(err error) error {
	switch number(err) {
	case 229, 262, 297, 300, 1088, 2760, 3701, 4902, 5011, 15151, 15247:
		return fmt.Errorf("%w: grant what is missing: %s", err, strings.Join(sourceGrants("the login's user"), "; "))
	}
	return err
}

// newStream records a stream. The record comes last of what it stands for being begun,
// and first of what is made for tables, so that a Prepare that was cut goes on.
func (s *source) newStream(ctx context.Context, ss *session, stream string) (*record, error) {
	method, _, err := s.choose()
	if err != nil {
		return nil, err
	}
	if err := ss.ensure(ctx, map[string]string{
		"leeward.stream": sqlMakeStreams(), "leeward.capture": sqlMakeCaptures(), "leeward.made": sqlMakeMade(),
	}); err != nil {
		return nil, err
	}
	if _, err := ss.exec(ctx, sqlAddStream(), stream, method); err != nil {
		return nil, err
	}
	return ss.record(ctx, stream)
}

// ensure makes schema leeward and tables in it that are missing.
func (s *session) ensure(ctx context.Context, tables map[string]string) error {
	var id *int64
	if err := s.QueryRowContext(ctx, sqlHasSchema()).Scan(&id); err != nil {
		return err
	}
	if id == nil {
		if _, err := s.exec(ctx, sqlMakeSchema()); err != nil && !exists(err) {
			return err
		}
	}
	for name, create := range tables {
		there, err := s.has(ctx, name)
		if err != nil {
			return err
		}
		if there {
			continue
		}
		if _, err := s.exec(ctx, create); err != nil && !exists(err) {
			return err
		}
	}
	return nil
}

// exists reports whether an error says that what was to be made is there.
func exists(err error) bool { n := number(err); return n == 2714 || n == 2759 }

// snapshotWait is how long Prepare waits for snapshot isolation to come on.
const snapshotWait = 15 * time.Second

// allowSnapshot switches snapshot isolation on where it is off.
func (s *source) allowSnapshot(ctx context.Context, ss *session, stream string) error {
	state := ss.snapshotState(ctx)
	if state == snapshotIsOff {
		if _, err := ss.exec(ctx, sqlAddMade(), stream, "snapshot"); err != nil {
			return err
		}
		if err := s.switchSnapshot(ctx); err != nil {
			return err
		}
	}
	for until := time.Now().Add(snapshotWait); ; {
		state = ss.snapshotState(ctx)
		if state == snapshotIsOn {
			s.d.snapshotOn.Store(true)
			return nil
		}
		if state != snapshotComingOn || time.Now().After(until) {
			break
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
	if state == snapshotComingOn {
		return &engine.TemporaryError{Err: errors.New("snapshot isolation is on its way and waits for transactions that were open before: it comes on when the oldest of them ends")}
	}
	return fmt.Errorf("snapshot isolation of database %s is off, and without it a batch would not be one state of the database: run ALTER DATABASE %s SET ALLOW_SNAPSHOT_ISOLATION ON", s.d.name, id(s.d.name))
}

// switchSnapshot asks for it in a connection of its own: the statement waits for every
// open transaction, and when it is given up the change goes on by itself.
func (s *source) switchSnapshot(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	err := s.plain(wait, func(ss *session) error {
		_, err := ss.exec(wait, sqlAllowSnapshot())
		return err
	})
	if wait.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// prepareTracking switches change tracking on for tables that lack it, and off for
// those that this stream had and has no longer.
func (s *session) prepareTracking(ctx context.Context, stream string, tables []*engine.Table) error {
	var on int
	if err := s.QueryRowContext(ctx, sqlTracked()).Scan(&on); err != nil {
		return err
	}
	if on == 0 {
		if _, err := s.exec(ctx, sqlAddMade(), stream, "change tracking"); err != nil {
			return err
		}
		if _, err := s.exec(ctx, sqlTrackDatabase()); err != nil {
			return err
		}
	}
	tracked, err := s.minValid(ctx)
	if err != nil {
		return err
	}
	have, err := s.captures(ctx, stream)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if _, ok := tracked[t.Name]; ok {
			continue
		}
		fresh := !capturedBefore(have, t.Name)
		if fresh {
			if _, err := s.exec(ctx, sqlAddCapture(), stream, t.Name.Schema, t.Name.Name, token(stream, t.Name)); err != nil {
				return err
			}
		}
		if _, err := s.exec(ctx, sqlTrackTable(t.Name)); err != nil {
			return trackingError(t.Name, err)
		}
		if !fresh {
			continue // what was changed while it was off is lost, and Changes says so
		}
		v, _, err := s.version(ctx)
		if err != nil {
			return err
		}
		if _, err := s.exec(ctx, sqlSetRows(), stream, t.Name.Schema, t.Name.Name, v); err != nil {
			return err
		}
	}
	for _, m := range have {
		if !among(tables, m.table) {
			if err := s.untrack(ctx, stream, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func trackingError(n engine.Name, err error) error {
	if number(err) == 4997 {
		return fmt.Errorf("table %s has no primary key, which change tracking needs: add one, exclude the table, or set capture: triggers: %w", n, err)
	}
	return fmt.Errorf("track changes of %s: %w", n, err)
}

func capturedBefore(have []made, n engine.Name) bool {
	return slices.ContainsFunc(have, func(m made) bool { return m.table == n })
}

func among(tables []*engine.Table, n engine.Name) bool {
	return slices.ContainsFunc(tables, func(t *engine.Table) bool { return t.Name == n })
}

func (s *session) untrack(ctx context.Context, stream string, m made) error {
	if there, err := s.has(ctx, obj(m.table)); err != nil {
		return err
	} else if there {
		// 4998: it is off already.
		if _, err := s.exec(ctx, sqlUntrackTable(m.table)); err != nil && number(err) != 4998 {
			return fmt.Errorf("stop tracking %s: %w", m.table, err)
		}
	}
	_, err := s.exec(ctx, sqlDropCapture(), stream, m.table.Schema, m.table.Name)
	return err
}

// prepareTriggers makes logs and triggers for tables that lack them, and takes away
// those of tables that the stream has no longer.
func (s *session) prepareTriggers(ctx context.Context, stream string, tables []*engine.Table, fresh bool) error {
	have, err := s.captures(ctx, stream)
	if err != nil {
		return err
	}
	for _, t := range tables {
		if err := s.captureTable(ctx, stream, t, capturedBefore(have, t.Name), fresh); err != nil {
			return fmt.Errorf("capture %s: %w", t.Name, err)
		}
	}
	for _, m := range have {
		if !among(tables, m.table) {
			if err := s.dropCapture(ctx, stream, m); err != nil {
				return fmt.Errorf("stop capturing %s: %w", m.table, err)
			}
		}
	}
	return nil
}

// lockWait is how long, in ms, a definition waits for the table's users; they wait
// behind it meanwhile.
const lockWait = 5000

func (s *session) captureTable(ctx context.Context, stream string, t *engine.Table, recorded, fresh bool) error {
	key, err := keyOf(t)
	if err != nil {
		return err
	}
	k := token(stream, t.Name)
	var enabled int
	if err := s.QueryRowContext(ctx, sqlTriggerState(), obj(t.Name), ourPrefix+"c_"+k).Scan(&enabled); err != nil {
		return err
	}
	if recorded && enabled > 0 {
		return nil
	}
	if !recorded {
		if _, err := s.exec(ctx, sqlAddCapture(), stream, t.Name.Schema, t.Name.Name, k); err != nil {
			return err
		}
	}
	for _, q := range []string{sqlDropCaptureTrigger(t.Name, k), sqlDropLog(k), sqlDropSequence(k), sqlMakeSequence(k), sqlMakeLog(k, key, s.d.dialect)} {
		if _, err := s.exec(ctx, q); err != nil {
			return err
		}
	}
	// Without this an application's change of the table could fail in our trigger.
	if _, err := s.exec(ctx, sqlGrantLog(k)); err != nil {
		return err
	}
	// Some servers know no lock escalation, and no grants on sequences.
	for _, q := range []string{sqlKeepRowLocks(k), sqlGrantSequence(k)} {
		_, _ = s.exec(ctx, q)
	}
	if _, err := s.exec(ctx, sqlLockTimeout(lockWait)); err != nil {
		return err
	}
	_, err = s.exec(ctx, sqlMakeCaptureTrigger(t.Name, k, key, s.d.dialect))
	_, err2 := s.exec(ctx, sqlLockTimeout(-1))
	if err := errors.Join(err, err2); err != nil || !recorded || fresh {
		return err
	}
	// The trigger had been taken away: what was changed meanwhile is not known.
	now, err := s.tick(ctx, stream)
	if err != nil {
		return err
	}
	_, err = s.exec(ctx, sqlSetRows(), stream, t.Name.Schema, t.Name.Name, -now)
	return err
}

// tick moves the stream's clock on.
func (s *session) tick(ctx context.Context, stream string) (int64, error) {
	var n int64
	err := s.QueryRowContext(ctx, sqlTick(), stream).Scan(&n)
	return n, err
}

func (s *session) dropCapture(ctx context.Context, stream string, m made) error {
	for _, q := range []string{sqlDropCaptureTrigger(m.table, m.token), sqlDropLog(m.token), sqlDropSequence(m.token)} {
		if _, err := s.exec(ctx, q); err != nil {
			return err
		}
	}
	_, err := s.exec(ctx, sqlDropCapture(), stream, m.table.Schema, m.table.Name)
	return err
}

// Remove implements engine.Feed.
func (s *source) Remove(ctx context.Context, stream string) error {
	s.mu.Lock()
	delete(s.streams, stream)
	s.mu.Unlock()
	err := s.plain(ctx, func(ss *session) error {
		there, err := ss.has(ctx, "leeward.stream")
		if err != nil || !there {
			return err
		}
		r, err := ss.record(ctx, stream)
		if err != nil {
			return err
		}
		have, err := ss.captures(ctx, stream)
		if err != nil {
			return err
		}
		for _, m := range have {
			if r != nil && r.method == methodTracking {
				err = ss.untrack(ctx, stream, m)
			} else {
				err = ss.dropCapture(ctx, stream, m)
			}
			if err != nil {
				return err
			}
		}
		if err := ss.switchOff(ctx, stream); err != nil {
			return err
		}
		if _, err = ss.exec(ctx, sqlDropStream(), stream); err != nil {
			return err
		}
		return ss.dropOwn(ctx)
	})
	return wrap(err, "remove stream %s from %s", stream, s.d.name)
}

// dropOwn takes the records themselves away when no stream is left.
func (s *session) dropOwn(ctx context.Context) error {
	var left int
	if err := s.QueryRowContext(ctx, sqlStreams()).Scan(&left); err != nil || left > 0 {
		return err
	}
	for _, table := range []string{"capture", "made", "stream"} {
		if _, err := s.exec(ctx, sqlDropOwn(table)); err != nil {
			return err
		}
	}
	// A database that stands by, too, has more in it.
	_, _ = s.exec(ctx, sqlDropSchema())
	return nil
}

// switchOff switches off what the stream switched on. Change tracking stays where other
// tables still use it, and snapshot isolation where a transaction does.
func (s *session) switchOff(ctx context.Context, stream string) error {
	var on []string
	err := s.each(ctx, sqlMade(), func(scan func(...any) error) error {
		var w string
		err := scan(&w)
		on = append(on, w)
		return err
	}, stream)
	if err != nil {
		return err
	}
	for _, w := range on {
		q := sqlUntrackDatabase()
		if w == "snapshot" {
			q = sqlDisallowSnapshot()
		}
		wait, cancel := context.WithTimeout(ctx, snapshotWait)
		_, _ = s.exec(wait, q)
		cancel()
	}
	_, err = s.exec(ctx, sqlDropMade(), stream)
	return err
}
