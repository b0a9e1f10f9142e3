package adapt

import (
	"fmt"
	"os"
)

// AskFile is where the program that reports finds in the guest what it is to ask.
const AskFile = "/etc/leeward-report.json"

const (
	probePath = "/usr/local/sbin/leeward-report"
	probeUnit = "leeward-report.service"
	probePort = "/dev/ttyS1"
)

// fixProbe puts the program that reports into the guest: it tells from inside what
// came up. It starts after everything else and holds nothing up.
func fixProbe(j *job) error {
	if j.opts.Probe == "" || j.opts.Persistent {
		return nil
	}
	if !j.systemd() {
		return j.probeOpenRC()
	}
	if err := j.copyProbe(); err != nil {
		return err
	}
	unit := fmt.Sprintf(`[Unit]
Description=Report of this machine to the drill that runs it
DefaultDependencies=no
After=basic.target

[Service]
Type=simple
ExecStart=%s guest-report %s
Restart=no
`, probePath, probePort)
	file := "/etc/systemd/system/" + probeUnit
	why := "a drill proves what came up by asking inside"
	if err := j.write(file, []byte(unit), 0o644, "reports on the second serial port", why); err != nil {
		return err
	}
	return j.link(file, "/etc/systemd/system/multi-user.target.wants/"+probeUnit, "enabled", why)
}

func (j *job) probeOpenRC() error {
	if !j.img.Exists("/etc/local.d") {
		j.warn("probe: neither systemd nor OpenRC here: the drill sees no more than the login prompt")
		return nil
	}
	if err := j.copyProbe(); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\n%s guest-report %s &\n", probePath, probePort)
	why := "a drill proves what came up by asking inside"
	if err := j.write("/etc/local.d/leeward-report.start", []byte(script), 0o755, "reports on the second serial port", why); err != nil {
		return err
	}
	return j.link("/etc/init.d/local", "/etc/runlevels/default/local", "enabled", why)
}

func (j *job) copyProbe() error {
	program, err := os.Open(j.opts.Probe)
	if err != nil {
		return err
	}
	defer program.Close()
	if err := j.img.write(probePath, program, 0o755); err != nil {
		return err
	}
	if len(j.opts.Ask) > 0 {
		if err := j.write(AskFile, j.opts.Ask, 0o600, "what it is to ask", "some of the server's probes are asked from inside"); err != nil {
			return err
		}
	}
	j.did(probePath, "the program that reports", "a drill proves what came up by asking inside")
	return nil
}
