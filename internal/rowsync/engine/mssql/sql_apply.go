package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// sqlMakeWatermark makes the target's record of streams.
func sqlMakeWatermark() string {
	return `CREATE TABLE [leeward].[watermark] ([stream] nvarchar(128) NOT NULL PRIMARY KEY, [pos] nvarchar(400) NOT NULL, [phase] nvarchar(20) NOT NULL, [until] nvarchar(400) NOT NULL, [epoch] nvarchar(400) NOT NULL, [fingerprint] nvarchar(400) NOT NULL, [source_time] datetime2(7) NULL, [serial] bigint NOT NULL, [applied_at] datetime2(3) NOT NULL)`
}

// sqlMakeProgress makes the record of how far seeds are.
func sqlMakeProgress() string {
	return `CREATE TABLE [leeward].[progress] ([stream] nvarchar(128) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [up_to] varbinary(max) NULL, [done] int NOT NULL, PRIMARY KEY ([stream], [schema_name], [table_name]))`
}

// sqlMakeCounters makes the record of the source's identities and sequences.
func sqlMakeCounters() string {
	return `CREATE TABLE [leeward].[counter] ([stream] nvarchar(128) NOT NULL, [kind] nvarchar(20) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [name] nvarchar(128) NOT NULL, [column_name] nvarchar(128) NOT NULL, [value] nvarchar(40) NOT NULL)`
}

// sqlState reads the record of stream @p1.
func sqlState() string {
	return `SELECT [pos], [phase], [until], [epoch], [fingerprint], [source_time], [serial] FROM [leeward].[watermark] WHERE [stream] = @p1`
}

// sqlLockState reads it and keeps it for this transaction alone.
func sqlLockState() string {
	return `SELECT [pos], [phase], [until], [epoch], [fingerprint], [source_time], [serial] FROM [leeward].[watermark] WITH (UPDLOCK, HOLDLOCK) WHERE [stream] = @p1`
}

// sqlLockApply keeps a second replicator of stream @p1 waiting for @p2 ms; the result
// is negative where it did not help. The lock goes with the transaction.
func sqlLockApply() string {
	return `DECLARE @r int; EXEC @r = sp_getapplock @Resource = @p1, @LockMode = N'Exclusive', @LockOwner = N'Transaction', @LockTimeout = @p2; SELECT @r`
}

// sqlAddState makes the record of stream @p1. Of two that do, one fails.
func sqlAddState() string {
	return `INSERT INTO [leeward].[watermark] ([stream], [pos], [phase], [until], [epoch], [fingerprint], [serial], [applied_at]) VALUES (@p1, N'', N'', N'', N'', N'', 0, SYSUTCDATETIME())`
}

// sqlClaimState changes the record at the beginning of a transaction: its row is then
// locked on every server, and whoever waited for it finds another serial.
func sqlClaimState() string {
	return `UPDATE [leeward].[watermark] SET [serial] = [serial] + 1 WHERE [stream] = @p1 AND [serial] = @p2`
}

// sqlSetState writes the record at the end, with the rows it stands for.
func sqlSetState() string {
	return `UPDATE [leeward].[watermark] SET [pos] = @p3, [phase] = @p4, [until] = @p5, [epoch] = @p6, [fingerprint] = @p7, [source_time] = CAST(@p8 AS datetime2(7)), [applied_at] = SYSUTCDATETIME() WHERE [stream] = @p1 AND [serial] = @p2`
}

// sqlSetPhase writes the phase alone.
func sqlSetPhase() string {
	return `UPDATE [leeward].[watermark] SET [phase] = @p2, [serial] = [serial] + 1, [applied_at] = SYSUTCDATETIME() WHERE [stream] = @p1`
}

// sqlProgress reads how far the seeds of stream @p1 are.
func sqlProgress() string {
	return `SELECT [schema_name], [table_name], [up_to], [done] FROM [leeward].[progress] WHERE [stream] = @p1`
}

// sqlSetProgress changes how far one is.
func sqlSetProgress() string {
	return `UPDATE [leeward].[progress] SET [up_to] = @p4, [done] = @p5 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3`
}

// sqlAddProgress records it the first time.
func sqlAddProgress() string {
	return `INSERT INTO [leeward].[progress] ([stream], [schema_name], [table_name], [up_to], [done]) VALUES (@p1, @p2, @p3, @p4, @p5)`
}

// sqlForget removes what one of the tables of schema leeward remembers of stream @p1.
func sqlForget(table string) string {
	return "DELETE FROM [leeward]." + id(table) + " WHERE [stream] = @p1"
}

// sqlCounters reads the source's counters of stream @p1.
func sqlCounters() string {
	return `SELECT [kind], [schema_name], [name], [column_name], [value] FROM [leeward].[counter] WHERE [stream] = @p1`
}

