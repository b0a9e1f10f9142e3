package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"context"

	"golang.org/x/sys/unix"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
)

// device is the number of a block device.
type device struct{ major, minor uint32 }

func (d device) String() string { return fmt.Sprintf("%d:%d", d.major, d.minor) }

func parseDevice(s string) (device, bool) {
	major, minor, ok := strings.Cut(s, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return device{uint32(a), uint32(b)}, ok && err1 == nil && err2 == nil
}

// deviceOf finds the block device a mount is on. Major 0 means that the kernel made
// the number up (btrfs): then the name tells.
func (c *collector) deviceOf(m procfs.Mount) (device, bool) {
	if m.Type != "btrfs" && m.Major != 0 {
		return device{m.Major, m.Minor}, true
	}
	name, ok := strings.CutPrefix(m.Source, "/dev/")
	if !ok {
		return device{}, false
	}
	if d, ok := parseDevice(c.text("sys/class/block", strings.ReplaceAll(name, "/", "!"), "dev")); ok {
		return d, true
	}
	if d, ok := parseDevice(c.mapped(name)); ok {
		return d, true
	}
	var st unix.Stat_t
	if unix.Stat(c.path(c.view, m.Source), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return device{unix.Major(st.Rdev), unix.Minor(st.Rdev)}, true
	}
	return device{}, false
}

// mapped is the number of a device of the device mapper, by its name.
func (c *collector) mapped(name string) string {
	name, ok := strings.CutPrefix(name, "mapper/")
	if !ok {
		return ""
	}
	dms, _ := filepath.Glob(c.path("sys/block/dm-*")) // the pattern is well-formed
	for _, dm := range dms {
		base := filepath.Base(dm)
		if c.text("sys/block", base, "dm/name") == name {
			return c.text("sys/block", base, "dev")
		}
	}
	return ""
}

// deviceName is the name under which users know d; /dev/root is nobody's.
func (c *collector) deviceName(d device, source string) string {
	if strings.HasPrefix(source, "/dev/") && source != "/dev/root" {
		return source
	}
	sys := filepath.Join("sys/dev/block", d.String())
	if dm := c.text(sys, "dm/name"); dm != "" {
		return "/dev/mapper/" + dm
	}
	data, err := c.read(sys, "uevent")
	if name := procfs.ParseAssignments(data)["DEVNAME"]; err == nil && name != "" {
		return "/dev/" + name
	}
	return source
}

// udev is what udev has noted of d; anybody may read it.
func (c *collector) udev(d device) map[string]string {
	data, err := c.read("run/udev/data", "b"+d.String())
	if err != nil {
		return nil
	}
	m := map[string]string{}
	for key, value := range procfs.ParseAssignments(data) {
		if key, ok := strings.CutPrefix(key, "E:"); ok {
			m[key] = value
		}
	}
	return m
}

// udevText is a value in which udev has escaped odd bytes as \x20.
func udevText(u map[string]string, key string) string {
	s := u[key+"_ENC"]
	if s == "" {
		return u[key]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if i+3 < len(s) && s[i] == '\\' && s[i+1] == 'x' {
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// partUUID is the id of d in the partition table of its disk, empty if d is no
// partition.
func (c *collector) partUUID(d device) string {
	sys := filepath.Join("sys/dev/block", d.String())
	number, err := strconv.Atoi(c.text(sys, "partition"))
	if err != nil {
		return ""
	}
	if data, err := c.read(sys, "uevent"); err == nil {
		if id := procfs.ParseAssignments(data)["PARTUUID"]; id != "" {
			return strings.ToLower(id)
		}
	}
	if id := c.udev(d)["ID_PART_ENTRY_UUID"]; id != "" {
		return strings.ToLower(id)
	}
	dir, err := filepath.EvalSymlinks(c.path(sys))
	if err != nil {
		return ""
	}
	disk := filepath.Base(filepath.Dir(dir))
	t, err := c.table(disk)
	if err != nil {
		c.warn("partition table of %s: %v", disk, err)
		return ""
	}
	return t.partUUID(number)
}

// disks lists the disks that have a device behind them: no loops, no maps.
func (c *collector) disks(context.Context) {
	entries, err := os.ReadDir(c.path("sys/block"))
	if err != nil {
		c.warn("disks: %v", err)
		return
	}
	for _, e := range entries {
		name := e.Name()
		sectors, _ := strconv.ParseUint(c.text("sys/block", name, "size"), 10, 54) // absent: no disk
		if sectors == 0 || !c.exists("sys/block", name, "device") || strings.HasPrefix(name, "sr") {
			continue
		}
		d := &agentpb.Disk{Name: strings.ReplaceAll(name, "!", "/"), SizeBytes: sectors * 512}
		t, err := c.table(name)
		switch {
		case err == nil:
			d.Table, d.TableId = t.kind, t.id
		case errors.Is(err, os.ErrPermission):
			// In a container the host's disks show in /sys and are nobody's business.
		default:
			c.warn("partition table of %s: %v", d.Name, err)
		}
		c.facts.Disks = append(c.facts.Disks, d)
	}
}

func (c *collector) table(disk string) (partitionTable, error) {
	d, ok := parseDevice(c.text("sys/block", disk, "dev"))
	if !ok {
		return partitionTable{}, errors.New("its device number is not known")
	}
	sector, err := strconv.Atoi(c.text("sys/block", disk, "queue/logical_block_size"))
	if err != nil {
		sector = 512
	}
	r, err := c.sys.openBlock(d, c.path("dev", strings.ReplaceAll(disk, "!", "/")))
	if err != nil {
		return partitionTable{}, err
	}
	defer r.Close()
	return parsePartitionTable(r, sector)
}

// openBlock opens d for reading: by path if that is d's node, else by a node in a
// filesystem in memory that is mounted nowhere (Linux 5.2), so that nothing is
// written on the host.
func openBlock(d device, path string) (blockReader, error) {
	f, err := os.Open(path)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(int(f.Fd()), &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == unix.Mkdev(d.major, d.minor) {
			return f, nil
		}
		f.Close()
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	node, nodeErr := privateNode(d)
	if nodeErr != nil {
		return nil, fmt.Errorf("open device %v: %w", d, errors.Join(err, nodeErr))
	}
	return node, nil
}

func privateNode(d device) (*os.File, error) {
	ctx, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(ctx)
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, err
	}
	dir, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOEXEC|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if err := unix.Mknodat(dir, "node", unix.S_IFBLK|0o600, int(unix.Mkdev(d.major, d.minor))); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(dir, "node", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "device "+d.String()), nil
}

// partitionTable is what a disk says of its partitions.
type partitionTable struct {
	kind  string // gpt, dos or none
	id    string
	parts map[int]string // gpt: ids by number
}

// partUUID is the id of partition n as udev and blkid print it.
func (t partitionTable) partUUID(n int) string {
	if t.kind == "dos" && t.id != "00000000" {
		return fmt.Sprintf("%s-%02x", t.id, n)
	}
	return t.parts[n]
}

// parsePartitionTable reads the table of a disk of the given sector size.
func parsePartitionTable(r io.ReaderAt, sector int) (partitionTable, error) {
	none := partitionTable{kind: "none"}
	if sector < 512 || sector > 64<<10 {
		return none, fmt.Errorf("sector size %d", sector)
	}
	mbr := make([]byte, 512)
	if _, err := r.ReadAt(mbr, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return none, nil
		}
		return none, err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return none, nil
	}
	protective, used := false, false
	for i := range 4 {
		e := mbr[446+16*i:]
		if e[0]&0x7f != 0 {
			return none, nil // no table but a boot sector
		}
		protective = protective || e[4] == 0xee
		used = used || e[4] != 0
	}
	switch {
	case protective:
		return parseGPT(r, int64(sector))
	case used:
		return partitionTable{kind: "dos", id: fmt.Sprintf("%08x", binary.LittleEndian.Uint32(mbr[440:]))}, nil
	}
	return none, nil
}

// parseGPT reads the primary table (UEFI specification, GUID Partition Table).
func parseGPT(r io.ReaderAt, sector int64) (partitionTable, error) {
	t := partitionTable{kind: "gpt", parts: map[int]string{}}
	h := make([]byte, 92)
	if _, err := r.ReadAt(h, sector); err != nil {
		return t, fmt.Errorf("read GPT: %w", err)
	}
	if string(h[:8]) != "EFI PART" {
		return t, errors.New("the GPT header is damaged")
	}
	t.id = guid(h[56:72])
	lba := binary.LittleEndian.Uint64(h[72:])
	count, size := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if count > 4096 || size < 128 || size > 4096 || lba > 1<<48 {
		return t, errors.New("the GPT header makes no sense")
	}
	entries := make([]byte, int(count)*int(size))
	if _, err := r.ReadAt(entries, int64(lba)*sector); err != nil {
		return t, fmt.Errorf("read GPT entries: %w", err)
	}
	for i := range int(count) {
		e := entries[i*int(size):]
		if slices.ContainsFunc(e[:16], func(b byte) bool { return b != 0 }) {
			t.parts[i+1] = guid(e[16:32])
		}
	}
	return t, nil
}

// guid prints a GUID, whose first three parts are little-endian.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b),
		binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
