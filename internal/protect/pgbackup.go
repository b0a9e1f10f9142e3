package protect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/pipe"
	"github.com/leeward-dr/leeward/internal/replica"
)

// pgBackup is one PostgreSQL server in backup mode. The order is the manual's:
// begin, copy everything, end, copy the log, put the label into the copy.
type pgBackup struct {
	db     *agentpb.Database
	stream *pipe.Stream
	walDir string
}

func (b *pgBackup) begin(ctx context.Context, src *source) error {
	st, err := src.client.Conn().Open(ctx, "postgres.backup")
	if err == nil {
		b.stream = st
		err = st.Send(&agentpb.PostgresBackupRequest{Pid: b.db.Pid, DataDir: b.db.DataDir, SocketDir: b.db.SocketDir, Port: b.db.Port})
	}
	var reply agentpb.PostgresBackupReply
	if err == nil {
		err = st.Recv(&reply)
	}
	if err != nil {
		b.abort()
		return dr.WithHint(fmt.Errorf("capture PostgreSQL of %s: %w", src.server.Name, err),
			fmt.Sprintf("check that its own user may log in without a password over its socket, or add exclude: [%s/**] to the server", b.db.DataDir))
	}
	b.walDir = reply.WalDir
	if reply.Warning != "" {
		src.facts.Warnings = append(src.facts.Warnings, reply.Warning)
	}
	return nil
}

// abort ends backup mode without a copy.
func (b *pgBackup) abort() {
	if b.stream != nil {
		b.stream.Close()
		b.stream = nil
	}
}

// finish ends backup mode, carries the log written meanwhile, and adds the label
// without which the copy would recover from the wrong place.
func (b *pgBackup) finish(ctx context.Context, p *serverPass, src *source) error {
	var reply agentpb.PostgresBackupReply
	err := b.stream.Send(&agentpb.PostgresBackupRequest{})
	if err == nil {
		err = b.stream.Recv(&reply)
	}
	if err != nil {
		return fmt.Errorf("end backup mode on %s: %w", p.server.Name, err)
	}
	b.abort()
	mountPoint := holder(src.facts, b.walDir)
	wal, ok := relative(src.facts, mountPoint, b.walDir)
	if !ok {
		return fmt.Errorf("capture PostgreSQL of %s: its log in %s is on no filesystem that is carried", p.server.Name, b.walDir)
	}
	if err := p.filesystem(ctx, src, mountPoint, []string{wal}); err != nil {
		return err
	}
	data, ok := relative(src.facts, b.db.Filesystem, b.db.DataDir)
	if !ok {
		return fmt.Errorf("capture PostgreSQL of %s: %s is on no filesystem that is carried", p.server.Name, b.db.DataDir)
	}
	dir := filepath.Join(p.mounted.Root(b.db.Filesystem), data)
	if err := p.add(b.db.Filesystem, dir, "backup_label", reply.BackupLabel); err != nil {
		return err
	}
	if len(reply.TablespaceMap) > 0 {
		return p.add(b.db.Filesystem, dir, "tablespace_map", reply.TablespaceMap)
	}
	return nil
}

// holder returns the mount point of the filesystem that holds path.
func holder(f *agentpb.Facts, path string) string {
	best, longest := "/", -1
	for _, fs := range f.Filesystems {
		for _, m := range fs.Mounts {
			at := strings.TrimSuffix(m.MountPoint, "/")
			if strings.HasPrefix(path, at+"/") && len(at) > longest {
				best, longest = fs.MountPoint, len(at)
			}
		}
	}
	return best
}

// addedFile lists what a pass has put into the replica that the source has not.
// It is part of the state, and so of each recovery point.
const addedFile = "added.json"

type added struct {
	Filesystem string `json:"filesystem"`
	Path       string `json:"path"` // within it
}

func readAdded(r *replica.Replica) ([]added, error) { return readAddedIn(r.StateDir()) }

func readAddedIn(state string) ([]added, error) {
	b, err := os.ReadFile(filepath.Join(state, addedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []added
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		return nil, fmt.Errorf("read list of added files: %w", err)
	}
	return out, nil
}

// add writes a file of ours into the replica, on record first.
func (p *serverPass) add(mountPoint, dir, name string, content []byte) error {
	list, err := readAdded(p.replica)
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(p.mounted.Root(mountPoint), filepath.Join(dir, name))
	if err != nil {
		return fmt.Errorf("add %s to the replica: %w", name, err)
	}
	b, err := json.Marshal(append(list, added{mountPoint, rel}))
	if err != nil {
		return fmt.Errorf("add %s to the replica: %w", name, err)
	}
	if err := atomicfile.Write(filepath.Join(p.replica.StateDir(), addedFile), b, 0o600); err != nil {
		return err
	}
	return p.within(mountPoint, rel, func(root *os.Root, st *unix.Stat_t) error {
		f, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		return errors.Join(err, f.Chown(int(st.Uid), int(st.Gid)), f.Close())
	})
}

// dropAdded removes what earlier passes have added, before anything is carried: a
// label of an earlier backup would make the copy recover from what is gone.
func (p *serverPass) dropAdded() error {
	list, err := readAdded(p.replica)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, a := range list {
		err := p.within(a.Filesystem, a.Path, func(root *os.Root, _ *unix.Stat_t) error { return root.Remove(a.Path) })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(filepath.Join(p.replica.StateDir(), addedFile))
}

// within runs f on the replica's filesystem and leaves the times of the directory
// of path as they were. os.Root keeps it inside whatever links are there.
func (p *serverPass) within(mountPoint, path string, f func(root *os.Root, dir *unix.Stat_t) error) error {
	root, err := os.OpenRoot(p.mounted.Root(mountPoint))
	if err != nil {
		return fmt.Errorf("open replica of %s: %w", mountPoint, err)
	}
	defer root.Close()
	dir, err := root.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("open %s in the replica: %w", filepath.Dir(path), err)
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return fmt.Errorf("stat %s in the replica: %w", filepath.Dir(path), err)
	}
	if err := f(root, &st); err != nil {
		return fmt.Errorf("change %s in the replica: %w", path, err)
	}
	if err := unix.UtimesNanoAt(int(dir.Fd()), ".", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, st.Mtim}, 0); err != nil {
		return fmt.Errorf("set times of %s in the replica: %w", filepath.Dir(path), err)
	}
	return nil
}
