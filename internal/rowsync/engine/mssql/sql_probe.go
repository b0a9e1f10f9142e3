package mssql

// Probes. Each asks one thing; a server that does not know the words fails it, and the
// failure is the answer.

// sqlServer tells who the server and the database say they are; for people only.
func sqlServer() string {
	return `SELECT DB_NAME(), CAST(SERVERPROPERTY('Edition') AS nvarchar(128)), CAST(SERVERPROPERTY('ProductVersion') AS nvarchar(128)), CAST(DATABASEPROPERTYEX(DB_NAME(), 'Collation') AS nvarchar(128)), ORIGINAL_LOGIN()`
}

// sqlProbeUpdateable tells whether the database may be written: READ_WRITE, or
// READ_ONLY, as on a secondary, where change tracking means nothing.
func sqlProbeUpdateable() string {
	return `SELECT CAST(DATABASEPROPERTYEX(DB_NAME(), 'Updateability') AS nvarchar(60))`
}

// sqlProbeSnapshot reads the state of snapshot isolation: 1 on, 2 and 3 on its way.
func sqlProbeSnapshot() string {
	return `SELECT CAST(d.snapshot_isolation_state AS int) FROM sys.databases AS d WHERE d.name = DB_NAME()`
}

// sqlProbeChangeTracking works where the server has change tracking, on or off.
func sqlProbeChangeTracking() string { return `SELECT CHANGE_TRACKING_CURRENT_VERSION()` }

// sqlProbeUTF16 gives 0x3604 where characters become UTF-16LE bytes.
func sqlProbeUTF16() string { return `SELECT CAST(CAST(N'ж' AS nvarchar(1)) AS varbinary(4))` }

// sqlProbeHash shows which bytes of nvarchar are hashed.
func sqlProbeHash() string { return `SELECT HASHBYTES('SHA2_256', CAST(N'жz' AS nvarchar(2)))` }

// sqlProbeUTF8 works where a collation of UTF-8 is known (SQL Server 2019).
func sqlProbeUTF8() string {
	return `SELECT HASHBYTES('SHA2_256', CAST(CAST(N'жz' AS nvarchar(2)) COLLATE ` + utf8Collation + ` AS varchar(max)))`
}

// sqlProbeFloat gives 1 where style 3 tells neighbouring floats apart.
func sqlProbeFloat() string {
	return `SELECT CASE WHEN CONVERT(nvarchar(40), CAST(0.1E0 AS float), 3) <> CONVERT(nvarchar(40), CAST(1.0000000000000002E-1 AS float), 3) THEN 1 ELSE 0 END`
}

// sqlProbeRowCount works where SET ROWCOUNT is understood.
func sqlProbeRowCount() string { return `SET ROWCOUNT 0` }

// sqlProbeCollate works where COLLATE takes the name the catalogue gives.
func sqlProbeCollate(collation string) string {
	return `CREATE TABLE #lw_probe ([c] nvarchar(1) COLLATE ` + collation + ` NULL)`
}

// sqlProbeWrite works where a part of a value can be written.
func sqlProbeWrite() string {
	return `DECLARE @t table ([v] varbinary(max) NOT NULL); INSERT @t ([v]) VALUES (0x01); UPDATE @t SET [v].WRITE(0x02, NULL, NULL)`
}

// sqlProbeAppLock takes and releases an application lock.
func sqlProbeAppLock() string {
	return `DECLARE @r int; EXEC @r = sp_getapplock @Resource = N'leeward probe', @LockMode = N'Shared', @LockOwner = N'Session', @LockTimeout = 0; IF @r >= 0 EXEC sp_releaseapplock @Resource = N'leeward probe', @LockOwner = N'Session'`
}

// sqlProbeRecovery reads the fork of the database's history, which a restore changes.
func sqlProbeRecovery() string {
	return `SELECT CAST(r.recovery_fork_guid AS nvarchar(36)), CAST(r.database_guid AS nvarchar(36)) FROM sys.database_recovery_status AS r WHERE r.database_id = DB_ID()`
}

// sqlCreated tells when the database was made, restored or renamed.
func sqlCreated() string {
	return `SELECT CONVERT(nvarchar(30), d.create_date, 121) FROM sys.databases AS d WHERE d.name = DB_NAME()`
}
