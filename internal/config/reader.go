package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/leeward-dr/leeward/internal/dr"
)

// maxNodes bounds the work on a file whose aliases name each other many times
// over.
const maxNodes = 200_000

// reader turns nodes into values and gathers problems. It never gives up: what
// cannot be read is left zero and named.
type reader struct {
	dir      string // of the file; relative paths start there
	problems Problems
	nodes    int
	refs     []reference // to be resolved once all names are known
}

// reference is a name used before it need be known.
type reference struct {
	line  int
	where string
	name  string
	any   bool // may name a database as well as a server
}

// field is one key of a mapping.
type field struct {
	key      string
	required bool
	read     func(where string, n *yaml.Node)
}

func (r *reader) fault(n *yaml.Node, where, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if where != "" {
		text = where + ": " + text
	}
	r.problems.add(n.Line, "%s", text)
}

// follow resolves aliases, and returns nil once too much was looked at.
func (r *reader) follow(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if r.nodes++; r.nodes > maxNodes {
		if r.nodes == maxNodes+1 {
			r.problems.add(0, "more than %d values", maxNodes)
		}
		return nil
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// mapping reads the fields of n, in the order of fields. A key without a value
// counts as absent.
func (r *reader) mapping(where string, n *yaml.Node, fields []field) {
	if n = r.follow(n); n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fault(n, where, "want keys and values (%s)", keysOf(fields))
		return
	}
	values := r.values(where, n, fields)
	for _, f := range fields {
		if v, ok := values[f.key]; ok && !isNull(v) {
			f.read(join(where, f.key), v)
		} else if f.required {
			r.fault(n, where, "%q is missing", f.key)
		}
	}
}

// values sorts the content of mapping n by key and names keys that are unknown
// or there twice.
func (r *reader) values(where string, n *yaml.Node, fields []field) map[string]*yaml.Node {
	values, lines := map[string]*yaml.Node{}, map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		name := k.Value
		switch {
		case k.Kind != yaml.ScalarNode:
			r.fault(k, where, "a key must be a plain word")
		case lines[name] != 0:
			r.fault(k, where, "%q is there twice; the first is in line %d", name, lines[name])
		case !slices.ContainsFunc(fields, func(f field) bool { return f.key == name }):
			r.fault(k, where, "unknown key %q; %s", name, suggest(name, names(fields)))
			lines[name] = k.Line
		default:
			values[name], lines[name] = v, k.Line
			if v = r.follow(v); v == nil {
				delete(values, name)
			}
		}
	}
	return values
}

func names(fields []field) []string {
	out := make([]string, len(fields))
	for i, f := range fields {
		out[i] = f.key
	}
	return out
}

func keysOf(fields []field) string { return strings.Join(names(fields), ", ") }

func join(where, key string) string {
	if where == "" {
		return key
	}
	return where + ": " + key
}

// each calls read for every element of list n.
func (r *reader) each(where string, n *yaml.Node, read func(i int, n *yaml.Node)) {
	if n = r.follow(n); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.fault(n, where, "want a list")
		return
	}
	for i, e := range n.Content {
		if e = r.follow(e); e == nil {
			return
		}
		read(i, e)
	}
}

// text reads a scalar. The node returned is the one that holds it.
func (r *reader) text(where string, n *yaml.Node) (string, bool) {
	if n = r.follow(n); n == nil {
		return "", false
	}
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.fault(n, where, "want one value")
		return "", false
	}
	if n.Value == "" {
		r.fault(n, where, "is empty")
		return "", false
	}
	if strings.ContainsFunc(n.Value, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0xfffd }) {
		r.fault(n, where, "%q holds characters that do not print", n.Value)
		return "", false
	}
	return n.Value, true
}

func (r *reader) texts(where string, n *yaml.Node) (out []string) {
	r.each(where, n, func(_ int, n *yaml.Node) {
		if s, ok := r.text(where, n); ok {
			out = append(out, s)
		}
	})
	return out
}

// choice reads one of the words of valid.
func (r *reader) choice(where string, n *yaml.Node, valid ...string) string {
	s, ok := r.text(where, n)
	if ok && !slices.Contains(valid, s) {
		r.fault(n, where, "unknown value %q; %s", s, suggest(s, valid))
		return ""
	}
	return s
}

// name reads a name that may be part of a path in the store.
func (r *reader) name(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && !dr.ValidName(s) {
		r.fault(n, where, "%q is no name: want 1 to 63 of a-z, 0-9, dot, dash and underscore, a letter or digit first and last", s)
		return ""
	}
	return s
}

// path reads a path and makes it independent of where the file lies.
func (r *reader) path(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	switch {
	case !ok:
		return ""
	case strings.HasPrefix(s, "~"):
		r.fault(n, where, "%q: ~ is not expanded here; write the whole path", s)
		return ""
	case filepath.IsAbs(s):
		return filepath.Clean(s)
	}
	return filepath.Join(r.dir, s)
}

func (r *reader) integer(where string, n *yaml.Node, least, most int) int {
	s, ok := r.text(where, n)
	if !ok {
		return 0
	}
	i, err := strconv.Atoi(s)
	if err != nil || i < least || i > most {
		r.fault(n, where, "%q: want a whole number from %d to %d", s, least, most)
		return 0
	}
	return i
}

func (r *reader) rate(where string, n *yaml.Node) (out Rate) {
	if s, ok := r.text(where, n); ok {
		var err error
		if out, err = parseRate(s); err != nil {
			r.fault(n, where, "%v", err)
		}
	}
	return out
}

func (r *reader) duration(where string, n *yaml.Node) (out time.Duration) {
	if s, ok := r.text(where, n); ok {
		var err error
		if out, err = parseDuration(s); err != nil {
			r.fault(n, where, "%v", err)
		}
	}
	return out
}

// instant reads a time with its offset: a deadline must mean one moment to
// readers in both cities.
func (r *reader) instant(where string, n *yaml.Node) time.Time {
	s, ok := r.text(where, n)
	if !ok {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		r.fault(n, where, "%q: want a time with its offset from UTC, as in 2017-09-10T12:00:00-04:00", s)
		return time.Time{}
	}
	return t
}
