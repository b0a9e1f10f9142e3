package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// postgres runs the cases of PostgreSQL.
func (b *bench) postgres(ctx context.Context) (err error) {
	f, err := newPG()
	if err != nil {
		return err
	}
	p, err := b.start(ctx, "postgres", f)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.fillPG(ctx); err != nil {
		return err
	}
	return b.cased(ctx, map[string]func(context.Context) error{
		"pg-empty": p.pgEmpty, "pg-stale": p.pgStale, "pg-apply": p.pgApply, "pg-lag": p.pgLag,
	})
}

// Names of what Leeward does, beside those of the tools.
const (
	ours     = "leeward"
	oursFull = "leeward, empty target"
)

func (p *pair) pgEmpty(ctx context.Context) error {
	rs, err := p.race(ctx, []contender{{name: ours, run: p.leeward}, p.pgDump(), p.pgcopydb(), p.subscription()},
		func(ctx context.Context, _ contender) error { return p.anewPG(ctx, "") })
	if err != nil {
		return err
	}
	return p.b.report.add(figures{Case: "pg-empty", Title: fmt.Sprintf("empty target, %d rows, unshaped", p.b.rows()), Unit: "rows", Count: p.b.rows(), Results: rs,
		Targets: []target{rateAtLeast(0.8, "pg_dump | pg_restore"), memoryAtMost(300e6)}})
}

// pgStale compares bringing a stale clone up to date with copying all of it.
func (p *pair) pgStale(ctx context.Context) error {
	for _, rate := range []string{p.b.shaped, ""} {
		if err := shape(ctx, rate); err != nil {
			return err
		}
		rs, err := p.race(ctx, []contender{{name: ours, run: p.leeward}, {name: oursFull, run: p.leeward}, p.pgDump()},
			func(ctx context.Context, c contender) error {
				if c.name == ours {
					return p.anewPG(ctx, staleDB)
				}
				return p.anewPG(ctx, "")
			})
		if err != nil {
			return err
		}
		f := figures{Case: "pg-stale", Title: p.b.staleTitle(rate), Unit: "rows", Count: p.b.rows(), Results: rs, Targets: []target{memoryAtMost(300e6)}}
		if rate != "" {
			f.Case += "-slow"
			f.Targets = append(f.Targets, fasterThan(4, oursFull), fasterThan(4, "pg_dump | pg_restore"))
		}
		if err := p.b.report.add(f); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) staleTitle(rate string) string {
	if rate == "" {
		rate = "unshaped"
	}
	return fmt.Sprintf("stale clone, 10 %% of %d rows differing in clusters and 0.1 %% elsewhere, %s", b.rows(), rate)
}

// pgScript is one small transaction, for pgbench.
const pgScript = `\set id random(1, :rows)
BEGIN;
UPDATE orders SET amount = amount + 1, updated = now() WHERE id = :id;
INSERT INTO history (order_id, delta, at) VALUES (:id, 1, clock_timestamp());
COMMIT;
`

// pgbench makes transactions at the source and returns how many there were a second.
// The sessions do not wait for the disk: the source is not what is measured.
func (p *pair) pgbench(ctx context.Context, args ...string) (float64, error) {
	file := filepath.Join(p.b.dir, "load.sql")
	if err := os.WriteFile(file, []byte(pgScript), 0o644); err != nil {
		return 0, fmt.Errorf("write load: %w", err)
	}
	argv := atSource(append([]string{"env", "PGOPTIONS=-c synchronous_commit=off", "pgbench", "-n", "-f", file, "-c", "4", "-j", "2",
		"-D", fmt.Sprintf("rows=%d", p.b.rows()), "-h", "127.0.0.1", "-p", pgPort, "-U", "postgres"}, append(args, appDB)...)...)
	out, err := command(ctx, argv...)
	if err != nil {
		return 0, err
	}
	return transactionsPerSecond(out)
}

// transactionsPerSecond reads what pgbench prints at its end.
func transactionsPerSecond(out string) (float64, error) {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(line, "tps = "); ok {
			f, err := strconv.ParseFloat(strings.Fields(v)[0], 64)
			if err != nil {
				return 0, fmt.Errorf("read what pgbench says: %w", err)
			}
			return f, nil
		}
	}
	return 0, errors.New("read what pgbench says: it tells no rate")
}

