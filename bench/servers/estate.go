package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// estate is cases a and b: whole servers, all at once.
func (b *bench) estate(ctx context.Context) (err error) {
	s, err := b.raise(ctx, b.servers, shaped, nil, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lower(ctx)) }()
	if b.wants("a") {
		if err := s.first(ctx); err != nil {
			return err
		}
	}
	if b.wants("b") {
		return s.seeded(ctx)
	}
	return nil
}

// first is case a: shaped, where bytes are dear and rsync compresses, and
// unshaped, where it does not.
func (s *site) first(ctx context.Context) error {
	for _, link := range []struct {
		rate, name string
		z          bool
		targets    []target
	}{
		{shaped, "a", true, []target{bytesAtMost(0.4), timeAtMost(0.5)}},
		{unshaped, "a-unshaped", false, nil},
	} {
		if err := s.lab.SetRate(ctx, link.rate); err != nil {
			return err
		}
		// Stores are new each time, and so is the agent.
		if err := s.forgetAgents(ctx); err != nil {
			return err
		}
		l, err := s.leewardIn("leeward-" + link.name)
		if err != nil {
			return err
		}
		lu, err := l.pass(ctx)
		if err != nil {
			return err
		}
		r, err := s.rsyncIn("rsync-"+link.name, link.z)
		if err != nil {
			return err
		}
		ru, err := r.pass(ctx)
		if err != nil {
			return err
		}
		title := fmt.Sprintf("first pass of %d servers at %s, rsync %s", len(s.servers), rateName(link.rate), zName(link.z))
		err = s.report.add(figures{Case: link.name, Title: title, Leeward: lu, Rsync: ru, Targets: link.targets})
		if err := errors.Join(err, l.check(ctx), r.check(ctx)); err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(l.store), os.RemoveAll(r.dir)); err != nil {
			return fmt.Errorf("remove copies: %w", err)
		}
	}
	return nil
}

func rateName(rate string) string {
	if rate == unshaped {
		return "full speed"
	}
	return rate + "/s"
}

func zName(z bool) string {
	if z {
		return "with -z"
	}
	return "without -z"
}

// forgetAgents removes what Leeward left at the servers for its next pass.
func (s *site) forgetAgents(ctx context.Context) error {
	return s.each(ctx, func([]string) string {
		return "rm -rf /var/cache/leeward /root/.cache/leeward /home/ops/.cache/leeward /run/leeward"
	})
}

// seeded is case b: a stale clone of all servers is at the target.
func (s *site) seeded(ctx context.Context) error {
	stale, err := s.makeStale(ctx)
	if err != nil {
		return err
	}
	if err := s.lab.SetRate(ctx, shaped); err != nil {
		return err
	}
	l, err := s.leewardIn("leeward-b", stale)
	if err != nil {
		return err
	}
	// The agent is there: case a counts it.
	if err := l.run(ctx, "plan"); err != nil {
		return err
	}
	lu, err := l.pass(ctx)
	if err != nil {
		return err
	}
	r := &rsync{site: s, dir: filepath.Join(s.target, "rsync-b"), z: true}
	if _, err := command(ctx, "cp", "-a", "--reflink=always", stale, r.dir); err != nil {
		return err
	}
	ru, err := r.pass(ctx)
	if err != nil {
		return err
	}
	f := figures{Case: "b", Title: fmt.Sprintf("%d servers with a stale clone at the target, at %s, rsync with -z", len(s.servers), rateName(shaped)),
		Leeward: lu, Rsync: ru, Targets: []target{bytesAtMost(0.1)}}
	if err := errors.Join(s.report.add(f), l.check(ctx), r.check(ctx)); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(l.store), os.RemoveAll(r.dir)); err != nil {
		return fmt.Errorf("remove copies: %w", err)
	}
	u, err := s.restic(ctx, stale)
	if err != nil {
		return err
	}
	return s.report.addRestic(f, u)
}

// makeStale makes the stale clone, a directory for each server.
func (s *site) makeStale(ctx context.Context) (string, error) {
	if err := s.lab.SetRate(ctx, unshaped); err != nil {
		return "", err
	}
	r, err := s.rsyncIn("stale", false)
	if err != nil {
		return "", err
	}
	if _, err := r.pass(ctx); err != nil {
		return "", err
	}
	var sum aging
	for _, name := range s.servers {
		a, err := age(filepath.Join(r.dir, name))
		if err != nil {
			return "", err
		}
		sum.files, sum.moved, sum.changed = sum.files+a.files, sum.moved+a.moved, sum.changed+a.changed
	}
	s.report.say("stale clone: %d files, of which %d moved and renamed, %d changed", sum.files, sum.moved, sum.changed)
	return r.dir, nil
}
