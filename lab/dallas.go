package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Database is a database of one of the lab's servers with the stale clone of it in
// Dallas.
type Database struct {
	Name   string `json:"name"`
	Engine string `json:"engine"` // as leeward.yaml has it
	Server string `json:"server"` // where it is in Miami
	Source string `json:"source"` // DSN without the password
	Target string `json:"target"`
}

// databases are those that servers have.
func databases(specs []Spec) (out []Database) {
	for _, s := range specs {
		switch s.Name {
		case "db1":
			const dsn = "postgres://leeward@%s:5432/shop?sslmode=disable"
			out = append(out, Database{"shop", "postgres", s.Name, fmt.Sprintf(dsn, s.Address()), fmt.Sprintf(dsn, "127.0.0.1")})
		case "db2":
			const dsn = "leeward@tcp(%s:3306)/plant"
			out = append(out, Database{"plant", "mariadb", s.Name, fmt.Sprintf(dsn, s.Address()), fmt.Sprintf(dsn, "127.0.0.1")})
		}
	}
	return out
}

// databasePassword opens both ends of every database of the lab.
const databasePassword = "harbour"

// startDallas starts the target site's database servers and returns when they hold
// their stale clones.
func (l *Lab) startDallas(ctx context.Context) error {
	begin := time.Now()
	work := l.place.path("dallas", "databases")
	files := map[string]string{}
	for _, name := range []string{"dallas.sh", "dallas-postgres.sql", "dallas-mariadb.sql"} {
		text, err := content.ReadFile("scripts/" + name)
		if err != nil {
			return fmt.Errorf("read script: %w", err)
		}
		files[name] = string(text)
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return fmt.Errorf("make directory of Dallas's databases: %w", err)
	}
	if err := writeFiles(work, files); err != nil {
		return err
	}
	argv := []string{"ip", "netns", "exec", dallas, "/bin/bash", filepath.Join(work, "dallas.sh"), work, dallasAddress}
	err := l.startSite(ctx, "Dallas's databases", 2*time.Minute, work, "dallas.log", argv, func(st *state, p process) { st.Dallas = p })
	if err != nil {
		return err
	}
	l.log("Dallas's databases are up after %.1fs", time.Since(begin).Seconds())
	return nil
}

// startSite starts what a site has beside its servers, in namespaces of its own, and
// returns when it has made the file "started" in its directory. record puts its process
// on record.
func (l *Lab) startSite(ctx context.Context, what string, limit time.Duration, dir, log string, argv []string, record func(*state, process)) error {
	const flags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	g, err := startGated(filepath.Join(dir, log), flags, append([]string{"/usr/bin/env"}, argv...)...)
	if err != nil {
		return err
	}
	if err := l.place.update(func(st *state) { record(st, g.process) }); err != nil {
		return err
	}
	if err := g.open(); err != nil {
		return err
	}
	err = waitFor(ctx, limit, what+" to start", func() bool {
		_, err := os.Stat(filepath.Join(dir, "started"))
		return err == nil || !g.alive()
	})
	if err == nil && !g.alive() {
		err = fmt.Errorf("start %s: it ended early", what)
	}
	if err != nil {
		said, _ := os.ReadFile(filepath.Join(dir, log)) // only to explain
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(said)))
	}
	return nil
}
