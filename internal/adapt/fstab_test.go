package adapt

import (
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/agent/agentpb"
)

func fstabJob(t testing.TB) *job {
	t.Helper()
	g, _ := testImage(t, rootPartition,
		Partition{Kind: KindFilesystem, MountPoint: "/srv/my data", Type: "xfs", UUID: "2222-data", Label: "data"},
		Partition{Kind: KindSwap, Type: "swap", UUID: "3333-swap"})
	facts := &agentpb.Facts{Systemd: true,
		Filesystems: []*agentpb.Filesystem{
			{MountPoint: "/", Device: "/dev/mapper/vg0-root", Uuid: "1111-root"},
			{MountPoint: "/srv/my data", Device: "/dev/sdb1", Uuid: "2222-data"},
		},
		Swaps: []*agentpb.Swap{{Path: "/dev/sda2", Uuid: "3333-swap"}}}
	if err := g.arrange(facts); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteFile("/swapfile.kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return &job{img: g, facts: facts, report: &Report{}}
}

func TestFstabLines(t *testing.T) {
	j := fstabJob(t)
	for _, test := range []struct{ in, want string }{
		{"", ""},
		{"# /dev/sda1 / ext4 defaults 0 1\n", "same"},
		{"   \t\n", "same"},
		{"UUID=1111-root /  ext4\terrors=remount-ro 0 1\n", "same"},
		{`UUID="1111-ROOT" / ext4 defaults 0 1`, "same"},
		{"PARTUUID=1111-part / ext4 defaults 0 1\n", "same"},
		{"LABEL=data /srv/my\\040data xfs defaults 0 0\n", "same"},
		{"/dev/disk/by-uuid/1111-root / ext4 defaults 0 1\n", "same"},
		{"/dev/mapper/vg0-root\t/   ext4 defaults 0 1 # root\n", "UUID=1111-root\t/   ext4 defaults 0 1 # root\n"},
		{"/dev/disk/by-id/ata-X-part1 / ext4 defaults 0 1\r\n", "UUID=1111-root / ext4 defaults 0 1\r\n"},
		{"/dev/nvme9n1 /srv/my\\040data xfs noatime,sunit=64,swidth=128 0 0\n", "UUID=2222-data /srv/my\\040data xfs noatime 0 0\n"},
		{"/dev/sdb1 /elsewhere xfs defaults 0 0\n", "UUID=2222-data /elsewhere xfs defaults 0 0\n"},
		{"UUID=9999 /old ext4 defaults 0 2\n", "UUID=9999 /old ext4 defaults,nofail,x-systemd.device-timeout=5s 0 2\n"},
		{"/dev/sdz1 /old ext4\n", "/dev/sdz1 /old ext4 nofail,x-systemd.device-timeout=5s\n"},
		{"UUID=9999 /old ext4 noauto,user 0 2\n", "same"},
		{"UUID=9999 /old ext4 nofail 0 2\n", "UUID=9999 /old ext4 nofail,x-systemd.device-timeout=5s 0 2\n"},
		{"nas:/export /mnt nfs4 rw,hard 0 0\n", "nas:/export /mnt nfs4 rw,hard,noauto,nofail 0 0\n"},
		{"//nas/x /mnt cifs credentials=/root/c 0 0\n", "//nas/x /mnt cifs credentials=/root/c,noauto,nofail 0 0\n"},
		{"/dev/sdq1 /iscsi ext4 _netdev 0 0\n", "/dev/sdq1 /iscsi ext4 _netdev,noauto,nofail 0 0\n"},
		{"UUID=3333-swap none swap sw 0 0\n", "same"},
		{"/dev/sda2 none swap sw 0 0\n", "UUID=3333-swap none swap sw 0 0\n"},
		{"/dev/sda9 none swap sw 0 0\n", "# leeward: /dev/sda9 none swap sw 0 0\n"},
		{"/swapfile none swap sw 0 0\n", "# leeward: /swapfile none swap sw 0 0\n"},
		{"/swapfile.kept none swap sw 0 0\n", "same"},
		{"tmpfs /tmp tmpfs size=1g 0 0\n", "same"},
		{"/srv/a /srv/b none bind 0 0\n", "same"},
		{"proc /proc proc defaults 0 0", "same"},
	} {
		want := test.want
		if want == "same" {
			want = test.in
		}
		got, what, _ := j.fstabLine(test.in)
		if got != want {
			t.Errorf("%q\n became %q\n   want %q", test.in, got, want)
		}
		if (got != test.in) != (what != "") {
			t.Errorf("%q: changed to %q, told %q", test.in, got, what)
		}
		if again, _, _ := j.fstabLine(got); again != got {
			t.Errorf("%q: a second time it became %q", got, again)
		}
	}
}

func TestFstabWithoutSystemdCommentsOut(t *testing.T) {
	j := fstabJob(t)
	j.facts.Systemd = false
	if got, _, _ := j.fstabLine("/dev/sdz1 /old ext4 defaults 0 0\n"); got != "# leeward: /dev/sdz1 /old ext4 defaults 0 0\n" {
		t.Errorf("got %q", got)
	}
}

func FuzzFstabLine(f *testing.F) {
	for _, s := range []string{"/dev/sda1 / ext4 defaults 0 1", `a\040b\7 c\777 d`, "UUID= \t x swap", "\\", "nas:/a /b nfs"} {
		f.Add(s)
	}
	j := fstabJob(f)
	f.Fuzz(func(t *testing.T, line string) {
		if strings.Contains(line, "\n") {
			t.Skip("a line has none")
		}
		got, what, _ := j.fstabLine(line)
		if (what == "") != (got == line) {
			t.Fatalf("%q became %q, told %q", line, got, what)
		}
		if strings.Contains(got, "\n") {
			t.Fatalf("%q became two lines: %q", line, got)
		}
		if again, _, _ := j.fstabLine(got); again != got {
			t.Fatalf("%q, then %q", got, again)
		}
	})
}
