package postgres

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// message is one message of pgoutput. Of its fields those of its kind are set; byte
// slices point into what was decoded.
type message struct {
	kind     byte // B, C, O, R, Y, I, U, D, T or M
	xid      uint32
	final    lsn // of B: of the commit; of C: the end of the commit
	time     time.Time
	relation uint32
	relNames [2]string   // of R: schema and name
	columns  []relColumn // of R
	ident    byte        // of R
	old      tuple       // of U and D
	oldKind  byte        // K or O, 0 where there is none
	new      tuple       // of I and U
	oids     []uint32    // of T
	prefix   string      // of M
	inTx     bool        // of M
}

// relColumn is a column as a Relation message has it.
type relColumn struct {
	name string
	key  bool
	typ  uint32
	mod  int32
}

// tuple is the columns of a row. absent marks those that were not sent because they
// did not change; nil values are NULL.
type tuple struct {
	values [][]byte
	absent []bool // nil: none
}

var errShort = errors.New("it ends early")

// postgresEpoch is the moment from which the server counts microseconds.
func postgresEpoch() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }

func stamp(us uint64) time.Time {
	return postgresEpoch().Add(time.Duration(int64(us)) * time.Microsecond)
}

// decode reads one message of pgoutput, protocol 1 or 2 without streaming.
func decode(b []byte) (message, error) {
	if len(b) == 0 {
		return message{}, fmt.Errorf("decode change: %w", errShort)
	}
	d := decoder{b: b[1:]}
	m := message{kind: b[0]}
	switch m.kind {
	case 'B':
		m.final, m.time, m.xid = lsn(d.u64()), stamp(d.u64()), d.u32()
	case 'C':
		d.skip(1 + 8)
		m.final, m.time = lsn(d.u64()), stamp(d.u64())
	case 'R':
		d.relation(&m)
	case 'I':
		m.relation = d.u32()
		d.expect('N')
		m.new = d.tuple()
	case 'U':
		m.relation = d.u32()
		k := d.u8()
		if k == 'K' || k == 'O' {
			m.oldKind, m.old = k, d.tuple()
			k = d.u8()
		}
		d.is(k, 'N')
		m.new = d.tuple()
	case 'D':
		m.relation = d.u32()
		m.oldKind = d.u8()
		if m.oldKind != 'K' && m.oldKind != 'O' {
			d.fail(fmt.Errorf("a deleted row of kind %q", m.oldKind))
		}
		m.old = d.tuple()
	case 'T':
		n := d.u32()
		d.skip(1)
		if uint64(n)*4 > uint64(len(d.b)) {
			d.fail(errShort)
			n = 0
		}
		for range n {
			m.oids = append(m.oids, d.u32())
		}
	case 'M':
		m.inTx = d.u8() == 1
		m.final = lsn(d.u64())
		m.prefix = d.text()
	case 'O', 'Y': // origins and types: nothing to be done about them
	default:
		d.fail(errors.New("it is of a kind that was not asked for"))
	}
	if d.err != nil {
		return message{}, fmt.Errorf("decode change %q: %w", m.kind, d.err)
	}
	return m, nil
}

// decoder takes values from the front of b; after the first error all are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.fail(errShort)
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) skip(n int) { d.take(n) }

func (d *decoder) u8() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) u16() int {
	if v := d.take(2); v != nil {
		return int(binary.BigEndian.Uint16(v))
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func (d *decoder) text() string {
	for i, c := range d.b {
		if c == 0 {
			s := string(d.b[:i])
			d.b = d.b[i+1:]
			return s
		}
	}
	d.fail(errShort)
	return ""
}

func (d *decoder) expect(want byte) { d.is(d.u8(), want) }

func (d *decoder) is(got, want byte) {
	if got != want {
		d.fail(fmt.Errorf("%q where %q should be", got, want))
	}
}

func (d *decoder) relation(m *message) {
	m.relation = d.u32()
	m.relNames = [2]string{d.text(), d.text()}
	m.ident = d.u8()
	n := d.u16()
	for range n {
		if d.err != nil {
			return
		}
		c := relColumn{key: d.u8()&1 == 1, name: d.text(), typ: d.u32()}
		c.mod = int32(d.u32())
		m.columns = append(m.columns, c)
	}
}

func (d *decoder) tuple() tuple {
	n := d.u16()
	if n > len(d.b) { // each column takes a byte at the least
		d.fail(errShort)
		return tuple{}
	}
	t := tuple{values: make([][]byte, n)}
	for i := range n {
		switch k := d.u8(); k {
		case 'n':
		case 'u':
			if t.absent == nil {
				t.absent = make([]bool, n)
			}
			t.absent[i] = true
		case 't':
			t.values[i] = d.take(int(d.u32()))
		default:
			d.fail(fmt.Errorf("a value of kind %q", k))
			return tuple{}
		}
	}
	return t
}
