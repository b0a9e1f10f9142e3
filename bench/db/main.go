// Db measures Leeward's replication of databases against the tools and the
// replication that PostgreSQL and MariaDB have themselves, in one run on the same
// servers over the same link, and checks that what each leaves equals the source.
//
//	go run ./bench/db [-cases pg-empty,pg-stale,…] [-scale 1.0] [-json FILE]
//
// It needs root and what scripts/setup bench installs. Servers, link and tools are
// in namespaces of its own, so that nothing outlives it and no lab is disturbed.
// LEEWARD_BENCH_DB_PROFILE names a file for a CPU profile of Leeward's last run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// allCases are the cases there are, in the order they are run.
func allCases() []string {
	return []string{"pg-empty", "pg-stale", "pg-apply", "pg-lag", "my-empty", "my-stale", "my-apply"}
}

// settings are the command line.
type settings struct {
	cases        []string
	scale        float64
	json         string
	dir          string
	passes       int           // of each tool, of which the median is taken
	transactions int           // of the cases apply
	lagFor       time.Duration // how long the load of pg-lag lasts
	shaped       string        // the rate of the slow link
	unequal      bool          // go on where a result differs from the source
}

// cluster is the size of the parts of which the first tenth differs in a stale clone.
const cluster = 50_000

// rows is how many the large table has: a multiple of cluster.
func (s *settings) rows() int { return max(int(3e6*s.scale+cluster/2)/cluster, 1) * cluster }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	if len(os.Args) > 1 && os.Args[1] == childVerb {
		return replicate(ctx, os.Args[2:], os.Stdout)
	}
	s, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	if os.Getenv(insideEnv) == "" {
		return enclose(ctx, s)
	}
	b := &bench{settings: s, report: newReport(s)}
	return b.all(ctx)
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	fs := flag.NewFlagSet("db", flag.ContinueOnError)
	cases := fs.String("cases", strings.Join(allCases(), ","), "cases to measure")
	fs.Float64Var(&s.scale, "scale", 1, "size of the data; 1 is 3 million rows of about 170 bytes")
	fs.StringVar(&s.json, "json", "", "write all figures to this file")
	fs.StringVar(&s.dir, "dir", "/var/lib/leeward-bench-db", "working directory, on a disk; removed before and afterwards")
	fs.IntVar(&s.passes, "passes", 1, "passes of each tool, of which the median is taken; not of apply and lag")
	fs.IntVar(&s.transactions, "transactions", 60_000, "transactions of the cases apply")
	fs.DurationVar(&s.lagFor, "lag", 20*time.Second, "how long the load of pg-lag lasts")
	fs.StringVar(&s.shaped, "rate", "100mbit", "rate of the slow link")
	fs.BoolVar(&s.unequal, "unequal", false, "go on where what a tool left differs from the source, and say so")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	s.cases = strings.Split(*cases, ",")
	for _, c := range s.cases {
		if !slices.Contains(allCases(), c) {
			return nil, fmt.Errorf("read -cases: there is no case %q", c)
		}
	}
	if s.scale <= 0 || s.scale > 10 || s.passes < 1 || s.transactions < 100 || s.lagFor < time.Second {
		return nil, errors.New("read arguments: -scale, -passes, -transactions or -lag is out of range")
	}
	var err error
	if s.json != "" {
		if s.json, err = filepath.Abs(s.json); err != nil {
			return nil, fmt.Errorf("find the file for figures: %w", err)
		}
	}
	if s.dir, err = filepath.Abs(s.dir); err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	return s, nil
}

// bench is one run.
type bench struct {
	*settings
	report *report
	meter  *meter
}

// all runs the cases, an engine's servers up only for its own.
func (b *bench) all(ctx context.Context) error {
	if err := b.furnish(ctx); err != nil {
		return err
	}
	var err error
	if b.meter, err = newMeter(filepath.Join(b.dir, "cgroup", os.Getenv(insideEnv))); err != nil {
		return err
	}
	for _, e := range []struct {
		prefix string
		run    func(context.Context) error
	}{{"pg-", b.postgres}, {"my-", b.mariadb}} {
		if !slices.ContainsFunc(b.cases, func(c string) bool { return strings.HasPrefix(c, e.prefix) }) {
			continue
		}
		if err := e.run(ctx); err != nil {
			return err
		}
	}
	b.report.summary()
	return nil
}

// cased runs those cases that are wanted.
func (b *bench) cased(ctx context.Context, cases map[string]func(context.Context) error) error {
	for _, name := range allCases() {
		f := cases[name]
		if f == nil || !slices.Contains(b.cases, name) {
			continue
		}
		if err := f(ctx); err != nil {
			return fmt.Errorf("case %s: %w", name, err)
		}
	}
	return nil
}
