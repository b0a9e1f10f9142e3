package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// The databases: the one that is replicated, a stale clone of it at the target, and
// what native replication fills.
const (
	appDB    = "app"
	staleDB  = "stale"
	nativeDB = "native"
)

// flavor is what differs between engines.
type flavor interface {
	// commands are how a server is installed, as whom it runs, and how it is started.
	commands(s *server) (user string, install [][]string, run []string)
	// query runs statements, each on its own, in one session; it returns the first
	// field of the last row.
	query(ctx context.Context, s *server, db string, qs ...string) (string, error)
	dsn(s *server, db string) string
	// digest is a query for the number of a table's rows and a sum over all of them.
	digest(table string) string
	// settle makes a server write out what it owes, so that no run pays for another.
	settle() []string
}

// server is one of the two servers of an engine.
type server struct {
	f    flavor
	role role
	dir  string
	id   int
	cmd  *exec.Cmd
	gone chan struct{}
}

// host is where tools at the target reach the server.
func (s *server) host() string {
	if s.role == roleSource {
		return sourceHost
	}
	return "127.0.0.1"
}

// pair is the two servers of an engine.
type pair struct {
	flavor
	b        *bench
	name     string // of the engine
	src, dst *server
	spool    string
}

// start installs and starts both servers.
func (b *bench) start(ctx context.Context, name string, f flavor) (*pair, error) {
	p := &pair{flavor: f, b: b, name: name, spool: filepath.Join(b.dir, name, "spool")}
	if err := os.MkdirAll(filepath.Dir(p.spool), 0o755); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	p.src = &server{f: f, role: roleSource, id: 1, dir: filepath.Join(b.dir, name, "source")}
	p.dst = &server{f: f, role: roleTarget, id: 2, dir: filepath.Join(b.dir, name, "target")}
	for _, s := range []*server{p.src, p.dst} {
		if err := s.start(ctx, b.meter); err != nil {
			return nil, errors.Join(err, p.stop())
		}
	}
	return p, nil
}

// stop ends both servers and removes what they hold.
func (p *pair) stop() error {
	for _, s := range []*server{p.src, p.dst} {
		if s.gone == nil {
			continue
		}
		// Nobody wants the data any more.
		if err := s.cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("end server: %w", err)
		}
		select {
		case <-s.gone:
		case <-time.After(10 * time.Second):
			_ = s.cmd.Process.Kill()
			<-s.gone
		}
	}
	if err := os.RemoveAll(filepath.Dir(p.spool)); err != nil {
		return fmt.Errorf("remove servers: %w", err)
	}
	return nil
}

// start installs and starts a server, and waits until it answers.
func (s *server) start(ctx context.Context, m *meter) error {
	user, install, run := s.f.commands(s)
	for _, argv := range append([][]string{{"install", "-d", "-o", user, "-g", user, s.dir}}, install...) {
		if argv[0] != "install" {
			argv = as(user, argv...)
		}
		if _, err := command(ctx, argv...); err != nil {
			return err
		}
	}
	argv := as(user, run...)
	if s.role == roleSource {
		argv = atSource(argv...)
	}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir = s.dir
	done, err := m.in(s.role, s.cmd)
	if err != nil {
		return err
	}
	defer done()
	log, err := os.Create(s.dir + ".log")
	if err != nil {
		return fmt.Errorf("make log: %w", err)
	}
	defer log.Close()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	s.gone = make(chan struct{})
	go func() { _ = s.cmd.Wait(); close(s.gone) }()
	return s.answers(ctx)
}

func (s *server) answers(ctx context.Context) error {
	var err error
	for range 300 {
		if _, err = s.f.query(ctx, s, "", "SELECT 1"); err == nil {
			return nil
		}
		select {
		case <-s.gone:
			text, _ := os.ReadFile(s.dir + ".log")
			return fmt.Errorf("start server: it ended: %s", tail(string(text)))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
	return fmt.Errorf("start server: it does not answer: %w", err)
}

// as makes a command run as a user, with the process ID of the one that is started.
func as(user string, argv ...string) []string {
	return append([]string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "env", "LC_ALL=C.UTF-8", "TZ=UTC"}, argv...)
}

// at runs statements at a server.
func (p *pair) at(ctx context.Context, s *server, db string, qs ...string) error {
	_, err := p.query(ctx, s, db, qs...)
	return err
}

// settled has both servers write out all they owe, and the disk with them.
func (p *pair) settled(ctx context.Context) error {
	for _, s := range []*server{p.src, p.dst} {
		if err := p.at(ctx, s, "", p.settle()...); err != nil {
			return err
		}
	}
	syscall.Sync()
	return nil
}

// tables are those of the database that is replicated.
func tables() []string { return []string{"orders", "history"} }

// equal compares a database at the target with the source's, by SQL.
func (p *pair) equal(ctx context.Context, tool, db string) error {
	for _, t := range tables() {
		want, err := p.query(ctx, p.src, appDB, p.digest(t))
		if err != nil {
			return err
		}
		have, err := p.query(ctx, p.dst, db, p.digest(t))
		if err != nil {
			return err
		}
		if have == want {
			continue
		}
		err = fmt.Errorf("compare what %s left: %s has %q at the source and %q at the target", tool, t, want, have)
		if !p.b.unequal {
			return err
		}
		p.b.report.say("NOT EQUAL: %v", err)
	}
	return nil
}

// forget removes Leeward's spool, so that it starts as if for the first time.
func (p *pair) forget() error {
	if err := os.RemoveAll(p.spool); err != nil {
		return fmt.Errorf("remove spool: %w", err)
	}
	return nil
}

// contender is one tool of a case.
type contender struct {
	name string
	run  func(ctx context.Context) (usage, error)
	db   string // at the target; "" for that of Leeward
}

// race runs each contender, in turns, and checks what it left. Before each, prepare
// makes the target what it has to be.
func (p *pair) race(ctx context.Context, cs []contender, prepare func(ctx context.Context, c contender) error) ([]result, error) {
	all := map[string][]usage{}
	for range p.b.passes {
		for _, c := range cs {
			if err := errors.Join(p.forget(), prepare(ctx, c), p.settled(ctx)); err != nil {
				return nil, fmt.Errorf("prepare for %s: %w", c.name, err)
			}
			u, err := c.run(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			p.b.report.say("%s: %.2f s, %.1f MB", c.name, u.Seconds, float64(u.wire())/1e6)
			db := c.db
			if db == "" {
				db = appDB
			}
			if err := p.equal(ctx, c.name, db); err != nil {
				return nil, err
			}
			all[c.name] = append(all[c.name], u)
		}
	}
	var out []result
	for _, c := range cs {
		out = append(out, result{Tool: c.name, usage: median(all[c.name])})
	}
	return out, nil
}