// sqlSetCounter changes one.
func sqlSetCounter() string {
	return `UPDATE [leeward].[counter] SET [value] = @p6 WHERE [stream] = @p1 AND [kind] = @p2 AND [schema_name] = @p3 AND [name] = @p4 AND [column_name] = @p5`
}

// sqlAddCounter records one.
func sqlAddCounter() string {
	return `INSERT INTO [leeward].[counter] ([stream], [kind], [schema_name], [name], [column_name], [value]) VALUES (@p1, @p2, @p3, @p4, @p5, @p6)`
}

// Rows.

const (
	upsertTable    = "#lw_up"   // n, carried columns: rows to be there
	deleteTable    = "#lw_del"  // n, key columns: rows to be gone
	displacedTable = "#lw_disp" // n, key columns: rows in the way
)

// sqlDropOlder removes from a staging table what a later entry of the same key
// replaces. Which keys are the same only the table's collation knows.
func sqlDropOlder(staged, by string, key []col) string {
	return fmt.Sprintf("DELETE a FROM %s AS a WHERE EXISTS (SELECT 1 FROM %s AS b WHERE %s AND b.[n] > a.[n])",
		staged, by, list2(key, " AND ", func(c col) string { return c.stored("b", c.staged()) + " = " + c.stored("a", c.staged()) }))
}

// sqlDeleteRows deletes the rows with the staged keys.
func sqlDeleteRows(t *engine.Table, key []col, staged string) string {
	return fmt.Sprintf("DELETE t FROM %s AS t INNER JOIN %s AS k ON %s", obj(t.Name), staged, equal(key, "t", "k"))
}

// sqlDeleteFree does so for rows that no other row refers to, where foreign keys are
// enforced.
func sqlDeleteFree(t *engine.Table, key []col, staged string, children []*foreignKey) string {
	return sqlDeleteRows(t, key, staged) + " WHERE " + unreferenced(t, children)
}

func unreferenced(t *engine.Table, children []*foreignKey) string {
	parts := make([]string, 0, len(children))
	for _, f := range children {
		var on []string
		for i := range f.columns {
			on = append(on, "r."+id(f.columns[i])+" = t."+id(f.refColumns[i]))
		}
		parts = append(parts, "NOT EXISTS (SELECT 1 FROM "+obj(f.table)+" AS r WHERE "+strings.Join(on, " AND ")+")")
	}
	return strings.Join(parts, " AND ")
}

// sqlDeleteAll empties a table that others may refer to.
func sqlDeleteAll(n engine.Name) string { return "DELETE FROM " + obj(n) }

// sqlUpdateRows sets all rows that are there to what is staged, in one statement, so
// that unique values can change hands. Every column is set, the key too, equal or not:
// what a collation calls equal may be different text.
func sqlUpdateRows(t *engine.Table, key, cols []col, staged string) string {
	set := list(settable(cols), func(c col) string { return id(c.Name) + " = " + c.stored("u", c.staged()) })
	return fmt.Sprintf("UPDATE t SET %s FROM %s AS t INNER JOIN %s AS u ON %s", set, obj(t.Name), staged, equal(key, "t", "u"))
}

// settable leaves out identities, which cannot be updated: of a row that is there they
// are equal where they are the key, and else the row is written anew.
func settable(cols []col) []col {
	var out []col
	for _, c := range cols {
		if !c.Identity {
			out = append(out, c)
		}
	}
	return out
}

// sqlDeleteOtherIdentity deletes rows whose identity, not part of the key, is another
// than the staged one: it cannot be updated, so the row is inserted anew.
func sqlDeleteOtherIdentity(t *engine.Table, key []col, identity col, staged string) string {
	return fmt.Sprintf("DELETE t FROM %s AS t INNER JOIN %s AS u ON %s WHERE %s <> %s", obj(t.Name), staged, equal(key, "t", "u"),
		identity.of("t"), identity.stored("u", identity.staged()))
}

// sqlInsertRows inserts the staged rows that are missing. Of deferred columns, which
// refer to rows that are not there yet, it inserts NULL.
func sqlInsertRows(t *engine.Table, key, cols []col, staged string, deferred map[string]bool) string {
	values := list(cols, func(c col) string {
		if deferred[c.Name] {
			return "NULL"
		}
		return c.stored("u", c.staged())
	})
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s AS u WHERE NOT EXISTS (SELECT 1 FROM %s AS t WHERE %s)",
		obj(t.Name), list(cols, func(c col) string { return id(c.Name) }), values, staged, obj(t.Name), equal(key, "t", "u"))
}

