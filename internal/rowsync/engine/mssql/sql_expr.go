package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// dialect is what was probed of a server (probe.go) and changes how T-SQL is written.
type dialect struct {
	// UTF16: CAST(nvarchar AS varbinary) gives UTF-16LE, so that characters can be read
	// as bytes and a lone surrogate survives.
	UTF16 bool
	// Float3: CONVERT(…, float, 3) gives distinct text for distinct floats.
	Float3 bool
	// UTF8 makes row hashes of UTF-8 on a server that would hash UTF-16, so that they
	// agree with those of one that hashes UTF-8.
	UTF8 bool
	// Collate: COLLATE takes the names that sys.columns gives.
	Collate bool
	// RowCount: SET ROWCOUNT 0 is understood.
	RowCount bool
}

// utf8Collation exists from SQL Server 2019 on.
const utf8Collation = "Latin1_General_100_CI_AS_SC_UTF8"

// id quotes an identifier.
func id(name string) string { return "[" + strings.ReplaceAll(name, "]", "]]") + "]" }

// obj quotes the name of an object.
func obj(n engine.Name) string { return id(n.Schema) + "." + id(n.Name) }

// lit quotes a string.
func lit(s string) string { return "N'" + strings.ReplaceAll(s, "'", "''") + "'" }

// collate is the COLLATE clause of a column of a made table.
func (c col) collate(d dialect) string {
	if d.Collate && c.Collation != "" && c.text() {
		return " COLLATE " + c.Collation
	}
	return ""
}

// declare is the column in a staging table, named name. Characters are staged as
// nvarchar whatever their type: bulk copy would write UTF-8 into a code page.
func (c col) declare(name string, d dialect) string {
	t := c.Type
	switch {
	case c.text():
		t = c.wide()
	case c.kind == kindUDT || c.base == "image":
		t = "varbinary(max)"
	}
	return id(name) + " " + t + c.collate(d) + " NULL"
}

// stored turns the column of a staging table into the type of the table's column.
func (c col) stored(alias, name string) string {
	s := alias + "." + id(name)
	switch {
	case c.base == "text":
		return "CAST(" + s + " AS varchar(max))"
	case c.kind == kindXML:
		// Style 1 keeps white space that CAST would take for insignificant.
		return "CONVERT(xml, " + s + ", 1)"
	case c.kind == kindChar, c.kind == kindJSON, c.kind == kindUDT:
		return "CAST(" + s + " AS " + c.Type + ")"
	}
	return s
}

// of is the column of a table.
func (c col) of(alias string) string { return alias + "." + id(c.Name) }

// read is the expression that reads the column of a table for typ.encode.
func (c col) read(alias string, d dialect) string {
	s := c.of(alias)
	switch {
	case c.kind == kindUDT, c.base == "image":
		return "CAST(" + s + " AS varbinary(max))"
	case !c.text():
		return s
	}
	w := s
	if c.kind != kindNChar || c.base == "ntext" {
		w = "CAST(" + s + " AS " + c.wide() + ")"
	}
	if d.UTF16 {
		return "CAST(" + w + " AS " + c.bytes() + ")"
	}
	return w
}

// length is the size of a value, in bytes of the server.
func (c col) length(alias string) string { return "DATALENGTH(" + c.of(alias) + ")" }

// piece is a part of a large value: from @p1, @p2 of what the server counts.
func (c col) piece(alias string, d dialect) string {
	return "SUBSTRING(" + c.read(alias, d) + ", @p1, @p2)"
}

// rowText is one text for all values of a row: each column is '-' for NULL, else '+'
// and the value; characters are preceded by their length. Different rows have
// different texts, whatever the collations say is equal.
func rowText(cols []col, alias string, d dialect) string {
	mixed := collations(cols) > 1
	parts := make([]string, 0, len(cols))
	for _, c := range cols {
		text := "CONCAT(N'+', " + c.hashText(alias, d, mixed) + ")"
		if c.Nullable {
			text = "CASE WHEN " + c.of(alias) + " IS NULL THEN N'-' ELSE " + text + " END"
		}
		parts = append(parts, text)
	}
	return concat(parts)
}

// concat joins texts of any length; CONCAT takes at most 254 arguments.
func concat(parts []string) string {
	const most = 100
	for len(parts) > most {
		var groups []string
		for len(parts) > 0 {
			n := min(most, len(parts))
			groups = append(groups, "CONCAT(CAST(N'' AS nvarchar(max)), "+strings.Join(parts[:n], ", ")+")")
			parts = parts[n:]
		}
		parts = groups
	}
	return "CONCAT(CAST(N'' AS nvarchar(max)), " + strings.Join(parts, ", ") + ")"
}

