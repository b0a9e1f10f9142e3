package mariadb

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-mysql-org/go-mysql/replication"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// The form of rows in the binlog is that of the server's Field::pack; values are
// turned here into the bytes that SELECT gives in a session of ours. See
// https://mariadb.com/kb/en/rows_event_v1v2-rows_compressed_event_v1/.

var (
	errShort   = errors.New("a row event is cut short")
	errPartial = errors.New("a row event holds only some columns: set binlog_row_image=FULL at the source")
)

// layout is how the rows of a table look in the binlog.
type layout struct {
	table *engine.Table
	cells []cell
	width int // carried columns
	key   []int
}

// cell is one column of a row in the binlog.
type cell struct {
	column
	typ     byte
	meta    uint16
	out     int      // its place in a Row; -1: it does not travel
	members [][]byte // of enum and set
}

// newLayout matches what the binlog says of a table with what the stream was started
// with. They differ when the definition changed in between.
func newLayout(t *engine.Table, m *replication.TableMapEvent) (*layout, error) {
	if len(m.ColumnName) == 0 {
		return nil, fmt.Errorf("rows of %s come without the names of their columns: run SET GLOBAL binlog_row_metadata = FULL at the source", t.Name)
	}
	if len(m.ColumnName) != len(t.Columns) {
		return nil, fmt.Errorf("rows of %s have %d columns, not the %d known: the definition changed", t.Name, len(m.ColumnName), len(t.Columns))
	}
	l := &layout{table: t, cells: make([]cell, len(t.Columns)), key: keyPlaces(t)}
	enums, sets := m.EnumStrValue, m.SetStrValue
	for i, c := range t.Columns {
		if string(m.ColumnName[i]) != c.Name {
			return nil, fmt.Errorf("column %d of %s is %s, not %s: the definition changed", i+1, t.Name, m.ColumnName[i], c.Name)
		}
		x := cell{column: typed(c), typ: m.ColumnType[i], meta: m.ColumnMeta[i], out: -1}
		if x.typ == mysql.MYSQL_TYPE_STRING && x.meta>>8 != 0 {
			x.unfold()
		}
		switch {
		case x.typ == mysql.MYSQL_TYPE_ENUM && len(enums) > 0:
			x.members, enums = enums[0], enums[1:]
		case x.typ == mysql.MYSQL_TYPE_SET && len(sets) > 0:
			x.members, sets = sets[0], sets[1:]
		}
		if err := x.fits(); err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", c.Name, t.Name, err)
		}
		if !c.Derived {
			x.out = l.width
			l.width++
		}
		l.cells[i] = x
	}
	return l, nil
}

// unfold reads the true type out of the two bytes that char, enum and set share. Two
// bits of a length over 255 are hidden, inverted, in the type.
func (x *cell) unfold() {
	high, low := byte(x.meta>>8), x.meta&0xff
	if high&0x30 != 0x30 {
		low |= uint16(high&0x30^0x30) << 4
		high |= 0x30
	}
	x.typ, x.meta = high, low
}

// fits tells whether the type in the binlog is that of the catalogue.
func (x *cell) fits() error {
	ok := false
	switch x.typ {
	case mysql.MYSQL_TYPE_TINY, mysql.MYSQL_TYPE_SHORT, mysql.MYSQL_TYPE_INT24, mysql.MYSQL_TYPE_LONG, mysql.MYSQL_TYPE_LONGLONG:
		ok = x.kind == number_
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		ok = x.kind == decimal && int(x.meta>>8) == x.length && int(x.meta&0xff) == x.decimals
	case mysql.MYSQL_TYPE_FLOAT, mysql.MYSQL_TYPE_DOUBLE:
		ok = x.kind == floating
	case mysql.MYSQL_TYPE_BIT:
		ok = x.kind == bits
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE, mysql.MYSQL_TYPE_TIMESTAMP2, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIME2:
		ok = x.kind == clock
	case mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_TIME:
		if x.length > 0 {
			return errors.New("its times are in the format of before MariaDB 10.1: run ALTER TABLE … FORCE at the source with mysql56_temporal_format=ON")
		}
		ok = x.kind == clock
	case mysql.MYSQL_TYPE_YEAR:
		ok = x.kind == year
	case mysql.MYSQL_TYPE_ENUM:
		ok = x.kind == enum && x.members != nil
	case mysql.MYSQL_TYPE_SET:
		ok = x.kind == set && x.members != nil
	case mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING, mysql.MYSQL_TYPE_BLOB:
		ok = x.kind == text || x.kind == bytes_
	case mysql.MYSQL_TYPE_STRING:
		ok = x.kind == text || x.kind == fixed || x.kind == uuid || x.kind == inet6 || x.kind == inet4
	case mysql.MYSQL_TYPE_GEOMETRY:
		ok = x.kind == geometry
	}
	if !ok {
		return fmt.Errorf("it is of type %d in the binlog, which %s is not: the definition changed", x.typ, x.Type)
	}
	return nil
}

