package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checkPositions holds that marks grow with commits and compare.
func checkPositions(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		last := st.Pos
		for i := range 3 {
			if err := e.at(ctx, fmt.Sprintf("INSERT INTO pairs VALUES (%d,'a','b')", i)); err != nil {
				return err
			}
			next, err := e.src.Mark(ctx, stream)
			if err != nil {
				return fmt.Errorf("mark: %w", err)
			}
			for _, c := range []struct {
				a, b engine.Pos
				want bool
			}{{last, next, true}, {next, last, false}, {next, next, false}, {st.Pos, next, true}} {
				got, err := e.src.Before(c.a, c.b)
				if err != nil || got != c.want {
					return fmt.Errorf("Before(%s, %s) is %v, %v, want %v", c.a, c.b, got, err, c.want)
				}
			}
			last = next
		}
		if _, err := e.src.Before("no position", last); err == nil {
			return errors.New("a position that is none was compared")
		}
		a, err := e.src.Epoch(ctx)
		b, err2 := e.src.Epoch(ctx)
		if err != nil || err2 != nil || a == "" || a != b {
			return fmt.Errorf("the epoch is %q, %v and then %q, %v", a, err, b, err2)
		}
		return nil
	})
}

// checkHeartbeat waits at an idle source, releases while the stream is read, and
// ends it.
func checkHeartbeat(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		ts, err := e.tables(ctx, "pairs")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		beats := 0
		for p, err := range e.src.Changes(ctx, stream, ts, st.Pos) {
			if err != nil {
				if ctx.Err() != nil && beats > 1 {
					return nil
				}
				return fmt.Errorf("after %d heartbeats: %w", beats, err)
			}
			if p.Heartbeat == nil {
				continue
			}
			if beats++; beats == 1 {
				if err := e.src.Release(ctx, stream, p.Heartbeat.Pos); err != nil {
					return fmt.Errorf("release: %w", err)
				}
				continue
			}
			cancel()
		}
		if beats < 2 {
			return fmt.Errorf("the stream ended after %d heartbeats", beats)
		}
		return nil
	})
}

// checkStream is the plainest way of changes.
func checkStream(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs, createCompound}, func(e *env) error {
		st, err := e.start(ctx, "pairs", "compound")
		if err != nil {
			return err
		}
		if err := e.transaction(ctx, "INSERT INTO pairs VALUES (1,'a',NULL), (2,'','b'), (3,'c','d')",
			"INSERT INTO compound VALUES ('x', 1, 'one'), ('x', 2, 'two')"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "pairs", "compound"); err != nil {
			return err
		}
		if err := e.same(ctx, "pairs", "compound"); err != nil {
			return fmt.Errorf("after inserts: %w", err)
		}
		if err := e.transaction(ctx, "UPDATE pairs SET b = NULL WHERE id = 3", "UPDATE pairs SET a = NULL, b = '' WHERE id = 2",
			"DELETE FROM pairs WHERE id = 1", "DELETE FROM compound WHERE b = 1"); err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'again','it''s \\ \"q\"')"); err != nil {
			return err
		}
		if _, err := e.follow(ctx, st, "pairs", "compound"); err != nil {
			return err
		}
		return e.same(ctx, "pairs", "compound")
	})
}

// checkIdempotent applies all changes a second time over the result.
func checkIdempotent(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createEmails}, func(e *env) error {
		st, err := e.start(ctx, "emails")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO emails VALUES (1,'a'), (2,'b'), (3,'c')", "DELETE FROM emails WHERE id = 1",
			"UPDATE emails SET email = 'a' WHERE id = 2", "UPDATE emails SET id = 9 WHERE id = 3", "INSERT INTO emails VALUES (3,'b')"); err != nil {
			return err
		}
		fo, err := e.follower(ctx, st, "emails")
		if err != nil {
			return err
		}
		fo.keep = true
		if st, err = fo.catchUp(ctx, "emails"); err != nil {
			return err
		}
		if err := e.same(ctx, "emails"); err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "emails")
		if err != nil {
			return err
		}
		if _, err = e.commit(ctx, st, st, ts, func(a engine.Apply) error { return a.Changes(ctx, fo.seen) }); err != nil {
			return fmt.Errorf("a second time: %w", err)
		}
		if err := e.same(ctx, "emails"); err != nil {
			return fmt.Errorf("after a second time: %w", err)
		}
		return nil
	})
}

