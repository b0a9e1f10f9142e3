package adapt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

const (
	menuName     = "leeward-grub.cfg"
	grubDirBIOS  = "/usr/lib/grub/i386-pc"
	grubDirUEFI  = "/usr/lib/grub/x86_64-efi"
	toolTimeout  = 2 * time.Minute
	sectorSize   = 512
	bootCodeSize = 440 // of the first sector; the disk's id and table follow
)

// grubModules serve both firmwares: all the menu and the filesystems need, so
// that nothing is loaded from the guest, whose GRUB may be of another build.
var grubModules = [...]string{"part_gpt", "part_msdos", "ext2", "xfs", "btrfs", "fat", "search", "search_fs_uuid",
	"normal", "configfile", "linux", "echo", "serial", "terminal", "test", "ls", "cat", "gzio", "sleep", "reboot", "halt"}

// menuFile returns where the menu lies: beside the kernel.
func (j *job) menuFile() string { return path.Join(path.Dir(j.kernel.File), menuName) }

// fixMenu writes the menu that our boot loader shows: the chosen kernel first, and
// at once.
func fixMenu(j *job) error {
	var b strings.Builder
	b.WriteString("# Written by Leeward for this machine's stay.\nset default=0\nset timeout=0\n")
	for i, k := range append([]Kernel{j.kernel.Kernel}, j.kernel.others...) {
		entry, err := j.menuEntry(k)
		if err != nil && i == 0 {
			return err
		}
		if err == nil { // further ones are a courtesy
			b.WriteString(entry)
		}
	}
	return j.write(j.menuFile(), []byte(b.String()), 0o600, "boots "+j.kernel.Version+" ("+j.kernel.Why+")",
		"root and console are others here")
}

func (j *job) menuEntry(k Kernel) (string, error) {
	fsys, kernel, err := j.img.loaderPath(k.File)
	if err != nil {
		return "", err
	}
	home, _, err := j.img.loaderPath(j.menuFile())
	if err != nil {
		return "", err
	}
	if fsys != home {
		return "", fmt.Errorf("%s lies on another filesystem than the menu", k.File)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "menuentry %s {\n\techo %s\n\tlinux %s %s\n", grubQuote("Linux "+k.Version),
		grubQuote("leeward: loading Linux "+k.Version), grubQuote(kernel), grubArgs(k.Args))
	if k.Initrd != "" {
		on, initrd, err := j.img.loaderPath(k.Initrd)
		if err != nil {
			return "", err
		}
		if on != fsys {
			return "", fmt.Errorf("%s lies on another filesystem than its kernel", k.Initrd)
		}
		fmt.Fprintf(&b, "\tinitrd %s\n", grubQuote(initrd))
	}
	b.WriteString("}\n")
	return b.String(), nil
}

