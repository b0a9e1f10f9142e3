package rowsync

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

func TestDepthsPutParentsFirst(t *testing.T) {
	table := func(n string, refs ...string) pair {
		x := &engine.Table{Name: engine.Name{Name: n}}
		for _, r := range refs {
			x.References = append(x.References, engine.Name{Name: r})
		}
		return pair{x, x}
	}
	d := depths([]pair{table("c", "b", "c"), table("b", "a"), table("a"), table("d", "elsewhere"), table("x", "y"), table("y", "x")})
	for n, want := range map[string]int{"a": 0, "b": 1, "c": 2, "d": 0} {
		if got := d[engine.Name{Name: n}]; got != want {
			t.Errorf("%s is %d deep, want %d", n, got, want)
		}
	}
	if x, y := d[engine.Name{Name: "x"}], d[engine.Name{Name: "y"}]; x+y == 0 || x+y > 3 {
		t.Errorf("a circle is %d and %d deep", x, y)
	}
}

// A job that fails waits for the others, and is told when nothing is left to wait for.
func TestSeedJobsWaitForOthers(t *testing.T) {
	r := &Replicator{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	s := &seeding{r: r, wake: make(chan struct{})}
	stays := errors.New("stays")
	j := job{tries: 2}
	s.open = 2
	for range 2 {
		if err := s.done(t.Context(), j, stays); err != nil || s.open != 2 {
			t.Fatalf("with other work: %v, %d open", err, s.open)
		}
		j = s.jobs[len(s.jobs)-1]
	}
	if err := s.done(t.Context(), j, stays); !errors.Is(err, stays) || s.open != 1 {
		t.Errorf("after its tries: %v, %d open", err, s.open)
	}
	if err := s.done(t.Context(), job{tries: 2}, stays); !errors.Is(err, stays) {
		t.Errorf("without other work: %v", err)
	}
}

func TestNextUnitAimsAtTime(t *testing.T) {
	for _, c := range []struct {
		n    int
		took time.Duration
		want int
	}{{64, unitTime, 64}, {64, unitTime / 10, 128}, {64, unitTime * 2, 32}, {64, time.Hour, 16}, {leastUnit, time.Hour, leastUnit}, {mostUnit, 0, mostUnit}} {
		if got := nextUnit(c.n, c.took); got != c.want {
			t.Errorf("after %d buckets in %v: %d, want %d", c.n, c.took, got, c.want)
		}
	}
}

func TestConduit(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	c := newConduit()
	go func() {
		for part := range slices.Chunk(data, 777) {
			if _, err := c.Write(part); err != nil {
				break
			}
		}
		c.finish(nil)
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes came through, %v", len(got), len(data), err)
	}
	c = newConduit()
	cause := errors.New("cause")
	go c.finish(cause)
	if _, err := io.ReadAll(c); !errors.Is(err, cause) {
		t.Errorf("an export that failed gave %v", err)
	}
	c = newConduit()
	close(c.gone)
	var err error
	for range 100 {
		if _, err = c.Write(data[:chunkSize]); err != nil {
			break
		}
	}
	if !errors.Is(err, errImportEnded) {
		t.Errorf("writing when nobody reads gave %v", err)
	}
}

func TestCompareSchemas(t *testing.T) {
	name := engine.Name{Schema: "s", Name: "t"}
	cols := func(cs ...string) []engine.Column {
		var out []engine.Column
		for _, c := range cs {
			out = append(out, engine.Column{Name: c, Type: "int"})
		}
		return out
	}
	object := func(kind, n, def string) engine.Object {
		return engine.Object{Kind: kind, Name: engine.Name{Name: n}, Definition: def}
	}
	src := &engine.Schema{Tables: []*engine.Table{{Name: name, Columns: cols("a", "b"), Key: []int{0}}},
		Objects: []engine.Object{object("view", "same", "x"), object("view", "other", "x"), object("index", "gone", "make it")}}
	dst := &engine.Schema{Tables: []*engine.Table{{Name: name, Columns: cols("a", "b"), Key: []int{0}}},
		Objects: []engine.Object{object("view", "same", "x"), object("view", "other", "y"), object("view", "extra", "z")}}
	c := compareSchemas(src, dst)
	if len(c.pairs) != 1 || len(c.missing) != 1 || c.missing[0].Definition != "make it" || len(c.findings) != 2 {
		t.Errorf("%+v", c)
	}
	for what, columns := range map[string][]engine.Column{"lacks": cols("a"), "has column": cols("a", "b", "c"), "order": cols("b", "a")} {
		dst.Tables[0].Columns = columns
		c := compareSchemas(src, dst)
		if len(c.misfits) != 1 || len(c.pairs) != 0 {
			t.Errorf("%s: %+v", what, c)
		}
		if blocked("x", c.findings) == nil {
			t.Errorf("%s: nothing stands in the way", what)
		}
	}
}

func TestStreamNames(t *testing.T) {
	seen := map[string]string{}
	for _, n := range []string{"erp", "ERP", "e-rp", "e_rp", "a_very_long_name_of_a_database_1", "a_very_long_name_of_a_database_2"} {
		s := streamName(n)
		if other, dup := seen[s]; dup || len(s) > 40 {
			t.Errorf("%s and %s are both called %s", n, other, s)
		}
		seen[s] = n
	}
}

// Two processes, or two replicators of one, never work on one stream.
func TestOneReplicatorAtATime(t *testing.T) {
	dir := t.TempDir()
	a, err := New(Config{Name: "x", Spool: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Name: "x", Spool: dir}); !errors.Is(err, ErrBusy) {
		t.Errorf("a second one: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := New(Config{Name: "x", Spool: dir})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestNotesSurvive(t *testing.T) {
	dir := t.TempDir()
	n, err := loadNotes(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.stop([]engine.Name{{Schema: "s", Name: "t"}}, "cause", "remedy"); err != nil {
		t.Fatal(err)
	}
	if n, err = loadNotes(dir); err != nil || n.stopped()["s.t"].Remedy != "remedy" {
		t.Errorf("read again: %+v, %v", n, err)
	}
	if err := n.change(func(d *notesData) { d.Version = 99 }); err != nil {
		t.Fatal(err)
	}
	if _, err := loadNotes(dir); err == nil {
		t.Error("notes of a later version were read")
	}
}
