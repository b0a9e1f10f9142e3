package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// databases lists those of a server that users have.
func databases(ctx context.Context, o engine.Options) ([]string, error) {
	rows, err := query(ctx, o, "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")
	if err != nil {
		return nil, fmt.Errorf("list databases: %w", err)
	}
	var out []string
	for _, v := range rows {
		out = append(out, string(v[0]))
	}
	return out, nil
}

// Databases implements engine.Physical.
func (p *standby) Databases(ctx context.Context) ([]engine.PhysicalDatabase, error) {
	names, err := databases(ctx, p.o.Source.Options)
	var out []engine.PhysicalDatabase
	for _, n := range names {
		out = append(out, engine.PhysicalDatabase{Name: n, Source: within(p.o.Source.Options, n), Target: within(p.o.Target.Options, n)})
	}
	return out, err
}

// Fence implements engine.PhysicalRole: a cluster is fenced database by database.
func (p *standby) Fence(ctx context.Context, on bool, grace time.Duration) ([]string, error) {
	return fenceAll(ctx, p.o.Source.Options, on, grace)
}

func fenceAll(ctx context.Context, o engine.Options, on bool, grace time.Duration) (evidence []string, err error) {
	names, err := databases(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		s, err := Driver{}.Source(ctx, within(o, n))
		if err != nil {
			return evidence, err
		}
		said, err := s.Fence(ctx, on, grace)
		for _, e := range said {
			evidence = append(evidence, n+": "+e)
		}
		if err := errors.Join(err, s.Close()); err != nil {
			return evidence, fmt.Errorf("database %s: %w", n, err)
		}
	}
	return evidence, nil
}

// Mark implements engine.PhysicalRole. What nobody waits for, the server writes out, and
// sends, within 15 s; a commit behind the position makes it do so at once.
func (p *standby) Mark(ctx context.Context) (engine.Pos, error) {
	rows, err := query(ctx, p.o.Source.Options, `SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn() END,
		(SELECT setting FROM pg_settings WHERE name = 'wal_segment_size')`)
	if err != nil {
		return "", fmt.Errorf("read where the source stands: %w", err)
	}
	if truth(rows[0][0]) {
		return "", errors.New("read where the source stands: it is a standby itself; name its primary")
	}
	at, err := parseLSN(string(rows[0][1]))
	if err != nil {
		return "", err
	}
	if _, err := query(ctx, p.o.Source.Options, "SELECT pg_logical_emit_message(true, 'leeward', 'mark')"); err != nil {
		return "", fmt.Errorf("have the source write out its log: %w", err)
	}
	return engine.Pos(recordEnd(at, lsn(count(rows[0][2]))).String()), nil
}

const (
	walPage    = 8192
	pageHead   = 24 // of a page of WAL
	headOfFile = 40 // of the first page of a segment
)

// recordEnd is the end of the last record, where the next begins behind the head of a
// page: a standby that has all of it is told to be before that head.
func recordEnd(at, segment lsn) lsn {
	switch {
	case segment > 0 && at%segment == headOfFile:
		return at - headOfFile
	case at%walPage == pageHead:
		return at - pageHead
	}
	return at
}

// Reached implements engine.PhysicalRole.
func (p *standby) Reached(ctx context.Context, mark engine.Pos) (bool, engine.Pos, error) {
	want, err := parseLSN(string(mark))
	if err != nil {
		return false, "", err
	}
	rows, err := query(ctx, p.o.Target.Options, "SELECT pg_is_in_recovery(), COALESCE(pg_last_wal_replay_lsn()::text, '')")
	if err != nil {
		return false, "", fmt.Errorf("read where the target stands: %w", err)
	}
	if !truth(rows[0][0]) {
		return false, "", &engine.LeaderError{Why: "it is not in recovery"}
	}
	at, err := parseLSN(string(rows[0][1]))
	if err != nil {
		return false, "", nil // nothing was replayed yet
	}
	return at >= want, engine.Pos(at.String()), nil
}

// Promote implements engine.PhysicalRole, and makes a slot for the old primary's
// return.
func (p *standby) Promote(ctx context.Context) ([]string, error) {
	st, err := p.State(ctx)
	if err != nil {
		return nil, err
	}
	var evidence []string
	switch st.Phase {
	case engine.Nothing:
		return nil, errors.New("promote the standby: there is none")
	case engine.Down:
		if err := p.start(ctx, st); err != nil {
			return nil, fmt.Errorf("promote the standby: %w", err)
		}
		evidence = append(evidence, "the server was down and has been started")
	}
	said, err := p.raise(ctx)
	evidence = append(evidence, said...)
	if err != nil {
		return evidence, fmt.Errorf("promote the standby: %w", err)
	}
	lifted, err := fenceAll(ctx, p.o.Target.Options, false, 0)
	for _, e := range lifted {
		if !strings.HasSuffix(e, "the database was not fenced") {
			evidence = append(evidence, e)
		}
	}
	if err != nil {
		return evidence, fmt.Errorf("lift the fence that came over with the data: %w", err)
	}
	return evidence, nil
}

// raise ends recovery.
func (p *standby) raise(ctx context.Context) (evidence []string, err error) {
	s, err := parse(p.o.Target.Options)
	if err != nil {
		return nil, err
	}
	db := newPool(s.session(nil))
	defer db.close()
	rows, err := db.query(ctx, "SELECT pg_is_in_recovery(), COALESCE(pg_last_wal_receive_lsn()::text, '0/0')")
	if err != nil {
		return nil, err
	}
	if truth(rows[0][0]) {
		done, err := db.query(ctx, "SELECT pg_promote(true, 300)")
		if err != nil {
			return evidence, err
		}
		if !truth(done[0][0]) {
			return evidence, &engine.TemporaryError{Err: errors.New("it has not ended recovery within 300 s")}
		}
		at, err := db.query(ctx, "SELECT pg_current_wal_insert_lsn()")
		if err != nil {
			return evidence, err
		}
		evidence = append(evidence, fmt.Sprintf("received up to %s, and all of that replayed; it goes on from %s", rows[0][1], at[0][0]))
	}
	// A checkpoint on the new timeline: pg_rewind reads there where histories part.
	if err := db.exec(ctx, "CHECKPOINT"); err != nil {
		return evidence, err
	}
	rows, err = db.query(ctx, "SELECT timeline_id, pg_is_in_recovery() FROM pg_control_checkpoint()")
	if err != nil {
		return evidence, err
	}
	evidence = append(evidence, fmt.Sprintf("a primary on timeline %s", rows[0][0]))
	_, err = db.query(ctx, "SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1)", p.slot)
	if err != nil {
		return evidence, fmt.Errorf("make slot %s for the old primary's return: %w", p.slot, err)
	}
	return append(evidence, "slot "+p.slot+" keeps what the old primary needs to return"), nil
}

// Size implements engine.PhysicalRole.
func (p *standby) Size(ctx context.Context) (int64, error) {
	rows, err := query(ctx, p.o.Source.Options, "SELECT sum(pg_database_size(oid))::int8 FROM pg_database")
	if err != nil {
		return 0, fmt.Errorf("read the size of the source: %w", err)
	}
	return count(rows[0][0]), nil
}
