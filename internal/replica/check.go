package replica

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Check lets the filesystems' own checkers judge a clone of the point, made in
// the empty directory scratch of the same store and removed again. It returns what
// they wrote; an error names the first filesystem with a fault. It takes as long as
// the filesystems have metadata.
func (p *Point) Check(ctx context.Context, scratch string) (_ string, err error) {
	dir := filepath.Join(scratch, "check")
	img, err := p.Clone(ctx, dir)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return img.Check(ctx)
}

// Check lets the filesystems' own checkers judge the image, which nobody may have
// mounted. They change nothing.
func (i *Image) Check(ctx context.Context) (string, error) {
	image, err := os.OpenFile(i.Disk, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("check image: %w", err)
	}
	defer image.Close()
	var said strings.Builder
	for n := range i.Layout.Partitions {
		p := &i.Layout.Partitions[n]
		t, ok := checker(p)
		if !ok {
			continue
		}
		out, err := checkPart(ctx, image, p, t)
		fmt.Fprintf(&said, "%s: %s\n%s\n", p.name(), t.name, strings.TrimSpace(out))
		if err != nil {
			return said.String(), fmt.Errorf("check filesystem %s: %w", p.name(), err)
		}
	}
	return said.String(), nil
}

func checkPart(ctx context.Context, image *os.File, p *Partition, t tool) (string, error) {
	dev, err := attachLoop(image, loopOptions{offset: p.Offset, size: p.Size})
	if err != nil {
		return "", err
	}
	defer dev.Close()
	if err := checkSuperblock(dev.file, p); err != nil {
		return "", err
	}
	t.args = append(t.args, dev.path)
	return t.run(ctx)
}

// checker returns the run that judges p's filesystem, lacking the device; false
// where there is nothing to judge.
func checker(p *Partition) (tool, bool) {
	if p.Tree || p.MountPoint == "" {
		return tool{}, false
	}
	switch p.Type {
	case "ext2", "ext3", "ext4":
		return tool{name: "e2fsck", args: []string{"-f", "-n"}}, true
	case "xfs":
		return tool{name: "xfs_repair", args: []string{"-n"}}, true
	case "btrfs":
		return tool{name: "btrfs", args: []string{"check", "--readonly"}}, true
	}
	return tool{}, false
}
