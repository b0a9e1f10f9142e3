package procfs

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestParseMountinfo(t *testing.T) {
	mounts, bad := ParseMountinfo([]byte("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n" +
		"37 35 0:5 / /x\\134 rw - tmpfs  rw\n" + "junk\n38 35 x:0 / / rw - a b c\n39 35 1:1 / relative rw - a b c\n\n"))
	want := []Mount{
		{36, 35, 98, 0, "/mnt1", "/mnt 2", "rw,noatime", "ext3", "/dev/root", "rw,errors=continue"},
		{37, 35, 0, 5, "/", `/x\`, "rw", "tmpfs", "", "rw"},
	}
	if !reflect.DeepEqual(mounts, want) || bad != 3 {
		t.Errorf("got %+v, %d bad", mounts, bad)
	}
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`a\040b\011c\012d\134`: "a b\tc\nd\\", `\04`: `\04`, `\999`: `\999`, `\777`: `\777`, `\\`: `\\`, `\303\244`: "ä", "": "",
	} {
		if got := Unescape(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestParseFstab(t *testing.T) {
	entries, bad := ParseFstab([]byte("#x\n  # y\nUUID=1\t/ ext4\n/dev/sda1 /a\\040b xfs noauto,x 0 0\r\nonly two\n"))
	want := []FstabEntry{{"UUID=1", "/", "ext4", "defaults"}, {"/dev/sda1", "/a b", "xfs", "noauto,x"}}
	if !slices.Equal(entries, want) || bad != 1 {
		t.Errorf("got %+v, %d bad", entries, bad)
	}
}

func TestParseSwaps(t *testing.T) {
	swaps, bad := ParseSwaps([]byte("Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1000 0 -2\n/swap\\040file file 8 0 -3\n/x\\040(deleted) file 8 0 1\n/y file many 0 1\n"))
	want := []Swap{{"/dev/sda2", false, 1000 << 10}, {"/swap file", true, 8 << 10}}
	if !slices.Equal(swaps, want) || bad != 1 {
		t.Errorf("got %+v, %d bad", swaps, bad)
	}
}

func TestParseSockets(t *testing.T) {
	sockets, bad := ParseSockets([]byte(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0
   1: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1
   2: short
`))
	if len(sockets) != 2 || bad != 1 {
		t.Fatalf("got %+v, %d bad", sockets, bad)
	}
	if s := sockets[0]; s.Local.String() != "127.0.0.1:22" || s.State != StateListen || s.Inode != 12345 {
		t.Errorf("%+v", s)
	}
	if s := sockets[1]; s.Local.String() != "[::ffff:127.0.0.1]:8080" || s.Inode != 7 {
		t.Errorf("%+v", s)
	}
}

func TestParseUnix(t *testing.T) {
	sockets, bad := ParseUnix([]byte("Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000: 00000002 00000000 00010000 0001 01 20449 /run/a b.sock\n" +
		"0000: 00000002 00000000 00010000 0001 01 20450 @abstract\n" +
		"0000: 00000003 00000000 00000000 0001 03 20451 /run/connected\n" +
		"0000: 00000003 00000000 00010000 0001 01 20452\nx\n"))
	if len(sockets) != 1 || sockets[0] != (UnixSocket{"/run/a b.sock", 20449}) || bad != 1 {
		t.Errorf("got %+v, %d bad", sockets, bad)
	}
}