// cursor reads bytes that may be too few.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n int) []byte {
	if c.err != nil || n < 0 || n > len(c.b) {
		c.err = errShort
		// Room for the widest fixed field, so that callers need not look.
		return make([]byte, max(0, min(n, 64)))
	}
	out := c.b[:n:n]
	c.b = c.b[n:]
	return out
}

// little and big read unsigned numbers of n bytes.
func (c *cursor) little(n int) uint64 {
	var v uint64
	for i, b := range c.take(n) {
		v |= uint64(b) << (8 * i)
	}
	return v
}

func (c *cursor) big(n int) uint64 {
	var v uint64
	for _, b := range c.take(n) {
		v = v<<8 | uint64(b)
	}
	return v
}

// prefixed reads bytes after their length, itself of n bytes.
func (c *cursor) prefixed(n int) []byte {
	size := c.little(n)
	if size > uint64(len(c.b)) {
		c.err = errShort
		return nil
	}
	return c.take(int(size))
}

// row reads one row image.
func (l *layout) row(c *cursor, present []byte) (engine.Row, error) {
	for i := range l.cells {
		if i/8 >= len(present) || present[i/8]>>(i%8)&1 == 0 {
			return nil, errPartial
		}
	}
	nulls := c.take((len(l.cells) + 7) / 8)
	if c.err != nil {
		return nil, c.err
	}
	row := make(engine.Row, l.width)
	for i := range l.cells {
		if nulls[i/8]>>(i%8)&1 == 1 {
			continue
		}
		x := &l.cells[i]
		v, err := x.value(c)
		if err == nil {
			err = c.err
		}
		if err != nil {
			return nil, fmt.Errorf("read column %s: %w", x.Name, err)
		}
		if x.out >= 0 {
			row[x.out] = v
		}
	}
	return row, nil
}

