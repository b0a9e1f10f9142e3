package postgres

import (
	"slices"
	"strconv"

	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
)

// values are a type with values at the ends of what it holds, as SQL expressions.
type values struct {
	typ string
	of  []string
}

// families are tables with a column for each type.
func families() map[string][]values {
	return map[string][]values{
		"numbers": {
			{"smallint", []string{"-32768", "32767", "0"}},
			{"integer", []string{"-2147483648", "2147483647"}},
			{"bigint", []string{"-9223372036854775808", "9223372036854775807", "0", "4294967297"}},
			{"numeric", []string{"'NaN'", "'Infinity'", "'-Infinity'", "1.0", "1.00", "1e-50", "0.00000", "12345678901234567890123456789012345678901234567890.123456789", "-1e131000"}},
			{"numeric(12,4)", []string{"0", "-99999999.9999", "1.5"}},
			{"real", []string{"'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0", "1e-45", "3.4028235e38", "0.1"}},
			{"double precision", []string{"'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0", "5e-324", "1.7976931348623157e308", "0.1"}},
			{"boolean", []string{"true", "false"}},
			{"money", []string{"'-92233720368547758.08'", "'92233720368547758.07'"}},
			{"pg_lsn", []string{"'0/0'", "'FFFFFFFF/FFFFFFFF'"}},
		},
		"text": {
			{"text", []string{"''", "'trailing  '", "E'tab\\tnl\\ncr\\rbs\\\\'", "'\\N'", "U&'\\+01F600 \\+01D11E'", "'NULL'", "'{\"a\",b}'", "repeat('x', 3000000)", "E'quote\\' \"double\"'"}},
			{"varchar(20)", []string{"''", "'  both  '", "U&'\\00E9\\0301'"}},
			{"char(10)", []string{"''", "'ab'", "'ab        '"}},
			{`"char"`, []string{"'a'", "''"}},
			{"name", []string{"''", "'n'"}},
			{"bytea", []string{"''", "'\\x00ff'", "decode(repeat('00ff', 100000), 'hex')"}},
			{`text COLLATE "C"`, []string{"'a'", "'B'", "'é'"}},
			{"uuid", []string{"'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"}},
		},
		"time": {
			{"date", []string{"'infinity'", "'-infinity'", "'4713-01-01 BC'", "'5874897-12-31'", "'2000-02-29'"}},
			{"time", []string{"'00:00'", "'24:00'", "'23:59:59.999999'"}},
			{"timetz", []string{"'00:00+15:59'", "'23:59:59.999999-15:59'"}},
			{"timestamp", []string{"'infinity'", "'-infinity'", "'4713-01-01 00:00 BC'", "'294276-12-31 23:59:59.999999'"}},
			{"timestamptz", []string{"'infinity'", "'-infinity'", "'2024-03-31 02:30:00.000001+02'"}},
			{"timestamp(3)", []string{"'2024-01-01 00:00:00.1239'"}},
			{"interval", []string{"'1 mon'", "'30 days'", "'720 hours'", "'-178000000 years'", "'1 day -00:00:00.000001'"}},
		},
		"documents": {
			{"json", []string{"'{\"a\": 1,  \"a\":2}'", "'null'", "'\"\\u00e9\"'"}},
			{"jsonb", []string{"'{\"b\": 1.10, \"a\": [null, \"\"]}'", "'null'", "'1.0'"}},
			{"xml", []string{"'<a b=\"c\">&amp;</a>'"}},
			{"tsvector", []string{"''", "'a:1A fat:2B,4C cat:5D'"}},
			{"tsquery", []string{"'fat & (rat | cat)'"}},
			{"inet", []string{"'192.168.1.1'", "'192.168.1.1/24'", "'::1/128'"}},
			{"cidr", []string{"'10.0.0.0/8'", "'::/0'"}},
			{"macaddr", []string{"'ff:ff:ff:ff:ff:ff'"}},
			{"regclass", []string{"'pg_class'", "0"}},
		},
		"bits-and-shapes": {
			{"bit(9)", []string{"B'000000000'", "B'101010101'"}},
			{"bit varying", []string{"B''", "B'1'", "B'01'"}},
			{"point", []string{"'(1.1,-0)'", "'(Infinity,NaN)'"}},
			{"polygon", []string{"'((0,0),(1,1),(1,0))'"}},
			{"circle", []string{"'<(0,0),1e300>'"}},
		},
		"arrays-and-ranges": {
			{"int[]", []string{"'{}'", "'{1,NULL,3}'", "'{{1,2},{3,4}}'", "'[0:1]={7,8}'"}},
			{"text[]", []string{"'{\"\",NULL,\"NULL\",\"a b\",\"q\\\"\\\\\"}'"}},
			{"int4range", []string{"'empty'", "'(,)'", "'[1,5)'"}},
			{"tstzrange", []string{"'[2020-01-01,infinity]'", "'(,2020-01-01)'"}},
			{"int8multirange", []string{"'{}'", "'{[1,2),[5,)}'"}},
		},
		"of-the-user": {
			{"mood", []string{"'sad'", "'o''k'", "''"}},
			{"mood[]", []string{"'{sad,NULL,ok}'"}},
			{"positive", []string{"1", "2.50"}},
			{"code", []string{"'a'", "''"}},
			{"pair", []string{"ROW(1, '')", "ROW(NULL, NULL)", "ROW(2, 'a\"b')"}},
			{"floatrange", []string{"'[1.5,2.5)'", "'empty'"}},
		},
	}
}

