package mssql

import (
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// What Leeward keeps in a database is in the schema leeward. Triggers write there for
// whoever fires them: by ownership where schema and table have one owner, and by a grant
// to public for the rest.

// sqlHasSchema tells whether schema leeward is there.
func sqlHasSchema() string { return `SELECT SCHEMA_ID(N'leeward')` }

// sqlMakeSchema makes schema leeward.
func sqlMakeSchema() string { return `CREATE SCHEMA [leeward]` }

// sqlHasObject tells whether an object @p1 is there.
func sqlHasObject() string { return `SELECT OBJECT_ID(@p1)` }

// sqlMakeStreams makes the source's record of streams: how they are captured, and the
// beat of their history: a row that goes back in time tells that the database did.
func sqlMakeStreams() string {
	return `CREATE TABLE [leeward].[stream] ([stream] nvarchar(128) NOT NULL PRIMARY KEY, [method] nvarchar(20) NOT NULL, [tick] bigint NOT NULL, [version] bigint NOT NULL, [beat_at] datetime2(3) NOT NULL)`
}

// sqlMakeCaptures makes the record of what was made for each table of a stream.
// rows is, with triggers, how many rows the table had without what its log holds; NULL:
// not counted yet; negative: before that tick, changes were not captured. With change
// tracking it is the version at which the stream took the table in.
func sqlMakeCaptures() string {
	return `CREATE TABLE [leeward].[capture] ([stream] nvarchar(128) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [token] nvarchar(20) NOT NULL, [rows] bigint NULL, PRIMARY KEY ([stream], [schema_name], [table_name]))`
}

// sqlMakeMade makes the record of database settings that a stream switched on.
func sqlMakeMade() string {
	return `CREATE TABLE [leeward].[made] ([stream] nvarchar(128) NOT NULL, [what] nvarchar(60) NOT NULL)`
}

// sqlStream reads the record of stream @p1.
func sqlStream() string {
	return `SELECT [method], [tick], [version] FROM [leeward].[stream] WHERE [stream] = @p1`
}

// sqlAddStream records stream @p1, captured by @p2. Its clock stands at 0 until all is made.
func sqlAddStream() string {
	return `INSERT INTO [leeward].[stream] ([stream], [method], [tick], [version], [beat_at]) VALUES (@p1, @p2, 0, 0, SYSUTCDATETIME())`
}

// sqlStartStream says that all of stream @p1 is made, and from where on its history goes:
// the clock starts at @p2, and @p3 is where it started.
func sqlStartStream() string {
	return `UPDATE [leeward].[stream] SET [tick] = @p2, [version] = @p3, [beat_at] = SYSUTCDATETIME() WHERE [stream] = @p1`
}

// sqlDropStream forgets stream @p1.
func sqlDropStream() string { return `DELETE FROM [leeward].[stream] WHERE [stream] = @p1` }

// sqlStreams counts streams.
func sqlStreams() string { return `SELECT COUNT(*) FROM [leeward].[stream]` }

// sqlDropOwn drops one of the tables of schema leeward.
func sqlDropOwn(table string) string { return "DROP TABLE IF EXISTS [leeward]." + id(table) }

// sqlDropSchema drops schema leeward where it is empty; a standby has more in it.
func sqlDropSchema() string { return "DROP SCHEMA [leeward]" }

// sqlTick moves the clock of stream @p1 on and returns it. Whoever sees the new time
// in a snapshot sees every commit before it as well.
func sqlTick() string {
	return `UPDATE [leeward].[stream] SET [tick] = [tick] + 1, [beat_at] = SYSUTCDATETIME() OUTPUT inserted.[tick] WHERE [stream] = @p1`
}

// sqlReadTick reads the clock of stream @p1 and the time.
func sqlReadTick() string {
	return `SELECT [tick], SYSUTCDATETIME() FROM [leeward].[stream] WHERE [stream] = @p1`
}

// sqlBeat records that version @p2 of stream @p1 is given out.
func sqlBeat() string {
	return `UPDATE [leeward].[stream] SET [version] = @p2, [beat_at] = SYSUTCDATETIME() WHERE [stream] = @p1 AND [version] < @p2`
}

// sqlCaptures reads what was made for the tables of stream @p1.
func sqlCaptures() string {
	return `SELECT [schema_name], [table_name], [token], [rows] FROM [leeward].[capture] WHERE [stream] = @p1`
}

// sqlAddCapture records what was made for a table.
func sqlAddCapture() string {
	return `INSERT INTO [leeward].[capture] ([stream], [schema_name], [table_name], [token]) VALUES (@p1, @p2, @p3, @p4)`
}

// sqlDropCapture forgets what was made for a table.
func sqlDropCapture() string {
	return `DELETE FROM [leeward].[capture] WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3`
}

// sqlMade reads which settings of the database stream @p1 switched on.
func sqlMade() string { return `SELECT [what] FROM [leeward].[made] WHERE [stream] = @p1` }

// sqlAddMade records that stream @p1 switched @p2 on.
func sqlAddMade() string {
	return `INSERT INTO [leeward].[made] ([stream], [what]) VALUES (@p1, @p2)`
}

// sqlDropMade forgets what stream @p1 switched on.
func sqlDropMade() string { return `DELETE FROM [leeward].[made] WHERE [stream] = @p1` }

// sqlTrackDatabase switches change tracking of the database on. Its default of two days
// is less than a long weekend without a link.
func sqlTrackDatabase() string {
	return `ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)`
}

// sqlUntrackDatabase switches it off.
func sqlUntrackDatabase() string { return `ALTER DATABASE CURRENT SET CHANGE_TRACKING = OFF` }

// sqlTracked tells whether change tracking of the database is on.
func sqlTracked() string {
	return `SELECT COUNT(*) FROM sys.change_tracking_databases WHERE database_id = DB_ID()`
}

// sqlAllowSnapshot switches snapshot isolation on. It waits for all open transactions;
// given up, it goes on by itself.
func sqlAllowSnapshot() string { return `ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON` }

// sqlDisallowSnapshot switches it off.
func sqlDisallowSnapshot() string { return `ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION OFF` }

// sqlTrackTable switches change tracking of a table on. It waits for a lock that stops
// the table's users meanwhile, and not for long.
func sqlTrackTable(n engine.Name) string {
	return `SET LOCK_TIMEOUT 5000; ALTER TABLE ` + obj(n) + ` ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = OFF); SET LOCK_TIMEOUT -1`
}

// sqlUntrackTable switches it off.
func sqlUntrackTable(n engine.Name) string {
	return `SET LOCK_TIMEOUT 5000; ALTER TABLE ` + obj(n) + ` DISABLE CHANGE_TRACKING; SET LOCK_TIMEOUT -1`
}

// sqlTrackedTables reads from which version on each table's changes are known.
func sqlTrackedTables() string {
	return `SELECT s.name, t.name, c.min_valid_version FROM sys.change_tracking_tables AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id`
}

// sqlVersion reads the current version and the time. In a snapshot transaction it is
// read before any row.
func sqlVersion() string { return `SELECT CHANGE_TRACKING_CURRENT_VERSION(), SYSUTCDATETIME()` }

// sqlWhichChanged tells which of the tables have changes after version @p1, so that
// those that have none cost nothing.
func sqlWhichChanged(names []engine.Name) string {
	parts := make([]string, 0, len(names))
	for i, n := range names {
		parts = append(parts, fmt.Sprintf("SELECT %d WHERE EXISTS (SELECT 1 FROM CHANGETABLE(CHANGES %s, @p1) AS c)", i, obj(n)))
	}
	return strings.Join(parts, " UNION ALL ")
}

// sqlTrackedChanges reads the keys that changed after version @p1, with their rows. A
// key without a row is gone: what the operation is said to be is not to be relied on,
// see KB4135113.
func sqlTrackedChanges(t *engine.Table, key, cols []col, d dialect) string {
	return fmt.Sprintf("SELECT %s, CASE WHEN %s IS NULL THEN 1 ELSE 0 END, %s FROM CHANGETABLE(CHANGES %s, @p1) AS k LEFT OUTER JOIN %s AS t ON %s",
		list(key, func(c col) string { return c.read("k", d) }), key[0].of("t"), list(cols, func(c col) string { return c.read("t", d) }),
		obj(t.Name), obj(t.Name), list2(key, " AND ", func(c col) string { return c.of("t") + " = " + c.of("k") }))
}

func list2(cols []col, by string, f func(col) string) string {
	parts := make([]string, 0, len(cols))
	for _, c := range cols {
		parts = append(parts, f(c))
	}
	return strings.Join(parts, by)
}
