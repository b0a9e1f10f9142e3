package look

import (
	"cmp"

	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// fromFacts takes over what the agent tells of every host anyhow.
func (l *looker) fromFacts() {
	f, s := l.f, &l.inv.System
	s.Hostname, s.Arch = f.Host.GetHostname(), f.Host.GetArch()
	s.OS, s.OSID, s.OSVersion = cmp.Or(f.Os.GetPrettyName(), "Linux"), f.Os.GetId(), f.Os.GetVersionId()
	s.Kernel, s.Cmdline, s.MachineID = f.Kernel, redact(f.Cmdline), f.MachineId
	s.Firmware, s.SecureBoot = "BIOS", f.SecureBoot
	if f.Uefi {
		s.Firmware = "UEFI"
	}
	s.CPU, s.CPUs, s.CPULevel, s.Memory = f.CpuModel, int(f.Cpus), int(f.X86Level), int64(f.MemoryBytes)
	for _, x := range f.Filesystems {
		l.inv.Storage.Filesystems = append(l.inv.Storage.Filesystems, inventory.Filesystem{Mount: x.MountPoint, Device: x.Device,
			Type: x.Type, UUID: x.Uuid, Label: x.Label, Size: int64(x.SizeBytes), Used: int64(x.UsedBytes)})
	}
	for _, x := range f.Swaps {
		l.inv.Storage.Swaps = append(l.inv.Storage.Swaps, inventory.Swap{Path: x.Path, File: x.File, Size: int64(x.SizeBytes)})
	}
	for _, x := range f.Interfaces {
		l.inv.Network.Interfaces = append(l.inv.Network.Interfaces, inventory.Interface{Name: x.Name, MAC: x.Mac,
			Addresses: x.Addresses, Up: x.Up, Virtual: x.Virtual, MTU: int(x.Mtu)})
	}
	for _, x := range f.Routes {
		l.inv.Network.Routes = append(l.inv.Network.Routes, inventory.Route{To: x.Destination, Via: x.Gateway, Dev: x.Interface})
	}
	for _, w := range f.Warnings {
		l.unknown("part of the facts", w)
	}
}
