package drill

import (
	"bytes"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/vm"
)

// drillAll drills the servers, as many at once as a drill does by default, and
// logs what was found.
func drillAll(t *testing.T, subjects []Subject) map[dr.ServerName]Result {
	t.Helper()
	program, err := probe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := Options{WorkDir: filepath.Join(dir, "work"), ResultDir: filepath.Join(dir, "results"), Probe: program,
		Accelerator: vm.TCG, Memory: 512 * mib, Timeout: 8 * time.Minute,
		Progress: func(u Update) { t.Logf("%s: %s after %.1fs", u.Server, u.Step, u.After.Seconds()) }}
	results, err := Run(t.Context(), subjects, o)
	if err == nil && len(results) == 0 {
		t.Fatal("no results")
	}
	byName := map[dr.ServerName]Result{}
	for _, r := range results {
		byName[r.Server] = r
		b, _ := json.Marshal(r)
		t.Logf("%s: %s in %.1fs: %s\n%s", r.Server, r.Outcome, r.TimeToProof.Seconds(), r.Cause, b)
	}
	if left, _ := os.ReadDir(o.WorkDir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if bytes.Contains(mounts, []byte(o.WorkDir)) {
		t.Errorf("left mounted: %s", mounts)
	}
	return byName
}

func wantProven(t *testing.T, r Result) {
	t.Helper()
	if r.Outcome != dr.Done {
		t.Errorf("%s is not proven: %s", r.Server, r.Cause)
		log, _ := os.ReadFile(r.SerialLog)
		t.Logf("serial log of %s ends:\n%s", r.Server, log[max(0, len(log)-3000):])
		return
	}
	for _, step := range []vm.Sign{vm.SignLoader, vm.SignKernel, vm.SignInit, vm.SignLogin} {
		if !r.Reached(string(step)) {
			t.Errorf("%s: no step %s", r.Server, step)
		}
	}
	b, err := os.ReadFile(r.Screenshot)
	if err == nil {
		_, err = png.Decode(bytes.NewReader(b))
	}
	if err != nil {
		t.Errorf("%s: picture: %v", r.Server, err)
	}
	if log, err := os.ReadFile(r.SerialLog); err != nil || !bytes.Contains(log, []byte("login:")) {
		t.Errorf("%s: serial log of %d bytes: %v", r.Server, len(log), err)
	}
}

// TestBootMatrix boots what Debian servers look like, each once.
func TestBootMatrix(t *testing.T) {
	machines := map[dr.ServerName]machine{
		"stale-ext4":    {suite: "bookworm", fs: "ext4", devNames: true, stale: true},
		"uefi-ext4":     {suite: "bookworm", fs: "ext4", uefi: true},
		"boot-var-xfs":  {suite: "trixie", fs: "xfs", boot: true, varFS: "xfs"},
		"subvol-btrfs":  {suite: "bookworm", fs: "btrfs", subvol: "@rootfs"},
		"no-virtio":     {suite: "bullseye", fs: "ext4", spoil: withoutVirtio},
		"uefi-xfs-boot": {suite: "bullseye", fs: "xfs", boot: true, uefi: true},
	}
	var subjects []Subject
	for name, m := range machines {
		subjects = append(subjects, server(t, name, m))
	}
	results := drillAll(t, subjects)
	for name, m := range machines {
		r := results[name]
		wantProven(t, r)
		want := vm.BIOS
		if m.uefi {
			want = vm.UEFI
		}
		if r.Firmware != want {
			t.Errorf("%s: firmware %s, want %s", name, r.Firmware, want)
		}
	}
}

// TestBootTwoAtOnceOneBroken drills a good server beside one that has lost its
// init, and one without any kernel.
func TestBootTwoAtOnceOneBroken(t *testing.T) {
	good := server(t, "good", machine{suite: "trixie", fs: "ext4"})
	// Firmware of the other kind, by an EFI system partition that the source never had.
	good.Facts.Uefi = true
	good.Partitions[1].Tree = t.TempDir()
	broken := server(t, "broken", machine{suite: "bookworm", fs: "ext4", spoil: func(t *testing.T, root string) {
		for _, f := range []string{"lib/systemd/systemd", "sbin/init", "etc/init", "bin/init"} {
			os.Remove(filepath.Join(root, f))
		}
		os.Remove(filepath.Join(root, "bin/sh"))
	}})
	empty := server(t, "empty", machine{suite: "bookworm", fs: "ext4", spoil: func(t *testing.T, root string) {
		kernels, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
		for _, k := range kernels {
			os.Remove(k)
		}
	}})
	before := digest(t, good.Disk)
	results := drillAll(t, []Subject{good, broken, empty})
	wantProven(t, results["good"])
	if after := digest(t, good.Disk); after != before {
		t.Error("the drill changed the recovery point")
	}
	b := results["broken"]
	if b.Outcome != dr.NotDone || !b.Reached(string(vm.SignKernel)) || b.Reached(string(vm.SignLogin)) ||
		!strings.Contains(b.Cause, "no init") || b.Hint == "" {
		t.Errorf("broken: %s, %q, %q, steps %v", b.Outcome, b.Cause, b.Hint, b.Steps)
	}
	if e := results["empty"]; e.Outcome != dr.NotDone || !strings.Contains(e.Cause, "no kernel") || e.Reached(StepBoot) {
		t.Errorf("empty: %s, %q", e.Outcome, e.Cause)
	}
}

func digest(t *testing.T, file string) string { return run(t, "sha256sum", file) }

// withoutVirtio makes the initramfs one that a server with another controller has.
func withoutVirtio(t *testing.T, root string) {
	t.Helper()
	images, _ := filepath.Glob(filepath.Join(root, "boot/initrd.img-*"))
	if len(images) != 1 {
		t.Fatalf("initramfs images: %v", images)
	}
	script := `set -e; mkdir "$2"; cd "$2"; zcat "$1" | cpio -id --quiet
find . -name 'virtio*' -print -delete | grep -q virtio_blk
find . | cpio -o -H newc --quiet | gzip -1 > "$1"; rm -rf "$2"`
	run(t, "sh", "-c", script, "sh", images[0], filepath.Join(t.TempDir(), "initramfs"))
}
