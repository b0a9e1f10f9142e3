package replica

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/atomicfile"
	"github.com/leeward-dr/leeward/internal/dr"
)

const (
	layoutVersion = 1
	layoutFile    = "layout.json"
	diskFile      = "disk.raw"
	sector        = 512
	defaultESP    = 64 * mebibyte
	maxPartitions = 128
)

// Kind says what a partition is for.
type Kind string

// The kinds of partitions.
const (
	BIOSBoot   Kind = "bios-boot"
	ESP        Kind = "esp"
	Filesystem Kind = "filesystem"
	Swap       Kind = "swap"
)

// Layout describes a replica's disk. It is a plain value; layout.json holds it.
type Layout struct {
	Version    int           `json:"version"`
	Server     dr.ServerName `json:"server"`
	DiskID     string        `json:"disk_id"` // GUID of the partition table
	Size       int64         `json:"size"`    // bytes of the image
	Partitions []Partition   `json:"partitions"`
}

// Partition is one partition, and what the source had there.
type Partition struct {
	Number     int               `json:"number"` // from 1, as in the partition table
	Kind       Kind              `json:"kind"`
	MountPoint string            `json:"mount_point,omitempty"` // names the filesystem; "" if the source has none here
	Offset     int64             `json:"offset"`                // bytes from the start of the image
	Size       int64             `json:"size"`                  // bytes
	PartUUID   string            `json:"part_uuid"`
	PartType   string            `json:"part_type"` // GUID
	Type       string            `json:"type,omitempty"`
	UUID       string            `json:"uuid,omitempty"` // as blkid prints it
	Label      string            `json:"label,omitempty"`
	BlockSize  uint32            `json:"block_size,omitempty"`
	InodeSize  uint32            `json:"inode_size,omitempty"`
	Inodes     uint64            `json:"inodes,omitempty"` // at least so many; 0 where the type has no fixed number
	Features   []string          `json:"features,omitempty"`
	Params     map[string]string `json:"params,omitempty"`
	Used       int64             `json:"used,omitempty"` // bytes in use at the source when planned
	Tree       bool              `json:"tree,omitempty"` // the content is a plain tree beside the disk, the partition is empty
	Gone       bool              `json:"gone,omitempty"` // the source no longer has it
	Notes      []string          `json:"notes,omitempty"`
}

// LayoutOptions adjust a plan.
type LayoutOptions struct {
	Server  dr.ServerName
	ESPSize int64 // of an ESP the source does not have; 0 is 64 MiB
}

// Find returns the partition of the filesystem named mountPoint, or nil.
func (l *Layout) Find(mountPoint string) *Partition {
	for i := range l.Partitions {
		if l.Partitions[i].MountPoint == mountPoint && mountPoint != "" {
			return &l.Partitions[i]
		}
	}
	return nil
}

// PlanLayout decides the disk of the server that facts describe. Filesystems of
// a type that no replica can hold are an error that names them.
func PlanLayout(f *agentpb.Facts, o LayoutOptions) (*Layout, error) {
	if len(f.GetFilesystems()) == 0 {
		return nil, fmt.Errorf("plan disk of %s: the source names no filesystem", o.Server)
	}
	if err := checkRoot(f); err != nil {
		return nil, fmt.Errorf("plan disk of %s: %w", o.Server, err)
	}
	l := &Layout{Version: layoutVersion, Server: o.Server, DiskID: diskID(f)}
	l.add(Partition{Kind: BIOSBoot, Size: mebibyte})
	if sourceESP(f) == nil {
		size := o.ESPSize
		if size == 0 {
			size = defaultESP
		}
		l.add(Partition{Kind: ESP, Type: "vfat", Size: size, UUID: newVolumeID()})
	}
	for _, fs := range f.GetFilesystems() {
		p, err := planFilesystem(fs, fs == sourceESP(f), f.GetKernel())
		if err != nil {
			return nil, fmt.Errorf("plan disk of %s: %w", o.Server, err)
		}
		l.add(p)
	}
	for _, s := range f.GetSwaps() {
		if !s.GetFile() && s.GetUuid() != "" {
			l.add(Partition{Kind: Swap, Type: "swap", Size: int64(s.GetSizeBytes()), UUID: s.GetUuid(), Label: s.GetLabel()})
		}
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("plan disk of %s: %w", o.Server, err)
	}
	return l, nil
}

// checkRoot refuses a source whose root filesystem would be missing: such a replica
// could never boot.
func checkRoot(f *agentpb.Facts) error {
	for _, fs := range f.GetFilesystems() {
		if fs.GetMountPoint() == "/" {
			return nil
		}
	}
	for _, s := range f.GetSkipped() {
		if s.GetMountPoint() == "/" && s.GetType() != "rootfs" {
			err := fmt.Errorf("its root filesystem (%s) cannot be carried: %s", s.GetType(), s.GetReason())
			return dr.WithHint(err, "protect this server by its disks, or by other means")
		}
	}
	return errors.New("the source names no root filesystem")
}

