package look

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/leeward-dr/leeward/internal/agent/procfs"
	"github.com/leeward-dr/leeward/internal/discover/inventory"
)

// storage lists block devices by sysfs, and mounts and fstab.
func (l *looker) storage(ctx context.Context) {
	st := &l.inv.Storage
	entries, err := os.ReadDir(l.path("sys/class/block"))
	if err != nil {
		l.unknown("disks", err)
	}
	tables := map[string]string{}
	for _, d := range l.f.Disks {
		tables[strings.TrimPrefix(d.Name, "/dev/")] = d.Table
	}
	for _, e := range entries {
		if d, ok := l.disk(e.Name()); ok {
			d.Table = tables[d.Name]
			st.Disks = append(st.Disks, d)
		}
	}
	l.volumes(ctx)
	l.mounts()
	lines(l.f.Fstab, func(_ int, line string) {
		if f := strings.Fields(line); len(f) >= 4 {
			st.Fstab = append(st.Fstab, inventory.FstabLine{Device: f[0], Mount: f[1], Type: f[2], Options: redactOptions(f[3])})
		}
	})
	l.disks = l.writtenSoFar
}

// disk describes one block device; false for one that is empty.
func (l *looker) disk(name string) (d inventory.Disk, ok bool) {
	dir := filepath.Join("sys/class/block", name)
	sectors, err := strconv.ParseInt(l.text(dir, "size"), 10, 64)
	if err != nil || sectors == 0 {
		return d, false
	}
	d = inventory.Disk{Name: name, Size: sectors * 512, Kind: "disk", Model: l.text(dir, "device/model")}
	if slaves, err := os.ReadDir(l.path(dir, "slaves")); err == nil {
		for _, s := range slaves {
			d.On = append(d.On, s.Name())
		}
	}
	switch {
	case l.exists(dir, "partition"):
		d.Kind = "part"
		if link, err := os.Readlink(l.path(dir)); err == nil {
			d.On = []string{filepath.Base(filepath.Dir(link))}
		}
	case l.exists(dir, "dm"):
		d.Kind, d.Detail = mapperKind(l.text(dir, "dm/uuid")), l.text(dir, "dm/name")
	case l.exists(dir, "md"):
		d.Kind = "raid"
		d.Detail = strings.TrimSpace(l.text(dir, "md/level") + " " + l.text(dir, "md/array_state"))
		if n := l.text(dir, "md/degraded"); n != "" && n != "0" {
			d.Detail += ", degraded: " + n + " missing"
		}
	case strings.HasPrefix(name, "loop"):
		d.Kind = "loop"
	}
	return d, true
}

// mapperKind tells by its uuid who made a mapped device (the prefixes of lvm2,
// cryptsetup and multipath-tools).
func mapperKind(uuid string) string {
	for prefix, kind := range map[string]string{"LVM-": "lvm", "CRYPT-": "crypt", "mpath-": "multipath"} {
		if strings.HasPrefix(uuid, prefix) {
			return kind
		}
	}
	return "dm"
}

// networked are types of filesystems with a server behind them.
var networked = []string{"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "9p", "lustre", "ocfs2", "gfs2", "afs"}

func (l *looker) mounts() {
	b, err := read(l.path("proc/self/mountinfo"), maxConfig)
	if err != nil {
		l.unknown("mounts", err)
		return
	}
	mounts, _ := procfs.ParseMountinfo(b)
	for _, m := range mounts {
		if strings.HasPrefix(m.Source, "/dev/") || slices.Contains(networked, m.Type) || m.Type == "zfs" {
			l.inv.Storage.Mounts = append(l.inv.Storage.Mounts, inventory.Mount{At: m.Point, Device: m.Source, Type: m.Type, Options: redactOptions(m.Options)})
		}
	}
}

// writtenSoFar sums the bytes written to the devices of the filesystems since boot.
func (l *looker) writtenSoFar() (int64, bool) {
	b, err := read(l.path("proc/diskstats"), maxConfig)
	if err != nil {
		return 0, false
	}
	type number struct{ major, minor uint32 }
	want := map[number]bool{}
	names := map[string]bool{}
	for _, f := range l.f.Filesystems {
		want[number{f.DevMajor, f.DevMinor}] = true
		names[filepath.Base(f.Device)] = true
	}
	return parseDiskstats(b, func(major, minor uint32, name string) bool { return want[number{major, minor}] || names[name] })
}

// parseDiskstats sums the bytes written to the devices that are wanted; false where there
// is none of them (Documentation/admin-guide/iostats.rst; a sector is 512 bytes).
func parseDiskstats(b []byte, want func(major, minor uint32, name string) bool) (sum int64, ok bool) {
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		major, err1 := strconv.ParseUint(f[0], 10, 32)
		minor, err2 := strconv.ParseUint(f[1], 10, 32)
		sectors, err3 := strconv.ParseInt(f[9], 10, 54)
		if err1 != nil || err2 != nil || err3 != nil || sectors < 0 || !want(uint32(major), uint32(minor), f[2]) {
			continue
		}
		sum, ok = sum+sectors*512, true
	}
	return sum, ok
}

// volumes asks LVM for its groups; only it knows what is free in them.
func (l *looker) volumes(ctx context.Context) {
	if l.root != "/" || !slices.ContainsFunc(l.inv.Storage.Disks, func(d inventory.Disk) bool { return d.Kind == "lvm" }) {
		return
	}
	out, err := l.run(ctx, "vgs", "--reportformat", "json", "--units", "b", "--nosuffix", "--readonly", "-o", "vg_name,vg_size,vg_free")
	if err != nil {
		l.unknown("groups of LVM volumes", err)
		return
	}
	groups, err := parseVgs(out)
	if err != nil {
		l.unknown("groups of LVM volumes", err)
	}
	l.inv.Storage.Groups = groups
}

// parseVgs reads the JSON of vgs (lvmreport(7)).
func parseVgs(b []byte) (out []inventory.VolumeGroup, err error) {
	var r struct {
		Report []struct {
			VG []struct {
				Name string `json:"vg_name"`
				Size string `json:"vg_size"`
				Free string `json:"vg_free"`
			} `json:"vg"`
		} `json:"report"`
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read what vgs says: %w", err)
	}
	for _, x := range r.Report {
		for _, g := range x.VG {
			size, err1 := strconv.ParseInt(g.Size, 10, 64)
			free, err2 := strconv.ParseInt(g.Free, 10, 64)
			if err1 != nil || err2 != nil {
				return out, fmt.Errorf("read what vgs says of %s: sizes %q and %q are no numbers", g.Name, g.Size, g.Free)
			}
			out = append(out, inventory.VolumeGroup{Name: g.Name, Size: size, Free: free})
		}
	}
	return out, nil
}
