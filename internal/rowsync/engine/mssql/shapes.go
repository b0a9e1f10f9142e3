package mssql

// The words of the suite's SQL that differ between engines.
const (
	Begin      = "BEGIN TRANSACTION"
	Savepoint  = "SAVE TRANSACTION a"
	RollbackTo = "ROLLBACK TRANSACTION a"
	Identity   = "INT IDENTITY(1,1)"
)

// Shape is a table of every value that a family of types finds hard, for the suite that
// each driver must pass and for leeward selftest. Its fields are those of
// enginetest.Shape.
type Shape struct {
	Name    string
	Table   string
	Create  []string
	Fill    []string
	Change  []string
	Select  string
	Refused bool
}

// shape makes one of a table whose column v has the type, and of literals for it. The
// first literal is what rows are changed to.
func shape(name, typ string, literals ...string) Shape {
	s := Shape{Name: name, Table: "shape_" + name, Create: []string{"CREATE TABLE shape_" + name + " (id INT NOT NULL PRIMARY KEY, v " + typ + " NULL)"}}
	s.Fill = append(s.Fill, "INSERT INTO "+s.Table+" (id, v) VALUES (0, NULL)")
	for i, l := range literals {
		s.Fill = append(s.Fill, "INSERT INTO "+s.Table+" (id, v) VALUES ("+digit(i+1)+", "+l+")")
	}
	s.Change = []string{
		"UPDATE " + s.Table + " SET v = " + literals[0] + " WHERE id = 0",
		"UPDATE " + s.Table + " SET v = NULL WHERE id = 2",
		"DELETE FROM " + s.Table + " WHERE id = 1",
		"INSERT INTO " + s.Table + " (id, v) VALUES (99, " + literals[len(literals)-1] + ")",
	}
	return s
}

func digit(i int) string { return string([]byte{byte('0' + i/10), byte('0' + i%10)}) }

