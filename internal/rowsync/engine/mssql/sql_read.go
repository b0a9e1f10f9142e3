package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Staging tables. Each is made, filled by bulk copy, used and dropped in one session.
const (
	rangeTable = "#lw_range" // n, open, lower bound l…, upper bound h… of key columns
	keyTable   = "#lw_key"   // n, key columns
	rowTable   = "#lw_row"   // n, carried columns
)

// open says which sides of a range have bounds.
const (
	lowerBound = 1
	upperBound = 2
)

// sqlStageRanges makes the table that takes ranges of keys to the server.
func sqlStageRanges(key []col, d dialect) string {
	return fmt.Sprintf("CREATE TABLE %s ([n] int NULL, [sides] int NULL, %s, %s)", rangeTable,
		list(key, func(c col) string { return c.declare("l"+c.staged(), d) }),
		list(key, func(c col) string { return c.declare("h"+c.staged(), d) }))
}

// sqlStageRows makes a table that takes keys or rows to the server.
func sqlStageRows(table string, cols []col, d dialect) string {
	return fmt.Sprintf("CREATE TABLE %s ([n] int NULL, %s)", table,
		list(cols, func(c col) string { return c.declare(c.staged(), d) }))
}

// sqlDropStage drops a staging table.
func sqlDropStage(table string) string { return "DROP TABLE IF EXISTS " + table }

// within is the condition for a row t of a table to be in a range b.
func within(key []col, sides int) string {
	var and []string
	if sides&lowerBound != 0 {
		and = append(and, bound(key, "t", func(c col) string { return c.stored("b", "l"+c.staged()) }, false))
	}
	if sides&upperBound != 0 {
		and = append(and, bound(key, "t", func(c col) string { return c.stored("b", "h"+c.staged()) }, true))
	}
	if len(and) == 0 {
		return "1 = 1"
	}
	return strings.Join(and, " AND ")
}

// sqlBounds reads every @p2-th key of the next @p1 in order: those that end buckets.
// The lower bound is a scalar subquery, so that the server knows it is one value and
// reads the index in order instead of sorting what is left of the table.
func sqlBounds(t *engine.Table, key []col, from bool, d dialect) string {
	where := ""
	if from {
		where = " WHERE " + bound(key, "t", func(c col) string {
			return "(SELECT TOP (1) " + c.stored("b", "l"+c.staged()) + " FROM " + rangeTable + " AS b)"
		}, false)
	}
	names := list(key, func(c col) string { return c.of("t") })
	return fmt.Sprintf("SELECT %s FROM (SELECT TOP (@p1) %s, ROW_NUMBER() OVER (ORDER BY %s) AS [lw_n] FROM %s AS t%s ORDER BY %s) AS t WHERE t.[lw_n] %% @p2 = 0 ORDER BY t.[lw_n]",
		list(key, func(c col) string { return c.read("t", d) }), names, names, obj(t.Name), where, names)
}

// sqlDigests counts the rows of each staged range and adds up 64 bits of their hashes.
func sqlDigests(t *engine.Table, key, cols []col, sides int, d dialect) string {
	return fmt.Sprintf("SELECT b.[n], s.[c], s.[h] FROM %s AS b CROSS APPLY (SELECT COUNT_BIG(*) AS [c], SUM(CAST(CAST(SUBSTRING(%s, 1, 8) AS bigint) AS decimal(38,0))) AS [h] FROM %s AS t WHERE %s) AS s WHERE b.[sides] = %d",
		rangeTable, rowHash(cols, "t", d), obj(t.Name), within(key, sides), sides)
}

// sqlKeys lists the key and the hash of each row of the staged ranges.
func sqlKeys(t *engine.Table, key, cols []col, sides int, d dialect) string {
	return fmt.Sprintf("SELECT %s, SUBSTRING(%s, 1, 16) FROM %s AS b INNER JOIN %s AS t ON %s WHERE b.[sides] = %d",
		list(key, func(c col) string { return c.read("t", d) }), rowHash(cols, "t", d), rangeTable, obj(t.Name), within(key, sides), sides)
}

// exported is the columns of a row that Export reads: a value that is too large comes
// as NULL with its size, and is read in pieces afterwards.
func exported(cols []col, d dialect) string {
	return list(cols, func(c col) string {
		if !c.large() {
			return c.read("t", d)
		}
		return fmt.Sprintf("CASE WHEN %s > %d THEN NULL ELSE %s END, CAST(%s AS bigint)", c.length("t"), largeValue, c.read("t", d), c.length("t"))
	})
}

// sqlExportRange reads the rows of the staged range.
func sqlExportRange(t *engine.Table, key, cols []col, sides int, d dialect) string {
	return fmt.Sprintf("SELECT %s FROM %s AS b INNER JOIN %s AS t ON %s WHERE b.[sides] = %d",
		exported(cols, d), rangeTable, obj(t.Name), within(key, sides), sides)
}

// sqlExportKeys reads the rows with the staged keys.
func sqlExportKeys(t *engine.Table, key, cols []col, d dialect) string {
	return fmt.Sprintf("SELECT %s FROM %s AS k INNER JOIN %s AS t ON %s", exported(cols, d), keyTable, obj(t.Name), equal(key, "t", "k"))
}

// sqlRows reads the rows with the staged keys, each value whole.
func sqlRows(t *engine.Table, key, cols []col, d dialect) string {
	return fmt.Sprintf("SELECT %s FROM %s AS k INNER JOIN %s AS t ON %s",
		list(cols, func(c col) string { return c.read("t", d) }), keyTable, obj(t.Name), equal(key, "t", "k"))
}

// sqlPiece reads @p2 bytes or characters from @p1 on of one value of the row with the
// staged key.
func sqlPiece(t *engine.Table, key []col, c col, d dialect) string {
	return fmt.Sprintf("SELECT %s FROM %s AS k INNER JOIN %s AS t ON %s", c.piece("t", d), keyTable, obj(t.Name), equal(key, "t", "k"))
}

// Isolation levels.
const (
	snapshotLevel   = "SNAPSHOT"
	committedLevel  = "READ COMMITTED"
	repeatableLevel = "REPEATABLE READ"
)

// sqlBegin starts a transaction at an isolation level. XACT_ABORT is off: a unique
// violation ends its statement alone, so that the row in the way can be moved.
func sqlBegin(level string) string {
	return "SET XACT_ABORT OFF; SET TRANSACTION ISOLATION LEVEL " + level + "; BEGIN TRANSACTION"
}

// sqlCommit ends a transaction.
func sqlCommit() string { return "COMMIT TRANSACTION; SET TRANSACTION ISOLATION LEVEL READ COMMITTED" }

// sqlRollback gives one up.
func sqlRollback() string {
	return "IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION; SET TRANSACTION ISOLATION LEVEL READ COMMITTED"
}
