package mariadb

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/enginetest"
)

// ends is a pair of databases opened for a test.
type ends struct {
	src          *Source
	dst          *Target
	app, witness enginetest.Session
}

func openEnds(t *testing.T, sc enginetest.Scratch) *ends {
	t.Helper()
	ctx := t.Context()
	a, err := Driver{}.Source(ctx, sc.Source.Options)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Driver{}.Target(ctx, sc.Target.Options)
	if err != nil {
		t.Fatal(err)
	}
	e := &ends{src: a.(*Source), dst: b.(*Target)}
	if e.app, err = sc.Source.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	if e.witness, err = sc.Target.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range []io.Closer{e.src, e.dst, e.app, e.witness} {
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
	})
	return e
}

// pairOf makes a pair of databases that is gone after the test.
func pairOf(t *testing.T) (*ends, enginetest.Scratch) {
	t.Helper()
	src, dst := both(t)
	sc, err := scratch(t.Context(), src, dst)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sc.Close(); err != nil {
			t.Errorf("drop databases: %v", err)
		}
	})
	return openEnds(t, sc), sc
}

func (e *ends) at(t *testing.T, qs ...string) {
	t.Helper()
	for _, q := range qs {
		if err := e.app.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func (e *ends) both(t *testing.T, qs ...string) {
	t.Helper()
	e.at(t, qs...)
	for _, q := range qs {
		if err := e.witness.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

func (e *ends) table(t *testing.T, name string) *engine.Table {
	t.Helper()
	s, err := e.src.Schema(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tab := range s.Tables {
		if tab.Name.Name == name {
			return tab
		}
	}
	t.Fatalf("no table %s", name)
	return nil
}

// importRange brings a selection over in a transaction.
func (e *ends) importRange(ctx context.Context, from engine.Reader, tab *engine.Table, st engine.State, s engine.Selection, empty bool) (engine.State, error) {
	a, err := e.dst.Begin(ctx, st, []*engine.Table{tab})
	if err != nil {
		return st, err
	}
	r, w := io.Pipe()
	go func() {
		_, err := from.Export(ctx, tab, s, w)
		w.CloseWithError(err)
	}()
	if _, err := a.Import(ctx, tab, s, r, empty); err != nil {
		r.CloseWithError(err)
		return st, errors.Join(err, a.Rollback())
	}
	return a.Commit(ctx, engine.State{Stream: st.Stream, Phase: engine.Seeding})
}

func hashOf(s string) [32]byte { return sha256.Sum256([]byte(s)) }
