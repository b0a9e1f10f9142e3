package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

func TestSnapshotFacts(t *testing.T) {
	root := t.TempDir()
	for device, uuid := range map[string]string{"253:0": "LVM-GGGGGGG1", "253:1": "LVM-GGGGGGG2", "253:2": "CRYPT-LUKS2-x"} {
		dir := filepath.Join(root, "sys/dev/block", device, "dm")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "uuid"), []byte(uuid+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := `{"report":[{"lv":[
		{"vg_name":"vg0","vg_uuid":"GGG-GGGG","lv_name":"a","lv_uuid":"1","lv_attr":"-wi-ao----","lv_size":"1073741824","vg_free":"536870912","vg_extent_size":"4194304"},
		{"vg_name":"vg1","vg_uuid":"GGG-GGGG","lv_name":"b","lv_uuid":"2","lv_attr":"-wi-ao----","lv_size":"1073741824","vg_free":"0","vg_extent_size":"4194304"}]}]}`
	var failed error
	c := &collector{root: root, facts: &agentpb.Facts{Filesystems: []*agentpb.Filesystem{
		{MountPoint: "/", Type: "ext4", DevMajor: 8, DevMinor: 1}, {MountPoint: "/a", Type: "xfs", DevMajor: 253},
		{MountPoint: "/b", Type: "ext4", DevMajor: 253, DevMinor: 1}, {MountPoint: "/c", Type: "ext4", DevMajor: 253, DevMinor: 2},
		{MountPoint: "/d", Type: "btrfs", DevMajor: 253}, {MountPoint: "/e", Type: "vfat", DevMajor: 253},
	}}}
	c.sys.run = func(_ context.Context, name string, _ ...string) (string, error) {
		if filepath.Base(name) != "lvs" {
			t.Errorf("runs %s", name)
		}
		return list, failed
	}
	told := func() string {
		var out []string
		for _, f := range c.facts.Filesystems {
			out = append(out, f.Snapshot+"|"+f.NoSnapshot)
			f.Snapshot, f.NoSnapshot = "", ""
		}
		return strings.Join(out, " ")
	}
	c.snapshots(t.Context())
	if got, want := told(), "| LVM snapshot| |volume group vg1 has 0 MiB free: too little for a snapshot of b | btrfs snapshot| |"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	failed = errors.New("run lvs: not found")
	c.snapshots(t.Context())
	if got, want := told(), "| |run lvs: not found |run lvs: not found | btrfs snapshot| |"; got != want {
		t.Errorf("without lvs told %q, want %q", got, want)
	}
}
