package vm

import (
	"slices"
	"strings"
	"testing"
)

func TestSpecRefusesWhatCannotRun(t *testing.T) {
	good := Spec{Name: "web1", Dir: "/d", Disk: "/d/disk.raw"}
	if _, err := good.withDefaults(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"no dir":     func(s *Spec) { s.Dir = "" },
		"no disk":    func(s *Spec) { s.Disk = "" },
		"format":     func(s *Spec) { s.Format = "vmdk" },
		"firmware":   func(s *Spec) { s.Firmware = "coreboot" },
		"machine":    func(s *Spec) { s.Machine = "virt" },
		"auto accel": func(s *Spec) { s.Accel = Auto },
		"memory":     func(s *Spec) { s.Memory = 1 },
		"mac":        func(s *Spec) { s.NICs = []NIC{{Name: "eth0", MAC: "52:54:00:zz:00:01"}} },
		"multicast":  func(s *Spec) { s.NICs = []NIC{{Name: "eth0", MAC: "01:54:00:00:00:01"}} },
		"option in":  func(s *Spec) { s.NICs = []NIC{{Name: "eth0", MAC: "52:54:00:00:00:01,netdev=x"}} },
	} {
		s := good
		change(&s)
		if _, err := s.withDefaults(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestArgsLeadNowhere(t *testing.T) {
	s, err := Spec{Name: "a,b", Dir: "/d", Disk: "/d/x,y.raw",
		NICs: []NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}, {Name: "eth1", MAC: "52:54:00:00:00:02"}}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	args := s.args("", "")
	all := strings.Join(args, " ")
	for _, way := range []string{"netdev user", "netdev tap", "netdev bridge", "-nic", "listen=", "connect=", "mcast=", "udp=", "netdev stream", "netdev vde"} {
		if strings.Contains(all, way) {
			t.Errorf("arguments have %q: %s", way, all)
		}
	}
	for _, want := range []string{"-nodefaults", "socket,id=net0,fd=6", "socket,id=net1,fd=7", "tcg,tb-size=128"} {
		if !slices.Contains(args, want) {
			t.Errorf("no argument %q: %s", want, all)
		}
	}
	if !strings.Contains(all, "file=/d/x,,y.raw") || !strings.Contains(all, "-name a,,b ") {
		t.Errorf("commas are not escaped: %s", all)
	}
}
