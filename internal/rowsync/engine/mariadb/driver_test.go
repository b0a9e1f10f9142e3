package mariadb

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
)

// dump is what mariadb-dump, a witness that shares no code with us, says of a database.
func dump(t *testing.T, s *instance, db string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("mariadb-dump"); err != nil {
		t.Skipf("mariadb-dump is not installed: %v", err)
	}
	cmd := exec.Command("mariadb-dump", append([]string{"--no-defaults", "-uroot", "-S" + s.socket, "--skip-comments", "--skip-dump-date", "--max-allowed-packet=1G", "--order-by-primary", "--hex-blob"}, append(args, db)...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("mariadb-dump: %v\n%s", err, errs.String())
	}
	// Where numbers go on is not a part of the definition.
	return regexp.MustCompile(`(?m) AUTO_INCREMENT=\d+( DEFAULT CHARSET)|^DO SETVAL.*$`).ReplaceAllString(string(out), "$1")
}

func sameText(t *testing.T, what, a, b string) {
	t.Helper()
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(x), len(y)) {
		if i >= len(x) || i >= len(y) || x[i] != y[i] {
			at := func(l []string) string {
				if i < len(l) {
					return l[i][:min(len(l[i]), 300)]
				}
				return "nothing"
			}
			t.Fatalf("%s: line %d is\n%s\nat the source and\n%s\nat the target", what, i+1, at(x), at(y))
		}
	}
}

