package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/lab"
)

// targetBytes is the size of the target's disk; it is sparse.
const targetBytes = 400 << 30

// site is a raised lab with a disk at the target for all tools alike: XFS, so
// that Leeward's store and the copies of others lie on one filesystem.
type site struct {
	*bench
	lab     *lab.Lab
	meter   *meter
	servers []string
	target  string // where the target's disk is mounted
	image   string
}

// raise brings up a lab of servers; ram puts the target's disk into memory.
func (b *bench) raise(ctx context.Context, servers []string, rate string, data map[string]int64, ram bool) (*site, error) {
	if err := b.clear(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make working directory: %w", err)
	}
	s := &site{bench: b, servers: servers, target: filepath.Join(b.dir, "target"), image: filepath.Join(b.dir, "target.xfs")}
	if err := s.mountTarget(ctx, ram); err != nil {
		return nil, errors.Join(err, s.lower(ctx))
	}
	var err error
	s.lab, err = lab.Up(ctx, lab.Options{Dir: filepath.Join(b.dir, "lab"), Cache: b.cache, Rate: rate,
		Servers: servers, Quiet: true, NoDatabases: true, Data: data, Log: b.report.say})
	if err == nil {
		s.meter, err = newMeter(s.lab, filepath.Join(b.dir, "cgroup"), servers)
	}
	for _, name := range servers {
		if err == nil {
			err = s.equip(ctx, name)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.lower(ctx))
	}
	return s, nil
}

// clear removes what an earlier run left.
func (b *bench) clear(ctx context.Context) error {
	if err := lab.Remove(ctx, filepath.Join(b.dir, "lab")); err != nil {
		return err
	}
	for _, name := range []string{"target.xfs", "target", "ram", "cgroup", "check"} {
		if err := os.RemoveAll(filepath.Join(b.dir, name)); err != nil {
			return fmt.Errorf("clear working directory: %w", err)
		}
	}
	return nil
}

func (s *site) mountTarget(ctx context.Context, ram bool) error {
	if ram {
		dir := filepath.Join(s.dir, "ram")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=90%"); err != nil {
			return fmt.Errorf("make disk in memory: %w", err)
		}
		s.image = filepath.Join(dir, "target.xfs")
	}
	if err := os.MkdirAll(s.target, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.Create(s.image)
	if err != nil {
		return fmt.Errorf("make the target's disk: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(targetBytes); err != nil {
		return fmt.Errorf("make the target's disk: %w", err)
	}
	if _, err := command(ctx, "mkfs.xfs", "-q", "-m", "reflink=1", s.image); err != nil {
		return err
	}
	dev, err := command(ctx, "losetup", "--find", "--show", "--direct-io=on", s.image)
	if err != nil {
		return err
	}
	dev = strings.TrimSpace(dev)
	_, err = command(ctx, "mount", "-t", "xfs", dev, s.target)
	// Detached when it is unmounted.
	_, errDetach := command(ctx, "losetup", "--detach", dev)
	return errors.Join(err, errDetach)
}

// lower takes everything down again.
func (s *site) lower(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	if s.lab != nil {
		errs = append(errs, s.lab.Down(ctx))
	}
	if s.meter != nil {
		s.meter.close()
	}
	for _, at := range []string{s.target, filepath.Join(s.dir, "ram")} {
		if err := syscall.Unmount(at, 0); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	if s.keep || errors.Join(errs...) != nil {
		return errors.Join(errs...)
	}
	return errors.Join(s.clear(ctx), os.Remove(s.dir))
}

// Where things are in a server. It is a tmpfs: nothing is added to what is copied.
const (
	toolDir = "/run/bench"
	viewDir = toolDir + "/view"
)

// equip brings this machine's rsync and restic to a server, with all libraries:
// servers have none of their own, and both ends have one version so.
func (s *site) equip(ctx context.Context, name string) error {
	libs, err := libraries(ctx, "rsync", "restic")
	if err != nil {
		return err
	}
	pack, err := command(ctx, "tar", append([]string{"-c", "-h", "-P", "--transform", "s,.*/,,"}, libs...)...)
	if err != nil {
		return err
	}
	var script strings.Builder
	fmt.Fprintf(&script, "mkdir -p %[1]s && cd %[1]s && tar -x && mkdir -p %[2]s\n", toolDir, viewDir)
	for _, tool := range []string{"rsync", "restic"} {
		fmt.Fprintf(&script, "mv %[1]s %[1]s.bin; printf '%%s\\n' '#!/bin/sh' 'exec %[2]s/ld-linux-x86-64.so.2 --library-path %[2]s %[2]s/%[1]s.bin \"$@\"' > %[1]s; chmod 755 %[1]s\n", tool, toolDir)
	}
	return s.lab.RunIO(ctx, name, strings.NewReader(pack), nil, "/bin/sh", "-e", "-c", script.String())
}

// libraries lists the files that the named programs need, themselves included.
func libraries(ctx context.Context, programs ...string) ([]string, error) {
	seen := map[string]bool{}
	var out []string
	for _, p := range programs {
		path, err := exec.LookPath(p)
		if err != nil {
			return nil, fmt.Errorf("find %s: %w", p, err)
		}
		text, err := command(ctx, "ldd", path)
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(path + "\n" + text) {
			if strings.HasPrefix(word, "/") && !seen[word] {
				seen[word] = true
				out = append(out, word)
			}
		}
	}
	return out, nil
}

// view is where this machine sees the view of a server's filesystems.
func (s *site) view(name string) (string, error) {
	srv, err := s.lab.Server(name)
	return srv.Root + viewDir, err
}

// each runs a script in every server.
func (s *site) each(ctx context.Context, script func(mounts []string) string) error {
	for _, name := range s.servers {
		srv, err := s.lab.Server(name)
		if err != nil {
			return err
		}
		if _, err := s.lab.Run(ctx, name, "/bin/sh", "-e", "-c", script(srv.Mounts)); err != nil {
			return err
		}
	}
	return nil
}

// hideViews takes the views away while Leeward works, which would list them.
func (s *site) hideViews(ctx context.Context) error {
	return s.each(ctx, func([]string) string { return "umount -R " + viewDir + " 2>/dev/null || true" })
}

// showViews makes a view of each server's own filesystems alone, without what is
// mounted over them: what Leeward captures, for tools that follow paths.
func (s *site) showViews(ctx context.Context) error {
	return s.each(ctx, func(mounts []string) string {
		var b strings.Builder
		fmt.Fprintf(&b, "umount -R %s 2>/dev/null || true\n", viewDir)
		for _, at := range mounts {
			fmt.Fprintf(&b, "mount --bind '%s' '%s'\n", at, viewDir+strings.TrimSuffix(at, "/"))
		}
		return b.String()
	})
}

// settle brings all that was written before to disk, so that a run does not
// pay for another.
func (s *site) settle() error {
	return errors.Join(syncFilesystem(s.target), syncFilesystem(s.dir))
}

func syncFilesystem(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// command runs a program of this machine and returns what it printed.
func command(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errb bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errb
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", name, err, tail(errb.String()))
	}
	return out.String(), nil
}

// tail keeps the end of what a program said.
func tail(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 2000 {
		s = "…" + s[len(s)-2000:]
	}
	return s
}
