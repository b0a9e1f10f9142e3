package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/internal/rowsync"
	"github.com/leeward-dr/leeward/internal/rowsync/engine"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/mariadb"
	"github.com/leeward-dr/leeward/internal/rowsync/engine/postgres"
)

// childVerb makes the program the replicator that is measured, so that its CPU time
// and memory are its own.
const childVerb = "replicate"

// profileEnv names a file for a CPU profile of the replicator.
const profileEnv = "LEEWARD_BENCH_DB_PROFILE"

// passed is what the replicator says at its end.
type passed struct {
	Seconds float64 `json:"seconds"`
	Commits int64   `json:"commits"`
	Changes int64   `json:"changes"`
	Bytes   int64   `json:"bytes"` // of rows sent by comparison
	Sent    int64   `json:"rows_sent"`
	Deleted int64   `json:"rows_deleted"`
	RSS     int64   `json:"peak_rss"` // as the kernel kept it
}

// replicate is the child: a pass, or with -follow one that goes on until a signal.
func replicate(ctx context.Context, args []string, out io.Writer) (err error) {
	fs := flag.NewFlagSet(childVerb, flag.ContinueOnError)
	kind := fs.String("engine", "", "postgres or mariadb")
	source := fs.String("source", "", "DSN")
	target := fs.String("target", "", "DSN")
	spool := fs.String("spool", "", "directory")
	follow := fs.Bool("follow", false, "go on until a signal")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg := rowsync.Config{
		Name: "bench", Spool: *spool, Source: engine.Options{DSN: *source}, Target: engine.Options{DSN: *target},
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	switch *kind {
	case "postgres":
		cfg.Driver = postgres.Driver{}
	case "mariadb":
		cfg.Driver = mariadb.Driver{}
	default:
		return fmt.Errorf("read -engine: there is no engine %q", *kind)
	}
	if name := os.Getenv(profileEnv); name != "" {
		stop, err := profile(name)
		if err != nil {
			return err
		}
		defer stop()
	}
	r, err := rowsync.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	work := r.Pass
	if *follow {
		work = r.Follow
	}
	res, err := work(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(outcome(res))
}

func profile(name string) (stop func(), err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("make profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("make profile: %w", err), f.Close())
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}

func outcome(res rowsync.Result) passed {
	p := passed{Seconds: res.Took.Seconds(), Commits: res.Commits, Changes: res.Changes, Bytes: res.Bytes,
		RSS: statusBytes("/proc/self/status", "VmHWM:")}
	for _, t := range res.Tables {
		p.Sent, p.Deleted = p.Sent+t.Sent, p.Deleted+t.Deleted
	}
	return p
}

// childArgs are the command line of a replicator between two servers.
func (p *pair) childArgs(more ...string) []string {
	return append([]string{"/proc/self/exe", childVerb, "-engine", p.name, "-source", p.dsn(p.src, appDB),
		"-target", p.dsn(p.dst, appDB), "-spool", p.spool}, more...)
}

// pass measures one pass of Leeward.
func (p *pair) pass(ctx context.Context) (usage, passed, error) {
	var done passed
	u, err := p.b.meter.measure(func() error {
		out, warnings, err := p.b.meter.heard(ctx, p.childArgs()...)
		if err != nil {
			return err
		}
		fmt.Print(warnings)
		if err := json.Unmarshal(out, &done); err != nil {
			return fmt.Errorf("read what the replicator says: %w", err)
		}
		return nil
	})
	u.RSS = max(u.RSS, done.RSS)
	return u, done, err
}

// following starts Leeward; stop ends it and says what it came to.
func (p *pair) following(ctx context.Context) (stop func() (passed, error), err error) {
	argv := p.childArgs("-follow")
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	done, err := p.b.meter.in(roleTool, cmd)
	if err != nil {
		return nil, err
	}
	defer done()
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the replicator: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the replicator: %w", err)
	}
	return func() (passed, error) {
		var res passed
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return res, fmt.Errorf("end the replicator: %w", err)
		}
		timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		errRead := json.NewDecoder(out).Decode(&res)
		if err := cmd.Wait(); err != nil {
			return res, fmt.Errorf("end the replicator: %w", err)
		}
		return res, errRead
	}, nil
}