// TestDefinitions makes a database by its definitions alone, holds triggers and events
// off, and promotes it.
func TestDefinitions(t *testing.T) {
	e, sc := pairOf(t)
	ctx := t.Context()
	e.at(t, objectsDDL()...)
	e.at(t, "SET sql_mode='ANSI_QUOTES,PIPES_AS_CONCAT'", `CREATE TRIGGER odd AFTER UPDATE ON customers FOR EACH ROW SET @x = NEW.name || "id"`, "SET sql_mode=''",
		"CREATE TRIGGER second BEFORE INSERT ON invoices FOR EACH ROW FOLLOWS before_invoice SET NEW.id = NEW.id * 2",
		"INSERT INTO customers (name, n) VALUES ('a', 1), ('b', 2)", "INSERT INTO invoices VALUES (1, 1)", "SELECT NEXTVAL(numbers)")
	for _, s := range shapes() {
		e.at(t, s.Create...)
	}
	s, err := e.src.Schema(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, late := range []bool{false, true} {
		for _, o := range s.Objects {
			if o.Late != late {
				continue
			}
			if err := e.dst.Execute(ctx, o.Definition); err != nil {
				t.Fatalf("make %s %s: %v", o.Kind, o.Name, err)
			}
		}
	}
	src, dst := pair.src, pair.dst
	db := e.src.db
	definitions := func(s *instance) string {
		return dump(t, s, db, "--no-data", "--routines", "--triggers", "--events")
	}
	before := definitions(src)
	if !strings.Contains(before, "second") || !strings.Contains(before, "nightly") {
		t.Fatal("the witness does not show triggers and events")
	}
	sameText(t, "definitions made by Execute", before, definitions(dst))
	for range 2 {
		if err := e.dst.Standby(ctx, "s", nil); err != nil {
			t.Fatal(err)
		}
	}
	if after := definitions(dst); strings.Contains(after, "before_invoice") || strings.Contains(after, "nightly") {
		t.Error("triggers or events are in force at a standby")
	}
	held, err := e.dst.Schema(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Objects, held.Objects) {
		for i := range s.Objects {
			if i >= len(held.Objects) || s.Objects[i] != held.Objects[i] {
				t.Fatalf("object %d is %+v at the source and %+v at the standby", i, s.Objects[i], held.Objects[i])
			}
		}
	}
	// A trigger that comes by the stream must be held off at once.
	come := session{charset: [2]uint16{45, 45}}.with("CREATE TRIGGER late_one BEFORE DELETE ON invoices FOR EACH ROW SET @y = 1")
	if err := e.dst.Execute(ctx, come); err != nil {
		t.Fatal(err)
	}
	e.at(t, "CREATE TRIGGER late_one BEFORE DELETE ON invoices FOR EACH ROW SET @y = 1")
	if strings.Contains(definitions(dst), "late_one") {
		t.Error("a trigger made by Execute is in force at a standby")
	}
	if _, err := e.dst.Promote(ctx, "s", nil); err != nil {
		t.Fatal(err)
	}
	strip := func(s string) string {
		return regexp.MustCompile("DEFINER=`[a-z]*`@`localhost`").ReplaceAllString(s, "")
	}
	sameText(t, "definitions after promotion", strip(definitions(src)), strip(definitions(dst)))
	_ = sc
}

// TestLargeValues streams values far larger than the memory allowed for it.
func TestLargeValues(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long")
	}
	e, _ := pairOf(t)
	e.both(t, "CREATE TABLE lobs (id INT PRIMARY KEY, a LONGBLOB, b LONGTEXT CHARACTER SET utf8mb4, c MEDIUMTEXT CHARACTER SET latin1)")
	e.at(t, `INSERT INTO lobs VALUES (1, REPEAT(x'00090a5cff', 20971520), NULL, 'x'), (2, '', REPEAT('é😀\t', 1000000), NULL),
		(3, 'small', 'small', REPEAT('ÿ', 16777215)), (4, NULL, '', ''), (5, REPEAT('q', 4194304), REPEAT('r', 4194305), NULL)`)
	tab := e.table(t, "lobs")
	runtime.GC()
	var base, now runtime.MemStats
	runtime.ReadMemStats(&base)
	peak, stop, done := uint64(0), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				runtime.ReadMemStats(&now)
				peak = max(peak, now.HeapAlloc)
			}
		}
	}()
	_, err := e.importRange(t.Context(), e.src, tab, engine.State{Stream: "s"}, engine.Selection{}, true)
	close(stop)
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if grown := int64(peak) - int64(base.HeapAlloc); grown > 64<<20 {
		t.Errorf("the heap grew by %d MB for values of 100 MB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MB", grown>>20)
	}
	const q = "SELECT id, LENGTH(a), SHA2(a, 256), LENGTH(b), SHA2(b, 256), LENGTH(c), SHA2(c, 256) FROM lobs ORDER BY id"
	want, err := e.app.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.witness.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	sameText(t, "large values", fmt.Sprintf("%q", want), fmt.Sprintf("%q", got))
	if a, b := e.digestAll(t, e.src, tab), e.digestAll(t, e.dst, tab); a != b {
		t.Errorf("digests differ: %s and %s", a, b)
	}
}

