package mssql

import (
	"slices"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func named(n string) engine.Name { return engine.Name{Schema: "dbo", Name: n} }

func fk(from, to string, nullable ...string) *foreignKey {
	return &foreignKey{name: "fk_" + from + "_" + to, table: named(from), refTable: named(to), columns: []string{to}, refColumns: []string{"id"}, nullable: nullable}
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		what   string
		tables string
		keys   []*foreignKey
		want   string
		null   string // table.column
		err    string
	}{
		{what: "none", tables: "b a c", want: "a b c"},
		{what: "chain", tables: "a b c", keys: []*foreignKey{fk("a", "b"), fk("b", "c")}, want: "c b a"},
		{what: "a table that is not there", tables: "a", keys: []*foreignKey{fk("a", "z")}, want: "a"},
		{what: "one to itself", tables: "a b", keys: []*foreignKey{fk("a", "a"), fk("b", "a")}, want: "a b"},
		{what: "ring with a nullable column", tables: "a b", keys: []*foreignKey{fk("a", "b"), fk("b", "a", "a")}, want: "b a", null: "b.a"},
		{what: "ring behind a chain", tables: "a b c d", keys: []*foreignKey{fk("a", "b"), fk("b", "c"), fk("c", "b", "b"), fk("c", "d")}, want: "d c b a", null: "c.b"},
		{what: "ring with, a nullable key beside it", tables: "a b c", keys: []*foreignKey{fk("c", "a", "a"), fk("a", "b"), fk("b", "a", "a")}, want: "b a c", null: "b.a"},
		{what: "ring without", tables: "a b", keys: []*foreignKey{fk("a", "b"), fk("b", "a")}, err: "dbo.a.fk_a_b, dbo.b.fk_b_a"},
		{what: "ring without, a nullable key beside it", tables: "a b c", keys: []*foreignKey{fk("c", "a", "a"), fk("a", "b"), fk("b", "a")}, err: "ring"},
	} {
		var tables []engine.Name
		for _, n := range strings.Fields(c.tables) {
			tables = append(tables, named(n))
		}
		p, err := planOrder(tables, c.keys)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want one that names %s", c.what, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		var got []string
		for _, n := range p.parents {
			got = append(got, n.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.what, got, c.want)
		}
		var null []string
		for n, columns := range p.null {
			for x := range columns {
				null = append(null, n.Name+"."+x)
			}
		}
		if strings.Join(null, " ") != c.null {
			t.Errorf("%s: NULL at first are %v, want %s", c.what, null, c.null)
		}
		// Whatever the order, each key points back, or its column waits.
		for _, f := range c.keys {
			i, j := slices.Index(p.parents, f.table), slices.Index(p.parents, f.refTable)
			if i >= 0 && j >= 0 && i <= j && !p.later[f.table][f.columns[0]] {
				t.Errorf("%s: %s comes before %s, and its column does not wait", c.what, f.table, f.refTable)
			}
		}
	}
}

func TestPositions(t *testing.T) {
	s := &source{}
	for _, c := range []struct {
		a, b engine.Pos
		want bool
		bad  bool
	}{
		{a: "ct:1", b: "ct:2", want: true}, {a: "ct:10", b: "ct:9"}, {a: "ct:5", b: "ct:5"},
		{a: "tr:5", b: "tr:5.", want: true}, {a: "tr:5.", b: "tr:5"}, {a: "tr:5.", b: "tr:6", want: true}, {a: "tr:5.", b: "tr:5."},
		{a: "ct:1", b: "tr:2", bad: true}, {a: "", b: "ct:1", bad: true}, {a: "ct:-1", b: "ct:1", bad: true}, {a: "ct:1.", b: "ct:2", bad: true}, {a: "xx:1", b: "ct:2", bad: true}, {a: "ct:1", b: "no position", bad: true},
	} {
		got, err := s.Before(c.a, c.b)
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%q before %q is %v, %v", c.a, c.b, got, err)
		}
	}
	for _, p := range []engine.Pos{"ct:0", "tr:17", "tr:17."} {
		if x, err := parsePos(p); err != nil || x.pos() != p {
			t.Errorf("%q became %q, %v", p, x.pos(), err)
		}
	}
}

func TestReseed(t *testing.T) {
	for _, c := range []struct{ value, now, step, want string }{
		{"6", "3", "1", "7"}, {"6", "6", "1", "7"}, {"6", "7", "1", ""}, {"-6", "-3", "-1", "-7"}, {"-6", "-9", "-1", ""},
		{"6", "", "1", "7"}, {"x", "3", "1", ""}, {"9223372036854775806", "1", "1", "9223372036854775807"},
	} {
		if got := reseed(c.value, c.now, c.step); got != c.want {
			t.Errorf("%s at the source and %s here, by %s: %q, want %q", c.value, c.now, c.step, got, c.want)
		}
	}
}

