package drill

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// query asks the database server of this machine, as the user who owns it: there is
// nobody else here, and no password needs to be known.
func (p Probe) query(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	argv, err := p.client(exec.LookPath)
	if err != nil {
		return "", err
	}
	_, whole, err := said(ctx, exec.CommandContext(ctx, argv[0], argv[1:]...))
	if err != nil {
		return "", err
	}
	return p.judgeRows(whole)
}

// client is the command line that asks p.
func (p Probe) client(find func(string) (string, error)) ([]string, error) {
	if p.Engine == "postgres" {
		argv := []string{"runuser", "-u", "postgres", "--", "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", p.SQL}
		if p.Database == "" {
			return append(argv, "-d", "postgres"), nil
		}
		return append(argv, "-d", p.Database), nil
	}
	name := "mariadb"
	if _, err := find(name); err != nil {
		name = "mysql" // before MariaDB 10.5
		if _, err := find(name); err != nil {
			return nil, err
		}
	}
	argv := []string{name, "--batch", "--skip-column-names", "--user=root", "--execute=" + p.SQL}
	if p.Database != "" {
		argv = append(argv, "--database="+p.Database)
	}
	return argv, nil
}

// judgeRows compares rows, one a line and columns between bars, with what is expected.
func (p Probe) judgeRows(answer string) (string, error) {
	got := strings.TrimSpace(answer)
	if p.Engine == "mariadb" {
		got = strings.ReplaceAll(got, "\t", "|")
	}
	if p.Expect != "" && got != strings.TrimSpace(p.Expect) {
		return "", fmt.Errorf("answers %q, want %q", clip(got), p.Expect)
	}
	return fmt.Sprintf("answers %q", clip(got)), nil
}
