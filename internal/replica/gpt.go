package replica

import (
	"context"
	"fmt"
	"strings"
)

// partType returns the GUID that tells firmware and systems what a partition is.
func partType(p *Partition) string {
	switch {
	case p.Kind == BIOSBoot:
		return "21686148-6449-6e6f-744e-656564454649"
	case p.Kind == ESP:
		return "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	case p.Kind == Swap:
		return "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
	case p.Type == "vfat":
		return "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"
	}
	return "0fc63daf-8483-4772-8e79-3d69d8477de4"
}

// writeTable writes l's partition table, both copies, into the image at path,
// which has its size already.
func writeTable(ctx context.Context, path string, l *Layout) error {
	args := []string{"-q", "--no-reread", "--no-tell-kernel", "--wipe", "never", "--wipe-partitions", "never", path}
	if _, err := (tool{name: "sfdisk", args: args, stdin: tableScript(l)}).run(ctx); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

// tableScript is l in the words of sfdisk.
func tableScript(l *Layout) string {
	var b strings.Builder
	fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\nfirst-lba: 34\nunit: sectors\n\n", l.DiskID)
	for _, p := range l.Partitions {
		fmt.Fprintf(&b, "%d : start=%d, size=%d, type=%s, uuid=%s, name=\"%s\"\n",
			p.Number, p.Offset/sector, p.Size/sector, p.PartType, p.PartUUID, partName(&p))
	}
	return b.String()
}

// partName is for people: the mount point where it can be a partition's name.
func partName(p *Partition) string {
	name := p.MountPoint
	if name == "" {
		name = string(p.Kind)
	}
	plain := func(r rune) bool {
		return r < 0x7f && (r == '/' || r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	}
	for _, c := range name {
		if !plain(c) {
			return string(p.Kind)
		}
	}
	return name[:min(len(name), 36)]
}