func TestNextOfSequence(t *testing.T) {
	for _, c := range []struct {
		q    sequenceInfo
		want string
	}{
		{sequenceInfo{current: "10", increment: "1", max: "100"}, "11"},
		{sequenceInfo{current: "10", increment: "2", max: "1000", cached: true, cache: 20}, "52"},
		{sequenceInfo{current: "10", increment: "1", max: "1000", cached: true}, "61"},
		{sequenceInfo{current: "99", increment: "5", min: "1", max: "100", cycle: true}, "1"},
		{sequenceInfo{current: "99", increment: "5", min: "1", max: "100"}, "100"},
		{sequenceInfo{current: "-9", increment: "-1", min: "-10", max: "-1", cached: true, cache: 5, cycle: true}, "-1"},
	} {
		if got := c.q.next(); got != c.want {
			t.Errorf("%+v goes on at %s, want %s", c.q, got, c.want)
		}
	}
}

func TestRuns(t *testing.T) {
	var runs []run
	for _, n := range []int64{1, 2, 3, 5, 9, 10} {
		runs = appendRun(runs, n)
	}
	if want := []run{{1, 3}, {5, 5}, {9, 10}}; !slices.Equal(runs, want) {
		t.Errorf("runs are %v, want %v: a number that was not read must not be in one", runs, want)
	}
}

