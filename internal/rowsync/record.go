package rowsync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// A record of the spool is one piece of the change stream. docs/formats.md, "Spool",
// describes the encoding.

// errRecord means that bytes are no record: the file is damaged.
var errRecord = errors.New("a record of the spool is damaged")

// Marks of an encoded piece.
const (
	hasEnd byte = 1 << iota
	hasHeartbeat
)

// Marks of an encoded change.
const (
	changeHasOld byte = 1 << iota
	changeHasNew
	changeHasUnset
	changeTruncates
)

// appendPiece encodes p behind b.
func appendPiece(b []byte, p *engine.Piece) []byte {
	var marks byte
	if p.End != nil {
		marks |= hasEnd
	}
	if p.Heartbeat != nil {
		marks |= hasHeartbeat
	}
	b = append(b, marks)
	b = appendChanges(b, p.Changes)
	b = binary.AppendUvarint(b, uint64(len(p.DDL)))
	for _, d := range p.DDL {
		b = appendText(appendText(b, d.Statement), d.Database)
		b = binary.AppendUvarint(b, uint64(len(d.Tables)))
		for _, t := range d.Tables {
			b = appendName(b, t)
		}
		b = append(b, boolByte(d.Follow))
	}
	for _, c := range []*engine.Commit{p.End, p.Heartbeat} {
		if c != nil {
			b = appendCommit(b, c)
		}
	}
	return b
}

// appendChanges writes the names of tables once, ahead of the changes.
func appendChanges(b []byte, cs []engine.Change) []byte {
	index := map[engine.Name]uint64{}
	var names []engine.Name
	for _, c := range cs {
		if _, ok := index[c.Table]; !ok {
			index[c.Table] = uint64(len(names))
			names = append(names, c.Table)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, n := range names {
		b = appendName(b, n)
	}
	b = binary.AppendUvarint(b, uint64(len(cs)))
	for _, c := range cs {
		b = binary.AppendUvarint(b, index[c.Table])
		var marks byte
		if c.Old != nil {
			marks |= changeHasOld
		}
		if c.New != nil {
			marks |= changeHasNew
		}
		if c.Unset != nil {
			marks |= changeHasUnset
		}
		if c.Truncate {
			marks |= changeTruncates
		}
		b = append(b, marks)
		if c.Old != nil {
			b = appendRow(b, c.Old)
		}
		if c.New != nil {
			b = appendRow(b, c.New)
		}
		if c.Unset != nil {
			b = binary.AppendUvarint(b, uint64(len(c.Unset)))
			for _, u := range c.Unset {
				b = append(b, boolByte(u))
			}
		}
	}
	return b
}

func appendCommit(b []byte, c *engine.Commit) []byte {
	b = appendText(b, string(c.Pos))
	var at int64 = math.MinInt64
	if !c.Time.IsZero() {
		at = c.Time.UnixNano()
	}
	b = binary.AppendVarint(b, at)
	b = binary.AppendUvarint(b, uint64(c.More))
	b = binary.AppendUvarint(b, uint64(len(c.Counters)))
	for _, n := range c.Counters {
		b = appendName(appendText(b, n.Kind), n.Name)
		b = appendText(appendText(b, n.Column), n.Value)
	}
	return b
}

// appendRow writes each value behind its length plus one; zero is NULL.
func appendRow(b []byte, r engine.Row) []byte {
	b = binary.AppendUvarint(b, uint64(len(r)))
	for _, v := range r {
		if v == nil {
			b = append(b, 0)
			continue
		}
		b = binary.AppendUvarint(b, uint64(len(v))+1)
		b = append(b, v...)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendName(b []byte, n engine.Name) []byte { return appendText(appendText(b, n.Schema), n.Name) }

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// decoder reads an encoded piece. The first thing that does not fit makes it fail,
// and all later reads return zero values.
type decoder struct {
	b   []byte
	bad bool
}

// decodePiece reads what appendPiece wrote. The values of rows share memory with b.
func decodePiece(b []byte) (engine.Piece, error) {
	d := &decoder{b: b}
	marks := d.byte()
	var p engine.Piece
	p.Changes = d.changes()
	for range d.count(4) {
		x := engine.DDL{Statement: d.text(), Database: d.text()}
		for range d.count(2) {
			x.Tables = append(x.Tables, d.name())
		}
		x.Follow = d.byte() == 1
		p.DDL = append(p.DDL, x)
	}
	if marks&hasEnd != 0 {
		p.End = d.commit()
	}
	if marks&hasHeartbeat != 0 {
		p.Heartbeat = d.commit()
	}
	if d.bad || len(d.b) != 0 {
		return engine.Piece{}, errRecord
	}
	return p, nil
}

func (d *decoder) fail() { d.bad, d.b = true, nil }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads how many things of at least least bytes each follow. A number that
// cannot be is damage, found before memory is taken for it.
func (d *decoder) count(least int) int {
	v := d.uvarint()
	if v > uint64(len(d.b)/least) {
		d.fail()
		return 0
	}
	return int(v)
}

func (d *decoder) bytes(n int) []byte {
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) text() string { return string(d.bytes(d.count(1))) }

func (d *decoder) name() engine.Name { return engine.Name{Schema: d.text(), Name: d.text()} }

func (d *decoder) changes() []engine.Change {
	names := make([]engine.Name, d.count(2))
	for i := range names {
		names[i] = d.name()
	}
	n := d.count(2)
	if n == 0 {
		return nil
	}
	out := make([]engine.Change, 0, n)
	for range n {
		i := d.uvarint()
		if i >= uint64(len(names)) {
			d.fail()
			return nil
		}
		c := engine.Change{Table: names[i]}
		marks := d.byte()
		if marks&changeHasOld != 0 {
			c.Old = d.row()
		}
		if marks&changeHasNew != 0 {
			c.New = d.row()
		}
		if marks&changeHasUnset != 0 {
			c.Unset = make([]bool, d.count(1))
			for i := range c.Unset {
				c.Unset[i] = d.byte() == 1
			}
		}
		c.Truncate = marks&changeTruncates != 0
		out = append(out, c)
	}
	return out
}

func (d *decoder) row() engine.Row {
	r := make(engine.Row, d.count(1))
	for i := range r {
		n := d.uvarint()
		if n == 0 {
			continue
		}
		if n-1 > uint64(len(d.b)) {
			d.fail()
			return r
		}
		r[i] = d.bytes(int(n - 1))
	}
	return r
}

func (d *decoder) commit() *engine.Commit {
	c := &engine.Commit{Pos: engine.Pos(d.text())}
	at, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return c
	}
	d.b = d.b[n:]
	if at != math.MinInt64 {
		c.Time = time.Unix(0, at).UTC()
	}
	c.More = int64(d.uvarint() & math.MaxInt64)
	for range d.count(5) {
		c.Counters = append(c.Counters, engine.Counter{Kind: d.text(), Name: d.name(), Column: d.text(), Value: d.text()})
	}
	return c
}

// pieceSize is about what a piece takes in memory.
func pieceSize(p *engine.Piece) (n int) {
	for i := range p.Changes {
		n += changeSize(&p.Changes[i])
	}
	return n
}

func changeSize(c *engine.Change) int {
	n := 64
	for _, v := range c.Old {
		n += len(v) + 24
	}
	for _, v := range c.New {
		n += len(v) + 24
	}
	return n
}

func damaged(path string, at int64) error {
	return fmt.Errorf("read %s at byte %d: %w; remove the directory to compare both ends anew", path, at, errRecord)
}
