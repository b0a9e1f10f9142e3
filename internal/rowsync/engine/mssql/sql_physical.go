package mssql

import (
	"fmt"
	"strings"
)

// sqlRecoveryModel reads the recovery model of database @p1 and whether log backups
// have a chain to go on with: last_log_backup_lsn is NULL where a full backup must
// come first.
func sqlRecoveryModel() string {
	return `SELECT d.recovery_model_desc, CAST(r.last_log_backup_lsn AS nvarchar(40)) FROM sys.databases AS d LEFT JOIN sys.database_recovery_status AS r ON r.database_id = d.database_id WHERE d.name = @p1`
}

// sqlSetFull makes log backups possible. The chain begins with the next full backup.
func sqlSetFull(database string) string {
	return "ALTER DATABASE " + id(database) + " SET RECOVERY FULL"
}

func disks(files []string) string {
	parts := make([]string, 0, len(files))
	for _, f := range files {
		parts = append(parts, "DISK = "+lit(f))
	}
	return strings.Join(parts, ", ")
}

// sqlBackup makes a full backup in stripes, each of which has a writer of its own.
// COPY_ONLY leaves the differential backups of others alone; it does not begin a chain.
func sqlBackup(database string, files []string, copyOnly, compress bool) string {
	options := []string{"FORMAT", "INIT", "CHECKSUM", "MAXTRANSFERSIZE = 4194304", "BUFFERCOUNT = 64", "STATS = 5"}
	if copyOnly {
		options = append(options, "COPY_ONLY")
	}
	if compress {
		options = append(options, "COMPRESSION")
	}
	return fmt.Sprintf("BACKUP DATABASE %s TO %s WITH %s", id(database), disks(files), strings.Join(options, ", "))
}

// sqlBackupLog makes a log backup.
func sqlBackupLog(database, file string, compress bool) string {
	s := fmt.Sprintf("BACKUP LOG %s TO %s WITH FORMAT, INIT, CHECKSUM", id(database), disks([]string{file}))
	if compress {
		s += ", COMPRESSION"
	}
	return s
}

// sqlBackupTail makes the last log backup before a switch and leaves the database
// restoring: fenced, and ready to take the new primary's log.
func sqlBackupTail(database, file string) string {
	return fmt.Sprintf("BACKUP LOG %s TO %s WITH FORMAT, INIT, CHECKSUM, NORECOVERY", id(database), disks([]string{file}))
}

// sqlEndSessions puts everybody out of a database, which a restore and a tail backup need.
func sqlEndSessions(database string, graceSeconds int) string {
	return "ALTER DATABASE " + id(database) + " SET SINGLE_USER WITH " + rollbackAfter(graceSeconds)
}

// sqlMultiUser lets everybody in again.
func sqlMultiUser(database string) string {
	return "ALTER DATABASE " + id(database) + " SET MULTI_USER"
}

// sqlFileList lists the files of a backup, to say where they are to be.
func sqlFileList(files []string) string { return "RESTORE FILELISTONLY FROM " + disks(files) }

// sqlVerifyBackup reads a backup whole and checks its sums.
func sqlVerifyBackup(files []string) string {
	return "RESTORE VERIFYONLY FROM " + disks(files) + " WITH CHECKSUM"
}

// sqlRestore restores a full backup and leaves the database waiting for logs.
func sqlRestore(database string, files []string, moves []FileMove) string {
	options := make([]string, 0, len(moves)+4)
	for _, m := range moves {
		options = append(options, "MOVE "+lit(m.Logical)+" TO "+lit(m.Path))
	}
	options = append(options, "NORECOVERY", "REPLACE", "CHECKSUM", "STATS = 5")
	return fmt.Sprintf("RESTORE DATABASE %s FROM %s WITH %s", id(database), disks(files), strings.Join(options, ", "))
}

// sqlRestoreLog applies a log backup. With an undo file the database can be read
// until the next one.
func sqlRestoreLog(database, file, undo string) string {
	mode := "NORECOVERY"
	if undo != "" {
		mode = "STANDBY = " + lit(undo)
	}
	return fmt.Sprintf("RESTORE LOG %s FROM %s WITH CHECKSUM, %s", id(database), disks([]string{file}), mode)
}

// sqlRecover ends the restoring: the database is open, and takes no more logs.
func sqlRecover(database string) string { return "RESTORE DATABASE " + id(database) + " WITH RECOVERY" }

// sqlLogBackups lists the log backups of database @p1 made since @p2, so that one of
// somebody else's, which breaks the chain, is seen.
func sqlLogBackups() string {
	return `SELECT CAST(b.first_lsn AS nvarchar(40)), CAST(b.last_lsn AS nvarchar(40)), b.backup_finish_date, f.physical_device_name FROM msdb.dbo.backupset AS b INNER JOIN msdb.dbo.backupmediafamily AS f ON f.media_set_id = b.media_set_id WHERE b.database_name = @p1 AND b.type = 'L' AND b.is_copy_only = 0 AND b.backup_finish_date >= CAST(@p2 AS datetime) ORDER BY b.first_lsn`
}

// sqlDatabaseState reads whether database @p1 is ONLINE, RESTORING, or else.
func sqlDatabaseState() string {
	return `SELECT d.state_desc, CAST(d.is_in_standby AS int) FROM sys.databases AS d WHERE d.name = @p1`
}

// sqlDatabaseSize reads how much of a database is in use, in bytes: what a backup
// holds before it is compressed.
func sqlDatabaseSize() string {
	return `SELECT SUM(CAST(FILEPROPERTY(f.name, 'SpaceUsed') AS bigint)) * 8192 FROM sys.database_files AS f WHERE f.type = 0`
}
