package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

const accountsDDL = `CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE history (tid bigserial PRIMARY KEY, aid int, delta int, mtime timestamp, filler char(22));`

// BenchmarkFollow applies a backlog of small transactions of two row changes each,
// grouped as a replicator groups them, and has a native subscription apply the same.
func BenchmarkFollow(b *testing.B) {
	const transactions = 60000
	for range b.N {
		e := open2(b, accountsDDL)
		load := "INSERT INTO accounts SELECT g, 1, 0, '' FROM generate_series(1, 100000) g"
		psql(b, e.src, load)
		psql(b, e.dst, load)
		psql(b, e.src, "CREATE PUBLICATION native FOR TABLE accounts, history; SELECT pg_create_logical_replication_slot('native_"+e.name+"', 'pgoutput')")
		native := e.name + "_native"
		psql(b, servers.dst.dsn("postgres"), "CREATE DATABASE "+native)
		psql(b, servers.dst.dsn(native), accountsDDL+load)
		tables := e.tables()
		pos, _, err := e.s.Prepare(b.Context(), "s", tables)
		if err != nil {
			b.Fatal(err)
		}
		record(b, e.d, tables, pos)
		psql(b, e.src, fmt.Sprintf(`SET synchronous_commit = off; DO $$ BEGIN FOR i IN 1..%d LOOP
			UPDATE accounts SET abalance = abalance + i WHERE aid = 1 + (i * 7919) %% 100000;
			INSERT INTO history (aid, delta, mtime) VALUES (i, i, now()); COMMIT; END LOOP; END $$`, transactions))
		start := time.Now()
		b.ResetTimer()
		if err := e.follow(tables); err != nil {
			b.Fatal(err)
		}
		ours := time.Since(start)
		b.StopTimer()
		start = time.Now()
		psql(b, servers.dst.dsn(native), fmt.Sprintf("CREATE SUBSCRIPTION n CONNECTION '%s' PUBLICATION native WITH (create_slot = false, slot_name = 'native_%s', copy_data = false)", e.src, e.name))
		for psql(b, servers.dst.dsn(native), "SELECT count(*) FROM history") != fmt.Sprint(transactions) {
			time.Sleep(50 * time.Millisecond)
		}
		theirs := time.Since(start)
		psql(b, servers.dst.dsn(native), "ALTER SUBSCRIPTION n DISABLE; ALTER SUBSCRIPTION n SET (slot_name = NONE); DROP SUBSCRIPTION n")
		for psqlErr(e.src, "SELECT pg_drop_replication_slot('native_"+e.name+"')") != nil {
			time.Sleep(100 * time.Millisecond)
		}
		psql(b, servers.dst.dsn("postgres"), "DROP DATABASE "+native+" WITH (FORCE)")
		e.t = b
		e.equal()
		b.ReportMetric(transactions/ours.Seconds(), "tx/s")
		b.ReportMetric(transactions/theirs.Seconds(), "native-tx/s")
	}
}

func record(b testing.TB, d engine.Target, tables []*engine.Table, pos engine.Pos) {
	a, err := d.Begin(b.Context(), engine.State{Stream: "s"}, tables)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := a.Commit(b.Context(), engine.State{Phase: engine.Following, Pos: pos}); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDigests compares a table whole, in buckets of 256 rows.
func BenchmarkDigests(b *testing.B) {
	const rows = 500000
	e := open2(b, "CREATE TABLE orders (id bigint PRIMARY KEY, customer int, at timestamptz, price numeric(12,2), state text, note text)")
	psql(b, e.src, fmt.Sprintf("INSERT INTO orders SELECT g, g %% 1000, now(), g / 7.0, 'open', repeat(md5(g::text), 3) FROM generate_series(1, %d) g", rows))
	psql(b, e.src, "VACUUM ANALYZE orders")
	t := e.tables()[0]
	b.ResetTimer()
	for range b.N {
		n, err := digestAll(b.Context(), e.s, t)
		if err != nil || n != rows {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
}

func digestAll(ctx context.Context, r engine.Reader, t *engine.Table) (int64, error) {
	var n int64
	var from engine.Row
	for {
		bounds, end, err := r.Bounds(ctx, t, from, 256, 400)
		if err != nil {
			return n, err
		}
		ds, err := r.Digests(ctx, t, from, bounds, end)
		if err != nil {
			return n, err
		}
		for _, d := range ds {
			n += d.Rows
		}
		if end {
			return n, nil
		}
		from = bounds[len(bounds)-1]
	}
}
