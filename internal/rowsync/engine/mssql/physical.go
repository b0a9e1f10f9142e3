package mssql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Physical copies whole databases by SQL Server's own backups: a full backup restored
// WITH NORECOVERY, and log backups after it. It was written after the documentation of
// SQL Server; see docs/databases.md for what has been proven where.
//
// Files are named as the servers see them: it is their service accounts that open them.
type Physical struct {
	d        *database
	database string
	compress bool
}

// FileMove says where a file of a backup is to be.
type FileMove struct{ Logical, Path string }

// BackupFile is a file that a backup holds.
type BackupFile struct {
	Logical, Path string
	Type          string // D data, L log, F full text, S FILESTREAM
	Size          int64
}

// LogBackup is one log backup as the server remembers it.
type LogBackup struct {
	First, Last string // log sequence numbers
	Finished    time.Time
	File        string
}

// Physical opens a server for physical copies of a database. The connection is to
// master: a database that is restored has no room for it.
func (Driver) Physical(ctx context.Context, o engine.Options, name string) (*Physical, error) {
	d, err := openDatabase(ctx, o, "master")
	if err != nil {
		return nil, err
	}
	// Express has no compressed backups.
	return &Physical{d: d, database: name, compress: !strings.Contains(d.edition, "Express")}, nil
}

// Close ends the connection.
func (p *Physical) Close() error { return p.d.Close() }

func (p *Physical) exec(ctx context.Context, what, query string) error {
	s, err := p.d.session(ctx)
	if err != nil {
		return err
	}
	defer s.end()
	_, err = s.exec(ctx, query)
	return wrap(err, "%s %s", what, p.database)
}

// Model reads the recovery model, and whether a chain of log backups has begun.
func (p *Physical) Model(ctx context.Context) (model string, chain bool, err error) {
	s, err := p.d.session(ctx)
	if err != nil {
		return "", false, err
	}
	defer s.end()
	var last *string
	err = s.QueryRowContext(ctx, sqlRecoveryModel(), p.database).Scan(&model, &last)
	return model, last != nil, wrap(err, "read the recovery model of %s", p.database)
}

// Begin makes the full backup that the standby starts from. A database whose chain of
// logs has not begun is set to full recovery, and the backup begins the chain; else it
// leaves the backups of others alone.
func (p *Physical) Begin(ctx context.Context, files []string) error {
	model, chain, err := p.Model(ctx)
	if err != nil {
		return err
	}
	if model != "FULL" {
		chain = false
		if err := p.exec(ctx, "set the recovery model of", sqlSetFull(p.database)); err != nil {
			return err
		}
	}
	if err := p.exec(ctx, "back up", sqlBackup(p.database, files, chain, p.compress)); err != nil {
		return err
	}
	return p.exec(ctx, "verify the backup of", sqlVerifyBackup(files))
}

// BackupLog makes the next log backup.
func (p *Physical) BackupLog(ctx context.Context, file string) error {
	return p.exec(ctx, "back up the log of", sqlBackupLog(p.database, file, p.compress))
}

const (
	databaseInUse = 3101
	fenceTries    = 5
)

