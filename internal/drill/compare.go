package drill

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/leeward-dr/leeward/internal/adapt"
	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/dr"
)

// Compare checks what a booted machine reports of itself against the facts of
// its source, but for what was held back.
func Compare(source, guest *agentpb.Facts, held []HeldBack) []Check {
	return []Check{
		compareState(source, guest),
		comparePorts(source, guest, held),
		compareCards(source, guest),
		compareMounts(source, guest),
		compareHostKeys(source, guest),
	}
}

// holds reports whether every check is done.
func holds(checks []Check) bool {
	return len(checks) > 0 && !slices.ContainsFunc(checks, func(c Check) bool { return c.Outcome != dr.Done })
}

// check is done if nothing is wrong.
func check(name, fine string, wrong []string) Check {
	if len(wrong) == 0 {
		return Check{name, dr.Done, fine}
	}
	return Check{name, dr.NotDone, strings.Join(wrong, "; ")}
}

// toleratedUnits may fail in a drill without saying anything of the recovery
// point: they need a network, a time source or hardware that a drill does not
// have.
var toleratedUnits = [...]string{
	"systemd-networkd-wait-online.service", "NetworkManager-wait-online.service", "ifupdown-wait-online.service",
	"network-online.target", "systemd-timesyncd.service", "chrony-wait.service", "ntpdate.service", "ntp-wait.service",
	"apt-daily.service", "apt-daily-upgrade.service", "motd-news.service", "fwupd-refresh.service", "dnf-makecache.service",
	"snapd.seeded.service", "ua-timer.service", "esm-cache.service", "certbot.service", "logrotate.service",
	"kdump.service", "kdump-tools.service", "smartd.service", "smartmontools.service", "rngd.service", "mcelog.service",
	"systemd-modules-load.service", "lm-sensors.service", "vboxadd.service", "irqbalance.service", "thermald.service",
	"remote-fs.target", "iscsi.service", "iscsid.service", "open-iscsi.service", "rpc-statd.service", "nfs-blkmap.service",
}

func compareState(source, guest *agentpb.Facts) Check {
	const name = "system running"
	if !guest.GetSystemd() {
		return Check{name, dr.Done, "no systemd: the login prompt stands for it"}
	}
	switch guest.GetSystemState() {
	case "running":
		return Check{name, dr.Done, "running"}
	case "degraded":
	default:
		return Check{name, dr.NotDone, "the system is " + guest.GetSystemState()}
	}
	var wrong, known []string
	for _, u := range guest.GetFailedUnits() {
		switch {
		case slices.Contains(source.GetFailedUnits(), u):
			known = append(known, u+" (failed at the source too)")
		case slices.Contains(toleratedUnits[:], u):
			known = append(known, u+" (expected in a drill)")
		default:
			wrong = append(wrong, u+" failed")
		}
	}
	return check(name, "degraded by "+strings.Join(known, ", "), wrong)
}

// Ports the source opened by the way: forwarded ones of sshd, and those the
// kernel picked.
const (
	firstForwarded, lastForwarded = 6010, 6200
	firstEphemeral, lastEphemeral = 32768, 60999
)

// comparePorts wants each TCP port of the source, with the same family. A port that
// the kernel picked may be another one, if its program listens at all.
func comparePorts(source, guest *agentpb.Facts, held []HeldBack) Check {
	type key struct {
		protocol string
		port     uint32
	}
	open := map[key]bool{}
	programs := map[string]bool{}
	for _, s := range guest.GetListening() {
		open[key{s.GetProtocol(), s.GetPort()}] = true
		programs[s.GetProcess()] = true
	}
	asked, heldBack := map[key]bool{}, 0
	var wrong []string
	for _, s := range source.GetListening() {
		k := key{s.GetProtocol(), s.GetPort()}
		if !strings.HasPrefix(k.protocol, "tcp") || asked[k] || isForwarded(s) || s.GetProcess() == "leeward" {
			continue
		}
		asked[k] = true
		if !open[k] && isHeldBack(s.GetProcess(), held) {
			heldBack++
			continue
		}
		ephemeral := k.port >= firstEphemeral && k.port <= lastEphemeral && programs[s.GetProcess()]
		if open[k] || ephemeral {
			continue
		}
		process := s.GetProcess()
		if process == "" {
			process = "a process without a name"
		}
		wrong = append(wrong, fmt.Sprintf("%s port %d of %s is closed", k.protocol, k.port, process))
	}
	fine := fmt.Sprintf("%d as at the source", len(asked)-heldBack)
	if heldBack > 0 {
		fine += fmt.Sprintf(", %d held back", heldBack)
	}
	return check("listening ports", fine, wrong)
}

