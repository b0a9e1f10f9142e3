package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

var (
	_ engine.Rights       = (*Source)(nil)
	_ engine.RightsTarget = (*Target)(nil)
)

// The database may have another name at the target: these stand for it in statements, as
// it is, and as the pattern that a grant on all of it takes.
const (
	thisDatabase = "`leeward:database`"
	thisPattern  = "`leeward:pattern`"
)

// Numbers of errors that tell of an account that is not there.
const (
	errNoAccount = 1133
	errNoGrants  = 1141
	errNoRole    = 1959
)

// unknownAccount reports that the server does not know an account of its own table: with
// skip_name_resolve those of named hosts mean nobody.
func unknownAccount(err error) bool {
	n := number(err)
	return n == errNoGrants || n == errNoAccount
}

// grantOn is a grant of SHOW GRANTS, taken apart: GRANT privileges ON kind db.object TO ….
type grantOn struct{ privileges, kind, database, object, rest string }

// parseGrant reads a grant on a database or on something in one; ok is false for others,
// such as those on everything, and of roles.
func parseGrant(s string) (g grantOn, ok bool) {
	at := outside(s, " ON ")
	if !strings.HasPrefix(s, "GRANT ") || at < len("GRANT ") {
		return g, false
	}
	g.privileges, s = s[len("GRANT "):at], s[at+len(" ON "):]
	for _, k := range []string{"PROCEDURE ", "FUNCTION ", "PACKAGE BODY ", "PACKAGE "} {
		if rest, found := strings.CutPrefix(s, k); found {
			g.kind, s = k, rest
			break
		}
	}
	if g.database, s, ok = quotedName(s); !ok || !strings.HasPrefix(s, ".") {
		return g, false
	}
	s = s[1:]
	if rest, found := strings.CutPrefix(s, "*"); found {
		s = rest
	} else if g.object, s, ok = quotedName(s); !ok {
		return g, false
	}
	g.rest = s
	return g, strings.HasPrefix(s, " TO ")
}

// outside finds a text that stands in no quotes; -1 where it does not.
func outside(s, text string) int {
	var quote byte
	for i := range len(s) {
		switch c := s[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '`' || c == '\'' || c == '"'):
			quote = c
		case quote == 0 && strings.HasPrefix(s[i:], text):
			return i
		}
	}
	return -1
}

// quotedName takes a name in backquotes off the front.
func quotedName(s string) (name, rest string, ok bool) {
	if !strings.HasPrefix(s, "`") {
		return "", s, false
	}
	for i := 1; i < len(s); i++ {
		if s[i] != '`' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '`' {
			i++
			continue
		}
		return strings.ReplaceAll(s[1:i], "``", "`"), s[i+1:], true
	}
	return "", s, false
}

// unescaped is the name that a pattern without wildcards stands for.
func unescaped(pattern string) string {
	return strings.NewReplacer(`\_`, "_", `\%`, "%", `\\`, `\`).Replace(pattern)
}

// Rights implements engine.Rights: what accounts may do in this database. Nothing has an
// owner.
func (s *server) Rights(ctx context.Context) (out []engine.Right, err error) {
	accounts, err := s.strings(ctx, "SELECT CONCAT(is_role, user, '\\n', host) FROM mysql.user WHERE user NOT IN ('mariadb.sys', 'PUBLIC') ORDER BY is_role DESC, user, host")
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w; GRANT SELECT ON mysql.* TO %s", err, s.cfg.User)
	}
	for _, a := range accounts {
		user, host, _ := strings.Cut(a[1:], "\n")
		name, account := user+"@"+host, quoteText(user)+"@"+quoteText(host)
		if a[0] == 'Y' {
			name, account = user, ident(user)
		}
		grants, err := s.strings(ctx, "SHOW GRANTS FOR "+account)
		if unknownAccount(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read grants of %s: %w", account, err)
		}
		for _, text := range grants {
			g, ok := parseGrant(text)
			switch {
			case !ok:
			case g.object == "" && unescaped(g.database) == s.db:
				out = append(out, engine.Right{Role: name, Statement: "GRANT " + g.privileges + " ON " + thisPattern + ".*" + g.rest})
			case g.object != "" && g.database == s.db:
				out = append(out, engine.Right{Of: engine.Name{Name: g.object}, Role: name,
					Statement: "GRANT " + g.privileges + " ON " + g.kind + thisDatabase + "." + ident(g.object) + g.rest})
			}
		}
	}
	return out, nil
}

// Allow implements engine.RightsTarget.
func (t *Target) Allow(ctx context.Context, r engine.Right) error {
	c, err := t.text.Conn(ctx)
	if err != nil {
		return explain(err)
	}
	defer discard(c)
	q := strings.Replace(r.Statement, thisDatabase, ident(t.db), 1)
	q = strings.Replace(q, thisPattern, ident(strings.NewReplacer("_", `\_`, "%", `\%`).Replace(t.db)), 1)
	if err := noAccounts(ctx, t.server, c); err != nil {
		return err
	}
	_, err = c.ExecContext(ctx, q)
	switch n := number(err); {
	case n == errNoAccount || n == errNoRole:
		return &engine.NoRoleError{Role: r.Role}
	case err != nil:
		return fmt.Errorf("%s: %w", q, explain(err))
	}
	return nil
}

// noAccounts keeps a grant from making the account that it is for: without a password.
func noAccounts(ctx context.Context, s *server, c *sql.Conn) error {
	if !s.maria {
		return nil // others never do that
	}
	_, err := c.ExecContext(ctx, "SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_AUTO_CREATE_USER')")
	return explain(err)
}
