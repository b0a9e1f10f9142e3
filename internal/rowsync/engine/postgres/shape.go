package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// shape is how statements speak of one table, whose alias in them is t.
type shape struct {
	rel     *relation
	from    string   // ONLY schema.table AS t
	names   []string // of the carried columns, as identifiers
	types   []string // of the carried columns
	key     []int    // indices into names; nil for a table without a key
	columns []column
	binary  bool // COPY may be binary
}

// shapeOf fits a table as the caller has it to the relation that is here.
func shapeOf(t *engine.Table, rel *relation) (*shape, error) {
	s := &shape{rel: rel, from: "ONLY " + qualified(t.Name) + " AS t", binary: true}
	at := make(map[int]int, len(t.Columns))
	for _, i := range t.Carried() {
		name := t.Columns[i].Name
		j := slices.IndexFunc(rel.Columns, func(c engine.Column) bool { return c.Name == name })
		if j < 0 {
			return nil, fmt.Errorf("read table %s: %w: it has no column %s here", t.Name, engine.ErrSchema, name)
		}
		at[i] = len(s.names)
		s.names = append(s.names, ident(name))
		s.types = append(s.types, rel.Columns[j].Type)
		s.columns = append(s.columns, rel.columns[j])
		s.binary = s.binary && rel.columns[j].binary
	}
	for _, k := range t.Key {
		i, ok := at[k]
		if !ok {
			return nil, fmt.Errorf("read table %s: its key has a column that is computed", t.Name)
		}
		s.key = append(s.key, i)
	}
	return s, nil
}

// identity returns the columns that tell rows apart: the key, or all.
func (s *shape) identity() []int {
	if s.key != nil {
		return s.key
	}
	all := make([]int, len(s.names))
	for i := range all {
		all[i] = i
	}
	return all
}

// image is an expression of all bytes of a row: types' OIDs, lengths and values, so
// that NULL is told from empty and columns apart. The OIDs in it are equal in all
// clusters.
func (s *shape) image(alias string) string {
	parts := make([]string, len(s.names))
	for i, n := range s.names {
		parts[i] = strings.Replace(s.columns[i].image, "%s", alias+"."+n, 1)
	}
	return "record_send(ROW(" + strings.Join(parts, ", ") + "))"
}

// hash is a 64-bit hash of a row's image. hash_record_extended over the columns
// themselves will not do: it adds up the columns' hashes, so that the sum over rows
// would not see two rows exchange a value; nor does it see the scale of a numeric or
// the sign of a zero, and it folds a bigint to 32 bits.
func (s *shape) hash(alias string) string {
	return "hash_array_extended(ARRAY[" + s.image(alias) + "], 0)"
}

// keyList spells the key columns, with the alias t.
func (s *shape) keyList() string { return s.list("t", s.key) }

// list spells columns with an alias.
func (s *shape) list(alias string, cols []int) string {
	parts := make([]string, len(cols))
	for i, c := range cols {
		parts[i] = alias + "." + s.names[c]
	}
	return strings.Join(parts, ", ")
}

// all spells all carried columns with an alias.
func (s *shape) all(alias string) string {
	parts := make([]string, len(s.names))
	for i, n := range s.names {
		parts[i] = alias + "." + n
	}
	return strings.Join(parts, ", ")
}

// cast spells that text is a value of a column's type. Of the types of the catalogue
// only regclass has a cast from text that does not read all that it prints.
func (s *shape) cast(text string, col int) string {
	if s.columns[col].typ != regclassOID {
		return text + "::" + s.types[col]
	}
	return "(CASE WHEN " + text + " = '-' THEN 0::regclass WHEN " + text + " ~ '^[0-9]+$' THEN " + text + "::oid::regclass ELSE " + text + "::regclass END)"
}

