package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/protect"
)

func databaseRuns() []protect.DatabaseRun {
	return []protect.DatabaseRun{
		{Database: "shop", Engine: "postgres", Outcome: dr.Done, Seeded: true, Changes: 12, Lag: 1900 * time.Millisecond, Duration: 2 * time.Second,
			Tables:   []protect.TableRun{{Table: "public.orders", Compared: 20000, Sent: 2325, Deleted: 50}, {Table: "public.ticks", Compared: 3, Sent: 3}},
			Findings: []protect.Finding{{Level: protect.Note, Text: "for plan alone"}}},
		{Database: "plant", Engine: "mariadb", Outcome: dr.NotDone, Err: "reach the source of plant: refused", Hint: "start it",
			Stopped: []string{"digits is not followed: its definition changed"}, Duration: time.Second},
	}
}

func TestRenderDatabaseRuns(t *testing.T) {
	same(t, `
database  outcome   took     compared        sent  deleted    followed  behind
shop      done      2.0s  20,003 rows  2,328 rows  50 rows  12 changes    1.9s
plant     not done  1.0s       0 rows      0 rows   0 rows   0 changes       -

plant
    reach the source of plant: refused
    what to do: start it
    STOPPED: digits is not followed: its definition changed
`, func(w io.Writer) { renderDatabaseRuns(w, databaseRuns()) })
}

func databaseVerifies() []protect.DatabaseVerify {
	return []protect.DatabaseVerify{
		{Database: "shop", Outcome: dr.Done, Tables: 2, Rows: 20003, Duration: time.Second},
		{Database: "plant", Outcome: dr.NotDone, Tables: 1, Rows: 10, Unsettled: 1, More: 3, Duration: time.Second,
			Differences: []protect.RowDifference{{Table: "readings", Key: []string{"7"}, Columns: []string{"value"}}, {Table: "readings", Key: []string{"8"}, Only: "target"}}},
	}
}

func TestRenderDatabaseVerifies(t *testing.T) {
	same(t, `
database  verdict    tables    rows  differ  took
shop      equal           2  20,003       0  1.0s
plant     DIFFERENT       1      10       5  1.0s

plant
    1 row changed each time they were looked at; run verify again
    5 differences:
      readings (7): value
      readings (8): at the target only
`, func(w io.Writer) { renderDatabaseVerifies(w, databaseVerifies()) })
}

func TestRenderRowsStatus(t *testing.T) {
	at := time.Date(2026, 11, 25, 3, 38, 19, 0, time.UTC)
	same(t, `
database  state      behind  objective  phase                               last verified
shop      ok           2.0s      1m00s  following                           2026-11-25T03:38:19Z
plant     NOT GOOD        -       none  none; run: leeward replicate plant  never
erp       NOT KNOWN       -       none  -                                   never

erp
    no way there
`, func(w io.Writer) {
		renderRowsStatus(w, []protect.RowsStatus{
			{Database: "shop", Outcome: dr.Done, Phase: "following", Age: 2 * time.Second, RPO: time.Minute, LastVerified: at},
			{Database: "plant", Outcome: dr.NotDone}, {Database: "erp", Err: "no way there"},
		})
	})
}

func TestRenderRowsPlan(t *testing.T) {
	same(t, `shop  postgres, not replicated yet
    changes: logical slot
    public.orders  20,000 rows  here 17,949 rows  about 11 % differ
    to be made at the target: table public.ticks
    to send about 158 kB of 1.26 MB
    BLOCKER: wal_level: it is replica
      what to do: ALTER SYSTEM
`, func(w io.Writer) {
		renderRowsPlan(w, protect.RowsPlan{Database: "shop", Engine: "postgres", Reachable: true, Capture: "logical slot", Bytes: 1_260_000, Differing: 158_000,
			Tables:   []protect.TablePlan{{Table: "public.orders", Rows: 20000, TargetRows: 17949, Share: 0.11}},
			Missing:  []string{"table public.ticks"},
			Findings: []protect.Finding{{Level: protect.Blocker, Text: "wal_level: it is replica", Hint: "ALTER SYSTEM"}}})
	})
}

