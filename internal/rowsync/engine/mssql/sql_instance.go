package mssql

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// sqlLogins lists logins of SQL Server and of Windows, with the hash of the password
// where this login may see it (CONTROL SERVER).
func sqlLogins() string {
	return `SELECT p.name, p.type, p.sid, CAST(p.is_disabled AS int), p.default_database_name, CAST(LOGINPROPERTY(p.name, 'PasswordHash') AS varbinary(256)), CAST(l.is_policy_checked AS int), CAST(l.is_expiration_checked AS int)
FROM sys.server_principals AS p LEFT JOIN sys.sql_logins AS l ON l.principal_id = p.principal_id
WHERE p.type IN ('S', 'U', 'G') AND p.name NOT LIKE N'##%' AND p.name NOT LIKE N'NT %\%' AND p.principal_id > 4 ORDER BY p.name`
}

// sqlServerRoles lists members of the server's roles.
func sqlServerRoles() string {
	return `SELECT r.name, m.name FROM sys.server_role_members AS x INNER JOIN sys.server_principals AS r ON r.principal_id = x.role_principal_id INNER JOIN sys.server_principals AS m ON m.principal_id = x.member_principal_id
WHERE m.type IN ('S', 'U', 'G') AND m.name NOT LIKE N'##%' AND m.name NOT LIKE N'NT %\%' AND m.principal_id > 4 ORDER BY m.name, r.name`
}

// sqlServerGrants lists permissions of logins on the server itself.
func sqlServerGrants() string {
	return `SELECT p.state_desc, p.permission_name, m.name FROM sys.server_permissions AS p INNER JOIN sys.server_principals AS m ON m.principal_id = p.grantee_principal_id
WHERE p.class = 100 AND p.permission_name <> N'CONNECT SQL' AND m.type IN ('S', 'U', 'G') AND m.name NOT LIKE N'##%' AND m.name NOT LIKE N'NT %\%' AND m.principal_id > 4 ORDER BY m.name, p.permission_name`
}

// sqlJobs lists jobs of SQL Server Agent.
func sqlJobs() string {
	return `SELECT CAST(j.job_id AS nvarchar(36)), j.name, CAST(j.enabled AS int), j.description, SUSER_SNAME(j.owner_sid), j.start_step_id FROM msdb.dbo.sysjobs AS j ORDER BY j.name`
}

// sqlJobSteps lists the steps of job @p1.
func sqlJobSteps() string {
	return `SELECT s.step_id, s.step_name, s.subsystem, s.command, s.database_name, CAST(s.on_success_action AS int), s.on_success_step_id, CAST(s.on_fail_action AS int), s.on_fail_step_id, s.retry_attempts, s.retry_interval, s.proxy_id FROM msdb.dbo.sysjobsteps AS s WHERE s.job_id = @p1 ORDER BY s.step_id`
}

// sqlJobSchedules lists the schedules of job @p1.
func sqlJobSchedules() string {
	return `SELECT c.name, CAST(c.enabled AS int), c.freq_type, c.freq_interval, c.freq_subday_type, c.freq_subday_interval, c.freq_relative_interval, c.freq_recurrence_factor, c.active_start_date, c.active_end_date, c.active_start_time, c.active_end_time FROM msdb.dbo.sysjobschedules AS x INNER JOIN msdb.dbo.sysschedules AS c ON c.schedule_id = x.schedule_id WHERE x.job_id = @p1 ORDER BY c.name`
}

// sqlLinkedServers lists linked servers. Their passwords cannot be read.
func sqlLinkedServers() string {
	return `SELECT s.name, s.product, s.provider, s.data_source FROM sys.servers AS s WHERE s.is_linked = 1 ORDER BY s.name`
}

// sqlDatabaseUsers lists users of the database whose login has another SID here.
func sqlDatabaseUsers() string {
	return `SELECT d.name FROM sys.database_principals AS d LEFT JOIN sys.server_principals AS p ON p.sid = d.sid WHERE d.type IN ('S', 'U', 'G') AND d.principal_id > 4 AND d.sid IS NOT NULL AND p.sid IS NULL ORDER BY d.name`
}