// Shapes lists the tables. Some use what only some servers have: whoever runs them
// leaves out, and says so, those whose Create fails.
func Shapes() []Shape {
	out := []Shape{
		shape("tinyint", "tinyint", "0", "255", "1"),
		shape("smallint", "smallint", "-32768", "32767", "0"),
		shape("int", "int", "-2147483648", "2147483647", "0"),
		shape("bigint", "bigint", "-9223372036854775808", "9223372036854775807", "0"),
		shape("bit", "bit", "0", "1"),
		shape("decimal38", "decimal(38,0)", "-99999999999999999999999999999999999999", "99999999999999999999999999999999999999", "0"),
		shape("decimal38_38", "decimal(38,38)", "-0.99999999999999999999999999999999999999", "0.00000000000000000000000000000000000001", "0"),
		shape("numeric", "numeric(9,2)", "-1234567.89", "0.10", "1.00", "0"),
		shape("money", "money", "-922337203685477.5808", "922337203685477.5807", "0.0001", "-0.0001", "0"),
		shape("smallmoney", "smallmoney", "-214748.3648", "214748.3647", "0.0001", "0"),
		shape("float", "float", "-1.7976931348623157E308", "1.7976931348623157E308", "2.2250738585072014E-308", "0.1E0", "1.0000000000000002E-1", "1E0/3E0", "0E0"),
		shape("real", "real", "-3.4028235E38", "3.4028235E38", "1.1754944E-38", "0.1E0", "0E0"),
		shape("char", "char(10)", "'ab'", "''", "'   x'", "'1234567890'"),
		shape("varchar", "varchar(50)", "'plain'", "''", "' '", "'trailing  '", "'Case'", "'case'", "'it''s'", "'a' + CHAR(9) + CHAR(10) + 'b'"),
		shape("varchar_codepage", "varchar(50)", "N'España'", "N'Größe'", "N'½ çà'", "''"),
		shape("varchar_max", "varchar(max)", "'short'", "''", "REPLICATE(CAST('0123456789' AS varchar(max)), 20000)"),
		shape("nchar", "nchar(5)", "N'ж'", "N''", "N'ab cd'"),
		shape("nvarchar", "nvarchar(50)", "N'😀 beyond the BMP'", "N''", "N' trailing '", "N'Ж'", "N'ж'", "N'e' + NCHAR(769)", "N'é'", "N'日本語'"),
		shape("nvarchar_surrogate", "nvarchar(50)", "NCHAR(55357)", "N'a' + NCHAR(56832) + N'b'", "N'x'"),
		shape("nvarchar_max", "nvarchar(max)", "N'ж'", "N''", "REPLICATE(CAST(N'ж0😀' AS nvarchar(max)), 20000)"),
		shape("text", "text", "'text'", "''", "REPLICATE(CAST('0123456789' AS varchar(max)), 2000)"),
		shape("ntext", "ntext", "N'жж'", "N''", "N'😀'"),
		shape("binary", "binary(4)", "0x00000000", "0xFFFFFFFF", "0x01", "0x00010000"),
		shape("varbinary", "varbinary(20)", "0x00", "0x", "0xFF00FF00", "0x0100", "0x01"),
		shape("varbinary_max", "varbinary(max)", "0x00", "0x", "CAST(REPLICATE(CAST('0123456789' AS varchar(max)), 20000) AS varbinary(max))"),
		shape("image", "image", "0x00", "0x", "0xDEADBEEF"),
		shape("date", "date", "'0001-01-01'", "'9999-12-31'", "'2024-02-29'"),
		shape("time", "time(7)", "'00:00:00'", "'23:59:59.9999990'", "'12:34:56.1234560'"),
		shape("time0", "time(0)", "'00:00:00'", "'23:59:59'"),
		shape("datetime", "datetime", "'1753-01-01T00:00:00.000'", "'9999-12-31T23:59:59.997'", "'2024-02-29T12:34:56.003'", "'2024-02-29T12:34:56.007'"),
		shape("smalldatetime", "smalldatetime", "'1900-01-01T00:00:00'", "'2079-06-06T23:59:00'"),
		shape("datetime2", "datetime2(7)", "'0001-01-01T00:00:00'", "'9999-12-31T23:59:59.9999990'", "'2024-02-29T12:34:56.1234560'"),
		shape("datetime2_3", "datetime2(3)", "'0001-01-01T00:00:00'", "'9999-12-31T23:59:59.999'"),
		shape("datetimeoffset", "datetimeoffset(6)", "'2024-02-29T12:34:56.123456+14:00'", "'2024-02-29T12:34:56.123456-14:00'", "'2024-02-29T12:34:56.123456+00:00'", "'0002-01-01T00:00:00+05:30'", "'9999-12-30T23:59:59.999999-08:00'"),
		shape("uniqueidentifier", "uniqueidentifier", "'00000000-0000-0000-0000-000000000000'", "'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF'", "'6F9619FF-8B86-D011-B42D-00C04FC964FF'"),
		shape("xml", "xml", "'<a/>'", "'<a b=\"c\">text <i/> more</a>'", "N'<ж>😀</ж>'"),
		shape("sparse", "int SPARSE", "1", "2"),
		shape("hierarchyid", "hierarchyid", "'/1/'", "'/1/2.5/'", "'/'"),
		shape("geography", "geography", "geography::Point(47.65, -122.34, 4326)", "geography::STGeomFromText('POLYGON((0 0, 1 0, 1 1, 0 1, 0 0))', 4326)"),
		shape("geometry", "geometry", "geometry::STGeomFromText('LINESTRING (100 100, 20 180, 180 180)', 0)", "geometry::STGeomFromText('POINT(1 2)', 0)"),
	}
	return append(append(out, keyShapes()...), derivedShapes()...)
}

