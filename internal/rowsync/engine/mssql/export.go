package mssql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// errStop ends an iteration that the consumer has left.
var errStop = errors.New("stopped")

// Export implements engine.Reader. Values above largeValue are read in pieces, after
// the others and by key.
func (r *reader) Export(ctx context.Context, t *engine.Table, sel engine.Selection, w io.Writer) (int64, error) {
	key, cols, err := columnsOf(t)
	if err != nil {
		return 0, err
	}
	out, err := newStreamWriter(w, len(cols))
	if err != nil {
		return 0, err
	}
	err = r.with(ctx, func(s *session) error {
		e := &exporter{s: s, t: t, key: key, cols: cols, out: out}
		return e.run(ctx, sel)
	})
	if err != nil {
		return 0, wrap(err, "export %s", t.Name)
	}
	return int64(out.rows), out.end()
}

// exporter is one Export.
type exporter struct {
	s         *session
	t         *engine.Table
	key, cols []col
	out       *streamWriter
	big       []engine.Row // keys of rows with large values
}

func (e *exporter) run(ctx context.Context, sel engine.Selection) error {
	query := ""
	if sel.Keys != nil {
		if len(sel.Keys) == 0 {
			return nil
		}
		if err := e.s.stageRows(ctx, keyTable, e.key, sel.Keys); err != nil {
			return err
		}
		query = sqlExportKeys(e.t, e.key, e.cols, e.s.d.dialect)
	} else {
		if err := e.s.stageRanges(ctx, e.key, []engine.Range{sel.Range}); err != nil {
			return err
		}
		query = sqlExportRange(e.t, e.key, e.cols, sides(sel.Range), e.s.d.dialect)
	}
	if err := e.s.each(ctx, query, e.row); err != nil {
		return err
	}
	for _, k := range e.big {
		if err := e.bigRow(ctx, k); err != nil {
			return err
		}
	}
	return nil
}

// scan reads a row as sqlExport… selects it; size holds the sizes of its large columns.
func (e *exporter) scan(scan func(...any) error) (row engine.Row, size []int64, err error) {
	values, sizes := make([]any, len(e.cols)), make([]*int64, len(e.cols))
	var into []any
	for i, c := range e.cols {
		into = append(into, &values[i])
		if c.large() {
			into = append(into, &sizes[i])
		}
	}
	if err := scan(into...); err != nil {
		return nil, nil, err
	}
	row, size = make(engine.Row, len(e.cols)), make([]int64, len(e.cols))
	for i, c := range e.cols {
		if row[i], err = c.encode(values[i]); err != nil {
			return nil, nil, fmt.Errorf("column %s: %w", c.Name, err)
		}
		if sizes[i] != nil {
			size[i] = *sizes[i]
		}
	}
	return row, size, nil
}

// row writes a row, or notes its key where it must be read in pieces.
func (e *exporter) row(scan func(...any) error) error {
	row, size, err := e.scan(scan)
	if err != nil {
		return err
	}
	for _, n := range size {
		if n > largeValue {
			e.big = append(e.big, e.keyOf(row))
			return nil
		}
	}
	return e.out.row(row)
}

func (e *exporter) keyOf(row engine.Row) engine.Row {
	k := make(engine.Row, len(e.key))
	for i, kc := range e.key {
		for j, c := range e.cols {
			if c.i == kc.i {
				k[i] = row[j]
			}
		}
	}
	return k
}

// bigRow writes one row with its large values in pieces. Where the session reads no
// one state, the row is locked meanwhile, so that pieces of two states never meet.
func (e *exporter) bigRow(ctx context.Context, k engine.Row) (err error) {
	if !e.s.inTx {
		level := repeatableLevel
		if e.s.d.snapshotOn.Load() {
			level = snapshotLevel
		}
		if err := e.s.begin(ctx, level); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				err = e.s.commit(ctx)
			}
		}()
	}
	if err := e.s.stageRows(ctx, keyTable, e.key, []engine.Row{k}); err != nil {
		return err
	}
	var row engine.Row
	var size []int64
	err = e.s.each(ctx, sqlExportKeys(e.t, e.key, e.cols, e.s.d.dialect), func(scan func(...any) error) error {
		row, size, err = e.scan(scan)
		return err
	})
	if err != nil || row == nil {
		return err
	}
	if err := e.out.begin(); err != nil {
		return err
	}
	for i, c := range e.cols {
		if size[i] <= largeValue {
			err = e.out.value(row[i])
		} else {
			err = e.pieces(ctx, c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *exporter) pieces(ctx context.Context, c col) error {
	if err := e.out.pieces(); err != nil {
		return err
	}
	query := sqlPiece(e.t, e.key, c, e.s.d.dialect)
	for at := 1; at < math.MaxInt32; at += pieceBytes {
		var v any
		if err := e.s.QueryRowContext(ctx, query, int32(at), int32(pieceBytes)).Scan(&v); err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
		b, err := c.encode(v)
		if err != nil {
			return fmt.Errorf("column %s: %w", c.Name, err)
		}
		if len(b) == 0 {
			break
		}
		if err := e.out.piece(b); err != nil {
			return err
		}
	}
	return e.out.piece(nil)
}
