package mariadb

import (
	"context"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var _ engine.Instance = (*Source)(nil)

// settings are the server's variables that decide what definitions and values mean.
var settings = [...]string{
	"character_set_server", "collation_server", "sql_mode", "time_zone", "lower_case_table_names", "explicit_defaults_for_timestamp",
	"innodb_page_size", "innodb_default_row_format", "event_scheduler", "log_bin_trust_function_creators", "max_allowed_packet", "version",
}

// InstanceObjects implements engine.Instance: accounts and roles with their grants and
// the hashes of their passwords, one statement each. Those that the server makes for itself are left out.
func (s *Source) InstanceObjects(ctx context.Context) ([]engine.Object, []engine.Finding, error) {
	var out, last []engine.Object // grants stand behind all roles and users
	var found []engine.Finding
	for _, n := range settings {
		v, err := s.variable(ctx, n)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, engine.Finding{Severity: engine.Note, Object: n, Text: "it is " + v, Remedy: "let it be the same at the target"})
	}
	c, err := s.text.Conn(ctx)
	if err != nil {
		return nil, nil, explain(err)
	}
	defer c.Close()
	rows, err := s.strings(ctx, "SELECT CONCAT(is_role, user, '\\n', host) FROM mysql.user WHERE user NOT IN ('mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema', 'PUBLIC') ORDER BY is_role DESC, user, host")
	if err != nil {
		found = append(found, engine.Finding{Severity: engine.Warning, Object: "users", Text: "accounts cannot be read: " + err.Error(), Remedy: "GRANT SELECT ON mysql.* TO the account"})
		return nil, found, nil
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
			if err != nil {
				return nil, nil, fmt.Errorf("read account %s: %w", account, err)
			}
			for _, d := range list {
				defs = append(defs, strings.Replace(d, "CREATE USER", "CREATE USER IF NOT EXISTS", 1))
			}
		}
		grants, err := s.strings(ctx, "SHOW GRANTS FOR "+account)
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

// quoteText quotes a string for a session in utf8mb4.
func quoteText(s string) string { return quote([]byte(s)) }
