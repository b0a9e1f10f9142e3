package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// fenceSetting is a setting of the database that holds who could connect before it
// was fenced. It needs no table at the source, and travels with nothing.
const fenceSetting = "leeward.fence"

// fenceState is what lifting a fence restores.
type fenceState struct {
	Connect  []string // roles that could connect; "" is PUBLIC
	ReadOnly string   // default_transaction_read_only of the database before, "" where it had none
}

// readFence returns what was stored when the database was fenced; nil where it is
// not.
func (s *source) readFence(ctx context.Context) (*fenceState, error) {
	rows, err := s.catalog.query(ctx, `SELECT substr(c, length($1) + 2) FROM pg_database d JOIN pg_db_role_setting r
		ON r.setdatabase = d.oid AND r.setrole = 0, unnest(r.setconfig) c
		WHERE d.datname = current_database() AND c LIKE $1 || '=%'`, fenceSetting)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	var f fenceState
	if err := json.Unmarshal(rows[0][0], &f); err != nil {
		return nil, fmt.Errorf("read setting %s: %w", fenceSetting, err)
	}
	return &f, nil
}

// Fence makes the database read-only for new sessions, takes away the right to
// connect from all but us, and ends the sessions there are. Superusers are beyond
// any of that: the evidence names those that can still come.
func (s *source) Fence(ctx context.Context, on bool, grace time.Duration) ([]string, error) {
	if on {
		return s.raise(ctx, grace)
	}
	return s.lift(ctx)
}

func (s *source) raise(ctx context.Context, grace time.Duration) ([]string, error) {
	db := ident(s.name)
	var evidence []string
	old, err := s.readFence(ctx)
	if err != nil {
		return nil, fmt.Errorf("fence database: %w", err)
	}
	if old == nil {
		if old, err = s.connectors(ctx); err != nil {
			return nil, fmt.Errorf("fence database: %w", err)
		}
		stored, err := json.Marshal(old)
		if err != nil {
			return nil, err
		}
		err = s.catalog.exec(ctx, "ALTER DATABASE "+db+" SET "+fenceSetting+" = "+literal(string(stored))+
			"; ALTER DATABASE "+db+" SET default_transaction_read_only = on")
		if err != nil {
			return nil, fmt.Errorf("fence database: %w: run it as the owner of %s or a superuser", err, s.name)
		}
	}
	evidence = append(evidence, "ALTER DATABASE "+db+" SET default_transaction_read_only = on")
	revoke := "GRANT CONNECT ON DATABASE " + db + " TO CURRENT_USER"
	for _, r := range old.Connect {
		if r != s.settings.config.User {
			revoke += "; REVOKE CONNECT ON DATABASE " + db + " FROM " + role(r)
			evidence = append(evidence, "REVOKE CONNECT ON DATABASE "+db+" FROM "+role(r))
		}
	}
	if err := s.catalog.exec(ctx, revoke); err != nil {
		return evidence, fmt.Errorf("fence database: %w", err)
	}
	ended, err := s.terminate(ctx, grace)
	evidence = append(evidence, ended...)
	if err != nil {
		return evidence, fmt.Errorf("fence database: %w", err)
	}
	rows, err := s.catalog.query(ctx, "SELECT pg_current_wal_flush_lsn(), (SELECT string_agg(rolname, ', ' ORDER BY rolname) FROM pg_roles WHERE rolsuper AND rolcanlogin)")
	if err != nil {
		return evidence, fmt.Errorf("fence database: %w", err)
	}
	return append(evidence, fmt.Sprintf("the source stands at %s", rows[0][0]),
		fmt.Sprintf("superusers could still connect and write: %s", rows[0][1])), nil
}

func role(name string) string {
	if name == "" {
		return "PUBLIC"
	}
	return ident(name)
}

// connectors reads who may connect now.
func (s *source) connectors(ctx context.Context) (*fenceState, error) {
	rows, err := s.catalog.query(ctx, `SELECT DISTINCT COALESCE(r.rolname, '') FROM pg_database d,
		aclexplode(COALESCE(d.datacl, acldefault('d', d.datdba))) a LEFT JOIN pg_roles r ON r.oid = a.grantee
		WHERE d.datname = current_database() AND a.privilege_type = 'CONNECT' ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	f := &fenceState{}
	for _, v := range rows {
		f.Connect = append(f.Connect, string(v[0]))
	}
	rows, err = s.catalog.query(ctx, `SELECT split_part(c, '=', 2) FROM pg_database d JOIN pg_db_role_setting r
		ON r.setdatabase = d.oid AND r.setrole = 0, unnest(r.setconfig) c
		WHERE d.datname = current_database() AND c LIKE 'default_transaction_read_only=%'`)
	if err == nil && len(rows) > 0 {
		f.ReadOnly = string(rows[0][0])
	}
	return f, err
}

// others are the sessions of this database that are not ours.
const others = `FROM pg_stat_activity WHERE datname = current_database() AND backend_type IN ('client backend', 'walsender')
	AND pid <> pg_backend_pid() AND NOT (usename = current_user AND application_name LIKE 'leeward %')`

// terminate waits for others' transactions to end, at most for grace, and then ends
// their sessions.
func (s *source) terminate(ctx context.Context, grace time.Duration) ([]string, error) {
	limit := time.After(grace)
	for waiting := true; waiting; {
		rows, err := s.catalog.query(ctx, "SELECT count(*) "+others+" AND xact_start IS NOT NULL AND backend_type = 'client backend'")
		if err != nil {
			return nil, err
		}
		if string(rows[0][0]) == "0" {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-limit:
			waiting = false
		case <-time.After(100 * time.Millisecond):
		}
	}
	var evidence []string
	for range 50 {
		rows, err := s.catalog.query(ctx, "SELECT pid, usename, application_name, COALESCE(state, ''), pg_terminate_backend(pid) "+others)
		if err != nil || len(rows) == 0 {
			return evidence, err
		}
		for _, v := range rows {
			e := fmt.Sprintf("ended session %s of %s (%s, %s)", v[0], v[1], v[2], v[3])
			if !slices.Contains(evidence, e) {
				evidence = append(evidence, e)
			}
		}
		select {
		case <-ctx.Done():
			return evidence, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	return evidence, &engine.TemporaryError{Err: fmt.Errorf("end sessions: some are still there: %s", strings.Join(evidence, "; "))}
}

func (s *source) lift(ctx context.Context) ([]string, error) {
	old, err := s.readFence(ctx)
	if err != nil {
		return nil, fmt.Errorf("lift fence: %w", err)
	}
	if old == nil {
		return []string{"the database was not fenced"}, nil
	}
	db := ident(s.name)
	steps := make([]string, 0, len(old.Connect)+3)
	for _, r := range old.Connect {
		steps = append(steps, "GRANT CONNECT ON DATABASE "+db+" TO "+role(r))
	}
	if !slices.Contains(old.Connect, s.settings.config.User) {
		steps = append(steps, "REVOKE CONNECT ON DATABASE "+db+" FROM CURRENT_USER")
	}
	read := "ALTER DATABASE " + db + " RESET default_transaction_read_only"
	if old.ReadOnly != "" {
		read = "ALTER DATABASE " + db + " SET default_transaction_read_only = " + literal(old.ReadOnly)
	}
	steps = append(steps, read, "ALTER DATABASE "+db+" RESET "+fenceSetting)
	if err := s.catalog.exec(ctx, strings.Join(steps, "; ")); err != nil {
		return nil, fmt.Errorf("lift fence: %w", err)
	}
	return steps, nil
}
