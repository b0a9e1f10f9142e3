package vm

import (
	"strings"
	"testing"
)

func TestFit(t *testing.T) {
	free, err := AvailableMemory()
	if err != nil || free < 64<<20 {
		t.Fatalf("available are %d, %v", free, err)
	}
	good := Fit{Bridge: "lo", Memory: free / 2, Room: 3 << 30, Machines: 2}
	for _, c := range []struct {
		name, want string
		change     func(*Fit)
	}{
		{"all is there", "", func(*Fit) {}},
		{"no bridge", "find bridge nothing0", func(f *Fit) { f.Bridge = "nothing0" }},
		{"no memory", "2 machines need", func(f *Fit) { f.Memory = free * 2 }},
		{"no room", "of the store are free", func(f *Fit) { f.Room = 1 << 30 }},
	} {
		f := good
		c.change(&f)
		facts, err := f.Check()
		if c.want == "" && (err != nil || len(facts) != 4) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v", c.name, facts, err)
		}
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := good.Check(); err == nil || !strings.Contains(err.Error(), "hypervisor") {
		t.Errorf("without QEMU: %v", err)
	}
}
