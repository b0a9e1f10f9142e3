package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// bench is one run of the program.
type bench struct {
	*settings
	report *report
}

const (
	shaped   = "100mbit"
	unshaped = "0"
	alone    = "dns1" // the smallest server; cases c to f add data to it
)

// all measures the cases that were asked for, those of one lab together.
func (b *bench) all(ctx context.Context) error {
	for _, g := range []struct {
		cases []string
		run   func(context.Context) error
	}{
		{[]string{"c", "e"}, b.small},
		{[]string{"d"}, b.changedBlocks},
		{[]string{"f"}, b.firstLarge},
		{[]string{"a", "b"}, b.estate},
	} {
		if !slices.ContainsFunc(g.cases, b.wants) {
			continue
		}
		if err := g.run(ctx); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	b.report.summary()
	return nil
}

func (b *bench) wants(name string) bool { return slices.Contains(b.cases, name) }

// onAlone raises a lab of one server with room for data at /data, carries the
// server over by both tools, so that only the data counts afterwards, and tells
// where the data belongs.
func (b *bench) onAlone(ctx context.Context, size int64, ram bool) (s *site, l *leeward, r *rsync, data string, err error) {
	s, err = b.raise(ctx, []string{alone}, unshaped, map[string]int64{alone: size}, ram)
	if err != nil {
		return nil, nil, nil, "", err
	}
	fail := func(err error) (*site, *leeward, *rsync, string, error) {
		return nil, nil, nil, "", errors.Join(err, s.lower(ctx))
	}
	if l, err = s.leewardIn("leeward"); err != nil {
		return fail(err)
	}
	if r, err = s.rsyncIn("rsync", false); err != nil {
		return fail(err)
	}
	srv, err := s.lab.Server(alone)
	if err != nil {
		return fail(err)
	}
	for _, pass := range []func(context.Context) (usage, error){l.pass, r.pass} {
		if _, err := pass(ctx); err != nil {
			return fail(err)
		}
	}
	return s, l, r, filepath.Join(srv.Root, "data"), nil
}

// turns runs both tools once, the first one changing from turn to turn.
func turns(ctx context.Context, turn int, l *leeward, r *rsync, before func() error) (lu, ru usage, err error) {
	left := func() error { lu, err = l.pass(ctx); return err }
	right := func() error { ru, err = r.pass(ctx); return err }
	order := []func() error{left, right}
	if turn%2 == 1 {
		order[0], order[1] = right, left
	}
	for _, f := range order {
		if err := before(); err != nil {
			return lu, ru, err
		}
		if err := f(); err != nil {
			return lu, ru, err
		}
	}
	return lu, ru, nil
}

func nothing() error { return nil }

// small is cases c and e: a million small files.
func (b *bench) small(ctx context.Context) (err error) {
	n := int(1e6 * b.scale)
	s, l, r, data, err := b.onAlone(ctx, max(int64(24*b.scale*(1<<30)), 1<<30), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lower(ctx)) }()
	begin := time.Now()
	if err := makeSmall(data, n); err != nil {
		return err
	}
	b.report.say("made %d files in %.0f s", n, time.Since(begin).Seconds())
	lu, ru, err := turns(ctx, 0, l, r, nothing)
	if err != nil {
		return err
	}
	err = b.report.add(figures{Case: "c0", Title: fmt.Sprintf("first pass of %d small files, unshaped", n), Leeward: lu, Rsync: ru,
		Targets: []target{memoryAtMost(300e6)}})
	if err != nil {
		return err
	}
	if b.wants("c") {
		if err := b.unchanged(ctx, n, l, r); err != nil {
			return err
		}
	}
	if b.wants("e") {
		if err := b.changedFiles(ctx, data, n, l, r); err != nil {
			return err
		}
	}
	return errors.Join(l.check(ctx), r.check(ctx))
}

func (b *bench) unchanged(ctx context.Context, n int, l *leeward, r *rsync) error {
	var ls, rs []usage
	for i := range b.passes {
		lu, ru, err := turns(ctx, i, l, r, nothing)
		if err != nil {
			return err
		}
		b.report.pass("c", i, lu, ru)
		ls, rs = append(ls, lu), append(rs, ru)
	}
	return b.report.add(figures{Case: "c", Title: fmt.Sprintf("nothing changed of %d files, unshaped, medians of %d passes", n, b.passes),
		Leeward: median(ls), Rsync: median(rs),
		Targets: []target{timeAtMost(0.5), bytesAtMost(0.05), memoryAtMost(300e6)}})
}

