package adapt

import (
	"regexp"
	"strings"
)

// A replica's filesystems lie on plain partitions, whatever carried them at the
// source: LVM, md, multipath and LUKS are out of the boot path, and what is left
// of them in the configuration must not wait for them or claim the disk.

func fixCrypttab(j *job) error {
	return j.commentLines("/etc/crypttab", "no encrypted device travels", func(line string) bool {
		f := strings.Fields(line)
		return len(f) >= 2 && !j.namesImage(f[1])
	})
}

func fixLVM(j *job) error {
	why := "it lists the source's physical volumes and hides others"
	for _, file := range []string{"/etc/lvm/devices/system.devices", "/etc/lvm/cache/.cache"} {
		if err := j.remove(file, why); err != nil {
			return err
		}
	}
	for _, file := range []string{"/etc/blkid.tab", "/etc/blkid/blkid.tab"} {
		if err := j.remove(file, "it remembers the source's devices"); err != nil {
			return err
		}
	}
	return nil
}

func fixMdadm(j *job) error {
	for _, file := range []string{"/etc/mdadm/mdadm.conf", "/etc/mdadm.conf"} {
		err := j.commentLines(file, "the arrays stayed at the source", func(line string) bool {
			return strings.HasPrefix(strings.ToUpper(strings.TrimSpace(line)), "ARRAY")
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func fixMultipath(j *job) error {
	if !j.img.Exists("/etc/multipath.conf") && !j.img.Exists("/etc/multipath/wwids") {
		return nil
	}
	for _, unit := range []string{"multipathd.service", "multipathd.socket"} {
		if err := j.mask(unit, "it could claim the disk the machine boots from"); err != nil {
			return err
		}
	}
	for _, file := range []string{"/etc/multipath/wwids", "/etc/multipath/bindings"} {
		if err := j.remove(file, "it lists the source's disks"); err != nil {
			return err
		}
	}
	return nil
}

// commentLines comments out the lines of file that stale selects. A file that is
// not there is fine.
func (j *job) commentLines(file, why string, stale func(line string) bool) error {
	old, err := j.img.ReadFile(file)
	if err != nil {
		return nil
	}
	var out strings.Builder
	n := 0
	for _, line := range strings.SplitAfter(string(old), "\n") {
		if t := strings.TrimSpace(line); t != "" && t[0] != '#' && stale(line) {
			line = comment(line)
			n++
		}
		out.WriteString(line)
	}
	if n == 0 {
		return nil
	}
	return j.write(file, []byte(out.String()), 0o644, "commented out "+plural(n, "line"), why)
}

var rtcLocal = regexp.MustCompile(`(?m)^LOCAL\s*$`)

// fixTime makes a guest whose clock runs in local time read ours, which is UTC.
func fixTime(j *job) error {
	old, err := j.img.ReadFile("/etc/adjtime")
	if err != nil || !rtcLocal.Match(old) {
		return nil
	}
	return j.write("/etc/adjtime", rtcLocal.ReplaceAll(old, []byte("UTC")), 0o644, "hardware clock in UTC",
		"the machine's clock runs in UTC")
}
