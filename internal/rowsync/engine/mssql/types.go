package mssql

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// kind is how values of a type are read, staged, hashed and written.
type kind int

const (
	kindUnknown kind = iota
	kindInt          // tinyint, smallint, int, bigint
	kindBit
	kindDecimal // decimal, numeric
	kindMoney   // money, smallmoney
	kindFloat   // float
	kindReal    // real
	kindChar    // char, varchar, text: bytes of a code page
	kindNChar   // nchar, nvarchar, ntext: UTF-16
	kindBinary  // binary, varbinary, image
	kindGUID
	kindDate
	kindTime
	kindDateTime // datetime: ticks of 1/300 s
	kindSmallDateTime
	kindDateTime2
	kindOffset // datetimeoffset
	kindXML
	kindJSON
	kindUDT // geography, geometry, hierarchyid: carried in their own binary form
)

// unlimited is the length of varchar(max) and its like, and of text, ntext, image.
const unlimited = -1

// typ is a column type taken apart.
type typ struct {
	kind        kind
	base        string
	length      int // characters or bytes; unlimited; 0 where the type has none
	prec, scale int
}

var kinds = map[string]kind{
	"tinyint": kindInt, "smallint": kindInt, "int": kindInt, "bigint": kindInt, "bit": kindBit,
	"decimal": kindDecimal, "numeric": kindDecimal, "money": kindMoney, "smallmoney": kindMoney,
	"float": kindFloat, "real": kindReal,
	"char": kindChar, "varchar": kindChar, "text": kindChar,
	"nchar": kindNChar, "nvarchar": kindNChar, "ntext": kindNChar, "sysname": kindNChar,
	"binary": kindBinary, "varbinary": kindBinary, "image": kindBinary,
	"uniqueidentifier": kindGUID, "date": kindDate, "time": kindTime, "datetime": kindDateTime,
	"smalldatetime": kindSmallDateTime, "datetime2": kindDateTime2, "datetimeoffset": kindOffset,
	"xml": kindXML, "json": kindJSON, "geography": kindUDT, "geometry": kindUDT, "hierarchyid": kindUDT,
}

// parseType takes apart what spellType wrote.
func parseType(s string) (typ, error) {
	base, rest, _ := strings.Cut(s, "(")
	t := typ{base: strings.ToLower(strings.TrimSpace(base))}
	t.kind = kinds[t.base]
	if t.kind == kindUnknown {
		return t, fmt.Errorf("type %s is not known", s)
	}
	first, second, both := strings.Cut(strings.TrimSuffix(rest, ")"), ",")
	n, err := size(first)
	if err != nil {
		return t, fmt.Errorf("read type %q: %w", s, err)
	}
	m, err := size(second)
	if err != nil {
		return t, fmt.Errorf("read type %q: %w", s, err)
	}
	switch t.kind {
	case kindDecimal:
		t.prec, t.scale = n, m
		if !both && n == 0 {
			t.prec = 18
		}
	case kindTime, kindDateTime2, kindOffset:
		t.scale = n
		if rest == "" {
			t.scale = 7
		}
	case kindChar, kindNChar, kindBinary:
		t.length = n
		switch t.base {
		case "text", "ntext", "image":
			t.length = unlimited
		case "sysname":
			t.length = 128
		}
		if t.length == 0 {
			t.length = 1
		}
	case kindXML, kindJSON, kindUDT:
		t.length = unlimited
	}
	return t, nil
}

func size(s string) (int, error) {
	switch s = strings.TrimSpace(s); s {
	case "":
		return 0, nil
	case "max":
		return unlimited, nil
	}
	return strconv.Atoi(s)
}

// spellType writes a type as DDL does. maxLength is in bytes, as in sys.columns.
func spellType(base string, maxLength, prec, scale int) string {
	length := strconv.Itoa(maxLength)
	switch {
	case maxLength < 0:
		length = "max"
	case base == "nchar" || base == "nvarchar":
		length = strconv.Itoa(maxLength / 2)
	}
	switch base {
	case "decimal", "numeric":
		return fmt.Sprintf("%s(%d,%d)", base, prec, scale)
	case "time", "datetime2", "datetimeoffset":
		return fmt.Sprintf("%s(%d)", base, scale)
	case "char", "varchar", "nchar", "nvarchar", "binary", "varbinary":
		return fmt.Sprintf("%s(%s)", base, length)
	case "sysname":
		return "nvarchar(128)"
	}
	return base
}

// text reports whether values are characters.
func (t typ) text() bool {
	return t.kind == kindChar || t.kind == kindNChar || t.kind == kindXML || t.kind == kindJSON
}

// large reports whether one value may be larger than a page, so that it must be read
// and written in pieces when it is.
func (t typ) large() bool { return t.length == unlimited }

// wide is the nvarchar that holds any value of a type of characters.
func (t typ) wide() string {
	if t.length > 0 && t.length <= 4000 {
		return fmt.Sprintf("nvarchar(%d)", t.length)
	}
	return "nvarchar(max)"
}

// bytes is the varbinary that holds the UTF-16 of any value of a type of characters.
func (t typ) bytes() string {
	if t.length > 0 && t.length <= 4000 {
		return fmt.Sprintf("varbinary(%d)", 2*t.length)
	}
	return "varbinary(max)"
}

// col is a carried column with its type taken apart.
type col struct {
	engine.Column
	typ
	i int // index into Table.Columns
}

// name of the column in staging tables.
func (c col) staged() string { return "c" + strconv.Itoa(c.i) }

// carried returns the carried columns of a table.
func carried(t *engine.Table) ([]col, error) { return pick(t, t.Carried()) }

// keyOf returns the key columns of a table.
func keyOf(t *engine.Table) ([]col, error) {
	if len(t.Key) == 0 {
		return nil, fmt.Errorf("table %s has no key", t.Name)
	}
	return pick(t, t.Key)
}

func pick(t *engine.Table, indices []int) ([]col, error) {
	out := make([]col, 0, len(indices))
	for _, i := range indices {
		ty, err := parseType(t.Columns[i].Type)
		if err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", t.Columns[i].Name, t.Name, err)
		}
		if !word(t.Columns[i].Collation) {
			return nil, fmt.Errorf("column %s of %s: %q is no name of a collation", t.Columns[i].Name, t.Name, t.Columns[i].Collation)
		}
		out = append(out, col{Column: t.Columns[i], typ: ty, i: i})
	}
	return out, nil
}

// word reports whether s may stand in a statement unquoted, as names of collations must.
// A table's definition may come from the other end.
func word(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}
