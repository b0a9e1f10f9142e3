package fsinfo

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// image makes a sparse file of so many MiB and runs a mkfs on it; %s among the
// arguments is the file.
func image(t *testing.T, mib int64, command string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	args := strings.Fields(strings.ReplaceAll(command, "%s", path))
	program(t, args[0], args[1:]...)
	return path
}

// program runs one of the outside programs that serve as witnesses here.
func program(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err != nil {
			path, err = exec.LookPath(dir + name)
		}
	}
	if err != nil {
		t.Skipf("%s is not installed: %v", name, err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "MKE2FS_SKIP_CHECK_MSG=1", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func detect(t *testing.T, path string) *Info {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := Detect(f)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// blkid returns what blkid tells of path, by its keys.
func blkid(t *testing.T, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for line := range strings.Lines(program(t, "blkid", "-p", "-o", "export", path)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			out[k] = strings.ReplaceAll(v, `\ `, " ")
		}
	}
	return out
}

// TestAgainstBlkid compares type, UUID and label with blkid's for what the
// distributions' mkfs programs make.
func TestAgainstBlkid(t *testing.T) {
	for name, c := range map[string]struct {
		mib     int64
		command string
	}{
		"ext2":       {32, "mke2fs -q -F -t ext2 -L boot %s"},
		"ext3":       {32, "mke2fs -q -F -t ext3 -U 01234567-89ab-cdef-0123-456789abcdef %s"},
		"ext4":       {64, "mke2fs -q -F -t ext4 -L a-label-of-16-by %s"},
		"ext4 1k":    {32, "mke2fs -q -F -t ext4 -b 1024 -O ^has_journal %s"},
		"xfs":        {320, "mkfs.xfs -q -L twelve-chars %s"},
		"xfs 4k":     {320, "mkfs.xfs -q -s size=4096 %s"},
		"btrfs":      {128, "mkfs.btrfs -q -L data %s"},
		"swap":       {16, "mkswap -L swap1 %s"},
		"swap 64k":   {16, "mkswap -p 65536 %s"},
		"fat12":      {2, "mkfs.vfat -F 12 -i 1234ABCD -n ESP %s"},
		"fat16":      {64, "mkfs.vfat -F 16 -n BOOT %s"},
		"fat32":      {64, "mkfs.vfat -F 32 -n EFI-SYSTEM %s"},
		"fat noname": {64, "mkfs.vfat -F 32 %s"},
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, c.mib, c.command)
			got, want := detect(t, path), blkid(t, path)
			if got.Type != want["TYPE"] || got.UUID != want["UUID"] || got.Label != want["LABEL"] {
				t.Errorf("got %s %s %q, blkid says %s %s %q", got.Type, got.UUID, got.Label,
					want["TYPE"], want["UUID"], want["LABEL"])
			}
			if got.SizeBytes > uint64(c.mib)<<20 || got.SizeBytes < uint64(c.mib)<<20*9/10 {
				t.Errorf("size %d of %d MiB", got.SizeBytes, c.mib)
			}
		})
	}
}

// TestExtAgainstDumpe2fs compares what mkfs is to be told again with dumpe2fs.
func TestExtAgainstDumpe2fs(t *testing.T) {
	for name, options := range map[string]string{
		"debian":   "",
		"old":      "-O ^metadata_csum,^64bit,^huge_file,uninit_bg",
		"unusual":  "-O inline_data,quota,project,encrypt,verity,ea_inode,large_dir,metadata_csum_seed,orphan_file -E quotatype=usrquota:prjquota -I 512 -m 2.5 -e panic",
		"bigalloc": "-O bigalloc -C 16384 -G 8",
		"casefold": "-O casefold,stable_inodes -E encoding=utf8-12.1 -J size=4",
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, 128, "mke2fs -q -F -t ext4 "+options+" %s")
			info := detect(t, path)
			h := headers(program(t, "dumpe2fs", "-h", path))
			if want := h["Filesystem features"]; strings.Join(info.Features, " ") != want {
				t.Errorf("features %v, dumpe2fs says %s", info.Features, want)
			}
			check := func(key, got string) {
				t.Helper()
				if got != h[key] {
					t.Errorf("%s: got %q, dumpe2fs says %q", key, got, h[key])
				}
			}
			check("Reserved block count", info.Params["reserved_blocks"])
			check("Directory Hash Seed", info.Params["hash_seed"])
			check("Default directory hash", info.Params["hash_alg"])
			check("Default mount options", strings.ReplaceAll(info.Params["default_mount_options"], ",", " "))
			check("Flex block group size", info.Params["flex_bg_size"])
			check("Filesystem flags", info.Params["flags"]+" ")
			check("Errors behavior", map[string]string{"continue": "Continue", "panic": "Panic",
				"remount-ro": "Remount read-only"}[info.Params["errors"]])
			check("Character encoding", strings.Replace(info.Params["encoding"], "utf8", "utf8-12.1", 1))
			check("Cluster size", info.Params["cluster_size"])
			if name == "casefold" && info.Params["journal_bytes"] != "4194304" {
				t.Errorf("journal of %s bytes, asked for 4 MiB", info.Params["journal_bytes"])
			}
			if name == "unusual" && info.Params["quotatype"] != "usrquota:prjquota" {
				t.Errorf("quotas %q", info.Params["quotatype"])
			}
		})
	}
}

