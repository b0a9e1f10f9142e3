package mssql

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// logs pulls from the logs of capture triggers. Numbers of log rows are given out
// before commits are, so the highest one seen is no position: a lower one may still
// come. What is read is told apart by its very numbers, and exactly these are deleted
// when the target has them. The position is the stream's clock instead: a snapshot
// that shows a time shows every commit before it.
type logs struct {
	s       *source
	stream  string
	tables  []*engine.Table
	made    []made // of each table
	after   position
	d       *drained
	seen    int             // d.releases when the snapshot of this pull was opened
	counted []time.Time     // when each table was counted last
	cost    []time.Duration // how long that took
}

// run is log rows from a to b, all of them.
type run struct{ a, b int64 }

// batch is what one pull read of one table's log.
type batch struct {
	runs []run
	rows int64
	grew int64
}

// drained is what was read and is not deleted yet: by the tick of the pull, and then
// by the token of the table.
type drained struct {
	ticks    []int64
	read     map[int64]map[string]*batch
	releases int // how often rows were deleted
}

// rows is how many rows of a log were read and are not deleted.
func (d *drained) rows(token string) (n int64) {
	for _, b := range d.read {
		if x := b[token]; x != nil {
			n += x.rows
		}
	}
	return n
}

func (d *drained) runs(token string) (out []run) {
	for _, b := range d.read {
		if x := b[token]; x != nil {
			out = append(out, x.runs...)
		}
	}
	return out
}

func (d *drained) add(tick int64, token string, b *batch) {
	if d.read[tick] == nil {
		d.read[tick] = map[string]*batch{}
		d.ticks = append(d.ticks, tick)
	}
	d.read[tick][token] = b
}

// appendRun adds a number to runs; numbers come in order.
func appendRun(runs []run, n int64) []run {
	if last := len(runs) - 1; last >= 0 && runs[last].b == n-1 {
		runs[last].b = n
		return runs
	}
	return append(runs, run{n, n})
}