func TestReportOfDatabases(t *testing.T) {
	page := &reportPage{Good: false, Sections: []*reportSection{
		{Title: "The pass", Command: "replicate", Outcome: "incomplete", Run: &protect.RunResult{Databases: databaseRuns()}},
		{Title: "Comparison", Command: "verify", Outcome: "incomplete", Verify: &protect.VerifyResult{Databases: databaseVerifies()}},
	}}
	page.Overview = overviewOf(page)
	var b bytes.Buffer
	if err := renderReport(&b, page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Database by database", "<b>shop</b>", "20,003", "2,328", "plant: the last pass is not done", "5 rows differ from its source", "1 of 2"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
}

func around() *protect.Around {
	return &protect.Around{
		Items: []protect.InstanceItem{
			{Kind: "parameter", Name: "wal_level", State: "missing"}, {Kind: "role", Name: "app", State: "missing"}, {Kind: "role", Name: "boss", State: "differs", Why: "it is left as it is"},
			{Kind: "role", Name: "clerk", State: "missing", Made: true}, {Kind: "role", Name: "dba", State: "extra"}, {Kind: "role", Name: "same", State: "same"},
		},
		Manual: []protect.Finding{{Level: protect.Note, Text: "extension postgis: version 3 is installed", Hint: "install it"},
			{Level: protect.Warning, Text: "roles: their passwords cannot be read"}},
	}
}

func TestRenderPhysical(t *testing.T) {
	runs := []protect.DatabaseRun{
		{Database: "shop", Mode: "physical", Outcome: dr.Done, Duration: 2 * time.Second, Did: []string{"the server was started"}},
		{Database: "erp", Mode: "logical", Outcome: dr.Done, Around: around()},
	}
	same(t, `
database  outcome  took                         compared    sent  deleted   followed  behind
shop      done     2.0s  the whole server, by its engine                                0.0s
erp       done     0.0s                           0 rows  0 rows   0 rows  0 changes    0.0s

shop
    the server was started

erp
    outside the database: 1 of kind parameter, 1 missing; 4 of kind role, 1 missing, 1 other, 1 made
      role boss: another at the target: it is left as it is
    warning: roles: their passwords cannot be read
`, func(w io.Writer) { renderDatabaseRuns(w, runs) })
	same(t, `shop  postgres, standby
    changes: the whole server
    mode logical: not possible: wal_level: it is replica
    mode physical: about 4m00s, 1.20 GB, recommended
    link from the source: 12.5 MB/s
    to send about 1.20 GB of 1.20 GB
    outside the database: 1 of kind parameter, 1 missing; 4 of kind role, 1 missing, 1 other, 1 made
      parameter wal_level: missing at the target
      role app: missing at the target
      role boss: another at the target: it is left as it is
      what to do: instance: copy in the configuration has them made, but for parameters
    warning: roles: their passwords cannot be read
    1 thing outside the database for a person to see to; --json and the report have them
`, func(w io.Writer) {
		renderRowsPlan(w, protect.RowsPlan{Database: "shop", Engine: "postgres", Mode: "physical", Reachable: true, Phase: "standby", Capture: "the whole server",
			Bytes: 1_200_000_000, Differing: 1_200_000_000, Link: 12_500_000, Recommended: "physical", Around: around(),
			Modes: []protect.ModePlan{{Mode: "logical", Why: []string{"wal_level: it is replica"}}, {Mode: "physical", Possible: true, Bytes: 1_200_000_000, ETA: 4 * time.Minute}}})
	})
}

func TestReportOfInstance(t *testing.T) {
	page := &reportPage{Sections: []*reportSection{{Command: "plan", Plan: &protect.PlanResult{Rows: []protect.RowsPlan{{Database: "shop", Recommended: "logical", Around: around(),
		Modes: []protect.ModePlan{{Mode: "logical", Possible: true, Bytes: 1000}}}}}}}}
	page.Overview = overviewOf(page)
	var b bytes.Buffer
	if err := renderReport(&b, page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"What lives outside shop", "wal_level", "it is left as it is", "made", "extension postgis", "mode logical: less than 10s, 1.00 kB, recommended"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report does not say %q", want)
		}
	}
}