// shapes are tables of every family of types. Row n has the n-th value of each type;
// the same rows come once with the seed and once by the stream.
func shapes() []enginetest.Shape {
	own := []string{"CREATE TYPE mood AS ENUM ('sad', 'o''k', '', 'ok')", "CREATE DOMAIN positive AS numeric(8,2) CHECK (VALUE > 0)",
		"CREATE DOMAIN code AS char(4)", "CREATE TYPE pair AS (a int, b text)", "CREATE TYPE floatrange AS RANGE (SUBTYPE = float8)"}
	var out []enginetest.Shape
	for name, columns := range families() {
		s := enginetest.Shape{Name: name, Table: "shape", Create: own}
		create, read, most := "CREATE TABLE shape (id int PRIMARY KEY, other text", "SELECT id, other", 0
		for i, c := range columns {
			create += ", v" + strconv.Itoa(i) + " " + c.typ
			read += ", v" + strconv.Itoa(i) + "::text"
			most = max(most, len(c.of))
		}
		s.Create = append(slices.Clone(own), create+")")
		s.Select = read + " FROM shape"
		for n := range most + 1 {
			row := ""
			for _, c := range columns {
				if n < len(c.of) {
					row += ", " + c.of[n]
				} else {
					row += ", NULL"
				}
			}
			s.Fill = append(s.Fill, "INSERT INTO shape VALUES ("+strconv.Itoa(n)+", ''"+row+")")
			s.Change = append(s.Change, "INSERT INTO shape VALUES ("+strconv.Itoa(100+n)+", NULL"+row+")")
		}
		s.Change = append(s.Change, "UPDATE shape SET other = 'touched' WHERE id < 100", // large values do not travel
			"UPDATE shape SET id = id + 1000 WHERE id = 0", "UPDATE shape SET v0 = NULL WHERE id = 1", "DELETE FROM shape WHERE id = 2",
			"UPDATE shape SET v1 = (SELECT v1 FROM shape WHERE id = 100) WHERE id < 100")
		out = append(out, s)
	}
	return append(out, special()...)
}

