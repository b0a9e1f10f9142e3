package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

// Image is a writable clone of a recovery point: what a drill adapts and boots.
type Image struct {
	Dir    string
	Disk   string // path of the raw image
	Layout *Layout
}

// Layout reads what lies where on the point's disk.
func (p *Point) Layout() (*Layout, error) { return readLayout(filepath.Join(p.Dir, layoutFile)) }

// Facts reads what was known of the source when the point was made.
func (p *Point) Facts() (*agentpb.Facts, error) {
	b, err := os.ReadFile(filepath.Join(p.Dir, factsFile))
	if err != nil {
		return nil, fmt.Errorf("read facts: %w", err)
	}
	var f agentpb.Facts
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("read facts of %s: %w", p.Dir, err)
	}
	return &f, nil
}

// StateDir returns the directory of the catalogs as they were when the point was made.
func (p *Point) StateDir() string { return filepath.Join(p.Dir, stateDir) }

// Disk returns the path of the point's disk image, which nobody may write.
func (p *Point) Disk() string { return filepath.Join(p.Dir, diskFile) }

// Clone makes the directory dst, which must not exist and lies in the same store
// (see Store.Scratch), with a clone of the point's disk and plain trees. It takes
// no time and no space to speak of. The point is not pruned meanwhile.
func (p *Point) Clone(ctx context.Context, dst string) (_ *Image, err error) {
	release, err := p.Hold()
	if err != nil {
		return nil, fmt.Errorf("clone recovery point: %w", err)
	}
	defer func() { err = errors.Join(err, release()) }()
	l, err := p.Layout()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dst, 0o700); err != nil {
		return nil, fmt.Errorf("clone recovery point: %w", err)
	}
	if err := p.cloneInto(ctx, dst); err != nil {
		return nil, errors.Join(fmt.Errorf("clone recovery point: %w", err), os.RemoveAll(dst))
	}
	return &Image{Dir: dst, Disk: filepath.Join(dst, diskFile), Layout: l}, nil
}

func (p *Point) cloneInto(ctx context.Context, dst string) error {
	if err := cloneFile(p.Disk(), filepath.Join(dst, diskFile)); err != nil {
		return err
	}
	if err := cloneFile(filepath.Join(p.Dir, layoutFile), filepath.Join(dst, layoutFile)); err != nil {
		return err
	}
	trees := filepath.Join(p.Dir, treesDir)
	if there, err := exists(trees); err != nil || !there {
		return err
	}
	return cloneTree(ctx, trees, filepath.Join(dst, treesDir))
}

// OpenImage opens the clone in the directory dir, made by Point.Clone.
func OpenImage(dir string) (*Image, error) {
	l, err := readLayout(filepath.Join(dir, layoutFile))
	if err != nil {
		return nil, err
	}
	return &Image{Dir: dir, Disk: filepath.Join(dir, diskFile), Layout: l}, nil
}

// Tree returns the directory that stands for partition p where p.Tree is set, or
// p is the ESP that the source does not have: it is made when it is not there.
func (i *Image) Tree(p *Partition) (string, error) {
	dir := filepath.Join(i.Dir, treesDir, strconv.Itoa(p.Number))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("open tree of %s: %w", p.name(), err)
	}
	return dir, nil
}

// Mount mounts the clone's filesystems in the private mount namespace of this
// process. Close what it returns before the image is booted.
func (i *Image) Mount(ctx context.Context, readOnly bool) (*Mounted, error) {
	at := filepath.Join(i.Dir, mountsDir)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, fmt.Errorf("mount clone: %w", err)
	}
	return mountDisk(ctx, i.Disk, i.Layout, filepath.Join(i.Dir, treesDir), at, readOnly)
}
