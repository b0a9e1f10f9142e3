package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const (
	stream    = "lwtest"
	caseLimit = 3 * time.Minute
)

// env is one case's databases, opened.
type env struct {
	f       Factory
	scratch Scratch
	src     engine.Source
	dst     engine.Target
	app     Session // at the source
	witness Session // at the target
}

// with runs a check in a scratch pair whose both ends have the DDL.
func (f Factory) with(ctx context.Context, ddl []string, check func(*env) error) (err error) {
	s, err := f.Scratch(ctx)
	if err != nil {
		return fmt.Errorf("make scratch databases: %w", err)
	}
	if s.Close != nil {
		defer func() { err = errors.Join(err, s.Close()) }()
	}
	e := &env{f: f, scratch: s}
	defer func() { err = errors.Join(err, e.close()) }()
	if e.app, err = s.Source.Connect(ctx); err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	if e.witness, err = s.Target.Connect(ctx); err != nil {
		return fmt.Errorf("connect to the target: %w", err)
	}
	if err := e.both(ctx, ddl...); err != nil {
		return err
	}
	if err := e.open(ctx); err != nil {
		return err
	}
	return check(e)
}

func (e *env) open(ctx context.Context) (err error) {
	if e.src, err = e.f.Driver.Source(ctx, e.scratch.Source.Options); err != nil {
		return fmt.Errorf("open the source: %w", err)
	}
	if e.dst, err = e.f.Driver.Target(ctx, e.scratch.Target.Options); err != nil {
		return fmt.Errorf("open the target: %w", err)
	}
	return nil
}

// closeEnds closes what open opened.
func (e *env) closeEnds() error {
	var errs []error
	if e.src != nil {
		errs = append(errs, e.src.Close())
	}
	if e.dst != nil {
		errs = append(errs, e.dst.Close())
	}
	e.src, e.dst = nil, nil
	return errors.Join(errs...)
}

// close leaves nothing of the stream at the source: a slot there would outlive the
// case and keep its database from being dropped.
func (e *env) close() error {
	var errs []error
	if e.src != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := e.src.Remove(ctx, stream); err != nil {
			errs = append(errs, fmt.Errorf("remove the stream: %w", err))
		}
	}
	errs = append(errs, e.closeEnds())
	for _, s := range []Session{e.app, e.witness} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// at runs statements at the source.
func (e *env) at(ctx context.Context, statements ...string) error {
	return execAll(ctx, e.app, statements...)
}

func execAll(ctx context.Context, s Session, statements ...string) error {
	for _, q := range statements {
		if err := s.Exec(ctx, q); err != nil {
			return fmt.Errorf("run %.200s: %w", q, err)
		}
	}
	return nil
}

func (e *env) both(ctx context.Context, statements ...string) error {
	if err := execAll(ctx, e.app, statements...); err != nil {
		return fmt.Errorf("source: %w", err)
	}
	if err := execAll(ctx, e.witness, statements...); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	return nil
}

// transaction runs statements at the source as one.
func (e *env) transaction(ctx context.Context, statements ...string) error {
	return inTransaction(ctx, e.app, e.f.Dialect, statements...)
}

func inTransaction(ctx context.Context, s Session, d Dialect, statements ...string) error {
	if err := s.Exec(ctx, d.Begin); err != nil {
		return err
	}
	if err := execAll(ctx, s, statements...); err != nil {
		return errors.Join(err, s.Exec(ctx, "ROLLBACK"))
	}
	return s.Exec(ctx, "COMMIT")
}

// tables returns the definitions of tables, as the source has them.
func (e *env) tables(ctx context.Context, names ...string) ([]*engine.Table, error) {
	return pick(ctx, e.src, names...)
}

// tablesAt returns those of the target.
func (e *env) tablesAt(ctx context.Context, names ...string) ([]*engine.Table, error) {
	return pick(ctx, e.dst, names...)
}

