package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// row makes a key or a row as the driver has it, of ints, strings and nil.
func (d Dialect) row(vs ...any) engine.Row {
	r := make(engine.Row, len(vs))
	for i, v := range vs {
		switch v := v.(type) {
		case int:
			r[i] = []byte(strconv.Itoa(v))
			if d.Int != nil {
				r[i] = d.Int(v)
			}
		case string:
			r[i] = []byte(v)
			if d.Text != nil {
				r[i] = d.Text(v)
			}
		}
	}
	return r
}

// read is a row as a Session reads it, as text.
func read(vs ...any) string { return text(Dialect{}.row(vs...)) }

// checkExport sends rows by key, one of them gone, and by everything.
func checkExport(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a',NULL), (2,'','b'), (3,'c','d'), (4,'e','f')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		if st, err = e.copyTable(ctx, e.src, "pairs", st); err != nil {
			return err
		}
		if err := e.same(ctx, "pairs"); err != nil {
			return fmt.Errorf("after a copy: %w", err)
		}
		if err := e.at(ctx, "UPDATE pairs SET a='new' WHERE id=1", "DELETE FROM pairs WHERE id=2", "UPDATE pairs SET a='left alone' WHERE id=4"); err != nil {
			return err
		}
		src, dst, err := e.table(ctx, "pairs")
		if err != nil {
			return err
		}
		var stats engine.Stats
		d := f.Dialect
		keys := []engine.Row{d.row(1), d.row(2), d.row(3)}
		_, err = e.commit(ctx, st, st, []*engine.Table{dst}, func(a engine.Apply) (err error) {
			stats, err = pump(ctx, e.src, a, src, dst, engine.Selection{Keys: keys}, false)
			return err
		})
		if err != nil {
			return err
		}
		if stats.Deleted != 1 || stats.Inserted != 0 {
			return fmt.Errorf("importing a changed, a gone and an equal row came to %+v", stats)
		}
		got, err := rowsOf(ctx, e.witness, "SELECT * FROM pairs")
		if err != nil {
			return err
		}
		want := []string{read(1, "new", nil), read(3, "c", "d"), read(4, "e", "f")}
		if d := firstDifference(want, got); d != "" {
			return fmt.Errorf("want (as source) and got (as target): %s", d)
		}
		return nil
	})
}

// checkImportRange makes a range equal and leaves the rest alone.
func checkImportRange(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createCompound}, func(e *env) error {
		if err := fillCompound(ctx, e.app, 0, 600); err != nil {
			return err
		}
		if err := fillCompound(ctx, e.witness, 300, 900); err != nil {
			return err
		}
		if err := execAll(ctx, e.witness, "UPDATE compound SET v='stale' WHERE b > 0"); err != nil {
			return err
		}
		st, err := e.start(ctx, "compound")
		if err != nil {
			return err
		}
		src, dst, err := e.table(ctx, "compound")
		if err != nil {
			return err
		}
		ranges, err := buckets(ctx, e.dst, dst, 100, 100)
		if err != nil {
			return err
		}
		for i, r := range ranges {
			st, err = e.commit(ctx, st, st, []*engine.Table{dst}, func(a engine.Apply) error {
				_, err := pump(ctx, e.src, a, src, dst, engine.Selection{Range: r}, false)
				return err
			})
			if err != nil {
				return fmt.Errorf("range %d: %w", i, err)
			}
			if err := sameUpTo(ctx, e, src, dst, ranges[:i+1], ranges[i+1:]); err != nil {
				return fmt.Errorf("after range %d: %w", i, err)
			}
		}
		return e.same(ctx, "compound")
	})
}

// sameUpTo holds that the first ranges are equal, and that the others, which differ
// in every case, still do.
func sameUpTo(ctx context.Context, e *env, src, dst *engine.Table, done, rest []engine.Range) error {
	for i, r := range slices.Concat(done, rest) {
		a, err := keyHashes(ctx, e.src, src, r)
		if err != nil {
			return err
		}
		b, err := keyHashes(ctx, e.dst, dst, r)
		if err != nil {
			return err
		}
		if equal := reflect.DeepEqual(a, b); equal != (i < len(done)) {
			return fmt.Errorf("range %d: equal is %v", i, equal)
		}
	}
	return nil
}

// checkRows reads rows by key.
func checkRows(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a',NULL), (2,'','b'), (3,'c','d')"); err != nil {
			return err
		}
		src, _, err := e.table(ctx, "pairs")
		if err != nil {
			return err
		}
		var got []string
		d := f.Dialect
		for r, err := range e.src.Rows(ctx, src, []engine.Row{d.row(2), d.row(9), d.row(1)}) {
			if err != nil {
				return fmt.Errorf("read rows: %w", err)
			}
			got = append(got, text(r))
		}
		want := []string{text(d.row(1, "a", nil)), text(d.row(2, "", "b"))}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// checkWatermark holds that of two appliers one stops.
