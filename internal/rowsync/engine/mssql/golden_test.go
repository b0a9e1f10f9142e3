package mssql

import (
	goflag "flag"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var update = goflag.Bool("update", false, "write testdata/statements.golden.sql anew")

const goldenFile = "testdata/statements.golden.sql"

// statement is what one function made of an example.
type statement struct{ of, sql string }

// The dialects of the two kinds of servers that are known.
var (
	dialect2022  = dialect{UTF16: true, Float3: true, Collate: true, RowCount: true}
	dialectOther = dialect{Float3: true}
)

// examples calls every function that makes a statement.
func examples(t *testing.T) map[string][]statement {
	t.Helper()
	out := map[string][]statement{}
	add := func(f, of, sql string) { out[f] = append(out[f], statement{of, sql}) }
	for _, f := range []func(func(f, of, sql string), *testing.T){catalogExamples, readExamples, captureExamples, applyExamples, roleExamples, instanceExamples, definitionExamples} {
		f(add, t)
	}
	return out
}

func exampleTables(t *testing.T) (one, two, all *engine.Table) {
	one = &engine.Table{Name: engine.Name{Schema: "dbo", Name: "customer"}, Key: []int{0}, KeyName: "PK_customer", Unique: [][]int{{1}}, Columns: []engine.Column{
		{Name: "id", Type: "int", Identity: true}, {Name: "email", Type: "varchar(80)", Collation: "Latin1_General_CI_AS", Nullable: true}, {Name: "note", Type: "nvarchar(max)", Collation: "Latin1_General_CI_AS", Nullable: true}}}
	two = &engine.Table{Name: engine.Name{Schema: "sales", Name: "order line"}, Key: []int{0, 1}, KeyName: "PK_line", Columns: []engine.Column{
		{Name: "region", Type: "varchar(20)", Collation: "Latin1_General_CI_AS"}, {Name: "no", Type: "bigint"}, {Name: "customer", Type: "int", Nullable: true}, {Name: "amount", Type: "decimal(18,4)"}}}
	all = &engine.Table{Name: engine.Name{Schema: "dbo", Name: "every type"}, Key: []int{0}, KeyName: "PK_every"}
	for i, ty := range []string{"uniqueidentifier", "tinyint", "bit", "numeric(38,10)", "money", "smallmoney", "float", "real", "char(10)", "varchar(8000)", "varchar(max)", "text",
		"nchar(5)", "nvarchar(4000)", "ntext", "binary(4)", "varbinary(max)", "image", "date", "time(7)", "datetime", "smalldatetime", "datetime2(7)", "datetimeoffset(3)", "xml", "hierarchyid"} {
		c := engine.Column{Name: "c" + strconv.Itoa(i), Type: ty, Nullable: i > 0}
		if x, err := parseType(ty); err != nil {
			t.Fatal(err)
		} else if x.kind == kindChar {
			c.Collation = "Cyrillic_General_CI_AS"
		} else if x.kind == kindNChar {
			c.Collation = "Latin1_General_CI_AS"
		}
		all.Columns = append(all.Columns, c)
	}
	return one, two, all
}

func must(t *testing.T, table *engine.Table) (key, cols []col) {
	t.Helper()
	key, cols, err := columnsOf(table)
	if err != nil {
		t.Fatal(err)
	}
	return key, cols
}

func catalogExamples(add func(f, of, sql string), _ *testing.T) {
	for f, sql := range map[string]string{
		"sqlTables": sqlTables(), "sqlGraphTables": sqlGraphTables(), "sqlColumns": sqlColumns(), "sqlIndexes": sqlIndexes(), "sqlForeignKeys": sqlForeignKeys(), "sqlChecks": sqlChecks(),
		"sqlModules": sqlModules(), "sqlModuleDependencies": sqlModuleDependencies(), "sqlTriggers": sqlTriggers(), "sqlSequences": sqlSequences(), "sqlUserTypes": sqlUserTypes(), "sqlSchemas": sqlSchemas(),
		"sqlSizes": sqlSizes(), "sqlRowCounts": sqlRowCounts(), "sqlSynonyms": sqlSynonyms(), "sqlIdentities": sqlIdentities(),
		"sqlServer": sqlServer(), "sqlProbeUpdateable": sqlProbeUpdateable(), "sqlProbeSnapshot": sqlProbeSnapshot(), "sqlProbeChangeTracking": sqlProbeChangeTracking(), "sqlProbeUTF16": sqlProbeUTF16(),
		"sqlProbeHash": sqlProbeHash(), "sqlProbeUTF8": sqlProbeUTF8(), "sqlProbeFloat": sqlProbeFloat(), "sqlProbeRowCount": sqlProbeRowCount(), "sqlProbeCollate": sqlProbeCollate("Latin1_General_CI_AS"),
		"sqlProbeWrite": sqlProbeWrite(), "sqlProbeAppLock": sqlProbeAppLock(), "sqlProbeRecovery": sqlProbeRecovery(), "sqlCreated": sqlCreated(),
		"sqlDatabasePermissions": sqlDatabasePermissions(), "sqlTablePermission": sqlTablePermission(), "sqlUnmask": sqlUnmask(), "sqlMasked": sqlMasked(), "sqlEncrypted": sqlEncrypted(), "sqlPolicies": sqlPolicies(),
		"sqlNestedTriggers": sqlNestedTriggers(), "sourceGrants": strings.Join(sourceGrants("repl"), "\n"), "grantTable": grantTable("SELECT", engine.Name{Schema: "dbo", Name: "customer"}, "repl"),
		"grantDatabase": grantDatabase("UNMASK", "repl"), "addOwner": addOwner("repl"),
	} {
		add(f, "", sql)
	}
}

func readExamples(add func(f, of, sql string), t *testing.T) {
	one, two, all := exampleTables(t)
	k1, c1 := must(t, one)
	k2, c2 := must(t, two)
	ka, ca := must(t, all)
	d := dialect2022
	add("sqlStageRanges", "key of two columns", sqlStageRanges(k2, d))
	add("sqlStageRows", "every type", sqlStageRows(upsertTable, ca, d))
	add("sqlStageRows", "every type, server without its collations' names", sqlStageRows(upsertTable, ca, dialectOther))
	add("sqlStageRows", "keys", sqlStageRows(keyTable, k2, d))
	add("sqlDropStage", "", sqlDropStage(rangeTable))
	add("sqlBounds", "from the beginning", sqlBounds(one, k1, false, d))
	add("sqlBounds", "after a key of two columns", sqlBounds(two, k2, true, d))
	add("sqlDigests", "one key column", sqlDigests(one, k1, c1, lowerBound|upperBound, d))
	add("sqlDigests", "two key columns, open end", sqlDigests(two, k2, c2, lowerBound, d))
	add("sqlDigests", "every type, whole table, two collations", sqlDigests(all, ka, ca, 0, d))
	add("sqlDigests", "every type, hashing as a server does that hashes UTF-8", sqlDigests(all, ka, ca, 0, dialect{UTF16: true, Float3: true, Collate: true, UTF8: true}))
	add("sqlKeys", "first bucket", sqlKeys(two, k2, c2, upperBound, d))
	add("sqlExportRange", "every type", sqlExportRange(all, ka, ca, lowerBound, d))
	add("sqlExportRange", "every type, server whose characters are no UTF-16", sqlExportRange(all, ka, ca, lowerBound, dialectOther))
	add("sqlExportKeys", "", sqlExportKeys(two, k2, c2, d))
	add("sqlRows", "", sqlRows(one, k1, c1, d))
	add("sqlPiece", "", sqlPiece(one, k1, c1[2], d))
	for _, l := range []string{snapshotLevel, committedLevel, repeatableLevel} {
		add("sqlBegin", "", sqlBegin(l))
	}
	add("sqlCommit", "", sqlCommit())
	add("sqlRollback", "", sqlRollback())
}

func captureExamples(add func(f, of, sql string), t *testing.T) {
	one, two, _ := exampleTables(t)
	k1, c1 := must(t, one)
	k2, c2 := must(t, two)
	d, k := dialect2022, "0123456789ab"
	for f, sql := range map[string]string{
		"sqlHasSchema": sqlHasSchema(), "sqlMakeSchema": sqlMakeSchema(), "sqlHasObject": sqlHasObject(), "sqlMakeStreams": sqlMakeStreams(), "sqlMakeCaptures": sqlMakeCaptures(), "sqlMakeMade": sqlMakeMade(),
		"sqlStream": sqlStream(), "sqlAddStream": sqlAddStream(), "sqlStartStream": sqlStartStream(), "sqlDropStream": sqlDropStream(), "sqlStreams": sqlStreams(), "sqlDropOwn": sqlDropOwn("made"), "sqlDropSchema": sqlDropSchema(), "sqlTick": sqlTick(), "sqlReadTick": sqlReadTick(), "sqlBeat": sqlBeat(),
		"sqlCaptures": sqlCaptures(), "sqlAddCapture": sqlAddCapture(), "sqlDropCapture": sqlDropCapture(), "sqlMade": sqlMade(), "sqlAddMade": sqlAddMade(), "sqlDropMade": sqlDropMade(),
		"sqlTrackDatabase": sqlTrackDatabase(), "sqlUntrackDatabase": sqlUntrackDatabase(), "sqlTracked": sqlTracked(), "sqlAllowSnapshot": sqlAllowSnapshot(), "sqlDisallowSnapshot": sqlDisallowSnapshot(),
		"sqlTrackTable": sqlTrackTable(two.Name), "sqlUntrackTable": sqlUntrackTable(two.Name), "sqlTrackedTables": sqlTrackedTables(), "sqlVersion": sqlVersion(),
		"sqlWhichChanged": sqlWhichChanged([]engine.Name{one.Name, two.Name}), "sqlMakeSequence": sqlMakeSequence(k), "sqlMakeLog": sqlMakeLog(k, k2, d), "sqlKeepRowLocks": sqlKeepRowLocks(k),
		"sqlGrantLog": sqlGrantLog(k), "sqlGrantSequence": sqlGrantSequence(k), "sqlLockTimeout": sqlLockTimeout(lockWait), "sqlDropCaptureTrigger": sqlDropCaptureTrigger(two.Name, k), "sqlDropLog": sqlDropLog(k),
		"sqlDropSequence": sqlDropSequence(k), "sqlTriggerState": sqlTriggerState(), "sqlLogSize": sqlLogSize([]string{k, "ba9876543210"}), "sqlStageDone": sqlStageDone(), "sqlLogRows": sqlLogRows(k),
		"sqlCountRows": sqlCountRows(two.Name, k), "sqlDeleteLog": sqlDeleteLog(k), "sqlSetRows": sqlSetRows(), "sqlAddRows": sqlAddRows(),
	} {
		add(f, "", sql)
	}
	add("sqlTrackedChanges", "one key column", sqlTrackedChanges(one, k1, c1, d))
	add("sqlTrackedChanges", "two key columns", sqlTrackedChanges(two, k2, c2, d))
	add("sqlMakeCaptureTrigger", "", sqlMakeCaptureTrigger(two.Name, k, k2, d))
	add("sqlLoggedChanges", "", sqlLoggedChanges(two, k, k2, c2, d))
}

func applyExamples(add func(f, of, sql string), t *testing.T) {
	one, two, all := exampleTables(t)
	k1, c1 := must(t, one)
	k2, c2 := must(t, two)
	ka, ca := must(t, all)
	d := dialect2022
	for f, sql := range map[string]string{
		"sqlMakeWatermark": sqlMakeWatermark(), "sqlMakeProgress": sqlMakeProgress(), "sqlMakeCounters": sqlMakeCounters(), "sqlState": sqlState(), "sqlLockState": sqlLockState(), "sqlLockApply": sqlLockApply(),
		"sqlAddState": sqlAddState(), "sqlClaimState": sqlClaimState(), "sqlSetState": sqlSetState(), "sqlSetPhase": sqlSetPhase(), "sqlProgress": sqlProgress(), "sqlSetProgress": sqlSetProgress(),
		"sqlAddProgress": sqlAddProgress(), "sqlForget": sqlForget("watermark"), "sqlCounters": sqlCounters(), "sqlSetCounter": sqlSetCounter(), "sqlAddCounter": sqlAddCounter(),
		"sqlDropOlder": sqlDropOlder("#lw_del0", "#lw_up0", k2), "sqlDeleteRows": sqlDeleteRows(two, k2, "#lw_del0"), "sqlDeleteAll": sqlDeleteAll(two.Name), "sqlInsertAll": sqlInsertAll(one, c1, upsertTable),
		"sqlDeleteOtherIdentity": sqlDeleteOtherIdentity(two, k2, c2[2], "#lw_up0"), "sqlDeleteRange": sqlDeleteRange(two, k2, lowerBound|upperBound, upsertTable), "sqlDeleteMissing": sqlDeleteMissing(two, k2, upsertTable),
		"sqlFindDisplaced": sqlFindDisplaced(one, k1, c1[1:2], "#lw_up0"), "sqlReadStagedKeys": sqlReadStagedKeys(k2, displacedTable, d), "sqlAppend": sqlAppend(c1[2], true), "sqlAddOne": sqlAddOne(), "sqlBlank": sqlBlank(c1[2]),
		"sqlFillOne": sqlFillOne(c1[:2]),
	} {
		add(f, "", sql)
	}
	f := &foreignKey{name: "FK_line_customer", table: two.Name, refTable: one.Name, columns: []string{"customer"}, refColumns: []string{"id"}}
	add("sqlDeleteFree", "", sqlDeleteFree(one, k1, "#lw_del0", []*foreignKey{f}))
	add("sqlUpdateRows", "identity key", sqlUpdateRows(one, k1, c1, "#lw_up0"))
	add("sqlUpdateRows", "every type", sqlUpdateRows(all, ka, ca, "#lw_up0"))
	add("sqlInsertRows", "", sqlInsertRows(two, k2, c2, "#lw_up0", nil))
	add("sqlInsertRows", "a ring of foreign keys cut at customer", sqlInsertRows(two, k2, c2, "#lw_up0", map[string]bool{"customer": true}))
	add("sqlIdentityInsert", "", sqlIdentityInsert(one.Name, true))
	add("sqlIdentityInsert", "", sqlIdentityInsert(one.Name, false))
}

func roleExamples(add func(f, of, sql string), _ *testing.T) {
	n, k := engine.Name{Schema: "sales", Name: "order line"}, "0123456789ab"
	for f, sql := range map[string]string{
		"sqlReadOnly": sqlReadOnly("erp", 30), "sqlReadWrite": sqlReadWrite("erp"), "sqlOpenSessions": sqlOpenSessions(), "sqlKill": sqlKill(77), "sqlMakeFence": sqlMakeFence(n, k), "sqlDropFence": sqlDropFence(n, k),
		"sqlFences": sqlFences(), "sqlDropTrigger": sqlDropTrigger("sales", "leeward_f_0123456789ab"), "sqlMakeHeld": sqlMakeHeld(), "sqlHeld": sqlHeld(), "sqlAllHeld": sqlAllHeld(), "sqlAddHeld": sqlAddHeld(),
		"sqlDropHeld": sqlDropHeld(), "sqlDisableTrigger": sqlDisableTrigger(n, "audit"), "sqlEnableTrigger": sqlEnableTrigger(n, "audit"), "sqlHoldConstraint": sqlHoldConstraint(n, "FK_line_customer"),
		"sqlDropConstraint": sqlDropConstraint(n, "FK_line_customer"), "sqlConstraintStates": sqlConstraintStates(), "sqlReseed": sqlReseed(n, "4711"), "sqlIdentityNow": sqlIdentityNow(),
		"sqlRestart": sqlRestart(engine.Name{Schema: "dbo", Name: "invoice_no"}, "9001"), "sqlMakeForeign": sqlMakeForeign(), "sqlMarkSession": sqlMarkSession(), "sqlMakeGuard": sqlMakeGuard(n, k), "sqlDropGuard": sqlDropGuard(n, k),
		"sqlGrantForeign": sqlGrantForeign(), "sqlForeign": sqlForeign(), "sqlForgetForeign": sqlForgetForeign(),
	} {
		add(f, "", sql)
	}
	add("sqlRestoreConstraint", "trusted before", sqlRestoreConstraint(n, "FK_line_customer", true))
	add("sqlRestoreConstraint", "not trusted before", sqlRestoreConstraint(n, "FK_line_customer", false))
}

func instanceExamples(add func(f, of, sql string), _ *testing.T) {
	l := &login{name: "app", kind: "S", sid: []byte{0x24, 0x1c}, hash: []byte{2, 0, 0xaa}, database: "erp", policy: true, disabled: true}
	j := &job{name: "nightly", description: "it's nightly", owner: "sa", start: 1,
		steps:     []jobStep{{id: 1, name: "run", subsystem: "TSQL", command: "EXEC dbo.nightly @mode = 'x'", database: "erp", onSuccess: 1, onFail: 2, retries: 3, interval: 5}},
		schedules: []jobSchedule{{name: "at two", v: [11]int64{1, 4, 1, 1, 0, 0, 0, 20260101, 99991231, 20000, 235959}}}}
	for f, sql := range map[string]string{
		"sqlLogins": sqlLogins(), "sqlServerRoles": sqlServerRoles(), "sqlServerGrants": sqlServerGrants(), "sqlJobs": sqlJobs(), "sqlJobSteps": sqlJobSteps(), "sqlJobSchedules": sqlJobSchedules(),
		"sqlLinkedServers": sqlLinkedServers(), "sqlDatabaseUsers": sqlDatabaseUsers(), "addRoleMember": addRoleMember("dbcreator", "app"), "grantServer": grantServer("GRANT", "VIEW SERVER STATE", "app"),
		"createJob": createJob(j), "enableJob": enableJob("nightly"), "adoptUser": adoptUser("app"), "dropLogin": dropLogin("app"), "deleteJob": deleteJob("nightly"), "sqlPace": sqlPace(),
		"sqlRecoveryModel": sqlRecoveryModel(), "sqlSetFull": sqlSetFull("erp"), "sqlBackupLog": sqlBackupLog("erp", `D:\backup\erp_00000123.trn`, true), "sqlBackupTail": sqlBackupTail("erp", `D:\backup\erp_tail.trn`),
		"sqlEndSessions": sqlEndSessions("erp", 30), "sqlMultiUser": sqlMultiUser("erp"), "sqlFileList": sqlFileList([]string{`E:\in\s1.bak`, `E:\in\s2.bak`}), "sqlVerifyBackup": sqlVerifyBackup([]string{`D:\backup\s1.bak`, `D:\backup\s2.bak`}),
		"sqlRestore": sqlRestore("erp", []string{`E:\in\s1.bak`, `E:\in\s2.bak`}, []FileMove{{"erp", `E:\data\erp.mdf`}, {"erp_log", `F:\log\erp.ldf`}}), "sqlRecover": sqlRecover("erp"), "sqlLogBackups": sqlLogBackups(),
		"sqlCreateDatabase": sqlCreateDatabase("leeward_selftest_x_s"), "sqlDropDatabase": sqlDropDatabase("leeward_selftest_x_s"), "sqlForgetStreams": sqlForgetStreams(), "sqlReadVersions": sqlReadVersions("leeward_selftest_x_s"),
		"sqlDatabaseState": sqlDatabaseState(), "sqlDatabaseSize": sqlDatabaseSize(),
	} {
		add(f, "", sql)
	}
	add("createLogin", "", createLogin(l))
	add("createLogin", "of Windows", createLogin(&login{name: `CORP\app`, kind: "U", database: "master"}))
	add("sqlBackup", "a chain of logs has begun", sqlBackup("erp", []string{`D:\backup\s1.bak`, `D:\backup\s2.bak`}, true, true))
	add("sqlBackup", "it begins with this one", sqlBackup("erp", []string{`D:\backup\s1.bak`}, false, false))
	add("sqlRestoreLog", "", sqlRestoreLog("erp", `E:\in\erp_00000123.trn`, ""))
	add("sqlRestoreLog", "readable in between", sqlRestoreLog("erp", `E:\in\erp_00000123.trn`, `E:\data\erp.undo`))
}

func exampleDefinitions() (*tableInfo, *foreignKey) {
	t := &tableInfo{name: engine.Name{Schema: "sales", Name: "order line"}, collate: true, columns: []columnInfo{
		{id: 1, name: "id", base: "bigint", identity: true, seed: "1", increment: "1"},
		{id: 2, name: "region", base: "varchar", maxLength: 20, collation: "Latin1_General_CI_AS", defaultName: "DF_region", defaultText: "('EU')"},
		{id: 3, name: "total", computed: true, formula: "([price]*[count])", persisted: true, nullable: true},
		{id: 4, name: "rv", base: "timestamp", maxLength: 8},
		{id: 5, name: "phone", base: "nvarchar", maxLength: 40, aliasSchema: "dbo", alias: "phone", nullable: true},
		{id: 6, name: "g", base: "uniqueidentifier", rowguid: true, defaultName: "x", defaultText: "(newid())", defaultUnnamed: true},
	}}
	f := &foreignKey{name: "FK_line_customer", table: t.name, refTable: engine.Name{Schema: "dbo", Name: "customer"}, columns: []string{"region", "id"}, refColumns: []string{"region", "id"}, onDelete: "CASCADE", onUpdate: "SET NULL"}
	return t, f
}

func definitionExamples(add func(f, of, sql string), _ *testing.T) {
	t, f := exampleDefinitions()
	add("ddlSchema", "", ddlSchema("sales"))
	add("ddlTable", "", ddlTable(t))
	keys := []indexKey{{column: 2, descending: true}, {column: 1}}
	for _, x := range []struct {
		of string
		x  indexInfo
	}{
		{"primary key", indexInfo{name: "PK_line", typ: 1, unique: true, primary: true, keys: keys, fill: 90}},
		{"unique constraint", indexInfo{name: "UQ_line", typ: 2, unique: true, constraint: true, keys: keys}},
		{"filtered, with included columns", indexInfo{name: "IX_line", typ: 2, unique: true, keys: keys, included: []indexKey{{column: 5}}, filter: "([phone] IS NOT NULL)", ignoreDup: true}},
		{"columnstore", indexInfo{name: "CCI", typ: 5, keys: keys}},
		{"columnstore of some columns", indexInfo{name: "NCCI", typ: 6, keys: keys}},
	} {
		add("ddlIndex", x.of, ddlIndex(t, &x.x))
	}
	add("ddlForeignKey", "", ddlForeignKey(f))
	f.untrusted = true
	add("ddlForeignKey", "not trusted", ddlForeignKey(f))
	f.untrusted = false
	add("ddlCheck", "", ddlCheck(t, &checkInfo{name: "CK_line", definition: "([id]>(0))"}))
	add("ddlCheck", "not trusted", ddlCheck(t, &checkInfo{name: "CK_line", definition: "([id]>(0))", untrusted: true}))
	add("unchecked", "", unchecked(ddlForeignKey(f)))
	add("ddlSequence", "", ddlSequence(&sequenceInfo{name: engine.Name{Schema: "dbo", Name: "invoice_no"}, typ: "bigint", start: "1", increment: "1", min: "1", max: "999999", cycle: true, cached: true, cache: 50}))
	add("ddlAlias", "", ddlAlias(&typeInfo{name: engine.Name{Schema: "dbo", Name: "phone"}, base: "nvarchar", maxLength: 40, nullable: true}))
	add("ddlTableType", "", ddlTableType(&typeInfo{name: engine.Name{Schema: "dbo", Name: "ids"}, table: 1}, &tableInfo{collate: true,
		columns: []columnInfo{{id: 1, name: "id", base: "int"}}, indexes: []*indexInfo{{primary: true, keys: []indexKey{{column: 1}}}}}))
	add("ddlSynonym", "", ddlSynonym(engine.Name{Schema: "dbo", Name: "old"}, "[other].[dbo].[t]"))
}

// makers lists the functions of sql_*.go that make statements, with their comments.
func makers(t *testing.T) (names []string, docs map[string]string) {
	t.Helper()
	docs = map[string]string{}
	files, err := filepath.Glob("sql_*.go")
	if err != nil {
		t.Fatal(err)
	}
	// In the order in which a DBA may want to read.
	order := []string{"sql_probe.go", "sql_check.go", "sql_catalog.go", "sql_ddl.go", "sql_capture.go", "sql_trigger.go", "sql_read.go", "sql_apply.go", "sql_role.go", "sql_instance.go", "sql_physical.go", "sql_scratch.go"}
	for _, f := range files {
		if !slices.Contains(order, f) && f != "sql_expr.go" {
			t.Errorf("%s has no place in the golden file", f)
		}
	}
	for _, name := range order {
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && makesStatement(f.Name.Name) {
				names = append(names, f.Name.Name)
				docs[f.Name.Name] = f.Doc.Text()
			}
		}
	}
	return names, docs
}