// keyShapes are keys whose order or equality only the server knows.
func keyShapes() []Shape {
	return []Shape{
		{Name: "key_uniqueidentifier", Table: "key_guid", Create: []string{"CREATE TABLE key_guid (id uniqueidentifier NOT NULL PRIMARY KEY, v INT)"},
			Fill:   []string{"INSERT INTO key_guid VALUES ('00000000-0000-0000-0000-010000000000', 1), ('01000000-0000-0000-0000-000000000000', 2), ('00000000-0000-0000-0100-000000000000', 3), ('FFFFFFFF-0000-0000-0000-000000000001', 4)"},
			Change: []string{"UPDATE key_guid SET v = 5 WHERE v = 2", "DELETE FROM key_guid WHERE v = 3"}},
		{Name: "key_case", Table: "key_case", Create: []string{"CREATE TABLE key_case (id varchar(20) NOT NULL PRIMARY KEY, v varchar(20))"},
			Fill: []string{"INSERT INTO key_case VALUES ('abc', 'x'), ('Abd', 'X'), ('zz', 'y ')"},
			// For a collation that ignores case the key stays the same, and the value does.
			Change: []string{"UPDATE key_case SET id = 'ABC' WHERE id = 'abc'", "UPDATE key_case SET v = 'x' WHERE id = 'Abd'", "UPDATE key_case SET v = 'y' WHERE id = 'zz'"}},
		{Name: "key_binary_collation", Table: "key_bin", Create: []string{"CREATE TABLE key_bin (id varchar(20) COLLATE Latin1_General_BIN2 NOT NULL PRIMARY KEY, v INT)"},
			Fill: []string{"INSERT INTO key_bin VALUES ('abc', 1), ('ABC', 2), ('Abc', 3)"}, Change: []string{"UPDATE key_bin SET v = 4 WHERE id = 'ABC'", "DELETE FROM key_bin WHERE id = 'abc'"}},
		{Name: "key_nvarchar", Table: "key_nvarchar", Create: []string{"CREATE TABLE key_nvarchar (id nvarchar(40) NOT NULL, n smallint NOT NULL, v INT, PRIMARY KEY (id, n))"},
			Fill: []string{"INSERT INTO key_nvarchar VALUES (N'ж', 1, 1), (N'日本', 2, 2), (N'😀', 3, 3), (N'a b', -32768, 4)"}, Change: []string{"UPDATE key_nvarchar SET v = 9 WHERE n = 2", "DELETE FROM key_nvarchar WHERE n = 3"}},
		{Name: "key_datetime", Table: "key_datetime", Create: []string{"CREATE TABLE key_datetime (id datetime NOT NULL PRIMARY KEY, v INT)"},
			Fill: []string{"INSERT INTO key_datetime VALUES ('2024-02-29T12:34:56.003', 1), ('2024-02-29T12:34:56.007', 2), ('2024-02-29T12:34:56.010', 3)"}, Change: []string{"UPDATE key_datetime SET v = 7 WHERE v = 1", "DELETE FROM key_datetime WHERE v = 2"}},
		{Name: "key_decimal", Table: "key_decimal", Create: []string{"CREATE TABLE key_decimal (id decimal(20,5) NOT NULL PRIMARY KEY, v INT)"},
			Fill: []string{"INSERT INTO key_decimal VALUES (-1.00001, 1), (0, 2), (123456789012345.00001, 3)"}, Change: []string{"UPDATE key_decimal SET v = 7 WHERE v = 1", "DELETE FROM key_decimal WHERE v = 2"}},
		{Name: "key_unique_index", Table: "key_unique", Create: []string{"CREATE TABLE key_unique (id INT NOT NULL, code varchar(10) NOT NULL, v INT)", "CREATE UNIQUE INDEX ux_code ON key_unique (code, id)"},
			Fill: []string{"INSERT INTO key_unique VALUES (1, 'a', 1), (1, 'b', 2)"}, Change: []string{"UPDATE key_unique SET v = 3 WHERE code = 'a'"}},
	}
}

