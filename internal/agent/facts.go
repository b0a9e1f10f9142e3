package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/btrfs"
)

// CollectFacts describes this host. What cannot be read becomes a warning in the
// facts; the only error is ctx's. It runs as root or as a plain user, who sees less,
// and writes nothing.
func CollectFacts(ctx context.Context) (*agentpb.Facts, error) {
	c := &collector{root: "/", sys: liveSystem()}
	return c.collect(ctx)
}

// collector gathers facts below root, which is / but for tests.
type collector struct {
	root  string
	sys   system
	facts *agentpb.Facts
	view  string // where process 1 sees its root, below root
	procs []process
}

// system is what cannot be had by reading files; tests have their own.
type system struct {
	statfs    func(path string) (unix.Statfs_t, error)
	mountID   func(path string) (int, error) // of the mount that path shows
	openBlock func(d device, path string) (blockReader, error)
	links     func() ([]link, error)
	run       func(ctx context.Context, name string, args ...string) (string, error)
	// subvolumes are those of the btrfs mounted at path, but for its top.
	subvolumes func(path string) ([]btrfs.Subvolume, error)
}

type blockReader interface {
	io.ReaderAt
	io.Closer
}

func liveSystem() system {
	return system{statfs: statfs, mountID: mountID, openBlock: openBlock, links: links, run: run, subvolumes: btrfs.Subvolumes}
}

// collect takes one step after the other; they depend on each other only through
// the facts and the table of processes.
func (c *collector) collect(ctx context.Context) (*agentpb.Facts, error) {
	c.facts = &agentpb.Facts{Host: Self(), CollectedUnixNano: time.Now().UnixNano()}
	steps := []func(context.Context){
		c.system, c.hardware, c.hostKeys, c.disks, c.filesystems, c.snapshots, c.subvolumes, c.fstab, c.swaps,
		c.network, c.processes, c.sockets, c.databases, c.units,
	}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		step(ctx)
	}
	if os.Geteuid() != 0 {
		c.warn("not root: other users' processes, device contents and some files could not be read")
	}
	scrub(c.facts.ProtoReflect())
	return c.facts, nil
}

func (c *collector) warn(format string, args ...any) {
	c.facts.Warnings = append(c.facts.Warnings, fmt.Sprintf(format, args...))
}

// left warns of lines a parser could not read.
func (c *collector) left(bad int, file string) {
	if bad > 0 {
		c.warn("%s: %d lines could not be read", file, bad)
	}
}

func (c *collector) path(elem ...string) string {
	return filepath.Join(append([]string{c.root}, elem...)...)
}

// maxFile bounds what is read of any file: /proc's are of no known size.
const maxFile = 16 << 20

func (c *collector) read(elem ...string) ([]byte, error) {
	f, err := os.Open(c.path(elem...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// text is the content of a small file without surrounding blanks, empty if it
// cannot be read.
func (c *collector) text(elem ...string) string {
	b, err := c.read(elem...)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (c *collector) exists(elem ...string) bool {
	_, err := os.Lstat(c.path(elem...))
	return err == nil
}

// scrub makes every string of a message valid UTF-8; encoding would refuse the
// whole message otherwise.
func scrub(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
			scrubMap(fd, v.Map())
		case fd.IsList():
			scrubList(fd, v.List())
		case fd.Kind() == protoreflect.MessageKind:
			scrub(v.Message())
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, valid(v))
		}
		return true
	})
}

func valid(v protoreflect.Value) protoreflect.Value {
	return protoreflect.ValueOfString(strings.ToValidUTF8(v.String(), "\uFFFD"))
}

func scrubMap(fd protoreflect.FieldDescriptor, m protoreflect.Map) {
	if fd.MapValue().Kind() != protoreflect.StringKind {
		return
	}
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		key := valid(k.Value())
		if key.String() != k.String() {
			m.Clear(k)
		}
		m.Set(key.MapKey(), valid(v))
		return true
	})
}

func scrubList(fd protoreflect.FieldDescriptor, l protoreflect.List) {
	for i := range l.Len() {
		switch fd.Kind() {
		case protoreflect.MessageKind:
			scrub(l.Get(i).Message())
		case protoreflect.StringKind:
			l.Set(i, valid(l.Get(i)))
		}
	}
}

// run returns what a program writes. Its exit status alone is no error if it wrote
// something: systemctl tells states by it.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil && (len(out) == 0 || ctx.Err() != nil) {
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return string(out), nil
}

func statfs(path string) (unix.Statfs_t, error) {
	var s unix.Statfs_t
	err := unix.Statfs(path, &s)
	return s, err
}

// mountID needs Linux 5.8; before, name_to_handle_at tells the same.
func mountID(path string) (int, error) {
	var sx unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &sx)
	if err == nil && sx.Mask&unix.STATX_MNT_ID != 0 {
		return int(sx.Mnt_id), nil
	}
	_, id, err := unix.NameToHandleAt(unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	return id, err
}
