// Servers measures Leeward against rsync over ssh, and in one case restic over
// sftp, in one run on one light lab, and checks that what they leave behind
// equals the source.
//
//	go run ./bench/servers [-cases a,b,c,d,e,f] [-scale 1.0] [-json FILE] [-keep]
//
// It needs root and bin/leeward. It works in a mount namespace of its own, so a
// lab that is up already is not disturbed.
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

	"github.com/leeward-dr/leeward/internal/mountns"
)

// settings are the command line.
type settings struct {
	cases   []string
	scale   float64 // of the data of cases c to f; a and b are whole servers
	json    string
	keep    bool
	dir     string
	cache   string
	leeward string
	servers []string // of cases a and b
	passes  int      // of cases c and e, for medians
	unequal bool     // go on where a result differs from the source
}

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
	s, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	if err := mountns.Enter(); err != nil {
		return err
	}
	// Named network namespaces are files there; our own hide those of other labs.
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return fmt.Errorf("make /run/netns: %w", err)
	}
	if err := syscall.Mount("tmpfs", "/run/netns", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("hide other labs: %w", err)
	}
	b := &bench{settings: s, report: newReport(s)}
	return b.all(ctx)
}

func parse(args []string) (*settings, error) {
	s := &settings{}
	fs := flag.NewFlagSet("servers", flag.ContinueOnError)
	cases := fs.String("cases", "a,b,c,d,e,f", "cases to measure")
	servers := fs.String("servers", "web1,app1,db1,db2,mail1,files1", "servers of cases a and b")
	fs.Float64Var(&s.scale, "scale", 1, "size of the data of cases c to f")
	fs.StringVar(&s.json, "json", "", "write all figures to this file")
	fs.BoolVar(&s.keep, "keep", false, "leave the last lab's files behind")
	fs.StringVar(&s.dir, "dir", "/var/lib/leeward-bench", "working directory; removed afterwards")
	fs.StringVar(&s.cache, "cache", "", "the lab's cache; its default where empty")
	fs.StringVar(&s.leeward, "leeward", "bin/leeward", "the program to measure")
	fs.IntVar(&s.passes, "passes", 3, "passes of cases c and e, of which medians are taken")
	fs.BoolVar(&s.unequal, "unequal", false, "go on where what Leeward left differs from the source, and say so")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	s.cases, s.servers = strings.Split(*cases, ","), strings.Split(*servers, ",")
	for _, c := range s.cases {
		if !slices.Contains([]string{"a", "b", "c", "d", "e", "f"}, c) {
			return nil, fmt.Errorf("read -cases: there is no case %q", c)
		}
	}
	if s.scale <= 0 || s.scale > 10 || s.passes < 1 {
		return nil, errors.New("read arguments: -scale or -passes is out of range")
	}
	var err error
	if s.leeward, err = filepath.Abs(s.leeward); err != nil {
		return nil, fmt.Errorf("find leeward: %w", err)
	}
	if _, err = os.Stat(s.leeward); err != nil {
		return nil, fmt.Errorf("find leeward: %w; build it with make build", err)
	}
	s.dir, err = filepath.Abs(s.dir)
	return s, err
}