// derivedShapes are columns that the server fills, and types that are refused.
func derivedShapes() []Shape {
	return []Shape{
		{Name: "computed", Table: "computed", Create: []string{"CREATE TABLE computed (id INT NOT NULL PRIMARY KEY, a INT, twice AS (a * 2), thrice AS (a * 3) PERSISTED)"},
			Fill: []string{"INSERT INTO computed (id, a) VALUES (1, 10), (2, NULL)"}, Change: []string{"UPDATE computed SET a = 20 WHERE id = 1"}},
		{Name: "rowversion", Table: "versioned", Create: []string{"CREATE TABLE versioned (id INT NOT NULL PRIMARY KEY, a INT, rv rowversion)"},
			Fill: []string{"INSERT INTO versioned (id, a) VALUES (1, 10), (2, NULL)"}, Change: []string{"UPDATE versioned SET a = 20 WHERE id = 1"}, Select: "SELECT id, a FROM versioned"},
		{Name: "identity", Table: "numbers", Create: []string{"CREATE TABLE numbers (id INT IDENTITY(10,5) NOT NULL PRIMARY KEY, a INT)"},
			Fill: []string{"INSERT INTO numbers (a) VALUES (1), (2)"}, Change: []string{"INSERT INTO numbers (a) VALUES (3)", "DELETE FROM numbers WHERE a = 1"}},
		{Name: "identity_not_key", Table: "numbered", Create: []string{"CREATE TABLE numbered (id INT NOT NULL PRIMARY KEY, n INT IDENTITY(1,1) NOT NULL, a INT)"},
			Fill: []string{"INSERT INTO numbered (id, a) VALUES (1, 1), (2, 2)"}, Change: []string{"DELETE FROM numbered WHERE id = 1", "INSERT INTO numbered (id, a) VALUES (1, 3)"}},
		{Name: "self_reference", Table: "tree", Create: []string{"CREATE TABLE tree (id INT NOT NULL PRIMARY KEY, parent INT NULL REFERENCES tree (id))"},
			Fill: []string{"INSERT INTO tree VALUES (1, NULL), (2, 1)"}, Change: []string{"INSERT INTO tree VALUES (3, 2)", "INSERT INTO tree VALUES (4, 3)", "UPDATE tree SET parent = 4 WHERE id = 2"}},
		{Name: "names", Table: "odd name, it's", Create: []string{"CREATE TABLE [odd name, it's] ([select] INT NOT NULL PRIMARY KEY, [a b.c] varchar(10))"},
			Fill: []string{"INSERT INTO [odd name, it's] VALUES (1, 'x')"}, Change: []string{"UPDATE [odd name, it's] SET [a b.c] = 'y'"}, Select: "SELECT * FROM [odd name, it's]"},
		{Name: "large_values", Table: "large_values", Create: []string{"CREATE TABLE large_values (id INT NOT NULL PRIMARY KEY, a nvarchar(max) NULL, b varbinary(max) NULL, c varchar(max) NULL, n INT)"},
			Fill: []string{
				"INSERT INTO large_values (id, a, b, c, n) VALUES (1, REPLICATE(CAST(N'ж😀' AS nvarchar(max)), 1000000), CAST(REPLICATE(CAST('0123456789' AS varchar(max)), 300000) AS varbinary(max)), 'short', 1), (2, N'', NULL, REPLICATE(CAST('x' AS varchar(max)), 3000000), 2)"},
			Change: []string{"UPDATE large_values SET n = 3", "UPDATE large_values SET a = N'small' WHERE id = 1"},
			Select: "SELECT id, LEN(a), LEN(c), DATALENGTH(b), n FROM large_values"},
		{Name: "sql_variant", Table: "variant", Create: []string{"CREATE TABLE variant (id INT NOT NULL PRIMARY KEY, v sql_variant)"}, Refused: true},
	}
}

// Objects is one of every kind of object that the driver carries.
func Objects() []string {
	return []string{
		"CREATE TYPE dbo.phone FROM nvarchar(20) NULL",
		"CREATE SEQUENCE dbo.numbers AS bigint START WITH 5 INCREMENT BY 2 MINVALUE 1 MAXVALUE 1000000 CYCLE CACHE 10",
		"CREATE TABLE dbo.items (id INT NOT NULL CONSTRAINT pk_items PRIMARY KEY, name VARCHAR(40) NOT NULL, price DECIMAL(10,2) NULL, phone dbo.phone NULL, twice AS (price * 2), CONSTRAINT ck_items CHECK (price > 0))",
		"CREATE INDEX ix_items_name ON dbo.items (name DESC) INCLUDE (price)",
		"CREATE UNIQUE INDEX ux_items ON dbo.items (name, price)",
		"CREATE TABLE dbo.parts (id INT IDENTITY(7,3) NOT NULL CONSTRAINT pk_parts PRIMARY KEY, item INT NOT NULL, made DATETIME2(3) NOT NULL DEFAULT SYSUTCDATETIME(), CONSTRAINT fk_parts_items FOREIGN KEY (item) REFERENCES dbo.items (id) ON DELETE CASCADE)",
		"CREATE VIEW dbo.cheap AS SELECT id, name FROM dbo.items WHERE price < 10",
		"CREATE FUNCTION dbo.doubled (@a INT) RETURNS INT AS BEGIN RETURN @a * 2 END",
		"CREATE PROCEDURE dbo.count_items AS BEGIN SET NOCOUNT ON; SELECT COUNT(*) FROM dbo.items END",
		"CREATE TRIGGER dbo.items_touched ON dbo.items AFTER UPDATE AS BEGIN SET NOCOUNT ON; END",
	}
}
