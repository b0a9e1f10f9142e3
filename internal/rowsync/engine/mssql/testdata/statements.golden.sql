-- Every statement that Leeward sends to SQL Server, made of examples. Written by
-- go test ./internal/rowsync/engine/mssql -run TestStatements -update

-- sqlServer tells who the server and the database say they are; for people only.
SELECT DB_NAME(), CAST(SERVERPROPERTY('Edition') AS nvarchar(128)), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(DATABASEPROPERTYEX(DB_NAME(), 'Collation') AS nvarchar(128)), ORIGINAL_LOGIN()
GO

-- sqlProbeUpdateable tells whether the database may be written: READ_WRITE, or
-- READ_ONLY, as on a secondary, where change tracking means nothing.
SELECT CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS nvarchar(60))
GO

-- sqlProbeSnapshot reads the state of snapshot isolation: 1 on, 2 and 3 on its way.
SELECT CAST(d.snapshot_isolation_state AS int) FROM sys.databases AS d WHERE d.name = DB_NAME()
GO

-- sqlProbeChangeTracking works where the server has change tracking, on or off.
SELECT CHANGE_TRACKING_CURRENT_VERSION()
GO

-- sqlProbeUTF16 gives 0x3604 where characters become UTF-16LE bytes.
SELECT CAST(CAST(N'ж' AS nvarchar(1)) AS varbinary(4))
GO

-- sqlProbeHash shows which bytes of nvarchar are hashed.
SELECT HASHBYTES('SHA2_256', CAST(N'жz' AS nvarchar(2)))
GO

-- sqlProbeUTF8 works where a collation of UTF-8 is known (SQL Server 2019).
SELECT HASHBYTES('SHA2_256', CAST(CAST(N'жz' AS nvarchar(2)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max)))
GO

-- sqlProbeFloat gives 1 where style 3 tells neighbouring floats apart.
SELECT CASE WHEN CONVERT(nvarchar(40), CAST(0.1E0 AS float), 3) <> CONVERT(nvarchar(40), CAST(1.0000000000000002E-1 AS float), 3) THEN 1 ELSE 0 END
GO

-- sqlProbeRowCount works where SET ROWCOUNT is understood.
SET ROWCOUNT 0
GO

-- sqlProbeCollate works where COLLATE takes the name the catalogue gives.
CREATE TABLE #lw_probe ([c] nvarchar(1) COLLATE Latin1_General_CI_AS NULL)
GO

-- sqlProbeWrite works where a part of a value can be written.
DECLARE @t table ([v] varbinary(max) NOT NULL); INSERT @t ([v]) VALUES (0x01); UPDATE @t SET [v].WRITE(0x02, NULL, NULL)
GO

-- sqlProbeAppLock takes and releases an application lock.
DECLARE @r int; EXEC @r = sp_getapplock @Resource = N'leeward probe', @LockMode = N'Shared', @LockOwner = N'Session', @LockTimeout = 0; IF @r >= 0 EXEC sp_releaseapplock @Resource = N'leeward probe', @LockOwner = N'Session'
GO

-- sqlProbeRecovery reads the fork of the database's history, which a restore changes.
SELECT CAST(r.recovery_fork_guid AS nvarchar(36)), CAST(r.database_guid AS nvarchar(36)) FROM sys.database_recovery_status AS r WHERE r.database_id = DB_ID()
GO

-- sqlCreated tells when the database was made, restored or renamed.
SELECT CONVERT(nvarchar(30), d.create_date, 121) FROM sys.databases AS d WHERE d.name = DB_NAME()
GO

-- sqlDatabasePermissions asks which permissions the login has in the database: 1 yes,
-- 0 no, NULL where the server does not know the word.
SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'ALTER'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE SCHEMA'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'VIEW DEFINITION'), IS_ROLEMEMBER('db_owner')
GO

-- sqlTablePermission asks for permission @p2 on table @p1.
SELECT HAS_PERMS_BY_NAME(@p1, 'OBJECT', @p2)
GO

-- sqlUnmask asks for the permission to read masked values.
SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'UNMASK')
GO

-- sqlMasked lists columns whose values are masked for those without that permission.
SELECT s.name, t.name, c.name FROM sys.columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE c.is_masked = 1
GO

-- sqlEncrypted lists columns under Always Encrypted, whose values the server itself
-- cannot hash.
SELECT s.name, t.name, c.name FROM sys.columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE c.encryption_type IS NOT NULL
GO

-- sqlPolicies lists security policies, which hide rows.
SELECT s.name, p.name, p.name FROM sys.security_policies AS p INNER JOIN sys.schemas AS s ON s.schema_id = p.schema_id WHERE p.is_enabled = 1
GO

-- sqlNestedTriggers reads whether triggers fire for what other triggers do.
SELECT CAST(c.value_in_use AS int) FROM sys.configurations AS c WHERE c.name = N'nested triggers'
GO

-- sourceGrants is what a source's user needs, to be printed and run by a person.
GRANT SELECT TO [repl]
GRANT VIEW DEFINITION TO [repl]
GRANT VIEW DATABASE STATE TO [repl]
GRANT VIEW CHANGE TRACKING ON SCHEMA::[dbo] TO [repl] -- and on every other schema with tables
GRANT ALTER TO [repl] -- to switch change tracking and snapshot isolation on, or to make triggers
GRANT CREATE SCHEMA TO [repl]
GRANT CREATE TABLE TO [repl]
GO

-- grantTable is the grant that gives one permission on a table.
GRANT SELECT ON [dbo].[customer] TO [repl]
GO

-- grantDatabase is the grant that gives one permission in the database.
GRANT UNMASK TO [repl]
GO

-- addOwner makes a user an owner of the database.
ALTER ROLE [db_owner] ADD MEMBER [repl]
GO

-- sqlTables lists the user's tables.
SELECT t.object_id, s.name, t.name, CAST(t.temporal_type AS int), CAST(t.is_memory_optimized AS int), CAST(t.is_external AS int), CAST(t.is_filetable AS int)
FROM sys.tables AS t INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> N'leeward' ORDER BY s.name, t.name
GO

-- sqlGraphTables lists node and edge tables; there are none before SQL Server 2017.
SELECT t.object_id FROM sys.tables AS t WHERE t.is_node = 1 OR t.is_edge = 1
GO

-- sqlColumns lists the columns of all tables, with defaults, formulas and identities.
SELECT c.object_id, c.column_id, c.name, CASE WHEN u.is_user_defined = 1 THEN b.name ELSE u.name END, CASE WHEN u.is_user_defined = 1 THEN us.name END, CASE WHEN u.is_user_defined = 1 THEN u.name END,
 CAST(c.max_length AS int), CAST(c.precision AS int), CAST(c.scale AS int), c.collation_name, CAST(c.is_nullable AS int), CAST(c.is_identity AS int), CAST(c.is_computed AS int), CASE WHEN c.generated_always_type <> 0 OR c.is_column_set = 1 THEN 1 ELSE 0 END, CAST(c.is_sparse AS int), CAST(c.is_rowguidcol AS int),
 d.name, d.definition, CAST(d.is_system_named AS int), m.definition, CAST(m.is_persisted AS int), CAST(i.seed_value AS nvarchar(40)), CAST(i.increment_value AS nvarchar(40))
FROM sys.columns AS c INNER JOIN sys.objects AS o ON o.object_id = c.object_id
LEFT JOIN sys.types AS u ON u.user_type_id = c.user_type_id
LEFT JOIN sys.types AS b ON b.user_type_id = u.system_type_id
LEFT JOIN sys.schemas AS us ON us.schema_id = u.schema_id
LEFT JOIN sys.default_constraints AS d ON d.parent_object_id = c.object_id AND d.parent_column_id = c.column_id
LEFT JOIN sys.computed_columns AS m ON m.object_id = c.object_id AND m.column_id = c.column_id
LEFT JOIN sys.identity_columns AS i ON i.object_id = c.object_id AND i.column_id = c.column_id
WHERE o.type IN ('U', 'TT') ORDER BY c.object_id, c.column_id
GO

-- sqlIndexes lists indexes with their columns; keys and unique constraints are among them.
SELECT i.object_id, i.index_id, i.name, CAST(i.type AS int), CAST(i.is_unique AS int), CAST(i.is_primary_key AS int), CAST(i.is_unique_constraint AS int), CAST(i.is_disabled AS int), CAST(i.ignore_dup_key AS int), CAST(i.fill_factor AS int), i.filter_definition, x.column_id, CAST(x.is_descending_key AS int), CAST(x.is_included_column AS int)
FROM sys.indexes AS i INNER JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id INNER JOIN sys.objects AS o ON o.object_id = i.object_id
WHERE o.type IN ('U', 'TT') AND i.is_hypothetical = 0 ORDER BY i.object_id, i.index_id, x.is_included_column, x.key_ordinal, x.index_column_id
GO

-- sqlForeignKeys lists foreign keys with their columns.
SELECT f.object_id, f.name, s.name, f.parent_object_id, f.referenced_object_id, f.delete_referential_action_desc, f.update_referential_action_desc, CAST(f.is_disabled AS int), CAST(f.is_not_trusted AS int), CAST(f.is_not_for_replication AS int), x.parent_column_id, x.referenced_column_id
FROM sys.foreign_keys AS f INNER JOIN sys.foreign_key_columns AS x ON x.constraint_object_id = f.object_id INNER JOIN sys.schemas AS s ON s.schema_id = f.schema_id
ORDER BY f.object_id, x.constraint_column_id
GO

-- sqlChecks lists check constraints.
SELECT k.name, k.parent_object_id, k.definition, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int), CAST(k.is_not_for_replication AS int)
FROM sys.check_constraints AS k ORDER BY k.parent_object_id, k.name
GO

-- sqlModules lists views, procedures, functions and triggers of tables with their text.
SELECT o.object_id, s.name, o.name, o.type, m.definition, o.parent_object_id
FROM sys.objects AS o INNER JOIN sys.schemas AS s ON s.schema_id = o.schema_id LEFT JOIN sys.sql_modules AS m ON m.object_id = o.object_id
WHERE o.type IN ('V', 'P', 'FN', 'IF', 'TF', 'TR') AND o.is_ms_shipped = 0 AND s.name <> N'leeward' ORDER BY s.name, o.name
GO