// value reads one value that is not NULL. It is never nil.
func (x *cell) value(c *cursor) ([]byte, error) {
	switch x.typ {
	case mysql.MYSQL_TYPE_TINY:
		return x.whole(c, 1), nil
	case mysql.MYSQL_TYPE_SHORT:
		return x.whole(c, 2), nil
	case mysql.MYSQL_TYPE_INT24:
		return x.whole(c, 3), nil
	case mysql.MYSQL_TYPE_LONG:
		return x.whole(c, 4), nil
	case mysql.MYSQL_TYPE_LONGLONG:
		return x.whole(c, 8), nil
	case mysql.MYSQL_TYPE_NEWDECIMAL:
		return decimalText(c, int(x.meta>>8), int(x.meta&0xff))
	case mysql.MYSQL_TYPE_FLOAT:
		return floatText(float64(math.Float32frombits(uint32(c.little(4))))), nil
	case mysql.MYSQL_TYPE_DOUBLE:
		return floatText(math.Float64frombits(c.little(8))), nil
	case mysql.MYSQL_TYPE_BIT:
		return c.take(int(x.meta>>8) + (int(x.meta&0xff)+7)/8), nil
	case mysql.MYSQL_TYPE_YEAR:
		if y := c.little(1); y > 0 {
			return strconv.AppendUint(nil, 1900+y, 10), nil
		}
		return []byte("0000"), nil
	case mysql.MYSQL_TYPE_DATE, mysql.MYSQL_TYPE_NEWDATE:
		v := c.little(3)
		return fmt.Appendf(nil, "%04d-%02d-%02d", v>>9, v>>5&15, v&31), nil
	case mysql.MYSQL_TYPE_TIMESTAMP, mysql.MYSQL_TYPE_DATETIME, mysql.MYSQL_TYPE_TIME:
		return x.oldTime(c), nil
	case mysql.MYSQL_TYPE_TIMESTAMP2, mysql.MYSQL_TYPE_DATETIME2, mysql.MYSQL_TYPE_TIME2:
		return x.newTime(c)
	case mysql.MYSQL_TYPE_ENUM:
		return x.member(c.little(int(x.meta & 3)))
	case mysql.MYSQL_TYPE_SET:
		return x.chosen(c.little(int(x.meta & 15)))
	case mysql.MYSQL_TYPE_BLOB, mysql.MYSQL_TYPE_GEOMETRY:
		if x.meta < 1 || x.meta > 4 {
			return nil, fmt.Errorf("read length of %d bytes", x.meta)
		}
		return c.prefixed(int(x.meta)), nil
	case mysql.MYSQL_TYPE_VARCHAR, mysql.MYSQL_TYPE_VAR_STRING, mysql.MYSQL_TYPE_STRING:
		n := 1
		if x.meta > 255 {
			n = 2
		}
		return x.padded(c.prefixed(n)), nil
	}
	return nil, fmt.Errorf("read type %d", x.typ)
}

// padded restores the zero bytes that the binlog leaves out at the end of types of a
// fixed length.
func (x *cell) padded(v []byte) []byte {
	n := 0
	switch x.kind {
	case fixed:
		n = max(x.length, 1)
	case uuid, inet6:
		n = 16
	case inet4:
		n = 4
	}
	if len(v) >= n {
		return v
	}
	return append(make([]byte, 0, n), v...)[:n]
}

func (x *cell) whole(c *cursor, n int) []byte {
	v := c.little(n)
	if x.unsigned {
		return strconv.AppendUint(nil, v, 10)
	}
	shift := 64 - 8*n
	return strconv.AppendInt(nil, int64(v<<shift)>>shift, 10)
}

// member returns the text of an enum's number; 0 stands for a value that was none.
func (x *cell) member(n uint64) ([]byte, error) {
	if n == 0 {
		return []byte{}, nil
	}
	if n > uint64(len(x.members)) {
		return nil, fmt.Errorf("enum has no member %d", n)
	}
	return x.members[n-1], nil
}

func (x *cell) chosen(n uint64) ([]byte, error) {
	out := []byte{}
	for i := 0; n != 0; i, n = i+1, n>>1 {
		if n&1 == 0 {
			continue
		}
		if i >= len(x.members) {
			return nil, fmt.Errorf("set has no member %d", i+1)
		}
		if len(out) > 0 {
			out = append(out, ',')
		}
		out = append(out, x.members[i]...)
	}
	return out, nil
}

// oldTime reads times in the format of before MySQL 5.6, which have no fraction.
func (x *cell) oldTime(c *cursor) []byte {
	switch x.typ {
	case mysql.MYSQL_TYPE_TIMESTAMP:
		return stamp(c.little(4), "")
	case mysql.MYSQL_TYPE_TIME:
		v, sign := int64(c.little(3)<<40)>>40, ""
		if v < 0 {
			v, sign = -v, "-"
		}
		return fmt.Appendf(nil, "%s%02d:%02d:%02d", sign, v/10000, v/100%100, v%100)
	}
	v := c.little(8)
	d, t := v/1000000, v%1000000
	return fmt.Appendf(nil, "%04d-%02d-%02d %02d:%02d:%02d", d/10000, d/100%100, d%100, t/10000, t/100%100, t%100)
}

