package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/dr"
)

// Change tells what Prepare did. Filesystems are named by mount point.
type Change struct {
	Created bool     // the disk is new
	Added   []string // filesystems the source has now
	Grown   []string
	Gone    []string // the source no longer has them; the replica keeps what it holds
	Back    []string // had been gone
	Notes   []string // what is not as at the source, in words
}

// Empty reports whether the disk is as it was.
func (c Change) Empty() bool {
	return !c.Created && len(c.Added)+len(c.Grown)+len(c.Gone)+len(c.Back) == 0
}

// create makes the disk of a replica that has none.
func (r *Replica) create(ctx context.Context, want *Layout) (Change, error) {
	if there, err := exists(r.Disk()); err != nil || there {
		err = errors.Join(err, fmt.Errorf("make disk of %s: %s is there, but not its %s", r.name, r.Disk(), layoutFile))
		return Change{}, dr.WithHint(err, "move the disk away; the next pass makes a new one")
	}
	if r.store.SpaceLow() {
		return Change{}, fmt.Errorf("make disk of %s: %w", r.name, ErrSpace)
	}
	l := want.clone()
	if err := os.RemoveAll(r.path(treesDir)); err != nil {
		return Change{}, fmt.Errorf("make disk of %s: %w", r.name, err)
	}
	if err := r.build(ctx, l, l.Partitions); err != nil {
		return Change{}, fmt.Errorf("make disk of %s: %w", r.name, err)
	}
	if err := r.commit(l); err != nil {
		return Change{}, fmt.Errorf("make disk of %s: %w", r.name, err)
	}
	c := Change{Created: true}
	for _, p := range l.Partitions {
		if p.MountPoint != "" {
			c.Added = append(c.Added, p.MountPoint)
		}
		c.addNotes(&p)
	}
	return c, nil
}

// build brings disk.raw.new, made if it is not there, to layout l and makes the
// filesystems of the partitions in fresh, which are elements of l.
func (r *Replica) build(ctx context.Context, l *Layout, fresh []Partition) error {
	path := r.path(diskFile + newSuffix)
	image, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer image.Close()
	if err := image.Truncate(l.Size); err != nil {
		return err
	}
	if err := writeTable(ctx, path, l); err != nil {
		return err
	}
	for i := range fresh {
		if err := makePartition(ctx, image, &fresh[i]); err != nil {
			return err
		}
		if fresh[i].Tree {
			if err := os.MkdirAll(r.tree(fresh[i].Number), 0o700); err != nil {
				return err
			}
		}
	}
	return image.Sync()
}

// tree returns the directory of the plain tree that stands for partition n.
func (r *Replica) tree(n int) string { return r.path(treesDir, strconv.Itoa(n)) }

// change brings a disk that is there to what the source has now.
func (r *Replica) change(ctx context.Context, have, want *Layout) (Change, error) {
	if st, err := os.Stat(r.Disk()); err != nil {
		return Change{}, dr.WithHint(fmt.Errorf("check disk: %w", err), "remove "+r.path(layoutFile)+"; the next pass makes a new disk")
	} else if st.Size() != have.Size {
		err := fmt.Errorf("check disk: %s has %d bytes, its layout says %d", r.Disk(), st.Size(), have.Size)
		return Change{}, dr.WithHint(err, resetHint)
	}
	d, err := compare(have, want)
	if err != nil {
		return Change{}, err
	}
	if len(d.added)+len(d.grown) > 0 {
		if err := r.rebuild(ctx, have, d); err != nil {
			return Change{}, err
		}
	} else if d.dirty {
		if err := d.layout.write(r.path(layoutFile)); err != nil {
			return Change{}, err
		}
	}
	return d.change, nil
}