func makesStatement(name string) bool {
	return regexp.MustCompile(`^(sql|create|add[A-Z]|adopt|enable|grant|sourceGrants|unchecked$|dropLogin$|deleteJob$)|^ddl(Schema|Table|TableType|Index|ForeignKey|Check|Sequence|Alias|Synonym)$`).MatchString(name)
}

// TestStatements holds every statement against the golden file, where each stands
// under the comment of the function that makes it.
func TestStatements(t *testing.T) {
	made := examples(t)
	names, docs := makers(t)
	var b strings.Builder
	b.WriteString("-- Every statement that Leeward sends to SQL Server, made of examples. Written by\n-- go test ./internal/rowsync/engine/mssql -run TestStatements -update\n")
	for _, n := range names {
		if docs[n] == "" {
			t.Errorf("%s: no comment says what the statement is for", n)
		}
		if len(made[n]) == 0 {
			t.Errorf("%s: the golden file has no example of it", n)
		}
		b.WriteString("\n-- " + strings.ReplaceAll(strings.TrimSpace(docs[n]), "\n", "\n-- ") + "\n")
		for _, s := range made[n] {
			if s.of != "" {
				b.WriteString("--   example: " + s.of + "\n")
			}
			b.WriteString(s.sql + "\nGO\n")
		}
		delete(made, n)
	}
	for n := range made {
		t.Errorf("example of %s, which makes no statement in sql_*.go", n)
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.String(); got != string(want) {
		t.Errorf("statements differ from %s; if that is meant, run with -update and read the difference:\n%s", goldenFile, firstDifferentLine(string(want), got))
	}
}

func firstDifferentLine(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return "line " + strconv.Itoa(i+1) + "\n- " + x[i] + "\n+ " + y[i]
		}
	}
	return "one is longer"
}

// TestStatementsAreMadeInOnePlace holds that no other file writes T-SQL.
func TestStatementsAreMadeInOnePlace(t *testing.T) {
	verb := regexp.MustCompile(`^\s*(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|EXEC|DBCC|BACKUP|RESTORE|KILL|GRANT|DENY|SET [A-Z_]+ |DISABLE TRIGGER|ENABLE TRIGGER|TRUNCATE|DECLARE|IF |BEGIN TRAN|COMMIT|ROLLBACK)\b`)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, name := range files {
		switch {
		case strings.HasPrefix(name, "sql_"), strings.HasSuffix(name, "_test.go"):
			continue
		case name == "check.go", name == "instance.go":
			continue // advice for people, which is printed and not sent
		case name == "shapes.go":
			continue // tables for the suite
		}
		f, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			l, ok := n.(*ast.BasicLit)
			if !ok || l.Kind != gotoken.STRING {
				return true
			}
			seen++
			if s, err := strconv.Unquote(l.Value); err == nil && verb.MatchString(s) {
				t.Errorf("%s writes T-SQL: %.60q", name, s)
			}
			return true
		})
	}
	if seen < 100 {
		t.Errorf("looked at %d strings only", seen)
	}
}
