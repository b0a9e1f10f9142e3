package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Names of what captures a table by triggers.
func logName(token string) string      { return "[leeward].[log_" + token + "]" }
func sequenceName(token string) string { return "[leeward].[seq_" + token + "]" }
func captureTrigger(n engine.Name, token string) string {
	return id(n.Schema) + "." + id(ourPrefix+"c_"+token)
}

// sqlMakeSequence makes the sequence that numbers the log of a table. An identity
// would change @@IDENTITY under the application's eyes.
func sqlMakeSequence(token string) string {
	return "CREATE SEQUENCE " + sequenceName(token) + " AS bigint START WITH 1 INCREMENT BY 1"
}

// sqlMakeLog makes the log of a table: the keys that changed, and by how many rows the
// table grew.
func sqlMakeLog(token string, key []col, d dialect) string {
	return fmt.Sprintf("CREATE TABLE %s ([seq] bigint NOT NULL PRIMARY KEY, [grew] int NOT NULL, %s)", logName(token),
		list(key, func(c col) string { return id(c.staged()) + " " + c.Type + c.collate(d) + " NOT NULL" }))
}

// sqlKeepRowLocks keeps the deletion of many log rows from locking the whole log, which
// would make applications wait.
func sqlKeepRowLocks(token string) string {
	return "ALTER TABLE " + logName(token) + " SET (LOCK_ESCALATION = DISABLE)"
}

// sqlGrantLog lets whoever changes a table write its log, where the table does not
// belong to the owner of schema leeward.
func sqlGrantLog(token string) string { return "GRANT INSERT ON " + logName(token) + " TO public" }

// sqlGrantSequence lets them number it.
func sqlGrantSequence(token string) string {
	return "GRANT UPDATE ON " + sequenceName(token) + " TO public"
}

// sqlMakeCaptureTrigger makes the trigger that logs changed keys. An update that keeps
// its keys is logged once. SET ROWCOUNT of the application must not cut the log.
func sqlMakeCaptureTrigger(n engine.Name, token string, key []col, d dialect) string {
	names := list(key, func(c col) string { return id(c.staged()) })
	rowcount := ""
	if d.RowCount {
		rowcount = "    SET ROWCOUNT 0;\n"
	}
	insert := func(from, grew, where string) string {
		return fmt.Sprintf("    INSERT INTO %s ([seq], [grew], %s) SELECT NEXT VALUE FOR %s, %s, %s FROM %s AS x%s;\n",
			logName(token), names, sequenceName(token), grew, list(key, func(c col) string { return c.of("x") }), from, where)
	}
	same := list2(key, " AND ", func(c col) string { return c.of("o") + " = " + c.of("x") })
	return fmt.Sprintf("CREATE TRIGGER %s ON %s AFTER INSERT, UPDATE, DELETE AS\nBEGIN\n    SET NOCOUNT ON;\n%s    DECLARE @gone int = 0, @came int = 0;\n    IF NOT EXISTS (SELECT 1 FROM inserted) SET @gone = -1;\n    IF NOT EXISTS (SELECT 1 FROM deleted) SET @came = 1;\n%s%sEND",
		captureTrigger(n, token), obj(n), rowcount,
		insert("deleted", "@gone", ""), insert("inserted", "@came", " WHERE NOT EXISTS (SELECT 1 FROM deleted AS o WHERE "+same+")"))
}

// sqlLockTimeout bounds how long the session waits for locks; -1: without bound.
func sqlLockTimeout(ms int) string { return fmt.Sprintf("SET LOCK_TIMEOUT %d", ms) }

// sqlDropCaptureTrigger drops the trigger.
func sqlDropCaptureTrigger(n engine.Name, token string) string {
	return "DROP TRIGGER IF EXISTS " + captureTrigger(n, token)
}

// sqlDropLog drops the log of a table.
func sqlDropLog(token string) string { return "DROP TABLE IF EXISTS " + logName(token) }

// sqlDropSequence drops its sequence.
func sqlDropSequence(token string) string { return "DROP SEQUENCE IF EXISTS " + sequenceName(token) }

// sqlTriggerState tells whether trigger @p1 of a table is there and enabled.
func sqlTriggerState() string {
	return `SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = OBJECT_ID(@p1) AND g.name = @p2 AND g.is_disabled = 0`
}

// sqlLogSize counts the rows of the logs, one row for each.
func sqlLogSize(tokens []string) string {
	parts := make([]string, 0, len(tokens))
	for i, k := range tokens {
		parts = append(parts, fmt.Sprintf("SELECT %d, COUNT_BIG(*) FROM %s", i, logName(k)))
	}
	return strings.Join(parts, " UNION ALL ")
}

const doneTable = "#lw_done" // a, b: runs of log rows that were read already

// sqlStageDone makes the table of runs of log rows that were read already.
func sqlStageDone() string {
	return "CREATE TABLE " + doneTable + " ([a] bigint NULL, [b] bigint NULL)"
}

func unread(alias string) string {
	return fmt.Sprintf("NOT EXISTS (SELECT 1 FROM %s AS r WHERE %s.[seq] >= r.[a] AND %s.[seq] <= r.[b])", doneTable, alias, alias)
}

// sqlLogRows lists the log rows not read yet.
func sqlLogRows(token string) string {
	return "SELECT l.[seq], l.[grew] FROM " + logName(token) + " AS l WHERE " + unread("l") + " ORDER BY l.[seq]"
}

// sqlLoggedChanges reads the keys logged and not read yet, with their rows as they are
// now. A key without a row is gone.
func sqlLoggedChanges(t *engine.Table, token string, key, cols []col, d dialect) string {
	staged := func(c col) string {
		k := c
		k.Name = c.staged()
		return k.read("k", d)
	}
	return fmt.Sprintf("SELECT %s, CASE WHEN %s IS NULL THEN 1 ELSE 0 END, %s FROM (SELECT DISTINCT %s FROM %s AS l WHERE %s) AS k LEFT OUTER JOIN %s AS t ON %s",
		list(key, staged), key[0].of("t"), list(cols, func(c col) string { return c.read("t", d) }),
		list(key, func(c col) string { return "l." + id(c.staged()) }), logName(token), unread("l"), obj(t.Name),
		list2(key, " AND ", func(c col) string { return c.of("t") + " = k." + id(c.staged()) }))
}

// sqlCountRows counts a table, and adds up by how much its log says that it grew. TRUNCATE
// and bulk copy fire no trigger; the sum that no longer fits gives them away.
func sqlCountRows(t engine.Name, token string) string {
	return fmt.Sprintf("SELECT (SELECT COUNT_BIG(*) FROM %s), (SELECT ISNULL(SUM(CAST(l.[grew] AS bigint)), 0) FROM %s AS l)", obj(t), logName(token))
}

// sqlDeleteLog deletes the run of log rows from @p1 to @p2, all of which were read.
func sqlDeleteLog(token string) string {
	return "DELETE FROM " + logName(token) + " WHERE [seq] >= @p1 AND [seq] <= @p2"
}

// sqlSetRows records how many rows a table has without what its log holds.
func sqlSetRows() string {
	return `UPDATE [leeward].[capture] SET [rows] = @p4 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3`
}

// sqlAddRows adds @p4 to it, in the transaction that deletes the log rows which say so.
func sqlAddRows() string {
	return `UPDATE [leeward].[capture] SET [rows] = [rows] + @p4 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3`
}
