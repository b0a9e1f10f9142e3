package mssql

import (
	"context"
	"fmt"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// fenceStream stands for no stream in the names of fences.
const fenceStream = "fence"

// Fence implements engine.Source. The database is made read-only; where the server
// cannot do that, or the login may not, every table gets a trigger that refuses changes.
func (s *source) Fence(ctx context.Context, on bool, grace time.Duration) ([]string, error) {
	var evidence []string
	err := s.plain(ctx, func(ss *session) (err error) {
		if on {
			evidence, err = ss.fence(ctx, s.d.name, grace)
		} else {
			evidence, err = ss.unfence(ctx, s.d.name)
		}
		return err
	})
	// Making a database read-only, or no longer, ends the connections that others had,
	// and our own idle ones with them.
	s.d.dropIdle()
	if on {
		return evidence, wrap(err, "fence %s", s.d.name)
	}
	return evidence, wrap(err, "lift the fence of %s", s.d.name)
}

// saw is what evidence begins with.
func saw(format string, args ...any) string {
	return time.Now().UTC().Format(time.RFC3339) + " " + fmt.Sprintf(format, args...)
}

func (s *session) fence(ctx context.Context, database string, grace time.Duration) ([]string, error) {
	var evidence []string
	for _, o := range s.others(ctx) {
		evidence = append(evidence, saw("session %d of %s from %s (%s) was in the database", o.id, o.login, o.host, o.program))
	}
	_, refused := s.exec(ctx, sqlReadOnly(database, int(grace.Seconds())))
	if s.isReadOnly(ctx) {
		return append(evidence, saw("database %s is READ_ONLY; transactions open for longer than %s were rolled back", database, grace)), nil
	}
	if err := ctx.Err(); err != nil {
		return evidence, err
	}
	evidence = append(evidence, saw("the database could not be made read-only (%v); its tables are fenced by triggers instead", refused))
	n, err := s.fenceTables(ctx, grace)
	if err != nil {
		return evidence, err
	}
	return append(evidence, saw("%d tables refuse every change, of whichever login", n)), nil
}

// other is a session of somebody else.
type other struct {
	id                   int
	login, host, program string
}

// others lists them as far as the login may see them.
func (s *session) others(ctx context.Context) []other {
	var out []other
	_ = s.each(ctx, sqlOpenSessions(), func(scan func(...any) error) error {
		var o other
		var login, host, program text
		if err := scan(&o.id, &login, &host, &program); err != nil {
			return err
		}
		o.login, o.host, o.program = string(login), string(host), string(program)
		out = append(out, o)
		return nil
	})
	return out
}

// fenceTables makes the triggers. Making one waits for transactions that have changed
// the table; after the grace they are ended.
func (s *session) fenceTables(ctx context.Context, grace time.Duration) (int, error) {
	c := &catalog{byID: map[int64]*tableInfo{}}
	if err := c.readTables(ctx, s); err != nil {
		return 0, err
	}
	if _, err := s.exec(ctx, sqlLockTimeout(max(1, int(grace.Milliseconds())))); err != nil {
		return 0, err
	}
	for _, t := range c.tables {
		k := token(fenceStream, t.name)
		if _, err := s.exec(ctx, sqlDropFence(t.name, k)); err != nil {
			return 0, err
		}
		_, err := s.exec(ctx, sqlMakeFence(t.name, k))
		if err != nil && engine.Temporary(temporary(err)) {
			// Somebody holds the table beyond the grace.
			for _, o := range s.others(ctx) {
				_, _ = s.exec(ctx, sqlKill(o.id))
			}
			_, err = s.exec(ctx, sqlMakeFence(t.name, k))
		}
		if err != nil {
			return 0, fmt.Errorf("fence table %s: %w", t.name, err)
		}
	}
	_, err := s.exec(ctx, sqlLockTimeout(-1))
	return len(c.tables), err
}

func (s *session) unfence(ctx context.Context, database string) ([]string, error) {
	var evidence []string
	if s.isReadOnly(ctx) {
		if _, err := s.exec(ctx, sqlReadWrite(database)); err != nil {
			return nil, err
		}
		evidence = append(evidence, saw("database %s is READ_WRITE", database))
	}
	var drop []string
	err := s.each(ctx, sqlFences(), func(scan func(...any) error) error {
		var schema, table, name string
		if err := scan(&schema, &table, &name); err != nil {
			return err
		}
		drop = append(drop, sqlDropTrigger(schema, name))
		return nil
	})
	if err != nil {
		return evidence, err
	}
	for _, q := range drop {
		if _, err := s.exec(ctx, q); err != nil {
			return evidence, err
		}
	}
	return append(evidence, saw("%d tables are no longer fenced", len(drop))), nil
}
