package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// leeward is one store with the estate file for it.
type leeward struct {
	*site
	store, config string
}

// leewardIn makes an estate of the site's servers with its store in a new
// directory of the target's disk.
func (s *site) leewardIn(name string, seeds ...string) (*leeward, error) {
	l := &leeward{site: s, store: filepath.Join(s.target, name), config: filepath.Join(s.dir, "lab", name+".yaml")}
	var b strings.Builder
	fmt.Fprintf(&b, "estate: bench\nsource:\n  name: miami\n  ssh: {config: %s}\ntarget:\n  name: dallas\n  store: %s\n", s.lab.SSHConfig(), l.store)
	if len(seeds) > 0 {
		b.WriteString("seeds:\n")
		for _, seed := range seeds {
			fmt.Fprintf(&b, "  - %s\n", seed)
		}
	}
	b.WriteString("servers:\n")
	for _, name := range s.servers {
		fmt.Fprintf(&b, "  - {name: %[1]s, host: %[1]s}\n", name)
	}
	if err := os.MkdirAll(l.store, 0o755); err != nil {
		return nil, fmt.Errorf("make store: %w", err)
	}
	if err := os.WriteFile(l.config, []byte(b.String()), 0o644); err != nil {
		return nil, fmt.Errorf("write estate: %w", err)
	}
	return l, nil
}

// run runs a command of Leeward at the target, at all servers at once.
func (l *leeward) run(ctx context.Context, verb string) error {
	cmd, done, err := l.meter.command(ctx, l.leeward, verb, "-c", l.config, "--json")
	if err != nil {
		return err
	}
	defer done()
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("leeward %s: %w: %s\n%s", verb, err, tail(errb.String()), tail(out.String()))
	}
	var end struct{ Outcome string }
	if err := json.Unmarshal(out.Bytes(), &end); err != nil {
		return fmt.Errorf("leeward %s: read its result: %w", verb, err)
	}
	if end.Outcome != "done" {
		return fmt.Errorf("leeward %s: it ended as %q", verb, end.Outcome)
	}
	return nil
}

// pass measures one `leeward replicate`.
func (l *leeward) pass(ctx context.Context) (usage, error) {
	if err := errors.Join(l.hideViews(ctx), l.settle()); err != nil {
		return usage{}, err
	}
	return l.meter.measure(ctx, l.target, func() error { return l.run(ctx, "replicate") })
}

// rsync is one directory of copies made by rsync, a directory for each server.
type rsync struct {
	*site
	dir string
	z   bool
}

func (s *site) rsyncIn(name string, z bool) (*rsync, error) {
	r := &rsync{site: s, dir: filepath.Join(s.target, name), z: z}
	for _, server := range s.servers {
		if err := os.MkdirAll(filepath.Join(r.dir, server), 0o755); err != nil {
			return nil, fmt.Errorf("make directory for rsync: %w", err)
		}
	}
	return r, nil
}

// pass measures one rsync of every server, all at once.
func (r *rsync) pass(ctx context.Context) (usage, error) {
	if err := errors.Join(r.showViews(ctx), r.settle()); err != nil {
		return usage{}, err
	}
	return r.meter.measure(ctx, r.target, func() error { return r.all(ctx) })
}

func (r *rsync) all(ctx context.Context) error {
	errs := make([]error, len(r.servers))
	var wg sync.WaitGroup
	for i, name := range r.servers {
		wg.Go(func() { errs[i] = r.one(ctx, name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *rsync) one(ctx context.Context, name string) error {
	srv, err := r.lab.Server(name)
	if err != nil {
		return err
	}
	argv := []string{"rsync", "-aHAXS", "--numeric-ids", "--delete"}
	if r.z {
		argv = append(argv, "-z")
	}
	tool := toolDir + "/rsync"
	if srv.User != "root" {
		tool = "sudo " + tool
	}
	argv = append(argv, "--rsync-path="+tool, "-e", "ssh -F "+r.lab.SSHConfig(),
		name+":"+viewDir+"/", filepath.Join(r.dir, name)+"/")
	cmd, done, err := r.meter.command(ctx, argv...)
	if err != nil {
		return err
	}
	defer done()
	var errb bytes.Buffer
	cmd.Stderr = &errb
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("rsync of %s: %w: %s", name, err, tail(errb.String()))
	}
	return nil
}