// checkSwaps swaps unique values within a transaction, and passes them round a ring.
func checkSwaps(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createEmails}, func(e *env) error {
		st, err := e.start(ctx, "emails")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO emails VALUES (1,'a'), (2,'b'), (3,'c'), (4,'d')"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "emails"); err != nil {
			return err
		}
		if err := e.transaction(ctx, "UPDATE emails SET email='tmp' WHERE id=1", "UPDATE emails SET email='a' WHERE id=2",
			"UPDATE emails SET email='b' WHERE id=1"); err != nil {
			return err
		}
		if err := e.transaction(ctx, "UPDATE emails SET email='t2' WHERE id=4", "UPDATE emails SET email='d' WHERE id=3",
			"UPDATE emails SET email='c' WHERE id=1", "UPDATE emails SET email='b' WHERE id=4",
			"DELETE FROM emails WHERE id=2", "INSERT INTO emails VALUES (7,'a')"); err != nil {
			return err
		}
		fo, err := e.follower(ctx, st, "emails")
		if err != nil {
			return err
		}
		if _, err := fo.catchUp(ctx, "emails"); err != nil {
			return err
		}
		return e.same(ctx, "emails")
	})
}

// checkKeyUpdates changes keys: onto freed ones, in one transaction and in several.
func checkKeyUpdates(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs, createCompound}, func(e *env) error {
		st, err := e.start(ctx, "pairs", "compound")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a','b'), (2,'c','d'), (3,'e','f')", "INSERT INTO compound VALUES ('x',1,'v'), ('y',2,'w')"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "pairs", "compound"); err != nil {
			return err
		}
		if err := e.transaction(ctx, "UPDATE pairs SET id = 10 WHERE id = 1", "UPDATE pairs SET id = 1 WHERE id = 2",
			"UPDATE pairs SET id = 2, a = 'was 3' WHERE id = 3", "UPDATE compound SET a = 'z' WHERE b = 1",
			"DELETE FROM pairs WHERE id = 10", "INSERT INTO pairs VALUES (10,'new','row')"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "pairs", "compound"); err != nil {
			return err
		}
		if err := e.same(ctx, "pairs", "compound"); err != nil {
			return err
		}
		if err := e.at(ctx, "UPDATE pairs SET id = 99 WHERE id = 10", "UPDATE compound SET a = 'Z' WHERE b = 1", "UPDATE pairs SET id = 10 WHERE id = 99"); err != nil {
			return err
		}
		if _, err = e.follow(ctx, st, "pairs", "compound"); err != nil {
			return err
		}
		return e.same(ctx, "pairs", "compound")
	})
}

// checkCascades deletes parents: some engines do not log what goes with them.
func checkCascades(ctx context.Context, f Factory) error {
	ddl := []string{
		"CREATE TABLE parents (id INT NOT NULL PRIMARY KEY, name VARCHAR(20))",
		"CREATE TABLE children (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, CONSTRAINT children_parent FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE)",
	}
	return f.with(ctx, ddl, func(e *env) error {
		st, err := e.start(ctx, "parents", "children")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO parents VALUES (1,'a'), (2,'b'), (3,'c')", "INSERT INTO children VALUES (10,1), (11,1), (12,2), (13,3)"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "parents", "children"); err != nil {
			return err
		}
		if err := e.transaction(ctx, "DELETE FROM parents WHERE id = 1", "INSERT INTO parents VALUES (4,'d')", "INSERT INTO children VALUES (14,4)",
			"UPDATE children SET parent = 4 WHERE id = 12", "DELETE FROM parents WHERE id = 2"); err != nil {
			return err
		}
		if _, err := e.follow(ctx, st, "parents", "children"); err != nil {
			return err
		}
		return e.same(ctx, "parents", "children")
	})
}