-- sqlModuleDependencies lists which views and routines name which others, so that
-- they can be made in order.
SELECT d.referencing_id, d.referenced_id FROM sys.sql_expression_dependencies AS d WHERE d.referenced_id IS NOT NULL AND d.referencing_id <> d.referenced_id
GO

-- sqlTriggers lists triggers of tables and whether they are disabled.
SELECT g.object_id, g.name, g.parent_id, CAST(g.is_disabled AS int), CAST(g.is_instead_of_trigger AS int) FROM sys.triggers AS g WHERE g.parent_id <> 0 ORDER BY g.parent_id, g.name
GO

-- sqlSequences lists sequences and where they stand.
SELECT s.name, q.name, y.name, CAST(q.precision AS int), CAST(q.start_value AS nvarchar(40)), CAST(q.increment AS nvarchar(40)), CAST(q.minimum_value AS nvarchar(40)), CAST(q.maximum_value AS nvarchar(40)), CAST(q.is_cycling AS int), CAST(q.is_cached AS int), q.cache_size, CAST(q.current_value AS nvarchar(40))
FROM sys.sequences AS q INNER JOIN sys.schemas AS s ON s.schema_id = q.schema_id INNER JOIN sys.types AS y ON y.user_type_id = q.user_type_id
WHERE s.name <> N'leeward' ORDER BY s.name, q.name
GO

-- sqlUserTypes lists alias types and table types; the object of a table type holds its columns.
SELECT s.name, u.name, b.name, CAST(u.max_length AS int), CAST(u.precision AS int), CAST(u.scale AS int), CAST(u.is_nullable AS int), tt.type_table_object_id
FROM sys.types AS u INNER JOIN sys.schemas AS s ON s.schema_id = u.schema_id LEFT JOIN sys.types AS b ON b.user_type_id = u.system_type_id LEFT JOIN sys.table_types AS tt ON tt.user_type_id = u.user_type_id
WHERE u.is_user_defined = 1 ORDER BY s.name, u.name
GO

-- sqlSchemas lists the user's schemas.
SELECT s.name FROM sys.schemas AS s WHERE s.name NOT IN (N'dbo', N'guest', N'sys', N'INFORMATION_SCHEMA', N'information_schema', N'leeward') AND LEFT(s.name, 3) <> N'db_' ORDER BY s.name
GO

-- sqlSizes estimates rows and bytes of all tables; it needs VIEW DATABASE STATE.
SELECT p.object_id, SUM(p.row_count), SUM(p.used_page_count) * 8192 FROM sys.dm_db_partition_stats AS p WHERE p.index_id < 2 GROUP BY p.object_id
GO

-- sqlRowCounts estimates rows where sqlSizes cannot be had.
SELECT p.object_id, SUM(p.rows), CAST(0 AS bigint) FROM sys.partitions AS p WHERE p.index_id < 2 GROUP BY p.object_id
GO

-- sqlSynonyms lists synonyms.
SELECT s.name, y.name, y.base_object_name FROM sys.synonyms AS y INNER JOIN sys.schemas AS s ON s.schema_id = y.schema_id ORDER BY s.name, y.name
GO

-- sqlIdentities reads where identities stand.
SELECT s.name, t.name, c.name, CAST(c.last_value AS nvarchar(40)), CAST(c.increment_value AS nvarchar(40))
FROM sys.identity_columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
WHERE t.is_ms_shipped = 0 AND s.name <> N'leeward' AND c.last_value IS NOT NULL ORDER BY s.name, t.name
GO

-- ddlSchema makes a schema. CREATE SCHEMA must stand alone in its batch.
CREATE SCHEMA [sales]
GO

-- ddlTable makes a table with its columns and defaults and nothing else.
CREATE TABLE [sales].[order line] (
    [id] bigint IDENTITY(1,1) NOT NULL,
    [region] varchar(20) COLLATE Latin1_General_CI_AS NOT NULL CONSTRAINT [DF_region] DEFAULT ('EU'),
    [total] AS ([price]*[count]) PERSISTED,
    [rv] rowversion NOT NULL,
    [phone] [dbo].[phone] NULL,
    [g] uniqueidentifier NOT NULL ROWGUIDCOL DEFAULT (newid())
)
GO

-- ddlIndex makes an index, a primary key or a unique constraint.
--   example: primary key
ALTER TABLE [sales].[order line] ADD CONSTRAINT [PK_line] PRIMARY KEY CLUSTERED ([region] DESC, [id]) WITH (FILLFACTOR = 90)
GO
--   example: unique constraint
ALTER TABLE [sales].[order line] ADD CONSTRAINT [UQ_line] UNIQUE NONCLUSTERED ([region] DESC, [id])
GO
--   example: filtered, with included columns
CREATE UNIQUE NONCLUSTERED INDEX [IX_line] ON [sales].[order line] ([region] DESC, [id]) INCLUDE ([phone]) WHERE ([phone] IS NOT NULL) WITH (IGNORE_DUP_KEY = ON)
GO
--   example: columnstore
CREATE CLUSTERED COLUMNSTORE INDEX [CCI] ON [sales].[order line]
GO
--   example: columnstore of some columns
CREATE NONCLUSTERED COLUMNSTORE INDEX [NCCI] ON [sales].[order line] ([region], [id])
GO

-- ddlForeignKey makes a foreign key. One that is not trusted is made without a look at
-- the rows, which need not satisfy it.
ALTER TABLE [sales].[order line] ADD CONSTRAINT [FK_line_customer] FOREIGN KEY ([region], [id]) REFERENCES [dbo].[customer] ([region], [id]) ON DELETE CASCADE ON UPDATE SET NULL
GO
--   example: not trusted
ALTER TABLE [sales].[order line] WITH NOCHECK ADD CONSTRAINT [FK_line_customer] FOREIGN KEY ([region], [id]) REFERENCES [dbo].[customer] ([region], [id]) ON DELETE CASCADE ON UPDATE SET NULL
GO

-- unchecked makes the statement of ddlForeignKey leave the rows unlooked at: those of a
-- standby may be of no single state yet. Promotion looks at them.
ALTER TABLE [sales].[order line] WITH NOCHECK ADD CONSTRAINT [FK_line_customer] FOREIGN KEY ([region], [id]) REFERENCES [dbo].[customer] ([region], [id]) ON DELETE CASCADE ON UPDATE SET NULL
GO

-- ddlCheck makes a check constraint.
ALTER TABLE [sales].[order line] ADD CONSTRAINT [CK_line] CHECK ([id]>(0))
GO
--   example: not trusted
ALTER TABLE [sales].[order line] WITH NOCHECK ADD CONSTRAINT [CK_line] CHECK ([id]>(0))
GO

-- ddlSequence makes a sequence that starts where it started at first; where it stands
-- travels with every batch.
CREATE SEQUENCE [dbo].[invoice_no] AS bigint START WITH 1 INCREMENT BY 1 MINVALUE 1 MAXVALUE 999999 CYCLE CACHE 50
GO

-- ddlAlias makes an alias type.
CREATE TYPE [dbo].[phone] FROM nvarchar(20) NULL
GO

-- ddlTableType makes a table type with its primary key and unique constraints.
CREATE TYPE [dbo].[ids] AS TABLE (
    [id] int NOT NULL,
    PRIMARY KEY ([id])
)
GO

-- ddlSynonym makes a synonym.
CREATE SYNONYM [dbo].[old] FOR [other].[dbo].[t]
GO

-- sqlHasSchema tells whether schema leeward is there.
SELECT SCHEMA_ID(N'leeward')
GO

-- sqlMakeSchema makes schema leeward.
CREATE SCHEMA [leeward]
GO

-- sqlHasObject tells whether an object @p1 is there.
SELECT OBJECT_ID(@p1)
GO

-- sqlMakeStreams makes the source's record of streams: how they are captured, and the
-- beat of their history: a row that goes back in time tells that the database did.
CREATE TABLE [leeward].[stream] ([stream] nvarchar(128) NOT NULL PRIMARY KEY, [method] nvarchar(20) NOT NULL, [tick] bigint NOT NULL, [version] bigint NOT NULL, [beat_at] datetime2(3) NOT NULL)
GO

-- sqlMakeCaptures makes the record of what was made for each table of a stream.
-- rows is, with triggers, how many rows the table had without what its log holds; NULL:
-- not counted yet; negative: before that tick, changes were not captured. With change
-- tracking it is the version at which the stream took the table in.
CREATE TABLE [leeward].[capture] ([stream] nvarchar(128) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [token] nvarchar(20) NOT NULL, [rows] bigint NULL, PRIMARY KEY ([stream], [schema_name], [table_name]))
GO

-- sqlMakeMade makes the record of database settings that a stream switched on.
CREATE TABLE [leeward].[made] ([stream] nvarchar(128) NOT NULL, [what] nvarchar(60) NOT NULL)
GO

-- sqlStream reads the record of stream @p1.
SELECT [method], [tick], [version] FROM [leeward].[stream] WHERE [stream] = @p1
GO

-- sqlAddStream records stream @p1, captured by @p2. Its clock stands at 0 until all is made.
INSERT INTO [leeward].[stream] ([stream], [method], [tick], [version], [beat_at]) VALUES (@p1, @p2, 0, 0, SYSUTCDATETIME())
GO

-- sqlStartStream says that all of stream @p1 is made, and from where on its history goes:
-- the clock starts at @p2, and @p3 is where it started.
UPDATE [leeward].[stream] SET [tick] = @p2, [version] = @p3, [beat_at] = SYSUTCDATETIME() WHERE [stream] = @p1
GO

-- sqlDropStream forgets stream @p1.
DELETE FROM [leeward].[stream] WHERE [stream] = @p1
GO

-- sqlStreams counts streams.
SELECT COUNT(*) FROM [leeward].[stream]
GO

-- sqlDropOwn drops one of the tables of schema leeward.
DROP TABLE IF EXISTS [leeward].[made]
GO

-- sqlDropSchema drops schema leeward where it is empty; a standby has more in it.
DROP SCHEMA [leeward]
GO