func pick(ctx context.Context, c engine.Catalog, names ...string) ([]*engine.Table, error) {
	s, err := c.Schema(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	var out []*engine.Table
	for _, n := range names {
		i := slices.IndexFunc(s.Tables, func(t *engine.Table) bool { return strings.EqualFold(t.Name.Name, n) })
		if i < 0 {
			return nil, fmt.Errorf("the schema lacks table %s", n)
		}
		out = append(out, s.Tables[i])
	}
	return out, nil
}

// table is tables for one, at both ends.
func (e *env) table(ctx context.Context, name string) (src, dst *engine.Table, err error) {
	a, err := e.tables(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	b, err := e.tablesAt(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("target: %w", err)
	}
	if a[0].Name != b[0].Name {
		return nil, nil, fmt.Errorf("table is %s at the source and %s at the target: names must be equal", a[0].Name, b[0].Name)
	}
	return a[0], b[0], nil
}

// start prepares capture of tables and makes the target stand for its position.
func (e *env) start(ctx context.Context, names ...string) (engine.State, error) {
	ts, err := e.tables(ctx, names...)
	if err != nil {
		return engine.State{}, err
	}
	pos, fresh, err := e.src.Prepare(ctx, stream, ts)
	if err != nil {
		return engine.State{}, fmt.Errorf("prepare: %w", err)
	}
	if !fresh {
		return engine.State{}, errors.New("the first Prepare was not fresh")
	}
	if pos == "" {
		return engine.State{}, errors.New("the first Prepare returned no position")
	}
	at, err := e.tablesAt(ctx, names...)
	if err != nil {
		return engine.State{}, err
	}
	if err := e.dst.Standby(ctx, stream, at); err != nil {
		return engine.State{}, fmt.Errorf("standby: %w", err)
	}
	return e.commit(ctx, engine.State{Stream: stream}, engine.State{Stream: stream, Pos: pos, Phase: engine.Following}, at, nil)
}

// commit runs one transaction of the target.
func (e *env) commit(ctx context.Context, from, to engine.State, ts []*engine.Table, do func(engine.Apply) error) (engine.State, error) {
	a, err := e.dst.Begin(ctx, from, ts)
	if err != nil {
		return from, fmt.Errorf("begin: %w", err)
	}
	if do != nil {
		if err := do(a); err != nil {
			return from, errors.Join(err, a.Rollback())
		}
	}
	s, err := a.Commit(ctx, to)
	if err != nil {
		return from, errors.Join(fmt.Errorf("commit: %w", err), a.Rollback())
	}
	return s, nil
}

// copyTable brings all rows of a table over.
func (e *env) copyTable(ctx context.Context, from engine.Reader, name string, st engine.State) (engine.State, error) {
	src, dst, err := e.table(ctx, name)
	if err != nil {
		return st, err
	}
	to := st
	return e.commit(ctx, st, to, []*engine.Table{dst}, func(a engine.Apply) error {
		_, err := pump(ctx, from, a, src, dst, engine.Selection{}, true)
		return err
	})
}

// pump joins Export and Import.
func pump(ctx context.Context, from engine.Reader, a engine.Apply, src, dst *engine.Table, s engine.Selection, empty bool) (engine.Stats, error) {
	r, w := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		_, err := from.Export(ctx, src, s, w)
		w.CloseWithError(err)
		sent <- err
	}()
	st, err := a.Import(ctx, dst, s, r, empty)
	r.CloseWithError(errors.New("the import ended"))
	exportErr := <-sent
	if err != nil {
		return st, fmt.Errorf("import %s: %w", dst.Name, err)
	}
	if exportErr != nil {
		return st, fmt.Errorf("export %s: %w", src.Name, exportErr)
	}
	return st, nil
}

// same compares a table at both ends by digest and by what applications read.
func (e *env) same(ctx context.Context, names ...string) error {
	for _, n := range names {
		if err := e.sameSelect(ctx, n, "SELECT * FROM "+n); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) sameSelect(ctx context.Context, name, query string) error {
	a, err := rowsOf(ctx, e.app, query)
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	b, err := rowsOf(ctx, e.witness, query)
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	if d := firstDifference(a, b); d != "" {
		return fmt.Errorf("%s differs: %s", name, d)
	}
	src, dst, err := e.table(ctx, name)
	if err != nil {
		return err
	}
	x, err := whole(ctx, e.src, src)
	if err != nil {
		return fmt.Errorf("digest %s at the source: %w", name, err)
	}
	y, err := whole(ctx, e.dst, dst)
	if err != nil {
		return fmt.Errorf("digest %s at the target: %w", name, err)
	}
	if x != y {
		return fmt.Errorf("applications read the same %d rows of %s, but the digests are %v and %v", len(a), name, x, y)
	}
	if int(x.Rows) != len(a) {
		return fmt.Errorf("the digest of %s counts %d rows, applications read %d", name, x.Rows, len(a))
	}
	return nil
}

// whole is the digest of a table as one bucket.
func whole(ctx context.Context, r engine.Reader, t *engine.Table) (engine.Digest, error) {
	ds, err := r.Digests(ctx, t, nil, nil, true)
	if err != nil {
		return engine.Digest{}, err
	}
	if len(ds) != 1 {
		return engine.Digest{}, fmt.Errorf("got %d digests for one bucket", len(ds))
	}
	return ds[0], nil
}

// rowsOf reads a table as sorted text.
func rowsOf(ctx context.Context, s Session, query string) ([]string, error) {
	rows, err := s.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", query, err)
	}
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = text(r)
	}
	slices.Sort(out)
	return out, nil
}

func text(r engine.Row) string {
	var b bytes.Buffer
	for i, v := range r {
		if i > 0 {
			b.WriteString(" | ")
		}
		if v == nil {
			b.WriteString("NULL")
			continue
		}
		fmt.Fprintf(&b, "%q", v)
	}
	return b.String()
}

func firstDifference(a, b []string) string {
	for i := range max(len(a), len(b)) {
		x, y := "nothing", "nothing"
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if x != y {
			return fmt.Sprintf("%d and %d rows; first, source has %.300s, target %.300s", len(a), len(b), x, y)
		}
	}
	return ""
}