// checkRollbacks holds that what was rolled back, whole or to a savepoint, is absent.
func checkRollbacks(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		d := e.f.Dialect
		if err := e.at(ctx, d.Begin, "INSERT INTO pairs VALUES (1,'rolled','back')", "ROLLBACK",
			d.Begin, "INSERT INTO pairs VALUES (2,'stays','x')", d.Savepoint, "INSERT INTO pairs VALUES (3,'rolled','back')",
			"UPDATE pairs SET a = 'rolled' WHERE id = 2", d.RollbackTo, "INSERT INTO pairs VALUES (4,'stays','y')", "COMMIT"); err != nil {
			return err
		}
		if _, err := e.follow(ctx, st, "pairs"); err != nil {
			return err
		}
		got, err := rowsOf(ctx, e.witness, "SELECT id FROM pairs")
		if err != nil || len(got) != 2 {
			return fmt.Errorf("the target holds %q, %v", got, err)
		}
		return e.same(ctx, "pairs")
	})
}

// checkTruncate takes either the truncation in its place or a demand to compare anew.
func checkTruncate(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a','b'), (2,'c','d')"); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, "pairs"); err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (3,'a','b')", "TRUNCATE TABLE pairs", "INSERT INTO pairs VALUES (2,'x','y')"); err != nil {
			return err
		}
		_, err = e.follow(ctx, st, "pairs")
		var gone *engine.Expired
		if errors.As(err, &gone) {
			if len(gone.Tables) != 1 || !strings.EqualFold(gone.Tables[0].Name, "pairs") {
				return fmt.Errorf("a truncated table made %v expire", gone.Tables)
			}
			return nil
		}
		if err != nil {
			return err
		}
		return e.same(ctx, "pairs")
	})
}

// checkNoKey follows a table whose rows have no identity, or sees it refused.
func checkNoKey(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{"CREATE TABLE nokey (a INT, b VARCHAR(20))"}, func(e *env) error {
		src, _, err := e.table(ctx, "nokey")
		if err != nil {
			return err
		}
		if src.Key != nil {
			return fmt.Errorf("its key is said to be %v", src.Key)
		}
		if src.Refused != "" {
			return nil
		}
		if err := e.at(ctx, "INSERT INTO nokey VALUES (1,'a'), (1,'a'), (1,'a'), (2,NULL), (2,NULL), (NULL,'')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "nokey")
		if err != nil {
			return err
		}
		if st, err = e.copyTable(ctx, e.src, "nokey", st); err != nil {
			return err
		}
		if err := e.same(ctx, "nokey"); err != nil {
			return fmt.Errorf("after a copy: %w", err)
		}
		if err := e.at(ctx, "UPDATE nokey SET b = 'all' WHERE a = 1", "INSERT INTO nokey VALUES (1,'a'), (1,'all'), (3,NULL)",
			"DELETE FROM nokey WHERE a = 2", "INSERT INTO nokey VALUES (2,NULL)", "UPDATE nokey SET a = 4 WHERE a IS NULL"); err != nil {
			return err
		}
		if _, err := e.follow(ctx, st, "nokey"); err != nil {
			return err
		}
		return e.same(ctx, "nokey")
	})
}

// checkDDL adds a column midway: rows must never be applied under the wrong shape.
func checkDDL(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		ts, err := e.tables(ctx, "pairs")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a','b')", "ALTER TABLE pairs ADD c INT", "INSERT INTO pairs VALUES (2,'a','b',3)"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for p, err := range e.src.Changes(ctx, stream, ts, st.Pos) {
			if err != nil {
				var changed *engine.SchemaChanged
				if errors.As(err, &changed) && errors.Is(err, engine.ErrSchema) && changed.Remedy != "" {
					return nil
				}
				return fmt.Errorf("a changed definition gave %v, want SchemaChanged with a remedy", err)
			}
			if len(p.DDL) > 0 {
				if d := p.DDL[0]; d.Statement == "" && len(d.Tables) == 0 {
					return fmt.Errorf("DDL came without its statement and table: %+v", d)
				}
				return nil
			}
			for _, c := range p.Changes {
				if len(c.New) > 3 {
					return errors.New("a row of the new shape came before its DDL")
				}
			}
		}
		return errors.New("the stream ended without telling of the DDL")
	})
}
