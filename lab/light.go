package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startLight brings one server up in its light form and returns when its sshd
// answers.
func (l *Lab) startLight(ctx context.Context, spec Spec, srv *server, o Options) error {
	work := l.place.path("servers", spec.Name)
	if size := o.Data[spec.Name]; size > 0 {
		if err := l.addData(ctx, srv, filepath.Join(work, "data.raw"), size); err != nil {
			return err
		}
	}
	files, err := lightFiles(spec, srv, work, o)
	if err != nil {
		return err
	}
	if err := writeFiles(work, files); err != nil {
		return err
	}
	if err := plugLight(ctx, spec); err != nil {
		return err
	}
	const flags = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC
	g, err := startGated(filepath.Join(work, "light.log"), flags,
		"/usr/bin/env", "ip", "netns", "exec", spec.NetNS(),
		"/bin/bash", filepath.Join(work, "light.sh"), work, filepath.Join(work, "disk.raw"), spec.Name)
	if err != nil {
		return err
	}
	if err := l.place.update(func(*state) { srv.Process = g.process }); err != nil {
		return err
	}
	if err := g.open(); err != nil {
		return err
	}
	return l.waitLight(ctx, srv, work)
}

// addData makes one more filesystem for a light server.
func (l *Lab) addData(ctx context.Context, srv *server, path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("make data filesystem: %w", err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("make data filesystem: %w", err)
	}
	uuid := Spec{Name: srv.Name}.uuid(path, "data")
	if _, err := run(ctx, "mke2fs", "-q", "-t", "ext4", "-m", "0", "-U", uuid, "-L", "data", "-F", path); err != nil {
		return err
	}
	return l.place.update(func(*state) {
		srv.Parts = append(srv.Parts, Partition{
			Filesystem: Filesystem{Mount: "/data", Type: "ext4", Label: "data"},
			Size:       size, UUID: uuid, Image: path,
		})
	})
}

// lightFiles is what light.sh reads, by path within the server's directory.
func lightFiles(spec Spec, srv *server, work string, o Options) (map[string]string, error) {
	files := map[string]string{"mounts": mountsFile(srv.Parts, filepath.Join(work, "disk.raw"))}
	for from, to := range map[string]string{
		"scripts/light.sh":                "light.sh",
		"scripts/rootinit.sh":             "rootinit.sh",
		"recipes/" + spec.Name + ".start": "start.sh",
	} {
		text, err := content.ReadFile(from)
		if err != nil {
			return nil, fmt.Errorf("read script: %w", err)
		}
		files[to] = string(text)
	}
	if o.Quiet {
		files["quiet"] = ""
	}
	return files, nil
}

// waitLight waits for a light server to have started its services.
func (l *Lab) waitLight(ctx context.Context, srv *server, work string) error {
	started := fmt.Sprintf("/proc/%d/root/run/lab/started", srv.Process.Pid)
	err := waitFor(ctx, 60*time.Second, srv.Name+" to start", func() bool {
		_, err := os.Stat(started)
		return err == nil || !srv.Process.alive()
	})
	if err == nil && srv.Process.alive() {
		return nil
	}
	said, _ := os.ReadFile(filepath.Join(work, "light.log")) // only to explain
	if err == nil {
		err = fmt.Errorf("it ended early")
	}
	return fmt.Errorf("start %s: %w: %s", srv.Name, err, strings.TrimSpace(string(said)))
}

// enter builds a command that runs inside a light server.
func (s *server) enter(ctx context.Context, argv ...string) *exec.Cmd {
	args := append([]string{"-t", fmt.Sprint(s.Process.Pid), "-m", "-u", "-i", "-n", "-p", "-r", "-w", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C"}
	return cmd
}
