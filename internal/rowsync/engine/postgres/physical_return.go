package postgres

import (
	"context"
	"fmt"
	"path"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// CheckReturn implements engine.PhysicalReturn: the target is to be rewound some day.
func (p *standby) CheckReturn(ctx context.Context) (out []engine.Finding, err error) {
	block := func(when bool, object, text, remedy string) {
		if when {
			out = append(out, engine.Finding{Severity: engine.Blocker, Object: object, Text: text, Remedy: remedy})
		}
	}
	if p.o.Target.Run == nil || p.o.Target.Data == "" {
		block(true, "server", "it is not known where its data are, nor who runs it", "say it with server: {data: …, owner: postgres, host: …} for that end")
		return out, nil
	}
	rows, err := query(ctx, p.o.Target.Options, `SELECT current_setting('wal_log_hints') = 'on' OR current_setting('data_checksums') = 'on',
		current_setting('full_page_writes') = 'on', current_setting('data_directory'), (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)`)
	if err != nil {
		return nil, fmt.Errorf("check the way back: %w", err)
	}
	v := rows[0]
	block(!truth(v[0]), "wal_log_hints", "neither it nor data checksums are on: the server could not be rewound", "ALTER SYSTEM SET wal_log_hints = on, then restart the server")
	block(!truth(v[1]), "full_page_writes", "it is off: the server could not be rewound", "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()")
	block(truth(v[3]) && path.Clean(string(v[2])) != path.Clean(p.o.Target.Data), "server", fmt.Sprintf("its data are in %s, and the configuration says %s", v[2], p.o.Target.Data), "mend data: of server:, at that end")
	if _, err := p.tool(ctx, "pg_rewind", "--version"); err != nil {
		block(true, "pg_rewind", err.Error(), "install PostgreSQL's programs there, or name their directory in tools: of server:")
		return out, nil
	}
	// Whoever changed places must be reached from there. It takes no account to ask.
	host, port, err := p.sourceAddress()
	if err != nil {
		return out, err
	}
	if _, err := p.tool(ctx, "pg_isready", "-q", "-t", "10", "-h", host, "-p", port); err != nil {
		block(true, "address", fmt.Sprintf("the server at %s:%s does not answer from there", host, port), "open the way, or name the address it has from there with server: {address: HOST:PORT} for the other end")
	}
	return out, nil
}

// Fenced implements engine.PhysicalReturn.
func (p *standby) Fenced(ctx context.Context) (bool, error) {
	rows, err := query(ctx, p.o.Source.Options, "SELECT pg_is_in_recovery()")
	if err != nil {
		return false, fmt.Errorf("look for a fence: %w", err)
	}
	if truth(rows[0][0]) {
		return true, nil
	}
	names, err := databases(ctx, p.o.Source.Options)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		rows, err := query(ctx, within(p.o.Source.Options, n), `SELECT count(*) FILTER (WHERE c LIKE '`+fenceSetting+`=%'), count(*) FILTER (WHERE c = 'default_transaction_read_only=on')
			FROM pg_database d JOIN pg_db_role_setting r ON r.setdatabase = d.oid AND r.setrole = 0, unnest(r.setconfig) c WHERE d.datname = current_database()`)
		if err != nil {
			return false, fmt.Errorf("look for the fence of database %s: %w", n, err)
		}
		if count(rows[0][0]) == 0 || count(rows[0][1]) == 0 {
			return false, nil
		}
	}
	return true, nil
}
