package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
)

const (
	sector      = 512
	grubModules = "/usr/lib/grub/i386-pc"

	// Offsets in GRUB's boot.img and core.img, as documented in the comments of
	// GRUB's include/grub/i386/pc/boot.h: where boot.img finds the first
	// sector of core.img, and where that finds the rest of it.
	bootKernelSector = 0x5c
	coreBlockList    = sector - 12
)

// installGRUB makes the disk start by BIOS: boot.img in the first sector,
// core.img in the BIOS-boot partition. No device of this machine is touched.
func installGRUB(ctx context.Context, disk, work string, parts []Partition) error {
	bootUUID, prefix, _, _ := bootPlace(parts)
	grubDir := prefix + "/grub"
	start := fmt.Sprintf("search --no-floppy --fs-uuid --set=root %s\nset prefix=($root)%s\nconfigfile ($root)%s/grub.cfg\n",
		bootUUID, grubDir, grubDir)
	cfg, core := filepath.Join(work, "core.cfg"), filepath.Join(work, "core.img")
	if err := os.WriteFile(cfg, []byte(start), 0o644); err != nil {
		return fmt.Errorf("write GRUB's start: %w", err)
	}
	_, err := run(ctx, "grub-mkimage", "-O", "i386-pc", "-d", grubModules, "-o", core, "-c", cfg, "-p", grubDir,
		"biosdisk", "part_gpt", "ext2", "xfs", "btrfs", "search", "search_fs_uuid", "normal", "configfile",
		"linux", "serial", "terminal", "echo", "minicmd", "test")
	if err != nil {
		return err
	}
	return embedGRUB(disk, core)
}

// embedGRUB writes the two images into the disk, linked to each other.
func embedGRUB(disk, core string) error {
	bootImg, err := os.ReadFile(filepath.Join(grubModules, "boot.img"))
	if err != nil {
		return fmt.Errorf("read GRUB's boot image: %w", err)
	}
	coreImg, err := os.ReadFile(core)
	if err != nil {
		return fmt.Errorf("read GRUB's core image: %w", err)
	}
	if len(coreImg) > mib || len(coreImg) < sector || len(bootImg) < 440 {
		return fmt.Errorf("embed GRUB: images of %d and %d bytes do not fit", len(bootImg), len(coreImg))
	}
	const at = biosGrubMiB * mib / sector
	binary.LittleEndian.PutUint64(bootImg[bootKernelSector:], at)
	binary.LittleEndian.PutUint64(coreImg[coreBlockList:], at+1)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	defer f.Close()
	// The rest of the first sector is the protective partition table.
	if _, err := f.WriteAt(bootImg[:440], 0); err != nil {
		return fmt.Errorf("write boot sector: %w", err)
	}
	if _, err := f.WriteAt(coreImg, at*sector); err != nil {
		return fmt.Errorf("write GRUB's core image: %w", err)
	}
	return f.Close()
}
