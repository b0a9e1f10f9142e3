package lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
)

const (
	// volumeGroup is the LVM group of a server that has volumes.
	volumeGroup = "vg0"
	// volumeHeadMiB is what LVM keeps for itself at the start of each partition.
	volumeHeadMiB = 1
	extentMiB     = 4

	// Where things are in LVM's head, see lib/format_text/layout.h and lib/label of
	// LVM2: the label in the second sector, the metadata area behind the first page.
	volumeLabelAt = 512
	volumeAreaAt  = 4096
	volumeTextAt  = 512 // within the area
)

// writeVolumes writes what makes partitions physical volumes of LVM, each with one
// logical volume at its start. Plain file work: this machine's kernel need not know
// the device mapper, and its LVM never sees the disk.
func writeVolumes(s Spec, seed, disk string, parts []Partition) error {
	text := s.volumeText(seed, parts)
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("open disk: %w", err)
	}
	defer f.Close()
	for _, p := range parts {
		if p.Volume == "" {
			continue
		}
		start, size := p.partition()
		head := volumeHead(lvmID(s, seed, "pv "+p.Volume), int64(size)*mib, text)
		if _, err := f.WriteAt(head, int64(start)*mib); err != nil {
			return fmt.Errorf("write volume %s: %w", p.Volume, err)
		}
	}
	return f.Close()
}

// volumeHead is the start of a physical volume.
func volumeHead(id string, size int64, text []byte) []byte {
	le := binary.LittleEndian
	head := make([]byte, volumeAreaAt+volumeTextAt+len(text))

	label := head[volumeLabelAt : volumeLabelAt+512]
	copy(label, "LABELONE")
	le.PutUint64(label[8:], volumeLabelAt/512)
	le.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	copy(label[32:], strings.ReplaceAll(id, "-", ""))
	le.PutUint64(label[64:], uint64(size))
	// One data area to the end, a zero, one metadata area, a zero; then the extension.
	le.PutUint64(label[72:], volumeHeadMiB*mib)
	le.PutUint64(label[104:], volumeAreaAt)
	le.PutUint64(label[112:], volumeHeadMiB*mib-volumeAreaAt)
	le.PutUint32(label[136:], 2)
	le.PutUint32(label[140:], 1) // in use
	le.PutUint32(label[16:], lvmSum(label[20:]))

	area := head[volumeAreaAt : volumeAreaAt+512]
	copy(area[4:], " LVM2 x[5A%r0N*>")
	le.PutUint32(area[20:], 1)
	le.PutUint64(area[24:], volumeAreaAt)
	le.PutUint64(area[32:], volumeHeadMiB*mib-volumeAreaAt)
	le.PutUint64(area[40:], volumeTextAt)
	le.PutUint64(area[48:], uint64(len(text)))
	le.PutUint32(area[56:], lvmSum(text))
	le.PutUint32(area, lvmSum(area[4:]))

	copy(head[volumeAreaAt+volumeTextAt:], text)
	return head
}

// lvmSum is LVM's checksum: CRC-32 from a start of its own, not inverted.
func lvmSum(b []byte) uint32 {
	const start = 0xf597a6cf
	return ^crc32.Update(^uint32(start), crc32.IEEETable, b)
}

// lvmID derives a stable id of something of LVM's.
func lvmID(s Spec, seed, role string) string {
	const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	h := sha256.Sum256([]byte(seed + "\x00" + s.Name + "\x00lvm " + role))
	var b strings.Builder
	for i, c := range h {
		if i >= 6 && i < 30 && (i-6)%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(letters[int(c)%len(letters)])
	}
	return b.String()
}

// volumeText is the description of the group, as vgcfgbackup prints it.
func (s Spec) volumeText(seed string, parts []Partition) []byte {
	var pvs, lvs bytes.Buffer
	for i, p := range parts {
		if p.Volume == "" {
			continue
		}
		_, size := p.partition()
		fmt.Fprintf(&pvs, "pv%d {\nid = %q\ndevice = \"unknown\"\nstatus = [\"ALLOCATABLE\"]\nflags = []\ndev_size = %d\npe_start = %d\npe_count = %d\n}\n",
			i, lvmID(s, seed, "pv "+p.Volume), size*mib/512, volumeHeadMiB*mib/512, (size-volumeHeadMiB)/extentMiB)
		fmt.Fprintf(&lvs, "%s {\nid = %q\nstatus = [\"READ\", \"WRITE\", \"VISIBLE\"]\nflags = []\nsegment_count = 1\nsegment1 {\n"+
			"start_extent = 0\nextent_count = %d\ntype = \"striped\"\nstripe_count = 1\nstripes = [\n\"pv%d\", 0\n]\n}\n}\n",
			p.Volume, lvmID(s, seed, "lv "+p.Volume), p.SizeMiB/extentMiB, i)
	}
	text := fmt.Sprintf("%s {\nid = %q\nseqno = 1\nformat = \"lvm2\"\nstatus = [\"RESIZEABLE\", \"READ\", \"WRITE\"]\nflags = []\n"+
		"extent_size = %d\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\nphysical_volumes {\n%s}\nlogical_volumes {\n%s}\n}\n"+
		"contents = \"Text Format Volume Group\"\nversion = 1\ndescription = \"\"\ncreation_host = %q\ncreation_time = 1500000000\n\x00",
		volumeGroup, lvmID(s, seed, "vg"), extentMiB*mib/512, pvs.String(), lvs.String(), s.Name)
	return []byte(text)
}