func TestParseRoutes(t *testing.T) {
	r4, bad := ParseRoutes4([]byte("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n" +
		"eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"*\t0000FEA9\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0\nbad\tline\n"))
	if len(r4) != 2 || bad != 1 || r4[0].Destination.String() != "0.0.0.0/0" || r4[0].Gateway.String() != "192.168.2.1" ||
		r4[0].Metric != 100 || r4[1].Destination.String() != "192.168.2.0/24" || r4[1].Gateway.IsValid() {
		t.Errorf("got %+v, %d bad", r4, bad)
	}
	zero := strings.Repeat("0", 32)
	r6, bad := ParseRoutes6([]byte(
		"fd00" + strings.Repeat("0", 28) + " 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\n" +
			zero + " 00 " + zero + " 00 fd00" + strings.Repeat("0", 27) + "1 00000400 00000003 00000000 00000003 eth0\n" +
			"fe80" + strings.Repeat("0", 28) + " 40 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\n" +
			zero[:31] + "1 80 " + zero + " 00 " + zero + " 00000000 00000003 00000000 80200001 lo\n" +
			"ff" + zero[:30] + " 08 " + zero + " 00 " + zero + " 00000100 00000001 00000000 00000001 eth0\nbad\n"))
	if len(r6) != 2 || bad != 1 || r6[0].Destination.String() != "fd00::/64" || r6[1].Destination.String() != "::/0" || r6[1].Gateway.String() != "fd00::1" {
		t.Errorf("got %+v, %d bad", r6, bad)
	}
}

func TestParseAssignments(t *testing.T) {
	got := ParseAssignments([]byte("# c\nA=1\nB=\"two words\"\nC='x'\nD=\"q\\\"\\$\\\\\"\nno assignment\nA=2\nE=\nF=\"\n"))
	want := map[string]string{"A": "2", "B": "two words", "C": "x", "D": `q"$\`, "E": "", "F": `"`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestParseCPUInfo(t *testing.T) {
	v := make([]string, 5)
	for i, l := range x86Levels {
		v[i+1] = v[i] + " " + l
	}
	for level, flags := range v {
		got := ParseCPUInfo([]byte("processor : 0\nmodel name : M\nflags : " + flags + "\n\nprocessor : 1\nmodel name : other\nflags : none\n"))
		if got != (CPU{2, "M", level}) {
			t.Errorf("level %d: %+v", level, got)
		}
	}
	if got := ParseCPUInfo([]byte("processor\t: 0\nFeatures\t: fp asimd\n")); got != (CPU{1, "", 0}) {
		t.Errorf("another architecture: %+v", got)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		mounts, bad := ParseMountinfo(b)
		if len(mounts)+bad > len(b)+1 {
			t.Errorf("%d mounts and %d bad lines in %d bytes", len(mounts), bad, len(b))
		}
		for _, m := range mounts {
			if !strings.HasPrefix(m.Point, "/") {
				t.Errorf("mount point %q", m.Point)
			}
		}
	})
}

func FuzzParseFstab(f *testing.F) {
	f.Add([]byte("UUID=1 / ext4 defaults 0 1\n/a\\040b /c none bind\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, _ := ParseFstab(b)
		for _, e := range entries {
			if e.Spec == "" || e.Type == "" || e.Options == "" {
				t.Errorf("%+v", e)
			}
		}
	})
}

func FuzzParseNet(f *testing.F) {
	f.Add([]byte("   0: 0100007F:0016 00000000:0000 0A 0:0 00:0 0 0 0 12345 1\n"))
	f.Add([]byte("eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"))
	f.Add([]byte("0000: 00000002 00000000 00010000 0001 01 20449 /run/x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		sockets, _ := ParseSockets(b)
		for _, s := range sockets {
			if !s.Local.IsValid() || !s.Remote.IsValid() {
				t.Errorf("%+v", s)
			}
		}
		for _, parse := range []func([]byte) ([]Route, int){ParseRoutes4, ParseRoutes6} {
			routes, _ := parse(b)
			for _, r := range routes {
				if !r.Destination.IsValid() {
					t.Errorf("%+v", r)
				}
			}
		}
		ParseUnix(b)
		ParseSwaps(b)
	})
}

func FuzzParseText(f *testing.F) {
	f.Add("A=\"b\\\"\"\nflags : fpu\n")
	f.Fuzz(func(t *testing.T, s string) {
		ParseColons([]byte(s))
		if c := ParseCPUInfo([]byte(s)); c.Level < 0 || c.Level > 4 {
			t.Errorf("level %d", c.Level)
		}
		for k, v := range ParseAssignments([]byte(s)) {
			if len(k)+len(v) > len(s) || utf8.ValidString(s) && !utf8.ValidString(k+v) {
				t.Errorf("%q=%q out of %q", k, v, s)
			}
		}
	})
}
