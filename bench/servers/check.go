package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/leeward-dr/leeward/lab"
)

// volatile is what may differ between a server that runs and a copy of it made
// a while ago, though nobody works on it. Patterns are of path.Match; one that
// ends in a slash stands for everything below.
func volatile() []string {
	return []string{
		"lost+found/",                    // mkfs makes it
		"var/lib/systemd/random-seed",    // must not exist twice
		"var/lib/postgresql/",            // the server runs; Leeward's copy is a backup in its sense
		"var/lib/mysql/",                 // the server runs
		"var/log/", "var/spool/postfix/", // daemons
		"var/cache/leeward/", "root/.cache/leeward/", "home/ops/.cache/leeward/", // Leeward's agent
	}
}

func isVolatile(name string) bool {
	return slices.ContainsFunc(volatile(), func(p string) bool {
		if strings.HasSuffix(p, "/") {
			return strings.HasPrefix(name, p) || name+"/" == p || strings.HasSuffix(name, "/"+p)
		}
		ok, _ := path.Match(p, name)
		return ok
	})
}

// compare lets rsync compare a copy with its server by content and every
// attribute, and returns the lines that are not volatile, and how many are.
func (s *site) compare(ctx context.Context, name, copyDir string) (lines []string, ignored int, err error) {
	view, err := s.view(name)
	if err != nil {
		return nil, 0, err
	}
	out, err := command(ctx, "rsync", "-aHAXSnc", "--numeric-ids", "--delete", "--itemize-changes", view+"/", copyDir+"/")
	if err != nil {
		return nil, 0, err
	}
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		kind, file, ok := strings.Cut(line, " ")
		if !ok || kind == "" {
			continue
		}
		file = strings.TrimSpace(file)
		dirTime := strings.HasPrefix(kind, ".d..t.....") // something volatile in it came or went
		if isVolatile(file) || dirTime {
			ignored++
			continue
		}
		lines = append(lines, line)
	}
	return lines, ignored, nil
}

// equal compares what a tool left with all servers.
func (s *site) equal(ctx context.Context, tool string, dir func(name string) (string, func() error, error)) error {
	if err := s.showViews(ctx); err != nil {
		return err
	}
	var different []string
	ignored := 0
	for _, name := range s.servers {
		at, done, err := dir(name)
		if err != nil {
			return err
		}
		lines, n, err := s.compare(ctx, name, at)
		if err = errors.Join(err, done()); err != nil {
			return err
		}
		ignored += n
		for _, l := range lines {
			different = append(different, name+": "+l)
		}
	}
	if len(different) == 0 {
		s.report.say("check: %s equals the source, %d volatile lines aside", tool, ignored)
		return nil
	}
	for i, l := range different {
		if i < 20 {
			s.report.say("check: %s: %s", tool, l)
		}
	}
	err := fmt.Errorf("compare %s with the source: %d differences", tool, len(different))
	// What rsync cannot carry is worth knowing, and no fault of this run.
	if s.unequal || tool == "rsync" {
		s.report.say("check: %v", err)
		return nil
	}
	return err
}

func (r *rsync) check(ctx context.Context) error {
	return r.equal(ctx, "rsync", func(name string) (string, func() error, error) {
		return filepath.Join(r.dir, name), func() error { return nil }, nil
	})
}

func (l *leeward) check(ctx context.Context) error {
	return l.equal(ctx, "leeward", func(name string) (string, func() error, error) { return l.mountPoint(ctx, name) })
}

// partition is what layout.json says of one.
type partition struct {
	Kind       string `json:"kind"`
	MountPoint string `json:"mount_point"`
	Type       string `json:"type"`
	Offset     int64  `json:"offset"`
	Size       int64  `json:"size"`
}

// mountPoint mounts the disk of the newest recovery point, by hand as
// docs/formats.md tells it.
func (l *leeward) mountPoint(ctx context.Context, name string) (dir string, done func() error, err error) {
	points, err := filepath.Glob(filepath.Join(l.store, "servers", name, "points", "[0-9]*"))
	if err != nil || len(points) == 0 {
		return "", nil, fmt.Errorf("find recovery point of %s: there is none", name)
	}
	slices.Sort(points)
	point := points[len(points)-1]
	text, err := os.ReadFile(filepath.Join(point, "layout.json"))
	var layout struct{ Partitions []partition }
	if err == nil {
		err = json.Unmarshal(text, &layout)
	}
	if err != nil {
		return "", nil, fmt.Errorf("read recovery point of %s: %w", name, err)
	}
	disk := filepath.Join(l.target, "check.raw")
	if _, err := command(ctx, "cp", "--reflink=always", filepath.Join(point, "disk.raw"), disk); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(l.dir, "check")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make directory: %w", err)
	}
	var mounted []string
	done = func() error {
		var errs []error
		for _, at := range slices.Backward(mounted) {
			if err := syscall.Unmount(at, 0); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
			}
		}
		return errors.Join(append(errs, os.Remove(disk))...)
	}
	slices.SortFunc(layout.Partitions, func(a, b partition) int { return strings.Compare(a.MountPoint, b.MountPoint) })
	for _, p := range layout.Partitions {
		if p.Kind != "filesystem" || p.MountPoint == "" {
			continue
		}
		for _, m := range mountsOf(name, p) {
			at := filepath.Join(dir, m.Mount)
			if _, err := command(ctx, "mount", "-t", p.Type, "-o", m.Options, disk, at); err != nil {
				return "", nil, errors.Join(err, done())
			}
			mounted = append(mounted, at)
		}
	}
	return dir, done, nil
}

// mountsOf lists how a filesystem of a server is mounted.
func mountsOf(name string, p partition) []lab.Filesystem {
	options := fmt.Sprintf("ro,loop,offset=%d,sizelimit=%d", p.Offset, p.Size)
	if p.Type == "xfs" {
		options += ",nouuid"
	}
	var out []lab.Filesystem
	for _, spec := range lab.Servers() {
		for _, f := range spec.Filesystems {
			for _, v := range f.Subvolumes {
				if spec.Name == name && f.Mount == p.MountPoint {
					out = append(out, lab.Filesystem{Mount: v.Mount, Options: options + ",subvol=" + v.Name})
				}
			}
		}
	}
	if len(out) == 0 {
		out = append(out, lab.Filesystem{Mount: p.MountPoint, Options: options})
	}
	return out
}
