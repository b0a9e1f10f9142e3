package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// maxPiece bounds what a piece may hold: it is to be about a megabyte.
const maxPiece = 8 << 20

// checkLarge sends one transaction that must come, and be applied, in pieces.
func checkLarge(ctx context.Context, f Factory) error {
	ddl := []string{"CREATE TABLE digits (n INT NOT NULL PRIMARY KEY)", "CREATE TABLE big (id INT NOT NULL PRIMARY KEY, v VARCHAR(400))"}
	return f.with(ctx, ddl, func(e *env) error {
		if err := e.at(ctx, "INSERT INTO digits VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)"); err != nil {
			return err
		}
		st, err := e.start(ctx, "big")
		if err != nil {
			return err
		}
		pad := strings.Repeat("0123456789", 30)
		if err := e.transaction(ctx,
			"INSERT INTO big (id, v) SELECT a.n + 10*b.n + 100*c.n + 1000*d.n + 10000*e.n, '"+pad+"' FROM digits a CROSS JOIN digits b CROSS JOIN digits c CROSS JOIN digits d CROSS JOIN digits e WHERE e.n < 4",
			"UPDATE big SET v = 'short' WHERE id < 1000", "DELETE FROM big WHERE id >= 39000"); err != nil {
			return err
		}
		fo, err := e.follower(ctx, st, "big")
		if err != nil {
			return err
		}
		if _, err := fo.catchUp(ctx, "big"); err != nil {
			return err
		}
		if fo.pieces < 4 || fo.largest > maxPiece {
			return fmt.Errorf("a transaction of 12 MB came in %d pieces of up to %d bytes", fo.pieces, fo.largest)
		}
		return e.same(ctx, "big")
	})
}

const createAccounts = "CREATE TABLE accounts (id INT NOT NULL PRIMARY KEY, owner VARCHAR(30), balance INT NOT NULL)"

const (
	accounts = 200
	total    = accounts * 1000
)

func openAccounts(ctx context.Context, s Session) error {
	var vs []string
	for i := range accounts {
		vs = append(vs, fmt.Sprintf("(%d, 'owner %d', 1000)", i, i))
	}
	return execAll(ctx, s, "INSERT INTO accounts VALUES "+strings.Join(vs, ", "))
}

// crowd is concurrent writers at the source.
type crowd struct {
	wg   sync.WaitGroup
	stop context.CancelFunc
	mu   sync.Mutex
	errs []error
	done int
}

// writers starts n sessions that each repeat work until end is called. A deadlock or
// a lost race for a key is a rollback, not a failure.
func (e *env) writers(ctx context.Context, n int, work func(r *rand.Rand) []string) *crowd {
	ctx, cancel := context.WithCancel(ctx)
	c := &crowd{stop: cancel}
	for i := range n {
		c.wg.Go(func() {
			if err := e.writer(ctx, c, rand.New(rand.NewPCG(uint64(i), 7)), work); err != nil {
				c.mu.Lock()
				c.errs = append(c.errs, err)
				c.mu.Unlock()
			}
		})
	}
	return c
}

func (e *env) writer(ctx context.Context, c *crowd, r *rand.Rand, work func(r *rand.Rand) []string) error {
	s, err := e.scratch.Source.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect a writer: %w", err)
	}
	defer s.Close()
	failures := 0
	for ctx.Err() == nil {
		// The statements themselves are not cut: the last transaction ends whole.
		err := inTransaction(context.WithoutCancel(ctx), s, e.f.Dialect, work(r)...)
		if err != nil {
			if failures++; failures > 2000 {
				return fmt.Errorf("a writer fails again and again: %w", err)
			}
			continue
		}
		c.mu.Lock()
		c.done++
		c.mu.Unlock()
		time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
	}
	return nil
}

// end stops the writers and waits for them.
func (c *crowd) end() error {
	c.stop()
	c.wg.Wait()
	if c.done == 0 {
		c.errs = append(c.errs, errors.New("no writer has committed anything"))
	}
	return errors.Join(c.errs...)
}

// transfer moves money, touching rows in the order of keys so that writers seldom
// deadlock; some transactions also close one account and open another.
func transfer(r *rand.Rand) []string {
	a, b := r.IntN(accounts), r.IntN(accounts)
	n := r.IntN(50)
	if a > b {
		a, b, n = b, a, -n
	}
	return []string{
		fmt.Sprintf("UPDATE accounts SET balance = balance - %d WHERE id = %d", n, a),
		fmt.Sprintf("UPDATE accounts SET balance = balance + %d WHERE id = %d", n, b),
	}
}

