// Package enginetest is the suite that every driver of package engine must pass, on
// real servers. A driver's tests start two servers and call
//
//	enginetest.Run(t, enginetest.Factory{
//		Driver:  postgres.Driver{},
//		Scratch: func(ctx context.Context) (enginetest.Scratch, error) { … },
//		Dialect: enginetest.Dialect{Begin: "BEGIN", …},
//		Shapes:  []enginetest.Shape{…}, // the types of the engine
//	})
//
// Each case gets two databases of its own from Scratch. The suite writes its tables
// in SQL that all engines share, through sessions of the factory that stand for
// applications, and compares both ends with digests and with what these sessions
// read. Cases are values that return errors, so that a user's own servers can be
// tested by the program as well: see Cases.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// Factory is what the suite needs of a driver.
type Factory struct {
	Driver engine.Driver
	// Scratch makes an empty database at both ends.
	Scratch func(ctx context.Context) (Scratch, error)
	Dialect Dialect
	Shapes  []Shape
	// Expire makes the source lose the history it has so far, as retention does; the
	// stream "lwtest" exists and is not being read. nil: that case is skipped.
	Expire func(ctx context.Context, s Scratch) error
}

// Scratch is a pair of databases.
type Scratch struct {
	Source, Target End
	// Close removes both.
	Close func() error
}

// End is one database.
type End struct {
	Options engine.Options
	// Connect opens a connection as an application has it: it is not the user of
	// Options where the engine lets that one write behind a fence.
	Connect func(ctx context.Context) (Session, error)
}

// Session is one connection of an application, used by one goroutine.
type Session interface {
	Exec(ctx context.Context, statement string) error
	// Query returns values as text, exactly enough to tell any two apart.
	Query(ctx context.Context, query string) ([]engine.Row, error)
	Close() error
}

// Dialect is where the suite's SQL differs.
type Dialect struct {
	Begin      string // starts a transaction: "BEGIN"
	Savepoint  string // makes savepoint a: "SAVEPOINT a"
	RollbackTo string // rolls back to savepoint a
	Identity   string // type and clauses of an INT that the engine numbers, insertable by hand
	// Int and Text are how values of INT and VARCHAR stand in an engine.Row; nil: as
	// decimal digits, and as UTF-8.
	Int  func(n int) []byte
	Text func(s string) []byte
	// Objects is DDL that makes one of every kind of object the driver carries: views,
	// routines, triggers, indexes, constraints, types, sequences, a foreign key. They
	// are made at the source, copied by definition and compared.
	Objects []string
}

// Shape is a table of a driver's own, whose values must survive every way unchanged.
type Shape struct {
	Name   string   // of the case
	Table  string   // as the catalogue spells it, without its schema
	Create []string // DDL, for both ends
	Fill   []string // statements at the source before the seed
	Change []string // statements at the source while it is followed
	Select string   // what is compared beside digests; default: SELECT * FROM Table
	// Refused expects that the driver refuses this table, saying why.
	Refused bool
}

// Case is one check.
type Case struct {
	Name  string
	Long  bool // takes over ten seconds
	Check func(ctx context.Context, f Factory) error
}

// Run runs all cases as subtests. Long ones are skipped with -short, as are, saying
// so, those for which the factory or the engine lacks something.
func Run(t *testing.T, f Factory) {
	for _, c := range Cases(f) {
		t.Run(c.Name, func(t *testing.T) {
			if c.Long && testing.Short() {
				t.Skip("takes long")
			}
			ctx, cancel := context.WithTimeout(t.Context(), caseLimit)
			defer cancel()
			err := c.Check(ctx, f)
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip(err)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Cases lists the suite for a factory. A Check that returns an error which is
// errors.ErrUnsupported was not applicable.
func Cases(f Factory) []Case {
	out := []Case{
		{"schema", false, checkSchema},
		{"digests-tell-apart", false, checkDigests},
		{"buckets-cover", false, checkBuckets},
		{"buckets-of-other-end", false, checkForeignBounds},
		{"export-import", false, checkExport},
		{"import-range", false, checkImportRange},
		{"rows", false, checkRows},
		{"watermark", false, checkWatermark},
		{"rollback-of-apply", false, checkApplyRollback},
		{"progress", false, checkProgress},
		{"displaced", false, checkDisplaced},
		{"displaced-by-import", false, checkDisplacedByImport},
		{"foreign-writes", false, checkForeign},
		{"positions", false, checkPositions},
		{"heartbeat", false, checkHeartbeat},
		{"stream", false, checkStream},
		{"idempotent", false, checkIdempotent},
		{"unique-swaps", false, checkSwaps},
		{"key-updates", false, checkKeyUpdates},
		{"cascades", false, checkCascades},
		{"rollbacks", false, checkRollbacks},
		{"truncate", false, checkTruncate},
		{"no-key", false, checkNoKey},
		{"ddl", false, checkDDL},
		{"large-transaction", true, checkLarge},
		{"hand-off", true, checkHandOff},
		{"bank", true, checkBank},
		{"reopen", true, checkReopen},
		{"promote", false, checkPromote},
		{"fence", false, checkFence},
		{"remove", false, checkRemove},
		{"expired", false, checkExpired},
	}
	for _, s := range f.Shapes {
		out = append(out, Case{"types/" + s.Name, false, func(ctx context.Context, f Factory) error { return checkShape(ctx, f, s) }})
	}
	return out
}

// unsupported says why a case does not apply.
func unsupported(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errors.ErrUnsupported)
}
