package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Check implements engine.Physical.
func (p *standby) Check(ctx context.Context) ([]engine.Finding, error) {
	rows, err := query(ctx, p.o.Source.Options, `SELECT current_setting('wal_level'), current_setting('wal_log_hints'), current_setting('data_checksums'),
		current_setting('full_page_writes'), (SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user),
		current_setting('server_version_num')::int / 10000, current_user,
		EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1) OR (SELECT count(*) FROM pg_replication_slots) < current_setting('max_replication_slots')::int,
		EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND active) OR (SELECT count(*) FROM pg_stat_replication) + 1 < current_setting('max_wal_senders')::int,
		COALESCE(current_setting('wal_keep_size', true), current_setting('wal_keep_segments', true)) IN ('0', '0MB') AND current_setting('archive_mode') = 'off',
		pg_is_in_recovery(), (SELECT count(*) FROM pg_tablespace WHERE spcname !~ '^pg_'), (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
		COALESCE(current_setting('max_slot_wal_keep_size', true), '-1') = '-1', (SELECT COALESCE(sum(checksum_failures), 0)::int8 FROM pg_stat_database)`, p.slot)
	if err != nil {
		return nil, fmt.Errorf("check the source: %w", err)
	}
	var out []engine.Finding
	add := func(when bool, s engine.Severity, object, text, remedy string) {
		if when {
			out = append(out, engine.Finding{Severity: s, Object: object, Text: text, Remedy: remedy})
		}
	}
	v := rows[0]
	me := string(v[6])
	add(truth(v[10]), engine.Blocker, "server", "the source is a standby itself", "name its primary")
	add(string(v[0]) == "minimal", engine.Blocker, "wal_level", "it is minimal", "ALTER SYSTEM SET wal_level = 'replica', then restart the server")
	add(string(v[1]) != "on" && string(v[2]) != "on", engine.Warning, "wal_log_hints", "neither it nor data checksums are on: pg_rewind cannot fail back, only a new base backup can",
		"ALTER SYSTEM SET wal_log_hints = on, then restart the server")
	add(string(v[3]) != "on", engine.Warning, "full_page_writes", "it is off: pg_rewind refuses to work, and a crash may tear pages", "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()")
	add(!truth(v[4]), engine.Blocker, "role "+me, "it may not replicate", "ALTER ROLE "+ident(me)+" REPLICATION")
	add(!truth(v[7]), engine.Blocker, "max_replication_slots", "no slot is free", "ALTER SYSTEM SET max_replication_slots = 20, then restart the server")
	add(!truth(v[8]), engine.Blocker, "max_wal_senders", "fewer than two WAL senders are free", "ALTER SYSTEM SET max_wal_senders = 20, then restart the server")
	add(truth(v[9]), engine.Warning, "wal_keep_size", "no WAL is kept beyond the last checkpoint: pg_rewind needs what lies between the last checkpoint both had and where they part",
		"ALTER SYSTEM SET wal_keep_size = '2GB'; SELECT pg_reload_conf()")
	add(string(v[11]) != "0", engine.Blocker, "tablespaces", "a base backup would put "+string(v[11])+" tablespaces where they are at the source", "replicate the rows instead: leave mode: out")
	add(!truth(v[12]), engine.Warning, engine.FenceObject, "role "+me+" is no superuser: fencing all databases, promoting, rewinding and pointing a standby elsewhere take one", "ALTER ROLE "+ident(me)+" SUPERUSER")
	add(string(v[2]) != "on", engine.Note, engine.PageChecksums, "they are off: damage on the source's disk would come over unseen", "pg_checksums --enable, while the server is stopped")
	add(string(v[14]) != "0", engine.Warning, engine.PageChecksums, string(v[14])+" pages failed theirs at the source", "find them by pg_amcheck, and restore what they held")
	add(truth(v[13]), engine.Warning, "max_slot_wal_keep_size", "it is unlimited: while the target is down, WAL is kept until the source's disk is full",
		"ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf()")
	if err := p.login(ctx); err != nil {
		add(truth(v[4]), engine.Blocker, "pg_hba.conf", "the source takes no replication connection of "+me+": "+err.Error(), "a line there: host replication "+ident(me)+" ADDRESS scram-sha-256")
	}
	add(true, engine.Note, "collations", "a standby reads the primary's indexes with its own C library: where the two sort text differently they find too little", "keep the same release of libc and ICU at both")
	here, err := p.checkTarget(ctx, string(v[5]))
	return append(out, here...), err
}

// login opens and closes a replication connection, as the standby will.
func (p *standby) login(ctx context.Context) error {
	s, err := parse(p.o.Source.Options)
	if err != nil {
		return err
	}
	c := s.config.Copy()
	c.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return connectError(c, err)
	}
	return conn.Close(ctx)
}

// checkTarget looks at the machine of the standby.
func (p *standby) checkTarget(ctx context.Context, version string) ([]engine.Finding, error) {
	if p.o.Target.Run == nil || p.o.Target.Data == "" {
		return []engine.Finding{{Severity: engine.Blocker, Object: "target", Text: "it is not known where its data are to be, nor who runs the server",
			Remedy: "say it with server: {data: …, owner: postgres} for the target"}}, nil
	}
	said, err := p.tool(ctx, "postgres", "--version")
	if err != nil {
		return []engine.Finding{{Severity: engine.Blocker, Object: "target", Text: err.Error(),
			Remedy: "install PostgreSQL " + version + " at the target, or name the directory of its programs with server: tools:"}}, nil
	}
	if !strings.Contains(said, ") "+version+".") {
		return []engine.Finding{{Severity: engine.Blocker, Object: "version", Text: "the target has " + strings.TrimSpace(said) + ", the source PostgreSQL " + version,
			Remedy: "install PostgreSQL " + version + " at the target, and name it with server: tools:"}}, nil
	}
	st, err := p.State(ctx)
	if err != nil {
		return []engine.Finding{{Severity: engine.Blocker, Object: "target", Text: err.Error()}}, nil
	}
	if st.Phase != engine.Replica && st.Phase != engine.Leader {
		return nil, nil
	}
	if _, _, err := p.lines(ctx); err != nil {
		return []engine.Finding{{Severity: engine.Blocker, Object: "target", Text: err.Error()}}, nil
	}
	rows, err := query(ctx, p.o.Target.Options, "SELECT COALESCE(sum(checksum_failures), 0)::int8 FROM pg_stat_database")
	if err != nil {
		return nil, fmt.Errorf("check the target: %w", err)
	}
	if n := string(rows[0][0]); n != "0" {
		return []engine.Finding{{Severity: engine.Warning, Object: engine.PageChecksums, Text: n + " pages failed theirs at the target", Remedy: "empty its data directory to have it seeded anew"}}, nil
	}
	return nil, nil
}
