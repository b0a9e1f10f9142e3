package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	sector      = 512
	grubModules = "/usr/lib/grub"

	// Offsets in GRUB's boot.img and core.img, as documented in the comments of
	// GRUB's include/grub/i386/pc/boot.h: where boot.img finds the first
	// sector of core.img, and where that finds the rest of it.
	bootKernelSector = 0x5c
	coreBlockList    = sector - 12
)

// installGRUB makes the disk start by BIOS: boot.img in the first sector,
// core.img in the BIOS-boot partition. No device of this machine is touched.
func installGRUB(ctx context.Context, disk, work string, parts []Partition) error {
	core := filepath.Join(work, "core.img")
	if err := makeGRUB(ctx, core, work, "i386-pc", parts, "biosdisk"); err != nil {
		return err
	}
	return embedGRUB(disk, core)
}

// makeGRUB makes GRUB's core image for a platform: it goes on with the grub.cfg
// of the server.
func makeGRUB(ctx context.Context, core, work, platform string, parts []Partition, more ...string) error {
	bootUUID, prefix, _, _ := bootPlace(parts)
	grubDir := prefix + "/grub"
	start := fmt.Sprintf("search --no-floppy --fs-uuid --set=root %s\nset prefix=($root)%s\nconfigfile ($root)%s/grub.cfg\n",
		bootUUID, grubDir, grubDir)
	cfg := filepath.Join(work, "core.cfg")
	if err := os.WriteFile(cfg, []byte(start), 0o644); err != nil {
		return fmt.Errorf("write GRUB's start: %w", err)
	}
	args := []string{"-O", platform, "-d", filepath.Join(grubModules, platform), "-o", core, "-c", cfg, "-p", grubDir,
		"part_gpt", "ext2", "xfs", "btrfs", "search", "search_fs_uuid", "normal", "configfile",
		"linux", "serial", "terminal", "echo", "minicmd", "test"}
	_, err := run(ctx, "grub-mkimage", append(args, more...)...)
	return err
}

// installESP makes the EFI system partition, with GRUB where UEFI looks for a
// loader that nobody has told it of.
func installESP(ctx context.Context, disk, work, id string, parts []Partition) error {
	loader, esp := filepath.Join(work, "BOOTX64.EFI"), filepath.Join(work, "esp.img")
	if err := makeGRUB(ctx, loader, work, "x86_64-efi", parts, "fat"); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"truncate", "-s", fmt.Sprintf("%dM", espMiB), esp},
		{"mkfs.vfat", "-F", "32", "-n", "EFI", "-i", strings.ReplaceAll(id, "-", ""), esp},
		{"mmd", "-i", esp, "::EFI", "::EFI/BOOT"},
		{"mcopy", "-i", esp, loader, "::EFI/BOOT/BOOTX64.EFI"},
		{"dd", "if=" + esp, "of=" + disk, "bs=1M", fmt.Sprintf("seek=%d", firstFSMiB), "conv=notrunc,sparse", "status=none"},
	} {
		if _, err := run(ctx, argv[0], argv[1:]...); err != nil {
			return err
		}
	}
	return nil
}

// embedGRUB writes the two images into the disk, linked to each other.
func embedGRUB(disk, core string) error {
	bootImg, err := os.ReadFile(filepath.Join(grubModules, "i386-pc", "boot.img"))
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