func (b *bench) changedFiles(ctx context.Context, data string, n int, l *leeward, r *rsync) error {
	count := n / 200
	var ls, rs []usage
	for i := range b.passes {
		if err := changeSmall(data, n, count, i); err != nil {
			return err
		}
		lu, ru, err := turns(ctx, i, l, r, nothing)
		if err != nil {
			return err
		}
		b.report.pass("e", i, lu, ru)
		ls, rs = append(ls, lu), append(rs, ru)
	}
	return b.report.add(figures{Case: "e", Title: fmt.Sprintf("%d of %d files changed, unshaped, medians of %d passes", count, n, b.passes),
		Leeward: median(ls), Rsync: median(rs), Targets: []target{timeAtMost(0.5), memoryAtMost(300e6)}})
}

// tenGB is the size of the large file in multiples of a block.
func (b *bench) tenGB() int64 { return int64(10e9*b.scale) / blockSize * blockSize }

// changedBlocks is case d.
func (b *bench) changedBlocks(ctx context.Context) (err error) {
	size := b.tenGB()
	s, l, r, data, err := b.onAlone(ctx, size+size/8+1<<30, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lower(ctx)) }()
	file := filepath.Join(data, "large")
	if err := makeLarge(file, size); err != nil {
		return err
	}
	cold := func() error {
		return errors.Join(s.settle(), forget(file, filepath.Join(s.dir, "lab", "servers", alone, "data.raw"),
			filepath.Join(r.dir, alone, "data", "large"), filepath.Join(l.store, "servers", alone, "disk.raw"), s.image))
	}
	lu, ru, err := turns(ctx, 0, l, r, cold)
	if err != nil {
		return err
	}
	err = b.report.add(figures{Case: "d0", Title: fmt.Sprintf("first pass of one file of %d MB, target on disk", size/1e6), Leeward: lu, Rsync: ru, Bytes: size})
	if err != nil {
		return err
	}
	changed, err := changeLarge(file, size)
	if err != nil {
		return err
	}
	if lu, ru, err = turns(ctx, 1, l, r, cold); err != nil {
		return err
	}
	err = b.report.add(figures{Case: "d", Title: fmt.Sprintf("1 %% of 64 KiB blocks changed in a file of %d MB, unshaped", size/1e6),
		Leeward: lu, Rsync: ru, Targets: []target{timeAtMost(0.5), bytesOf(changed, 1.3)}})
	return errors.Join(err, l.check(ctx), r.check(ctx))
}

// firstLarge is case f. Both ends would wait for the disk more than anything, so
// the target's disk is in memory, and holds one tool's copy at a time.
func (b *bench) firstLarge(ctx context.Context) (err error) {
	size := b.tenGB()
	s, l, r, data, err := b.onAlone(ctx, size+size/8+1<<30, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.lower(ctx)) }()
	file := filepath.Join(data, "large")
	if err := makeLarge(file, size); err != nil {
		return err
	}
	cold := func() error {
		return errors.Join(s.settle(), forget(file, filepath.Join(s.dir, "lab", "servers", alone, "data.raw")))
	}
	if err := cold(); err != nil {
		return err
	}
	ru, err := r.pass(ctx)
	if err == nil {
		err = r.check(ctx)
	}
	if err := errors.Join(err, os.RemoveAll(r.dir), s.trim(ctx), cold()); err != nil {
		return err
	}
	lu, err := l.pass(ctx)
	if err != nil {
		return err
	}
	err = b.report.add(figures{Case: "f", Title: fmt.Sprintf("first pass of one incompressible file of %d MB, unshaped, target in memory", size/1e6),
		Leeward: lu, Rsync: ru, Bytes: size, Targets: []target{rateAtLeast(1.5)}})
	return errors.Join(err, l.check(ctx))
}

// trim gives space that is free on the target's disk back to this machine.
func (s *site) trim(ctx context.Context) error {
	_, err := command(ctx, "fstrim", s.target)
	return err
}