// TestSnapshotWhileWritten opens several readers in the midst of commits: all must see
// one state, and the position must be its.
func TestSnapshotWhileWritten(t *testing.T) {
	e, sc := pairOf(t)
	e.both(t, "CREATE TABLE acc (id INT PRIMARY KEY, n INT)")
	e.at(t, "INSERT INTO acc SELECT seq, 100 FROM seq_1_to_50")
	ctx := t.Context()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range 2 {
		s, err := sc.Source.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer s.Close()
			for k := i; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				for _, q := range []string{"START TRANSACTION", fmt.Sprintf("UPDATE acc SET n = n - 1 WHERE id = %d", k%50+1), fmt.Sprintf("UPDATE acc SET n = n + 1 WHERE id = %d", (k*7)%50+1), "COMMIT"} {
					if err := s.Exec(ctx, q); err != nil {
						s.Exec(ctx, "ROLLBACK")
						break
					}
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	tab := e.table(t, "acc")
	snap, err := e.src.Snapshot(ctx, "s", 3)
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	time.Sleep(100 * time.Millisecond)
	close(stop)
	wg.Wait()
	h := snap.(*snapshot).held
	t.Logf("%d readers at %s", len(h.all), snap.Pos())
	var first string
	for i := range h.all {
		d, err := snap.Digests(ctx, tab, nil, nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(d); first == "" {
			first = got
		} else if got != first {
			t.Errorf("reader %d sees %s, another %s", i, got, first)
		}
	}
	st, err := e.importRange(ctx, snap, tab, engine.State{Stream: "s"}, engine.Selection{}, true)
	if err != nil {
		t.Fatal(err)
	}
	until, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	// Without a gap and without what the snapshot has already: the total would tell.
	e.followBatched(ctx, t, st, []*engine.Table{tab}, snap.Pos(), until, 50)
	sameText(t, "after the hand-off", dump(t, pair.src, e.src.db), dump(t, pair.dst, e.dst.db))
}

// TestCascadeReachesFar deletes a row whose grandchild was written a moment before, while
// nothing was written to the table between them.
func TestCascadeReachesFar(t *testing.T) {
	e, _ := pairOf(t)
	e.both(t, "CREATE TABLE p (id INT PRIMARY KEY)", "CREATE TABLE c (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE)",
		"CREATE TABLE g (id INT PRIMARY KEY, c INT, FOREIGN KEY (c) REFERENCES c (id) ON DELETE CASCADE)",
		"INSERT INTO p VALUES (7)", "INSERT INTO c VALUES (11, 7)")
	ctx := t.Context()
	tabs := []*engine.Table{e.table(t, "p"), e.table(t, "c"), e.table(t, "g")}
	from, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	e.at(t, "INSERT INTO g VALUES (9, 11)", "DELETE FROM p WHERE id = 7")
	until, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	e.followBatched(ctx, t, engine.State{Stream: "s"}, tabs, from, until, 50)
	sameText(t, "after the delete", dump(t, pair.src, e.src.db), dump(t, pair.dst, e.dst.db))
}

// TestCascadesAtRandom follows random changes of tables whose foreign keys act.
func TestCascadesAtRandom(t *testing.T) {
	e, _ := pairOf(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	e.both(t, "CREATE TABLE p (id INT PRIMARY KEY, code VARCHAR(10) NOT NULL UNIQUE, v INT)",
		"CREATE TABLE c (id INT PRIMARY KEY, p INT, v INT, FOREIGN KEY (p) REFERENCES p (id) ON DELETE CASCADE ON UPDATE CASCADE)",
		"CREATE TABLE g (id INT PRIMARY KEY, c INT NOT NULL, FOREIGN KEY (c) REFERENCES c (id) ON DELETE CASCADE)",
		"CREATE TABLE n (id INT PRIMARY KEY, p INT, code VARCHAR(10), FOREIGN KEY (p) REFERENCES p (id) ON DELETE SET NULL ON UPDATE SET NULL, FOREIGN KEY (code) REFERENCES p (code) ON UPDATE CASCADE ON DELETE SET NULL)",
		"CREATE TABLE tree (id INT PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE)",
		"CREATE TABLE keep (id INT PRIMARY KEY, p INT, FOREIGN KEY (p) REFERENCES p (id))")
	ctx := t.Context()
	var tabs []*engine.Table
	for _, n := range []string{"p", "c", "g", "n", "tree", "keep"} {
		tabs = append(tabs, e.table(t, n))
	}
	from, err := e.src.Mark(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	id := func() int { return r.IntN(12) }
	ops := []func() string{
		func() string { return fmt.Sprintf("INSERT INTO p VALUES (%d, 'k%d', %d)", id(), id(), r.IntN(99)) },
		func() string { return fmt.Sprintf("INSERT INTO c VALUES (%d, %d, 0)", id(), id()) },
		func() string { return fmt.Sprintf("INSERT INTO g VALUES (%d, %d)", id(), id()) },
		func() string { return fmt.Sprintf("INSERT INTO n VALUES (%d, %d, 'k%d')", id(), id(), id()) },
		func() string { return fmt.Sprintf("INSERT INTO tree VALUES (%d, %d)", id(), id()) },
		func() string { return fmt.Sprintf("INSERT INTO tree VALUES (%d, NULL)", id()) },
		func() string { return fmt.Sprintf("INSERT INTO keep VALUES (%d, %d)", id(), id()) },
		func() string { return fmt.Sprintf("DELETE FROM p WHERE id = %d", id()) },
		func() string { return fmt.Sprintf("DELETE FROM c WHERE id = %d", id()) },
		func() string { return fmt.Sprintf("DELETE FROM tree WHERE id = %d", id()) },
		func() string { return fmt.Sprintf("DELETE FROM keep WHERE id = %d", id()) },
		func() string { return fmt.Sprintf("UPDATE p SET id = %d WHERE id = %d", id(), id()) },
		func() string { return fmt.Sprintf("UPDATE p SET code = 'k%d' WHERE id = %d", id(), id()) },
		func() string { return fmt.Sprintf("UPDATE p SET v = v + 1 WHERE id = %d", id()) },
		func() string { return fmt.Sprintf("UPDATE c SET p = %d WHERE id = %d", id(), id()) },
		func() string { return fmt.Sprintf("UPDATE g SET c = %d WHERE id = %d", id(), id()) },
		func() string { return fmt.Sprintf("UPDATE keep SET p = %d WHERE id = %d", id(), id()) },
		func() string { return fmt.Sprintf("UPDATE tree SET up = %d WHERE id = %d", id(), id()) },
	}
	st := engine.State{Stream: "s"}
	for round := range 15 {
		done := 0
		for range 60 {
			if e.app.Exec(ctx, ops[r.IntN(len(ops))]()) == nil { // many are refused, as they should be
				done++
			}
		}
		until, err := e.src.Mark(ctx, "s")
		if err != nil {
			t.Fatal(err)
		}
		st = e.followBatched(ctx, t, st, tabs, from, until, 1+r.IntN(40))
		from = until
		sameText(t, fmt.Sprintf("round %d, %d changes", round, done), dump(t, pair.src, e.src.db), dump(t, pair.dst, e.dst.db))
	}
}

// TestFloatText compares how numbers are written with the server.
func TestFloatText(t *testing.T) {
	e, _ := pairOf(t)
	e.at(t, "CREATE TABLE floats (id INT PRIMARY KEY, d DOUBLE)")
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		f := math.Float64frombits(r.Uint64())
		if r.IntN(2) == 0 {
			f = math.Pow(10, float64(r.IntN(60)-30)) * float64(r.IntN(1000000))
		}
		if math.IsNaN(f) || math.IsInf(f, 0) {
			continue
		}
		e.at(t, fmt.Sprintf("REPLACE INTO floats VALUES (1, '%v')", f))
		rows, err := e.app.Query(t.Context(), "SELECT d FROM floats")
		if err != nil {
			t.Fatal(err)
		}
		if got := string(floatText(f)); got != string(rows[0][0]) {
			t.Errorf("%v is %s to us and %s to the server", f, got, rows[0][0])
		}
	}
}

// TestFindings provokes what Check must name.
func TestFindings(t *testing.T) {
	e, sc := pairOf(t)
	ctx := t.Context()
	root, err := pair.src.open("")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, q := range []string{"SET GLOBAL binlog_row_metadata = NO_LOG", "CREATE OR REPLACE USER poor@'127.0.0.1' IDENTIFIED BY 'secret'", "GRANT INSERT ON " + e.src.db + ".* TO poor@'127.0.0.1'"} {
		if _, err := root.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	defer root.Exec("SET GLOBAL binlog_row_metadata = FULL")
	e.at(t, "CREATE TABLE plain (a INT)")
	fs, err := e.src.Check(ctx, []*engine.Table{e.table(t, "plain")})
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%+v", fs)
	for _, want := range []string{"SET GLOBAL binlog_row_metadata = FULL", "ADD PRIMARY KEY"} {
		if !strings.Contains(text, want) {
			t.Errorf("findings lack %q: %s", want, text)
		}
	}
	o := engine.Options{DSN: strings.Replace(sc.Source.Options.DSN, "root@", "poor@", 1), Password: "wrong"}
	if _, err := (Driver{}).Source(ctx, o); err == nil || !strings.Contains(err.Error(), "password") || engine.Temporary(err) || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password gave %v", err)
	}
	o.Password = "secret"
	s, err := Driver{}.Source(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fs, err = s.Check(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", fs); !strings.Contains(text, "GRANT REPLICATION SLAVE ON *.* TO 'poor'@'127.0.0.1'") || !strings.Contains(text, "GRANT SELECT") {
		t.Errorf("findings lack grants: %s", text)
	}
	for _, err := range s.Changes(ctx, "s", nil, "") {
		if err == nil || engine.Temporary(err) || !strings.Contains(err.Error(), "GRANT REPLICATION SLAVE") {
			t.Errorf("the binlog without a grant gave %v", err)
		}
		break
	}
}

// TestLostConnection holds that what may pass is told from what stays.
func TestLostConnection(t *testing.T) {
	_, sc := pairOf(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o := sc.Source.Options
	o.DSN = "root@tcp(127.0.0.1:1)/x"
	if _, err := (Driver{}).Source(ctx, o); !engine.Temporary(err) {
		t.Errorf("a server that is not there gave %v, which is not temporary", err)
	}
}

// TestInstance brings an account and a role over by their definitions.
func TestInstance(t *testing.T) {
	e, _ := pairOf(t)
	ctx := t.Context()
	db := e.src.db
	var ends [2]enginetest.Session
	for i, s := range []*instance{pair.src, pair.dst} {
		c, err := s.connect(ctx, "", "root")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		ends[i] = c
		for _, q := range []string{"DROP USER IF EXISTS `o'dd`@'10.%'", "DROP ROLE IF EXISTS clerks"} {
			if err := c.Exec(ctx, q); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, q := range []string{
		"CREATE ROLE clerks", "GRANT SELECT ON " + db + ".* TO clerks", "CREATE USER `o'dd`@'10.%' IDENTIFIED BY 'secret' REQUIRE SSL WITH MAX_USER_CONNECTIONS 7",
		"GRANT clerks TO `o'dd`@'10.%'", "GRANT INSERT, UPDATE ON " + db + ".* TO `o'dd`@'10.%'", "SET DEFAULT ROLE clerks FOR `o'dd`@'10.%'",
	} {
		if err := ends[0].Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	objects, found, err := e.src.InstanceObjects(ctx)
	if err != nil || len(found) != 0 {
		t.Fatalf("%v, %v", found, err)
	}
	if err := ends[1].Exec(ctx, "CREATE USER `o'dd`@'10.%' IDENTIFIED BY 'other'"); err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if strings.HasPrefix(o.Name.Name, "o'dd") || strings.HasPrefix(o.Name.Name, "clerks") {
			if err := e.dst.MakeInstanceObject(ctx, o, o.Kind == "user"); err != nil {
				t.Fatalf("make %s %s: %v", o.Kind, o.Name, err)
			}
		}
	}
	broken := engine.Object{Kind: "user", Name: engine.Name{Name: "x@%"}, Definition: "CREATE USER x IDENTIFIED BY PASSWORD '*94BDCEBE19083CE2A1F959FD02F964C7AF4CFC29' NONSENSE"}
	if err := e.dst.MakeInstanceObject(ctx, broken, false); err == nil || strings.Contains(err.Error(), "94BDCEBE") || strings.Contains(err.Error(), "NONSENSE") {
		t.Errorf("a statement that fails gave %v", err)
	}
	for _, q := range []string{"SHOW CREATE USER `o'dd`@'10.%'", "SHOW GRANTS FOR `o'dd`@'10.%'", "SHOW GRANTS FOR clerks"} {
		a, err := ends[0].Query(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		b, err := ends[1].Query(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		sameText(t, q, fmt.Sprintf("%q", a), fmt.Sprintf("%q", b))
	}
}