func checkWatermark(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		first, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "pairs")
		if err != nil {
			return err
		}
		to := first
		to.Phase, to.Until, to.Epoch, to.Fingerprint = engine.Seeding, "some/where", "epoch", "print"
		to.SourceTime = time.Date(2024, 2, 29, 12, 0, 0, 123456000, time.UTC)
		second, err := e.commit(ctx, first, to, ts, nil)
		if err != nil {
			return err
		}
		if second.Serial <= first.Serial {
			return fmt.Errorf("the serial went from %d to %d", first.Serial, second.Serial)
		}
		read, err := e.dst.State(ctx, stream)
		if err != nil {
			return err
		}
		if !read.SourceTime.Equal(to.SourceTime) {
			return fmt.Errorf("the source's time is %v, was written as %v", read.SourceTime, to.SourceTime)
		}
		read.SourceTime, second.SourceTime = time.Time{}, time.Time{}
		if read != second {
			return fmt.Errorf("read %+v, want %+v", read, second)
		}
		if a, err := e.dst.Begin(ctx, first, ts); !errors.Is(err, engine.ErrConflict) {
			if err == nil {
				err = a.Rollback()
			}
			return fmt.Errorf("begin with the state of before gave %v, want ErrConflict", err)
		}
		other, err := e.dst.State(ctx, "other")
		if err != nil || other.Phase != engine.Absent {
			return fmt.Errorf("a stream that never was is %+v, %v", other, err)
		}
		read, err = e.dst.State(ctx, stream)
		if err != nil {
			return err
		}
		return secondApplier(ctx, e, read, ts)
	})
}

// secondApplier begins while another transaction holds the stream's row.
func secondApplier(ctx context.Context, e *env, st engine.State, ts []*engine.Table) error {
	a, err := e.dst.Begin(ctx, st, ts)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	rival, err := e.f.Driver.Target(ctx, e.scratch.Target.Options)
	if err != nil {
		return errors.Join(err, a.Rollback())
	}
	got := make(chan error, 1)
	go func() {
		b, err := rival.Begin(ctx, st, ts)
		if err == nil {
			err = errors.Join(errors.New("it began"), b.Rollback())
		}
		got <- err
	}()
	time.Sleep(300 * time.Millisecond)
	_, err = a.Commit(ctx, st)
	rivalErr := <-got
	if err := errors.Join(err, rival.Close()); err != nil {
		return err
	}
	// It may have waited and lost, or have been told to come again.
	if !errors.Is(rivalErr, engine.ErrConflict) && !engine.Temporary(rivalErr) {
		return fmt.Errorf("a second applier, begun while the first one worked: %v, want ErrConflict", rivalErr)
	}
	return nil
}

func checkApplyRollback(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		if err := execAll(ctx, e.witness, "INSERT INTO pairs VALUES (1,'a','b')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "pairs")
		if err != nil {
			return err
		}
		a, err := e.dst.Begin(ctx, st, ts)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		err = a.Changes(ctx, []engine.Change{
			{Table: ts[0].Name, New: f.Dialect.row(2, "c", "d")}, {Table: ts[0].Name, Old: f.Dialect.row(1)},
		})
		if err := errors.Join(err, a.Rollback()); err != nil {
			return err
		}
		got, err := rowsOf(ctx, e.witness, "SELECT * FROM pairs")
		if err != nil || !slices.Equal(got, []string{read(1, "a", "b")}) {
			return fmt.Errorf("after a rollback the table holds %q, %v", got, err)
		}
		now, err := e.dst.State(ctx, stream)
		if err != nil || now.Serial != st.Serial {
			return fmt.Errorf("after a rollback the serial is %d, %v, was %d", now.Serial, err, st.Serial)
		}
		_, err = e.commit(ctx, st, st, ts, nil)
		return err
	})
}

func checkProgress(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs, createCompound}, func(e *env) error {
		if _, err := e.start(ctx, "pairs", "compound"); err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "pairs", "compound")
		if err != nil {
			return err
		}
		want := map[engine.Name]engine.Progress{
			ts[0].Name: {Done: true},
			ts[1].Name: {UpTo: engine.Row{[]byte("ü\x00'\xff"), []byte("")}},
		}
		for range 2 {
			for n, p := range want {
				if err := e.dst.SetProgress(ctx, stream, n, p); err != nil {
					return fmt.Errorf("set progress: %w", err)
				}
			}
		}
		got, err := e.dst.Progress(ctx, stream)
		if err != nil {
			return fmt.Errorf("read progress: %w", err)
		}
		for n, p := range want {
			if g := got[n]; g.Done != p.Done || !slices.EqualFunc(g.UpTo, p.UpTo, bytes.Equal) {
				return fmt.Errorf("progress of %s is %+v, was stored as %+v", n, g, p)
			}
		}
		if err := e.dst.Forget(ctx, stream); err != nil {
			return fmt.Errorf("forget: %w", err)
		}
		got, err = e.dst.Progress(ctx, stream)
		st, err2 := e.dst.State(ctx, stream)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if len(got) != 0 || st.Phase != engine.Absent {
			return fmt.Errorf("after Forget there are %v and %+v", got, st)
		}
		return nil
	})
}

