package mariadb

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// ident quotes a name.
func ident(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

// idents quotes names, with a prefix that may be empty.
func idents(prefix string, cols []column) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = prefix + ident(c.Name)
	}
	return strings.Join(out, ", ")
}

// quote writes bytes as a string literal. The session's character set is binary and
// its sql_mode has no NO_BACKSLASH_ESCAPES.
func quote(b []byte) string {
	var out strings.Builder
	out.Grow(len(b) + 2)
	out.WriteByte('\'')
	for _, c := range b {
		switch c {
		case 0:
			out.WriteString(`\0`)
		case '\n':
			out.WriteString(`\n`)
		case '\r':
			out.WriteString(`\r`)
		case 0x1a:
			out.WriteString(`\Z`)
		case '\'', '\\':
			out.WriteByte('\\')
			out.WriteByte(c)
		default:
			out.WriteByte(c)
		}
	}
	out.WriteByte('\'')
	return out.String()
}

// expr reads a column in the form in which values travel.
func (c column) expr(prefix string) string {
	name := prefix + ident(c.Name)
	switch {
	case c.kind == floating:
		// A float's own text has six digits.
		return "CAST(" + name + " AS DOUBLE)"
	case c.kind == uuid || c.kind == inet6:
		return "CAST(" + name + " AS BINARY(16))"
	case c.kind == inet4:
		return "CAST(" + name + " AS BINARY(4))"
	case c.kind == year:
		// The text of 0000 is 0, which means 2000 where it is read.
		return "LPAD(" + name + ", 4, '0')"
	case c.zerofill:
		return "(" + name + " + 0)"
	}
	return name
}

// exprs lists what SELECT reads of the columns.
func exprs(prefix string, cols []column) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = c.expr(prefix)
	}
	return strings.Join(out, ", ")
}

// literal writes a value so that it compares as its column does.
func (c column) literal(v []byte) string {
	if v == nil {
		return "NULL"
	}
	switch c.kind {
	case number_, decimal, floating, year:
		if numeric(v) {
			return string(v)
		}
		return quote(v)
	case clock:
		return quote(v)
	case bits:
		return "CAST(0x00" + hex.EncodeToString(v) + " AS UNSIGNED)"
	case text, enum, set:
		return "_" + c.charset + quote(v)
	case uuid:
		if len(v) == 16 {
			h := hex.EncodeToString(v)
			return "_latin1'" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:] + "'"
		}
	case inet6, inet4:
		if a, ok := netip.AddrFromSlice(v); ok {
			return "_latin1'" + a.String() + "'"
		}
	}
	return "_binary" + quote(v)
}

// numeric tells whether v may stand in SQL as a number.
func numeric(v []byte) bool {
	for _, b := range v {
		if (b < '0' || b > '9') && b != '-' && b != '+' && b != '.' && b != 'e' && b != 'E' {
			return false
		}
	}
	return len(v) > 0
}

// side returns both sides of a comparison of order. An enum sorts by the number of
// its member, but compares with text as text.
func (c column) side(prefix string, v []byte) (left, right string) {
	name := prefix + ident(c.Name)
	if c.kind == enum {
		return name + " + 0", "FIELD(" + c.literal(v) + "," + introduced(c.members) + ")"
	}
	return name, c.literal(v)
}

// introduced writes the members of an enum as literals, saying of each that it is
// UTF-8, as the catalogue is.
func introduced(members string) string {
	list := splitMembers(members)
	for i, m := range list {
		list[i] = "_utf8mb4" + quote([]byte(m))
	}
	return strings.Join(list, ",")
}

// splitMembers reads the list of an enum or a set: 'a','it”s'.
func splitMembers(s string) []string {
	var out []string
	for i := 0; i < len(s); i++ {
		if s[i] != '\'' {
			continue
		}
		var m strings.Builder
		for i++; i < len(s); i++ {
			if s[i] == '\'' {
				if i+1 >= len(s) || s[i+1] != '\'' {
					break
				}
				i++
			}
			m.WriteByte(s[i])
		}
		out = append(out, m.String())
	}
	return out
}

// equal is the condition that the key is k.
func equal(prefix string, key []column, k engine.Row) string {
	parts := make([]string, len(key))
	for i, c := range key {
		parts[i] = prefix + ident(c.Name) + " = " + c.literal(k[i])
	}
	return "(" + strings.Join(parts, " AND ") + ")"
}

