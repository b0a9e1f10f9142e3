package lab

import (
	"fmt"
	"strings"
)

const (
	mib = 1 << 20
	// biosGrubMiB is where GRUB's core image lives on every disk.
	biosGrubMiB = 1
	firstFSMiB  = 2
	// espMiB is the size of the EFI system partition of servers that have one:
	// FAT32 can hardly be smaller.
	espMiB = 40
)

// Partition is a filesystem of a server as it lies on the server's disk.
type Partition struct {
	Filesystem
	Offset int64  `json:"offset"` // bytes from the start of the disk
	Size   int64  `json:"size"`
	UUID   string `json:"uuid"`
	Image  string `json:"image,omitempty"` // a file of its own instead of the server's disk
}

// layout places the server's filesystems one after the other, behind its ESP.
func (s Spec) layout(seed string) (parts []Partition, diskMiB int) {
	at := firstFSMiB
	if s.UEFI {
		at += espMiB
	}
	for _, f := range s.Filesystems {
		p := Partition{
			Filesystem: f,
			Offset:     int64(at) * mib,
			Size:       int64(f.SizeMiB) * mib,
			UUID:       s.uuid(seed, "fs "+f.Mount),
		}
		if f.Volume != "" {
			p.Offset += volumeHeadMiB * mib
		}
		parts = append(parts, p)
		_, size := p.partition()
		at += size
	}
	return parts, at + 1 // the backup partition table
}

// partition is where the partition that holds the filesystem begins and how large
// it is, in MiB.
func (p *Partition) partition() (start, size int) {
	start = int(p.Offset / mib)
	if p.Volume == "" {
		return start, p.SizeMiB
	}
	return start - volumeHeadMiB, volumeHeadMiB + p.SizeMiB + p.RoomMiB
}

// espID is the volume id of the server's ESP, as blkid prints it.
func (s Spec) espID(seed string) string {
	id := strings.ToUpper(s.uuid(seed, "esp"))
	return id[:4] + "-" + id[4:8]
}

// sfdiskScript is the partition table in sfdisk's language.
func (s Spec) sfdiskScript(seed string, parts []Partition) string {
	var b strings.Builder
	fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\n", s.uuid(seed, "disk"))
	fmt.Fprintf(&b, "start=%dMiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=bios, uuid=%s\n",
		biosGrubMiB, s.uuid(seed, "part bios"))
	if s.UEFI {
		fmt.Fprintf(&b, "start=%dMiB, size=%dMiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp, uuid=%s\n",
			firstFSMiB, espMiB, s.uuid(seed, "part esp"))
	}
	for _, p := range parts {
		kind := "0FC63DAF-8483-4772-8E79-3D69D8477DE4" // Linux
		if p.Volume != "" {
			kind = "E6D6D379-F507-44C2-A23C-238F2A3DF928" // Linux LVM
		}
		start, size := p.partition()
		fmt.Fprintf(&b, "start=%dMiB, size=%dMiB, type=%s, name=%s, uuid=%s\n", start, size, kind, p.Label, s.uuid(seed, "part "+p.Mount))
	}
	return b.String()
}

// partsFile is the list of filesystems for image.sh.
func partsFile(parts []Partition) string {
	var b strings.Builder
	for _, p := range parts {
		subvols := "-"
		if len(p.Subvolumes) > 0 {
			pairs := make([]string, len(p.Subvolumes))
			for i, v := range p.Subvolumes {
				pairs[i] = v.Name + ":" + v.Mount
			}
			subvols = strings.Join(pairs, ",")
		}
		fmt.Fprintf(&b, "%s %s %d %d %s %s %s\n", p.Mount, p.Type, p.Offset/mib, p.SizeMiB, p.UUID, p.Label, subvols)
	}
	return b.String()
}

// mountsFile is the list of mounts for light.sh, on the given disk.
func mountsFile(parts []Partition, disk string) string {
	var b strings.Builder
	for _, p := range parts {
		subvols, image := p.Subvolumes, disk
		if p.Image != "" {
			image = p.Image
		}
		if len(subvols) == 0 {
			subvols = []Subvolume{{"-", p.Mount}}
		}
		for _, v := range subvols {
			fmt.Fprintf(&b, "%s %s %d %d %s %s %s\n", v.Mount, p.Type, p.Offset, p.Size, p.UUID, v.Name, image)
		}
	}
	return b.String()
}

// fstab is the server's /etc/fstab.
func (s Spec) fstab(seed string, parts []Partition) string {
	var b strings.Builder
	b.WriteString("# <file system> <mount point> <type> <options> <dump> <pass>\n")
	for i, p := range parts {
		device := "UUID=" + p.UUID
		if s.DevNames {
			device = fmt.Sprintf("/dev/sda%d", i+2) // the first partition is GRUB's
		}
		if p.Volume != "" {
			device = "/dev/mapper/" + volumeGroup + "-" + p.Volume
		}
		options := p.Options
		if options == "" {
			options = "defaults"
		}
		pass := 2
		switch {
		case p.Type != "ext4":
			pass = 0
		case p.Mount == "/":
			pass, options = 1, "errors=remount-ro"
		}
		if len(p.Subvolumes) == 0 {
			fmt.Fprintf(&b, "%s %s %s %s 0 %d\n", device, p.Mount, p.Type, options, pass)
		}
		for _, v := range p.Subvolumes {
			fmt.Fprintf(&b, "%s %s btrfs defaults,subvol=%s 0 0\n", device, v.Mount, v.Name)
		}
	}
	if s.UEFI {
		fmt.Fprintf(&b, "UUID=%s /boot/efi vfat umask=0077 0 0\n", s.espID(seed))
	}
	for _, line := range s.Fstab {
		b.WriteString(line + "\n")
	}
	return b.String()
}

// bootPlace tells where GRUB finds the kernels: the filesystem that holds
// /boot, the path to them within it, and what the kernel needs to know of root.
func bootPlace(parts []Partition) (bootUUID, prefix, rootUUID, rootFlags string) {
	rootPart := parts[0]
	bootUUID, prefix, rootUUID = rootPart.UUID, "/boot", rootPart.UUID
	if len(rootPart.Subvolumes) > 0 {
		prefix = "/" + rootPart.Subvolumes[0].Name + "/boot"
		rootFlags = "rootflags=subvol=" + rootPart.Subvolumes[0].Name
	}
	for _, p := range parts {
		if p.Mount == "/boot" {
			bootUUID, prefix = p.UUID, ""
		}
	}
	return bootUUID, prefix, rootUUID, rootFlags
}