func isHeldBack(program string, held []HeldBack) bool {
	return slices.ContainsFunc(held, func(h HeldBack) bool { return slices.Contains(h.programs, program) })
}

func isForwarded(s *agentpb.Socket) bool {
	a, err := netip.ParseAddr(s.GetAddress())
	return err == nil && a.IsLoopback() && strings.HasPrefix(s.GetProcess(), "sshd") &&
		s.GetPort() >= firstForwarded && s.GetPort() <= lastForwarded
}

func compareCards(source, guest *agentpb.Facts) Check {
	have := map[string]string{}
	for _, i := range guest.GetInterfaces() {
		have[i.GetName()] = strings.ToLower(i.GetMac())
	}
	var wrong []string
	cards := adapt.Cards(source)
	for _, i := range cards {
		switch mac := have[i.GetName()]; mac {
		case strings.ToLower(i.GetMac()):
		case "":
			wrong = append(wrong, fmt.Sprintf("network card %s (%s) is missing or has another name", i.GetName(), i.GetMac()))
		default:
			wrong = append(wrong, fmt.Sprintf("network card %s has address %s, at the source %s", i.GetName(), mac, i.GetMac()))
		}
	}
	return check("network cards", fmt.Sprintf("%d as at the source", len(cards)), wrong)
}

func compareMounts(source, guest *agentpb.Facts) Check {
	have, readOnly := map[string]string{}, map[string]bool{}
	for _, fs := range guest.GetFilesystems() {
		readOnly[fs.GetMountPoint()] = isReadOnly(fs)
		for _, m := range fs.GetMounts() {
			have[m.GetMountPoint()] = fs.GetUuid()
		}
		have[fs.GetMountPoint()] = fs.GetUuid()
	}
	var wrong []string
	for _, fs := range source.GetFilesystems() {
		switch uuid, ok := have[fs.GetMountPoint()]; {
		case !ok:
			wrong = append(wrong, fs.GetMountPoint()+" is not mounted")
		case !strings.EqualFold(uuid, fs.GetUuid()) && uuid != "" && fs.GetUuid() != "":
			wrong = append(wrong, fmt.Sprintf("%s holds filesystem %s, at the source %s", fs.GetMountPoint(), uuid, fs.GetUuid()))
		case readOnly[fs.GetMountPoint()] && !isReadOnly(fs):
			wrong = append(wrong, fs.GetMountPoint()+" is mounted read-only")
		}
	}
	return check("filesystems mounted", fmt.Sprintf("%d as at the source", len(source.GetFilesystems())), wrong)
}

func isReadOnly(fs *agentpb.Filesystem) bool {
	return slices.Contains(strings.Split(fs.GetOptions(), ","), "ro")
}

func compareHostKeys(source, guest *agentpb.Facts) Check {
	var wrong []string
	for _, k := range source.GetHostKeys() {
		same := slices.ContainsFunc(guest.GetHostKeys(), func(g *agentpb.HostKey) bool {
			return g.GetFingerprint() == k.GetFingerprint()
		})
		if !same {
			wrong = append(wrong, k.GetType()+" host key is another")
		}
	}
	return check("ssh host keys", fmt.Sprintf("%d as at the source", len(source.GetHostKeys())), wrong)
}
