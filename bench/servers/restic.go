package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leeward-dr/leeward/lab"
)

// dallas is the target's address on the link.
const dallas = "10.99.0.2"

// restic measures backups of all servers at once, over sftp, into a repository at
// the target whose index has the stale clone already.
func (s *site) restic(ctx context.Context, stale string) (usage, error) {
	repo := filepath.Join(s.target, "restic")
	password := filepath.Join(s.dir, "lab", "restic-password")
	if err := os.WriteFile(password, []byte("lab\n"), 0o600); err != nil {
		return usage{}, fmt.Errorf("prepare restic: %w", err)
	}
	for _, args := range [][]string{{"init"}, {"backup", stale}} {
		args = append([]string{"-q", "-r", repo, "-p", password, "--no-cache"}, args...)
		if _, err := command(ctx, "restic", args...); err != nil {
			return usage{}, err
		}
	}
	stop, err := s.serveSFTP(ctx)
	if err != nil {
		return usage{}, err
	}
	defer stop()
	key, err := os.ReadFile(filepath.Join(s.lab.Dir(), "key"))
	if err != nil {
		return usage{}, fmt.Errorf("prepare restic: %w", err)
	}
	for _, name := range s.servers {
		err := s.lab.RunIO(ctx, name, strings.NewReader(string(key)), nil, "/bin/sh", "-e", "-c",
			"umask 077; cat > "+toolDir+"/key; echo lab > "+toolDir+"/password")
		if err != nil {
			return usage{}, err
		}
	}
	if err := errors.Join(s.showViews(ctx), s.settle()); err != nil {
		return usage{}, err
	}
	return s.meter.measure(ctx, s.target, func() error { return s.backups(ctx, repo) })
}

// backups runs restic in all servers, started through ssh so that what it uses
// is counted there.
func (s *site) backups(ctx context.Context, repo string) error {
	errs := make([]error, len(s.servers))
	var wg sync.WaitGroup
	for i, name := range s.servers {
		wg.Go(func() {
			ssh := fmt.Sprintf("ssh -i %[1]s/key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes root@%[2]s -s sftp", toolDir, dallas)
			script := fmt.Sprintf("%[1]s/restic -q -r sftp:%[2]s:%[3]s -o sftp.command=\"%[4]s\" -p %[1]s/password --cache-dir %[1]s/cache backup %[5]s",
				toolDir, dallas, repo, ssh, viewDir)
			errs[i] = s.overSSH(ctx, name, script)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// overSSH runs a script as root in a server.
func (s *site) overSSH(ctx context.Context, name, script string) error {
	srv, err := s.lab.Server(name)
	if err != nil {
		return err
	}
	shell := "/bin/sh -s"
	if srv.User != "root" {
		shell = "sudo " + shell
	}
	cmd, done, err := s.meter.command(ctx, "ssh", "-F", s.lab.SSHConfig(), name, shell)
	if err != nil {
		return err
	}
	defer done()
	cmd.Stdin = strings.NewReader(script + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("restic in %s: %w: %s", name, err, tail(string(out)))
	}
	return nil
}

// serveSFTP runs an sshd at the target, which nothing but the lab reaches.
func (s *site) serveSFTP(ctx context.Context) (stop func(), err error) {
	dir := filepath.Join(s.dir, "lab", "sshd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare sshd: %w", err)
	}
	if _, err := command(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host")); err != nil {
		return nil, err
	}
	public, err := command(ctx, "ssh-keygen", "-y", "-f", filepath.Join(s.lab.Dir(), "key"))
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf("ListenAddress %s\nPort 22\nHostKey %[2]s/host\nAuthorizedKeysFile %[2]s/authorized\nStrictModes no\nUsePAM no\n"+
		"PermitRootLogin prohibit-password\nPidFile none\nSubsystem sftp internal-sftp\n", dallas, dir)
	err = errors.Join(os.WriteFile(filepath.Join(dir, "authorized"), []byte(public), 0o600),
		os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600), os.MkdirAll("/run/sshd", 0o755))
	if err != nil {
		return nil, fmt.Errorf("prepare sshd: %w", err)
	}
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		return nil, fmt.Errorf("prepare sshd: %w", err)
	}
	cmd, done, err := s.meter.command(ctx, sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	if err != nil {
		return nil, err
	}
	defer done()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start sshd: %w", err)
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ended by our signal
	}
	// From inside the target's namespace; this machine has no way to it.
	for range 100 {
		probe := lab.InDallas("bash", "-c", "exec 3<>/dev/tcp/"+dallas+"/22")
		if exec.CommandContext(ctx, probe[0], probe[1:]...).Run() == nil {
			return stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, errors.New("start sshd: it does not answer")
}