func TestPileKeepsTheLast(t *testing.T) {
	table := &engine.Table{Name: named("t"), Key: []int{1}, Columns: []engine.Column{{Name: "v", Type: "int"}, {Name: "id", Type: "int"}}}
	key, cols, err := columnsOf(table)
	if err != nil {
		t.Fatal(err)
	}
	row := func(v, id string) engine.Row { return engine.Row{[]byte(v), []byte(id)} }
	k := func(id string) engine.Row { return engine.Row{[]byte(id)} }
	p := &pile{t: table, key: key, cols: cols, last: map[string]int{}}
	for _, c := range []engine.Change{
		{New: row("1", "a")}, {Old: k("b")}, {New: row("2", "a")}, {Old: k("a")}, {New: row("3", "b")}, {Old: k("b"), New: row("4", "c")}, {Old: k("c"), New: row("5", "c")},
	} {
		if err := p.add(c); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range p.entries {
		if !e.dead {
			s := string(e.key[0])
			if e.row != nil {
				s += "=" + string(e.row[0])
			}
			got = append(got, s)
		}
	}
	if want := []string{"a", "b", "c=5"}; !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	for _, bad := range []engine.Change{{New: row("1", "a")[:1]}, {Old: engine.Row{nil, nil}}, {New: row("1", "a"), Unset: []bool{true, false}}} {
		if p.add(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestKeys(t *testing.T) {
	columns := []columnInfo{{id: 1, name: "id", base: "int"}, {id: 2, name: "code", base: "varchar", maxLength: 9}, {id: 3, name: "maybe", base: "int", nullable: true}, {id: 4, name: "sum", base: "int", computed: true, formula: "x"}}
	pk := &indexInfo{name: "pk", typ: 1, unique: true, primary: true, keys: []indexKey{{column: 1}}}
	code := &indexInfo{name: "code", typ: 2, unique: true, keys: []indexKey{{column: 2}}}
	for _, c := range []struct {
		what    string
		indexes []*indexInfo
		want    string
	}{
		{"primary", []*indexInfo{code, pk}, "pk"},
		{"unique", []*indexInfo{code}, "code"},
		{"nullable", []*indexInfo{{name: "x", typ: 2, unique: true, keys: []indexKey{{column: 3}}}}, ""},
		{"filtered", []*indexInfo{{name: "x", typ: 2, unique: true, filter: "(code>1)", keys: []indexKey{{column: 2}}}}, ""},
		{"disabled", []*indexInfo{{name: "x", typ: 2, unique: true, disabled: true, keys: []indexKey{{column: 2}}}}, ""},
		{"not unique", []*indexInfo{{name: "x", typ: 2, keys: []indexKey{{column: 2}}}}, ""},
		{"primary of a computed column", []*indexInfo{{name: "x", typ: 1, unique: true, primary: true, keys: []indexKey{{column: 4}}}, code}, "code"},
	} {
		table := &tableInfo{name: named("t"), columns: columns, indexes: c.indexes}
		got := ""
		if k := table.key(); k != nil {
			got = k.name
		}
		if got != c.want {
			t.Errorf("%s: the key is %q, want %q", c.what, got, c.want)
		}
		if (table.refused() == "") != (c.want != "") {
			t.Errorf("%s: refused: %q", c.what, table.refused())
		}
	}
	variant := &tableInfo{name: named("t"), columns: append(columns, columnInfo{id: 5, name: "v", base: "sql_variant"}), indexes: []*indexInfo{pk}}
	if r := variant.refused(); !strings.Contains(r, "sql_variant") || !strings.Contains(r, "column v") {
		t.Errorf("sql_variant: refused: %q", r)
	}
}

func TestDifferences(t *testing.T) {
	now := func() *tableInfo {
		return &tableInfo{columns: []columnInfo{{name: "id", base: "int"}, {name: "v", base: "varchar", maxLength: 20, collation: "A", nullable: true}}}
	}
	c := &catalog{}
	was := c.engineTable(now())
	if why := differs(was, now()); why != "" {
		t.Errorf("no change: %s", why)
	}
	for what, change := range map[string]func(*tableInfo){
		"added":     func(t *tableInfo) { t.columns = append(t.columns, columnInfo{name: "n", base: "int"}) },
		"gone":      func(t *tableInfo) { t.columns = t.columns[:1] },
		"renamed":   func(t *tableInfo) { t.columns[1].name = "w" },
		"longer":    func(t *tableInfo) { t.columns[1].maxLength = 30 },
		"collation": func(t *tableInfo) { t.columns[1].collation = "B" },
		"not null":  func(t *tableInfo) { t.columns[1].nullable = false },
	} {
		x := now()
		change(x)
		if differs(was, x) == "" {
			t.Errorf("%s: not seen", what)
		}
	}
}

func TestFilter(t *testing.T) {
	n := engine.Name{Schema: "Sales", Name: "Orders"}
	for _, c := range []struct {
		f    engine.Filter
		want bool
	}{
		{engine.Filter{}, true}, {engine.Filter{Include: []string{"sales.*"}}, true}, {engine.Filter{Include: []string{"dbo.*"}}, false},
		{engine.Filter{Exclude: []string{"*.orders"}}, false}, {engine.Filter{Include: []string{"*.*"}, Exclude: []string{"*.log"}}, true},
	} {
		if chooses(c.f, n) != c.want {
			t.Errorf("%+v chooses %s: %v", c.f, n, !c.want)
		}
	}
}

func TestUnmangled(t *testing.T) {
	for name, want := range map[string]string{
		"ix_ix_aix2951f9ef5c4242587b0f3be004dbce94": "ix_ix_a", // of table ix, as such a server gave it
		"IX_plain": "IX_plain",
		"ix_ix_bix2951f9ef5c4242587b0f3be004dbce94": "ix_ix_bix2951f9ef5c4242587b0f3be004dbce94", // another sum: a name of somebody's own
	} {
		if got := unmangled(name, "ix"); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestPackedRows(t *testing.T) {
	for _, r := range []engine.Row{{[]byte("ü\x00'\xff"), []byte("")}, {nil}, {}} {
		got, err := unpackRow(packRow(r))
		if err != nil || !sameRow(got, r) {
			t.Errorf("%q became %q, %v", r, got, err)
		}
	}
	if _, err := unpackRow([]byte{2, 'x'}); err == nil {
		t.Error("rubbish was taken")
	}
}

func TestWithDatabase(t *testing.T) {
	for dsn, want := range map[string]string{
		"sqlserver://u:p@h:1433?Database=a&encrypt=true": "sqlserver://u:p@h:1433?database=x&encrypt=true",
		"server=h;user id=u;database=a;":                 "server=h;user id=u;database=a;database=x",
	} {
		if got, err := withDatabase(dsn, "x"); err != nil || got != want {
			t.Errorf("%s became %s, %v; want %s", dsn, got, err, want)
		}
	}
}

func TestForeignLogBackups(t *testing.T) {
	all := []LogBackup{{File: "a.trn"}, {File: "theirs.trn"}}
	got := Foreign(all, func(f string) bool { return f == "a.trn" })
	if len(got) != 1 || got[0].File != "theirs.trn" {
		t.Errorf("%v", got)
	}
}

// TestDefinitionsOfTheOtherEnd holds that what stands unquoted in statements cannot be
// more than it seems.
func TestDefinitionsOfTheOtherEnd(t *testing.T) {
	for _, c := range []engine.Column{
		{Name: "v", Type: "int); DROP TABLE x --"}, {Name: "v", Type: "varchar(10) x"}, {Name: "v", Type: "decimal(1,2;3)"}, {Name: "v", Type: "int x"},
		{Name: "v", Type: "varchar(10)", Collation: "Latin1_General_BIN2; DROP TABLE x"},
	} {
		table := &engine.Table{Name: named("t"), Columns: []engine.Column{c}}
		if cols, err := carried(table); err == nil {
			t.Errorf("%+v was taken, as %+v", c, cols)
		}
	}
}

func TestUnchecked(t *testing.T) {
	_, f := exampleDefinitions()
	plain := ddlForeignKey(f)
	f.untrusted = true
	bare := ddlForeignKey(f)
	if unchecked(plain) != bare || unchecked(bare) != bare {
		t.Errorf("%s became %s, and %s became %s", plain, unchecked(plain), bare, unchecked(bare))
	}
	for _, s := range []string{"CREATE VIEW v AS SELECT 1", "ALTER TABLE [t] ADD CONSTRAINT [c] CHECK ([a]>(0))", "CREATE PROCEDURE p AS ALTER TABLE t ADD CONSTRAINT c FOREIGN KEY (a) REFERENCES b (a)"} {
		if unchecked(s) != s {
			t.Errorf("%s became %s", s, unchecked(s))
		}
	}
}