-- sqlTick moves the clock of stream @p1 on and returns it. Whoever sees the new time
-- in a snapshot sees every commit before it as well.
UPDATE [leeward].[stream] SET [tick] = [tick] + 1, [beat_at] = SYSUTCDATETIME() OUTPUT inserted.[tick] WHERE [stream] = @p1
GO

-- sqlReadTick reads the clock of stream @p1 and the time.
SELECT [tick], SYSUTCDATETIME() FROM [leeward].[stream] WHERE [stream] = @p1
GO

-- sqlBeat records that version @p2 of stream @p1 is given out.
UPDATE [leeward].[stream] SET [version] = @p2, [beat_at] = SYSUTCDATETIME() WHERE [stream] = @p1 AND [version] < @p2
GO

-- sqlCaptures reads what was made for the tables of stream @p1.
SELECT [schema_name], [table_name], [token], [rows] FROM [leeward].[capture] WHERE [stream] = @p1
GO

-- sqlAddCapture records what was made for a table.
INSERT INTO [leeward].[capture] ([stream], [schema_name], [table_name], [token]) VALUES (@p1, @p2, @p3, @p4)
GO

-- sqlDropCapture forgets what was made for a table.
DELETE FROM [leeward].[capture] WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3
GO

-- sqlMade reads which settings of the database stream @p1 switched on.
SELECT [what] FROM [leeward].[made] WHERE [stream] = @p1
GO

-- sqlAddMade records that stream @p1 switched @p2 on.
INSERT INTO [leeward].[made] ([stream], [what]) VALUES (@p1, @p2)
GO

-- sqlDropMade forgets what stream @p1 switched on.
DELETE FROM [leeward].[made] WHERE [stream] = @p1
GO

-- sqlTrackDatabase switches change tracking of the database on. Its default of two days
-- is less than a long weekend without a link.
ALTER DATABASE CURRENT SET CHANGE_TRACKING = ON (CHANGE_RETENTION = 7 DAYS, AUTO_CLEANUP = ON)
GO

-- sqlUntrackDatabase switches it off.
ALTER DATABASE CURRENT SET CHANGE_TRACKING = OFF
GO

-- sqlTracked tells whether change tracking of the database is on.
SELECT COUNT(*) FROM sys.change_tracking_databases WHERE database_id = DB_ID()
GO

-- sqlAllowSnapshot switches snapshot isolation on. It waits for all open transactions;
-- given up, it goes on by itself.
ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON
GO

-- sqlDisallowSnapshot switches it off.
ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION OFF
GO

-- sqlTrackTable switches change tracking of a table on. It waits for a lock that stops
-- the table's users meanwhile, and not for long.
SET LOCK_TIMEOUT 5000; ALTER TABLE [sales].[order line] ENABLE CHANGE_TRACKING WITH (TRACK_COLUMNS_UPDATED = OFF); SET LOCK_TIMEOUT -1
GO

-- sqlUntrackTable switches it off.
SET LOCK_TIMEOUT 5000; ALTER TABLE [sales].[order line] DISABLE CHANGE_TRACKING; SET LOCK_TIMEOUT -1
GO

-- sqlTrackedTables reads from which version on each table's changes are known.
SELECT s.name, t.name, c.min_valid_version FROM sys.change_tracking_tables AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
GO

-- sqlVersion reads the current version and the time. In a snapshot transaction it is
-- read before any row.
SELECT CHANGE_TRACKING_CURRENT_VERSION(), SYSUTCDATETIME()
GO

-- sqlWhichChanged tells which of the tables have changes after version @p1, so that
-- those that have none cost nothing.
SELECT 0 WHERE EXISTS (SELECT 1 FROM CHANGETABLE(CHANGES [dbo].[customer], @p1) AS c) UNION ALL SELECT 1 WHERE EXISTS (SELECT 1 FROM CHANGETABLE(CHANGES [sales].[order line], @p1) AS c)
GO

-- sqlTrackedChanges reads the keys that changed after version @p1, with their rows. A
-- key without a row is gone: what the operation is said to be is not to be relied on,
-- see KB4135113.
--   example: one key column
SELECT k.[id], CASE WHEN t.[id] IS NULL THEN 1 ELSE 0 END, t.[id], CAST(CAST(t.[email] AS nvarchar(80)) AS varbinary(160)), CAST(t.[note] AS varbinary(max)) FROM CHANGETABLE(CHANGES [dbo].[customer], @p1) AS k LEFT OUTER JOIN [dbo].[customer] AS t ON t.[id] = k.[id]
GO
--   example: two key columns
SELECT CAST(CAST(k.[region] AS nvarchar(20)) AS varbinary(40)), k.[no], CASE WHEN t.[region] IS NULL THEN 1 ELSE 0 END, CAST(CAST(t.[region] AS nvarchar(20)) AS varbinary(40)), t.[no], t.[customer], t.[amount] FROM CHANGETABLE(CHANGES [sales].[order line], @p1) AS k LEFT OUTER JOIN [sales].[order line] AS t ON t.[region] = k.[region] AND t.[no] = k.[no]
GO

-- sqlMakeSequence makes the sequence that numbers the log of a table. An identity
-- would change @@IDENTITY under the application's eyes.
CREATE SEQUENCE [leeward].[seq_0123456789ab] AS bigint START WITH 1 INCREMENT BY 1
GO

-- sqlMakeLog makes the log of a table: the keys that changed, and by how many rows the
-- table grew.
CREATE TABLE [leeward].[log_0123456789ab] ([seq] bigint NOT NULL PRIMARY KEY, [grew] int NOT NULL, [c0] varchar(20) COLLATE Latin1_General_CI_AS NOT NULL, [c1] bigint NOT NULL)
GO

-- sqlKeepRowLocks keeps the deletion of many log rows from locking the whole log, which
-- would make applications wait.
ALTER TABLE [leeward].[log_0123456789ab] SET (LOCK_ESCALATION = DISABLE)
GO

-- sqlGrantLog lets whoever changes a table write its log, where the table does not
-- belong to the owner of schema leeward.
GRANT INSERT ON [leeward].[log_0123456789ab] TO public
GO

-- sqlGrantSequence lets them number it.
GRANT UPDATE ON [leeward].[seq_0123456789ab] TO public
GO

-- sqlMakeCaptureTrigger makes the trigger that logs changed keys. An update that keeps
-- its keys is logged once. SET ROWCOUNT of the application must not cut the log.
CREATE TRIGGER [sales].[leeward_c_0123456789ab] ON [sales].[order line] AFTER INSERT, UPDATE, DELETE AS
BEGIN
    SET NOCOUNT ON;
    SET ROWCOUNT 0;
    DECLARE @gone int = 0, @came int = 0;
    IF NOT EXISTS (SELECT 1 FROM inserted) SET @gone = -1;
    IF NOT EXISTS (SELECT 1 FROM deleted) SET @came = 1;
    INSERT INTO [leeward].[log_0123456789ab] ([seq], [grew], [c0], [c1]) SELECT NEXT VALUE FOR [leeward].[seq_0123456789ab], @gone, x.[region], x.[no] FROM deleted AS x;
    INSERT INTO [leeward].[log_0123456789ab] ([seq], [grew], [c0], [c1]) SELECT NEXT VALUE FOR [leeward].[seq_0123456789ab], @came, x.[region], x.[no] FROM inserted AS x WHERE NOT EXISTS (SELECT 1 FROM deleted AS o WHERE o.[region] = x.[region] AND o.[no] = x.[no]);
END
GO

-- sqlLockTimeout bounds how long the session waits for locks; -1: without bound.
SET LOCK_TIMEOUT 5000
GO

-- sqlDropCaptureTrigger drops the trigger.
DROP TRIGGER IF EXISTS [sales].[leeward_c_0123456789ab]
GO

-- sqlDropLog drops the log of a table.
DROP TABLE IF EXISTS [leeward].[log_0123456789ab]
GO

-- sqlDropSequence drops its sequence.
DROP SEQUENCE IF EXISTS [leeward].[seq_0123456789ab]
GO

-- sqlTriggerState tells whether trigger @p1 of a table is there and enabled.
SELECT COUNT(*) FROM sys.triggers AS g WHERE g.parent_id = OBJECT_ID(@p1) AND g.name = @p2 AND g.is_disabled = 0
GO

-- sqlLogSize counts the rows of the logs, one row for each.
SELECT 0, COUNT_BIG(*) FROM [leeward].[log_0123456789ab] UNION ALL SELECT 1, COUNT_BIG(*) FROM [leeward].[log_ba9876543210]
GO

-- sqlStageDone makes the table of runs of log rows that were read already.
CREATE TABLE #lw_done ([a] bigint NULL, [b] bigint NULL)
GO