// newTime reads times in the format of MySQL 5.6: big-endian, the fraction in as many
// bytes as its digits need, and an offset where there may be a sign.
func (x *cell) newTime(c *cursor) ([]byte, error) {
	digits := int(x.meta)
	if digits > 6 {
		return nil, fmt.Errorf("read fraction of %d digits", digits)
	}
	n := (digits + 1) / 2
	width := map[byte]int{mysql.MYSQL_TYPE_TIMESTAMP2: 4, mysql.MYSQL_TYPE_DATETIME2: 5, mysql.MYSQL_TYPE_TIME2: 3}[x.typ]
	v := int64(c.big(width + n))
	if x.typ != mysql.MYSQL_TYPE_TIMESTAMP2 {
		v -= 1 << (8*(width+n) - 1)
	}
	sign := ""
	if v < 0 {
		v, sign = -v, "-"
	}
	whole, fraction := uint64(v)>>(8*n), ""
	if digits > 0 {
		all := fmt.Sprintf("%0*d", 2*n, uint64(v)&(1<<(8*n)-1))
		fraction = "." + all[:digits]
	}
	switch x.typ {
	case mysql.MYSQL_TYPE_TIMESTAMP2:
		return stamp(whole, fraction), nil
	case mysql.MYSQL_TYPE_TIME2:
		return fmt.Appendf(nil, "%s%02d:%02d:%02d%s", sign, whole>>12, whole>>6&63, whole&63, fraction), nil
	}
	day, t := whole>>17, whole&(1<<17-1)
	return fmt.Appendf(nil, "%04d-%02d-%02d %02d:%02d:%02d%s",
		day>>5/13, day>>5%13, day&31, t>>12, t>>6&63, t&63, fraction), nil
}

// stamp writes seconds since 1970 in UTC; 0 is no moment.
func stamp(sec uint64, fraction string) []byte {
	if sec == 0 {
		return []byte("0000-00-00 00:00:00" + fraction)
	}
	return append(time.Unix(int64(sec), 0).UTC().AppendFormat(nil, time.DateTime), fraction...)
}

// floatText writes a number as a SELECT gives it to us: the fewest digits that give it
// back, in Go's form, as go-sql-driver reads the server's text into a number.
func floatText(f float64) []byte { return strconv.AppendFloat(nil, f, 'g', -1, 64) }

// decimalText reads a number of precision digits, scale of them behind the point: nine
// digits to four bytes, big-endian, the top bit set, all inverted where negative.
func decimalText(c *cursor, precision, scale int) ([]byte, error) {
	if scale > precision || precision > 65 {
		return nil, fmt.Errorf("read decimal(%d,%d)", precision, scale)
	}
	bytesOf := [10]int{0, 1, 1, 2, 2, 3, 3, 4, 4, 4}
	head, tail := (precision-scale)%9, scale%9
	raw := c.take((precision-scale)/9*4 + bytesOf[head] + scale/9*4 + bytesOf[tail])
	if c.err != nil {
		return nil, c.err
	}
	if len(raw) == 0 {
		return []byte("0"), nil
	}
	b := append([]byte(nil), raw...)
	b[0] ^= 0x80
	negative := b[0]&0x80 != 0
	if negative {
		for i := range b {
			b[i] = ^b[i]
		}
	}
	in := cursor{b: b}
	digits := make([]byte, 0, 80)
	digits = appendDigits(digits, in.big(bytesOf[head]), head)
	for range (precision - scale) / 9 {
		digits = appendDigits(digits, in.big(4), 9)
	}
	for len(digits) > 1 && digits[0] == '0' {
		digits = digits[1:]
	}
	if len(digits) == 0 {
		digits = append(digits, '0')
	}
	if scale > 0 {
		digits = append(digits, '.')
		for range scale / 9 {
			digits = appendDigits(digits, in.big(4), 9)
		}
		digits = appendDigits(digits, in.big(bytesOf[tail]), tail)
	}
	if negative {
		digits = append([]byte{'-'}, digits...)
	}
	return digits, nil
}

// appendDigits writes v with n digits.
func appendDigits(out []byte, v uint64, n int) []byte {
	if n == 0 {
		return out
	}
	return fmt.Appendf(out, "%0*d", n, v)
}
