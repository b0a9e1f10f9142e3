package lvm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func recorded(t testing.TB) []Volume {
	t.Helper()
	b, err := os.ReadFile("testdata/lvs.json")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestParse(t *testing.T) {
	all := recorded(t)
	if len(all) != 6 {
		t.Fatalf("%d volumes", len(all))
	}
	want := Volume{Group: "thin", Name: "pool", UUID: "LVM-jQzV0cBXfZqLwWx8fB2m5hKp1c2a9cVb4Zk3Wz9dQe4mGQXj2PsT3vJb1dYk7aLm",
		Attr: "twi-aotz--", Size: 50 << 30, Data: 41.2, Metadata: 11.83, ExtentSize: 4 << 20}
	if all[4] != want {
		t.Errorf("read %+v, want %+v", all[4], want)
	}
	for _, bad := range []string{"", "{", `{"report":[{"lv":[{"lv_name":"a","vg_name":"b","lv_size":"1","vg_free":"1","vg_extent_size":"0"}]}]}`,
		`{"report":[{"lv":[{"lv_name":"a","vg_name":"b","lv_size":"x","vg_free":"1","vg_extent_size":"4"}]}]}`} {
		if v, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, v)
		}
	}
}

func TestDecide(t *testing.T) {
	all := recorded(t)
	id := func(name string) string {
		for _, v := range all {
			if v.Name == name {
				return v.UUID
			}
		}
		return "LVM-" + name
	}
	got := Decide(all, []string{id("home"), id("var-log"), id("srv"), id("data"), id("leeward-1b2c3d4e-77-1234-0"), id("none")})
	for i, want := range []struct {
		room    int64
		refused string
	}{
		{1020 << 20, ""}, // a tenth, in whole extents
		{20 << 20, ""},   // all of it could change
		{0, "volume group full has 8 MiB free"},
		{0, ""},
		{0, "snapshot already"},
		{0, "not known"},
	} {
		if got[i].Room != want.room || (got[i].Refused == "") != (want.refused == "") || !strings.Contains(got[i].Refused, want.refused) {
			t.Errorf("%s: %d bytes, refused %q; want %+v", got[i].Name, got[i].Room, got[i].Refused, want)
		}
	}
	// Together they take no more than half of what is free.
	for i := range all {
		if all[i].Group == "vg0" {
			all[i].GroupFree = 1500 << 20
		}
	}
	got = Decide(all, []string{id("home"), id("var-log"), id("home")})
	if sum := got[0].Room + got[1].Room + got[2].Room; sum > 750<<20 || got[0].Room != 748<<20 || got[2].Refused == "" {
		t.Errorf("of 1500 MiB: %d %d %d %q", got[0].Room, got[1].Room, got[2].Room, got[2].Refused)
	}
	for i := range all {
		if all[i].Name == "pool" {
			all[i].Data = 80.5
		}
	}
	if d := Decide(all, []string{id("data")})[0]; !strings.Contains(d.Refused, "80 % full") && !strings.Contains(d.Refused, "81 % full") {
		t.Errorf("of a full pool: %q", d.Refused)
	}
}

func TestLost(t *testing.T) {
	all := recorded(t)
	for _, c := range []struct {
		group, name, want string
	}{
		{"vg0", "leeward-1b2c3d4e-77-1234-0", "filled up"}, {"vg0", "gone", "removed by somebody"}, {"thin", "data", ""}, {"vg0", "var-log", ""},
	} {
		s := &Snapshot{Group: c.group, Name: c.name, Room: 1 << 30}
		if got := s.Lost(all); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	all[4].Metadata = 95
	if got := (&Snapshot{Group: "thin", Name: "data"}).Lost(all); !strings.Contains(got, "nearly full") {
		t.Errorf("of a pool that fills up: %q", got)
	}
}

func TestStale(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	other := self
	other.started++ // the number has come again
	past := self
	past.boot = "00000000"
	dead := self
	dead.pid = 1 << 22 // the kernel's limit, so no process has it
	var all []Volume
	for _, name := range []string{self.Name("leeward", 0), other.Name("leeward", 1), past.Name("leeward", 2), dead.Name("leeward", 3),
		"leeward", "leeward-data", "leeward-1-2-x-4", "home"} {
		all = append(all, Volume{Group: "vg0", Name: name})
	}
	var got []string
	for _, v := range Stale(all, "leeward", self) {
		got = append(got, v.Name)
	}
	want := []string{all[1].Name, all[2].Name, all[3].Name}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("stale are %v, want %v", got, want)
	}
}

func TestUUIDOf(t *testing.T) {
	sys := t.TempDir()
	for device, uuid := range map[string]string{"253:0": "LVM-abc\n", "253:1": "CRYPT-LUKS2-abc"} {
		dir := filepath.Join(sys, "dev/block", device, "dm")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "uuid"), []byte(uuid), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if id, err := UUIDOf(sys, "253:0"); id != "LVM-abc" || err != nil {
		t.Errorf("a volume: %q, %v", id, err)
	}
	for _, device := range []string{"253:1", "8:1"} {
		if id, err := UUIDOf(sys, device); !errors.Is(err, ErrNotVolume) {
			t.Errorf("device %s: %q, %v", device, id, err)
		}
	}
}

func TestMapped(t *testing.T) {
	if got := mapped("vg-0") + "-" + mapped("a-b"); got != "vg--0-a--b" {
		t.Errorf("mapped name %s", got)
	}
	if got := firstLine("  WARNING: x\n\n  Insufficient free space\n"); got != "Insufficient free space" {
		t.Errorf("first line %q", got)
	}
}

func FuzzParse(f *testing.F) {
	b, err := os.ReadFile("testdata/lvs.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := Parse(b)
		if err != nil {
			return
		}
		var ids []string
		for _, v := range all {
			ids = append(ids, v.UUID)
		}
		for _, d := range Decide(all, ids) {
			if d.Refused == "" && d.Room > d.GroupFree {
				t.Errorf("%s gets %d of %d free", d.Name, d.Room, d.GroupFree)
			}
			(&Snapshot{Group: d.Group, Name: d.Name}).Lost(all)
		}
	})
}
