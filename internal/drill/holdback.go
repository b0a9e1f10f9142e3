package drill

import "github.com/leeward-dr/leeward/internal/vm"

// heldBack is what costs an emulated machine the most and tells nothing of its
// recovery point. A machine with hardware virtualisation does all of it.
func heldBack() []HeldBack {
	return []HeldBack{
		{"norandmaps", "random addresses in programs: emulated, each start of a program would be translated anew"},
		{"cryptomgr.notests", "the kernel's tests of its own ciphers"},
		{"loglevel=6", "kernel messages below notice on the console; the kernel's own log has them"},
	}
}

// holdBack returns the kernel arguments that keep this machine's boot short, and
// puts on record what they do.
func (t *turn) holdBack() []string {
	t.r.HeldBack = nil
	if !vm.Emulated(t.d.o.Accelerator) {
		return nil
	}
	t.r.HeldBack = heldBack()
	var args []string
	for _, h := range t.r.HeldBack {
		args = append(args, h.Arg)
	}
	return args
}
