package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	_ "github.com/go-sql-driver/mysql"
)

const myPort = "3355"

//go:embed mariadb.cnf
var myConf []byte

// myFlavor is MariaDB.
type myFlavor struct{}

func (myFlavor) commands(s *server) (string, [][]string, []string) {
	data, conf := filepath.Join(s.dir, "data"), filepath.Join(s.dir, "mariadb.cnf")
	grant := filepath.Join(s.dir, "grant.sql")
	return "mysql", [][]string{
			{"sh", "-c", `printf '%s' "$1" >"$2" && printf "CREATE OR REPLACE USER bench@'%%';\nGRANT ALL ON *.* TO bench@'%%' WITH GRANT OPTION;\n" >"$3"`, "sh", string(myConf), conf, grant},
			{"mariadb-install-db", "--defaults-file=" + conf, "--datadir=" + data, "--tmpdir=" + s.dir, "--auth-root-authentication-method=normal", "--skip-test-db"},
		}, []string{"mariadbd", "--defaults-file=" + conf, "--datadir=" + data, "--tmpdir=" + s.dir, "--socket=" + filepath.Join(s.dir, "s"),
			"--pid-file=" + filepath.Join(s.dir, "pid"), "--port=" + myPort, "--bind-address=0.0.0.0", "--init-file=" + grant,
			fmt.Sprintf("--server-id=%d", s.id), fmt.Sprintf("--gtid-domain-id=%d", s.id)}
}

func (myFlavor) dsn(s *server, db string) string {
	return fmt.Sprintf("bench@tcp(%s:%s)/%s", s.host(), myPort, db)
}

func (f myFlavor) query(ctx context.Context, s *server, db string, qs ...string) (string, error) {
	d, err := sql.Open("mysql", f.dsn(s, db)+"?maxAllowedPacket=0&sql_mode=%27STRICT_ALL_TABLES%27&time_zone=%27%2B00:00%27")
	if err != nil {
		return "", fmt.Errorf("connect to MariaDB: %w", err)
	}
	defer d.Close()
	d.SetMaxOpenConns(1)
	last := ""
	for _, q := range qs {
		if last, err = myValue(ctx, d, q); err != nil {
			return "", fmt.Errorf("%.100s: %w", q, err)
		}
	}
	return last, nil
}

// myValue runs one statement and returns the first field of the last row.
func myValue(ctx context.Context, d *sql.DB, q string) (string, error) {
	rows, err := d.QueryContext(ctx, q)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	cols, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var v sql.NullString
	into := make([]any, len(cols))
	for i := range into {
		into[i] = new(sql.RawBytes)
	}
	if len(into) > 0 {
		into[0] = &v
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return "", err
		}
	}
	return v.String, rows.Err()
}

func (myFlavor) digest(table string) string {
	cols := map[string]string{
		"orders":  "id, cust, ref, status, amount, COALESCE(note, '~'), created, COALESCE(updated, '~')",
		"history": "id, order_id, delta, at",
	}[table]
	return "SELECT CONCAT(COUNT(*), ' ', COALESCE(SUM(CAST(CONV(LEFT(MD5(CONCAT_WS('|', " + cols + ")), 16), 16, 10) AS UNSIGNED)), 0)) FROM " + table
}

func (myFlavor) settle() []string { return []string{"FLUSH TABLES"} }

// myTables are the same as PostgreSQL's.
func myTables() []string {
	return []string{
		`CREATE TABLE orders (id BIGINT NOT NULL PRIMARY KEY, cust INT NOT NULL, ref VARCHAR(40) NOT NULL, status VARCHAR(12) NOT NULL,
	amount DECIMAL(12,2) NOT NULL, note VARCHAR(200), created DATETIME(6) NOT NULL, updated DATETIME(6), KEY orders_cust (cust))`,
		"CREATE TABLE history (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, order_id BIGINT NOT NULL, delta INT NOT NULL, at DATETIME(6) NOT NULL)",
	}
}

// myRows makes rows in portions, as undo logs of all at once would be large.
func myRows(n int) []string {
	var out []string
	for from := 1; from <= n; from += 250_000 {
		out = append(out, fmt.Sprintf(`INSERT INTO orders SELECT seq, seq * 7 %% 100000, MD5(seq), ELT(seq %% 4 + 1, 'new', 'paid', 'sent', 'done'), seq %% 10000 / 7.0,
	CONCAT('note for order ', MD5(seq * 3), ' ', MD5(seq * 5)), '2026-01-01' + INTERVAL seq SECOND,
	IF(seq %% 3 > 0, '2026-02-01' + INTERVAL seq SECOND, NULL) FROM seq_%d_to_%d`, from, min(from+249_999, n)))
	}
	return out
}

