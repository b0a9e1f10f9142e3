package mssql

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// TestValues takes what the TDS driver gives through the lossless form to what bulk
// copy takes.
func TestValues(t *testing.T) {
	utc := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	guid := []byte{0xFF, 0x19, 0x96, 0x6F, 0x86, 0x8B, 0x11, 0xD0, 0xB4, 0x2D, 0, 0xC0, 0x4F, 0xC9, 0x64, 0xFF}
	for _, c := range []struct {
		typ  string
		in   any // as read
		form string
		out  any // for bulk copy
	}{
		{"tinyint", int64(255), "255", int64(255)},
		{"bigint", int64(math.MinInt64), "-9223372036854775808", int64(math.MinInt64)},
		{"bit", true, "1", true},
		{"bit", false, "0", false},
		{"decimal(38,10)", []byte("-9999999999999999999999999999.9999999999"), "-9999999999999999999999999999.9999999999", "-9999999999999999999999999999.9999999999"},
		{"money", []byte("-922337203685477.5808"), "-922337203685477.5808", "-922337203685477.5808"},
		{"float", math.SmallestNonzeroFloat64, "5e-324", math.SmallestNonzeroFloat64},
		{"float", 0.1, "0.1", 0.1},
		{"float", math.Copysign(0, -1), "-0", math.Copysign(0, -1)},
		{"real", float64(math.MaxFloat32), "3.4028235e+38", float64(math.MaxFloat32)},
		{"nvarchar(20)", []byte{0x3d, 0xd8, 0x00, 0xde, 0x20, 0}, "😀 ", []byte{0x3d, 0xd8, 0x00, 0xde, 0x20, 0}},
		{"nvarchar(20)", []byte{0x3d, 0xd8}, "\xed\xa0\xbd", []byte{0x3d, 0xd8}},
		{"nvarchar(20)", []byte{}, "", []byte{}},
		{"varchar(20)", "zü", "zü", []byte{'z', 0, 0xfc, 0}},
		{"varbinary(8)", []byte{0, 1, 255}, "\x00\x01\xff", []byte{0, 1, 255}},
		{"uniqueidentifier", guid, "6F9619FF-8B86-D011-B42D-00C04FC964FF", guid},
		{"date", utc("0001-01-01T00:00:00Z"), "0001-01-01", utc("0001-01-01T00:00:00Z")},
		{"datetime2(7)", utc("9999-12-31T23:59:59.9999999Z"), "9999-12-31T23:59:59.9999999", utc("9999-12-31T23:59:59.9999999Z")},
		{"datetime", utc("1753-01-01T00:00:00.003Z"), "1753-01-01T00:00:00.003", utc("1753-01-01T00:00:00.003Z")},
		{"time(7)", utc("0001-01-01T23:59:59.1234567Z"), "23:59:59.1234567", utc("0000-01-01T23:59:59.1234567Z")},
		{"xml", "<a/>", "<a/>", []byte{'<', 0, 'a', 0, '/', 0, '>', 0}},
	} {
		ty, err := parseType(c.typ)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ty.encode(c.in)
		if err != nil || string(b) != c.form {
			t.Errorf("%s: %v is %q, %v; want %q", c.typ, c.in, b, err, c.form)
			continue
		}
		v, err := ty.native(b)
		if err != nil {
			t.Errorf("%s: %v", c.typ, err)
			continue
		}
		same := false
		switch want := c.out.(type) {
		case []byte:
			same = bytes.Equal(v.([]byte), want) && v.([]byte) != nil
		case float64:
			same = math.Float64bits(v.(float64)) == math.Float64bits(want)
		case time.Time:
			same = v.(time.Time).Equal(want)
		default:
			same = v == c.out
		}
		if !same {
			t.Errorf("%s: %q became %#v, want %#v", c.typ, b, v, c.out)
		}
	}
}

func TestOffsetIsKept(t *testing.T) {
	ty, _ := parseType("datetimeoffset(7)")
	in := time.Date(2026, 7, 31, 23, 59, 59, 123456700, time.FixedZone("", -8*3600-30*60))
	b, err := ty.encode(in)
	if err != nil || string(b) != "2026-07-31T23:59:59.1234567-08:30" {
		t.Fatalf("%q, %v", b, err)
	}
	v, err := ty.native(b)
	if err != nil {
		t.Fatal(err)
	}
	out := v.(time.Time)
	if _, offset := out.Zone(); offset != -30600 || !out.Equal(in) {
		t.Errorf("%v became %v", in, out)
	}
}

// TestForeignValuesAreRefused holds what would make the TDS driver panic or cut away
// from it.
func TestForeignValuesAreRefused(t *testing.T) {
	for typ, values := range map[string][]string{
		"tinyint":          {"256", "-1", "x", ""},
		"int":              {"2147483648", "1.5"},
		"decimal(5,2)":     {"1234.5", "1.234", "", "-", "1e3", "0x1"},
		"money":            {"1.23456", "12345678901234567890"},
		"float":            {"NaN", "Inf", "1e999"},
		"nvarchar(2)":      {"abc", "a😀"},
		"varbinary(2)":     {"abc"},
		"uniqueidentifier": {"6F9619FF", "6F9619FF-8B86-D011-B42D-00C04FC964FG", "6F9619FF-8B86-D011-B42-D00C04FC964FF"},
		"date":             {"2026-13-01", "10000-01-01"},
	} {
		ty, err := parseType(typ)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if got, err := ty.native([]byte(v)); err == nil {
				t.Errorf("%s: %q was taken as %v", typ, v, got)
			}
		}
	}
}

