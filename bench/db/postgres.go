package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const pgPort = "5455"

//go:embed postgresql.conf
var pgConf []byte

// pgFlavor is PostgreSQL.
type pgFlavor struct{ bin string }

// newPG finds the newest PostgreSQL there is.
func newPG() (pgFlavor, error) {
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(dirs) == 0 {
		return pgFlavor{}, errors.Join(errors.New("find PostgreSQL: there is none in /usr/lib/postgresql; run scripts/setup bench"), err)
	}
	slices.Sort(dirs)
	f := pgFlavor{bin: dirs[len(dirs)-1]}
	// pgcopydb looks for pg_dump there.
	return f, os.Setenv("PATH", f.bin+":"+os.Getenv("PATH"))
}

func (f pgFlavor) commands(s *server) (string, [][]string, []string) {
	data := filepath.Join(s.dir, "data")
	conf, hba := filepath.Join(data, "postgresql.conf"), filepath.Join(data, "pg_hba.conf")
	return "postgres", [][]string{
		{f.bin + "/initdb", "-D", data, "-U", "postgres", "-A", "trust", "--locale=C.UTF-8", "-E", "UTF8"},
		{"sh", "-c", `printf '%s' "$1" >"$2" && printf 'host all all all trust\nhost replication all all trust\n' >"$3"`, "sh", string(pgConf), conf, hba},
	}, []string{f.bin + "/postgres", "-D", data, "-p", pgPort}
}

func (pgFlavor) dsn(s *server, db string) string {
	if db == "" {
		db = "postgres"
	}
	return fmt.Sprintf("postgres://postgres@%s:%s/%s?sslmode=disable", s.host(), pgPort, db)
}