// unlogged makes statements that prepare something without a binlog of it, and without
// waiting for the disk.
func unlogged(qs ...string) []string {
	return slices.Concat([]string{"SET SESSION sql_log_bin = 0", "SET GLOBAL innodb_flush_log_at_trx_commit = 0"}, qs,
		[]string{"SET GLOBAL innodb_flush_log_at_trx_commit = 1"})
}

func (p *pair) fillMy(ctx context.Context) error {
	n := p.b.rows()
	begun := time.Now()
	full := slices.Concat(myTables(), myRows(n))
	if err := p.at(ctx, p.src, "", "CREATE DATABASE "+appDB); err != nil {
		return err
	}
	if err := p.at(ctx, p.src, appDB, append(unlogged(full...), "ANALYZE TABLE orders")...); err != nil {
		return err
	}
	p.b.report.say("MariaDB: made %d rows in %.0f s", n, time.Since(begun).Seconds())
	if !slices.Contains(p.b.cases, "my-stale") {
		return nil
	}
	if err := p.at(ctx, p.dst, "", "CREATE DATABASE "+staleDB); err != nil {
		return err
	}
	return p.at(ctx, p.dst, staleDB, unlogged(slices.Concat(full, staleness(n))...)...)
}

// anewMy makes Leeward's database at the target empty, or a copy of another.
func (p *pair) anewMy(ctx context.Context, template string) error {
	qs := []string{"DROP DATABASE IF EXISTS " + appDB, "DROP DATABASE IF EXISTS leeward", "RESET MASTER", "CREATE DATABASE " + appDB}
	if template != "" {
		for _, t := range tables() {
			to, from := appDB+"."+t, template+"."+t
			qs = append(qs, unlogged("CREATE TABLE "+to+" LIKE "+from, "INSERT INTO "+to+" SELECT * FROM "+from)...)
		}
		qs = append(qs, "ANALYZE TABLE "+appDB+".orders")
	}
	return p.at(ctx, p.dst, "", qs...)
}

func (p *pair) mydumper() contender {
	dir := filepath.Join(p.b.dir, "mydumper")
	return contender{name: "mydumper + myloader", run: p.tools([]string{"rm", "-rf", dir},
		[]string{"mydumper", "-h", sourceHost, "-P", myPort, "-u", "bench", "-B", appDB, "-o", dir, "-t", "2", "-r", "500000", "--trx-consistency-only"},
		[]string{"myloader", "-h", "127.0.0.1", "-P", myPort, "-u", "bench", "-B", appDB, "-d", dir, "-t", "2", "-o"})}
}

func (p *pair) mariadbDump() contender {
	return contender{name: "mariadb-dump | mariadb", run: p.tools(script("mariadb-dump --no-defaults -h %s -P %s -u bench --single-transaction %s | mariadb --no-defaults -h 127.0.0.1 -P %s -u bench %s",
		sourceHost, myPort, appDB, myPort, appDB))}
}

// ptTableSync repairs the table that is stale.
func (p *pair) ptTableSync() contender {
	return contender{name: "pt-table-sync", run: func(ctx context.Context) (usage, error) {
		return p.b.meter.measure(func() error {
			_, err := p.b.meter.tool(ctx, "pt-table-sync", "--execute", "--no-check-slave", "--charset=utf8mb4",
				fmt.Sprintf("h=%s,P=%s,u=bench,D=%s,t=orders", sourceHost, myPort, appDB), fmt.Sprintf("h=127.0.0.1,P=%s,u=bench,D=%s,t=orders", myPort, appDB))
			var exit interface{ ExitCode() int }
			if errors.As(err, &exit) && exit.ExitCode() == 2 {
				return nil // it found differences and repaired them
			}
			return err
		})
	}}
}

// removeDump frees what mydumper left.
func (p *pair) removeDump() error {
	if err := os.RemoveAll(filepath.Join(p.b.dir, "mydumper")); err != nil {
		return fmt.Errorf("remove dump: %w", err)
	}
	return nil
}
