package postgres

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Physical keeps a standby of a whole cluster with PostgreSQL's own tools: exact,
// with everything in it, and of the same major version. Connection strings given to
// it stand in the arguments and files of those tools: a password belongs in a
// passfile that they name.
type Physical struct {
	Primary string // of a role that may replicate; a superuser for Rewind
	Slot    string // of the standby at its primary
	Bin     string // directory of the tools at the standby's machine
	Data    string // the standby's data directory
	Options string // of the postgres command, for starting it
	// Run runs a command at the standby's machine, as the owner of Data, and returns
	// what it printed.
	Run func(ctx context.Context, name string, args ...string) ([]byte, error)
}

// PhysicalState is how far a standby is.
type PhysicalState struct {
	Streaming  bool
	State      string        // as the primary calls it: streaming, catchup, backup
	Sent       engine.Pos    // by the primary
	Replayed   engine.Pos    // at the standby
	Behind     int64         // bytes of WAL written and not replayed
	ReplayLag  time.Duration // 0 where the primary is idle
	SlotStatus string        // reserved, extended, unreserved or lost
}

// at opens the catalogue of a server of the pair.
func (p *Physical) at(dsn string) (*pool, error) {
	s, err := parse(engine.Options{DSN: dsn})
	if err != nil {
		return nil, err
	}
	return newPool(s.session(nil)), nil
}

// query runs one statement at a server of the pair.
func (p *Physical) query(ctx context.Context, dsn, sql string, args ...string) ([][][]byte, error) {
	db, err := p.at(dsn)
	if err != nil {
		return nil, err
	}
	defer db.close()
	return db.query(ctx, sql, args...)
}

func (p *Physical) run(ctx context.Context, tool string, args ...string) error {
	out, err := p.Run(ctx, path.Join(p.Bin, tool), args...)
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", tool, err, tail(out))
	}
	return nil
}

// tail keeps the end of what a tool printed, where it says why it failed.
func tail(b []byte) string {
	s := strings.TrimSpace(string(b))
	if len(s) > 500 {
		s = "…" + s[len(s)-500:]
	}
	return s
}

// Check tells what prevents or weakens a physical standby.
func (p *Physical) Check(ctx context.Context) ([]engine.Finding, error) {
	rows, err := p.query(ctx, p.Primary, `SELECT current_setting('wal_level'), current_setting('wal_log_hints'), current_setting('data_checksums'),
		current_setting('full_page_writes'), (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
		current_setting('server_version_num')::int / 10000, current_user,
		(SELECT count(*) FROM pg_replication_slots) < current_setting('max_replication_slots')::int,
		(SELECT count(*) FROM pg_stat_replication) + 1 < current_setting('max_wal_senders')::int,
		COALESCE(current_setting('wal_keep_size', true), current_setting('wal_keep_segments', true)) IN ('0', '0MB') AND current_setting('archive_mode') = 'off'`)
	if err != nil {
		return nil, fmt.Errorf("check primary: %w", err)
	}
	var out []engine.Finding
	add := func(when bool, s engine.Severity, object, text, remedy string) {
		if when {
			out = append(out, engine.Finding{Severity: s, Object: object, Text: text, Remedy: remedy})
		}
	}
	v := rows[0]
	add(string(v[0]) == "minimal", engine.Blocker, "wal_level", "it is minimal", "ALTER SYSTEM SET wal_level = 'replica', then restart the server")
	add(string(v[1]) != "on" && string(v[2]) != "on", engine.Warning, "wal_log_hints", "neither it nor data checksums are on: pg_rewind cannot fail back, only a new base backup can",
		"ALTER SYSTEM SET wal_log_hints = on, then restart the server")
	add(string(v[3]) != "on", engine.Warning, "full_page_writes", "it is off: pg_rewind refuses to work, and a crash may tear pages", "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()")
	add(!truth(v[4]), engine.Blocker, "role "+string(v[6]), "it may not replicate", "ALTER ROLE "+ident(string(v[6]))+" REPLICATION")
	add(!truth(v[7]), engine.Blocker, "max_replication_slots", "no slot is free", "ALTER SYSTEM SET max_replication_slots = 20, then restart the server")
	add(!truth(v[8]), engine.Blocker, "max_wal_senders", "fewer than two WAL senders are free", "ALTER SYSTEM SET max_wal_senders = 20, then restart the server")
	add(truth(v[9]), engine.Warning, "wal_keep_size", "no WAL is kept beyond the last checkpoint: pg_rewind needs what lies between the last checkpoint both had and where they part",
		"ALTER SYSTEM SET wal_keep_size = '2GB'; SELECT pg_reload_conf()")
	tool, err := p.Run(ctx, path.Join(p.Bin, "postgres"), "--version")
	if err != nil {
		return out, fmt.Errorf("check standby: %w: %s", err, tail(tool))
	}
	add(!strings.Contains(string(tool), ") "+string(v[5])+"."), engine.Blocker, "version", "the standby has "+strings.TrimSpace(string(tool))+", the primary PostgreSQL "+string(v[5]),
		"install PostgreSQL "+string(v[5])+" at the standby")
	add(true, engine.Note, "collations", "a standby reads the primary's indexes with its own C library: where the two sort text differently they find too little", "keep the same release of libc and ICU at both")
	return out, nil
}

