package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/leeward-dr/leeward/internal/dr"
	"github.com/leeward-dr/leeward/internal/replica"
)

// Scripts that run in mail1 while a pass does.
const (
	listVolumes = `lvs --noheadings -o lv_name | tr -d ' ' | sort | paste -sd' '`
	// awaitSnapshot waits until both snapshots are there and one of them is read.
	awaitSnapshot = `for i in $(seq 300); do [ "$(lvs --noheadings -o lv_name | grep -c leeward)" = 2 ] && break; sleep 0.2; done; sleep 1; ` + listVolumes + "\n"
	// signalAgent sends the agent a signal.
	signalAgent = `for p in /proc/[0-9]*; do case $(readlink $p/exe) in */leeward/leeward-*) kill -$1 ${p#/proc/};; esac; done`
)

// needGuests waits until the guests have booted.
func needGuests(t *testing.T) *world {
	t.Helper()
	w := &shared
	if w.skip != "" {
		t.Skip(w.skip)
	}
	for _, g := range guests {
		if err := w.lab.WaitGuest(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// volumeEstate carries little of mail1 and mon1: reading is slow in a guest. Letters
// are carried slowly besides, so that there is time to do something meanwhile.
func volumeEstate(w *world, t *testing.T, store string, slow bool) string {
	mail := small("mail1", ", '/home/clerk[1-9]/**'")
	if slow {
		mail = strings.TrimSuffix(mail, "}") + ", limits: {disk: 512 KiB/s}}"
	}
	return w.estate(t, inStore(store), only(mail, small("mon1", "")))
}

// TestVolumeSnapshots captures a real server from snapshots of its logical volumes,
// and one that boots by UEFI with its EFI system partition.
func TestVolumeSnapshots(t *testing.T) {
	w := needGuests(t)
	store := w.newStore(t)
	config := volumeEstate(w, t, store, false)
	w.must(t, config, "replicate")
	mail := w.points(t, store, "mail1")[0]
	how := map[string]string{}
	for _, f := range mail.Manifest.Filesystems {
		how[f.MountPoint] = string(f.Consistency) + ", " + f.How
	}
	if how["/home"] != "crash, LVM snapshot" || how["/var/spool"] != "crash, LVM snapshot" || !strings.HasPrefix(how["/"], "fuzzy, live") {
		t.Errorf("captured as %v", how)
	}
	if left := w.in(t, "mail1", listVolumes); left != "home spool" {
		t.Errorf("volumes after the pass: %s", left)
	}
	mon := w.points(t, store, "mon1")[0]
	if facts, err := mon.Facts(); err != nil || !facts.Uefi {
		t.Errorf("mon1 does not tell that it booted by UEFI: %v", err)
	}
	esp, err := os.ReadFile(filepath.Join(w.clone(t, store, mon, true).Root("/boot/efi"), "EFI/BOOT/BOOTX64.EFI"))
	if err != nil || string(esp[:2]) != "MZ" {
		t.Errorf("the boot loader in the replica: %d bytes, %v", len(esp), err)
	}
	t.Run("killed", func(t *testing.T) { testVolumeKilled(t, w, store) })
	t.Run("full", func(t *testing.T) { testVolumeFull(t, w, store) })
}

// testVolumeKilled kills both sides while there are snapshots: the source finds them.
func testVolumeKilled(t *testing.T, w *world, store string) {
	w.in(t, "mail1", "head -c 3000000 /dev/urandom > /home/clerk0/slow") // seconds to read
	s := w.start(t, volumeEstate(w, t, store, true), "replicate", "mail1")
	seen := w.in(t, "mail1", awaitSnapshot+"set -- STOP; "+signalAgent)
	s.kill()
	s.wait()
	w.in(t, "mail1", "set -- KILL; "+signalAgent)
	if strings.Count(seen, "leeward-") != 2 {
		t.Fatalf("during the pass there were %s", seen)
	}
	if left := w.in(t, "mail1", listVolumes); left == "home spool" {
		t.Log("nothing was left behind; it was too late to kill anything")
	}
	w.must(t, volumeEstate(w, t, store, false), "clean", "mail1")
	if left := w.in(t, "mail1", listVolumes); left != "home spool" {
		t.Errorf("volumes after clean: %s", left)
	}
}

// testVolumeFull lets a snapshot overflow. The pass must say so and take the
// filesystem live.
func testVolumeFull(t *testing.T, w *world, store string) {
	w.in(t, "mail1", "head -c 8000000 /dev/urandom > /home/clerk0/slow")
	s := w.start(t, volumeEstate(w, t, store, true), "replicate", "mail1")
	w.in(t, "mail1", awaitSnapshot+"dd if=/dev/zero of=/home/fill bs=1M count=100 conv=fsync 2>/dev/null; rm /home/fill")
	r := s.wait()
	if r.code != 0 {
		t.Fatal(r)
	}
	if said := strings.Join(r.servers(t)[0].Warnings, "\n"); !strings.Contains(said, "filled up") {
		t.Errorf("a snapshot that overflows: warnings %q", said)
	}
	f := filesystemOf(t, w.points(t, store, "mail1")[0].Manifest, "/home")
	if f.Consistency != dr.Fuzzy || !strings.Contains(f.How, "filled up") {
		t.Errorf("/home was captured as %s, %s", f.Consistency, f.How)
	}
	if left := w.in(t, "mail1", listVolumes); left != "home spool" {
		t.Errorf("volumes after the pass: %s", left)
	}
}

func filesystemOf(t *testing.T, m *replica.Manifest, at string) replica.FilesystemState {
	t.Helper()
	for _, f := range m.Filesystems {
		if f.MountPoint == at {
			return f
		}
	}
	t.Fatalf("no filesystem %s in %s", at, m.ID)
	return replica.FilesystemState{}
}