func TestTypesAreSpelledAsRead(t *testing.T) {
	for _, c := range []struct {
		base              string
		max, prec, scale  int
		want, wide, bytes string
	}{
		{"nvarchar", 40, 0, 0, "nvarchar(20)", "nvarchar(20)", "varbinary(40)"},
		{"nvarchar", -1, 0, 0, "nvarchar(max)", "nvarchar(max)", "varbinary(max)"},
		{"varchar", 8000, 0, 0, "varchar(8000)", "nvarchar(max)", "varbinary(max)"},
		{"nvarchar", 8000, 0, 0, "nvarchar(4000)", "nvarchar(4000)", "varbinary(8000)"},
		{"text", 16, 0, 0, "text", "nvarchar(max)", "varbinary(max)"},
		{"decimal", 9, 18, 4, "decimal(18,4)", "", ""},
		{"datetime2", 7, 23, 3, "datetime2(3)", "", ""},
		{"float", 8, 53, 0, "float", "", ""},
	} {
		got := spellType(c.base, c.max, c.prec, c.scale)
		if got != c.want {
			t.Errorf("%s(%d): %s, want %s", c.base, c.max, got, c.want)
		}
		ty, err := parseType(got)
		if err != nil {
			t.Fatal(err)
		}
		if c.wide != "" && (ty.wide() != c.wide || ty.bytes() != c.bytes) {
			t.Errorf("%s is staged as %s, read as %s; want %s, %s", got, ty.wide(), ty.bytes(), c.wide, c.bytes)
		}
	}
	if _, err := parseType("sql_variant"); err == nil {
		t.Error("sql_variant was taken")
	}
}

func TestStream(t *testing.T) {
	rows := []engine.Row{
		{[]byte("1"), nil, []byte{}},
		{[]byte("2"), []byte("x"), bytes.Repeat([]byte("y"), 3000)},
	}
	var buf bytes.Buffer
	w, err := newStreamWriter(&buf, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if err := w.row(r); err != nil {
			t.Fatal(err)
		}
	}
	err = errors.Join(w.begin(), w.value([]byte("3")), w.pieces(), w.piece([]byte("ab")), w.piece([]byte("c")), w.piece(nil), w.value(nil), w.end())
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(bytes.NewReader(buf.Bytes()), 3)
	if err != nil {
		t.Fatal(err)
	}
	want := append(rows, engine.Row{[]byte("3"), []byte("abc"), nil})
	if !slices.EqualFunc(got, want, sameRow) {
		t.Errorf("got %q, want %q", got, want)
	}
	for n := range buf.Len() {
		if _, err := readAll(bytes.NewReader(buf.Bytes()[:n]), 3); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut after %d bytes: %v", n, err)
		}
	}
}

func TestStreamCountsItsRows(t *testing.T) {
	for _, s := range []string{"\x01R\x00E\x02", "\x01R\x00E\x00", "\x01R\x03", "\x01X", "\x02E\x00"} {
		if _, err := readAll(strings.NewReader(streamMagic+s), 1); !errors.Is(err, errStream) {
			t.Errorf("%q: %v, want a damaged stream", s, err)
		}
	}
}

func sameRow(a, b engine.Row) bool {
	return slices.EqualFunc(a, b, func(x, y []byte) bool { return (x == nil) == (y == nil) && bytes.Equal(x, y) })
}

func readAll(r io.Reader, columns int) ([]engine.Row, error) {
	s, err := newStreamReader(r, columns)
	if err != nil {
		return nil, err
	}
	var out []engine.Row
	for {
		more, err := s.next()
		if err != nil || !more {
			return out, err
		}
		row := make(engine.Row, columns)
		for i := range row {
			b, pieces, err := s.value()
			if err != nil {
				return nil, err
			}
			for pieces {
				p, err := s.piece()
				if err != nil {
					return nil, err
				}
				b, pieces = append(b, p...), p != nil
			}
			row[i] = b
		}
		out = append(out, row)
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte(streamMagic + "\x02R\x00\x01\x01aE\x01"))
	f.Add([]byte(streamMagic + "\x02R\x02\x01a\x00\x01\x00E\x01"))
	f.Add([]byte("LWMS\x02"))
	f.Fuzz(func(t *testing.T, b []byte) {
		rows, err := readAll(bytes.NewReader(b), 2)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		w, err := newStreamWriter(&buf, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			if err := w.row(r); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.end(); err != nil {
			t.Fatal(err)
		}
		again, err := readAll(&buf, 2)
		if err != nil || len(again) != len(rows) {
			t.Fatalf("%d rows became %d: %v", len(rows), len(again), err)
		}
	})
}

func FuzzWide(f *testing.F) {
	f.Add([]byte{0x3d, 0xd8, 0x00, 0xde})
	f.Add([]byte{0x00, 0xde, 0x3d, 0xd8})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:len(b)&^1]
		if got := toUTF16(fromUTF16(b)); !bytes.Equal(got, b) {
			t.Fatalf("% x became % x", b, got)
		}
	})
}

func FuzzNative(f *testing.F) {
	types := []string{"int", "decimal(9,2)", "money", "float", "real", "nvarchar(5)", "varbinary(3)", "uniqueidentifier", "datetimeoffset(7)", "time(3)", "bit"}
	f.Add(uint8(1), []byte("-1.25"))
	f.Fuzz(func(t *testing.T, n uint8, b []byte) {
		ty, err := parseType(types[int(n)%len(types)])
		if err != nil {
			t.Fatal(err)
		}
		v, err := ty.native(b)
		if err != nil || b == nil {
			return
		}
		if v == nil {
			t.Fatalf("%q became NULL", b)
		}
	})
}
