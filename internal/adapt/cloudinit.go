package adapt

import "strings"

// fixCloudInit freezes what would take this place for a new machine's first
// boot: look for its cloud for minutes, then make new host keys and users and
// rewrite the network.
func fixCloudInit(j *job) error {
	why := "it would wait for the old cloud and then treat this as a new machine"
	if j.img.Exists("/etc/cloud/cloud.cfg") || j.img.Exists("/usr/bin/cloud-init") {
		const cfg = "# Written by Leeward: this machine is a copy, not a new instance.\n" +
			"datasource_list: [ None ]\nnetwork: {config: disabled}\nssh_deletekeys: false\n" +
			"preserve_hostname: true\nmanage_etc_hosts: false\n"
		if err := j.write("/etc/cloud/cloud.cfg.d/99-leeward.cfg", []byte(cfg), 0o644, "cloud-init changes nothing", why); err != nil {
			return err
		}
		if err := j.write("/etc/cloud/cloud-init.disabled", nil, 0o644, "cloud-init does not run", why); err != nil {
			return err
		}
	}
	if !j.systemd() {
		return nil
	}
	for _, unit := range cloudAgents {
		if !j.hasUnit(unit) {
			continue
		}
		if err := j.mask(unit, "it belongs to the old hypervisor or cloud"); err != nil {
			return err
		}
	}
	return nil
}

var cloudAgents = [...]string{"walinuxagent.service", "waagent.service", "google-guest-agent.service",
	"google-startup-scripts.service", "google-osconfig-agent.service", "amazon-ssm-agent.service", "hibinit-agent.service",
	"open-vm-tools.service", "vmtoolsd.service", "vgauthd.service", "vmware-tools.service", "vboxservice.service",
	"xe-linux-distribution.service", "hv-kvp-daemon.service", "hypervkvpd.service", "smartd.service", "smartmontools.service",
	"mcelog.service", "nvidia-persistenced.service", "watchdog.service", "ipmievd.service"}

// hasUnit reports whether the guest has the unit and has not masked it.
func (j *job) hasUnit(unit string) bool {
	if target, _ := j.img.readlink("/etc/systemd/system/" + unit); strings.HasSuffix(target, "/dev/null") {
		return false
	}
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system", "/etc/systemd/system"} {
		if j.img.Exists(dir + "/" + unit) {
			return true
		}
	}
	return false
}
