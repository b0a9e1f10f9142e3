package protect

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/mariadb"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/mssql"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/postgres"
)

// driver returns the driver of an engine, by its name in leeward.yaml.
func driver(name string) (engine.Driver, error) {
	switch name {
	case "postgres":
		return postgres.Driver{}, nil
	case "mariadb":
		return mariadb.Driver{}, nil
	case "mssql":
		return mssql.Driver{}, nil
	}
	return nil, fmt.Errorf("there is no driver for the engine %q", name)
}

// rowsConfig is how a database is replicated. store is where the data of the target's
// store is.
func rowsConfig(ctx context.Context, db *config.Database, store string) (c rowsync.Config, err error) {
	if db.Mode == physical {
		return c, dr.WithHint(fmt.Errorf("database %s: mode: physical is not replicated by rows", db.Name), "leave mode out: rows are replicated then")
	}
	return baseConfig(ctx, db, store)
}

// baseConfig is what both modes need.
func baseConfig(ctx context.Context, db *config.Database, store string) (c rowsync.Config, err error) {
	c = rowsync.Config{Name: db.Name, Spool: filepath.Join(store, "databases", db.Name), Log: slog.New(slog.DiscardHandler)}
	if c.Driver, err = driver(db.Engine); err != nil {
		return c, err
	}
	filter := engine.Filter{Include: db.Tables.Include, Exclude: db.Tables.Exclude}
	c.Source = engine.Options{DSN: db.Source.DSN, Capture: db.Capture, Tables: filter}
	c.Target = engine.Options{DSN: db.Target.DSN, Capture: db.Capture, Tables: filter}
	if c.Source.Password, err = password(ctx, db.Source); err != nil {
		return c, fmt.Errorf("database %s, source: %w", db.Name, err)
	}
	if c.Target.Password, err = password(ctx, db.Target); err != nil {
		return c, fmt.Errorf("database %s, target: %w", db.Name, err)
	}
	return c, nil
}

// openRows makes ready to work on a database; nobody is reached yet.
func openRows(ctx context.Context, db *config.Database, store string) (*rowsync.Replicator, error) {
	c, err := rowsConfig(ctx, db, store)
	if err != nil {
		return nil, err
	}
	r, err := rowsync.New(c)
	if errors.Is(err, rowsync.ErrBusy) {
		err = dr.WithHint(err, "wait until the other Leeward is done, or stop it")
	}
	return r, err
}

// password fetches the secret of an end from its place.
func password(ctx context.Context, e config.Endpoint) (string, error) {
	switch {
	case e.PasswordFile != "":
		b, err := os.ReadFile(e.PasswordFile)
		if err != nil {
			return "", fmt.Errorf("read password: %w", err)
		}
		return strings.TrimRight(string(b), "\r\n"), nil
	case e.PasswordEnv != "":
		v, ok := os.LookupEnv(e.PasswordEnv)
		if !ok {
			return "", fmt.Errorf("read password: the environment has no %s", e.PasswordEnv)
		}
		return v, nil
	case len(e.PasswordCommand) > 0:
		cmd := exec.CommandContext(ctx, e.PasswordCommand[0], e.PasswordCommand[1:]...)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("read password: run %s: %w: %s", e.PasswordCommand[0], err, strings.TrimSpace(said.String()))
		}
		return strings.TrimRight(out.String(), "\r\n"), nil
	}
	return "", nil
}

// withRows does work on a database and tells of its progress.
func withRows(ctx context.Context, db *config.Database, store string, show func(Progress), work func(*rowsync.Replicator) error) error {
	var m meter
	m.begin(show, dr.ServerName(db.Name))
	r, err := openRows(ctx, db, store)
	if err == nil {
		m.follow(func(p *Progress) { rowProgress(r.Progress(), p) })
		err = errors.Join(work(r), r.Close())
	}
	m.end(err)
	return err
}

// rowProgress adds how far a database is.
func rowProgress(now rowsync.Progress, p *Progress) {
	p.Unit = "row"
	if !p.Finished {
		p.Phase, p.Note = string(now.Step), now.Waiting
	}
	known := true
	for _, t := range now.Tables {
		p.Examined += t.Compared
		p.Entries += max(t.Rows, t.Compared)
		known = known && t.Rows >= 0
		p.FilesDone += t.Sent + t.Deleted
	}
	if !known {
		p.Entries = 0
	}
	p.FilesDone += now.Changes
}

