package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/leeward-dr/leeward/internal/config"
	"github.com/leeward-dr/leeward/internal/discover"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/remote"
)

// initResult is what init found and wrote.
type initResult struct {
	discoverResult
	File    string `json:"file"`
	Written bool   `json:"written"`
	Diff    string `json:"diff,omitempty"` // proposed for a file that is there already
}

type initFlags struct {
	estate, source, target, store, sshConfig *string
	watch                                    *time.Duration
}

func (c *call) initFlags() initFlags {
	return initFlags{
		estate:    c.flags.String("estate", "", "call the estate `NAME`; the directory's name otherwise"),
		source:    c.flags.String("source", "source", "call the site of the servers `NAME`"),
		target:    c.flags.String("target", "target", "call this site `NAME`"),
		store:     c.flags.String("store", "/srv/leeward", "keep replicas and inventories in `DIR`"),
		sshConfig: c.flags.String("ssh-config", "", "reach hosts by `FILE` in place of ~/.ssh/config"),
		watch:     c.flags.Duration("watch", defaultWatch, "watch connections and disks for `DURATION`; the longer, the more of who talks to whom is seen"),
	}
}

func runInit(ctx context.Context, c *call) error {
	f := c.initFlags()
	hosts, err := c.parse()
	if err != nil {
		return err
	}
	old, err := c.oldConfig()
	if err != nil {
		return err
	}
	targets, err := initTargets(old, hosts, *f.sshConfig)
	if err != nil {
		return err
	}
	name, store := f.estateName(c.config), *f.store
	if old != nil {
		name, store = old.Name, old.Target.Store
	}
	found, err := c.look(ctx, name, targets, *f.watch)
	if err != nil {
		return err
	}
	res := &initResult{discoverResult: *describeEstate(found), File: c.config}
	if res.code() == exitFailed {
		// Of nothing nothing can be proposed.
		return c.done(exitFailed, res, func(w io.Writer) { renderMissed(w, &res.discoverResult) })
	}
	if err := res.propose(found, old, f); err != nil {
		return err
	}
	if res.Inventory, err = discover.Keep(store, found); err != nil {
		return err
	}
	return c.done(res.code(), res, func(w io.Writer) { renderInit(w, res) })
}

// oldConfig is the configuration that is there already, nil where there is none.
func (c *call) oldConfig() (*config.Estate, error) {
	if _, err := os.Lstat(c.config); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	e, err := config.Load(c.config)
	if err != nil {
		return nil, &configError{dr.WithHint(err, "mend it first, or name another file with -c: init adds to what is there")}
	}
	return e, nil
}

func (f initFlags) estateName(file string) string {
	if *f.estate != "" {
		return *f.estate
	}
	if abs, err := filepath.Abs(file); err == nil {
		if name := strings.ToLower(filepath.Base(filepath.Dir(abs))); dr.ValidName(name) {
			return name
		}
	}
	return "estate"
}

// initTargets are the hosts of the command line and the servers of the file that is there.
func initTargets(old *config.Estate, hosts []string, sshConfig string) ([]discover.Target, error) {
	var targets []discover.Target
	if old != nil {
		var names []dr.ServerName
		for _, s := range old.Servers {
			names = append(names, s.Name)
		}
		targets = targetsOf(old, names)
		if sshConfig == "" {
			sshConfig = old.Source.SSH.Config
		}
	}
	seen := map[string]bool{}
	for _, t := range targets {
		seen[t.Reach.Host] = true
	}
	for _, h := range hosts {
		t, err := parseHost(h)
		if err != nil {
			return nil, err
		}
		if seen[t.Host] {
			continue
		}
		seen[t.Host] = true
		t.SSHConfig = sshConfig
		targets = append(targets, discover.Target{Reach: t})
	}
	if len(targets) == 0 {
		return nil, dr.WithHint(usagef("no host named"), "name the servers to protect, as ssh knows them: leeward init root@web1 db1 ops@10.10.0.12")
	}
	return targets, nil
}

// parseHost reads USER@HOST or HOST.
func parseHost(s string) (t remote.Target, err error) {
	user, host, ok := strings.Cut(s, "@")
	if !ok {
		user, host = "", s
	}
	if host == "" || ok && user == "" || strings.HasPrefix(host, "-") || strings.HasPrefix(user, "-") || strings.ContainsAny(s, " \t\n'\"`$\\;&|<>(){}/") {
		return t, usagef("%s: want a host as ssh knows it, HOST or USER@HOST", strconv.Quote(s))
	}
	return remote.Target{Host: host, User: user}, nil
}

// propose writes the new file, or the diff to the old one.
func (r *initResult) propose(found *inventory.Estate, old *config.Estate, f initFlags) error {
	if old == nil {
		text := discover.Propose(found, r.Graph, discover.Wishes{Source: *f.source, Target: *f.target, Store: *f.store, SSHConfig: *f.sshConfig, Accelerator: "auto"})
		if _, err := config.Parse(r.File, []byte(text)); err != nil {
			return &configError{err}
		}
		r.Written = true
		return writeNew(r.File, text)
	}
	was, err := os.ReadFile(r.File)
	if err != nil {
		return fmt.Errorf("read %s: %w", r.File, err)
	}
	text, err := discover.Merge(string(was), found, r.Graph)
	if err != nil {
		return dr.WithHint(fmt.Errorf("add to %s: %w", r.File, err), "write to another file with -c, and take over what you want")
	}
	if _, err := config.Parse(r.File+" (proposed)", []byte(text)); err != nil {
		return &configError{err}
	}
	r.Diff = discover.Diff(r.File, r.File+" (proposed)", string(was), text)
	return nil
}

// writeNew writes a file that is not there yet; one that came meanwhile stays.
func writeNew(path, text string) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write proposal: %w", err)
	}
	_, err = out.WriteString(text)
	if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("write proposal: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

func renderInit(w io.Writer, r *initResult) {
	renderFound(w, &r.discoverResult)
	fmt.Fprintf(w, "Inventory: %s\n", clean(r.Inventory))
	switch {
	case r.Written:
		fmt.Fprintf(w, "Wrote %s. Read it, then: leeward plan\n", clean(r.File))
	case r.Diff == "":
		fmt.Fprintf(w, "%s says all of this already\n", clean(r.File))
	default:
		fmt.Fprintf(w, "Proposed for %s, which stays as it is; take over what you want:\n\n", clean(r.File))
		for line := range strings.Lines(r.Diff) {
			fmt.Fprintln(w, clean(strings.TrimRight(line, "\n")))
		}
	}
}
