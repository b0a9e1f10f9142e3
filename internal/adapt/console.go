package adapt

import (
	"bytes"
	"regexp"
	"strings"
)

const (
	inittab   = "/etc/inittab"
	securetty = "/etc/securetty"
)

var inittabTTY = regexp.MustCompile(`(?m)^[^#\n]*\bttyS0\b`)

// fixConsole makes sure that the machine asks for a login on its first serial
// port: systemd does so by itself for a console named to the kernel, unless it
// was told not to; older inits need a line.
func fixConsole(j *job) error {
	if j.systemd() {
		if err := j.unmaskGetty(); err != nil {
			return err
		}
	} else if err := j.inittabGetty(); err != nil {
		return err
	}
	old, err := j.img.ReadFile(securetty)
	if err != nil || bytes.Contains(append([]byte("\n"), old...), []byte("\nttyS0\n")) {
		return nil
	}
	text := strings.TrimRight(string(old), "\n") + "\nttyS0\n"
	return j.write(securetty, []byte(text), 0o600, "lets root log in on ttyS0", "the serial console is how a drill is watched")
}

func (j *job) unmaskGetty() error {
	why := "the serial console is how a drill is watched"
	for _, unit := range []string{"serial-getty@ttyS0.service", "serial-getty@.service", "getty.target"} {
		file := "/etc/systemd/system/" + unit
		if target, _ := j.img.readlink(file); target == "/dev/null" {
			if err := j.remove(file, why); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{"/usr/lib", "/lib"} {
		unit := dir + "/systemd/system/serial-getty@.service"
		if j.img.Exists(unit) {
			return j.link(unit, "/etc/systemd/system/getty.target.wants/serial-getty@ttyS0.service", "enabled", why)
		}
	}
	return nil
}

func (j *job) inittabGetty() error {
	old, err := j.img.ReadFile(inittab)
	if err != nil || inittabTTY.Match(old) {
		return nil
	}
	line := "ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100\n" // BusyBox
	if bytes.Contains(old, []byte(":initdefault:")) {
		line = "S0:2345:respawn:/sbin/agetty -L 115200 ttyS0 vt100\n" // SysV
	}
	text := strings.TrimRight(string(old), "\n") + "\n" + line
	return j.write(inittab, []byte(text), 0o644, "login on ttyS0", "the serial console is how a drill is watched")
}