// headers reads the lines "key: value" of dumpe2fs.
func headers(out string) map[string]string {
	h := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			h[k] = strings.TrimSuffix(strings.TrimLeft(v, " \t"), "\n")
		}
	}
	h["Default mount options"] = strings.TrimSpace(h["Default mount options"])
	if _, ok := h["Filesystem flags"]; ok {
		h["Filesystem flags"] = strings.TrimSpace(h["Filesystem flags"]) + " "
	}
	return h
}

// TestXFSFeatures makes XFS with known features and reads them back, xfs_db
// being the witness where it has a word for them.
func TestXFSFeatures(t *testing.T) {
	for name, c := range map[string]struct {
		options string
		want    []string
		params  map[string]string
	}{
		"all off": {"-m crc=1,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0 -i nrext64=0,sparse=0,size=1024",
			[]string{"crc", "attr2", "projid32bit", "ftype"}, map[string]string{"version": "5", "sector_size": "512"}},
		"all on": {"-m crc=1,finobt=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1 -i nrext64=1,sparse=1 -n size=8192 -s size=4096",
			[]string{"crc", "attr2", "projid32bit", "finobt", "rmapbt", "reflink", "inobtcount", "ftype", "sparse", "bigtime", "nrext64"},
			map[string]string{"directory_block_size": "8192", "sector_size": "4096"}},
		"version 4": {"-m crc=0,finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0 -i nrext64=0,sparse=0 -n ftype=1",
			[]string{"attr2", "projid32bit", "ftype"}, map[string]string{"version": "4"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, 320, "mkfs.xfs -q "+c.options+" %s")
			info := detect(t, path)
			if !slices.Equal(info.Features, c.want) {
				t.Errorf("features %v, want %v", info.Features, c.want)
			}
			for k, v := range c.params {
				if info.Params[k] != v {
					t.Errorf("%s is %q, want %q", k, info.Params[k], v)
				}
			}
			version := program(t, "xfs_db", "-r", "-c", "version", path)
			for word, feature := range map[string]string{"REFLINK": "reflink", "RMAPBT": "rmapbt", "BIGTIME": "bigtime",
				"INOBTCNT": "inobtcount", "FINOBT": "finobt", "SPARSE_INODES": "sparse", "NREXT64": "nrext64", "CRC": "crc"} {
				if has := slices.Contains(info.Features, feature); strings.Contains(version, word) != has {
					t.Errorf("%s is %v, xfs_db says %s", feature, has, version)
				}
			}
		})
	}
}

// TestBtrfsAgainstDumpSuper compares with btrfs-progs' own reading.
func TestBtrfsAgainstDumpSuper(t *testing.T) {
	for name, options := range map[string]string{
		"debian": "", "mixed": "-M -O ^no-holes -R ^free-space-tree", "csum": "--csum blake2 -n 32768",
	} {
		t.Run(name, func(t *testing.T) {
			path := image(t, 128, "mkfs.btrfs -q "+options+" %s")
			info := detect(t, path)
			out := strings.ToLower(program(t, "btrfs", "inspect-internal", "dump-super", path))
			for word, feature := range map[string]string{"mixed_backref": "mixed-backref", "mixed_groups": "mixed-bg",
				"big_metadata": "big-metadata", "extended_iref": "extref", "skinny_metadata": "skinny-metadata",
				"no_holes": "no-holes", "free_space_tree |": "free-space-tree"} {
				if has := slices.Contains(info.Features, feature); strings.Contains(out, word) != has {
					t.Errorf("%s is %v, dump-super says:\n%s", feature, has, out)
				}
			}
			if !strings.Contains(out, "("+info.Params["csum_type"]) {
				t.Errorf("checksums %q, dump-super says:\n%s", info.Params["csum_type"], out)
			}
			if !strings.Contains(out, "nodesize\t\t"+info.Params["nodesize"]+"\n") {
				t.Errorf("nodesize %s, dump-super says:\n%s", info.Params["nodesize"], out)
			}
			if !strings.Contains(out, "dev_item.uuid\t\t"+info.Params["device_uuid"]+"\n") {
				t.Errorf("device %s, dump-super says:\n%s", info.Params["device_uuid"], out)
			}
		})
	}
}

func TestNothingKnown(t *testing.T) {
	ntfs := make([]byte, 1<<16)
	copy(ntfs, "\xeb\x52\x90NTFS    \x00\x02\x08")
	ntfs[510], ntfs[511] = 0x55, 0xaa
	for name, b := range map[string][]byte{"empty": nil, "zeroes": make([]byte, 1<<17), "short": make([]byte, 700), "ntfs": ntfs} {
		if info, err := Detect(bytes.NewReader(b)); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: got %+v, %v, want ErrUnknown", name, info, err)
		}
	}
}

// failing is a device with a bad sector.
type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestReadErrorIsNoVerdict(t *testing.T) {
	if _, err := Detect(failing{os.ErrPermission}); !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want the device's own error", err)
	}
}