// planFilesystem turns one filesystem of the source into a partition.
func planFilesystem(fs *agentpb.Filesystem, esp bool, kernel string) (Partition, error) {
	p := Partition{
		Kind: Filesystem, MountPoint: fs.GetMountPoint(), Type: fs.GetType(), UUID: fs.GetUuid(),
		Label: fs.GetLabel(), PartUUID: strings.ToLower(fs.GetPartUuid()), Size: int64(fs.GetSizeBytes()),
		BlockSize: fs.GetBlockSize(), InodeSize: fs.GetInodeSize(), Features: fs.GetFeatures(),
		Params: fs.GetParams(), Used: int64(fs.GetUsedBytes()),
		Inodes: max(fs.GetInodes(), fs.GetInodesUsed()+fs.GetInodesUsed()/5+1),
	}
	if esp {
		p.Kind = ESP
	}
	m, err := makerOf(p.Type)
	if err != nil {
		return p, fmt.Errorf("filesystem %s: %w", p.MountPoint, err)
	}
	if p.UUID == "" {
		return p, fmt.Errorf("filesystem %s (%s): the source tells no UUID of it", p.MountPoint, p.Type)
	}
	p.Tree = m.tree
	if !m.inodes {
		p.Inodes = 0
	}
	p.Size = max(p.Size+p.Size/100*m.slack, m.least)
	if m.adapt != nil {
		m.adapt(&p, kernel)
	}
	return p, nil
}

// add appends p behind the last partition, filling in what is missing.
func (l *Layout) add(p Partition) {
	p.Number = len(l.Partitions) + 1
	p.Offset = l.end()
	p.Size = roundUp(p.Size, mebibyte)
	if !guidRE.MatchString(p.PartUUID) || l.hasPartUUID(p.PartUUID) {
		p.PartUUID = newGUID()
	}
	p.PartType = partType(&p)
	l.Partitions = append(l.Partitions, p)
	l.Size = l.end() + mebibyte // the second copy of the table
}

// end returns the first free byte behind all partitions.
func (l *Layout) end() int64 {
	end := int64(mebibyte)
	for _, p := range l.Partitions {
		end = max(end, p.Offset+p.Size)
	}
	return end
}

func (l *Layout) hasPartUUID(id string) bool {
	for _, p := range l.Partitions {
		if p.PartUUID == id {
			return true
		}
	}
	return false
}

// check refuses what no disk can be.
func (l *Layout) check() error {
	if len(l.Partitions) > maxPartitions {
		return fmt.Errorf("%d partitions, a partition table holds %d", len(l.Partitions), maxPartitions)
	}
	points, uuids := map[string]bool{}, map[string]string{}
	for _, p := range l.Partitions {
		if p.MountPoint != "" && points[p.MountPoint] {
			return fmt.Errorf("filesystem %s is named twice", p.MountPoint)
		}
		points[p.MountPoint] = true
		if other, ok := uuids[p.UUID]; ok && p.UUID != "" && !p.Gone {
			return fmt.Errorf("filesystems %s and %s have one UUID, %s", other, p.MountPoint, p.UUID)
		}
		if !p.Gone {
			uuids[p.UUID] = p.MountPoint
		}
		if p.Size <= 0 || p.Offset < mebibyte || p.Offset > l.Size-p.Size {
			return fmt.Errorf("partition %d lies outside of the disk", p.Number)
		}
	}
	return nil
}

// need estimates the bytes a replica of this layout holds after a first pass.
func (l *Layout) need() int64 {
	var sum int64
	for _, p := range l.Partitions {
		sum += p.Used + p.Used/50 // what mkfs writes, and metadata of other density
		if p.Used > 0 {
			sum += 64 * mebibyte
		}
	}
	return sum
}

func readLayout(path string) (*Layout, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return parseLayout(b)
}

func parseLayout(b []byte) (*Layout, error) {
	var l Layout
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	if l.Version != layoutVersion {
		return nil, fmt.Errorf("read layout: version %d, this Leeward reads %d", l.Version, layoutVersion)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("read layout: %w", err)
	}
	return &l, nil
}

func (l *Layout) write(path string) error {
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

// sourceESP returns the source's EFI system partition, nil if it has none.
func sourceESP(f *agentpb.Facts) *agentpb.Filesystem {
	for _, at := range []string{"/boot/efi", "/efi", "/boot"} {
		for _, fs := range f.GetFilesystems() {
			if fs.GetMountPoint() == at && fs.GetType() == "vfat" {
				return fs
			}
		}
	}
	return nil
}

// diskID keeps the GUID of the disk that holds the root filesystem.
func diskID(f *agentpb.Facts) string {
	root := strings.TrimPrefix(f.GetFilesystems()[0].GetDevice(), "/dev/")
	for _, d := range f.GetDisks() {
		name := strings.TrimPrefix(d.GetName(), "/dev/")
		id := strings.ToLower(d.GetTableId())
		if d.GetTable() == "gpt" && name != "" && strings.HasPrefix(root, name) && guidRE.MatchString(id) {
			return id
		}
	}
	return newGUID()
}

var guidRE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func newGUID() string {
	var b [16]byte
	rand.Read(b[:]) // never returns an error, by its documentation
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func newVolumeID() string {
	var b [4]byte
	rand.Read(b[:])
	return fmt.Sprintf("%02X%02X-%02X%02X", b[0], b[1], b[2], b[3])
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// exists reports whether path is there.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (r *Replica) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}
