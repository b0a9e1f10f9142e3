package mariadb

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"io"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// The form of Export is what LOAD DATA reads by default: fields between tabs, lines
// ended by a newline, \N for NULL, and a backslash before tab, newline and backslash.
// It is all bytes: LOAD DATA reads it in the character set binary.

// slice is how much of a large value is read at once; a value larger than that is
// not held whole.
const slice = 4 << 20

// Export implements engine.Reader.
func (r reader) Export(ctx context.Context, t *engine.Table, s engine.Selection, w io.Writer) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := r.conns.take(ctx)
	if err != nil {
		return 0, err
	}
	e := exporter{r: r, c: c, t: t, cols: carried(t), w: bufio.NewWriterSize(w, 256<<10)}
	n, err := e.run(ctx, s)
	if err == nil {
		err = e.w.Flush()
	}
	if err != nil {
		// What is left unread must not be drained: it may be the whole table.
		cancel()
	}
	r.conns.give(c, err)
	if err != nil {
		return n, fmt.Errorf("read rows of %s: %w", t.Name, err)
	}
	return n, nil
}

type exporter struct {
	r     reader
	c     *sql.Conn
	t     *engine.Table
	cols  []column
	w     *bufio.Writer
	later []engine.Row // keys of rows with large values
}

func (e *exporter) run(ctx context.Context, s engine.Selection) (int64, error) {
	var large []int
	for i, c := range e.cols {
		if c.large && c.kind != document && len(e.t.Key) > 0 {
			large = append(large, i)
		}
	}
	if large == nil {
		var n int64
		for _, q := range e.r.selects(e.t, exprs("", e.cols), s) {
			err := scan(ctx, e.c, q, func(v engine.Row) error {
				n++
				return writeRow(e.w, v)
			})
			if err != nil {
				return n, err
			}
		}
		return n, nil
	}
	return e.runLarge(ctx, s, large)
}

// runLarge reads rows with large values in slices, after all others, in one view of
// the database.
func (e *exporter) runLarge(ctx context.Context, s engine.Selection, large []int) (int64, error) {
	if _, held := e.r.conns.(pool); held {
		if _, err := e.c.ExecContext(ctx, "START TRANSACTION READ ONLY"); err != nil {
			return 0, explain(err)
		}
		defer e.c.ExecContext(ctx, "COMMIT") //nolint:errcheck // it has nothing to lose
	}
	places, width := keyPlaces(e.t), len(e.cols)
	list := make([]string, width)
	for i, c := range e.cols {
		list[i] = c.expr("")
	}
	var long []string
	for _, i := range large {
		is := fmt.Sprintf("LENGTH(%s) > %d", list[i], slice)
		long = append(long, "IFNULL("+is+", 0)")
		list[i] = "IF(" + is + ", '', " + list[i] + ")"
	}
	list = append(list, strings.Join(long, " OR "))
	var n int64
	for _, q := range e.r.selects(e.t, strings.Join(list, ", "), s) {
		err := scan(ctx, e.c, q, func(v engine.Row) error {
			n++
			if string(v[width]) != "0" {
				e.later = append(e.later, clone(keyOf(places, v)))
				return nil
			}
			return writeRow(e.w, v[:width])
		})
		if err != nil {
			return n, err
		}
	}
	for _, k := range e.later {
		if err := e.slices(ctx, k); err != nil {
			return n, err
		}
	}
	return n, nil
}

// slices writes one row, its large values slice by slice.
func (e *exporter) slices(ctx context.Context, k engine.Row) error {
	where := " FROM " + ident(e.t.Name.Name) + " WHERE " + equal("", keyed(e.t), k)
	for i, c := range e.cols {
		if i > 0 {
			e.w.WriteByte('\t')
		}
		if !c.large {
			q := "SELECT " + c.expr("") + where
			if err := scan(ctx, e.c, q, func(v engine.Row) error { writeField(e.w, v[0]); return nil }); err != nil {
				return err
			}
			continue
		}
		for from := 1; ; from += slice / 4 {
			n, null := 0, false
			q := fmt.Sprintf("SELECT SUBSTRING(%s, %d, %d)%s", ident(c.Name), from, slice/4, where)
			err := scan(ctx, e.c, q, func(v engine.Row) error {
				n, null = len(v[0]), v[0] == nil
				if null || n > 0 {
					writeField(e.w, v[0])
				}
				return nil
			})
			if err != nil {
				return err
			}
			if null || n == 0 {
				break
			}
		}
	}
	return e.w.WriteByte('\n')
}

// writeRow writes one line.
func writeRow(w *bufio.Writer, r engine.Row) error {
	for i, v := range r {
		if i > 0 {
			w.WriteByte('\t')
		}
		writeField(w, v)
	}
	return w.WriteByte('\n')
}

// writeField writes one value or a part of one. The writer keeps its first error,
// which the end of the line returns.
func writeField(w *bufio.Writer, v []byte) {
	if v == nil {
		w.WriteString(`\N`)
		return
	}
	from := 0
	for i, b := range v {
		var as string
		switch b {
		case '\t':
			as = `\t`
		case '\n':
			as = `\n`
		case '\\':
			as = `\\`
		default:
			continue
		}
		w.Write(v[from:i])
		w.WriteString(as)
		from = i + 1
	}
	w.Write(v[from:])
}