func (s *source) logs(ctx context.Context, stream string, tables []*engine.Table, after position, r *record) (*logs, error) {
	if r.tick < after.n {
		return nil, &engine.Expired{Cause: fmt.Sprintf("the source's clock stands at %d, before %d, which the target has: it was restored to an earlier time", r.tick, after.n)}
	}
	if after.n < r.version {
		return nil, madeAnew(r.version, after.n)
	}
	p := &logs{s: s, stream: stream, tables: tables, after: after, counted: make([]time.Time, len(tables)), cost: make([]time.Duration, len(tables))}
	err := s.plain(ctx, func(ss *session) error {
		have, err := ss.captures(ctx, stream)
		if err != nil {
			return err
		}
		return p.attach(ctx, ss, have)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	// A reader that starts again reads everything again that is not released: what it
	// was given before may never have arrived.
	p.d = &drained{read: map[int64]map[string]*batch{}}
	s.streams[stream] = p.d
	return p, err
}

// attach finds the log of each table, and holds that its trigger is there.
func (p *logs) attach(ctx context.Context, ss *session, have []made) error {
	gone := &engine.Expired{}
	for _, t := range p.tables {
		i := slices.IndexFunc(have, func(m made) bool { return m.table == t.Name })
		enabled := 0
		if i >= 0 {
			if err := ss.QueryRowContext(ctx, sqlTriggerState(), obj(t.Name), ourPrefix+"c_"+have[i].token).Scan(&enabled); err != nil {
				return err
			}
		}
		if enabled == 0 || have[i].rows != nil && *have[i].rows < 0 && p.after.n < -*have[i].rows {
			gone.Tables = append(gone.Tables, t.Name)
			gone.Cause = "the trigger that captures " + t.Name.String() + " is missing or disabled, or was: what was changed meanwhile is not known. Prepare makes it anew"
			continue
		}
		p.made = append(p.made, have[i])
	}
	if len(gone.Tables) > 0 {
		return gone
	}
	return nil
}

// poll compares the size of the logs with what was read of them. It reads a snapshot
// that is opened while no rows are being released, so that both speak of one moment.
func (p *logs) poll(ctx context.Context) (more bool, at position, now time.Time, err error) {
	err = p.s.plain(ctx, func(ss *session) error {
		p.s.mu.Lock()
		defer p.s.mu.Unlock()
		if err := ss.begin(ctx, snapshotLevel); err != nil {
			return err
		}
		if at, now, err = p.clock(ctx, ss); err != nil {
			return err
		}
		more, err = p.unread(ctx, ss)
		if err != nil {
			return err
		}
		return ss.commit(ctx)
	})
	if err == nil && !more {
		more = p.countDue()
	}
	return more, at, now, err
}

// clock reads the stream's clock, which makes the snapshot where it is the first read.
func (p *logs) clock(ctx context.Context, ss *session) (position, time.Time, error) {
	at := position{method: "tr"}
	var now time.Time
	if err := ss.QueryRowContext(ctx, sqlReadTick(), p.stream).Scan(&at.n, &now); err != nil {
		return at, now, err
	}
	at.last = ss.isReadOnly(ctx)
	return at, now, nil
}

func (p *logs) unread(ctx context.Context, ss *session) (bool, error) {
	for group := range slices.Chunk(p.made, atOnce) {
		tokens := make([]string, len(group))
		for i, m := range group {
			tokens[i] = m.token
		}
		found := false
		err := ss.each(ctx, sqlLogSize(tokens), func(scan func(...any) error) error {
			var i int
			var n int64
			if err := scan(&i, &n); err != nil {
				return err
			}
			found = found || i >= 0 && i < len(group) && n != p.d.rows(group[i].token)
			return nil
		})
		if err != nil || found {
			return found, err
		}
	}
	return false, nil
}

func (p *logs) pull(ctx context.Context, out *sender) (engine.Commit, position, error) {
	var end engine.Commit
	var at position
	err := p.s.plain(ctx, func(ss *session) error {
		// Each pull has a time of its own, so that Release can tell them apart.
		if !ss.isReadOnly(ctx) {
			if _, err := ss.tick(ctx, p.stream); err != nil {
				return err
			}
		}
		p.s.mu.Lock()
		err := ss.begin(ctx, snapshotLevel)
		var now time.Time
		if err == nil {
			at, now, err = p.clock(ctx, ss)
		}
		done := make([][]run, len(p.made))
		for i, m := range p.made {
			done[i] = p.d.runs(m.token)
		}
		p.seen = p.d.releases
		p.s.mu.Unlock()
		if err != nil {
			return err
		}
		end = engine.Commit{Pos: at.pos(), Time: now}
		if err := ss.sameShape(ctx, p.tables); err != nil {
			return err
		}
		for i := range p.tables {
			if err := p.pullTable(ctx, ss, i, done[i], at.n, out); err != nil {
				return err
			}
		}
		if end.Counters, err = ss.counters(ctx); err != nil {
			return err
		}
		return ss.commit(ctx)
	})
	if err == nil {
		p.after = at
	}
	return end, at, err
}

func (p *logs) pullTable(ctx context.Context, ss *session, i int, done []run, tick int64, out *sender) error {
	t, m := p.tables[i], p.made[i]
	err := ss.stage(ctx, doneTable, sqlStageDone(), []string{"a", "b"}, func(add func(...any) error) error {
		for _, r := range done {
			if err := add(r.a, r.b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b := &batch{}
	err = ss.each(ctx, sqlLogRows(m.token), func(scan func(...any) error) error {
		var seq, grew int64
		if err := scan(&seq, &grew); err != nil {
			return err
		}
		b.runs, b.rows, b.grew = appendRun(b.runs, seq), b.rows+1, b.grew+grew
		return nil
	})
	if err != nil {
		return err
	}
	if err := p.count(ctx, ss, i, b.rows > 0); err != nil || b.rows == 0 {
		return err
	}
	key, cols, err := columnsOf(t)
	if err != nil {
		return err
	}
	err = ss.each(ctx, sqlLoggedChanges(t, m.token, key, cols, ss.d.dialect), func(scan func(...any) error) error {
		c, err := change(t, key, cols, scan)
		if err != nil {
			return err
		}
		return out.add(c)
	})
	if err != nil {
		return err
	}
	p.s.mu.Lock()
	p.d.add(tick, m.token, b)
	p.s.mu.Unlock()
	return nil
}

// Tables are counted again when countShare times as long has passed as it took, and
// at most every countIdle where they have no changes.
const (
	countShare = 50
	countIdle  = time.Minute
)

func (p *logs) due(i int, changed bool) bool {
	wait := p.cost[i] * countShare
	if !changed {
		wait = max(wait, countIdle)
	}
	return time.Since(p.counted[i]) >= wait
}

func (p *logs) countDue() bool {
	for i := range p.tables {
		if p.due(i, false) {
			return true
		}
	}
	return false
}

// count compares how many rows a table has with what its log makes of the last count.
// Rows that went or came without a trigger (TRUNCATE, bulk copy, a partition switched)
// show in it.
func (p *logs) count(ctx context.Context, ss *session, i int, changed bool) error {
	if !p.due(i, changed) {
		return nil
	}
	t, m := p.tables[i], &p.made[i]
	begun := time.Now()
	var rows, grew int64
	if err := ss.QueryRowContext(ctx, sqlCountRows(t.Name, m.token)).Scan(&rows, &grew); err != nil {
		return err
	}
	p.counted[i], p.cost[i] = time.Now(), time.Since(begun)
	base, err := p.base(ctx, ss, m)
	if err != nil {
		return err
	}
	now := rows - grew
	switch {
	case base == nil || *base < 0:
		return p.firstCount(ctx, t.Name, i, now)
	case *base != now:
		return p.missed(ctx, t, now, *base)
	}
	return nil
}

// firstCount records a count. It is of no use where log rows that it reckons with were
// deleted since the snapshot; then the next one will do.
func (p *logs) firstCount(ctx context.Context, n engine.Name, i int, rows int64) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if p.d.releases != p.seen {
		p.counted[i] = time.Time{}
		return nil
	}
	return p.setRows(ctx, n, rows)
}

// base reads the last count, in the transaction that counts.
func (p *logs) base(ctx context.Context, ss *session, m *made) (*int64, error) {
	have, err := ss.captures(ctx, p.stream)
	if err != nil {
		return nil, err
	}
	for _, h := range have {
		if h.table == m.table {
			return h.rows, nil
		}
	}
	return nil, nil
}

// missed says that changes were made past the triggers. The count is kept anew: what
// was missed is mended by comparing the table.
func (p *logs) missed(ctx context.Context, t *engine.Table, now, base int64) error {
	if err := p.setRows(ctx, t.Name, nil); err != nil {
		return err
	}
	return &engine.Expired{Tables: []engine.Name{t.Name}, Cause: fmt.Sprintf(
		"%s has %d rows more than its triggers have told of: it was truncated, loaded in bulk, or had its triggers disabled", t.Name, now-base)}
}

// setRows writes outside of the snapshot, and not where the database is fenced. nil
// means that nothing is known.
func (p *logs) setRows(ctx context.Context, n engine.Name, rows any) error {
	return p.s.plain(ctx, func(ss *session) error {
		if ss.isReadOnly(ctx) {
			return nil
		}
		_, err := ss.exec(ctx, sqlSetRows(), p.stream, n.Schema, n.Name, rows)
		return err
	})
}

// Release implements engine.Feed: it deletes exactly the log rows that were read for
// positions up to this one.
func (s *source) Release(ctx context.Context, stream string, upTo engine.Pos) error {
	p, err := parsePos(upTo)
	if err != nil {
		return err
	}
	if p.method != "tr" {
		return nil // change tracking keeps what it was told to keep
	}
	err = s.plain(ctx, func(ss *session) error {
		if ss.isReadOnly(ctx) {
			return nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		d := s.streams[stream]
		if d == nil {
			return nil
		}
		have, err := ss.captures(ctx, stream)
		if err != nil {
			return err
		}
		return ss.release(ctx, stream, d, p.n, have)
	})
	return wrap(err, "release what was read up to %s", upTo)
}

func (s *session) release(ctx context.Context, stream string, d *drained, upTo int64, have []made) error {
	for len(d.ticks) > 0 && d.ticks[0] <= upTo {
		tick := d.ticks[0]
		if err := s.begin(ctx, committedLevel); err != nil {
			return err
		}
		for _, m := range have {
			b := d.read[tick][m.token]
			if b == nil {
				continue
			}
			for _, r := range b.runs {
				if _, err := s.exec(ctx, sqlDeleteLog(m.token), r.a, r.b); err != nil {
					return err
				}
			}
			if m.rows == nil || *m.rows >= 0 {
				if _, err := s.exec(ctx, sqlAddRows(), stream, m.table.Schema, m.table.Name, b.grew); err != nil {
					return err
				}
			}
		}
		if err := s.commit(ctx); err != nil {
			return err
		}
		delete(d.read, tick)
		d.ticks = d.ticks[1:]
		d.releases++
	}
	return nil
}