// pgApply has a backlog of small transactions applied by Leeward and, the same one,
// by a native subscription.
func (p *pair) pgApply(ctx context.Context) error {
	if err := errors.Join(shape(ctx, ""), p.forget(), p.anewPG(ctx, ""), p.at(ctx, p.dst, "", "DROP DATABASE IF EXISTS "+nativeDB, "CREATE DATABASE "+nativeDB)); err != nil {
		return err
	}
	if _, _, err := p.pass(ctx); err != nil {
		return err
	}
	if err := p.subscribe(ctx, nativeDB); err != nil {
		return err
	}
	if err := p.at(ctx, p.dst, nativeDB, "ALTER SUBSCRIPTION native DISABLE"); err != nil {
		return err
	}
	rate, err := p.pgbench(ctx, "-t", fmt.Sprint(p.b.transactions/4))
	if err != nil {
		return err
	}
	p.b.report.say("PostgreSQL: made %d transactions at %.0f a second", p.b.transactions, rate)
	// Neither may find pages in memory that the other had to read.
	for _, db := range []string{appDB, nativeDB} {
		if err := p.at(ctx, p.dst, db, "SELECT count(*), sum(length(t::text)) FROM orders t"); err != nil {
			return err
		}
	}
	if err := p.settled(ctx); err != nil {
		return err
	}
	l, done, err := p.pass(ctx)
	if err == nil {
		p.b.report.say("leeward: applied %d transactions, %d changes", done.Commits, done.Changes)
		err = p.equal(ctx, ours, appDB)
	}
	if err != nil {
		return err
	}
	n, err := p.drainNative(ctx)
	if err != nil {
		return err
	}
	return p.b.report.add(figures{Case: "pg-apply", Title: fmt.Sprintf("backlog of %d small transactions, %d rows there, unshaped", p.b.transactions, p.b.rows()),
		Unit: "transactions", Count: p.b.transactions, Results: []result{{Tool: ours, usage: l}, {Tool: "subscription", usage: n}},
		Targets: []target{rateAtLeast(1, "subscription"), memoryAtMost(300e6)}})
}

// drainNative measures how long the native subscription takes for its backlog.
func (p *pair) drainNative(ctx context.Context) (usage, error) {
	last, err := p.query(ctx, p.src, appDB, "SELECT count(*) FROM history")
	if err == nil {
		err = p.settled(ctx)
	}
	if err != nil {
		return usage{}, err
	}
	u, err := p.b.meter.measure(func() error {
		if err := p.at(ctx, p.dst, nativeDB, "ALTER SUBSCRIPTION native ENABLE"); err != nil {
			return err
		}
		return p.until(ctx, p.dst, nativeDB, "SELECT count(*) FROM history", last)
	})
	if err != nil {
		return u, err
	}
	return u, errors.Join(p.equal(ctx, "subscription", nativeDB), p.unsubscribe(ctx, nativeDB), p.at(ctx, p.dst, "", "DROP DATABASE "+nativeDB))
}

// pgLag measures how far behind Leeward and a native subscription are under load.
func (p *pair) pgLag(ctx context.Context) error {
	var rs []result
	l, err := p.lagOurs(ctx)
	if err != nil {
		return fmt.Errorf("leeward: %w", err)
	}
	if err := p.anewPG(ctx, ""); err != nil {
		return err
	}
	if err := p.subscribe(ctx, appDB); err != nil {
		return err
	}
	n, err := p.lagged(ctx, "subscription")
	if err := errors.Join(err, p.unsubscribe(ctx, appDB)); err != nil {
		return fmt.Errorf("subscription: %w", err)
	}
	rs = append(rs, l, n)
	return p.b.report.add(figures{Case: "pg-lag", Title: fmt.Sprintf("lag at %d transactions a second for %v, %d rows there, unshaped", lagRate, p.b.lagFor, p.b.rows()),
		Unit: "transactions", Results: rs, Targets: []target{lagAtMost(2 * time.Second), loadReached(lagRate), memoryAtMost(300e6)}})
}

func (p *pair) lagOurs(ctx context.Context) (r result, err error) {
	if err := errors.Join(shape(ctx, ""), p.forget(), p.anewPG(ctx, "")); err != nil {
		return r, err
	}
	if _, _, err := p.pass(ctx); err != nil {
		return r, err
	}
	stop, err := p.following(ctx)
	if err != nil {
		return r, err
	}
	r, err = p.lagged(ctx, ours)
	done, errStop := stop()
	r.RSS = max(r.RSS, done.RSS)
	return r, errors.Join(err, errStop)
}
