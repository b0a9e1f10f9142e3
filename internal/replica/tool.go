package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/leeward-dr/leeward/internal/dr"
)

// packageOf names where Debian keeps an outside program that this package runs.
func packageOf(program string) string {
	switch program {
	case "sfdisk":
		return "fdisk"
	case "mkfs.xfs", "xfs_growfs", "xfs_repair":
		return "xfsprogs"
	case "mkfs.btrfs", "btrfs":
		return "btrfs-progs"
	case "mke2fs", "e2fsck", "resize2fs", "tune2fs":
		return "e2fsprogs"
	}
	return "util-linux"
}

// tool is one run of an outside program of this host.
type tool struct {
	name  string
	args  []string
	stdin string
	env   []string
}

// run executes t and returns what it wrote to both outputs. The error of a run
// that ended badly carries the last lines of that text.
func (t tool) run(ctx context.Context) (string, error) {
	path, err := findProgram(t.name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, t.args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "BLKID_FILE=/dev/null", // no cache of devices soon gone
		"PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Env = append(cmd.Env, t.env...)
	if t.stdin != "" {
		cmd.Stdin = strings.NewReader(t.stdin)
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return out.String(), fmt.Errorf("run %s: %w", t.name, context.Cause(ctx))
		}
		return out.String(), fmt.Errorf("run %s: %w: %s", t.name, err, lastLines(out.String(), 6))
	}
	return out.String(), nil
}

// alone wraps t so that the program sees no block devices but those it is given:
// it runs in a mount namespace in which the kernel's lists of them are empty.
func (t tool) alone() tool {
	const script = `mount --bind /dev/null /proc/partitions && mount -t tmpfs none /sys/block && exec "$0" "$@"`
	t.args = append([]string{"--mount", "--propagation", "private", "sh", "-c", script, t.name}, t.args...)
	t.name = "unshare"
	return t
}

// findProgram looks where administrators' programs are, too: a sudo or cron
// environment often has no sbin in its PATH.
func findProgram(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path, nil
		}
	}
	err := fmt.Errorf("find program %s: %w", name, exec.ErrNotFound)
	return "", dr.WithHint(err, fmt.Sprintf("install it, on Debian: apt-get install %s", packageOf(name)))
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "; ")
}

// exitCode returns the exit code in err, or -1.
func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	return -1
}
