package mssql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Import implements engine.Apply.
func (a *apply) Import(ctx context.Context, t *engine.Table, sel engine.Selection, r io.Reader, empty bool) (engine.Stats, error) {
	st, err := a.imports(ctx, t, sel, r, empty)
	return st, wrap(err, "import %s", t.Name)
}

func (a *apply) imports(ctx context.Context, t *engine.Table, sel engine.Selection, r io.Reader, empty bool) (engine.Stats, error) {
	var st engine.Stats
	key, cols, err := columnsOf(t)
	if err != nil {
		return st, err
	}
	in, err := newStreamReader(r, len(cols))
	if err != nil {
		return st, err
	}
	i := &importer{s: a.s, cols: cols, in: in}
	if err := i.run(ctx); err != nil {
		return st, err
	}
	p := &pile{t: t, key: key, cols: cols, up: upsertTable}
	if empty {
		identity := slices.ContainsFunc(cols, func(c col) bool { return c.Identity })
		st.Inserted, err = a.insert(ctx, p, identity, sqlInsertAll(t, cols, upsertTable))
		if err == nil {
			_, err = a.s.exec(ctx, sqlDropStage(upsertTable))
			return st, err
		}
		// It was not empty after all.
		if !uniqueViolation(err) {
			return st, err
		}
	}
	if !empty {
		if st.Deleted, err = a.deleteOthers(ctx, p, sel); err != nil {
			return st, fmt.Errorf("delete rows that the source lacks: %w", foreignHint(err))
		}
	}
	self := map[string]bool{}
	if plan, err := planOrder([]engine.Name{t.Name}, a.keys); err == nil {
		self = plan.later[t.Name]
	}
	if st.Updated, st.Inserted, err = a.upsert(ctx, p, self, nil); err != nil {
		return st, err
	}
	if len(self) > 0 {
		if _, err := a.s.exec(ctx, sqlUpdateRows(t, key, cols, upsertTable)); err != nil {
			return st, err
		}
	}
	_, err = a.s.exec(ctx, sqlDropStage(upsertTable))
	return st, err
}

// deleteOthers deletes the selected rows that are not staged.
func (a *apply) deleteOthers(ctx context.Context, p *pile, sel engine.Selection) (int64, error) {
	if sel.Keys == nil {
		if err := a.s.stageRanges(ctx, p.key, []engine.Range{sel.Range}); err != nil {
			return 0, err
		}
		return a.s.exec(ctx, sqlDeleteRange(p.t, p.key, sides(sel.Range), p.up))
	}
	if len(sel.Keys) == 0 {
		return 0, nil
	}
	if err := a.s.stageRows(ctx, keyTable, p.key, sel.Keys); err != nil {
		return 0, err
	}
	return a.s.exec(ctx, sqlDeleteMissing(p.t, p.key, p.up))
}

// importer stages a row stream.
type importer struct {
	s    *session
	cols []col
	in   *streamReader
	n    int64
	over bool
	// A row was begun whose value at column at comes in pieces; before it are these.
	apart engine.Row
	at    int
}

// run stages all rows: by bulk copy, broken off for each row with values in pieces.
func (i *importer) run(ctx context.Context) error {
	if _, err := i.s.exec(ctx, sqlDropStage(upsertTable)); err != nil {
		return err
	}
	if _, err := i.s.exec(ctx, sqlStageRows(upsertTable, i.cols, i.s.d.dialect)); err != nil {
		return err
	}
	for !i.over {
		if err := i.s.load(ctx, upsertTable, stagedNames(i.cols), i.whole); err != nil {
			return err
		}
		if i.apart != nil {
			if err := i.row(ctx); err != nil {
				return err
			}
			i.apart = nil
		}
	}
	return nil
}

// whole adds rows until one has a value in pieces, or the stream ends.
func (i *importer) whole(add func(...any) error) error {
	for {
		more, err := i.in.next()
		if err != nil {
			return err
		}
		if !more {
			i.over = true
			return nil
		}
		i.n++
		row := make(engine.Row, len(i.cols))
		for c := range i.cols {
			b, pieces, err := i.in.value()
			if err != nil {
				return err
			}
			if pieces {
				i.apart, i.at = row, c
				return nil
			}
			row[c] = b
		}
		v, err := natives(i.cols, row)
		if err != nil {
			return err
		}
		if err := add(append([]any{i.n}, v...)...); err != nil {
			return err
		}
	}
}

// row stages the row that was begun: the values in pieces as they come, the others
// together.
func (i *importer) row(ctx context.Context) error {
	if _, err := i.s.exec(ctx, sqlAddOne(), i.n); err != nil {
		return err
	}
	var rest []col
	var values engine.Row
	for c := range i.cols {
		b, pieces := i.apart[c], c == i.at
		if c > i.at {
			var err error
			if b, pieces, err = i.in.value(); err != nil {
				return err
			}
		}
		if pieces && i.s.d.writePart {
			if err := i.pieces(ctx, i.cols[c]); err != nil {
				return fmt.Errorf("column %s: %w", i.cols[c].Name, err)
			}
			continue
		}
		if pieces {
			var err error
			if b, err = i.together(); err != nil {
				return err
			}
		}
		rest, values = append(rest, i.cols[c]), append(values, b)
	}
	if len(rest) == 0 {
		return nil
	}
	if err := i.s.stageRows(ctx, oneTable, rest, []engine.Row{values}); err != nil {
		return err
	}
	if _, err := i.s.exec(ctx, sqlFillOne(rest), i.n); err != nil {
		return err
	}
	_, err := i.s.exec(ctx, sqlDropStage(oneTable))
	return err
}

// pieces adds the pieces of a value to it.
func (i *importer) pieces(ctx context.Context, c col) error {
	if !c.large() {
		return fmt.Errorf("%w: a value of a type of limited length in pieces", errStream)
	}
	if _, err := i.s.exec(ctx, sqlBlank(c), i.n); err != nil {
		return err
	}
	query := sqlAppend(c, i.s.d.UTF16)
	for {
		b, err := i.in.piece()
		if err != nil || b == nil {
			return err
		}
		var v any = b
		switch {
		case c.text() && i.s.d.UTF16:
			v = toUTF16(b)
		case c.text():
			v = string(b)
		}
		if _, err := i.s.exec(ctx, query, v, i.n); err != nil {
			return err
		}
	}
}

// maxTogether is the largest value that is held whole, for servers that cannot write
// a part of one.
const maxTogether = 512 << 20

func (i *importer) together() ([]byte, error) {
	out := []byte{}
	for {
		b, err := i.in.piece()
		if err != nil || b == nil {
			return out, err
		}
		if out = append(out, b...); len(out) > maxTogether {
			return nil, errors.New("a value too large for a server that cannot write parts of one")
		}
	}
}
