package postgres

import (
	"net/url"
	"strings"

	"github.com/leeward-dr/leeward/internal/rowsync/engine"
)

// quoteInfo spells a value of a connection string of key=value pairs.
func quoteInfo(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// dsnParams returns the parameters of a connection string in either form.
func dsnParams(dsn string) map[string]string {
	out := map[string]string{}
	if strings.Contains(dsn, "://") {
		u, err := url.Parse(dsn)
		if err != nil {
			return out
		}
		for k, v := range u.Query() {
			out[k] = v[0]
		}
		return out
	}
	for k, v := range pairsOf(dsn) {
		out[k] = v
	}
	return out
}

// pairsOf reads key = 'value' pairs as libpq does; what is no pair ends it.
func pairsOf(s string) map[string]string {
	out := map[string]string{}
	for {
		k, rest, ok := strings.Cut(s, "=")
		if k = strings.TrimSpace(k); !ok || k == "" {
			return out
		}
		rest = strings.TrimLeft(rest, " \t\n")
		var v strings.Builder
		quoted := strings.HasPrefix(rest, "'")
		rest = strings.TrimPrefix(rest, "'")
		i := 0
		for ; i < len(rest); i++ {
			c := rest[i]
			if c == '\\' && i+1 < len(rest) {
				i++
				v.WriteByte(rest[i])
				continue
			}
			if quoted && c == '\'' || !quoted && (c == ' ' || c == '\t' || c == '\n') {
				break
			}
			v.WriteByte(c)
		}
		out[k] = v.String()
		s = rest[min(i+1, len(rest)):]
	}
}

// within returns the options for another database of the same server.
func within(o engine.Options, database string) engine.Options {
	if strings.Contains(o.DSN, "://") {
		u, err := url.Parse(o.DSN)
		if err != nil {
			return o // it does not open either
		}
		u.Path = "/" + database
		o.DSN = u.String()
		return o
	}
	o.DSN += " dbname=" + quoteInfo(database)
	return o
}
