package enginetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// checkPromote holds that a promoted target numbers on and enforces what it did.
func checkPromote(ctx context.Context, f Factory) error {
	ddl := []string{
		"CREATE TABLE numbered (id " + f.Dialect.Identity + " NOT NULL PRIMARY KEY, v VARCHAR(20))",
		"CREATE TABLE refers (id INT NOT NULL PRIMARY KEY, numbered INT NOT NULL, CONSTRAINT refers_numbered FOREIGN KEY (numbered) REFERENCES numbered (id))",
	}
	return f.with(ctx, ddl, func(e *env) error {
		if err := e.at(ctx, "INSERT INTO numbered (v) VALUES ('a'), ('b'), ('c')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "numbered", "refers")
		if err != nil {
			return err
		}
		if st, err = e.copyTable(ctx, e.src, "numbered", st); err != nil {
			return err
		}
		// Numbers were given out and are gone: the counter alone knows of them.
		if err := e.at(ctx, "INSERT INTO numbered (v) VALUES ('d'), ('e'), ('f')", "DELETE FROM numbered WHERE v IN ('e', 'f')",
			"INSERT INTO refers VALUES (1, 2)"); err != nil {
			return err
		}
		fo, err := e.follower(ctx, st, "numbered", "refers")
		if err != nil {
			return err
		}
		if _, err = fo.catchUp(ctx, "numbered", "refers"); err != nil {
			return err
		}
		if len(fo.counters) == 0 {
			return errors.New("the source has no counters")
		}
		ts, err := e.tablesAt(ctx, "numbered", "refers")
		if err != nil {
			return err
		}
		// The second time stands for one that was cut behind its last step.
		for range 2 {
			evidence, err := e.dst.Promote(ctx, stream, ts)
			if err != nil {
				return fmt.Errorf("promote: %w", err)
			}
			if len(evidence) == 0 {
				return errors.New("promotion gave no evidence")
			}
		}
		return e.checkPrimary(ctx)
	})
}

func (e *env) checkPrimary(ctx context.Context) error {
	st, err := e.dst.State(ctx, stream)
	if err != nil {
		return err
	}
	if st.Phase != engine.Primary {
		return fmt.Errorf("after promotion the phase is %q", st.Phase)
	}
	if err := execAll(ctx, e.witness, "INSERT INTO numbered (v) VALUES ('new primary')"); err != nil {
		return err
	}
	rows, err := e.witness.Query(ctx, "SELECT MAX(id) FROM numbered")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(string(rows[0][0]))
	if err != nil || n <= 6 {
		return fmt.Errorf("the new primary gave out %s, %v, though the old one had reached 6", rows[0][0], err)
	}
	if err := e.witness.Exec(ctx, "INSERT INTO refers VALUES (2, 999999)"); err == nil {
		return errors.New("the new primary took a row that refers to none")
	}
	return nil
}

// checkFence holds that nobody else can write behind a fence, nor is kept out after.
func checkFence(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'before','x')"); err != nil {
			return err
		}
		evidence, err := e.src.Fence(ctx, true, 2*time.Second)
		if err != nil {
			return errors.Join(fmt.Errorf("fence: %w", err), e.unfence(ctx))
		}
		check := func() error {
			if len(evidence) == 0 {
				return errors.New("the fence gave no evidence")
			}
			if err := e.app.Exec(ctx, "INSERT INTO pairs VALUES (2,'behind','x')"); err == nil {
				return errors.New("a session of before wrote behind the fence")
			}
			s, err := e.scratch.Source.Connect(ctx)
			if err == nil {
				err = s.Exec(ctx, "INSERT INTO pairs VALUES (3,'behind','x')")
				if err == nil {
					return errors.Join(errors.New("a new session wrote behind the fence"), s.Close())
				}
				s.Close()
			}
			// What was committed before can still be read.
			_, err = e.follow(ctx, st, "pairs")
			return err
		}
		if err := errors.Join(check(), e.unfence(ctx)); err != nil {
			return err
		}
		e.app.Close()
		if e.app, err = e.scratch.Source.Connect(ctx); err != nil {
			return fmt.Errorf("connect after the fence: %w", err)
		}
		if err := e.same(ctx, "pairs"); err != nil {
			return err
		}
		return e.at(ctx, "INSERT INTO pairs VALUES (4,'after','x')")
	})
}

func (e *env) unfence(ctx context.Context) error {
	if _, err := e.src.Fence(ctx, false, 0); err != nil {
		return fmt.Errorf("lift the fence: %w", err)
	}
	return nil
}

// checkRemove holds that Prepare makes once, Remove takes all away, and both may be
// called again.
func checkRemove(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		if _, err := e.start(ctx, "pairs"); err != nil {
			return err
		}
		ts, err := e.tables(ctx, "pairs")
		if err != nil {
			return err
		}
		pos, fresh, err := e.src.Prepare(ctx, stream, ts)
		if err != nil || fresh || pos != "" {
			return fmt.Errorf("a second Prepare gave %q, fresh %v, %v", pos, fresh, err)
		}
		for range 2 {
			if err := e.src.Remove(ctx, stream); err != nil {
				return fmt.Errorf("remove: %w", err)
			}
		}
		if _, fresh, err = e.src.Prepare(ctx, stream, ts); err != nil || !fresh {
			return fmt.Errorf("to prepare after Remove: fresh %v, %v", fresh, err)
		}
		return nil
	})
}

// checkExpired loses history behind the stream's back.
func checkExpired(ctx context.Context, f Factory) error {
	if f.Expire == nil {
		return unsupported("the factory cannot make history expire")
	}
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'lost','x')"); err != nil {
			return err
		}
		if err := f.Expire(ctx, e.scratch); err != nil {
			return fmt.Errorf("make history expire: %w", err)
		}
		ts, err := e.tables(ctx, "pairs")
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		for p, err := range e.src.Changes(ctx, stream, ts, st.Pos) {
			var gone *engine.Expired
			if errors.As(err, &gone) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("lost history gave %w, want Expired", err)
			}
			if p.Heartbeat != nil || p.End != nil {
				return errors.New("the stream went on as if nothing were lost")
			}
		}
		return errors.New("the stream ended without telling that history was lost")
	})
}