// beyond is the condition that the key is after (op ">") or before (op "<") k;
// orEqual lets it be k as well. It is written out because the server does not use an
// index for a comparison of tuples.
func beyond(prefix string, key []column, k engine.Row, op string, orEqual bool) string {
	var parts []string
	for i := range key {
		var and []string
		for j := range i {
			l, r := key[j].side(prefix, k[j])
			and = append(and, l+" = "+r)
		}
		last := op
		if orEqual && i == len(key)-1 {
			last += "="
		}
		l, r := key[i].side(prefix, k[i])
		parts = append(parts, strings.Join(append(and, l+" "+last+" "+r), " AND "))
	}
	cond := "(" + strings.Join(parts, " OR ") + ")"
	if len(key) > 1 {
		// What the whole implies for the first column, so that a range is seen.
		l, r := key[0].side(prefix, k[0])
		cond = "(" + l + " " + op + "= " + r + " AND " + cond + ")"
	}
	return cond
}

// within is the condition that the key is in a range; "TRUE" for all.
func within(prefix string, key []column, r engine.Range) string {
	var parts []string
	if r.From != nil {
		parts = append(parts, beyond(prefix, key, r.From, ">", false))
	}
	if r.To != nil {
		parts = append(parts, beyond(prefix, key, r.To, "<", true))
	}
	if len(parts) == 0 {
		return "TRUE"
	}
	return strings.Join(parts, " AND ")
}

// among is the condition that the key is one of keys.
func among(prefix string, key []column, keys []engine.Row) string {
	var out strings.Builder
	if len(key) == 1 {
		out.WriteString(prefix + ident(key[0].Name) + " IN (")
		for i, k := range keys {
			if i > 0 {
				out.WriteByte(',')
			}
			out.WriteString(key[0].literal(k[0]))
		}
		out.WriteByte(')')
		return out.String()
	}
	for i, k := range keys {
		if i > 0 {
			out.WriteString(" OR ")
		}
		out.WriteString(equal(prefix, key, k))
	}
	return "(" + out.String() + ")"
}

// hashed is the SHA-1 of all columns of a row. Bytes are hashed, not collated text;
// a length stands before whatever may vary in it, so that columns are told apart,
// and NULL is told from empty.
func hashed(prefix string, cols []column) string {
	parts := make([]string, 0, len(cols))
	for _, c := range cols {
		parts = append(parts, c.hashPart(prefix))
	}
	return "SHA1(CONCAT_WS(',', " + strings.Join(parts, ", ") + "))"
}

// short is the longest large value hashed as it is. Longer ones are hashed by
// themselves first: what CONCAT_WS makes may not exceed max_allowed_packet.
const short = 4096

func (c column) hashPart(prefix string) string {
	name, v := prefix+ident(c.Name), c.expr(prefix)
	switch c.kind {
	case number_, decimal, floating, clock, year, bits:
		if c.kind == bits {
			v = name + " + 0"
		}
		if c.Nullable {
			v = "IFNULL(" + v + ", 'N')"
		}
		return v
	case uuid, inet6, inet4:
		return "IFNULL(HEX(" + v + "), 'N')"
	case geometry:
		v = "CAST(" + name + " AS BINARY)"
	}
	if c.large || c.kind == geometry {
		v = fmt.Sprintf("IF(LENGTH(%s) > %d, SHA1(%s), %s)", name, short, v, v)
	}
	if c.kind != fixed && c.kind != bytes_ {
		v = "CAST(" + v + " AS BINARY)"
	}
	if !c.Nullable {
		return "LENGTH(" + name + "), " + v
	}
	return "IFNULL(LENGTH(" + name + "), 'N'), IFNULL(" + v + ", '')"
}

// hash64 is 64 bits of the hash of a row, as a number.
func hash64(prefix string, cols []column) string {
	return "CAST(CONV(LEFT(" + hashed(prefix, cols) + ", 16), 16, 10) AS UNSIGNED)"
}

// qualified names a table of this database.
func (s *server) qualified(n engine.Name) string { return ident(s.db) + "." + ident(n.Name) }

// rowKey makes a string of a row: equal rows, and no others, give equal strings.
func rowKey(r engine.Row) string {
	var out strings.Builder
	for _, v := range r {
		if v == nil {
			out.WriteString("N;")
			continue
		}
		fmt.Fprintf(&out, "%d:", len(v))
		out.Write(v)
	}
	return out.String()
}
