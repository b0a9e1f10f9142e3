package mariadb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	replication "github.com/go-mysql-org/go-mysql/mysql"
	"github.com/go-sql-driver/mysql"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Numbers of the server's errors, from its manual's list.
const (
	errDiskFull      = 1021
	errTooMany       = 1040
	errDBAccess      = 1044
	errAccess        = 1045
	errShutdown      = 1053
	errDuplicate     = 1062
	errRowReferenced = 1451
	errNoReferenced  = 1452
	errTableFull     = 1114
	errNoTable       = 1146
	errLockWait      = 1205
	errDeadlock      = 1213
	errBinlog        = 1236
	errPrivilege     = 1227
	errInterrupted   = 1317
	errTableAccess   = 1142
	errTruncated     = 1265
	errSocketAccess  = 1698
	errKilled        = 1927
	errStatementTime = 1969
	errNoDB          = 1049
)

// number returns the server's number of an error, 0 where it is not the server's.
func number(err error) int {
	var m *mysql.MySQLError
	if errors.As(err, &m) {
		return int(m.Number)
	}
	var r *replication.MyError
	if errors.As(err, &r) {
		return int(r.Code)
	}
	return 0
}

// explain marks what may go away by itself, and says what to do about the rest
// where the server's own words do not.
func explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || engine.Temporary(err) {
		return err
	}
	switch number(err) {
	case 0:
		var n net.Error
		if errors.Is(err, driver.ErrBadConn) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, io.EOF) ||
			errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, replication.ErrBadConn) || errors.As(err, &n) {
			return &engine.TemporaryError{Err: err}
		}
	case errDiskFull, errTooMany, errShutdown, errTableFull, errLockWait, errDeadlock, errInterrupted, errKilled, errStatementTime:
		return &engine.TemporaryError{Err: err}
	case errAccess, errSocketAccess:
		return fmt.Errorf("%w: check the user, its host and the password", err)
	case errDBAccess:
		return fmt.Errorf("%w: grant the user SELECT on the database", err)
	}
	return err
}