// mixed inserts, changes and deletes rows of few keys, so that each is hit often; in
// the order of keys, too.
func mixed(r *rand.Rand) []string {
	var out []string
	ids := make([]int, 1+r.IntN(4))
	for i := range ids {
		ids[i] = r.IntN(300)
	}
	slices.Sort(ids)
	for _, id := range ids {
		switch r.IntN(4) {
		case 0:
			out = append(out, fmt.Sprintf("DELETE FROM pairs WHERE id = %d", id))
		case 1:
			out = append(out, fmt.Sprintf("DELETE FROM pairs WHERE id = %d", id), fmt.Sprintf("INSERT INTO pairs VALUES (%d, 'n%d', NULL)", id, r.IntN(1000)))
		default:
			out = append(out, fmt.Sprintf("UPDATE pairs SET b = 'u%d' WHERE id = %d", r.IntN(1000), id))
		}
	}
	return out
}

// checkHandOff takes a snapshot while writers write, copies it, and follows from the
// snapshot's own position: a gap shows as a difference in the end.
func checkHandOff(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs, createAccounts}, func(e *env) error {
		if err := openAccounts(ctx, e.app); err != nil {
			return err
		}
		c := e.writers(ctx, 3, func(r *rand.Rand) []string { return append(mixed(r), transfer(r)...) })
		st, err := e.copyUnderLoad(ctx)
		if err != nil {
			return errors.Join(err, c.end())
		}
		time.Sleep(500 * time.Millisecond)
		if err := c.end(); err != nil {
			return err
		}
		if _, err = e.follow(ctx, st, "pairs", "accounts"); err != nil {
			return err
		}
		return e.same(ctx, "pairs", "accounts")
	})
}

// copyUnderLoad prepares, copies both tables from a snapshot and returns the state
// that the target is to be followed from.
func (e *env) copyUnderLoad(ctx context.Context) (st engine.State, err error) {
	time.Sleep(300 * time.Millisecond)
	if st, err = e.start(ctx, "pairs", "accounts"); err != nil {
		return st, err
	}
	time.Sleep(300 * time.Millisecond)
	snap, err := e.src.Snapshot(ctx, stream, 2)
	if err != nil {
		return st, fmt.Errorf("take a snapshot: %w", err)
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	for _, n := range []string{"pairs", "accounts"} {
		time.Sleep(200 * time.Millisecond)
		if st, err = e.copyTable(ctx, snap, n, st); err != nil {
			return st, err
		}
	}
	if snap.Exact() {
		if err := e.checkTotal(ctx); err != nil {
			return st, fmt.Errorf("the copy of an exact snapshot: %w", err)
		}
	}
	to := st
	to.Pos = snap.Pos()
	ts, err := e.tablesAt(ctx, "pairs", "accounts")
	if err != nil {
		return st, err
	}
	return e.commit(ctx, st, to, ts, nil)
}

func (e *env) checkTotal(ctx context.Context) error {
	return totalOf(ctx, e.witness)
}

func totalOf(ctx context.Context, s Session) error {
	rows, err := s.Query(ctx, "SELECT SUM(balance) FROM accounts")
	if err != nil {
		return err
	}
	if want := []string{fmt.Sprintf("%q", fmt.Sprint(total))}; len(rows) != 1 || text(rows[0]) != want[0] {
		return fmt.Errorf("the balances come to %v, not %s", rows, want[0])
	}
	return nil
}

// checkBank holds that every state which the target shows is one of the source.
func checkBank(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createAccounts}, func(e *env) error {
		for _, s := range []Session{e.app, e.witness} {
			if err := openAccounts(ctx, s); err != nil {
				return err
			}
		}
		st, err := e.start(ctx, "accounts")
		if err != nil {
			return err
		}
		looked, look := make(chan error, 1), 0
		watch, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			var err error
			for ; watch.Err() == nil && err == nil; look++ {
				err = totalOf(ctx, e.witness)
			}
			looked <- err
		}()
		c := e.writers(ctx, 3, transfer)
		for range 6 {
			time.Sleep(200 * time.Millisecond)
			if st, err = e.follow(ctx, st, "accounts"); err != nil {
				break
			}
		}
		err = errors.Join(err, c.end())
		if err == nil {
			_, err = e.follow(ctx, st, "accounts")
		}
		stop()
		if err := errors.Join(err, <-looked); err != nil {
			return err
		}
		if look < 5 {
			return fmt.Errorf("the target was looked at %d times only", look)
		}
		return e.same(ctx, "accounts")
	})
}