// Seed makes the standby's data directory from the primary, and its slot there. The
// directory must be empty or absent.
func (p *Physical) Seed(ctx context.Context) error {
	rows, err := p.query(ctx, p.Primary, "SELECT slot_type, active FROM pg_replication_slots WHERE slot_name = $1", p.Slot)
	if err != nil {
		return fmt.Errorf("seed standby: %w", err)
	}
	args := []string{"-d", p.Primary, "-D", p.Data, "-X", "stream", "-S", p.Slot, "-c", "fast", "-R", "--no-password"}
	switch {
	case len(rows) == 0:
		args = append(args, "-C")
	case string(rows[0][0]) != "physical":
		return fmt.Errorf("seed standby: slot %s is a logical one", p.Slot)
	case truth(rows[0][1]):
		return &engine.TemporaryError{Err: fmt.Errorf("seed standby: slot %s is in use", p.Slot)}
	}
	return p.run(ctx, "pg_basebackup", args...)
}

// Start starts the server in Data and waits until it answers.
func (p *Physical) Start(ctx context.Context) error {
	return p.run(ctx, "pg_ctl", "start", "-w", "-s", "-t", "600", "-D", p.Data, "-l", path.Join(p.Data, "leeward.log"), "-o", p.Options)
}

// Stop ends the server in Data after a checkpoint.
func (p *Physical) Stop(ctx context.Context) error {
	return p.run(ctx, "pg_ctl", "stop", "-w", "-s", "-m", "fast", "-t", "600", "-D", p.Data)
}

// State reads at the primary how far the standby is.
func (p *Physical) State(ctx context.Context) (PhysicalState, error) {
	rows, err := p.query(ctx, p.Primary, `SELECT COALESCE(r.state, ''), COALESCE(r.sent_lsn::text, ''), COALESCE(r.replay_lsn::text, ''),
		COALESCE(pg_current_wal_lsn() - COALESCE(r.replay_lsn, s.restart_lsn), -1)::int8, COALESCE(extract(epoch FROM r.replay_lag) * 1000000, 0)::int8,
		COALESCE(to_jsonb(s) ->> 'wal_status', '') FROM pg_replication_slots s LEFT JOIN pg_stat_replication r ON r.pid = s.active_pid WHERE s.slot_name = $1`, p.Slot)
	if err != nil {
		return PhysicalState{}, fmt.Errorf("read state of standby: %w", err)
	}
	if len(rows) == 0 {
		return PhysicalState{}, &engine.Expired{Cause: "the primary has no slot " + p.Slot}
	}
	v := rows[0]
	st := PhysicalState{State: string(v[0]), Streaming: string(v[0]) == "streaming", Sent: engine.Pos(v[1]), Replayed: engine.Pos(v[2]),
		Behind: count(v[3]), ReplayLag: time.Duration(count(v[4])) * time.Microsecond, SlotStatus: string(v[5])}
	if st.SlotStatus == "lost" {
		return st, &engine.Expired{Cause: "slot " + p.Slot + " was invalidated: it needed more WAL than max_slot_wal_keep_size allows"}
	}
	return st, nil
}