// compare spells "key op (values)"; values are expressions of text.
func (s *shape) compare(op string, values []string) string {
	cast := make([]string, len(values))
	for i, v := range values {
		cast[i] = s.cast(v, s.key[i])
	}
	if len(cast) == 1 {
		return s.keyList() + " " + op + " " + cast[0]
	}
	return "(" + s.keyList() + ") " + op + " (" + strings.Join(cast, ", ") + ")"
}

// within spells that the key is in a range whose ends are expressions of text, nil
// for an open end.
func (s *shape) within(lo, hi []string) string {
	var parts []string
	if lo != nil {
		parts = append(parts, s.compare(">", lo))
	}
	if hi != nil {
		parts = append(parts, s.compare("<=", hi))
	}
	if parts == nil {
		return ""
	}
	return " WHERE " + strings.Join(parts, " AND ")
}

// match spells that t is a row of a list u, whose fields f0… are the identity of rows
// as text. NULL only occurs in tables without a key, which are matched by image.
func (s *shape) match() string {
	var parts []string
	if s.key == nil {
		return s.image("t") + " = " + s.imageOf("u")
	}
	for i, k := range s.key {
		parts = append(parts, "t."+s.names[k]+" = "+s.cast("u."+fieldName(i), k))
	}
	return strings.Join(parts, " AND ")
}

// imageOf is the image of a row that is given as fields of text.
func (s *shape) imageOf(alias string) string {
	parts := make([]string, len(s.names))
	for i := range s.names {
		parts[i] = strings.Replace(s.columns[i].image, "%s", s.cast(alias+"."+fieldName(i), i), 1)
	}
	return "record_send(ROW(" + strings.Join(parts, ", ") + "))"
}

// unpack spells a list u(f0, f1 …) of n columns of text from parameters after the
// first skip, or with names where given.
func unpack(n, skip int, alias string) string {
	params, fields := make([]string, n), make([]string, n)
	for i := range n {
		params[i] = fmt.Sprintf("$%d::text[]", i+1+skip)
		fields[i] = fieldName(i)
	}
	return "unnest(" + strings.Join(params, ", ") + ") AS " + alias + "(" + strings.Join(fields, ", ") + ")"
}

// params spells n parameters of text, after the first skip.
func params(n, skip int) []string {
	out := make([]string, n)
	for i := range n {
		out[i] = fmt.Sprintf("$%d::text", i+1+skip)
	}
	return out
}

// fields spells the fields first to first+n of a list.
func fields(alias string, first, n int) []string {
	out := make([]string, n)
	for i := range n {
		out[i] = alias + "." + fieldName(first+i)
	}
	return out
}

// transpose turns rows into one array of text for each column, in the binary form
// that needs no quoting.
func transpose(rows []engine.Row, n int) [][]byte {
	out := make([][]byte, n)
	for c := range n {
		out[c] = textArray(len(rows), func(i int) []byte { return rows[i][c] })
	}
	return out
}

const textOID = 25

// textArray encodes a text[] in the binary form of the server.
func textArray(n int, at func(int) []byte) []byte {
	size := 20
	for i := range n {
		size += 4 + len(at(i))
	}
	b := make([]byte, 0, size)
	dims := uint32(1)
	if n == 0 {
		dims = 0
	}
	b = binary.BigEndian.AppendUint32(b, dims)
	b = binary.BigEndian.AppendUint32(b, 1) // there may be NULLs
	b = binary.BigEndian.AppendUint32(b, textOID)
	if n == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint32(b, uint32(n))
	b = binary.BigEndian.AppendUint32(b, 1) // the lower bound
	for i := range n {
		v := at(i)
		if v == nil {
			b = binary.BigEndian.AppendUint32(b, 0xffffffff)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// binaryFormats says that n parameters are in binary form.
func binaryFormats(n int) []int16 { return slices.Repeat([]int16{1}, n) }

// shape returns how to speak of a table here.
func (r *reader) shape(ctx context.Context, t *engine.Table) (*shape, error) {
	rel, err := r.known.of(ctx, t.Name)
	if err != nil {
		return nil, err
	}
	return shapeOf(t, rel)
}
