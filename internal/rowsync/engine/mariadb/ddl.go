package mariadb

import (
	"encoding/binary"
	"fmt"
	"path"
	"strings"
)

// token is a word, a name, a string or a sign of a statement.
type token struct {
	text       string // of words in capitals, of names without their quotes
	kind       byte   // w, n, s or the sign itself
	start, end int    // in the statement
}

func wordByte(b byte) bool {
	return b == '_' || b == '$' || b == '@' || b >= 0x80 || b >= '0' && b <= '9' || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
}

// tokens cuts a statement up; comments are left out, what stands in executable ones
// is not.
func tokens(q string, ansi bool) []token {
	var out []token
	for i := 0; i < len(q); {
		b := q[i]
		switch {
		case b == '#' || strings.HasPrefix(q[i:], "-- ") || strings.HasPrefix(q[i:], "--\n"):
			i += max(strings.IndexByte(q[i:]+"\n", '\n'), 1)
		case strings.HasPrefix(q[i:], "/*!") || strings.HasPrefix(q[i:], "/*M!"):
			for i += 2; i < len(q) && (q[i] == 'M' || q[i] == '!' || q[i] >= '0' && q[i] <= '9'); i++ {
			}
		case strings.HasPrefix(q[i:], "*/"):
			i += 2
		case strings.HasPrefix(q[i:], "/*"):
			end := strings.Index(q[i+2:], "*/")
			if end < 0 {
				return out
			}
			i += end + 4
		case b == '`' || b == '"' || b == '\'':
			t := quoted(q, i, b)
			if b == '\'' || b == '"' && !ansi {
				t.kind = 's'
			}
			out = append(out, t)
			i = t.end
		case wordByte(b):
			j := i
			for j < len(q) && wordByte(q[j]) {
				j++
			}
			out = append(out, token{text: q[i:j], kind: 'w', start: i, end: j})
			i = j
		case b > ' ':
			out = append(out, token{text: q[i : i+1], kind: b, start: i, end: i + 1})
			i++
		default:
			i++
		}
	}
	return out
}

// quoted reads what begins with a quote at i; doubled quotes stand for one.
func quoted(q string, i int, quote byte) token {
	var text strings.Builder
	j := i + 1
	for ; j < len(q); j++ {
		if q[j] == '\\' && quote != '`' && j+1 < len(q) {
			j++
		} else if q[j] == quote {
			if j+1 >= len(q) || q[j+1] != quote {
				break
			}
			j++
		}
		text.WriteByte(q[j])
	}
	return token{text: text.String(), kind: 'n', start: i, end: min(j+1, len(q))}
}

// statement is what is known of a statement in the binlog.
type statement struct {
	ignored  bool // it changes no definition and no row of a database
	truncate bool
	follow   bool
	refs     []ref
}

// ref is a table or another object that a statement names.
type ref struct{ db, name string }

// parser walks over tokens.
type parser struct {
	t  []token
	i  int
	db string // the default database
}

func (p *parser) is(words ...string) bool {
	for k, w := range words {
		if p.i+k >= len(p.t) || p.t[p.i+k].kind == 's' || p.t[p.i+k].kind == 'n' || !strings.EqualFold(p.t[p.i+k].text, w) {
			return false
		}
	}
	return true
}

// skip passes the words if they stand here.
func (p *parser) skip(words ...string) bool {
	if !p.is(words...) {
		return false
	}
	p.i += len(words)
	return true
}

// to passes everything up to and with a word.
func (p *parser) to(word string) bool {
	for ; p.i < len(p.t); p.i++ {
		if p.skip(word) {
			return true
		}
	}
	return false
}

// name reads a name with or without its database.
func (p *parser) name() (ref, bool) {
	one := func() (string, bool) {
		if p.i >= len(p.t) || p.t[p.i].kind != 'n' && p.t[p.i].kind != 'w' {
			return "", false
		}
		p.i++
		return p.t[p.i-1].text, true
	}
	a, ok := one()
	if !ok {
		return ref{}, false
	}
	if !p.skip(".") {
		return ref{p.db, a}, true
	}
	b, ok := one()
	return ref{a, b}, ok
}