// Drain waits until the standby has replayed what the primary has now: after a
// fence, everything.
func (p *Physical) Drain(ctx context.Context) (engine.Pos, error) {
	rows, err := p.query(ctx, p.Primary, "SELECT pg_current_wal_insert_lsn()")
	if err != nil {
		return "", fmt.Errorf("drain to standby: %w", err)
	}
	until, err := parseLSN(string(rows[0][0]))
	if err != nil {
		return "", err
	}
	for {
		st, err := p.State(ctx)
		if err != nil {
			return "", err
		}
		if at, err := parseLSN(string(st.Replayed)); err == nil && at >= until {
			return engine.Pos(until.String()), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("drain to standby: it is at %s of %s: %w", st.Replayed, until, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// Promote makes the standby at dsn a primary, and a slot there for the old primary's
// return. It may be called again.
func (p *Physical) Promote(ctx context.Context, dsn string) ([]string, error) {
	db, err := p.at(dsn)
	if err != nil {
		return nil, err
	}
	defer db.close()
	rows, err := db.query(ctx, "SELECT pg_is_in_recovery(), COALESCE(pg_last_wal_replay_lsn()::text, ''), COALESCE(pg_last_xact_replay_timestamp()::text, 'unknown')")
	if err != nil {
		return nil, fmt.Errorf("promote standby: %w", err)
	}
	var evidence []string
	if truth(rows[0][0]) {
		evidence = append(evidence, fmt.Sprintf("replayed up to %s, the last transaction of %s", rows[0][1], rows[0][2]))
		done, err := db.query(ctx, "SELECT pg_promote(true, 300)")
		if err != nil {
			return evidence, fmt.Errorf("promote standby: %w", err)
		}
		if !truth(done[0][0]) {
			return evidence, &engine.TemporaryError{Err: errors.New("promote standby: it has not ended recovery within 300 s")}
		}
	}
	// A checkpoint on the new timeline: pg_rewind reads there where histories part.
	if err := db.exec(ctx, "CHECKPOINT"); err != nil {
		return evidence, fmt.Errorf("promote standby: %w", err)
	}
	rows, err = db.query(ctx, "SELECT timeline_id, pg_is_in_recovery() FROM pg_control_checkpoint()")
	if err != nil {
		return evidence, fmt.Errorf("promote standby: %w", err)
	}
	evidence = append(evidence, fmt.Sprintf("a primary on timeline %s", rows[0][0]))
	_, err = db.query(ctx, "SELECT pg_create_physical_replication_slot($1, true) WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1)", p.Slot)
	if err != nil {
		return evidence, fmt.Errorf("make slot %s at the new primary: %w", p.Slot, err)
	}
	return evidence, nil
}

// Rewind turns the cluster in Data, which was a primary, into a standby of Primary:
// what it wrote after the histories parted is taken back. It must have been stopped;
// one that crashed is started and stopped by pg_rewind itself. What only it had is
// lost: report it before. The server is started, and told its slot, at dsn.
func (p *Physical) Rewind(ctx context.Context, dsn string) error {
	err := p.run(ctx, "pg_rewind", "--target-pgdata", p.Data, "--source-server", p.Primary, "--write-recovery-conf")
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	db, err := p.at(dsn)
	if err != nil {
		return err
	}
	defer db.close()
	c, err := db.get(ctx)
	if err != nil {
		return err
	}
	defer db.give(c)
	for _, sql := range []string{"ALTER SYSTEM SET primary_slot_name = " + literal(p.Slot), "SELECT pg_reload_conf()"} {
		if err := c.exec(ctx, sql); err != nil {
			return fmt.Errorf("name slot %s to the standby: %w", p.Slot, err)
		}
	}
	return nil
}