// sqlInsertAll inserts the staged rows into a table that had none.
func sqlInsertAll(t *engine.Table, cols []col, staged string) string {
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s AS u", obj(t.Name),
		list(cols, func(c col) string { return id(c.Name) }), list(cols, func(c col) string { return c.stored("u", c.staged()) }), staged)
}

// sqlIdentityInsert lets identities be written, for one table of a session at a time.
func sqlIdentityInsert(n engine.Name, on bool) string {
	if on {
		return "SET IDENTITY_INSERT " + obj(n) + " ON"
	}
	return "SET IDENTITY_INSERT " + obj(n) + " OFF"
}

// sqlDeleteRange deletes the rows of the staged range that are not staged.
func sqlDeleteRange(t *engine.Table, key []col, sides int, staged string) string {
	return fmt.Sprintf("DELETE t FROM %s AS t INNER JOIN %s AS b ON %s WHERE NOT EXISTS (SELECT 1 FROM %s AS u WHERE %s)",
		obj(t.Name), rangeTable, within(key, sides), staged, equal(key, "t", "u"))
}

// sqlDeleteMissing deletes the rows with the staged keys that are not among the staged rows.
func sqlDeleteMissing(t *engine.Table, key []col, staged string) string {
	return fmt.Sprintf("DELETE t FROM %s AS t INNER JOIN %s AS k ON %s WHERE NOT EXISTS (SELECT 1 FROM %s AS u WHERE %s)",
		obj(t.Name), keyTable, equal(key, "t", "k"), staged, equal(key, "t", "u"))
}

// sqlFindDisplaced stages the keys of rows that hold a value of a unique index which a
// staged row claims, and are not staged themselves.
func sqlFindDisplaced(t *engine.Table, key, unique []col, staged string) string {
	on := list2(unique, " AND ", func(c col) string {
		s := c.of("t") + " = " + c.stored("u", c.staged())
		if c.Nullable {
			s = "(" + s + " OR (" + c.of("t") + " IS NULL AND u." + id(c.staged()) + " IS NULL))"
		}
		return s
	})
	return fmt.Sprintf("INSERT INTO %s ([n], %s) SELECT DISTINCT 0, %s FROM %s AS t INNER JOIN %s AS u ON %s WHERE NOT EXISTS (SELECT 1 FROM %s AS o WHERE %s)",
		displacedTable, list(key, func(c col) string { return id(c.staged()) }), list(key, func(c col) string { return c.asStaged("t") }),
		obj(t.Name), staged, on, staged, equal(key, "t", "o"))
}

// asStaged turns the column of a table into what a staging table holds.
func (c col) asStaged(alias string) string {
	switch {
	case c.kind == kindChar:
		return "CAST(" + c.of(alias) + " AS " + c.wide() + ")"
	case c.kind == kindUDT:
		return "CAST(" + c.of(alias) + " AS varbinary(max))"
	}
	return c.of(alias)
}

// sqlReadStagedKeys reads staged keys back.
func sqlReadStagedKeys(key []col, staged string, d dialect) string {
	return "SELECT " + list(key, func(c col) string {
		c.Name = c.staged()
		if c.kind == kindChar {
			c.kind, c.base = kindNChar, "nvarchar"
		}
		if c.kind == kindUDT {
			c.kind, c.base = kindBinary, "varbinary"
		}
		return c.read("k", d)
	}) + " FROM " + staged + " AS k"
}

// sqlAppend adds what @p1 holds to a large value of staged row @p2.
func sqlAppend(c col, utf16 bool) string {
	piece := "@p1"
	if c.text() && utf16 {
		piece = "CAST(@p1 AS nvarchar(max))"
	}
	return fmt.Sprintf("UPDATE %s SET %s.WRITE(%s, NULL, NULL) WHERE [n] = @p2", upsertTable, id(c.staged()), piece)
}

const oneTable = "#lw_one" // n, carried columns: one row whose large values come apart

// sqlAddOne adds a row that has nothing but its number.
func sqlAddOne() string { return "INSERT INTO " + upsertTable + " ([n]) VALUES (@p1)" }

// sqlBlank makes a large value empty, so that pieces can be added to it.
func sqlBlank(c col) string {
	empty := "0x"
	if c.text() {
		empty = "N''"
	}
	return fmt.Sprintf("UPDATE %s SET %s = %s WHERE [n] = @p1", upsertTable, id(c.staged()), empty)
}

// sqlFillOne gives the row its other values.
func sqlFillOne(cols []col) string {
	return fmt.Sprintf("UPDATE u SET %s FROM %s AS u INNER JOIN %s AS o ON u.[n] = @p1",
		list(cols, func(c col) string { return id(c.staged()) + " = o." + id(c.staged()) }), upsertTable, oneTable)
}