// special are tables that are told apart by more than a type.
func special() []enginetest.Shape {
	return []enginetest.Shape{
		{Name: "generated", Table: "shape", Create: []string{
			"CREATE TABLE shape (a int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b int NOT NULL, c int GENERATED ALWAYS AS (b * 2) STORED, d text)"},
			Fill:   []string{"INSERT INTO shape (b) VALUES (1), (2), (3)"},
			Change: []string{"UPDATE shape SET b = 7 WHERE a = 1", "INSERT INTO shape (b, d) VALUES (9, 'x')", "DELETE FROM shape WHERE a = 2"}},
		{Name: "identity-beside-key", Table: "shape", Create: []string{
			"CREATE TABLE shape (k text PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)"},
			Fill:   []string{"INSERT INTO shape (k) VALUES ('a'), ('b')"},
			Change: []string{"UPDATE shape SET v = 'x' WHERE k = 'a'", "UPDATE shape SET n = DEFAULT WHERE k = 'b'"}},
		{Name: "key-of-unique-index", Table: "shape", Create: []string{
			"CREATE TABLE shape (a int NOT NULL, b text NOT NULL, v text)", "CREATE UNIQUE INDEX shape_ab ON shape (b, a)",
			"ALTER TABLE shape REPLICA IDENTITY USING INDEX shape_ab"},
			Fill:   []string{"INSERT INTO shape VALUES (1, 'x', 'y'), (2, 'x', NULL)"},
			Change: []string{"UPDATE shape SET v = 'z' WHERE a = 1", "UPDATE shape SET a = 3 WHERE a = 2", "DELETE FROM shape WHERE a = 1"}},
		{Name: "full-identity-with-key", Table: "shape", Create: []string{"CREATE TABLE shape (a int PRIMARY KEY, v text)", "ALTER TABLE shape REPLICA IDENTITY FULL"},
			Fill:   []string{"INSERT INTO shape VALUES (1, 'x'), (2, repeat('y', 5000))"},
			Change: []string{"UPDATE shape SET a = 3 WHERE a = 2", "UPDATE shape SET v = NULL WHERE a = 1"}},
		{Name: "no-identity", Table: "shape", Refused: true, Create: []string{"CREATE TABLE shape (a int)"}},
		{Name: "unique-without-identity", Table: "shape", Refused: true, Create: []string{"CREATE TABLE shape (a int NOT NULL UNIQUE)"}},
		{Name: "unlogged", Table: "shape", Refused: true, Create: []string{"CREATE UNLOGGED TABLE shape (a int PRIMARY KEY)"}},
		{Name: "unique-rules", Table: "shape", Create: []string{
			"CREATE TABLE shape (id int PRIMARY KEY, a text, b int, during int4range, EXCLUDE USING gist (during WITH &&))",
			"CREATE UNIQUE INDEX ON shape (lower(a)) WHERE b > 0", "CREATE UNIQUE INDEX ON shape (a, b)"},
			Fill: []string{"INSERT INTO shape VALUES (1, 'A', 1, '[1,2)'), (2, 'b', 1, '[2,3)'), (3, 'a', 0, NULL)"},
			Change: []string{"BEGIN; UPDATE shape SET a = 'tmp' WHERE id = 1; UPDATE shape SET a = 'A' WHERE id = 2; UPDATE shape SET a = 'b' WHERE id = 1; COMMIT",
				"BEGIN; UPDATE shape SET during = NULL WHERE id = 1; UPDATE shape SET during = '[1,2)' WHERE id = 2; UPDATE shape SET during = '[2,3)' WHERE id = 1; COMMIT",
				"UPDATE shape SET b = -1 WHERE id = 2", "UPDATE shape SET b = 5 WHERE id = 3"}},
		{Name: "toast-moved", Table: "shape", Create: []string{"CREATE TABLE shape (id int PRIMARY KEY, u int UNIQUE, big text, other int)", "ALTER TABLE shape ALTER big SET STORAGE EXTERNAL"},
			Fill: []string{"INSERT INTO shape SELECT g, g, repeat(md5(g::text), 500), 0 FROM generate_series(1, 20) g"},
			Change: []string{"UPDATE shape SET other = 1 WHERE id < 10", "UPDATE shape SET id = id + 100 WHERE id < 5",
				"BEGIN; UPDATE shape SET u = -1 WHERE id = 15; UPDATE shape SET u = 15 WHERE id = 16; UPDATE shape SET u = 16 WHERE id = 15; COMMIT",
				"BEGIN; UPDATE shape SET id = 0 WHERE id = 18; UPDATE shape SET id = 18 WHERE id = 19; UPDATE shape SET id = 19 WHERE id = 0; COMMIT",
				"BEGIN; INSERT INTO shape VALUES (500, 500, repeat('q', 9000), 1); UPDATE shape SET other = 2 WHERE id = 500; UPDATE shape SET id = 501 WHERE id = 500; COMMIT"}},
		{Name: "wide-key", Table: "shape", Create: []string{`CREATE TABLE shape (a numeric, b timestamptz, c uuid, d char(5), e bool, v int, PRIMARY KEY (a, b, c, d, e))`},
			Fill:   []string{`INSERT INTO shape SELECT g / 3.0, '2024-01-01'::timestamptz + g * interval '1 s', md5(g::text)::uuid, chr(65 + g % 26), g % 2 = 0, g FROM generate_series(1, 300) g`},
			Change: []string{"UPDATE shape SET v = -v WHERE e", "DELETE FROM shape WHERE v > 200", "UPDATE shape SET a = round(a, 2) WHERE v BETWEEN 10 AND 20"}},
	}
}
