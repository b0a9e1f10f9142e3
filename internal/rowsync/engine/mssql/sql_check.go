package mssql

import "github.com/leeward-dr/leeward/internal/rowsync/engine"

// sqlDatabasePermissions asks which permissions the login has in the database: 1 yes,
// 0 no, NULL where the server does not know the word.
func sqlDatabasePermissions() string {
	return `SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'ALTER'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE SCHEMA'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'CREATE TABLE'), HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'VIEW DEFINITION'), IS_ROLEMEMBER('db_owner')`
}

// sqlTablePermission asks for permission @p2 on table @p1.
func sqlTablePermission() string { return `SELECT HAS_PERMS_BY_NAME(@p1, 'OBJECT', @p2)` }

// sqlUnmask asks for the permission to read masked values.
func sqlUnmask() string { return `SELECT HAS_PERMS_BY_NAME(DB_NAME(), 'DATABASE', 'UNMASK')` }

// sqlMasked lists columns whose values are masked for those without that permission.
func sqlMasked() string {
	return `SELECT s.name, t.name, c.name FROM sys.columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE c.is_masked = 1`
}

// sqlEncrypted lists columns under Always Encrypted, whose values the server itself
// cannot hash.
func sqlEncrypted() string {
	return `SELECT s.name, t.name, c.name FROM sys.columns AS c INNER JOIN sys.tables AS t ON t.object_id = c.object_id INNER JOIN sys.schemas AS s ON s.schema_id = t.schema_id WHERE c.encryption_type IS NOT NULL`
}

// sqlPolicies lists security policies, which hide rows.
func sqlPolicies() string {
	return `SELECT s.name, p.name, p.name FROM sys.security_policies AS p INNER JOIN sys.schemas AS s ON s.schema_id = p.schema_id WHERE p.is_enabled = 1`
}

// sqlNestedTriggers reads whether triggers fire for what other triggers do.
func sqlNestedTriggers() string {
	return `SELECT CAST(c.value_in_use AS int) FROM sys.configurations AS c WHERE c.name = N'nested triggers'`
}

// sourceGrants is what a source's user needs, to be printed and run by a person.
func sourceGrants(user string) []string {
	return []string{
		"GRANT SELECT TO [" + user + "]",
		"GRANT VIEW DEFINITION TO [" + user + "]",
		"GRANT VIEW DATABASE STATE TO [" + user + "]",
		"GRANT VIEW CHANGE TRACKING ON SCHEMA::[dbo] TO [" + user + "] -- and on every other schema with tables",
		"GRANT ALTER TO [" + user + "] -- to switch change tracking and snapshot isolation on, or to make triggers",
		"GRANT CREATE SCHEMA TO [" + user + "]",
		"GRANT CREATE TABLE TO [" + user + "]",
	}
}

// grantTable is the grant that gives one permission on a table.
func grantTable(permission string, n engine.Name, user string) string {
	return "GRANT " + permission + " ON " + obj(n) + " TO " + id(user)
}

// grantDatabase is the grant that gives one permission in the database.
func grantDatabase(permission, user string) string {
	return "GRANT " + permission + " TO " + id(user)
}

// addOwner makes a user an owner of the database.
func addOwner(user string) string { return "ALTER ROLE [db_owner] ADD MEMBER " + id(user) }