func collations(cols []col) int {
	seen := map[string]bool{}
	for _, c := range cols {
		if c.Collation != "" {
			seen[strings.ToLower(c.Collation)] = true
		}
	}
	return len(seen)
}

// hashText is the arguments of CONCAT that spell one value that is not NULL.
func (c col) hashText(alias string, d dialect, mixed bool) string {
	s := c.of(alias)
	switch c.kind {
	case kindInt, kindBit:
		return "CAST(" + s + " AS nvarchar(20)), N';'"
	case kindDecimal:
		return "CAST(" + s + " AS nvarchar(41)), N';'"
	case kindMoney:
		// As it is, money becomes text of two decimals.
		return "CAST(CAST(" + s + " AS decimal(19,4)) AS nvarchar(41)), N';'"
	case kindFloat, kindReal:
		// As they are, floats become text of six digits on SQL Server.
		if d.Float3 {
			return "CONVERT(nvarchar(40), " + s + ", 3), N';'"
		}
		return "CAST(" + s + " AS nvarchar(40)), N';'"
	case kindGUID:
		return "UPPER(CAST(" + s + " AS nvarchar(36)))"
	case kindDate, kindTime, kindDateTime2, kindOffset:
		return "CAST(" + s + " AS nvarchar(34)), N';'"
	case kindDateTime, kindSmallDateTime:
		// As they are, these become text without seconds, in the session's language.
		return "CONVERT(nvarchar(34), " + s + ", 121), N';'"
	case kindBinary, kindUDT:
		if c.kind == kindUDT || c.base == "image" {
			s = "CAST(" + s + " AS varbinary(max))"
		}
		return "CAST(DATALENGTH(" + s + ") AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', " + s + "), 1, 8) AS bigint) AS nvarchar(20)), N';'"
	}
	if c.kind != kindNChar || c.base == "ntext" {
		s = "CAST(" + s + " AS nvarchar(max))"
	}
	size := "DATALENGTH(" + s + ")"
	if d.UTF8 {
		size = "DATALENGTH(CAST(" + s + " COLLATE " + utf8Collation + " AS varchar(max)))"
	}
	if mixed {
		s += " COLLATE Latin1_General_BIN2"
	}
	return "CAST(" + size + " AS nvarchar(20)), N':', " + s
}

// rowHash is the hash of all values of a row: 32 bytes.
func rowHash(cols []col, alias string, d dialect) string {
	text := rowText(cols, alias, d)
	if d.UTF8 {
		text = "CAST(" + text + " COLLATE " + utf8Collation + " AS varchar(max))"
	}
	return "HASHBYTES('SHA2_256', " + text + ")"
}

// equal compares the key of a table with the staged one, column by column, in the
// collation of the table's.
func equal(key []col, table, staged string) string {
	parts := make([]string, 0, len(key))
	for _, c := range key {
		parts = append(parts, c.of(table)+" = "+c.stored(staged, c.staged()))
	}
	return strings.Join(parts, " AND ")
}

// bound is one side of a range of keys. T-SQL has no row comparison, so a key of
// several columns is (a > x) OR (a = x AND b > y) …, with the leading column's part
// said once more by itself: that is what the server seeks by. at gives the bound's
// value of a column.
func bound(key []col, table string, at func(col) string, upper bool) string {
	than, orEqual := ">", ""
	if upper {
		than, orEqual = "<", "="
	}
	last := len(key) - 1
	if last == 0 {
		return key[0].of(table) + " " + than + orEqual + " " + at(key[0])
	}
	var or []string
	for i := range key {
		var and []string
		for j := range i {
			and = append(and, key[j].of(table)+" = "+at(key[j]))
		}
		op := than
		if i == last {
			op += orEqual
		}
		and = append(and, key[i].of(table)+" "+op+" "+at(key[i]))
		or = append(or, "("+strings.Join(and, " AND ")+")")
	}
	return fmt.Sprintf("%s %s= %s AND (%s)", key[0].of(table), than, at(key[0]), strings.Join(or, " OR "))
}

// list joins what f makes of the columns.
func list(cols []col, f func(col) string) string {
	parts := make([]string, 0, len(cols))
	for _, c := range cols {
		parts = append(parts, f(c))
	}
	return strings.Join(parts, ", ")
}