const createEmails = "CREATE TABLE emails (id INT NOT NULL PRIMARY KEY, email VARCHAR(50) NOT NULL, CONSTRAINT emails_email UNIQUE (email))"

// checkDisplaced lets a change claim a unique value that a stale row holds.
func checkDisplaced(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createEmails}, func(e *env) error {
		if err := execAll(ctx, e.witness, "INSERT INTO emails VALUES (5,'x'), (6,'y'), (7,'z')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "emails")
		if err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "emails")
		if err != nil {
			return err
		}
		var displaced []engine.Row
		d := f.Dialect
		_, err = e.commit(ctx, st, st, ts, func(a engine.Apply) error {
			err := a.Changes(ctx, []engine.Change{
				{Table: ts[0].Name, New: d.row(1, "x")},                // 5 must make room
				{Table: ts[0].Name, Old: d.row(7), New: d.row(7, "y")}, // so must 6
			})
			displaced = a.Displaced()[ts[0].Name]
			return err
		})
		if err != nil {
			return err
		}
		got, err := rowsOf(ctx, e.witness, "SELECT * FROM emails")
		if want := []string{read(1, "x"), read(7, "y")}; err != nil || !slices.Equal(got, want) {
			return fmt.Errorf("the table holds %q, %v, want %q", got, err, want)
		}
		return wantDisplaced(displaced, d.row(5), d.row(6))
	})
}

func wantDisplaced(got []engine.Row, want ...engine.Row) error {
	var keys []string
	for _, k := range got {
		keys = append(keys, text(k))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	var wanted []string
	for _, k := range want {
		wanted = append(wanted, text(k))
	}
	slices.Sort(wanted)
	if !slices.Equal(keys, wanted) {
		return fmt.Errorf("displaced are %q, want %q", keys, wanted)
	}
	return nil
}

// checkDisplacedByImport is the usual fate of a dump restored over a stale clone.
func checkDisplacedByImport(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createEmails}, func(e *env) error {
		if err := e.at(ctx, "INSERT INTO emails VALUES (1,'x'), (2,'y'), (3,'w')"); err != nil {
			return err
		}
		if err := execAll(ctx, e.witness, "INSERT INTO emails VALUES (1,'y'), (2,'x'), (5,'w')"); err != nil {
			return err
		}
		st, err := e.start(ctx, "emails")
		if err != nil {
			return err
		}
		src, dst, err := e.table(ctx, "emails")
		if err != nil {
			return err
		}
		var displaced []engine.Row
		d := f.Dialect
		keys := []engine.Row{d.row(1), d.row(2), d.row(3)}
		_, err = e.commit(ctx, st, st, []*engine.Table{dst}, func(a engine.Apply) error {
			_, err := pump(ctx, e.src, a, src, dst, engine.Selection{Keys: keys}, false)
			displaced = a.Displaced()[dst.Name]
			return err
		})
		if err != nil {
			return err
		}
		displaced = slices.DeleteFunc(displaced, func(k engine.Row) bool { return text(k) != text(d.row(5)) })
		if err := wantDisplaced(displaced, d.row(5)); err != nil {
			return err
		}
		return e.same(ctx, "emails")
	})
}

// checkForeign wants a stranger's write named where the engine can tell.
func checkForeign(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs}, func(e *env) error {
		st, err := e.start(ctx, "pairs")
		if err != nil {
			return err
		}
		if err := e.at(ctx, "INSERT INTO pairs VALUES (1,'a','b')"); err != nil {
			return err
		}
		if _, err = e.follow(ctx, st, "pairs"); err != nil {
			return err
		}
		ts, err := e.tablesAt(ctx, "pairs")
		if err != nil {
			return err
		}
		fs, err := e.dst.Foreign(ctx, stream, ts)
		if err != nil {
			return fmt.Errorf("look for writes of others: %w", err)
		}
		if len(fs) != 0 {
			return fmt.Errorf("our own writes are reported as those of others: %+v", fs)
		}
		if err := execAll(ctx, e.witness, "INSERT INTO pairs VALUES (2,'a','b')"); err != nil {
			return unsupported("applications cannot write to a standby: %v", err)
		}
		fs, err = e.dst.Foreign(ctx, stream, ts)
		if err != nil {
			return fmt.Errorf("look for writes of others: %w", err)
		}
		if len(fs) == 0 {
			return unsupported("this engine cannot tell who wrote")
		}
		return nil
	})
}
