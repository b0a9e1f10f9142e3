package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

const privateMark = "LEEWARD_TEST_PRIVATE_MOUNTS"

// TestMain runs the tests again in a mount namespace of their own, so that every
// mount and loop device goes when they end, however they end.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(privateMark) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), privateMark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "run tests in a private mount namespace:", err)
		os.Exit(1)
	}
}

// needRoot skips the test where mounts are out of reach or a tool is missing.
func needRoot(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts filesystems")
	}
	for _, name := range append(tools, "sfdisk", "mke2fs", "mkfs.xfs") {
		if _, err := findProgram(name); err != nil {
			t.Skip(err)
		}
	}
}

// newStore returns an open store. Where the temporary directory cannot share
// blocks it has a small pool.
func newStore(t *testing.T) *Store {
	t.Helper()
	return newStoreOf(t, 768*mebibyte)
}

func newStoreOf(t *testing.T, size int64) *Store {
	t.Helper()
	dir := t.TempDir()
	ctx := context.Background()
	if err := EnsurePool(ctx, dir, PoolOptions{Size: size}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ReleasePool(ctx, dir); err != nil {
			t.Error(err)
		}
	})
	s, err := Open(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newReplica(t *testing.T, s *Store, name string) *Replica {
	t.Helper()
	r, err := s.Replica("web1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// extFacts describe a server with an ext4 root as Debian 12 makes it.
func extFacts() *agentpb.Facts {
	return &agentpb.Facts{
		Host: &agentpb.Hello{Hostname: "web1", BootId: "b"}, Kernel: "6.1.0-18-amd64",
		Filesystems: []*agentpb.Filesystem{{
			MountPoint: "/", Device: "/dev/vda1", Type: "ext4", Uuid: "5b1ef2a4-7d0e-4c4e-9a39-6c1a3a0d1f11",
			Label: "rootfs", PartUuid: "0d9ef4fc-4f11-4f0e-8a33-3e8a8ef2a001", SizeBytes: 64 * mebibyte,
			UsedBytes: 4 * mebibyte, Inodes: 4096, InodesUsed: 3900, BlockSize: 4096, InodeSize: 256,
			Features: []string{"has_journal", "ext_attr", "resize_inode", "dir_index", "filetype", "needs_recovery", "extent",
				"64bit", "flex_bg", "sparse_super", "large_file", "huge_file", "dir_nlink", "extra_isize", "metadata_csum"},
			Params: map[string]string{"reserved_blocks": "777", "default_mount_options": "user_xattr,acl",
				"hash_seed": "0a0b0c0d-1111-4222-8333-444455556666", "errors": "remount-ro", "flex_bg_size": "16"},
		}},
		Disks: []*agentpb.Disk{{Name: "vda", Table: "gpt", TableId: "11111111-2222-4333-8444-555555555555"}},
	}
}

func mustPlan(t *testing.T, f *agentpb.Facts) *Layout {
	t.Helper()
	l, err := PlanLayout(f, LayoutOptions{Server: "web1"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustPrepare(t *testing.T, r *Replica, l *Layout) Change {
	t.Helper()
	c, err := r.Prepare(context.Background(), l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustMount(t *testing.T, r *Replica) *Mounted {
	t.Helper()
	m, err := r.Mount(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func writeFile(t *testing.T, data string, elem ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(elem...), []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// witness runs an independent program and returns what it prints.
func witness(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := findProgram(name)
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func mkdev(major, minor uint32) int { return int(unix.Mkdev(major, minor)) }