// checkReopen cuts the stream again and again, also within transactions, closes both
// ends and goes on from what the target remembers.
func checkReopen(ctx context.Context, f Factory) error {
	return f.with(ctx, []string{createPairs, createAccounts}, func(e *env) error {
		for _, s := range []Session{e.app, e.witness} {
			if err := openAccounts(ctx, s); err != nil {
				return err
			}
		}
		if _, err := e.start(ctx, "pairs", "accounts"); err != nil {
			return err
		}
		c := e.writers(ctx, 2, func(r *rand.Rand) []string { return append(mixed(r), transfer(r)...) })
		for i := range 8 {
			if err := e.cutShort(ctx, 1+i*3); err != nil {
				return errors.Join(fmt.Errorf("cut %d: %w", i, err), c.end())
			}
		}
		if err := c.end(); err != nil {
			return err
		}
		st, err := e.dst.State(ctx, stream)
		if err != nil {
			return err
		}
		if _, err := e.follow(ctx, st, "pairs", "accounts"); err != nil {
			return err
		}
		return e.same(ctx, "pairs", "accounts")
	})
}

// cutShort follows for some pieces, leaves the last transaction open, and drops all.
func (e *env) cutShort(ctx context.Context, pieces int) error {
	st, err := e.dst.State(ctx, stream)
	if err != nil {
		return err
	}
	fo, err := e.follower(ctx, st, "pairs", "accounts")
	if err != nil {
		return err
	}
	ts, err := e.tables(ctx, "pairs", "accounts")
	if err != nil {
		return err
	}
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	for p, err := range e.src.Changes(reading, stream, ts, st.Pos) {
		if err != nil {
			return err
		}
		if pieces--; pieces < 0 {
			p.End = nil // the rest of it never comes
		}
		if p.Heartbeat != nil && pieces < 0 {
			break
		}
		if err := fo.piece(ctx, p); err != nil {
			return err
		}
		if pieces < 0 {
			break
		}
	}
	cancel()
	if fo.apply != nil {
		err = fo.apply.Rollback()
	}
	if err := errors.Join(err, e.closeEnds()); err != nil {
		return err
	}
	return e.open(ctx)
}

// checkShape takes a table of the driver's own every way.
func checkShape(ctx context.Context, f Factory, s Shape) error {
	if s.Select == "" {
		s.Select = "SELECT * FROM " + s.Table
	}
	return f.with(ctx, s.Create, func(e *env) error {
		src, _, err := e.table(ctx, s.Table)
		if err != nil {
			return err
		}
		if (src.Refused != "") != s.Refused {
			return fmt.Errorf("refused is %q, want %v", src.Refused, s.Refused)
		}
		if s.Refused {
			return nil
		}
		if err := e.at(ctx, s.Fill...); err != nil {
			return err
		}
		st, err := e.start(ctx, s.Table)
		if err != nil {
			return err
		}
		if st, err = e.copyTable(ctx, e.src, s.Table, st); err != nil {
			return err
		}
		if err := e.sameSelect(ctx, s.Table, s.Select); err != nil {
			return fmt.Errorf("after a copy: %w", err)
		}
		if err := e.at(ctx, s.Change...); err != nil {
			return err
		}
		if st, err = e.follow(ctx, st, s.Table); err != nil {
			return err
		}
		if err := e.sameSelect(ctx, s.Table, s.Select); err != nil {
			return fmt.Errorf("after following: %w", err)
		}
		return e.reimport(ctx, st, s)
	})
}

// reimport writes every row again over itself, by key.
func (e *env) reimport(ctx context.Context, st engine.State, s Shape) error {
	src, dst, err := e.table(ctx, s.Table)
	if err != nil || src.Key == nil {
		return err
	}
	var keys []engine.Row
	for k, err := range e.src.Keys(ctx, src, []engine.Range{{}}) {
		if err != nil {
			return fmt.Errorf("list keys: %w", err)
		}
		keys = append(keys, slices.Clone(k.Key))
	}
	_, err = e.commit(ctx, st, st, []*engine.Table{dst}, func(a engine.Apply) error {
		_, err := pump(ctx, e.src, a, src, dst, engine.Selection{Keys: keys}, false)
		return err
	})
	if err != nil {
		return fmt.Errorf("by key: %w", err)
	}
	if err := e.sameSelect(ctx, s.Table, s.Select); err != nil {
		return fmt.Errorf("after an import by key: %w", err)
	}
	return nil
}
