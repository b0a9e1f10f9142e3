package mssql

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Values in their own lossless form. Numbers, times and uniqueidentifier are text as
// T-SQL writes it, floats the shortest text that gives the same bits again, characters
// are UTF-8 (see wide.go), binaries are themselves. Equal values have equal bytes.

const (
	dateForm     = "2006-01-02"
	timeForm     = "15:04:05.9999999"
	dateTimeForm = "2006-01-02T15:04:05.9999999"
	offsetForm   = "2006-01-02T15:04:05.9999999-07:00"
)

// timeFormOf gives the form of a kind of time, "" for what is none.
func timeFormOf(k kind) string {
	switch k {
	case kindDate:
		return dateForm
	case kindTime:
		return timeForm
	case kindDateTime, kindSmallDateTime, kindDateTime2:
		return dateTimeForm
	case kindOffset:
		return offsetForm
	}
	return ""
}

// encode turns what the TDS driver gives for a column read by typ.read into the
// lossless form.
func (t typ) encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		return strconv.AppendInt([]byte{}, v, 10), nil
	case bool:
		if v {
			return []byte("1"), nil
		}
		return []byte("0"), nil
	case float64:
		if t.kind == kindReal {
			return strconv.AppendFloat([]byte{}, v, 'g', -1, 32), nil
		}
		return strconv.AppendFloat([]byte{}, v, 'g', -1, 64), nil
	case time.Time:
		if form := timeFormOf(t.kind); form != "" {
			return v.AppendFormat([]byte{}, form), nil
		}
	case string:
		return []byte(v), nil
	case []byte:
		return t.encodeBytes(v)
	}
	return nil, fmt.Errorf("the server sent %T for a column of type %s", v, t.base)
}

func (t typ) encodeBytes(v []byte) ([]byte, error) {
	switch {
	case t.text():
		return fromUTF16(v), nil
	case t.kind == kindGUID:
		if len(v) != 16 {
			return nil, fmt.Errorf("the server sent a uniqueidentifier of %d bytes", len(v))
		}
		return []byte(guidText(v)), nil
	}
	return append([]byte{}, v...), nil
}

// native turns the lossless form into what bulk copy takes for a column of the staging
// type. It is strict: what it lets through cannot upset the TDS driver, which ends the
// process on values that do not fit.
func (t typ) native(b []byte) (any, error) {
	if b == nil {
		return nil, nil
	}
	v, err := t.convert(b)
	if err != nil {
		return nil, fmt.Errorf("value %.40q of type %s: %w", b, t.base, err)
	}
	return v, nil
}

func (t typ) convert(b []byte) (any, error) {
	switch t.kind {
	case kindInt:
		return whole(t.base, string(b))
	case kindBit:
		return strconv.ParseBool(string(b))
	case kindDecimal, kindMoney:
		return t.decimal(string(b))
	case kindFloat:
		return finite(strconv.ParseFloat(string(b), 64))
	case kindReal:
		return finite(strconv.ParseFloat(string(b), 32))
	case kindChar, kindNChar, kindXML, kindJSON:
		w := toUTF16(b)
		return w, t.fits(len(w)/2, len(w))
	case kindBinary, kindUDT:
		return b, t.fits(len(b), len(b))
	case kindGUID:
		return guidBytes(string(b))
	}
	form := timeFormOf(t.kind)
	if form == "" {
		return nil, fmt.Errorf("a type that is not carried")
	}
	return sensible(time.Parse(form, string(b)))
}

// fits refuses values longer than the staging column.
func (t typ) fits(units, size int) error {
	limit := t.length
	if limit == unlimited || t.kind == kindChar && limit > 4000 {
		limit = math.MaxInt32
	}
	if units > limit || size > math.MaxInt32 {
		return fmt.Errorf("%d long, longer than the column", units)
	}
	return nil
}

// whole reads an integer; bulk copy would cut one that does not fit.
func whole(base, s string) (any, error) {
	bits := map[string]int{"tinyint": 16, "smallint": 16, "int": 32, "bigint": 64}[base]
	n, err := strconv.ParseInt(s, 10, bits)
	if err == nil && base == "tinyint" && (n < 0 || n > math.MaxUint8) {
		return nil, fmt.Errorf("out of range")
	}
	return n, err
}

// decimal lets through plain decimals of no more digits than the type has.
func (t typ) decimal(s string) (string, error) {
	prec, scale := t.prec, t.scale
	if t.kind == kindMoney {
		prec, scale = 19, 4
	}
	whole, fraction, _ := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	if whole == "" || len(fraction) > scale || len(strings.TrimLeft(whole, "0")) > prec-scale {
		return "", fmt.Errorf("not a number of %d digits, %d of them after the point", prec, scale)
	}
	for _, r := range whole + fraction {
		if r < '0' || r > '9' {
			return "", fmt.Errorf("not a number")
		}
	}
	return s, nil
}

func finite(f float64, err error) (any, error) {
	if err == nil && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return nil, fmt.Errorf("not a finite number")
	}
	return f, err
}

func sensible(t time.Time, err error) (any, error) {
	if err == nil && (t.Year() < 0 || t.Year() > 9999) {
		return nil, fmt.Errorf("not a year that the server has")
	}
	return t, err
}

// guidText spells the 16 bytes of a uniqueidentifier, whose first three groups are
// little-endian.
func guidText(b []byte) string {
	var o [16]byte
	copy(o[:], b)
	binary.BigEndian.PutUint32(o[0:], binary.LittleEndian.Uint32(b[0:]))
	binary.BigEndian.PutUint16(o[4:], binary.LittleEndian.Uint16(b[4:]))
	binary.BigEndian.PutUint16(o[6:], binary.LittleEndian.Uint16(b[6:]))
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", o[0:4], o[4:6], o[6:8], o[8:10], o[10:16]))
}

func guidBytes(s string) ([]byte, error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return nil, fmt.Errorf("not a uniqueidentifier")
	}
	o, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(o) != 16 {
		return nil, fmt.Errorf("not a uniqueidentifier")
	}
	b := append([]byte{}, o...)
	binary.LittleEndian.PutUint32(b[0:], binary.BigEndian.Uint32(o[0:]))
	binary.LittleEndian.PutUint16(b[4:], binary.BigEndian.Uint16(o[4:]))
	binary.LittleEndian.PutUint16(b[6:], binary.BigEndian.Uint16(o[6:]))
	return b, nil
}
