package config

import (
	"net/url"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

func (r *reader) databases(n *yaml.Node, e *Estate) {
	r.each("databases", n, func(i int, n *yaml.Node) {
		d := Database{Priority: defaultPriority, Mode: "logical", Capture: "auto", Line: n.Line}
		r.mapping(label("database", i, n), n, []field{
			{"name", true, func(w string, n *yaml.Node) { d.Name = r.name(w, n) }},
			{"engine", true, func(w string, n *yaml.Node) { d.Engine = r.choice(w, n, "mssql", "postgres", "mariadb") }},
			{"mode", false, func(w string, n *yaml.Node) { d.Mode = r.choice(w, n, "logical", "physical") }},
			{"capture", false, func(w string, n *yaml.Node) { d.Capture = r.choice(w, n, "auto", "change-tracking", "triggers") }},
			{"instance", false, func(w string, n *yaml.Node) { d.CopyInstance = r.choice(w, n, "list", "copy") == "copy" }},
			{"priority", false, func(w string, n *yaml.Node) { d.Priority = r.integer(w, n, 1, mostPriority) }},
			{"tables", false, func(w string, n *yaml.Node) { d.Tables = r.tables(w, n) }},
			{"fence", false, func(w string, n *yaml.Node) { d.Fence = r.fence(w, n, &Work{}) }},
			{"source", true, func(w string, n *yaml.Node) { d.Source = r.endpoint(w, n) }},
			{"target", true, func(w string, n *yaml.Node) { d.Target = r.endpoint(w, n) }},
		})
		if d.Capture != "auto" && d.Engine != "mssql" {
			r.fault(n, label("database", i, n), "capture: %s is of mssql; %s tells its changes in one way only: leave it out", d.Capture, d.Engine)
		}
		if d.Source.DSN != "" && d.Source.DSN == d.Target.DSN {
			r.fault(n, label("database", i, n), "source and target are the same database")
		}
		r.mode(label("database", i, n), n, &d)
		d.resolve(e)
		e.Databases = append(e.Databases, d)
	})
}

// tables reads which tables are meant.
func (r *reader) tables(where string, n *yaml.Node) (t Tables) {
	r.mapping(where, n, []field{
		{"include", false, func(w string, n *yaml.Node) { t.Include = r.tablePatterns(w, n) }},
		{"exclude", false, func(w string, n *yaml.Node) { t.Exclude = r.tablePatterns(w, n) }},
	})
	return t
}

func (r *reader) tablePatterns(where string, n *yaml.Node) []string {
	patterns := r.texts(where, n)
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			r.fault(n, where, "%q is no pattern; want one such as dbo.orders or audit.*", p)
		}
	}
	return patterns
}

// endpoint reads how to reach a database. A secret written here is refused and
// never repeated.
func (r *reader) endpoint(where string, n *yaml.Node) (p Endpoint) {
	places := 0
	r.mapping(where, n, []field{
		{"dsn", true, func(w string, n *yaml.Node) { p.DSN = r.dsn(w, n) }},
		{"password_file", false, func(w string, n *yaml.Node) { p.PasswordFile = r.path(w, n); places++ }},
		{"password_env", false, func(w string, n *yaml.Node) { p.PasswordEnv = r.variable(w, n); places++ }},
		{"password_command", false, func(w string, n *yaml.Node) { p.PasswordCommand = r.texts(w, n); places++ }},
		{"server", false, func(w string, n *yaml.Node) { p.Server = r.databaseServer(w, n) }},
	})
	if places > 1 {
		r.fault(n, where, "want at most one of password_file, password_env and password_command")
	}
	return p
}

var (
	dsnSecretKey  = regexp.MustCompile(`(?i)(^|[;&?\s])(password|passwd|pwd)\s*=`)
	dsnSecretUser = regexp.MustCompile(`^[^/@\s]*:[^@\s]*@`)
	variableRE    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// dsn reads a data source name. What is wrong is told without its text, which
// may hold a password.
func (r *reader) dsn(where string, n *yaml.Node) string {
	n = r.follow(n)
	if n == nil || n.Kind != yaml.ScalarNode || n.Value == "" {
		if n != nil {
			r.fault(n, where, "want one value")
		}
		return ""
	}
	s, secret := n.Value, dsnSecretKey.MatchString(n.Value)
	if strings.Contains(s, "://") {
		u, err := url.Parse(s)
		if err != nil {
			r.fault(n, where, "this is no URL (its text is not shown: it may hold a password)")
			return ""
		}
		if _, has := u.User.Password(); has {
			secret = true
		}
	} else if dsnSecretUser.MatchString(s) {
		secret = true
	}
	if secret {
		r.fault(n, where, "it holds a password; take it out, and name its place with password_file, password_env or password_command")
		return ""
	}
	return s
}

func (r *reader) variable(where string, n *yaml.Node) string {
	s, ok := r.text(where, n)
	if ok && !variableRE.MatchString(s) {
		// It may be the password itself, so it is not repeated.
		r.fault(n, where, "this is no name of an environment variable")
		return ""
	}
	return s
}
