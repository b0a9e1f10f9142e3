package postgres

import (
	"encoding/binary"
	"strings"
	"testing"
)

// messages are what a server sends for a small transaction.
func messages() [][]byte {
	u16 := func(n int) string { return string(binary.BigEndian.AppendUint16(nil, uint16(n))) }
	u32 := func(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	u64 := func(n int) string { return string(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	value := func(s string) string { return "t" + u32(len(s)) + s }
	rel := "R" + u32(7) + "public\x00t\x00d" + u16(2) + "\x01id\x00" + u32(23) + u32(-1) + "\x00v\x00" + u32(25) + u32(-1)
	var out [][]byte
	for _, s := range []string{
		"B" + u64(0x1600) + u64(1000000) + u32(9), rel,
		"I" + u32(7) + "N" + u16(2) + value("1") + "n",
		"U" + u32(7) + "K" + u16(2) + value("1") + "n" + "N" + u16(2) + value("2") + "u",
		"D" + u32(7) + "O" + u16(2) + value("2") + value(""),
		"T" + u32(2) + "\x01" + u32(7) + u32(8),
		"M\x01" + u64(5) + "leeward\x00" + u32(4) + "mark", "O" + u64(1) + "o\x00", "Y" + u32(1) + "s\x00t\x00",
		"C\x00" + u64(0x1600) + u64(0x1700) + u64(2000000),
	} {
		out = append(out, []byte(s))
	}
	return out
}

func TestDecode(t *testing.T) {
	var ms []message
	for _, b := range messages() {
		m, err := decode(b)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		ms = append(ms, m)
	}
	if b := ms[0]; b.final != 0x1600 || b.time.Second() != 1 || b.xid != 9 {
		t.Errorf("begin: %+v", b)
	}
	if r := ms[1]; r.relNames != [2]string{"public", "t"} || len(r.columns) != 2 || !r.columns[0].key || r.columns[1].key || r.columns[1].mod != -1 || r.ident != 'd' {
		t.Errorf("relation: %+v", r)
	}
	if i := ms[2].new; string(i.values[0]) != "1" || i.values[1] != nil || i.absent != nil {
		t.Errorf("insert: %+v", i)
	}
	if u := ms[3]; u.oldKind != 'K' || string(u.old.values[0]) != "1" || !u.new.absent[1] || u.new.absent[0] {
		t.Errorf("update: %+v", u)
	}
	if d := ms[4]; d.old.values[1] == nil || len(d.old.values[1]) != 0 {
		t.Errorf("delete: an empty value is %v", d.old.values[1])
	}
	if x := ms[5]; len(x.oids) != 2 || x.oids[1] != 8 {
		t.Errorf("truncate: %+v", x)
	}
	if m := ms[6]; m.prefix != "leeward" || !m.inTx {
		t.Errorf("message: %+v", m)
	}
	if c := ms[9]; c.final != 0x1700 || c.time.Second() != 2 {
		t.Errorf("commit: %+v", c)
	}
}

// TestDecodeCutShort cuts every message at every byte: none may be taken for whole.
func TestDecodeCutShort(t *testing.T) {
	for _, b := range messages() {
		if strings.IndexByte("OYM", b[0]) >= 0 {
			continue // their ends are not read
		}
		for n := range b {
			if m, err := decode(b[:n]); err == nil {
				t.Errorf("%q cut to %d bytes is %+v", b, n, m)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range messages() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		size := 0
		for _, v := range append(append([][]byte(nil), m.old.values...), m.new.values...) {
			size += len(v)
		}
		if size > len(b) || len(m.columns) > len(b) || len(m.oids)*4 > len(b) {
			t.Errorf("%q holds more than it is: %+v", b, m)
		}
	})
}

func FuzzParseArray(f *testing.F) {
	for _, s := range []string{`{}`, `{a,"b c","\"\\",NULL}`, `{"`, `{\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := 0
		for _, x := range parseArray(s) {
			n += len(x)
		}
		if n > len(s) {
			t.Errorf("%q: %d bytes", s, n)
		}
	})
}

func FuzzCopyOut(f *testing.F) {
	f.Add([]byte("H\x00\x00\x00\x07\x00\x00\x00d\x00\x00\x00\x05xC\x00\x00\x00\x0bCOPY 1\x00Z\x00\x00\x00\x05I"))
	f.Add([]byte("E\x00\x00\x00\x10SERROR\x00C42601\x00\x00Z\x00\x00\x00\x05I"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out strings.Builder
		c := copyReader{r: newBuffered(b), w: &out}
		_, _ = c.run()
		if out.Len() > len(b) {
			t.Errorf("%q gave %d bytes", b, out.Len())
		}
	})
}

func TestLSN(t *testing.T) {
	for s, want := range map[string]lsn{"16/B374D848": 0x16B374D848, "0/0": 0, "FFFFFFFF/FFFFFFFF": 1<<64 - 1} {
		if got, err := parseLSN(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s is %s, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "1", "x/1", "1/", "100000000/0", "ct:1"} {
		if _, err := parseLSN(s); err == nil {
			t.Errorf("%q is taken for a position", s)
		}
	}
}

func TestObjectNames(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range []string{"erp", "Erp", "erp.", "erp/", "", strings.Repeat("x", 100), strings.Repeat("x", 101), "ü"} {
		n := objectName(s)
		if len(n) > 63 || seen[n] || strings.Trim(n, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
			t.Errorf("stream %q is named %q", s, n)
		}
		seen[n] = true
	}
	if objectName("erp") != "leeward_erp" {
		t.Error(objectName("erp"))
	}
}

// TestOutcome holds what a run of changes comes to, without a server.
func TestOutcome(t *testing.T) {
	o := newOutcome(testTable())
	row := func(id, big string) [][]byte { return [][]byte{[]byte(id), []byte(big)} }
	unset := []bool{false, true}
	for _, c := range testChanges(row, unset) {
		if err := o.add(c); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]string{}
	for _, s := range o.order {
		switch {
		case s.row == nil:
			got[string(s.key[0])] = "gone"
		case s.unset != nil:
			got[string(s.key[0])] = "as under " + string(s.base[0])
		default:
			got[string(s.key[0])] = string(s.row[1])
		}
	}
	want := map[string]string{"1": "as under 2", "2": "as under 1", "t": "gone", "3": "new", "4": "gone", "5": "gone", "6": "x"}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s is %q, want %q", k, got[k], v)
		}
	}
}