// DatabaseRun is how the pass of one database ended.
type DatabaseRun struct {
	Database string        `json:"database"`
	Engine   string        `json:"engine"`
	Mode     string        `json:"mode"` // logical or physical
	Outcome  dr.Outcome    `json:"outcome"`
	Did      []string      `json:"did,omitempty"` // to the standby, of mode physical
	Seeded   bool          `json:"seeded"`        // rows were compared, not only changes followed
	Tables   []TableRun    `json:"tables"`        // those with work done, by name
	Changes  int64         `json:"changes"`       // applied from the stream
	Commits  int64         `json:"commits"`       // transactions of the source applied
	Bytes    int64         `json:"bytes"`         // of rows sent by comparison, as the engine writes them
	Position string        `json:"position"`      // in the source's history, that the target stands for
	Lag      time.Duration `json:"lag_ns"`        // age of the newest change applied
	Stopped  []string      `json:"stopped,omitempty"`
	Around   *Around       `json:"instance,omitempty"` // what lives outside the database
	Findings []Finding     `json:"findings,omitempty"`
	Duration time.Duration `json:"duration_ns"`
	Err      string        `json:"error,omitempty"`
	Hint     string        `json:"hint,omitempty"`
}

// TableRun is what a comparison did to one table.
type TableRun struct {
	Table    string `json:"table"`
	Compared int64  `json:"compared"`
	Sent     int64  `json:"sent"`
	Deleted  int64  `json:"deleted"`
}

// Rows is what the comparison did to all tables together.
func (d *DatabaseRun) Rows() (sum TableRun) {
	for _, t := range d.Tables {
		sum.Compared, sum.Sent, sum.Deleted = sum.Compared+t.Compared, sum.Sent+t.Sent, sum.Deleted+t.Deleted
	}
	return sum
}

// replicateRows makes one pass over a database.
func (o *Options) replicateRows(ctx context.Context, db *config.Database, store string) (res DatabaseRun) {
	if db.Mode == physical {
		return o.replicateStandby(ctx, db, store)
	}
	res = DatabaseRun{Database: db.Name, Engine: db.Engine, Mode: db.Mode, Outcome: dr.NotDone}
	begun := time.Now()
	err := withRows(ctx, db, store, o.Progress, func(r *rowsync.Replicator) error {
		got, err := r.Pass(ctx)
		res.take(got)
		if err == nil {
			res.Around = around(ctx, r, db.CopyInstance)
		}
		return err
	})
	res.Duration = time.Since(begun)
	if err != nil {
		res.Err, res.Hint = err.Error(), hintOf(err)
		return res
	}
	if len(res.Stopped) == 0 {
		res.Outcome = dr.Done
	}
	return res
}

func (d *DatabaseRun) take(r rowsync.Result) {
	d.Seeded, d.Changes, d.Commits, d.Bytes, d.Lag = r.Seeded, r.Changes, r.Commits, r.Bytes, r.Lag
	d.Position = string(r.Position)
	d.Findings = findings(r.Findings)
	for name, t := range r.Tables {
		if t.Compared+t.Sent+t.Deleted > 0 {
			d.Tables = append(d.Tables, TableRun{name.String(), t.Compared, t.Sent, t.Deleted})
		}
	}
	slices.SortFunc(d.Tables, func(a, b TableRun) int { return cmp.Compare(a.Table, b.Table) })
	d.Stopped = stops(r.Stopped)
}

// stops tells of tables that are not followed.
func stops(in map[string]rowsync.Stop) (out []string) {
	for table, s := range in {
		text := table + " is not followed: " + s.Cause
		if s.Remedy != "" {
			text += "; " + s.Remedy
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

// findings turns what a driver found into findings of a plan.
func findings(in []engine.Finding) (out []Finding) {
	for _, f := range in {
		text := f.Text
		if f.Object != "" {
			text = f.Object + ": " + text
		}
		out = append(out, Finding{Level(f.Severity), text, f.Remedy})
	}
	return out
}