// grubQuote makes s one word of GRUB's shell.
func grubQuote(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func grubArgs(args string) string {
	words := splitArgs(args)
	for i, w := range words {
		if strings.ContainsAny(w, "\"'$\\;{}()<>&|#*? ") {
			// GRUB puts quotes of its own around words with spaces.
			words[i] = grubQuote(strings.ReplaceAll(w, `"`, ""))
		}
	}
	return strings.Join(words, " ")
}

// loaderConfig is built into the loader: it only finds the menu.
func (j *job) loaderConfig(efi bool) (string, error) {
	fsys, menu, err := j.img.loaderPath(j.menuFile())
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if !efi { // UEFI firmware speaks on the serial port by itself
		b.WriteString("serial --unit=0 --speed=115200\nterminal_output console serial\nterminal_input console serial\n")
	}
	fmt.Fprintf(&b, "echo GRUB\nsearch --no-floppy --fs-uuid --set=root %s\nconfigfile ($root)%s\n", fsys.UUID, grubQuote(menu))
	return b.String(), nil
}

// makeCore builds GRUB's core image with this host's GRUB.
func (j *job) makeCore(format, dir string, efi bool, modules ...string) (string, error) {
	config, err := j.loaderConfig(efi)
	if err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(j.img.work, "grub-")
	if err != nil {
		return "", err
	}
	j.img.undo = append(j.img.undo, func() error { return os.RemoveAll(work) })
	cfg, core := filepath.Join(work, "embedded.cfg"), filepath.Join(work, "core.img")
	if err := os.WriteFile(cfg, []byte(config), 0o600); err != nil {
		return "", err
	}
	args := append([]string{"-O", format, "-d", dir, "-o", core, "-c", cfg, "-p", "/"}, modules...)
	return core, runTool(j.ctx, "grub-mkimage", args...)
}

// fixBIOS puts the boot loader into the first sector and the BIOS boot partition.
func fixBIOS(j *job) error {
	part := j.img.partition(KindBIOSBoot)
	if j.img.Disk == "" || part == nil {
		return errors.New("the disk has no BIOS boot partition")
	}
	core, err := j.makeCore("i386-pc", grubDirBIOS, false, append(grubModules[:], "biosdisk")...)
	if err != nil {
		return err
	}
	image, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(grubDirBIOS + "/boot.img")
	if err != nil {
		return err
	}
	if err := installBIOS(j.img.Disk, boot, image, part.Offset, part.Size); err != nil {
		return err
	}
	j.did("", "GRUB for BIOS", "boot sectors do not travel")
	return nil
}

// Where GRUB's boot.img and diskboot.img keep what its installer fills in.
const (
	bootKernelSector = 0x5c
	bootDriveCheck   = 0x66
	blocklistStart   = sectorSize - 12
	blocklistLength  = sectorSize - 4
)

// installBIOS writes GRUB's two parts. The table in the first sector stays.
func installBIOS(disk string, boot, core []byte, offset, size int64) (err error) {
	if len(boot) < sectorSize || len(core) < 2*sectorSize {
		return errors.New("GRUB's images are too short")
	}
	if int64(len(core)) > size {
		return fmt.Errorf("GRUB needs %d bytes and the BIOS boot partition has %d", len(core), size)
	}
	boot, core = append([]byte(nil), boot...), append([]byte(nil), core...)
	sector := uint64(offset / sectorSize)
	binary.LittleEndian.PutUint64(boot[bootKernelSector:], sector)
	boot[bootDriveCheck], boot[bootDriveCheck+1] = 0x90, 0x90 // trust the drive the BIOS names
	binary.LittleEndian.PutUint64(core[blocklistStart:], sector+1)
	binary.LittleEndian.PutUint16(core[blocklistLength:], uint16((len(core)-1)/sectorSize))
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(boot[:bootCodeSize], 0); err != nil {
		return err
	}
	_, err = f.WriteAt(core, offset)
	return err
}

const (
	fallbackLoader = "EFI/BOOT/BOOTX64.EFI" // what firmware without boot entries starts
)

// fixUEFI puts the boot loader where firmware that knows no boot entries looks.
func fixUEFI(j *job) error {
	if j.img.Disk == "" {
		return errors.New("there is no disk")
	}
	part := j.img.partition(KindESP)
	if part == nil {
		return errors.New("the disk has no EFI system partition")
	}
	core, err := j.makeCore("x86_64-efi", grubDirUEFI, true, append(grubModules[:], "all_video", "efi_gop")...)
	if err != nil {
		return err
	}
	for _, f := range j.img.filesys {
		if f.Kind == KindESP && f.Tree != "" {
			return j.addLoader(f, core)
		}
	}
	// The source had none: make one that holds the loader alone.
	tree := filepath.Join(j.img.work, "esp")
	j.img.undo = append(j.img.undo, func() error { return os.RemoveAll(tree) })
	if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(fallbackLoader)), 0o700); err != nil {
		return err
	}
	if err := os.Rename(core, filepath.Join(tree, fallbackLoader)); err != nil {
		return err
	}
	if err := writeFAT(j.img.Disk, *part, tree); err != nil {
		return err
	}
	j.did("", "GRUB for UEFI in an EFI system partition of its own", "boot entries do not travel")
	return nil
}

// addLoader puts the loader into an EFI system partition that has a tree, in place
// of a fallback loader that would look for the source's disk. The guest may not
// mount that partition at all, so its own paths do not lead there.
func (j *job) addLoader(esp *Filesystem, core string) error {
	f, err := os.Open(core)
	if err != nil {
		return err
	}
	defer f.Close()
	file := existingCase(esp.Root, fallbackLoader)
	if err := esp.Root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := j.img.create(esp, file, f, 0o644); err != nil {
		return err
	}
	j.did(path.Join(esp.MountPoint, file), "GRUB for UEFI", "boot entries do not travel")
	return nil
}

// existingCase spells rel as the tree does already: vfat knows no case, and two
// spellings of one name would collide.
func existingCase(root *os.Root, rel string) string {
	at := "."
	for _, want := range strings.Split(rel, "/") {
		entries, _ := fs.ReadDir(root.FS(), at) // what is not there has no spelling yet
		for _, e := range entries {
			if strings.EqualFold(e.Name(), want) {
				want = e.Name()
				break
			}
		}
		at = path.Join(at, want)
	}
	return at
}

// runTool runs a program of this host on files of ours.
func runTool(ctx context.Context, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MTOOLS_SKIP_CHECK=1", "MTOOLSRC=/dev/null", "MTOOLS_LOWER_CASE=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
