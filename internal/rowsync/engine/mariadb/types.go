package mariadb

import (
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// kind is how the values of a type are read, written and compared.
type kind int

const (
	number_  kind = iota // whole numbers
	decimal              // fixed point
	floating             // float and double
	bits
	text   // characters of a character set
	fixed  // binary(n)
	bytes_ // varbinary and blobs
	clock  // date, time, datetime, timestamp
	year
	enum
	set
	document // MySQL's json; MariaDB's is text
	uuid
	inet6
	inet4
	geometry
	other
)

// column is a column as its type says.
type column struct {
	engine.Column
	kind     kind
	unsigned bool
	zerofill bool
	length   int    // of binary(n), bit(n); 0 where the type has none
	decimals int    // of times
	charset  string // of text, enum and set
	members  string // of enum and set: the list between the parentheses
	large    bool   // values may be larger than a megabyte
	packed   bool   // COMPRESSED
}

// kinds maps the first word of a type.
func kindOf(word string) kind {
	switch word {
	case "tinyint", "smallint", "mediumint", "int", "bigint":
		return number_
	case "decimal":
		return decimal
	case "float", "double":
		return floating
	case "bit":
		return bits
	case "char", "varchar", "tinytext", "text", "mediumtext", "longtext":
		return text
	case "binary":
		return fixed
	case "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return bytes_
	case "date", "time", "datetime", "timestamp":
		return clock
	case "year":
		return year
	case "enum":
		return enum
	case "set":
		return set
	case "json":
		return document
	case "uuid":
		return uuid
	case "inet6":
		return inet6
	case "inet4":
		return inet4
	case "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
		"geometrycollection", "geomcollection":
		return geometry
	}
	return other
}

const charsetWord = " CHARACTER SET "

// typed reads the type of a column.
func typed(c engine.Column) column {
	out := column{Column: c}
	spec := c.Type
	if i := strings.LastIndex(spec, charsetWord); i >= 0 {
		out.charset, spec = spec[i+len(charsetWord):], spec[:i]
	}
	word := spec
	for i := range len(spec) {
		if b := spec[i]; (b < 'a' || b > 'z') && (b < '0' || b > '9') {
			word = spec[:i]
			break
		}
	}
	out.kind = kindOf(word)
	rest := spec[len(word):]
	if open, end := strings.IndexByte(rest, '('), strings.LastIndexByte(rest, ')'); open == 0 && end > 0 {
		args := rest[1:end]
		rest = rest[end+1:]
		if out.kind == enum || out.kind == set {
			out.members = args
		} else {
			first, second, _ := strings.Cut(args, ",")
			out.length, _ = strconv.Atoi(first)
			out.decimals, _ = strconv.Atoi(second)
		}
	}
	out.unsigned = strings.Contains(rest, "unsigned")
	out.zerofill = strings.Contains(rest, "zerofill")
	out.packed = strings.Contains(rest, "COMPRESSED")
	switch word {
	case "mediumblob", "longblob", "mediumtext", "longtext", "json":
		out.large = true
	}
	return out
}

// carried returns the columns whose values travel.
func carried(t *engine.Table) []column {
	var out []column
	for _, i := range t.Carried() {
		out = append(out, typed(t.Columns[i]))
	}
	return out
}

// keyed returns the columns of the key.
func keyed(t *engine.Table) []column {
	var out []column
	for _, i := range t.Key {
		out = append(out, typed(t.Columns[i]))
	}
	return out
}

// keyPlaces returns where the key's columns stand among the carried ones.
func keyPlaces(t *engine.Table) []int {
	at := map[int]int{}
	for n, i := range t.Carried() {
		at[i] = n
	}
	var out []int
	for _, i := range t.Key {
		out = append(out, at[i])
	}
	return out
}

// keyOf picks the key out of a row.
func keyOf(places []int, r engine.Row) engine.Row {
	out := make(engine.Row, len(places))
	for i, p := range places {
		out[i] = r[p]
	}
	return out
}