// names reads names between commas.
func (p *parser) names() (out []ref, ok bool) {
	for {
		n, ok := p.name()
		if !ok {
			return nil, false
		}
		out = append(out, n)
		if !p.skip(",") {
			return out, true
		}
	}
}

// parseStatement tells what a statement of the binlog does. What it does not know is
// neither ignored nor to be followed.
func parseStatement(q, db string, ansi bool) statement {
	p := &parser{t: tokens(q, ansi), db: db}
	if len(p.t) == 0 {
		return statement{ignored: true}
	}
	verb := strings.ToUpper(p.t[0].text)
	p.i = 1
	switch verb {
	case "CREATE", "ALTER", "DROP":
		return p.define(verb)
	case "TRUNCATE":
		p.skip("TABLE")
		n, ok := p.name()
		return statement{truncate: ok, refs: []ref{n}}
	case "RENAME":
		return p.rename()
	case "ANALYZE", "OPTIMIZE", "REPAIR", "CHECK", "FLUSH", "GRANT", "REVOKE", "SET", "BEGIN", "SAVEPOINT", "RELEASE", "COMMENT":
		return statement{ignored: true}
	}
	return statement{}
}

func (p *parser) rename() statement {
	if !p.skip("TABLE") && !p.skip("TABLES") {
		return statement{ignored: p.is("USER")}
	}
	p.skip("IF", "EXISTS")
	s := statement{follow: true}
	for {
		from, ok := p.name()
		if ok {
			ok = p.skip("TO")
		}
		to, ok2 := p.name()
		if !ok || !ok2 {
			return statement{}
		}
		s.refs = append(s.refs, from, to)
		s.follow = s.follow && from.db == to.db
		if !p.skip(",") {
			return s
		}
	}
}

// define reads CREATE, ALTER and DROP.
func (p *parser) define(verb string) statement {
	for p.i < len(p.t) {
		switch {
		case p.skip("OR", "REPLACE"), p.skip("ONLINE"), p.skip("OFFLINE"), p.skip("IGNORE"), p.skip("UNIQUE"),
			p.skip("FULLTEXT"), p.skip("SPATIAL"), p.skip("AGGREGATE"):
		case p.skip("TEMPORARY"):
			return statement{ignored: true}
		case p.skip("ALGORITHM", "="), p.skip("SQL", "SECURITY"):
			p.i++
		case p.skip("DEFINER", "="):
			p.definer()
		default:
			return p.object(verb)
		}
	}
	return statement{}
}

// definer passes user@host; the tokens keep @ with a word it touches.
func (p *parser) definer() {
	p.i++
	if p.skip("(", ")") {
		return
	}
	if p.i < len(p.t) && strings.HasPrefix(p.t[p.i].text, "@") && p.t[p.i].kind == 'w' {
		bare := p.t[p.i].text == "@"
		p.i++
		if bare {
			p.i++
		}
	}
}

func (p *parser) object(verb string) statement {
	kind := strings.ToUpper(p.t[p.i].text)
	p.i++
	p.skip("IF", "NOT", "EXISTS")
	p.skip("IF", "EXISTS")
	switch kind {
	case "TABLE", "VIEW", "SEQUENCE":
		refs, ok := p.names()
		s := statement{follow: ok, refs: refs}
		if kind == "TABLE" && verb == "ALTER" {
			p.alter(&s)
		}
		return s
	case "PROCEDURE", "FUNCTION", "TRIGGER", "EVENT":
		n, ok := p.name()
		return statement{follow: ok, refs: []ref{n}}
	case "INDEX":
		if ok := p.to("ON"); !ok {
			return statement{}
		}
		n, ok := p.name()
		return statement{follow: ok, refs: []ref{n}}
	case "USER", "ROLE", "SERVER", "TABLESPACE", "LOGFILE", "RESOURCE":
		return statement{ignored: true}
	case "DATABASE", "SCHEMA":
		n, ok := p.name()
		if !ok {
			n.name = p.db
		}
		return statement{refs: []ref{{db: n.name}}, ignored: verb == "CREATE"}
	}
	return statement{}
}