// rebuild changes a clone of the disk to d.layout and puts it in place.
func (r *Replica) rebuild(ctx context.Context, have *Layout, d *difference) error {
	path := r.path(diskFile + newSuffix)
	if err := removeFile(path); err != nil {
		return err
	}
	if err := cloneFile(r.Disk(), path); err != nil {
		return err
	}
	if err := r.moveParts(path, have, d); err != nil {
		return err
	}
	first := len(have.Partitions)
	if err := r.build(ctx, d.layout, d.layout.Partitions[first:]); err != nil {
		return err
	}
	for _, i := range d.grown {
		if err := r.growPartition(ctx, path, &d.layout.Partitions[i]); err != nil {
			return err
		}
	}
	for i := range d.layout.Partitions[first:] {
		d.change.addNotes(&d.layout.Partitions[first+i])
	}
	if err := syncFile(path); err != nil {
		return err
	}
	return r.commit(d.layout)
}

// moveParts moves what lies elsewhere in d.layout, sharing blocks instead of
// copying them, and clears what was there and the old second table at the end:
// new filesystems are made on zeroes.
func (r *Replica) moveParts(path string, have *Layout, d *difference) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := punch(f, have.end(), have.Size-have.end()); err != nil {
		return err
	}
	if err := f.Truncate(d.layout.Size); err != nil {
		return err
	}
	for i, old := range have.Partitions {
		moved := d.layout.Partitions[i]
		if moved.Offset == old.Offset {
			continue
		}
		c := unix.FileCloneRange{Src_fd: int64(f.Fd()), Src_offset: uint64(old.Offset),
			Src_length: uint64(old.Size), Dest_offset: uint64(moved.Offset)}
		if err := unix.IoctlFileCloneRange(int(f.Fd()), &c); err != nil {
			return fmt.Errorf("move partition %d: %w", old.Number, err)
		}
		if err := punch(f, old.Offset, old.Size); err != nil {
			return err
		}
	}
	return nil
}

func punch(f *os.File, offset, size int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, size)
	if err != nil {
		return fmt.Errorf("clear %d bytes at %d of %s: %w", size, offset, f.Name(), err)
	}
	return nil
}

// growPartition lets the filesystem of p fill its partition in the image.
func (r *Replica) growPartition(ctx context.Context, path string, p *Partition) error {
	if p.Tree {
		return nil
	}
	if p.Kind == Swap {
		image, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer image.Close()
		return makePartition(ctx, image, p)
	}
	m, err := makerOf(p.Type)
	if err != nil {
		return err
	}
	if m.growMounted {
		return r.growMounted(ctx, path, p, m)
	}
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	dev, err := attachLoop(image, loopOptions{offset: p.Offset, size: p.Size})
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := m.grow(ctx, dev.path, ""); err != nil {
		return fmt.Errorf("grow %s: %w", p.name(), err)
	}
	return dev.file.Sync()
}

func (r *Replica) growMounted(ctx context.Context, path string, p *Partition, m maker) (err error) {
	mounted, err := mountPart(path, p, r.path(mountsDir, "grow"), false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mounted.unmount()) }()
	if err := m.grow(ctx, mounted.dev, mounted.dir); err != nil {
		return fmt.Errorf("grow %s: %w", p.name(), err)
	}
	return nil
}

// Reset forgets the replica's disk, so that the next Prepare makes a new one and
// the next pass copies the server whole. Recovery points stay.
func (r *Replica) Reset() error {
	if err := r.Lock(); err != nil {
		return err
	}
	for _, name := range []string{layoutFile, diskFile, treesDir, stateDir} {
		if err := os.RemoveAll(r.path(name)); err != nil {
			return fmt.Errorf("reset replica of %s: %w", r.name, err)
		}
	}
	if err := os.MkdirAll(r.path(stateDir), 0o700); err != nil {
		return fmt.Errorf("reset replica of %s: %w", r.name, err)
	}
	return nil
}

func (c *Change) addNotes(p *Partition) {
	for _, n := range p.Notes {
		c.Notes = append(c.Notes, p.name()+": "+n)
	}
}

func (l *Layout) clone() *Layout {
	c := *l
	c.Partitions = slices.Clone(l.Partitions)
	for i := range c.Partitions {
		c.Partitions[i].Notes = slices.Clone(c.Partitions[i].Notes)
	}
	return &c
}