func (f pgFlavor) query(ctx context.Context, s *server, db string, qs ...string) (string, error) {
	c, err := pgconn.Connect(ctx, f.dsn(s, db))
	if err != nil {
		return "", fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	last := ""
	for _, q := range qs {
		if last, err = pgValue(ctx, c, q); err != nil {
			return "", err
		}
	}
	return last, nil
}

// pgValue runs one statement and returns its first field.
func pgValue(ctx context.Context, c *pgconn.PgConn, q string) (string, error) {
	rs, err := c.Exec(ctx, q).ReadAll()
	if err != nil {
		return "", fmt.Errorf("%.100s: %w", q, err)
	}
	for _, r := range rs {
		if len(r.Rows) > 0 {
			return string(r.Rows[0][0]), nil
		}
	}
	return "", nil
}

func (pgFlavor) digest(table string) string {
	return "SELECT count(*) || ' ' || coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric), 0) FROM " + table + " t"
}

func (pgFlavor) settle() []string { return []string{"CHECKPOINT"} }

const pgTables = `CREATE TABLE orders (id bigint PRIMARY KEY, cust int NOT NULL, ref varchar(40) NOT NULL, status varchar(12) NOT NULL,
	amount numeric(12,2) NOT NULL, note varchar(200), created timestamptz NOT NULL, updated timestamptz);
CREATE INDEX orders_cust ON orders (cust);
CREATE TABLE history (id bigserial PRIMARY KEY, order_id bigint NOT NULL, delta int NOT NULL, at timestamptz NOT NULL);
CREATE TABLE beat (id bigint PRIMARY KEY);`

// pgRows makes the rows from..to of orders, always the same.
func pgRows(from, to int) string {
	return fmt.Sprintf(`INSERT INTO orders SELECT g, g * 7 %% 100000, md5(g::text), (ARRAY['new','paid','sent','done'])[g %% 4 + 1], g %% 10000 / 7.0,
	'note for order ' || md5((g * 3)::text) || ' ' || md5((g * 5)::text), '2026-01-01Z'::timestamptz + g * interval '1 second',
	CASE WHEN g %% 3 > 0 THEN '2026-02-01Z'::timestamptz + g * interval '1 second' END FROM generate_series(%d, %d) g`, from, to)
}

// fill makes the source's database, and its stale clone at the target.
func (p *pair) fillPG(ctx context.Context) error {
	n := p.b.rows()
	begun := time.Now()
	full := []string{pgTables, pgRows(1, n), "VACUUM (FREEZE, ANALYZE)"}
	if err := p.at(ctx, p.src, "", "CREATE DATABASE "+appDB); err != nil {
		return err
	}
	if err := p.at(ctx, p.src, appDB, full...); err != nil {
		return err
	}
	size, err := p.query(ctx, p.src, appDB, "SELECT pg_relation_size('orders') / count(*) FROM orders")
	if err != nil {
		return err
	}
	p.b.report.say("PostgreSQL: made %d rows of %s bytes in %.0f s", n, size, time.Since(begun).Seconds())
	if !slices.Contains(p.b.cases, "pg-stale") {
		return nil
	}
	if err := p.at(ctx, p.dst, "", "CREATE DATABASE "+staleDB); err != nil {
		return err
	}
	return p.at(ctx, p.dst, staleDB, slices.Concat(full[:2], staleness(n), full[2:])...)
}

// staleness makes of a copy one in which a tenth of the rows differ, in clusters of
// 5,000, and one in a thousand elsewhere. Of a cluster the last 500 are missing; a
// few rows more are there that the source has no longer. Both engines take it.
func staleness(n int) []string {
	return []string{
		fmt.Sprintf("UPDATE orders SET status = 'old', amount = amount + 1, updated = NULL WHERE (id - 1) %% %d < 4500", cluster),
		fmt.Sprintf("DELETE FROM orders WHERE (id - 1) %% %d BETWEEN 4500 AND 4999", cluster),
		"UPDATE orders SET status = 'odd' WHERE id % 1000 = 777",
		fmt.Sprintf("INSERT INTO orders SELECT id + %d, cust, ref, status, amount, note, created, updated FROM orders WHERE id <= %d", n, n/5000),
	}
}

// anew makes the target's databases empty, or the one of Leeward a copy of another.
func (p *pair) anewPG(ctx context.Context, template string) error {
	if err := p.at(ctx, p.src, appDB, pgRelease()...); err != nil {
		return err
	}
	create := "CREATE DATABASE " + appDB
	if template != "" {
		create += " TEMPLATE " + template + " STRATEGY FILE_COPY"
	}
	return p.at(ctx, p.dst, "", "DROP DATABASE IF EXISTS "+appDB+" WITH (FORCE)", create)
}

// pgRelease drops what replication keeps at the source.
func pgRelease() []string {
	return []string{
		"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active",
		"DO $$ DECLARE p name; BEGIN FOR p IN SELECT pubname FROM pg_publication LOOP EXECUTE 'DROP PUBLICATION ' || quote_ident(p); END LOOP; END $$",
	}
}

// leeward is a pass of Leeward as a contender.
func (p *pair) leeward(ctx context.Context) (usage, error) {
	u, done, err := p.pass(ctx)
	if err == nil {
		p.b.report.say("leeward: sent %d rows, deleted %d, applied %d transactions", done.Sent, done.Deleted, done.Commits)
	}
	return u, err
}

// tools measures command lines, one after the other.
func (p *pair) tools(argvs ...[]string) func(context.Context) (usage, error) {
	return func(ctx context.Context) (usage, error) {
		return p.b.meter.measure(func() error {
			for _, argv := range argvs {
				if _, err := p.b.meter.tool(ctx, argv...); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// script is a command line for a pipe that fails where any part of it does.
func script(format string, args ...any) []string {
	return []string{"bash", "-o", "pipefail", "-ec", fmt.Sprintf(format, args...)}
}

func (p *pair) pgDump() contender {
	return contender{name: "pg_dump | pg_restore", run: p.tools(script("pg_dump -Fc -Z0 -d '%s' | pg_restore -d '%s'", p.dsn(p.src, appDB), p.dsn(p.dst, appDB)))}
}

func (p *pair) pgcopydb() contender {
	dir := filepath.Join(p.b.dir, "pgcopydb")
	return contender{name: "pgcopydb", run: p.tools([]string{"rm", "-rf", dir}, []string{"pgcopydb", "clone", "--dir", dir, "--table-jobs", "2", "--index-jobs", "2",
		"--source", p.dsn(p.src, appDB), "--target", p.dsn(p.dst, appDB)})}
}

// subscription measures the initial copy of a native subscription.
func (p *pair) subscription() contender {
	return contender{name: "subscription", run: func(ctx context.Context) (usage, error) {
		u, err := p.b.meter.measure(func() error { return p.subscribe(ctx, appDB) })
		return u, errors.Join(err, p.unsubscribe(ctx, appDB))
	}}
}

// subscribe makes a native subscription and waits for its initial copy.
func (p *pair) subscribe(ctx context.Context, db string) error {
	schema := script("pg_dump -s -d '%s' | psql -Xq -v ON_ERROR_STOP=1 -d '%s' >/dev/null", p.dsn(p.src, appDB), p.dsn(p.dst, db))
	if _, err := p.b.meter.tool(ctx, schema...); err != nil {
		return err
	}
	// A publication that came with the definitions is none of this target's.
	if err := p.at(ctx, p.dst, db, pgRelease()[1]); err != nil {
		return err
	}
	if err := p.at(ctx, p.src, appDB, "CREATE PUBLICATION native FOR TABLE orders, history, beat"); err != nil {
		return err
	}
	sql := fmt.Sprintf("CREATE SUBSCRIPTION native CONNECTION '%s' PUBLICATION native", p.dsn(p.src, appDB))
	if err := p.at(ctx, p.dst, db, sql); err != nil {
		return err
	}
	return p.until(ctx, p.dst, db, "SELECT (count(*) = 3)::text FROM pg_subscription_rel WHERE srsubstate = 'r'", "true")
}

func (p *pair) unsubscribe(ctx context.Context, db string) error {
	return p.at(ctx, p.dst, db, "DROP SUBSCRIPTION IF EXISTS native")
}

// until waits until a query says what is wanted.
func (p *pair) until(ctx context.Context, s *server, db, q, want string) error {
	for {
		got, err := p.query(ctx, s, db, q)
		if err != nil {
			return err
		}
		if strings.TrimSpace(got) == want {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.gone:
			return errors.New("wait for a server: it ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
}
