package adapt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const fat32Least = 34 << 20 // smaller ones cannot be FAT32

// writeFAT formats the partition as vfat with the source's serial number and
// label and fills it with the tree, which holds directories and regular files
// alone. The kernel needs no vfat for it.
func writeFAT(disk string, p Partition, tree string) error {
	ctx := context.Background() // bounded by runTool; half a partition would not boot
	image := fmt.Sprintf("%s@@%d", disk, p.Offset)
	args := []string{"-i", image, "-T", strconv.FormatInt(p.Size/sectorSize, 10), "-h", "255", "-s", "63",
		"-H", strconv.FormatInt(p.Offset/sectorSize, 10)}
	if p.Size >= fat32Least {
		args = append(args, "-F")
	}
	if serial := strings.ReplaceAll(p.UUID, "-", ""); len(serial) == 8 {
		args = append(args, "-N", serial)
	}
	if p.Label != "" {
		args = append(args, "-v", p.Label)
	}
	if err := runTool(ctx, "mformat", append(args, "::")...); err != nil {
		return fmt.Errorf("format %s: %w", p.MountPoint, err)
	}
	entries, err := os.ReadDir(tree)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	copy := []string{"-i", image, "-s", "-Q", "-m", "-o"}
	for _, e := range entries {
		copy = append(copy, filepath.Join(tree, e.Name())) // absolute: no name is an option or a drive
	}
	if err := runTool(ctx, "mcopy", append(copy, "::/")...); err != nil {
		return fmt.Errorf("fill %s: %w", p.MountPoint, err)
	}
	return nil
}
