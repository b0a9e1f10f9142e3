package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var (
	_ engine.Instance       = (*Source)(nil)
	_ engine.InstanceTarget = (*Target)(nil)
	_ engine.Pacer          = (*Source)(nil)
)

// settings are the server's variables that decide what definitions and values mean.
var settings = [...]string{
	"character_set_server", "collation_server", "sql_mode", "time_zone", "lower_case_table_names", "explicit_defaults_for_timestamp",
	"innodb_page_size", "innodb_default_row_format", "event_scheduler", "log_bin_trust_function_creators", "max_allowed_packet", "version",
}

// InstanceObjects implements engine.Instance: accounts and roles with their grants and
// the hashes of their passwords, one statement each. Those that the server makes for itself are left out.
func (s *server) InstanceObjects(ctx context.Context) ([]engine.Object, []engine.Finding, error) {
	var out, last []engine.Object // grants stand behind all roles and users
	var found []engine.Finding
	for _, n := range settings {
		v, err := s.variable(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, engine.Object{Kind: engine.KindParameter, Name: engine.Name{Name: n}, Definition: "SET GLOBAL " + n + " = " + quoteText(v)})
	}
	c, err := s.text.Conn(ctx)
	if err != nil {
		return nil, nil, explain(err)
	}
	defer c.Close()
	rows, err := s.strings(ctx, "SELECT CONCAT(is_role, user, '\\n', host) FROM mysql.user WHERE user NOT IN ('mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema', 'PUBLIC') ORDER BY is_role DESC, user, host")
	if err != nil {
		found = append(found, engine.Finding{Severity: engine.Warning, Object: "users", Text: "accounts cannot be read: " + err.Error(), Remedy: "GRANT SELECT ON mysql.* TO the account"})
		return out, found, nil
	}
	for _, r := range rows {
		user, host, _ := strings.Cut(r[1:], "\n")
		kind, account := "user", quoteText(user)+"@"+quoteText(host)
		var defs []string
		if r[0] == 'Y' {
			kind, account = "role", ident(user)
			defs = append(defs, "CREATE ROLE IF NOT EXISTS "+account)
		} else {
			list, err := s.strings(ctx, "SHOW CREATE USER "+account)
			if unknownAccount(err) {
				continue
			}
			if err != nil {
				return nil, nil, fmt.Errorf("read account %s: %w", account, err)
			}
			for _, d := range list {
				defs = append(defs, strings.Replace(d, "CREATE USER", "CREATE USER IF NOT EXISTS", 1))
			}
		}
		grants, err := s.strings(ctx, "SHOW GRANTS FOR "+account)
		if unknownAccount(err) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read grants of %s: %w", account, err)
		}
		name := engine.Name{Name: user + "@" + host}
		for _, d := range defs {
			out = append(out, engine.Object{Kind: kind, Name: name, Definition: d})
		}
		for _, g := range grants {
			last = append(last, engine.Object{Kind: "grant", Name: name, Definition: g})
		}
	}
	return append(out, last...), found, nil
}

// MakeInstanceObject implements engine.InstanceTarget.
func (t *Target) MakeInstanceObject(ctx context.Context, o engine.Object, other bool) error {
	user, host, _ := strings.Cut(o.Name.Name, "@")
	if o.Kind != "role" && (user == "root" || user == "mysql") && host == "localhost" {
		return &engine.KeptError{Why: "the target's server was made with it"}
	}
	me, err := t.strings(ctx, "SELECT CURRENT_USER()")
	if err != nil {
		return fmt.Errorf("read who we are: %w", explain(err))
	}
	if len(me) > 0 && me[0] == o.Name.Name {
		return &engine.KeptError{Why: "Leeward itself logs in by it"}
	}
	q := o.Definition
	if o.Kind == "user" && other {
		q = strings.Replace(q, "CREATE USER IF NOT EXISTS", "ALTER USER", 1)
	}
	c, err := t.text.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer discard(c)
	if err := noAccounts(ctx, t.server, c); err != nil {
		return fmt.Errorf("make %s %s: %w", o.Kind, o.Name, err)
	}
	if _, err := c.ExecContext(ctx, q); err != nil {
		// The server's message of a mistake in syntax repeats the text, hash and all.
		what, _, _ := strings.Cut(explain(err).Error(), "near '")
		return fmt.Errorf("make %s %s: %s", o.Kind, o.Name, strings.TrimSpace(what))
	}
	return nil
}

// Pace implements engine.Pacer.
func (s *Source) Pace(ctx context.Context) (int64, error) {
	from := "information_schema.columns LIMIT 128"
	if s.maria {
		from = "seq_1_to_128"
	}
	rows, err := s.data.QueryContext(ctx, "SELECT REPEAT('x', 65536) FROM "+from)
	if err != nil {
		return 0, fmt.Errorf("measure the link: %w", explain(err))
	}
	defer rows.Close()
	var first time.Time
	var got int64
	for rows.Next() {
		var v sql.RawBytes
		if err := rows.Scan(&v); err != nil {
			return 0, fmt.Errorf("measure the link: %w", explain(err))
		}
		if first.IsZero() {
			first = time.Now() // what came until then is latency
			continue
		}
		if got += int64(len(v)); time.Since(first) >= time.Second {
			break
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("measure the link: %w", explain(err))
	}
	return int64(float64(got) / max(time.Since(first), time.Millisecond).Seconds()), nil
}

// quoteText quotes a string for a session in utf8mb4.
func quoteText(s string) string { return quote([]byte(s)) }