// createLogin makes a login with the SID it has, so that users of restored and
// replicated databases find it, and with its password, as a hash.
func createLogin(l *login) string {
	s := fmt.Sprintf("CREATE LOGIN %s FROM WINDOWS WITH DEFAULT_DATABASE = %s", id(l.name), id(l.database))
	if l.kind == "S" {
		s = fmt.Sprintf("CREATE LOGIN %s WITH PASSWORD = 0x%s HASHED, SID = 0x%s, DEFAULT_DATABASE = %s, CHECK_POLICY = %s, CHECK_EXPIRATION = %s",
			id(l.name), hex.EncodeToString(l.hash), hex.EncodeToString(l.sid), id(l.database), onOff(l.policy), onOff(l.expiration))
	}
	if l.disabled {
		s += "; ALTER LOGIN " + id(l.name) + " DISABLE"
	}
	return s
}

func onOff(b bool) string {
	if b {
		return "ON"
	}
	return "OFF"
}

// addRoleMember puts a login into a role of the server.
func addRoleMember(role, member string) string {
	return "ALTER SERVER ROLE " + id(role) + " ADD MEMBER " + id(member)
}

// grantServer gives a login a permission on the server. state is GRANT, DENY or
// GRANT_WITH_GRANT_OPTION, as the catalogue has it.
func grantServer(state, permission, login string) string {
	if state == "GRANT_WITH_GRANT_OPTION" {
		return "GRANT " + permission + " TO " + id(login) + " WITH GRANT OPTION"
	}
	return state + " " + permission + " TO " + id(login)
}

// createJob makes a job of SQL Server Agent, disabled: a standby must not run what its
// primary runs. It is one batch.
func createJob(j *job) string {
	var b strings.Builder
	fmt.Fprintf(&b, "DECLARE @job uniqueidentifier;\nEXEC msdb.dbo.sp_add_job @job_name = %s, @enabled = 0, @description = %s, @start_step_id = %d", lit(j.name), lit(j.description), j.start)
	if j.owner != "" {
		fmt.Fprintf(&b, ", @owner_login_name = %s", lit(j.owner))
	}
	b.WriteString(", @job_id = @job OUTPUT;\n")
	for _, s := range j.steps {
		fmt.Fprintf(&b, "EXEC msdb.dbo.sp_add_jobstep @job_id = @job, @step_id = %d, @step_name = %s, @subsystem = %s, @command = %s, @on_success_action = %d, @on_success_step_id = %d, @on_fail_action = %d, @on_fail_step_id = %d, @retry_attempts = %d, @retry_interval = %d",
			s.id, lit(s.name), lit(s.subsystem), lit(s.command), s.onSuccess, s.onSuccessStep, s.onFail, s.onFailStep, s.retries, s.interval)
		if s.database != "" {
			fmt.Fprintf(&b, ", @database_name = %s", lit(s.database))
		}
		b.WriteString(";\n")
	}
	for _, c := range j.schedules {
		fmt.Fprintf(&b, "EXEC msdb.dbo.sp_add_jobschedule @job_id = @job, @name = %s, @enabled = %d, @freq_type = %d, @freq_interval = %d, @freq_subday_type = %d, @freq_subday_interval = %d, @freq_relative_interval = %d, @freq_recurrence_factor = %d, @active_start_date = %d, @active_end_date = %d, @active_start_time = %d, @active_end_time = %d;\n",
			lit(c.name), c.v[0], c.v[1], c.v[2], c.v[3], c.v[4], c.v[5], c.v[6], c.v[7], c.v[8], c.v[9], c.v[10])
	}
	b.WriteString("EXEC msdb.dbo.sp_add_jobserver @job_id = @job, @server_name = N'(local)';")
	return b.String()
}

// enableJob lets a job run, at the site that took over.
func enableJob(name string) string {
	return "EXEC msdb.dbo.sp_update_job @job_name = " + lit(name) + ", @enabled = 1"
}

// dropLogin is for a person to run: Leeward drops no login.
func dropLogin(name string) string { return "DROP LOGIN " + id(name) }

// deleteJob is for a person to run: Leeward deletes no job.
func deleteJob(name string) string {
	return "EXEC msdb.dbo.sp_delete_job @job_name = " + lit(name)
}

// sqlPace sends up to 128 rows of 64 KiB, of which a second's worth is read.
func sqlPace() string {
	return `SELECT TOP (128) REPLICATE(CAST('x' AS varchar(max)), 65536) FROM sys.all_columns`
}

// adoptUser ties a user of the database to the login of the same name, whose SID is
// another here.
func adoptUser(name string) string {
	return "ALTER USER " + id(name) + " WITH LOGIN = " + id(name)
}
