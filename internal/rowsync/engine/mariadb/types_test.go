package mariadb

import "github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"

// shapes are tables whose values must survive every way.
func shapes() []enginetest.Shape {
	return []enginetest.Shape{
		{
			Name: "numbers", Table: "numbers_t",
			Create: []string{`CREATE TABLE numbers_t (id INT PRIMARY KEY, t1 TINYINT, t2 TINYINT UNSIGNED, s1 SMALLINT, s2 SMALLINT UNSIGNED,
				m1 MEDIUMINT, m2 MEDIUMINT UNSIGNED, i1 INT, i2 INT UNSIGNED, b1 BIGINT, b2 BIGINT UNSIGNED, z INT(8) UNSIGNED ZEROFILL,
				d1 DECIMAL(65,30), d2 DECIMAL(10,0) UNSIGNED, d3 DECIMAL(9,9), d4 DECIMAL(18,9), f FLOAT, d DOUBLE, fd FLOAT(10,3), dd DOUBLE(20,5),
				bi BIT(1), bj BIT(10), bk BIT(64), bo BOOLEAN)`},
			Fill: []string{
				`INSERT INTO numbers_t VALUES (1, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0, 0,
				-99999999999999999999999999999999999.999999999999999999999999999999, 0, -0.999999999, -123456789.123456789, -3.402823466e38, -1.7976931348623157e308, -1234567.125, -123456789012345.12345, b'0', b'0', 0, false)`,
				`INSERT INTO numbers_t VALUES (2, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295, 9223372036854775807, 18446744073709551615, 42,
				99999999999999999999999999999999999.999999999999999999999999999999, 9999999999, 0.999999999, 0.000000001, 3.402823466e38, 1.7976931348623157e308, 0.001, 0.00001, b'1', b'1000000001', 18446744073709551615, true)`,
				`INSERT INTO numbers_t (id) VALUES (3)`,
				`INSERT INTO numbers_t (id, f, d, d1, d3) VALUES (4, 1.17549435e-38, 2.2250738585072014e-308, 0, 0), (5, 0.1, 0.1, -0.000000000000000000000000000001, -0.5),
				(6, 16777217, 5e-324, 1, 0.1), (7, 1e15, 1e15, 10, 0), (8, -1e-15, 123456789012345678, 1e30, 0), (9, 1e14, 1e-15, 0.5, 0), (10, 3.14159274, 1e-16, 123, 0), (11, 0, -0e0, 7, 0)`,
			},
			Change: []string{
				`INSERT INTO numbers_t SELECT id + 100, t1, t2, s1, s2, m1, m2, i1, i2, b1, b2, z, d1, d2, d3, d4, f, d, fd, dd, bi, bj, bk, bo FROM numbers_t`,
				`UPDATE numbers_t SET t1 = -1, s1 = -1, m1 = -1, i1 = -1, b1 = -1, t2 = 128, s2 = 32768, m2 = 8388608, i2 = 2147483648, b2 = 9223372036854775808, bk = 9223372036854775808 WHERE id IN (2, 102)`,
				`DELETE FROM numbers_t WHERE id = 3`,
			},
		},
		{
			Name: "text", Table: "text_t",
			Create: []string{`CREATE TABLE text_t (id VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci PRIMARY KEY,
				c1 CHAR(10) CHARACTER SET latin1, c2 CHAR(10) CHARACTER SET utf8mb3, c3 CHAR(255) CHARACTER SET utf8mb4,
				v1 VARCHAR(50) CHARACTER SET latin1, v2 VARCHAR(50) CHARACTER SET utf8mb3, v3 VARCHAR(500) CHARACTER SET utf8mb4, v4 VARCHAR(50) CHARACTER SET utf16,
				v5 VARCHAR(20) CHARACTER SET gbk, v6 VARCHAR(20) CHARACTER SET sjis, t1 TINYTEXT, t2 TEXT CHARACTER SET latin1, t3 MEDIUMTEXT, t4 LONGTEXT, j JSON,
				e1 ENUM('a','b''c','é','','x,y') CHARACTER SET latin1, e2 ENUM('1','2','日本') CHARACTER SET utf8mb4, s1 SET('a','b','é') CHARACTER SET latin1, s2 SET('x','y')) CHARACTER SET utf8mb4`},
			Fill: []string{
				`INSERT INTO text_t VALUES ('abc', 'é', '日本', '😀', 'ÿ  ', 'trail  ', '😀 𝄞\t\n\\\0''"', 'ab😀', '中文', '表\\', 'x', REPEAT('é', 1000), REPEAT('😀', 2000), REPEAT('q', 100000), '{"a": [1, 2.50, "😀"]}', 'b''c', '日本', 'a,é', 'x,y')`,
				`INSERT INTO text_t VALUES ('', '', '', '', '', '', '', '', '', '', '', '', '', '', '[]', '', '1', '', '')`,
				`INSERT INTO text_t VALUES ('Äpfel ', ' lead', ' ', 'a ', '  ', ' ', ' x ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', '"\\u00e9\\n"', 'x,y', '2', 'b', 'y')`,
				`INSERT INTO text_t (id) VALUES ('nulls')`,
				`INSERT IGNORE INTO text_t (id, e1, e2) VALUES ('no member', 'nothing', 'nothing')`,
			},
			Change: []string{
				`INSERT INTO text_t SELECT CONCAT(id, '+'), c1, c2, c3, v1, v2, v3, v4, v5, v6, t1, t2, t3, t4, j, e1, e2, s1, s2 FROM text_t`,
				`UPDATE text_t SET id = 'ABC', v3 = 'changed' WHERE id = 'abc'`,
				`UPDATE text_t SET t4 = NULL, c3 = REPEAT('é', 255), v1 = '\\N' WHERE id = ''`,
				`DELETE FROM text_t WHERE id = 'äpfel '`,
			},
		},
		{
			Name: "binary", Table: "binary_t",
			Create: []string{`CREATE TABLE binary_t (id BINARY(4) PRIMARY KEY, b BINARY(8), v VARBINARY(300), t TINYBLOB, bl BLOB, m MEDIUMBLOB, l LONGBLOB)`},
			Fill: []string{
				`INSERT INTO binary_t VALUES (x'00000000', x'0000000000000000', x'', x'00', x'0009', x'0a5c4e', REPEAT(x'00ff', 200000))`,
				`INSERT INTO binary_t VALUES (x'01000000', x'01', x'2020', x'5c', x'5c4e', x'0d0a1a', x'')`,
				`INSERT INTO binary_t VALUES (x'20202020', x'2020', REPEAT(x'e9', 300), NULL, NULL, NULL, NULL)`,
				`INSERT INTO binary_t VALUES (x'ff010000', NULL, x'0000', '', '', '', '')`,
			},
			Change: []string{
				`UPDATE binary_t SET b = x'0102', v = x'09' WHERE id = x'01000000'`,
				`UPDATE binary_t SET id = x'02000000' WHERE id = x'20202020'`,
				`DELETE FROM binary_t WHERE id = x'00000000'`,
				`INSERT INTO binary_t SELECT x'00000100', b, v, t, bl, m, l FROM binary_t WHERE id = x'ff010000'`,
			},
		},
		{
			Name: "times", Table: "times_t",
			Create: []string{`CREATE TABLE times_t (id DATETIME(3) PRIMARY KEY, d DATE, t TIME, t3 TIME(3), t6 TIME(6), t1 TIME(1), dt DATETIME, dt1 DATETIME(1), dt6 DATETIME(6),
				ts TIMESTAMP NULL, ts6 TIMESTAMP(6) NULL, y YEAR)`},
			Fill: []string{
				`INSERT INTO times_t VALUES ('1000-01-01 00:00:00.001', '1000-01-01', '-838:59:59', '-838:59:59.999', '-838:59:59.999999', '-00:00:00.1', '1000-01-01', '1000-01-01 00:00:00.9', '1000-01-01 00:00:00.000001', '1970-01-01 00:00:01', '1970-01-01 00:00:01.000001', 1901)`,
				`INSERT INTO times_t VALUES ('9999-12-31 23:59:59.999', '9999-12-31', '838:59:59', '838:59:59.999', '838:59:59.999999', '12:34:56.7', '9999-12-31 23:59:59', '9999-12-31 23:59:59.9', '9999-12-31 23:59:59.999999', '2038-01-19 03:14:07', '2038-01-19 03:14:07.999999', 2155)`,
				`INSERT INTO times_t VALUES ('2000-02-29 12:00:00', '0000-00-00', '00:00:00', '-00:00:00.001', '-00:00:01.000000', '-12:00:00.9', '0000-00-00 00:00:00', '0000-00-00', '0000-00-00', '0000-00-00', '0000-00-00', 0)`,
				`INSERT INTO times_t VALUES ('2001-01-01', '2024-02-31', '00:00:01', '00:00:00.010', '-00:00:00.000001', '00:00:00', '2024-00-00', '2024-13-01', '2024-02-30 01:02:03.04', '2024-03-31 02:30:00', '2024-10-27 02:30:00.5', 2000)`,
				`INSERT INTO times_t (id) VALUES ('2002-01-01')`,
			},
			Change: []string{
				`INSERT INTO times_t SELECT id + INTERVAL 1 SECOND, d, t, t3, t6, t1, dt, dt1, dt6, ts, ts6, y FROM times_t WHERE id < '9999-01-01'`,
				`UPDATE times_t SET t6 = '-01:02:03.000100', y = 0 WHERE id = '9999-12-31 23:59:59.999'`,
				`DELETE FROM times_t WHERE id = '2002-01-01'`,
			},
		},
		{
			Name: "others", Table: "others_t",
			Create: []string{`CREATE TABLE others_t (id UUID PRIMARY KEY, u UUID, i6 INET6, i4 INET4, g GEOMETRY, p POINT, n INT, gv INT AS (n + 1) VIRTUAL, gs VARCHAR(20) AS (CONCAT('n', n)) STORED, hid INT INVISIBLE DEFAULT 5, UNIQUE (u, n))`},
			Fill: []string{
				`INSERT INTO others_t (id, u, i6, i4, g, p, n, hid) VALUES ('00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', '::', '0.0.0.0', POINT(1, 2), POINT(-1.5, 1e300), 1, 6)`,
				`INSERT INTO others_t (id, u, i6, i4, g, p, n) VALUES ('01234567-89ab-1def-8123-456789abcd00', '01234567-89ab-7def-8123-456789abcdef', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', '255.255.255.255', ST_GeomFromText('POLYGON((0 0,0 1,1 1,0 0))', 4326), NULL, 2)`,
				`INSERT INTO others_t (id, i6, g, n) VALUES ('550e8400-e29b-41d4-a716-446655440000', '::ffff:1.2.3.4', ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,2 2))'), NULL)`,
			},
			Change: []string{
				`INSERT INTO others_t (id, u, i6, i4, g, p, n, hid) SELECT '01234567-89ab-7def-8123-456789abcd00', u, i6, i4, g, p, n + 10, NULL FROM others_t WHERE n = 1`,
				`UPDATE others_t SET id = '01234567-89ab-4def-8123-456789abcd00', i6 = '1::', n = 3 WHERE n = 2`,
				`DELETE FROM others_t WHERE n = 1`,
			},
			Select: "SELECT *, hid FROM others_t",
		},
		{
			Name: "no-key", Table: "nokey_t",
			Create: []string{`CREATE TABLE nokey_t (a VARCHAR(10), b DOUBLE, c BLOB, e ENUM('x','y'), g POINT, t DATETIME(6), i INET6, f FLOAT, s SET('p','q'), y YEAR, bi BIT(5))`},
			Fill: []string{
				`INSERT INTO nokey_t VALUES ('a', 0.1, x'00', 'x', POINT(1,1), '2024-01-01 00:00:00.000001', '::1', 0.1, 'p,q', 2000, 3), ('A', 0.1, x'00', 'x', POINT(1,1), '2024-01-01 00:00:00.000001', '::1', 0.1, 'p,q', 2000, 3), ('a ', 0.1, x'00', 'x', POINT(1,1), '2024-01-01 00:00:00.000001', '::1', 0.1, 'p,q', 2000, 3)`,
				`INSERT INTO nokey_t VALUES ('a', 0.1, x'00', 'x', POINT(1,1), '2024-01-01 00:00:00.000001', '::1', 0.1, 'p,q', 2000, 3), (NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL), (NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL)`,
			},
			Change: []string{
				`DELETE FROM nokey_t WHERE BINARY a = 'A'`,
				`DELETE FROM nokey_t WHERE BINARY a = 'a' LIMIT 1`,
				`UPDATE nokey_t SET b = 5e-324 WHERE BINARY a = 'a '`,
				`DELETE FROM nokey_t WHERE a IS NULL LIMIT 1`,
			},
		},
		{
			Name: "keys", Table: "keys_t",
			Create: []string{`CREATE TABLE keys_t (e ENUM('z','a','m','é') CHARACTER SET latin1, t VARCHAR(10) COLLATE utf8mb4_general_ci, d DECIMAL(10,2), v INT, PRIMARY KEY (e, t, d))`},
			Fill: []string{
				`INSERT INTO keys_t SELECT ELT(seq % 4 + 1, 'z','a','m','é'), CONCAT(CHAR(97 + seq % 7), IF(seq % 2, '', ' x')), seq / 3, seq FROM seq_1_to_700`,
			},
			Change: []string{
				`UPDATE keys_t SET v = -v WHERE e = 'é'`, `DELETE FROM keys_t WHERE e = 'a' AND v % 3 = 0`, `UPDATE keys_t SET t = UPPER(t) WHERE e = 'm'`,
			},
		},
		{
			Name: "unique-not-null", Table: "unn_t",
			Create: []string{`CREATE TABLE unn_t (a INT NOT NULL, b VARCHAR(10) NOT NULL, c INT, v TEXT, UNIQUE KEY k (a, b), UNIQUE KEY c (c))`},
			Fill:   []string{`INSERT INTO unn_t VALUES (1, 'a', NULL, 'x'), (1, 'b', 2, NULL), (2, 'a', 3, '')`},
			Change: []string{`UPDATE unn_t SET c = c + 1 WHERE c = 3`, `UPDATE unn_t SET a = 3 WHERE b = 'b'`, `INSERT INTO unn_t VALUES (1, 'b', 3, 'new')`},
		},
		{
			Name: "versioned", Table: "ver_t", Refused: true,
			Create: []string{`CREATE TABLE ver_t (id INT PRIMARY KEY) WITH SYSTEM VERSIONING`},
		},
		{
			Name: "myisam", Table: "my_t", Refused: true,
			Create: []string{`CREATE TABLE my_t (id INT PRIMARY KEY) ENGINE=MyISAM`},
		},
		{
			Name: "compressed-column", Table: "comp_t", Refused: true,
			Create: []string{`CREATE TABLE comp_t (id INT PRIMARY KEY, v TEXT COMPRESSED)`},
		},
	}
}
