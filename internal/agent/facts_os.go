package agent

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
	"github.com/leeward-dr/leeward/internal/agent/procfs"
)

// secureBootVariable holds four bytes of attributes and one that is 1 when Secure
// Boot is on (UEFI specification, Globally Defined Variables).
const secureBootVariable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// system collects what the distribution and the kernel say of themselves.
func (c *collector) system(context.Context) {
	f := c.facts
	release, err := c.read("etc/os-release")
	if err != nil {
		release, err = c.read("usr/lib/os-release")
	}
	if err != nil {
		c.warn("os-release: %v", err)
	}
	r := procfs.ParseAssignments(release)
	f.Os = &agentpb.OS{
		Id: r["ID"], VersionId: r["VERSION_ID"], PrettyName: r["PRETTY_NAME"],
		IdLike: r["ID_LIKE"], Codename: r["VERSION_CODENAME"],
	}
	f.Kernel = c.text("proc/sys/kernel/osrelease")
	f.Cmdline = c.text("proc/cmdline")
	f.MachineId = c.text("etc/machine-id")
	f.Uefi = c.exists("sys/firmware/efi")
	if v, err := c.read(secureBootVariable); err == nil && len(v) >= 5 {
		f.SecureBoot = v[4] == 1
	}
}

func (c *collector) hardware(context.Context) {
	f := c.facts
	meminfo, err := c.read("proc/meminfo")
	if err != nil {
		c.warn("memory size: %v", err)
	}
	kib, _, _ := strings.Cut(procfs.ParseColons(meminfo)["MemTotal"], " ")
	n, _ := strconv.ParseUint(kib, 10, 54) // absent: zero, with the warning above
	f.MemoryBytes = n << 10
	info, err := c.read("proc/cpuinfo")
	if err != nil {
		c.warn("processors: %v", err)
	}
	cpu := procfs.ParseCPUInfo(info)
	f.Cpus, f.CpuModel = uint32(cpu.Count), cpu.Model
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "386" {
		f.X86Level = uint32(cpu.Level)
	}
}

// hostKeys fingerprints the host's public keys as ssh-keygen -l does.
func (c *collector) hostKeys(context.Context) {
	files, _ := filepath.Glob(c.path("etc/ssh/ssh_host_*_key.pub")) // the pattern is well-formed
	for _, file := range files {
		rel, _ := filepath.Rel(c.path(), file)
		line := strings.Fields(c.text(rel))
		if len(line) < 2 {
			c.warn("host key %s: no key in it", file)
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(line[1])
		if err != nil {
			c.warn("host key %s: %v", file, err)
			continue
		}
		sum := sha256.Sum256(blob)
		c.facts.HostKeys = append(c.facts.HostKeys, &agentpb.HostKey{
			Type: line[0], Fingerprint: "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:]),
		})
	}
}

// units asks systemd for its state and for units that failed.
func (c *collector) units(ctx context.Context) {
	c.facts.Systemd = c.exists("run/systemd/system")
	if !c.facts.Systemd {
		return
	}
	state, err := c.sys.run(ctx, "systemctl", "is-system-running")
	if err != nil {
		c.warn("state of systemd: %v", err)
	}
	c.facts.SystemState = strings.TrimSpace(state)
	list, err := c.sys.run(ctx, "systemctl", "list-units", "--state=failed", "--all", "--plain", "--full", "--no-legend", "--no-pager")
	if err != nil && state == "" {
		c.warn("failed units: %v", err)
	}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) >= 4 {
			c.facts.FailedUnits = append(c.facts.FailedUnits, f[0])
		}
	}
}
