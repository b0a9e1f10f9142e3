package mssql_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
	"github.com/leeward-dr/leeward/internal/rowsync/selftest"
)

// TestSuite runs the suite that every driver must pass against the servers named by
// LEEWARD_TEST_MSSQL_SOURCE and LEEWARD_TEST_MSSQL_TARGET, in scratch databases.
// LEEWARD_TEST_MSSQL_CAPTURE chooses how changes are captured.
func TestSuite(t *testing.T) {
	source, target := os.Getenv("LEEWARD_TEST_MSSQL_SOURCE"), os.Getenv("LEEWARD_TEST_MSSQL_TARGET")
	if source == "" || target == "" {
		t.Skip("LEEWARD_TEST_MSSQL_SOURCE and LEEWARD_TEST_MSSQL_TARGET name no servers: the driver was not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	f, lacking, err := selftest.MSSQL(ctx, engine.Options{DSN: source, Capture: os.Getenv("LEEWARD_TEST_MSSQL_CAPTURE")}, engine.Options{DSN: target})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lacking {
		t.Logf("left out, as this server cannot make it: %s", l)
	}
	enginetest.Run(t, f)
}
