package drill

import (
	"regexp"
	"strings"
)

// What systemd says of a mount that does not come: newer ones name the unit first.
var (
	mountRE  = regexp.MustCompile(`(?:Dependency failed for|Failed to mount) (?:\S+\.mount - )?(/\S*?)\.?\s*$`)
	deviceRE = regexp.MustCompile(`Timed out waiting for device (?:\S+\.device - )?(/dev/\S+?)\.?\s*$`)
	swapRE   = regexp.MustCompile(`Dependency failed for (?:\S+\.swap - )?(/dev/\S+?)\.?\s*$`)
)

// emergencyCause finds in the last lines of a console which line of /etc/fstab stopped
// the boot; "" where they do not tell.
func emergencyCause(tail []string) string {
	var mount, device string
	for _, line := range tail {
		if m := deviceRE.FindStringSubmatch(line); m != nil {
			device = m[1]
		}
		if m := mountRE.FindStringSubmatch(line); m != nil && mount == "" && !strings.HasPrefix(m[1], "/dev/") {
			mount = m[1]
		}
		if m := swapRE.FindStringSubmatch(line); m != nil && device == "" {
			device = m[1]
		}
	}
	switch {
	case mount != "" && device != "":
		return "the line of /etc/fstab that mounts " + mount + " stopped the boot: its device " + device + " is not there"
	case mount != "":
		return "the line of /etc/fstab that mounts " + mount + " stopped the boot"
	case device != "":
		return "a line of /etc/fstab waits for " + device + ", which is not there"
	}
	return ""
}
