package mssql

import (
	"fmt"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// sqlReadOnly makes the database read-only for everybody. Transactions that are open
// are rolled back after a grace, and their sessions ended.
func sqlReadOnly(database string, graceSeconds int) string {
	return "ALTER DATABASE " + id(database) + " SET READ_ONLY WITH " + rollbackAfter(graceSeconds)
}

func rollbackAfter(seconds int) string {
	if seconds <= 0 {
		return "ROLLBACK IMMEDIATE"
	}
	return fmt.Sprintf("ROLLBACK AFTER %d SECONDS", seconds)
}

// sqlReadWrite lifts it.
func sqlReadWrite(database string) string {
	return "ALTER DATABASE " + id(database) + " SET READ_WRITE WITH ROLLBACK IMMEDIATE"
}

// sqlOpenSessions lists who else is in the database, as evidence.
func sqlOpenSessions() string {
	return `SELECT CAST(s.session_id AS int), s.login_name, s.host_name, s.program_name FROM sys.dm_exec_sessions AS s WHERE s.database_id = DB_ID() AND s.session_id <> @@SPID AND s.is_user_process = 1`
}

// sqlKill ends a session.
func sqlKill(session int) string { return fmt.Sprintf("KILL %d", session) }

func fenceTrigger(n engine.Name, token string) string {
	return id(n.Schema) + "." + id(ourPrefix+"f_"+token)
}

// sqlMakeFence makes the trigger that refuses every change of a table, where the
// database cannot be made read-only.
func sqlMakeFence(n engine.Name, token string) string {
	return fmt.Sprintf("CREATE TRIGGER %s ON %s AFTER INSERT, UPDATE, DELETE AS\nBEGIN\n    SET NOCOUNT ON;\n    THROW 51000, N'this database is fenced by leeward: the standby is taking over', 1;\nEND", fenceTrigger(n, token), obj(n))
}

// sqlDropFence takes it away.
func sqlDropFence(n engine.Name, token string) string {
	return "DROP TRIGGER IF EXISTS " + fenceTrigger(n, token)
}

// sqlFences lists the fences that stand.
func sqlFences() string {
	return `SELECT s.name, t.name, g.name FROM sys.triggers AS g INNER JOIN sys.tables AS t ON t.object_id = g.parent_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE LEFT(g.name, 10) = N'leeward_f_'`
}

// sqlDropTrigger drops a trigger by name.
func sqlDropTrigger(schema, name string) string {
	return "DROP TRIGGER IF EXISTS " + id(schema) + "." + id(name)
}

// Standby.

// sqlMakeHeld makes the record of what a standby holds off, so that promotion restores
// exactly that. what is trigger, constraint or dropped (a foreign key that could not be
// held off otherwise, with its definition).
func sqlMakeHeld() string {
	return `CREATE TABLE [leeward].[held] ([stream] nvarchar(128) NOT NULL, [what] nvarchar(20) NOT NULL, [schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [name] nvarchar(128) NOT NULL, [untrusted] int NOT NULL, [definition] nvarchar(max) NULL)`
}

// sqlHeld reads what stream @p1 holds off.
func sqlHeld() string {
	return `SELECT [what], [schema_name], [table_name], [name], [untrusted], [definition] FROM [leeward].[held] WHERE [stream] = @p1 ORDER BY [what], [schema_name], [table_name], [name]`
}

// sqlAllHeld reads what standbys of all streams hold off.
func sqlAllHeld() string {
	return `SELECT [what], [schema_name], [table_name], [name], [untrusted], [definition] FROM [leeward].[held] ORDER BY [what], [schema_name], [table_name], [name]`
}

// sqlAddHeld records what is about to be held off.
func sqlAddHeld() string {
	return `INSERT INTO [leeward].[held] ([stream], [what], [schema_name], [table_name], [name], [untrusted], [definition]) VALUES (@p1, @p2, @p3, @p4, @p5, @p6, @p7)`
}

// sqlDropHeld forgets one that was restored.
func sqlDropHeld() string {
	return `DELETE FROM [leeward].[held] WHERE [stream] = @p1 AND [what] = @p2 AND [schema_name] = @p3 AND [table_name] = @p4 AND [name] = @p5`
}

// sqlDisableTrigger holds a trigger off: what it did at the source arrives as rows.
func sqlDisableTrigger(t engine.Name, name string) string {
	return "DISABLE TRIGGER " + id(t.Schema) + "." + id(name) + " ON " + obj(t)
}

// sqlEnableTrigger restores it.
func sqlEnableTrigger(t engine.Name, name string) string {
	return "ENABLE TRIGGER " + id(t.Schema) + "." + id(name) + " ON " + obj(t)
}

// sqlHoldConstraint holds a foreign key or check off: rows arrive table by table, and
// cascades arrive as rows.
func sqlHoldConstraint(t engine.Name, name string) string {
	return "ALTER TABLE " + obj(t) + " NOCHECK CONSTRAINT " + id(name)
}

// sqlRestoreConstraint restores one. Checked against all rows it is trusted again,
// which plans are better for; one that was not trusted before need not be.
func sqlRestoreConstraint(t engine.Name, name string, check bool) string {
	with := "NOCHECK"
	if check {
		with = "CHECK"
	}
	return "ALTER TABLE " + obj(t) + " WITH " + with + " CHECK CONSTRAINT " + id(name)
}

// sqlDropConstraint drops a foreign key that cannot be held off otherwise.
func sqlDropConstraint(t engine.Name, name string) string {
	return "ALTER TABLE " + obj(t) + " DROP CONSTRAINT " + id(name)
}

// sqlConstraintStates tells which foreign keys and checks are enforced.
func sqlConstraintStates() string {
	return `SELECT s.name, t.name, k.name, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int) FROM sys.foreign_keys AS k INNER JOIN sys.tables AS t ON t.object_id = k.parent_object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id
UNION ALL SELECT s.name, t.name, k.name, CAST(k.is_disabled AS int), CAST(k.is_not_trusted AS int) FROM sys.check_constraints AS k INNER JOIN sys.tables AS t ON t.object_id = k.parent_object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id`
}

// sqlReseed sets an identity, so that the next number is past value.
func sqlReseed(t engine.Name, value string) string {
	return "DBCC CHECKIDENT (" + lit(obj(t)) + ", RESEED, " + value + ") WITH NO_INFOMSGS"
}

// sqlIdentityNow reads where the identity of table @p1 stands, NULL where it has not been
// used, and by what it counts.
func sqlIdentityNow() string {
	return `SELECT CAST(c.last_value AS nvarchar(40)), CAST(c.increment_value AS nvarchar(40)) FROM sys.identity_columns AS c WHERE c.object_id = OBJECT_ID(@p1)`
}

// sqlRestart sets the next number of a sequence.
func sqlRestart(n engine.Name, value string) string {
	return "ALTER SEQUENCE " + obj(n) + " RESTART WITH " + value
}

// Writes of others at a standby.

// sqlMakeForeign makes the record of writes that were not Leeward's.
func sqlMakeForeign() string {
	return `CREATE TABLE [leeward].[foreign_write] ([schema_name] nvarchar(128) NOT NULL, [table_name] nvarchar(128) NOT NULL, [at] datetime2(3) NOT NULL, [login] nvarchar(128) NULL, [program] nvarchar(128) NULL)`
}

func guardTrigger(n engine.Name, token string) string {
	return id(n.Schema) + "." + id(ourPrefix+"g_"+token)
}

// sessionMark is what sessions of Leeward say they are, so that the guards know them.
const sessionMark = "apply"

// sqlMarkSession tells the guards that this session is Leeward's.
func sqlMarkSession() string {
	return `EXEC sp_set_session_context @key = N'leeward', @value = N'` + sessionMark + `'`
}

// sqlMakeGuard makes the trigger that notes a statement on a standby's table which was
// not Leeward's.
func sqlMakeGuard(n engine.Name, token string) string {
	return fmt.Sprintf("CREATE TRIGGER %s ON %s AFTER INSERT, UPDATE, DELETE AS\nBEGIN\n    SET NOCOUNT ON;\n    IF CAST(SESSION_CONTEXT(N'leeward') AS nvarchar(20)) = N'%s' RETURN;\n    INSERT INTO [leeward].[foreign_write] ([schema_name], [table_name], [at], [login], [program]) VALUES (%s, %s, SYSUTCDATETIME(), ORIGINAL_LOGIN(), APP_NAME());\nEND",
		guardTrigger(n, token), obj(n), sessionMark, lit(n.Schema), lit(n.Name))
}

// sqlDropGuard takes it away.
func sqlDropGuard(n engine.Name, token string) string {
	return "DROP TRIGGER IF EXISTS " + guardTrigger(n, token)
}

// sqlGrantForeign lets guards write for whoever fires them.
func sqlGrantForeign() string { return `GRANT INSERT ON [leeward].[foreign_write] TO public` }

// sqlForeign reads the writes of others, by table.
func sqlForeign() string {
	return `SELECT [schema_name], [table_name], COUNT_BIG(*), MAX([at]), MAX([login]), MAX([program]) FROM [leeward].[foreign_write] GROUP BY [schema_name], [table_name] ORDER BY [schema_name], [table_name]`
}

// sqlForgetForeign forgets the writes of others to a table.
func sqlForgetForeign() string {
	return `DELETE FROM [leeward].[foreign_write] WHERE [schema_name] = @p1 AND [table_name] = @p2`
}