// Fence puts everybody out and makes the last log backup. The database is restoring
// then: nobody can write, and the log of the new primary can be restored into it.
func (p *Physical) Fence(ctx context.Context, file string, grace time.Duration) ([]string, error) {
	var err error
	for range fenceTries {
		if err = p.exec(ctx, "end the sessions of", sqlEndSessions(p.database, int(grace.Seconds()))); err != nil {
			return nil, err
		}
		// Somebody else may have been quicker to take the one seat there is.
		if err = p.exec(ctx, "back up the tail of the log of", sqlBackupTail(p.database, file)); number(err) != databaseInUse {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	state, err := p.State(ctx)
	if err != nil {
		return nil, err
	}
	if state != "RESTORING" {
		return nil, fmt.Errorf("database %s is %s after the backup of its tail, not RESTORING", p.database, state)
	}
	return []string{saw("database %s is RESTORING; the tail of its log is in %s", p.database, file)}, nil
}

// Files lists what a backup holds.
func (p *Physical) Files(ctx context.Context, files []string) ([]BackupFile, error) {
	s, err := p.d.session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	rows, err := s.QueryContext(ctx, sqlFileList(files))
	if err != nil {
		return nil, wrap(err, "list the files of the backup of %s", p.database)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []BackupFile
	for rows.Next() {
		var f BackupFile
		// The server's version decides how many columns there are.
		into := make([]any, len(names))
		for i, n := range names {
			switch n {
			case "LogicalName":
				into[i] = &f.Logical
			case "PhysicalName":
				into[i] = &f.Path
			case "Type":
				into[i] = &f.Type
			case "Size":
				into[i] = &f.Size
			default:
				into[i] = new(any)
			}
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, rows.Err()
}

// Restore restores the full backup and leaves the database waiting for logs.
func (p *Physical) Restore(ctx context.Context, files []string, moves []FileMove) error {
	return p.exec(ctx, "restore", sqlRestore(p.database, files, moves))
}

// RestoreLog applies a log backup; with an undo file the database can be read until
// the next one.
func (p *Physical) RestoreLog(ctx context.Context, file, undo string) error {
	return p.exec(ctx, "restore a log of", sqlRestoreLog(p.database, file, undo))
}

// Promote opens the database for writing.
func (p *Physical) Promote(ctx context.Context) ([]string, error) {
	state, err := p.State(ctx)
	if err != nil {
		return nil, err
	}
	if state != "ONLINE" {
		if err := p.exec(ctx, "recover", sqlRecover(p.database)); err != nil {
			return nil, err
		}
	}
	// The tail of the log brought the fence along: the one seat of the old primary.
	if err := p.exec(ctx, "open", sqlMultiUser(p.database)); err != nil {
		return nil, err
	}
	return []string{saw("database %s is open; it was %s", p.database, state)}, nil
}

// State is ONLINE, RESTORING, STANDBY or what else the server says.
func (p *Physical) State(ctx context.Context) (string, error) {
	s, err := p.d.session(ctx)
	if err != nil {
		return "", err
	}
	defer s.end()
	var state string
	var standby flag
	err = s.QueryRowContext(ctx, sqlDatabaseState(), p.database).Scan(&state, &standby)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return "ABSENT", nil
	case bool(standby):
		state = "STANDBY"
	}
	return state, wrap(err, "read the state of %s", p.database)
}

// Size is how many bytes of the database are in use, which a backup holds before it is
// compressed. It is read in the database itself.
func Size(ctx context.Context, o engine.Options) (int64, error) {
	d, err := open(ctx, o)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	s, err := d.session(ctx)
	if err != nil {
		return 0, err
	}
	defer s.end()
	var n *int64
	if err := s.QueryRowContext(ctx, sqlDatabaseSize()).Scan(&n); err != nil || n == nil {
		return 0, wrap(err, "read the size of %s", d.name)
	}
	return *n, nil
}

// LogBackups lists log backups since a time. One that is not ours has taken a part of
// the log that the standby needs.
func (p *Physical) LogBackups(ctx context.Context, since time.Time) ([]LogBackup, error) {
	s, err := p.d.session(ctx)
	if err != nil {
		return nil, err
	}
	defer s.end()
	var out []LogBackup
	err = s.each(ctx, sqlLogBackups(), func(scan func(...any) error) error {
		var b LogBackup
		err := scan(&b.First, &b.Last, &b.Finished, &b.File)
		out = append(out, b)
		return err
	}, p.database, since.Format("2006-01-02T15:04:05"))
	return out, wrap(err, "list the log backups of %s", p.database)
}

// Foreign returns the log backups that are not among our files: each is a gap in what
// the standby can be given, unless its file is restored there in its turn.
func Foreign(all []LogBackup, ours func(file string) bool) []LogBackup {
	var out []LogBackup
	for _, b := range all {
		if !ours(b.File) {
			out = append(out, b)
		}
	}
	return out
}
