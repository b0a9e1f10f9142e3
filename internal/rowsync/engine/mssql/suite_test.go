package mssql

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
)

// TestSuite runs the suite that every driver must pass against the servers named by
// LEEWARD_TEST_MSSQL_SOURCE and LEEWARD_TEST_MSSQL_TARGET, in scratch databases.
// LEEWARD_TEST_MSSQL_CAPTURE chooses how changes are captured.
func TestSuite(t *testing.T) {
	source, target := os.Getenv("LEEWARD_TEST_MSSQL_SOURCE"), os.Getenv("LEEWARD_TEST_MSSQL_TARGET")
	if source == "" || target == "" {
		t.Skip("LEEWARD_TEST_MSSQL_SOURCE and LEEWARD_TEST_MSSQL_TARGET name no servers: the driver was not run")
	}
	a := engine.Options{DSN: source, Capture: os.Getenv("LEEWARD_TEST_MSSQL_CAPTURE")}
	f := suite(a, engine.Options{DSN: target})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	shapes, lacking, err := PossibleShapes(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shapes {
		f.Shapes = append(f.Shapes, enginetest.Shape(s))
	}
	for _, l := range lacking {
		t.Logf("left out, as this server cannot make it: %s", l)
	}
	enginetest.Run(t, f)
}

// suite is what the suite needs of this driver.
func suite(source, target engine.Options) enginetest.Factory {
	return enginetest.Factory{
		Driver: Driver{},
		Scratch: func(ctx context.Context) (enginetest.Scratch, error) {
			s, err := NewScratch(ctx, source, target)
			if err != nil {
				return enginetest.Scratch{}, err
			}
			connect := func(o engine.Options) func(context.Context) (enginetest.Session, error) {
				return func(ctx context.Context) (enginetest.Session, error) { return Connect(ctx, o) }
			}
			return enginetest.Scratch{
				Source: enginetest.End{Options: s.Source, Connect: connect(s.Source)},
				Target: enginetest.End{Options: s.Target, Connect: connect(s.Target)},
				Close:  s.Close,
			}, nil
		},
		Dialect: enginetest.Dialect{
			Begin: Begin, Savepoint: Savepoint, RollbackTo: RollbackTo, Identity: Identity, Objects: Objects(),
		},
		Expire: func(ctx context.Context, s enginetest.Scratch) error { return Expire(ctx, s.Source.Options) },
	}
}