// alter looks for what may not be followed, and for a new name.
func (p *parser) alter(s *statement) {
	for ; p.i < len(p.t); p.i++ {
		switch {
		case p.is("TABLESPACE"), p.is("EXCHANGE"), p.is("CONVERT", "TABLE"), p.is("CONVERT", "PARTITION"):
			s.follow = false
		case p.is("RENAME") && !p.is("RENAME", "COLUMN") && !p.is("RENAME", "INDEX") && !p.is("RENAME", "KEY"):
			p.i++
			_ = p.skip("TO") || p.skip("AS") || p.skip("=")
			if n, ok := p.name(); ok {
				s.follow = s.follow && n.db == s.refs[0].db
				s.refs = append(s.refs, n)
			}
		}
	}
}

// unqualified takes a database's name off everything it stands before, as the
// target's may be called otherwise.
func unqualified(q, db string, ansi bool) string {
	t := tokens(q, ansi)
	var out strings.Builder
	at := 0
	for i := 0; i+2 < len(t); i++ {
		if (t[i].kind == 'n' || t[i].kind == 'w') && t[i].text == db && t[i+1].kind == '.' && (i == 0 || t[i-1].kind != '.') {
			out.WriteString(q[at:t[i].start])
			at = t[i+2].start
		}
	}
	out.WriteString(q[at:])
	return out.String()
}

// session is how the session stood that ran a statement.
type session struct {
	mode    uint64
	charset [2]uint16 // of the client and of the connection, by the server's numbers
}

const modeAnsiQuotes = 4

// readSession reads a query event's status, of which only the beginning is of use.
// See https://mariadb.com/kb/en/query_event/.
func readSession(v []byte) (s session) {
	for len(v) > 0 {
		code, n := v[0], 0
		v = v[1:]
		switch code {
		case 0, 3:
			n = 4
		case 1:
			if n = 8; len(v) >= n {
				s.mode = binary.LittleEndian.Uint64(v)
			}
		case 4:
			if n = 6; len(v) >= n {
				s.charset = [2]uint16{binary.LittleEndian.Uint16(v), binary.LittleEndian.Uint16(v[2:])}
			}
		case 5, 6:
			if len(v) > 0 {
				n = 1 + int(v[0])
			}
		case 7, 8:
			n = 2
		default:
			return s
		}
		if n > len(v) {
			return s
		}
		v = v[n:]
	}
	return s
}

const contextMark = "/*leeward "

// with writes the session before a statement, for Execute.
func (s session) with(q string) string {
	return fmt.Sprintf(contextMark+"%d %d %d*/ %s", s.mode, s.charset[0], s.charset[1], q)
}

// without reads what with wrote.
func without(q string) (session, string, bool) {
	var s session
	rest, ok := strings.CutPrefix(q, contextMark)
	if !ok {
		return s, q, false
	}
	head, rest, ok := strings.Cut(rest, "*/ ")
	if !ok {
		return s, q, false
	}
	if _, err := fmt.Sscan(head, &s.mode, &s.charset[0], &s.charset[1]); err != nil {
		return s, q, false
	}
	return s, rest, true
}

// wanted tells whether the filter lets a table through. Tables here have no schema
// before their name, but a pattern may name the database all the same.
func (s *server) wanted(name string) bool {
	match := func(patterns []string) bool {
		for _, p := range patterns {
			for _, n := range []string{name, s.db + "." + name} {
				if ok, err := path.Match(p, n); err == nil && ok {
					return true
				}
			}
		}
		return false
	}
	return (len(s.filter.Include) == 0 || match(s.filter.Include)) && !match(s.filter.Exclude)
}