-- sqlLogRows lists the log rows not read yet.
SELECT l.[seq], l.[grew] FROM [leeward].[log_0123456789ab] AS l WHERE NOT EXISTS (SELECT 1 FROM #lw_done AS r WHERE l.[seq] >= r.[a] AND l.[seq] <= r.[b]) ORDER BY l.[seq]
GO

-- sqlLoggedChanges reads the keys logged and not read yet, with their rows as they are
-- now. A key without a row is gone.
SELECT CAST(CAST(k.[c0] AS nvarchar(20)) AS varbinary(40)), k.[c1], CASE WHEN t.[region] IS NULL THEN 1 ELSE 0 END, CAST(CAST(t.[region] AS nvarchar(20)) AS varbinary(40)), t.[no], t.[customer], t.[amount] FROM (SELECT DISTINCT l.[c0], l.[c1] FROM [leeward].[log_0123456789ab] AS l WHERE NOT EXISTS (SELECT 1 FROM #lw_done AS r WHERE l.[seq] >= r.[a] AND l.[seq] <= r.[b])) AS k LEFT OUTER JOIN [sales].[order line] AS t ON t.[region] = k.[c0] AND t.[no] = k.[c1]
GO

-- sqlCountRows counts a table, and adds up by how much its log says that it grew. TRUNCATE
-- and bulk copy fire no trigger; the sum that no longer fits gives them away.
SELECT (SELECT COUNT_BIG(*) FROM [sales].[order line]), (SELECT ISNULL(SUM(CAST(l.[grew] AS bigint)), 0) FROM [leeward].[log_0123456789ab] AS l)
GO

-- sqlDeleteLog deletes the run of log rows from @p1 to @p2, all of which were read.
DELETE FROM [leeward].[log_0123456789ab] WHERE [seq] >= @p1 AND [seq] <= @p2
GO

-- sqlSetRows records how many rows a table has without what its log holds.
UPDATE [leeward].[capture] SET [rows] = @p4 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3
GO

-- sqlAddRows adds @p4 to it, in the transaction that deletes the log rows which say so.
UPDATE [leeward].[capture] SET [rows] = [rows] + @p4 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3
GO

-- sqlStageRanges makes the table that takes ranges of keys to the server.
--   example: key of two columns
CREATE TABLE #lw_range ([n] int NULL, [sides] int NULL, [lc0] nvarchar(20) COLLATE Latin1_General_CI_AS NULL, [lc1] bigint NULL, [hc0] nvarchar(20) COLLATE Latin1_General_CI_AS NULL, [hc1] bigint NULL)
GO

-- sqlStageRows makes a table that takes keys or rows to the server.
--   example: every type
CREATE TABLE #lw_up ([n] int NULL, [c0] uniqueidentifier NULL, [c1] tinyint NULL, [c2] bit NULL, [c3] numeric(38,10) NULL, [c4] money NULL, [c5] smallmoney NULL, [c6] float NULL, [c7] real NULL, [c8] nvarchar(10) COLLATE Cyrillic_General_CI_AS NULL, [c9] nvarchar(max) COLLATE Cyrillic_General_CI_AS NULL, [c10] nvarchar(max) COLLATE Cyrillic_General_CI_AS NULL, [c11] nvarchar(max) COLLATE Cyrillic_General_CI_AS NULL, [c12] nvarchar(5) COLLATE Latin1_General_CI_AS NULL, [c13] nvarchar(4000) COLLATE Latin1_General_CI_AS NULL, [c14] nvarchar(max) COLLATE Latin1_General_CI_AS NULL, [c15] binary(4) NULL, [c16] varbinary(max) NULL, [c17] varbinary(max) NULL, [c18] date NULL, [c19] time(7) NULL, [c20] datetime NULL, [c21] smalldatetime NULL, [c22] datetime2(7) NULL, [c23] datetimeoffset(3) NULL, [c24] nvarchar(max) NULL, [c25] varbinary(max) NULL)
GO
--   example: every type, server without its collations' names
CREATE TABLE #lw_up ([n] int NULL, [c0] uniqueidentifier NULL, [c1] tinyint NULL, [c2] bit NULL, [c3] numeric(38,10) NULL, [c4] money NULL, [c5] smallmoney NULL, [c6] float NULL, [c7] real NULL, [c8] nvarchar(10) NULL, [c9] nvarchar(max) NULL, [c10] nvarchar(max) NULL, [c11] nvarchar(max) NULL, [c12] nvarchar(5) NULL, [c13] nvarchar(4000) NULL, [c14] nvarchar(max) NULL, [c15] binary(4) NULL, [c16] varbinary(max) NULL, [c17] varbinary(max) NULL, [c18] date NULL, [c19] time(7) NULL, [c20] datetime NULL, [c21] smalldatetime NULL, [c22] datetime2(7) NULL, [c23] datetimeoffset(3) NULL, [c24] nvarchar(max) NULL, [c25] varbinary(max) NULL)
GO
--   example: keys
CREATE TABLE #lw_key ([n] int NULL, [c0] nvarchar(20) COLLATE Latin1_General_CI_AS NULL, [c1] bigint NULL)
GO

-- sqlDropStage drops a staging table.
DROP TABLE IF EXISTS #lw_range
GO

-- sqlBounds reads every @p2-th key of the next @p1 in order: those that end buckets.
-- The lower bound is a scalar subquery, so that the server knows it is one value and
-- reads the index in order instead of sorting what is left of the table.
--   example: from the beginning
SELECT t.[id] FROM (SELECT TOP (@p1) t.[id], ROW_NUMBER() OVER (ORDER BY t.[id]) AS [lw_n] FROM [dbo].[customer] AS t ORDER BY t.[id]) AS t WHERE t.[lw_n] % @p2 = 0 ORDER BY t.[lw_n]
GO
--   example: after a key of two columns
SELECT CAST(CAST(t.[region] AS nvarchar(20)) AS varbinary(40)), t.[no] FROM (SELECT TOP (@p1) t.[region], t.[no], ROW_NUMBER() OVER (ORDER BY t.[region], t.[no]) AS [lw_n] FROM [sales].[order line] AS t WHERE t.[region] >= (SELECT TOP (1) CAST(b.[lc0] AS varchar(20)) FROM #lw_range AS b) AND ((t.[region] > (SELECT TOP (1) CAST(b.[lc0] AS varchar(20)) FROM #lw_range AS b)) OR (t.[region] = (SELECT TOP (1) CAST(b.[lc0] AS varchar(20)) FROM #lw_range AS b) AND t.[no] > (SELECT TOP (1) b.[lc1] FROM #lw_range AS b))) ORDER BY t.[region], t.[no]) AS t WHERE t.[lw_n] % @p2 = 0 ORDER BY t.[lw_n]
GO

-- sqlDigests counts the rows of each staged range and adds up 64 bits of their hashes.
--   example: one key column
SELECT b.[n], s.[c], s.[h] FROM #lw_range AS b CROSS APPLY (SELECT COUNT_BIG(*) AS [c], SUM(CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CONCAT(CAST(N'' AS nvarchar(max)), CONCAT(N'+', CAST(t.[id] AS nvarchar(20)), N';'), CASE WHEN t.[email] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[email] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[email] AS nvarchar(max))) END, CASE WHEN t.[note] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[note]) AS nvarchar(20)), N':', t.[note]) END)), 1, 8) AS bigint) AS decimal(38,0))) AS [h] FROM [dbo].[customer] AS t WHERE t.[id] > b.[lc0] AND t.[id] <= b.[hc0]) AS s WHERE b.[sides] = 3
GO
--   example: two key columns, open end
SELECT b.[n], s.[c], s.[h] FROM #lw_range AS b CROSS APPLY (SELECT COUNT_BIG(*) AS [c], SUM(CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CONCAT(CAST(N'' AS nvarchar(max)), CONCAT(N'+', CAST(DATALENGTH(CAST(t.[region] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[region] AS nvarchar(max))), CONCAT(N'+', CAST(t.[no] AS nvarchar(20)), N';'), CASE WHEN t.[customer] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[customer] AS nvarchar(20)), N';') END, CONCAT(N'+', CAST(t.[amount] AS nvarchar(41)), N';'))), 1, 8) AS bigint) AS decimal(38,0))) AS [h] FROM [sales].[order line] AS t WHERE t.[region] >= CAST(b.[lc0] AS varchar(20)) AND ((t.[region] > CAST(b.[lc0] AS varchar(20))) OR (t.[region] = CAST(b.[lc0] AS varchar(20)) AND t.[no] > b.[lc1]))) AS s WHERE b.[sides] = 1
GO
--   example: every type, whole table, two collations
SELECT b.[n], s.[c], s.[h] FROM #lw_range AS b CROSS APPLY (SELECT COUNT_BIG(*) AS [c], SUM(CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CONCAT(CAST(N'' AS nvarchar(max)), CONCAT(N'+', UPPER(CAST(t.[c0] AS nvarchar(36)))), CASE WHEN t.[c1] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c1] AS nvarchar(20)), N';') END, CASE WHEN t.[c2] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c2] AS nvarchar(20)), N';') END, CASE WHEN t.[c3] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c3] AS nvarchar(41)), N';') END, CASE WHEN t.[c4] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(CAST(t.[c4] AS decimal(19,4)) AS nvarchar(41)), N';') END, CASE WHEN t.[c5] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(CAST(t.[c5] AS decimal(19,4)) AS nvarchar(41)), N';') END, CASE WHEN t.[c6] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(40), t.[c6], 3), N';') END, CASE WHEN t.[c7] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(40), t.[c7], 3), N';') END, CASE WHEN t.[c8] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c8] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c8] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c9] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c9] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c9] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c10] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c10] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c10] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c11] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c11] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c11] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c12] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c12]) AS nvarchar(20)), N':', t.[c12] COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c13] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c13]) AS nvarchar(20)), N':', t.[c13] COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c14] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c14] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c14] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c15] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c15]) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', t.[c15]), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c16] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c16]) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', t.[c16]), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c17] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c17] AS varbinary(max))) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CAST(t.[c17] AS varbinary(max))), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c18] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c18] AS nvarchar(34)), N';') END, CASE WHEN t.[c19] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c19] AS nvarchar(34)), N';') END, CASE WHEN t.[c20] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(34), t.[c20], 121), N';') END, CASE WHEN t.[c21] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(34), t.[c21], 121), N';') END, CASE WHEN t.[c22] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c22] AS nvarchar(34)), N';') END, CASE WHEN t.[c23] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c23] AS nvarchar(34)), N';') END, CASE WHEN t.[c24] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c24] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[c24] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c25] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c25] AS varbinary(max))) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CAST(t.[c25] AS varbinary(max))), 1, 8) AS bigint) AS nvarchar(20)), N';') END)), 1, 8) AS bigint) AS decimal(38,0))) AS [h] FROM [dbo].[every type] AS t WHERE 1 = 1) AS s WHERE b.[sides] = 0
GO
--   example: every type, hashing as a server does that hashes UTF-8
SELECT b.[n], s.[c], s.[h] FROM #lw_range AS b CROSS APPLY (SELECT COUNT_BIG(*) AS [c], SUM(CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CAST(CONCAT(CAST(N'' AS nvarchar(max)), CONCAT(N'+', UPPER(CAST(t.[c0] AS nvarchar(36)))), CASE WHEN t.[c1] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c1] AS nvarchar(20)), N';') END, CASE WHEN t.[c2] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c2] AS nvarchar(20)), N';') END, CASE WHEN t.[c3] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c3] AS nvarchar(41)), N';') END, CASE WHEN t.[c4] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(CAST(t.[c4] AS decimal(19,4)) AS nvarchar(41)), N';') END, CASE WHEN t.[c5] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(CAST(t.[c5] AS decimal(19,4)) AS nvarchar(41)), N';') END, CASE WHEN t.[c6] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(40), t.[c6], 3), N';') END, CASE WHEN t.[c7] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(40), t.[c7], 3), N';') END, CASE WHEN t.[c8] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c8] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c8] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c9] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c9] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c9] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c10] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c10] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c10] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c11] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c11] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c11] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c12] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c12] COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', t.[c12] COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c13] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c13] COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', t.[c13] COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c14] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c14] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c14] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c15] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c15]) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', t.[c15]), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c16] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(t.[c16]) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', t.[c16]), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c17] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c17] AS varbinary(max))) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CAST(t.[c17] AS varbinary(max))), 1, 8) AS bigint) AS nvarchar(20)), N';') END, CASE WHEN t.[c18] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c18] AS nvarchar(34)), N';') END, CASE WHEN t.[c19] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c19] AS nvarchar(34)), N';') END, CASE WHEN t.[c20] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(34), t.[c20], 121), N';') END, CASE WHEN t.[c21] IS NULL THEN N'-' ELSE CONCAT(N'+', CONVERT(nvarchar(34), t.[c21], 121), N';') END, CASE WHEN t.[c22] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c22] AS nvarchar(34)), N';') END, CASE WHEN t.[c23] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[c23] AS nvarchar(34)), N';') END, CASE WHEN t.[c24] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(CAST(t.[c24] AS nvarchar(max)) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))) AS nvarchar(20)), N':', CAST(t.[c24] AS nvarchar(max)) COLLATE Latin1_General_BIN2) END, CASE WHEN t.[c25] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(DATALENGTH(CAST(t.[c25] AS varbinary(max))) AS nvarchar(20)), N':', CAST(CAST(SUBSTRING(HASHBYTES('SHA2_256', CAST(t.[c25] AS varbinary(max))), 1, 8) AS bigint) AS nvarchar(20)), N';') END) COLLATE Latin1_General_100_CI_AS_SC_UTF8 AS varchar(max))), 1, 8) AS bigint) AS decimal(38,0))) AS [h] FROM [dbo].[every type] AS t WHERE 1 = 1) AS s WHERE b.[sides] = 0
GO

-- sqlKeys lists the key and the hash of each row of the staged ranges.
--   example: first bucket
SELECT CAST(CAST(t.[region] AS nvarchar(20)) AS varbinary(40)), t.[no], SUBSTRING(HASHBYTES('SHA2_256', CONCAT(CAST(N'' AS nvarchar(max)), CONCAT(N'+', CAST(DATALENGTH(CAST(t.[region] AS nvarchar(max))) AS nvarchar(20)), N':', CAST(t.[region] AS nvarchar(max))), CONCAT(N'+', CAST(t.[no] AS nvarchar(20)), N';'), CASE WHEN t.[customer] IS NULL THEN N'-' ELSE CONCAT(N'+', CAST(t.[customer] AS nvarchar(20)), N';') END, CONCAT(N'+', CAST(t.[amount] AS nvarchar(41)), N';'))), 1, 16) FROM #lw_range AS b INNER JOIN [sales].[order line] AS t ON t.[region] <= CAST(b.[hc0] AS varchar(20)) AND ((t.[region] < CAST(b.[hc0] AS varchar(20))) OR (t.[region] = CAST(b.[hc0] AS varchar(20)) AND t.[no] <= b.[hc1])) WHERE b.[sides] = 2
GO

-- sqlExportRange reads the rows of the staged range.
--   example: every type
SELECT t.[c0], t.[c1], t.[c2], t.[c3], t.[c4], t.[c5], t.[c6], t.[c7], CAST(CAST(t.[c8] AS nvarchar(10)) AS varbinary(20)), CAST(CAST(t.[c9] AS nvarchar(max)) AS varbinary(max)), CASE WHEN DATALENGTH(t.[c10]) > 1048576 THEN NULL ELSE CAST(CAST(t.[c10] AS nvarchar(max)) AS varbinary(max)) END, CAST(DATALENGTH(t.[c10]) AS bigint), CASE WHEN DATALENGTH(t.[c11]) > 1048576 THEN NULL ELSE CAST(CAST(t.[c11] AS nvarchar(max)) AS varbinary(max)) END, CAST(DATALENGTH(t.[c11]) AS bigint), CAST(t.[c12] AS varbinary(10)), CAST(t.[c13] AS varbinary(8000)), CASE WHEN DATALENGTH(t.[c14]) > 1048576 THEN NULL ELSE CAST(CAST(t.[c14] AS nvarchar(max)) AS varbinary(max)) END, CAST(DATALENGTH(t.[c14]) AS bigint), t.[c15], CASE WHEN DATALENGTH(t.[c16]) > 1048576 THEN NULL ELSE t.[c16] END, CAST(DATALENGTH(t.[c16]) AS bigint), CASE WHEN DATALENGTH(t.[c17]) > 1048576 THEN NULL ELSE CAST(t.[c17] AS varbinary(max)) END, CAST(DATALENGTH(t.[c17]) AS bigint), t.[c18], t.[c19], t.[c20], t.[c21], t.[c22], t.[c23], CASE WHEN DATALENGTH(t.[c24]) > 1048576 THEN NULL ELSE CAST(CAST(t.[c24] AS nvarchar(max)) AS varbinary(max)) END, CAST(DATALENGTH(t.[c24]) AS bigint), CASE WHEN DATALENGTH(t.[c25]) > 1048576 THEN NULL ELSE CAST(t.[c25] AS varbinary(max)) END, CAST(DATALENGTH(t.[c25]) AS bigint) FROM #lw_range AS b INNER JOIN [dbo].[every type] AS t ON t.[c0] > b.[lc0] WHERE b.[sides] = 1
GO
--   example: every type, server whose characters are no UTF-16
SELECT t.[c0], t.[c1], t.[c2], t.[c3], t.[c4], t.[c5], t.[c6], t.[c7], CAST(t.[c8] AS nvarchar(10)), CAST(t.[c9] AS nvarchar(max)), CASE WHEN DATALENGTH(t.[c10]) > 1048576 THEN NULL ELSE CAST(t.[c10] AS nvarchar(max)) END, CAST(DATALENGTH(t.[c10]) AS bigint), CASE WHEN DATALENGTH(t.[c11]) > 1048576 THEN NULL ELSE CAST(t.[c11] AS nvarchar(max)) END, CAST(DATALENGTH(t.[c11]) AS bigint), t.[c12], t.[c13], CASE WHEN DATALENGTH(t.[c14]) > 1048576 THEN NULL ELSE CAST(t.[c14] AS nvarchar(max)) END, CAST(DATALENGTH(t.[c14]) AS bigint), t.[c15], CASE WHEN DATALENGTH(t.[c16]) > 1048576 THEN NULL ELSE t.[c16] END, CAST(DATALENGTH(t.[c16]) AS bigint), CASE WHEN DATALENGTH(t.[c17]) > 1048576 THEN NULL ELSE CAST(t.[c17] AS varbinary(max)) END, CAST(DATALENGTH(t.[c17]) AS bigint), t.[c18], t.[c19], t.[c20], t.[c21], t.[c22], t.[c23], CASE WHEN DATALENGTH(t.[c24]) > 1048576 THEN NULL ELSE CAST(t.[c24] AS nvarchar(max)) END, CAST(DATALENGTH(t.[c24]) AS bigint), CASE WHEN DATALENGTH(t.[c25]) > 1048576 THEN NULL ELSE CAST(t.[c25] AS varbinary(max)) END, CAST(DATALENGTH(t.[c25]) AS bigint) FROM #lw_range AS b INNER JOIN [dbo].[every type] AS t ON t.[c0] > b.[lc0] WHERE b.[sides] = 1
GO

-- sqlExportKeys reads the rows with the staged keys.
SELECT CAST(CAST(t.[region] AS nvarchar(20)) AS varbinary(40)), t.[no], t.[customer], t.[amount] FROM #lw_key AS k INNER JOIN [sales].[order line] AS t ON t.[region] = CAST(k.[c0] AS varchar(20)) AND t.[no] = k.[c1]
GO

-- sqlRows reads the rows with the staged keys, each value whole.
SELECT t.[id], CAST(CAST(t.[email] AS nvarchar(80)) AS varbinary(160)), CAST(t.[note] AS varbinary(max)) FROM #lw_key AS k INNER JOIN [dbo].[customer] AS t ON t.[id] = k.[c0]
GO

-- sqlPiece reads @p2 bytes or characters from @p1 on of one value of the row with the
-- staged key.
SELECT SUBSTRING(CAST(t.[note] AS varbinary(max)), @p1, @p2) FROM #lw_key AS k INNER JOIN [dbo].[customer] AS t ON t.[id] = k.[c0]
GO

-- sqlBegin starts a transaction at an isolation level. XACT_ABORT is off: a unique
-- violation ends its statement alone, so that the row in the way can be moved.
SET XACT_ABORT OFF; SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRANSACTION
GO
SET XACT_ABORT OFF; SET TRANSACTION ISOLATION LEVEL READ COMMITTED; BEGIN TRANSACTION
GO
SET XACT_ABORT OFF; SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; BEGIN TRANSACTION
GO

-- sqlCommit ends a transaction.
COMMIT TRANSACTION; SET TRANSACTION ISOLATION LEVEL READ COMMITTED
GO

-- sqlRollback gives one up.
IF @@TRANCOUNT > 0 ROLLBACK TRANSACTION; SET TRANSACTION ISOLATION LEVEL READ COMMITTED
GO

-- sqlMakeWatermark makes the target's record of streams.
CREATE TABLE [leeward].[watermark] ([stream] nvarchar(128) NOT NULL PRIMARY KEY, [pos] nvarchar(400) NOT NULL, [phase] nvarchar(20) NOT NULL, [until] nvarchar(400) NOT NULL, [epoch] nvarchar(400) NOT NULL, [fingerprint] nvarchar(400) NOT NULL, [source_time] datetime2(7) NULL, [serial] bigint NOT NULL, [applied_at] datetime2(3) NOT NULL)
GO

-- sqlMakeProgress makes the record of how far seeds are.
CREATE TABLE [leeward].[progress] ([stream] nvarchar(128) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [up_to] varbinary(max) NULL, [done] int NOT NULL, PRIMARY KEY ([stream], [schema_name], [table_name]))
GO

-- sqlMakeCounters makes the record of the source's identities and sequences.
CREATE TABLE [leeward].[counter] ([stream] nvarchar(128) NOT NULL, [kind] nvarchar(20) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [name] nvarchar(128) NOT NULL, [column_name] nvarchar(128) NOT NULL, [value] nvarchar(40) NOT NULL)
GO

-- sqlState reads the record of stream @p1.
SELECT [pos], [phase], [until], [epoch], [fingerprint], [source_time], [serial] FROM [leeward].[watermark] WHERE [stream] = @p1
GO

-- sqlLockState reads it and keeps it for this transaction alone.
SELECT [pos], [phase], [until], [epoch], [fingerprint], [source_time], [serial] FROM [leeward].[watermark] WITH (UPDLOCK, HOLDLOCK) WHERE [stream] = @p1
GO

-- sqlLockApply keeps a second replicator of stream @p1 waiting for @p2 ms; the result
-- is negative where it did not help. The lock goes with the transaction.
DECLARE @r int; EXEC @r = sp_getapplock @Resource = @p1, @LockMode = N'Exclusive', @LockOwner = N'Transaction', @LockTimeout = @p2; SELECT @r
GO

-- sqlAddState makes the record of stream @p1. Of two that do, one fails.
INSERT INTO [leeward].[watermark] ([stream], [pos], [phase], [until], [epoch], [fingerprint], [serial], [applied_at]) VALUES (@p1, N'', N'', N'', N'', N'', 0, SYSUTCDATETIME())
GO

-- sqlClaimState changes the record at the beginning of a transaction: its row is then
-- locked on every server, and whoever waited for it finds another serial.
UPDATE [leeward].[watermark] SET [serial] = [serial] + 1 WHERE [stream] = @p1 AND [serial] = @p2
GO

-- sqlSetState writes the record at the end, with the rows it stands for.
UPDATE [leeward].[watermark] SET [pos] = @p3, [phase] = @p4, [until] = @p5, [epoch] = @p6, [fingerprint] = @p7, [source_time] = CAST(@p8 AS datetime2(7)), [applied_at] = SYSUTCDATETIME() WHERE [stream] = @p1 AND [serial] = @p2
GO

-- sqlSetPhase writes the phase alone.
UPDATE [leeward].[watermark] SET [phase] = @p2, [serial] = [serial] + 1, [applied_at] = SYSUTCDATETIME() WHERE [stream] = @p1
GO

-- sqlProgress reads how far the seeds of stream @p1 are.
SELECT [schema_name], [table_name], [up_to], [done] FROM [leeward].[progress] WHERE [stream] = @p1
GO

-- sqlSetProgress changes how far one is.
UPDATE [leeward].[progress] SET [up_to] = @p4, [done] = @p5 WHERE [stream] = @p1 AND [schema_name] = @p2 AND [table_name] = @p3
GO

-- sqlAddProgress records it the first time.
INSERT INTO [leeward].[progress] ([stream], [schema_name], [table_name], [up_to], [done]) VALUES (@p1, @p2, @p3, @p4, @p5)
GO

-- sqlForget removes what one of the tables of schema leeward remembers of stream @p1.
DELETE FROM [leeward].[watermark] WHERE [stream] = @p1
GO

-- sqlCounters reads the source's counters of stream @p1.
SELECT [kind], [schema_name], [name], [column_name], [value] FROM [leeward].[counter] WHERE [stream] = @p1
GO

-- sqlSetCounter changes one.
UPDATE [leeward].[counter] SET [value] = @p6 WHERE [stream] = @p1 AND [kind] = @p2 AND [schema_name] = @p3 AND [name] = @p4 AND [column_name] = @p5
GO

-- sqlAddCounter records one.
INSERT INTO [leeward].[counter] ([stream], [kind], [schema_name], [name], [column_name], [value]) VALUES (@p1, @p2, @p3, @p4, @p5, @p6)
GO

-- sqlDropOlder removes from a staging table what a later entry of the same key
-- replaces. Which keys are the same only the table's collation knows.
DELETE a FROM #lw_del0 AS a WHERE EXISTS (SELECT 1 FROM #lw_up0 AS b WHERE CAST(b.[c0] AS varchar(20)) = CAST(a.[c0] AS varchar(20)) AND b.[c1] = a.[c1] AND b.[n] > a.[n])
GO

-- sqlDeleteRows deletes the rows with the staged keys.
DELETE t FROM [sales].[order line] AS t INNER JOIN #lw_del0 AS k ON t.[region] = CAST(k.[c0] AS varchar(20)) AND t.[no] = k.[c1]
GO

-- sqlDeleteFree does so for rows that no other row refers to, where foreign keys are
-- enforced.
DELETE t FROM [dbo].[customer] AS t INNER JOIN #lw_del0 AS k ON t.[id] = k.[c0] WHERE NOT EXISTS (SELECT 1 FROM [sales].[order line] AS r WHERE r.[customer] = t.[id])
GO

-- sqlDeleteAll empties a table that others may refer to.
DELETE FROM [sales].[order line]
GO

-- sqlUpdateRows sets all rows that are there to what is staged, in one statement, so
-- that unique values can change hands. Every column is set, the key too, equal or not:
-- what a collation calls equal may be different text.
--   example: identity key
UPDATE t SET [email] = CAST(u.[c1] AS varchar(80)), [note] = u.[c2] FROM [dbo].[customer] AS t INNER JOIN #lw_up0 AS u ON t.[id] = u.[c0]
GO
--   example: every type
UPDATE t SET [c0] = u.[c0], [c1] = u.[c1], [c2] = u.[c2], [c3] = u.[c3], [c4] = u.[c4], [c5] = u.[c5], [c6] = u.[c6], [c7] = u.[c7], [c8] = CAST(u.[c8] AS char(10)), [c9] = CAST(u.[c9] AS varchar(8000)), [c10] = CAST(u.[c10] AS varchar(max)), [c11] = CAST(u.[c11] AS varchar(max)), [c12] = u.[c12], [c13] = u.[c13], [c14] = u.[c14], [c15] = u.[c15], [c16] = u.[c16], [c17] = u.[c17], [c18] = u.[c18], [c19] = u.[c19], [c20] = u.[c20], [c21] = u.[c21], [c22] = u.[c22], [c23] = u.[c23], [c24] = CONVERT(xml, u.[c24], 1), [c25] = CAST(u.[c25] AS hierarchyid) FROM [dbo].[every type] AS t INNER JOIN #lw_up0 AS u ON t.[c0] = u.[c0]
GO

-- sqlDeleteOtherIdentity deletes rows whose identity, not part of the key, is another
-- than the staged one: it cannot be updated, so the row is inserted anew.
DELETE t FROM [sales].[order line] AS t INNER JOIN #lw_up0 AS u ON t.[region] = CAST(u.[c0] AS varchar(20)) AND t.[no] = u.[c1] WHERE t.[customer] <> u.[c2]
GO

-- sqlInsertRows inserts the staged rows that are missing. Of deferred columns, which
-- refer to rows that are not there yet, it inserts NULL.
INSERT INTO [sales].[order line] ([region], [no], [customer], [amount]) SELECT CAST(u.[c0] AS varchar(20)), u.[c1], u.[c2], u.[c3] FROM #lw_up0 AS u WHERE NOT EXISTS (SELECT 1 FROM [sales].[order line] AS t WHERE t.[region] = CAST(u.[c0] AS varchar(20)) AND t.[no] = u.[c1])
GO
--   example: a ring of foreign keys cut at customer
INSERT INTO [sales].[order line] ([region], [no], [customer], [amount]) SELECT CAST(u.[c0] AS varchar(20)), u.[c1], NULL, u.[c3] FROM #lw_up0 AS u WHERE NOT EXISTS (SELECT 1 FROM [sales].[order line] AS t WHERE t.[region] = CAST(u.[c0] AS varchar(20)) AND t.[no] = u.[c1])
GO

-- sqlInsertAll inserts the staged rows into a table that had none.
INSERT INTO [dbo].[customer] ([id], [email], [note]) SELECT u.[c0], CAST(u.[c1] AS varchar(80)), u.[c2] FROM #lw_up AS u
GO

-- sqlIdentityInsert lets identities be written, for one table of a session at a time.
SET IDENTITY_INSERT [dbo].[customer] ON
GO
SET IDENTITY_INSERT [dbo].[customer] OFF
GO

-- sqlDeleteRange deletes the rows of the staged range that are not staged.
DELETE t FROM [sales].[order line] AS t INNER JOIN #lw_range AS b ON t.[region] >= CAST(b.[lc0] AS varchar(20)) AND ((t.[region] > CAST(b.[lc0] AS varchar(20))) OR (t.[region] = CAST(b.[lc0] AS varchar(20)) AND t.[no] > b.[lc1])) AND t.[region] <= CAST(b.[hc0] AS varchar(20)) AND ((t.[region] < CAST(b.[hc0] AS varchar(20))) OR (t.[region] = CAST(b.[hc0] AS varchar(20)) AND t.[no] <= b.[hc1])) WHERE NOT EXISTS (SELECT 1 FROM #lw_up AS u WHERE t.[region] = CAST(u.[c0] AS varchar(20)) AND t.[no] = u.[c1])
GO

-- sqlDeleteMissing deletes the rows with the staged keys that are not among the staged rows.
DELETE t FROM [sales].[order line] AS t INNER JOIN #lw_key AS k ON t.[region] = CAST(k.[c0] AS varchar(20)) AND t.[no] = k.[c1] WHERE NOT EXISTS (SELECT 1 FROM #lw_up AS u WHERE t.[region] = CAST(u.[c0] AS varchar(20)) AND t.[no] = u.[c1])
GO

-- sqlFindDisplaced stages the keys of rows that hold a value of a unique index which a
-- staged row claims, and are not staged themselves.
INSERT INTO #lw_disp ([n], [c0]) SELECT DISTINCT 0, t.[id] FROM [dbo].[customer] AS t INNER JOIN #lw_up0 AS u ON (t.[email] = CAST(u.[c1] AS varchar(80)) OR (t.[email] IS NULL AND u.[c1] IS NULL)) WHERE NOT EXISTS (SELECT 1 FROM #lw_up0 AS o WHERE t.[id] = o.[c0])
GO

-- sqlReadStagedKeys reads staged keys back.
SELECT CAST(k.[c0] AS varbinary(40)), k.[c1] FROM #lw_disp AS k
GO

-- sqlAppend adds what @p1 holds to a large value of staged row @p2.
UPDATE #lw_up SET [c2].WRITE(CAST(@p1 AS nvarchar(max)), NULL, NULL) WHERE [n] = @p2
GO

-- sqlAddOne adds a row that has nothing but its number.
INSERT INTO #lw_up ([n]) VALUES (@p1)
GO

-- sqlBlank makes a large value empty, so that pieces can be added to it.
UPDATE #lw_up SET [c2] = N'' WHERE [n] = @p1
GO

-- sqlFillOne gives the row its other values.
UPDATE u SET [c0] = o.[c0], [c1] = o.[c1] FROM #lw_up AS u INNER JOIN #lw_one AS o ON u.[n] = @p1
GO

-- sqlReadOnly makes the database read-only for everybody. Transactions that are open
-- are rolled back after a grace, and their sessions ended.
ALTER DATABASE [erp] SET READ_ONLY WITH ROLLBACK AFTER 30 SECONDS
GO

-- sqlReadWrite lifts it.
ALTER DATABASE [erp] SET READ_WRITE WITH ROLLBACK IMMEDIATE
GO

-- sqlOpenSessions lists who else is in the database, as evidence.
SELECT CAST(s.session_id AS int), s.login_name, s.host_name, s.program_name FROM sys.dm_exec_sessions AS s WHERE s.database_id = DB_ID() AND s.session_id <> @@SPID AND s.is_user_process = 1
GO

-- sqlKill ends a session.
KILL 77
GO

-- sqlMakeFence makes the trigger that refuses every change of a table, where the
-- database cannot be made read-only.
CREATE TRIGGER [sales].[leeward_f_0123456789ab] ON [sales].[order line] AFTER INSERT, UPDATE, DELETE AS
BEGIN
    SET NOCOUNT ON;
    THROW 51000, N'this database is fenced by leeward: the standby is taking over', 1;
END
GO

-- sqlDropFence takes it away.
DROP TRIGGER IF EXISTS [sales].[leeward_f_0123456789ab]
GO

-- sqlFences lists the fences that stand.
SELECT s.name, t.name, g.name FROM sys.triggers AS g INNER JOIN sys.tables AS t ON t.object_id = g.parent_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE LEFT(g.name, 10) = N'leeward_f_'
GO

-- sqlDropTrigger drops a trigger by name.
DROP TRIGGER IF EXISTS [sales].[leeward_f_0123456789ab]
GO

-- sqlMakeHeld makes the record of what a standby holds off, so that promotion restores
-- exactly that. what is trigger, constraint or dropped (a foreign key that could not be
-- held off otherwise, with its definition).
CREATE TABLE [leeward].[held] ([stream] nvarchar(128) NOT NULL, [what] nvarchar(20) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [name] nvarchar(128) NOT NULL, [untrusted] int NOT NULL, [definition] nvarchar(max) NULL)
GO

-- sqlHeld reads what stream @p1 holds off.
SELECT [what], [schema_name], [table_name], [name], [untrusted], [definition] FROM [leeward].[held] WHERE [stream] = @p1 ORDER BY [what], [schema_name], [table_name], [name]
GO

-- sqlAllHeld reads what standbys of all streams hold off.
SELECT [what], [schema_name], [table_name], [name], [untrusted], [definition] FROM [leeward].[held] ORDER BY [what], [schema_name], [table_name], [name]
GO

-- sqlAddHeld records what is about to be held off.
INSERT INTO [leeward].[held] ([stream], [what], [schema_name], [table_name], [name], [untrusted], [definition]) VALUES (@p1, @p2, @p3, @p4, @p5, @p6, @p7)
GO

-- sqlDropHeld forgets one that was restored.
DELETE FROM [leeward].[held] WHERE [stream] = @p1 AND [what] = @p2 AND [schema_name] = @p3 AND [table_name] = @p4 AND [name] = @p5
GO

-- sqlDisableTrigger holds a trigger off: what it did at the source arrives as rows.
DISABLE TRIGGER [sales].[audit] ON [sales].[order line]
GO

-- sqlEnableTrigger restores it.
ENABLE TRIGGER [sales].[audit] ON [sales].[order line]
GO

-- sqlHoldConstraint holds a foreign key or check off: rows arrive table by table, and
-- cascades arrive as rows.
ALTER TABLE [sales].[order line] NOCHECK CONSTRAINT [FK_line_customer]
GO

-- sqlRestoreConstraint restores one. Checked against all rows it is trusted again,
-- which plans are better for; one that was not trusted before need not be.
--   example: trusted before
ALTER TABLE [sales].[order line] WITH CHECK CHECK CONSTRAINT [FK_line_customer]
GO
--   example: not trusted before
ALTER TABLE [sales].[order line] WITH NOCHECK CHECK CONSTRAINT [FK_line_customer]
GO

-- sqlDropConstraint drops a foreign key that cannot be held off otherwise.
ALTER TABLE [sales].[order line] DROP CONSTRAINT [FK_line_customer]
GO

-- sqlConstraintStates tells which foreign keys and checks are enforced.
SELECT s.name, t.name, k.name, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int) FROM sys.foreign_keys AS k INNER JOIN sys.tables AS t ON t.object_id = k.parent_object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
UNION ALL SELECT s.name, t.name, k.name, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int) FROM sys.check_constraints AS k INNER JOIN sys.tables AS t ON t.object_id = k.parent_object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
GO

-- sqlReseed sets an identity, so that the next number is past value.
DBCC CHECKIDENT (N'[sales].[order line]', RESEED, 4711) WITH NO_INFOMSGS
GO

-- sqlIdentityNow reads where the identity of table @p1 stands, NULL where it has not been
-- used, and by what it counts.
SELECT CAST(c.last_value AS nvarchar(40)), CAST(c.increment_value AS nvarchar(40)) FROM sys.identity_columns AS c WHERE c.object_id = OBJECT_ID(@p1)
GO

-- sqlRestart sets the next number of a sequence.
ALTER SEQUENCE [dbo].[invoice_no] RESTART WITH 9001
GO

-- sqlMakeForeign makes the record of writes that were not Leeward's.
CREATE TABLE [leeward].[foreign_write] ([schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [at] datetime2(3) NOT NULL, [login] nvarchar(128) NULL, [program] nvarchar(128) NULL)
GO

-- sqlMarkSession tells the guards that this session is Leeward's.
EXEC sp_set_session_context @key = N'leeward', @value = N'apply'
GO

-- sqlMakeGuard makes the trigger that notes a statement on a standby's table which was
-- not Leeward's.
CREATE TRIGGER [sales].[leeward_g_0123456789ab] ON [sales].[order line] AFTER INSERT, UPDATE, DELETE AS
BEGIN
    SET NOCOUNT ON;
    IF CAST(SESSION_CONTEXT(N'leeward') AS nvarchar(20)) = N'apply' RETURN;
    INSERT INTO [leeward].[foreign_write] ([schema_name], [table_name], [at], [login], [program]) VALUES (N'sales', N'order line', SYSUTCDATETIME(), ORIGINAL_LOGIN(), APP_NAME());
END
GO

-- sqlDropGuard takes it away.
DROP TRIGGER IF EXISTS [sales].[leeward_g_0123456789ab]
GO

-- sqlGrantForeign lets guards write for whoever fires them.
GRANT INSERT ON [leeward].[foreign_write] TO public
GO

-- sqlForeign reads the writes of others, by table.
SELECT [schema_name], [table_name], COUNT_BIG(*), MAX([at]), MAX([login]), MAX([program]) FROM [leeward].[foreign_write] GROUP BY [schema_name], [table_name] ORDER BY [schema_name], [table_name]
GO

-- sqlForgetForeign forgets the writes of others to a table.
DELETE FROM [leeward].[foreign_write] WHERE [schema_name] = @p1 AND [table_name] = @p2
GO

-- sqlLogins lists logins of SQL Server and of Windows, with the hash of the password
-- where this login may see it (CONTROL SERVER).
SELECT p.name, p.type, p.sid, CAST(p.is_disabled AS int), p.default_database_name, CAST(LOGINPROPERTY(p.name, 'PasswordHash') AS varbinary(256)), CAST(l.is_policy_checked AS int), CAST(l.is_expiration_checked AS int)
FROM sys.server_principals AS p LEFT JOIN sys.sql_logins AS l ON l.principal_id = p.principal_id
WHERE p.type IN ('S', 'U', 'G') AND p.name NOT LIKE N'##%' AND p.name NOT LIKE N'NT %\%' AND p.principal_id > 4 ORDER BY p.name
GO

-- sqlServerRoles lists members of the server's roles.
SELECT r.name, m.name FROM sys.server_role_members AS x INNER JOIN sys.server_principals AS r ON r.principal_id = x.role_principal_id INNER JOIN sys.server_principals AS m ON m.principal_id = x.member_principal_id
WHERE m.type IN ('S', 'U', 'G') AND m.name NOT LIKE N'##%' AND m.name NOT LIKE N'NT %\%' AND m.principal_id > 4 ORDER BY m.name, r.name
GO

-- sqlServerGrants lists permissions of logins on the server itself.
SELECT p.state_desc, p.permission_name, m.name FROM sys.server_permissions AS p INNER JOIN sys.server_principals AS m ON m.principal_id = p.grantee_principal_id
WHERE p.class = 100 AND p.permission_name <> N'CONNECT SQL' AND m.type IN ('S', 'U', 'G') AND m.name NOT LIKE N'##%' AND m.name NOT LIKE N'NT %\%' AND m.principal_id > 4 ORDER BY m.name, p.permission_name
GO

-- sqlJobs lists jobs of SQL Server Agent.
SELECT CAST(j.job_id AS nvarchar(36)), j.name, CAST(j.enabled AS int), j.description, SUSER_SNAME(j.owner_sid), j.start_step_id FROM msdb.dbo.sysjobs AS j ORDER BY j.name
GO

-- sqlJobSteps lists the steps of job @p1.
SELECT s.step_id, s.step_name, s.subsystem, s.command, s.database_name, CAST(s.on_success_action AS int), s.on_success_step_id, CAST(s.on_fail_action AS int), s.on_fail_step_id, s.retry_attempts, s.retry_interval, s.proxy_id FROM msdb.dbo.sysjobsteps AS s WHERE s.job_id = @p1 ORDER BY s.step_id
GO

-- sqlJobSchedules lists the schedules of job @p1.
SELECT c.name, CAST(c.enabled AS int), c.freq_type, c.freq_interval, c.freq_subday_type, c.freq_subday_interval, c.freq_relative_interval, c.freq_recurrence_factor, c.active_start_date, c.active_end_date, c.active_start_time, c.active_end_time FROM msdb.dbo.sysjobschedules AS x INNER JOIN msdb.dbo.sysschedules AS c ON c.schedule_id = x.schedule_id WHERE x.job_id = @p1 ORDER BY c.name
GO

-- sqlLinkedServers lists linked servers. Their passwords cannot be read.
SELECT s.name, s.product, s.provider, s.data_source FROM sys.servers AS s WHERE s.is_linked = 1 ORDER BY s.name
GO

-- sqlDatabaseUsers lists users of the database whose login has another SID here.
SELECT d.name FROM sys.database_principals AS d LEFT JOIN sys.server_principals AS p ON p.sid = d.sid WHERE d.type IN ('S', 'U', 'G') AND d.principal_id > 4 AND d.sid IS NOT NULL AND p.sid IS NULL ORDER BY d.name
GO

-- createLogin makes a login with the SID it has, so that users of restored and
-- replicated databases find it, and with its password, as a hash.
CREATE LOGIN [app] WITH PASSWORD = 0x0200aa HASHED, SID = 0x241c, DEFAULT_DATABASE = [erp], CHECK_POLICY = ON, CHECK_EXPIRATION = OFF; ALTER LOGIN [app] DISABLE
GO
--   example: of Windows
CREATE LOGIN [CORP\app] FROM WINDOWS WITH DEFAULT_DATABASE = [master]
GO

-- addRoleMember puts a login into a role of the server.
ALTER SERVER ROLE [dbcreator] ADD MEMBER [app]
GO

-- grantServer gives a login a permission on the server. state is GRANT, DENY or
-- GRANT_WITH_GRANT_OPTION, as the catalogue has it.
GRANT VIEW SERVER STATE TO [app]
GO

-- createJob makes a job of SQL Server Agent, disabled: a standby must not run what its
-- primary runs. It is one batch.
DECLARE @job uniqueidentifier;
EXEC msdb.dbo.sp_add_job @job_name = N'nightly', @enabled = 0, @description = N'it''s nightly', @start_step_id = 1, @owner_login_name = N'sa', @job_id = @job OUTPUT;
EXEC msdb.dbo.sp_add_jobstep @job_id = @job, @step_id = 1, @step_name = N'run', @subsystem = N'TSQL', @command = N'EXEC dbo.nightly @mode = ''x''', @on_success_action = 1, @on_success_step_id = 0, @on_fail_action = 2, @on_fail_step_id = 0, @retry_attempts = 3, @retry_interval = 5, @database_name = N'erp';
EXEC msdb.dbo.sp_add_jobschedule @job_id = @job, @name = N'at two', @enabled = 1, @freq_type = 4, @freq_interval = 1, @freq_subday_type = 1, @freq_subday_interval = 0, @freq_relative_interval = 0, @freq_recurrence_factor = 0, @active_start_date = 20260101, @active_end_date = 99991231, @active_start_time = 20000, @active_end_time = 235959;
EXEC msdb.dbo.sp_add_jobserver @job_id = @job, @server_name = N'(local)';
GO

-- enableJob lets a job run, at the site that took over.
EXEC msdb.dbo.sp_update_job @job_name = N'nightly', @enabled = 1
GO

-- dropLogin is for a person to run: Leeward drops no login.
DROP LOGIN [app]
GO

-- deleteJob is for a person to run: Leeward deletes no job.
EXEC msdb.dbo.sp_delete_job @job_name = N'nightly'
GO

-- sqlPace sends up to 128 rows of 64 KiB, of which a second's worth is read.
SELECT TOP (128) REPLICATE(CAST('x' AS varchar(max)), 65536) FROM sys.all_columns
GO

-- adoptUser ties a user of the database to the login of the same name, whose SID is
-- another here.
ALTER USER [app] WITH LOGIN = [app]
GO

-- sqlRecoveryModel reads the recovery model of database @p1 and whether log backups
-- have a chain to go on with: last_log_backup_lsn is NULL where a full backup must
-- come first.
SELECT d.recovery_model_desc, CAST(r.last_log_backup_lsn AS nvarchar(40)) FROM sys.databases AS d LEFT JOIN sys.database_recovery_status AS r ON r.database_id = d.database_id WHERE d.name = @p1
GO

-- sqlSetFull makes log backups possible. The chain begins with the next full backup.
ALTER DATABASE [erp] SET RECOVERY FULL
GO

-- sqlBackup makes a full backup in stripes, each of which has a writer of its own.
-- COPY_ONLY leaves the differential backups of others alone; it does not begin a chain.
--   example: a chain of logs has begun
BACKUP DATABASE [erp] TO DISK = N'D:\backup\s1.bak', DISK = N'D:\backup\s2.bak' WITH FORMAT, INIT, CHECKSUM, MAXTRANSFERSIZE = 4194304, BUFFERCOUNT = 64, STATS = 5, COPY_ONLY, COMPRESSION
GO
--   example: it begins with this one
BACKUP DATABASE [erp] TO DISK = N'D:\backup\s1.bak' WITH FORMAT, INIT, CHECKSUM, MAXTRANSFERSIZE = 4194304, BUFFERCOUNT = 64, STATS = 5
GO

-- sqlBackupLog makes a log backup.
BACKUP LOG [erp] TO DISK = N'D:\backup\erp_00000123.trn' WITH FORMAT, INIT, CHECKSUM, COMPRESSION
GO

-- sqlBackupTail makes the last log backup before a switch and leaves the database
-- restoring: fenced, and ready to take the new primary's log.
BACKUP LOG [erp] TO DISK = N'D:\backup\erp_tail.trn' WITH FORMAT, INIT, CHECKSUM, NORECOVERY
GO

-- sqlEndSessions puts everybody out of a database, which a restore and a tail backup need.
ALTER DATABASE [erp] SET SINGLE_USER WITH ROLLBACK AFTER 30 SECONDS
GO

-- sqlMultiUser lets everybody in again.
ALTER DATABASE [erp] SET MULTI_USER
GO

-- sqlFileList lists the files of a backup, to say where they are to be.
RESTORE FILELISTONLY FROM DISK = N'E:\in\s1.bak', DISK = N'E:\in\s2.bak'
GO

-- sqlVerifyBackup reads a backup whole and checks its sums.
RESTORE VERIFYONLY FROM DISK = N'D:\backup\s1.bak', DISK = N'D:\backup\s2.bak' WITH CHECKSUM
GO

-- sqlRestore restores a full backup and leaves the database waiting for logs.
RESTORE DATABASE [erp] FROM DISK = N'E:\in\s1.bak', DISK = N'E:\in\s2.bak' WITH MOVE N'erp' TO N'E:\data\erp.mdf', MOVE N'erp_log' TO N'F:\log\erp.ldf', NORECOVERY, REPLACE, CHECKSUM, STATS = 5
GO

-- sqlRestoreLog applies a log backup. With an undo file the database can be read
-- until the next one.
RESTORE LOG [erp] FROM DISK = N'E:\in\erp_00000123.trn' WITH CHECKSUM, NORECOVERY
GO
--   example: readable in between
RESTORE LOG [erp] FROM DISK = N'E:\in\erp_00000123.trn' WITH CHECKSUM, STANDBY = N'E:\data\erp.undo'
GO

-- sqlRecover ends the restoring: the database is open, and takes no more logs.
RESTORE DATABASE [erp] WITH RECOVERY
GO

-- sqlLogBackups lists the log backups of database @p1 made since @p2, so that one of
-- somebody else's, which breaks the chain, is seen.
SELECT CAST(b.first_lsn AS nvarchar(40)), CAST(b.last_lsn AS nvarchar(40)), b.backup_finish_date, f.physical_device_name FROM msdb.dbo.backupset AS b INNER JOIN msdb.dbo.backupmediafamily AS f ON f.media_set_id = b.media_set_id WHERE b.database_name = @p1 AND b.type = 'L' AND b.is_copy_only = 0 AND b.backup_finish_date >= CAST(@p2 AS datetime) ORDER BY b.first_lsn
GO

-- sqlDatabaseState reads whether database @p1 is ONLINE, RESTORING, or else.
SELECT d.state_desc, CAST(d.is_in_standby AS int) FROM sys.databases AS d WHERE d.name = @p1
GO

-- sqlDatabaseSize reads how much of a database is in use, in bytes: what a backup
-- holds before it is compressed.
SELECT SUM(CAST(FILEPROPERTY(f.name, 'SpaceUsed') AS bigint)) * 8192 FROM sys.database_files AS f WHERE f.type = 0
GO

-- sqlCreateDatabase makes a scratch database for leeward selftest.
CREATE DATABASE [leeward_selftest_x_s]
GO

-- sqlDropDatabase removes it.
DROP DATABASE [leeward_selftest_x_s]
GO

-- sqlForgetStreams empties the record of streams of a scratch database.
DELETE FROM [leeward].[stream]
GO

-- sqlReadVersions lets readers of a scratch database see one state of it without
-- asking for one, so that the suite can add up accounts while they change hands.
ALTER DATABASE [leeward_selftest_x_s] SET READ_COMMITTED_SNAPSHOT ON
GO
