package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// mariadb runs the cases of MariaDB.
func (b *bench) mariadb(ctx context.Context) (err error) {
	p, err := b.start(ctx, "mariadb", myFlavor{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	if err := p.fillMy(ctx); err != nil {
		return err
	}
	return b.cased(ctx, map[string]func(context.Context) error{"my-empty": p.myEmpty, "my-stale": p.myStale, "my-apply": p.myApply})
}

func (p *pair) myEmpty(ctx context.Context) error {
	if err := shape(ctx, ""); err != nil {
		return err
	}
	rs, err := p.race(ctx, []contender{{name: ours, run: p.leeward}, p.mydumper(), p.mariadbDump()},
		func(ctx context.Context, _ contender) error { return p.anewMy(ctx, "") })
	if err := errors.Join(err, p.removeDump()); err != nil {
		return err
	}
	return p.b.report.add(figures{Case: "my-empty", Title: fmt.Sprintf("empty target, %d rows, unshaped", p.b.rows()), Unit: "rows", Count: p.b.rows(), Results: rs,
		Targets: []target{fasterThan(1, "mydumper + myloader"), memoryAtMost(300e6)}})
}

func (p *pair) myStale(ctx context.Context) error {
	for _, rate := range []string{p.b.shaped, ""} {
		if err := shape(ctx, rate); err != nil {
			return err
		}
		cs := []contender{{name: ours, run: p.leeward}, p.ptTableSync(), {name: oursFull, run: p.leeward}}
		rs, err := p.race(ctx, cs, func(ctx context.Context, c contender) error {
			if c.name == oursFull {
				return p.anewMy(ctx, "")
			}
			return p.anewMy(ctx, staleDB)
		})
		if err != nil {
			return err
		}
		f := figures{Case: "my-stale", Title: p.b.staleTitle(rate), Unit: "rows", Count: p.b.rows(), Results: rs,
			Targets: []target{fasterThan(4, "pt-table-sync"), memoryAtMost(300e6)}}
		if rate != "" {
			f.Case += "-slow"
			f.Targets = append(f.Targets, fasterThan(4, oursFull))
		}
		if err := p.b.report.add(f); err != nil {
			return err
		}
	}
	return nil
}

// myLoad is a procedure of small transactions, as MariaDB has no pgbench.
func myLoad(rows int) []string {
	return []string{"DROP PROCEDURE IF EXISTS work",
		fmt.Sprintf(`CREATE PROCEDURE work (n INT) BEGIN DECLARE i, k INT DEFAULT 0;
	WHILE i < n DO
		SET k = 1 + FLOOR(RAND() * %d), i = i + 1;
		START TRANSACTION;
		UPDATE orders SET amount = amount + 1, updated = NOW(6) WHERE id = k;
		INSERT INTO history (order_id, delta, at) VALUES (k, 1, NOW(6));
		COMMIT;
	END WHILE; END`, rows)}
}

const loadSessions = 4

// myBacklog makes transactions at the source, without waiting for the disk.
func (p *pair) myBacklog(ctx context.Context) error {
	fast := []string{"SET GLOBAL innodb_flush_log_at_trx_commit = 0", "SET GLOBAL sync_binlog = 0"}
	if err := p.at(ctx, p.src, appDB, fast...); err != nil {
		return err
	}
	errs := make([]error, loadSessions)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = p.at(ctx, p.src, appDB, fmt.Sprintf("CALL work(%d)", p.b.transactions/loadSessions))
		})
	}
	wg.Wait()
	durable := []string{"SET GLOBAL innodb_flush_log_at_trx_commit = 1", "SET GLOBAL sync_binlog = 1"}
	return errors.Join(append(errs, p.at(ctx, p.src, appDB, durable...))...)
}

// myApply has one backlog applied by Leeward and by a native replica, which begins at
// the same state of the same database.
func (p *pair) myApply(ctx context.Context) error {
	if err := errors.Join(shape(ctx, ""), p.forget(), p.anewMy(ctx, "")); err != nil {
		return err
	}
	// Nobody follows it: it is there before anything is seeded.
	if err := p.at(ctx, p.src, appDB, unlogged(myLoad(p.b.rows())...)...); err != nil {
		return err
	}
	if _, _, err := p.pass(ctx); err != nil {
		return err
	}
	const keep = "keep"
	if err := p.copyMy(ctx, appDB, keep); err != nil {
		return err
	}
	begin, err := p.query(ctx, p.src, appDB, "SELECT @@gtid_binlog_pos")
	if err == nil {
		err = p.myBacklog(ctx)
	}
	if err != nil {
		return err
	}
	end, err := p.query(ctx, p.src, appDB, "SELECT @@gtid_binlog_pos")
	if err == nil {
		err = p.settled(ctx)
	}
	if err != nil {
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
	rs := []result{{Tool: ours, usage: l}}
	for _, threads := range []int{4, 0} {
		r, err := p.replica(ctx, keep, begin, end, threads)
		if err != nil {
			return fmt.Errorf("%s: %w", r.Tool, err)
		}
		rs = append(rs, r)
	}
	return p.b.report.add(figures{Case: "my-apply", Title: fmt.Sprintf("backlog of %d small transactions, %d rows there, unshaped", p.b.transactions, p.b.rows()),
		Unit: "transactions", Count: p.b.transactions, Results: rs, Targets: []target{memoryAtMost(300e6)}})
}

// copyMy copies a database of the target.
func (p *pair) copyMy(ctx context.Context, from, to string) error {
	qs := []string{"DROP DATABASE IF EXISTS " + to, "CREATE DATABASE " + to}
	for _, t := range tables() {
		qs = append(qs, "CREATE TABLE "+to+"."+t+" LIKE "+from+"."+t, "INSERT INTO "+to+"."+t+" SELECT * FROM "+from+"."+t)
	}
	return p.at(ctx, p.dst, "", unlogged(qs...)...)
}

// replica measures native replication from one position to another; threads is how
// many apply at once.
func (p *pair) replica(ctx context.Context, keep, begin, end string, threads int) (result, error) {
	r := result{Tool: "replica, serial"}
	if threads > 0 {
		r.Tool = fmt.Sprintf("replica, %d threads", threads)
	}
	if err := p.copyMy(ctx, keep, appDB); err != nil {
		return r, err
	}
	setUp := []string{"RESET MASTER", "SET GLOBAL gtid_slave_pos = '" + begin + "'",
		fmt.Sprintf("SET GLOBAL slave_parallel_threads = %d", threads), "SET GLOBAL slave_parallel_mode = 'optimistic'",
		fmt.Sprintf("CHANGE MASTER TO master_host = '%s', master_port = %s, master_user = 'bench', master_use_gtid = slave_pos", sourceHost, myPort)}
	if err := errors.Join(p.at(ctx, p.dst, "", setUp...), p.settled(ctx)); err != nil {
		return r, err
	}
	var err error
	r.usage, err = p.b.meter.measure(func() error {
		got, err := p.query(ctx, p.dst, "", "START SLAVE", "SELECT MASTER_GTID_WAIT('"+end+"', 900)")
		if err == nil && got != "0" {
			err = fmt.Errorf("wait for the replica: it is not at the end after 15 minutes (%s)", got)
		}
		return err
	})
	tearDown := []string{"STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL slave_parallel_threads = 0"}
	if err := errors.Join(err, p.at(ctx, p.dst, "", tearDown...)); err != nil {
		return r, err
	}
	p.b.report.say("%s: %.2f s", r.Tool, r.Seconds)
	return r, p.equal(ctx, r.Tool, appDB)
}
