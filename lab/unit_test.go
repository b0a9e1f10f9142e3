package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseRate(t *testing.T) {
	good := map[string]int64{"0": 0, "200mbit": 200e6, "1Gbit": 1e9, "64kbit": 64e3}
	for in, want := range good {
		if got, err := parseRate(in); err != nil || got != want {
			t.Errorf("parseRate(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "200", "-1mbit", "0mbit", "1.5mbit", "200mb", "99999999999999999999gbit", "1mbit; reboot"} {
		if got, err := parseRate(in); err == nil {
			t.Errorf("parseRate(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseStat(t *testing.T) {
	line := "4242 (a) b (c) S 1 4242 4242 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 12 13"
	start, state, err := parseStat(line)
	if err != nil || start != 987654 || state != 'S' {
		t.Errorf("parseStat = %d, %c, %v; want 987654, S", start, state, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 5 12 13")
	f.Add(") ")
	f.Fuzz(func(t *testing.T, line string) {
		if _, state, err := parseStat(line); err == nil && state == 0 {
			t.Errorf("parseStat(%q) has no state and no error", line)
		}
	})
}

func TestProcessIdentity(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := processOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := process{Pid: p.Pid, Start: p.Start + 1}
	if other.alive() {
		t.Error("a pid with another start time counts as the same process")
	}
	if err := other.kill(t.Context()); err != nil || !p.alive() {
		t.Errorf("killing a process that is gone hit its pid's new owner: %v", err)
	}
	if err := p.kill(t.Context()); err != nil || p.alive() {
		t.Errorf("kill: %v, alive %v", err, p.alive())
	}
	_ = cmd.Wait() // killed
}

func TestGateWithoutRecord(t *testing.T) {
	dir := t.TempDir()
	trace := filepath.Join(dir, "ran")
	g, err := startGated(filepath.Join(dir, "log"), 0, "/bin/sh", "-c", "read -r go || exit 1; touch "+trace)
	if err != nil {
		t.Fatal(err)
	}
	g.w.Close() // as when the starter is killed
	if err := waitFor(t.Context(), guestBoot, "the process to end", func() bool { return !g.alive() }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("the process went on although nobody recorded it")
	}
}

func TestMirrorIn(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"deb http://mirror.example/debian bookworm main\n", "http://mirror.example/debian"},
		{"# deb http://old.example/debian x main\ndeb [signed-by=/k] https://m.example/x/debian/ y main", "https://m.example/x/debian"},
		{"Types: deb\nURIs: http://security.example/debian-security\n\nTypes: deb\nURIs: http://a.example/debian\n", "http://a.example/debian"},
		{"deb http://packages.example/node nodistro main", ""},
	} {
		if got := mirrorIn(c.text); got != c.want {
			t.Errorf("mirrorIn(%q) = %q, want %q", c.text, got, c.want)
		}
	}
}

func TestShellQuote(t *testing.T) {
	for _, s := range []string{"", "plain", "it's", `a"b$c\`, "two\nlines", "'''"} {
		out, err := exec.Command("/bin/sh", "-c", "printf %s "+shellQuote(s)).Output()
		if err != nil || string(out) != s {
			t.Errorf("shellQuote(%q) reads back as %q, %v", s, out, err)
		}
	}
}

func TestLayouts(t *testing.T) {
	for _, s := range Servers() {
		parts, disk := s.layout("seed")
		if parts[0].Mount != "/" {
			t.Errorf("%s: the first filesystem is %s", s.Name, parts[0].Mount)
		}
		end := int64(firstFSMiB) * mib
		if s.UEFI {
			end += espMiB * mib
		}
		var uuids []string
		for _, p := range parts {
			start, size := p.partition()
			if int64(start)*mib != end || p.Offset < end || p.Offset+p.Size > int64(start+size)*mib {
				t.Errorf("%s: %s lies at %d on a partition at %d MiB of %d, want it at %d", s.Name, p.Mount, p.Offset, start, size, end)
			}
			end = int64(start+size) * mib
			uuids = append(uuids, p.UUID)
		}
		if end+mib > int64(disk)*mib {
			t.Errorf("%s: no room for the backup partition table", s.Name)
		}
		slices.Sort(uuids)
		if len(slices.Compact(uuids)) != len(parts) {
			t.Errorf("%s: filesystems share a UUID", s.Name)
		}
	}
}

// TestVariety holds the lab to what it promises to contain.
func TestVariety(t *testing.T) {
	suites, types, users := map[string]bool{}, map[string]bool{}, map[string]bool{}
	var separate, devNames, noexec, volumes, uefi bool
	for _, s := range Servers() {
		suites[s.Suite], users[s.User] = true, true
		parts, _ := s.layout("seed")
		fstab := s.fstab("seed", parts)
		volumes = volumes || strings.Contains(fstab, "/dev/mapper/vg0-home /home ext4 ")
		uefi = uefi || strings.Contains(fstab, " /boot/efi vfat ") && strings.Contains(s.sfdiskScript("seed", parts), "C12A7328")
		devNames = devNames || strings.Contains(fstab, "/dev/sda2 / ")
		noexec = noexec || strings.Contains(fstab, "/tmp tmpfs rw,nosuid,nodev,noexec")
		for _, p := range parts {
			types[p.Type] = true
		}
		separate = separate || strings.Contains(fstab, " /boot ") && strings.Contains(fstab, " /var ")
		for _, ext := range []string{".sh", ".start"} {
			if _, err := content.ReadFile("recipes/" + s.Name + ext); err != nil {
				t.Errorf("%s has no %s", s.Name, ext)
			}
		}
	}
	if len(suites) != 3 || len(types) != 3 || len(users) != 2 || !separate || !devNames || !noexec || !volumes || !uefi {
		t.Errorf("suites %v, types %v, users %v, separate %v, device names %v, noexec %v, volumes %v, UEFI %v",
			suites, types, users, separate, devNames, noexec, volumes, uefi)
	}
}

func TestHashCoversRecipe(t *testing.T) {
	b := &builder{pubkey: "key"}
	s := Servers()[0]
	files, err := b.workFiles(s)
	if err != nil {
		t.Fatal(err)
	}
	before := b.hash(s, files)
	if before != b.hash(s, files) {
		t.Error("the hash is not stable")
	}
	for name := range files {
		changed := map[string]string{}
		for n, text := range files {
			changed[n] = text
		}
		changed[name] += "x"
		if b.hash(s, changed) == before {
			t.Errorf("the hash ignores %s", name)
		}
	}
	s.Packages = append(slices.Clone(s.Packages), "more")
	if b.hash(s, files) == before {
		t.Error("the hash ignores the packages")
	}
}

func TestUpRefusesContradictions(t *testing.T) {
	for _, o := range []Options{
		{Servers: []string{"web9"}},
		{Servers: []string{"web1"}, Guests: []string{"db1"}},
		{Servers: []string{"web1"}, Guests: []string{"web1"}, Data: map[string]int64{"web1": 1}},
		{Rate: "fast"},
	} {
		o.Dir, o.Cache = t.TempDir(), t.TempDir()
		if l, err := Up(t.Context(), o); err == nil {
			t.Errorf("Up(%+v) succeeded", o)
			_ = l.Down(t.Context())
		}
	}
}

// TestVolumeHead holds what is written of LVM to its own checksums, and to the
// places in the disk that the lab mounts by.
func TestVolumeHead(t *testing.T) {
	if got := lvmSum([]byte("123456789")); got != 0x4991cf02 {
		t.Errorf("checksum %#x", got)
	}
	for _, s := range Servers() {
		parts, _ := s.layout("seed")
		text := string(s.volumeText("seed", parts))
		for _, p := range parts {
			if p.Volume == "" {
				continue
			}
			if p.SizeMiB%extentMiB != 0 || p.RoomMiB%extentMiB != 0 {
				t.Errorf("%s: %s is not of whole extents", s.Name, p.Volume)
			}
			if !strings.Contains(text, "\n"+p.Volume+" {\n") || strings.Count(text, "{") != strings.Count(text, "}") {
				t.Errorf("%s: %s is not in %s", s.Name, p.Volume, text)
			}
			head := volumeHead(lvmID(s, "seed", "pv "+p.Volume), 100*mib, []byte(text))
			if len(head) > volumeHeadMiB*mib || string(head[512:520]) != "LABELONE" || !strings.Contains(text, string(head[544:550])+"-"+string(head[550:554])) {
				t.Errorf("%s: head of %s: %d bytes, %q", s.Name, p.Volume, len(head), head[512:600])
			}
		}
	}
}

func TestWaitLockEndsWithContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := waitLock(t.Context(), held, func() { t.Error("waits for a free lock") }); err != nil {
		t.Fatal(err)
	}
	other, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	if err := waitLock(ctx, other, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("while another holds it: %v", err)
	}
}
